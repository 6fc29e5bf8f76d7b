//! `nft -j list ruleset`: which tables there are, and what hangs on which hook.

use serde_json::Value;
use shunt_policy::Family;

/// A base chain that forwarded packets pass.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Base {
    /// The families whose packets pass it: `inet` and `netdev` chains see both.
    pub families: Vec<Family>,
    pub table: NftTable,
    pub chain: String,
    pub hook: NftHook,
    /// The chain policy is drop.
    pub drops: bool,
    /// For messages: the rules as nft's JSON, with their handles.
    pub rules: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct NftTable {
    /// ip, ip6, inet, netdev.
    pub family: String,
    pub name: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NftHook {
    Ingress,
    Prerouting,
    Forward,
    Postrouting,
    Egress,
    /// A flowtable: forwards by itself.
    Flowtable,
}

/// What a ruleset holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ruleset {
    pub tables: Vec<NftTable>,
    pub bases: Vec<Base>,
}

/// Reads the JSON. `None` if it is not what nft prints.
pub fn parse(text: &str) -> Option<Ruleset> {
    let value: Value = serde_json::from_str(text).ok()?;
    let objects = value.get("nftables")?.as_array()?;
    let mut ruleset = Ruleset::default();
    let mut dormant = Vec::new();
    for table in objects.iter().filter_map(|object| object.get("table")) {
        let named = NftTable { family: string(table, "family")?, name: string(table, "name")? };
        if mentions(&table["flags"], "dormant") {
            dormant.push(named.clone());
        }
        ruleset.tables.push(named);
    }
    for object in objects {
        if let Some(chain) = object.get("chain") {
            ruleset.bases.extend(base(chain)?);
        } else if let Some(flowtable) = object.get("flowtable") {
            let table = NftTable { family: string(flowtable, "family")?, name: string(flowtable, "table")? };
            ruleset.bases.push(Base {
                families: families(&table.family),
                table,
                chain: string(flowtable, "name")?,
                hook: NftHook::Flowtable,
                drops: false,
                rules: vec!["flowtable".to_owned()],
            });
        } else if let Some(rule) = object.get("rule") {
            let table = NftTable { family: string(rule, "family")?, name: string(rule, "table")? };
            let chain = string(rule, "chain")?;
            if let Some(base) = ruleset.bases.iter_mut().find(|base| base.table == table && base.chain == chain) {
                base.rules.push(format!("{} # handle {}", rule["expr"], rule["handle"]));
            }
        }
    }
    ruleset.bases.retain(|base| !dormant.contains(&base.table));
    Some(ruleset)
}

/// The chain, if forwarded packets pass it. `None` outside if it is malformed.
fn base(chain: &Value) -> Option<Option<Base>> {
    let table = NftTable { family: string(chain, "family")?, name: string(chain, "table")? };
    let hook = match chain["hook"].as_str() {
        Some("ingress") => NftHook::Ingress,
        Some("prerouting") => NftHook::Prerouting,
        Some("forward") => NftHook::Forward,
        Some("postrouting") => NftHook::Postrouting,
        Some("egress") => NftHook::Egress,
        _ => return Some(None),
    };
    let families = families(&table.family);
    if families.is_empty() {
        return Some(None);
    }
    let drops = chain["policy"].as_str() == Some("drop");
    Some(Some(Base { families, table, chain: string(chain, "name")?, hook, drops, rules: Vec::new() }))
}

/// `arp` and `bridge` tables see no routed packet.
fn families(family: &str) -> Vec<Family> {
    match family {
        "ip" => vec![Family::V4],
        "ip6" => vec![Family::V6],
        "inet" | "netdev" => Family::BOTH.to_vec(),
        _ => Vec::new(),
    }
}

fn string(value: &Value, key: &str) -> Option<String> {
    value.get(key)?.as_str().map(str::to_owned)
}

/// nft prints one flag as a string and several as a list.
fn mentions(flags: &Value, flag: &str) -> bool {
    flags.as_str() == Some(flag) || flags.as_array().is_some_and(|flags| flags.iter().any(|one| one == flag))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULESET: &str = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}},
        {"table": {"family": "inet", "name": "fw", "handle": 1}},
        {"table": {"family": "ip", "name": "asleep", "handle": 2, "flags": "dormant"}},
        {"chain": {"family": "inet", "table": "fw", "name": "in", "handle": 1, "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}},
        {"chain": {"family": "inet", "table": "fw", "name": "fwd", "handle": 2, "type": "filter", "hook": "forward", "prio": 0, "policy": "accept"}},
        {"chain": {"family": "inet", "table": "fw", "name": "helper", "handle": 3}},
        {"rule": {"family": "inet", "table": "fw", "chain": "fwd", "handle": 4, "expr": [{"drop": null}]}},
        {"rule": {"family": "inet", "table": "fw", "chain": "helper", "handle": 5, "expr": [{"drop": null}]}},
        {"chain": {"family": "ip", "table": "asleep", "name": "fwd", "handle": 1, "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}}]}"#;

    #[test]
    fn only_what_forwarded_packets_pass_is_kept() {
        let ruleset = parse(RULESET).unwrap();
        assert_eq!(ruleset.tables.len(), 2);
        let [base] = ruleset.bases.as_slice() else { panic!("{:?}", ruleset.bases) };
        assert_eq!((base.chain.as_str(), base.hook, base.drops), ("fwd", NftHook::Forward, false));
        assert_eq!(base.families, Family::BOTH);
        assert_eq!(base.rules, [r#"[{"drop":null}] # handle 4"#]);
    }

    #[test]
    fn a_cut_ruleset_is_refused_and_never_panics() {
        for end in 0..RULESET.len() {
            assert_eq!(parse(&RULESET[..end]), None, "cut at {end}");
        }
    }
}
