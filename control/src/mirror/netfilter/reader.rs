//! Runs the tools that print the rules.

use std::process::Stdio;
use std::time::Duration;

use shunt_policy::Family;
use shunt_policy::config::Source;
use tokio::process::Command;

use super::nft;
use super::save::{self, Saved};
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
    let json = run("nft", "nftables", &["-s", "-j", "list", "ruleset"]).await?;
    let mut ruleset =
        nft::parse(&json).map_err(|error| Fault::Failed { tool: "nft", problem: error.to_string() })?;
    let legacy = LegacyTables::read();
    let mut saved = Vec::new();
    for family in Family::BOTH {
        let (name, tools, legacy) = match family {
            Family::V4 => ("ip", ["iptables-nft-save", "iptables-legacy-save"], !legacy.v4.is_empty()),
            Family::V6 => ("ip6", ["ip6tables-nft-save", "ip6tables-legacy-save"], !legacy.v6.is_empty()),
        };
        if ruleset.tables.iter().any(|table| table.family.word() == name && IPTABLES.contains(&table.name.as_str())) {
            let tables = saved_by(tools[0], family, Source::IptablesNft).await?;
            // What iptables-nft prints it has written or could have; the others are native, whatever their name.
            ruleset.tables.retain(|table| table.family.word() != name || !printed(&tables, &table.name));
            saved.push(Dialect { family, source: Source::IptablesNft, saved: tables });
        }
        if legacy {
            let tables = saved_by(tools[1], family, Source::IptablesLegacy).await?;
            saved.push(Dialect { family, source: Source::IptablesLegacy, saved: tables });
        }
    }
    Ok(Netfilter { saved, nft: ruleset, translated: Vec::new() })
}

async fn saved_by(tool: &'static str, family: Family, source: Source) -> Result<Saved, Fault> {
    let saved = save::parse(&run(tool, "iptables", &[]).await?, family, source);
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
