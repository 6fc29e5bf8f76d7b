//! What the routers say of a case when it is over: counters of rules, and connections.

use std::collections::BTreeMap;

use super::Difference;
use crate::lab::Namespace;
use crate::twin::Twin;

/// Whether the kernel of shunt's router is to know the same connections as the other, with their states and marks.
const COMPARE_CONNECTIONS: bool = false;

/// Rules and connections that the two have differently.
pub(super) fn compare(twin: &Twin) -> Option<Difference> {
    let whole = |told: String| Difference { talk: None, told, silence: false };
    let (expected, counted) = (by_tools(twin.kernel()), by_shunt(twin));
    let differing = expected.iter().find(|(rule, count)| counted.get(*rule).is_some_and(|other| other != *count));
    if let Some((rule, count)) = differing {
        return Some(whole(format!("{rule} has counted {count:?} in the kernel, {:?} in shunt", counted[rule])));
    }
    if COMPARE_CONNECTIONS {
        let [kernel, shunt] = [twin.kernel(), twin.shunt()].map(connections);
        if let Some(odd) =
            kernel.iter().find(|one| !shunt.contains(one)).or(shunt.iter().find(|one| !kernel.contains(one)))
        {
            return Some(whole(format!(
                "one of them has {odd}\nkernel\n{}\nshunt\n{}",
                kernel.join("\n"),
                shunt.join("\n")
            )));
        }
    }
    None
}

/// Packets and bytes by rule of iptables, equal rules taken together.
fn by_tools(router: &Namespace) -> BTreeMap<String, (u64, u64)> {
    let mut counts = BTreeMap::new();
    for tool in ["iptables-nft", "iptables-legacy", "ip6tables-nft", "ip6tables-legacy"] {
        for line in router.try_run(&format!("{tool}-save -c 2>/dev/null")).stdout.lines() {
            let Some((count, rule)) = line.strip_prefix('[').and_then(|line| line.split_once("] ")) else { continue };
            let count = count.split_once(':').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
            let (packets, bytes): (u64, u64) = count.unwrap_or_else(|| panic!("no count: {line}"));
            // Where the router's own words to its neighbours and listeners pass, at any time.
            if tool.starts_with("ip6") && rule.starts_with("-A POSTROUTING") {
                continue;
            }
            let sum: &mut (u64, u64) = counts.entry(format!("{} {rule}", &tool[..3])).or_default();
            *sum = (sum.0 + packets, sum.1 + bytes);
        }
    }
    counts
}

/// The same as `shunt rules` has it, of the rules that it lists.
fn by_shunt(twin: &Twin) -> BTreeMap<String, (u64, u64)> {
    let mut counts = BTreeMap::new();
    let rules = twin.daemon().rules();
    for rule in rules["rules"].as_array().into_iter().flatten() {
        let tool = if rule["family"] == "ipv6" { "ip6" } else { "ipt" };
        let number = |key: &str| rule[key].as_u64().unwrap_or_default();
        let text = rule["rule"].as_str().unwrap_or_default();
        let sum: &mut (u64, u64) = counts.entry(format!("{tool} {text}")).or_default();
        *sum = (sum.0 + number("packets"), sum.1 + number("bytes"));
    }
    counts
}

/// Connections without what depends on the moment, and without the ports of replies, which may be drawn at random.
fn connections(router: &Namespace) -> Vec<String> {
    let mut all = Vec::new();
    for family in ["ipv4", "ipv6"] {
        for line in router.try_run(&format!("conntrack -L -f {family} 2>/dev/null")).stdout.lines() {
            let mut ports = 0;
            // Name, number and timeout of the protocol stand first.
            let words = line.split_whitespace().enumerate().filter(|(number, word)| {
                let is_port = word.starts_with("dport=") || word.starts_with("id=");
                ports += u32::from(is_port);
                *number != 2 && !(is_port && ports == 2) && !word.starts_with("use=")
            });
            all.push(words.map(|(_, word)| word).collect::<Vec<_>>().join(" "));
        }
    }
    all.sort();
    all
}
