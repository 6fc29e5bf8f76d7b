//! `shunt rules`: what the workers and the kernel have counted together is what the kernel alone would have counted, rule by rule, in
//! every dialect. Two routers get the same rules and the same packets (see `tests/src/twin`).

use std::collections::BTreeMap;

use serde_json::Value;
use shunt_tests::lab::Namespace;
use shunt_tests::twin::{Body, Command, Packet, Replay, Twin, behind4, behind6};

/// Rules of each dialect. Ports tell them apart: 9, 25, 53 and 80.
const RULES: [&str; 16] = [
    "iptables-nft -t raw -A PREROUTING -p udp --dport 9 -j NOTRACK",
    "iptables-nft -t mangle -A PREROUTING -p udp -m multiport --dports 9,25 -j MARK --set-mark 5",
    "iptables-nft -t mangle -A PREROUTING -p udp -m mark --mark 5",
    "iptables-nft -t mangle -N OWN",
    "iptables-nft -t mangle -A FORWARD -p udp -m udp --dport 9:80 -j OWN",
    "iptables-nft -t mangle -A OWN -p udp --dport 25 -j RETURN",
    "iptables-nft -t mangle -A OWN -p udp -j TOS --set-tos 0x10/0xff",
    "iptables-nft -t mangle -A POSTROUTING -p udp -j OWN",
    "iptables-legacy -A FORWARD -p udp --dport 25 -j DROP",
    "iptables-legacy -A FORWARD -p udp --dport 53 -j REJECT",
    "iptables-legacy -A FORWARD -p udp -j ACCEPT",
    "ip6tables-nft -A FORWARD -p udp --dport 80 -j DROP",
    "ip6tables-nft -A FORWARD -p udp",
    "nft add table inet own",
    "nft 'add chain inet own f { type filter hook forward priority 10; }'",
    "nft add rule inet own f udp dport '{ 9, 80 }' counter accept",
];

fn packets() -> Vec<Packet> {
    let mut all = Vec::new();
    for (number, port) in [9, 25, 53, 80].into_iter().cycle().take(48).enumerate() {
        let (source, target) = match number % 3 {
            0 => (behind6(0, number as u16 + 2), behind6(1, 7)),
            _ => (behind4(0, number as u16 + 2), behind4(1, 7)),
        };
        all.push(Packet::udp(0, &source, &target).body(Body::Udp(4000, port)).fill(24 + number));
    }
    all
}

/// Packets and bytes by rule, as the tools print them.
fn by_tools(router: &Namespace) -> BTreeMap<String, (u64, u64)> {
    let mut counts = BTreeMap::new();
    for tool in ["iptables-nft", "iptables-legacy", "ip6tables-nft"] {
        for line in router.run(&format!("{tool}-save -c 2>/dev/null")).lines() {
            let Some((count, rule)) = line.strip_prefix('[').and_then(|line| line.split_once("] ")) else { continue };
            let (packets, bytes) = count.split_once(':').expect("packets and bytes");
            let (packets, bytes): (u64, u64) = (packets.parse().expect("a number"), bytes.parse().expect("a number"));
            let sum: &mut (u64, u64) = counts.entry(format!("{} {rule}", &tool[..3])).or_default();
            *sum = (sum.0 + packets, sum.1 + bytes);
        }
    }
    let nft = router.run("nft list table inet own");
    let line = nft.lines().find(|line| line.contains("counter")).expect("the rule of nft");
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |name: &str| -> u64 {
        let at = words.iter().position(|word| *word == name).expect("a counter");
        words[at + 1].parse().expect("a number")
    };
    counts.insert("nft".to_owned(), (number("packets"), number("bytes")));
    counts
}

/// The same as `shunt rules` has it, and how many of the packets the workers have counted.
fn by_shunt(rules: &Value) -> (BTreeMap<String, (u64, u64)>, u64) {
    let (mut counts, mut workers) = (BTreeMap::new(), 0);
    for rule in rules["rules"].as_array().expect("rules") {
        let word = |key: &str| rule[key].as_str().unwrap_or_else(|| panic!("no {key} in {rule}"));
        let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("no number in {rule}"));
        let name = match (word("chain"), word("family")) {
            (chain, _) if chain.starts_with("table inet own") => "nft".to_owned(),
            (_, "ipv6") => format!("ip6 {}", word("rule")),
            _ => format!("ipt {}", word("rule")),
        };
        let sum: &mut (u64, u64) = counts.entry(name).or_default();
        *sum = (sum.0 + number(&rule["packets"]), sum.1 + number(&rule["bytes"]));
        workers += number(&rule["workers"]["packets"]);
    }
    (counts, workers)
}

#[test]
fn privileged_every_rule_has_counted_what_the_kernel_alone_would_count() {
    every_rule_has_counted(Replay::Off);
}

#[test]
fn privileged_every_rule_has_counted_what_was_replayed() {
    every_rule_has_counted(Replay::On);
}

fn every_rule_has_counted(replay: Replay) {
    let mut twin = Twin::named("", replay);
    let commands: Vec<Command> = RULES.into_iter().map(Command::shell).collect();
    assert_eq!(twin.apply(&commands), "");
    // What was read first has its counters, too.
    assert!(twin.daemon().reload()["generation"].is_u64());
    for round in 1..=2 {
        // Each twice: what was decided about the first is what becomes of the second.
        let outcomes = twin.exchange(&[packets(), packets()].concat());
        assert!(outcomes.iter().all(|outcomes| outcomes.agree()), "{outcomes:02x?}");
        let expected = by_tools(twin.kernel());
        let (counted, workers) = by_shunt(&twin.daemon().rules());
        for (rule, count) in &expected {
            // Rules that no forwarded packet comes to are not listed, and count nothing.
            let seen = counted.get(rule).copied().unwrap_or_default();
            assert_eq!(seen, *count, "{rule}, round {round}: {:#}", twin.daemon().rules());
        }
        assert!(counted.keys().all(|rule| expected.contains_key(rule)), "{counted:#?}\n{expected:#?}");
        assert!(expected["nft"].0 > 0 && workers > 40 * round, "{expected:#?} {workers}");
        // A rule more: the others keep what they have.
        assert_eq!(twin.apply(&[Command::shell("iptables-legacy -A FORWARD -p tcp --dport 1 -j DROP")]), "");
        twin.daemon().reload();
    }
    let replayed = twin.daemon().status()["counters"]["replayed"].as_u64().expect("a number");
    assert_eq!(replayed > 0, replay == Replay::On, "{replayed} replayed");
}
