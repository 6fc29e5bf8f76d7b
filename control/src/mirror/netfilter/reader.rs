//! Runs the tools that print the rules.

use std::process::Stdio;
use std::time::Duration;

use shunt_policy::Family;
use shunt_policy::config::Source;
use tokio::process::Command;

use super::ipset::{self, IpSets};
use super::nft::{self, Ruleset};
use super::xt::{self, Saved};
use super::{Dialect, Fault, Netfilter};

const PATIENCE: Duration = Duration::from_secs(2);
/// The tables that iptables knows (`xtables_builtin_tables`).
const IPTABLES: [&str; 5] = ["filter", "nat", "mangle", "raw", "security"];

/// Which tables iptables-legacy has made, from `/proc`: its rules give no event, and without tables there are none.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LegacyTables {
    v4: String,
    v6: String,
}

impl LegacyTables {
    pub fn read() -> Self {
        // Not there on kernels without the legacy back end.
        let names = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
        LegacyTables { v4: names("/proc/net/ip_tables_names"), v6: names("/proc/net/ip6_tables_names") }
    }

    pub fn any(&self) -> bool {
        !self.v4.is_empty() || !self.v6.is_empty()
    }
}

/// Reads everything but what conntrack translates.
pub async fn read() -> Result<Netfilter, Fault> {
    let json = run("nft", "nftables", &["-j", "-t", "list", "ruleset"]).await?;
    let Some(Ruleset { tables, mut bases }) = nft::parse(&json) else {
        return Err(Fault::Failed { tool: "nft", problem: "it printed something else than a ruleset".to_owned() });
    };
    let legacy = LegacyTables::read();
    let mut saved = Vec::new();
    for family in Family::BOTH {
        let (name, tools, legacy) = match family {
            Family::V4 => ("ip", ["iptables-nft-save", "iptables-legacy-save"], !legacy.v4.is_empty()),
            Family::V6 => ("ip6", ["ip6tables-nft-save", "ip6tables-legacy-save"], !legacy.v6.is_empty()),
        };
        if tables.iter().any(|table| table.family == name && IPTABLES.contains(&table.name.as_str())) {
            let mut tables = saved_by(tools[0], family).await?;
            tables.note_foreign(&serde_json::from_str(&json).unwrap_or_default(), family);
            // What iptables-nft prints it has written or could have; the others are native, whatever their name.
            bases.retain(|base| base.table.family != name || !printed(&tables, &base.table.name));
            saved.push(Dialect { family, source: Source::IptablesNft, saved: tables });
        }
        if legacy {
            let tables = saved_by(tools[1], family).await?;
            saved.push(Dialect { family, source: Source::IptablesLegacy, saved: tables });
        }
    }
    let mut netfilter = Netfilter { saved, nft: bases, ..Netfilter::default() };
    if netfilter.names_sets() {
        netfilter.ipsets = ipsets().await?;
    }
    Ok(netfilter)
}

/// Sets give no event, and are of no interest unless a rule names one.
async fn ipsets() -> Result<IpSets, Fault> {
    let ipsets = ipset::parse(&run("ipset", "ipset", &["save"]).await?);
    match ipsets.cut {
        true => Err(Fault::Failed { tool: "ipset", problem: "its output ends in the middle of a line".to_owned() }),
        false => Ok(ipsets.without_counts()),
    }
}

async fn saved_by(tool: &'static str, family: Family) -> Result<Saved, Fault> {
    let saved = xt::parse(&run(tool, "iptables", &[]).await?, family);
    if saved.cut {
        return Err(Fault::Failed { tool, problem: "its output ends in the middle of a table".to_owned() });
    }
    Ok(saved)
}

fn printed(saved: &Saved, table: &str) -> bool {
    saved.table(table).is_some() && !saved.incompatible.iter().any(|name| name == table)
}

async fn run(tool: &'static str, package: &'static str, arguments: &[&str]) -> Result<String, Fault> {
    let output = Command::new(tool)
        .args(arguments)
        .stdin(Stdio::null())
        // A tool that hangs must not outlive our patience.
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(PATIENCE, output).await {
        Err(_) => return Err(Fault::TimedOut { tool }),
        Ok(Err(error)) => return Err(Fault::Missing { tool, package, problem: error.to_string() }),
        Ok(Ok(output)) => output,
    };
    if !output.status.success() {
        let problem = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Fault::Failed { tool, problem: format!("{} ({})", problem, output.status) });
    }
    // Comments may hold any bytes.
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
