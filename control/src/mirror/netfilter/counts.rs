//! What the kernel has counted for each rule.

use std::collections::HashMap;

use serde_json::Value;
use shunt_dataplane::RuleCount;
use shunt_policy::Family;
use shunt_policy::config::Source;

use super::nft::{self, TableFamily};
use super::reader::{LegacyTables, aside, run};
use super::{Fault, kernel, xt};
use crate::rules::KernelCounts;
use crate::translate::Twins;

/// Reads the counters of all rules.
///
/// # Errors
///
/// A tool's.
pub async fn counts() -> Result<KernelCounts, Fault> {
    let mut counts = KernelCounts::new();
    let tables = kernel::tables().map_err(|error| Fault::Kernel { problem: error.to_string() })?;
    for table in tables.iter().filter(|table| !table.dormant) {
        let printed = run("nft", "nftables", &["--json", "list", "table", table.family, &table.name]).await?;
        counts.extend(aside("nft", move || by_nft(&String::from_utf8_lossy(&printed))).await??);
    }
    let legacy = LegacyTables::read();
    let asleep = |family: &str| tables.iter().all(|table| table.family != family);
    for (tool, family, source, absent) in [
        ("iptables-nft-save", Family::V4, Source::IptablesNft, asleep("ip")),
        ("ip6tables-nft-save", Family::V6, Source::IptablesNft, asleep("ip6")),
        ("iptables-legacy-save", Family::V4, Source::IptablesLegacy, legacy.v4.is_empty()),
        ("ip6tables-legacy-save", Family::V6, Source::IptablesLegacy, legacy.v6.is_empty()),
    ] {
        if !absent {
            let printed = run(tool, "iptables", &["-c"]).await?;
            let counted = aside(tool, move || by_xt(&String::from_utf8_lossy(&printed), family, source)).await?;
            let cut = || Fault::Failed { tool, problem: "its output ends in the middle of a table".to_owned() };
            counts.extend(counted.ok_or_else(cut)?);
        }
    }
    Ok(counts)
}

/// `None` if the output is not whole.
fn by_xt(printed: &str, family: Family, source: Source) -> Option<KernelCounts> {
    let mut counts = KernelCounts::new();
    let mut twins = Twins::default();
    let saved = xt::parse(printed, family);
    for table in &saved.tables {
        for chain in &table.chains {
            let place = format!("{source} {} {}", table.name, chain.name);
            for rule in &chain.rules {
                let key = twins.key(family, &place, &chain.line(rule));
                let of = |counters: xt::Counters| RuleCount { packets: counters.packets, bytes: counters.bytes };
                counts.insert(key, rule.counters.map(of).unwrap_or_default());
            }
        }
    }
    (!saved.cut).then_some(counts)
}

fn by_nft(printed: &str) -> Result<KernelCounts, Fault> {
    let failed = |problem: String| Fault::Failed { tool: "nft", problem };
    let ruleset = nft::parse(printed).map_err(|error| failed(error.to_string()))?;
    let counted = counted(printed).ok_or_else(|| failed("it printed something else than a ruleset".to_owned()))?;
    let mut counts = KernelCounts::new();
    for table in &ruleset.tables {
        let family = match table.family {
            TableFamily::Ip6 => Family::V6,
            _ => Family::V4,
        };
        for chain in &table.chains {
            let place = format!("{table} chain {}", chain.name);
            for rule in &chain.rules {
                // Its handle is in its text, and no other rule of the table has it.
                let key = Twins::default().key(family, &place, &format!("{place}: {rule}"));
                counts.insert(key, counted.get(&rule.handle).copied().unwrap_or_default());
            }
        }
    }
    Ok(counts)
}

/// The first counter of each rule of a table, by its handle.
fn counted(printed: &str) -> Option<HashMap<u64, RuleCount>> {
    let value: Value = serde_json::from_str(printed).ok()?;
    let rules = value["nftables"].as_array()?.iter().map(|object| &object["rule"]);
    let count = |rule: &Value| {
        let counter = rule["expr"].as_array()?.iter().find_map(|statement| statement.get("counter"))?;
        let count = RuleCount { packets: counter["packets"].as_u64()?, bytes: counter["bytes"].as_u64()? };
        Some((rule["handle"].as_u64()?, count))
    };
    Some(rules.filter_map(count).collect())
}
