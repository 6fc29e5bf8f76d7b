//! What the routers say of a case when it is over: counters of rules, and connections.

use std::collections::{BTreeMap, HashSet};

use shunt_policy::Family;

use super::{Difference, Talk};
use crate::lab::Namespace;
use crate::twin::Twin;
use crate::twin::command::Command;
use crate::twin::rules::{Line, Tool};

/// With this in the environment, both kernels are to know the same connections at the end, with their states and marks: those that the
/// workers keep have to be the kernel's, too.
const COMPARE_CONNECTIONS: &str = "TWIN_CONNTRACK";

/// Packets and bytes by rule.
type Counts = BTreeMap<String, (u64, u64)>;

/// What the rules had counted before a case: in the kernel's router, and in shunt's.
pub(super) struct Before([Counts; 2]);

impl Before {
    pub(super) fn of(twin: &Twin) -> Before {
        Before(counts(twin))
    }

    /// Rules and connections that the two have differently.
    pub(super) fn compare(&self, twin: &Twin, talks: &[Talk], commands: &[Command]) -> Option<Difference> {
        let whole = |told: String| Difference { talk: None, told, silence: false };
        let [expected, counted] = counts(twin);
        let since = |now: (u64, u64), router: usize, rule: &str| {
            let before = self.0[router].get(rule).copied().unwrap_or_default();
            (now.0 - before.0, now.1 - before.1)
        };
        for (rule, count) in &expected {
            // Rules that no forwarded packet comes to are not listed.
            let Some(other) = counted.get(rule) else { continue };
            let (kernel, shunt) = (since(*count, 0, rule), since(*other, 1, rule));
            if kernel != shunt {
                return Some(whole(format!("{rule} has counted {kernel:?} in the kernel, {shunt:?} in shunt\n")));
            }
        }
        if std::env::var_os(COMPARE_CONNECTIONS).is_some() {
            let [kernel, shunt] = [twin.kernel(), twin.shunt()].map(|router| connections(router, talks, commands));
            let odd = |some: &[String], others: &[String]| some.iter().find(|one| !others.contains(one)).cloned();
            let (only, other) = (odd(&kernel, &shunt), odd(&shunt, &kernel));
            if only.is_some() || other.is_some() {
                return Some(whole(format!("connections: only the kernel's {only:?}, only shunt's {other:?}\n")));
            }
        }
        None
    }
}

fn counts(twin: &Twin) -> [Counts; 2] {
    [by_tools(twin.kernel()), by_shunt(twin)]
}

/// Packets and bytes by rule of iptables, equal rules taken together.
fn by_tools(router: &Namespace) -> Counts {
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
fn by_shunt(twin: &Twin) -> Counts {
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

/// Connections without what depends on the moment. Of ports and identifiers stand only those that the conversations have themselves:
/// others may be drawn at random.
fn connections(router: &Namespace, talks: &[Talk], commands: &[Command]) -> Vec<String> {
    let own: HashSet<u16> = talks.iter().flat_map(|talk| [talk.client.number, talk.server.number]).collect();
    let mut all = Vec::new();
    // Of a family without rules of the case, the workers need not know connections.
    let asked = |family: Family, name: &str| {
        commands.iter().any(|command| match command {
            Command::Load(Line { tool: Tool::Iptables(own, _), .. }) => *own == family,
            Command::Load(Line { tool: Tool::Nft, text, .. }) => text.contains(name) || text.contains("inet"),
            _ => false,
        })
    };
    let families = [(Family::V4, "table ip ", "ipv4"), (Family::V6, "table ip6 ", "ipv6")];
    for (_, _, family) in families.into_iter().filter(|(family, name, _)| asked(*family, name)) {
        for line in router.try_run(&format!("conntrack -L -f {family} 2>/dev/null")).stdout.lines() {
            // Name and number of the protocol stand first, then the time that is left.
            let words = line.split_whitespace().enumerate().filter(|(at, word)| *at != 2 && !word.starts_with("use="));
            let words = words.map(|(_, word)| match word.split_once('=') {
                Some((name @ ("sport" | "dport" | "id"), number)) => match number.parse() {
                    Ok(number) if own.contains(&number) => word.to_owned(),
                    _ => format!("{name}=*"),
                },
                _ => word.to_owned(),
            });
            all.push(words.collect::<Vec<_>>().join(" "));
        }
    }
    all.sort();
    all
}
