//! The corpora from which the readers of iptables and ipset are tested are what the real tools print.

use std::io::Write;
use std::process::Stdio;

use shunt_control::mirror::netfilter::{ipset, nft, xt};
use shunt_policy::Family;
use shunt_tests::lab::{Lab, Namespace};

const IPSETS: &str = include_str!("../../control/src/mirror/netfilter/ipset/corpus/ipset.save");

#[test]
fn privileged_iptables_prints_the_corpus_so() {
    let lab = Lab::new();
    for (tool, family, corpus) in [
        ("iptables-nft", Family::V4, include_str!("../../control/src/mirror/netfilter/xt/corpus/iptables-nft.save")),
        (
            "iptables-legacy",
            Family::V4,
            include_str!("../../control/src/mirror/netfilter/xt/corpus/iptables-legacy.save"),
        ),
        ("ip6tables-nft", Family::V6, include_str!("../../control/src/mirror/netfilter/xt/corpus/ip6tables-nft.save")),
        (
            "ip6tables-legacy",
            Family::V6,
            include_str!("../../control/src/mirror/netfilter/xt/corpus/ip6tables-legacy.save"),
        ),
    ] {
        let router = lab.namespace(tool);
        let sets =
            "create s3 hash:ip,port,ip\ncreate s4 hash:ip\ncreate s4b hash:ip,port\ncreate s6 hash:ip family inet6\n";
        feed(&router, &["ipset", "restore"], sets);
        feed(&router, &[&format!("{tool}-restore"), "-c"], corpus);
        let printed = xt::parse(&router.run(&format!("{tool}-save -c")), family);
        let expected = xt::parse(corpus, family);
        if tool.ends_with("nft") {
            let mut printed = printed.clone();
            note_foreign(&router, &mut printed, family);
            let foreign: Vec<_> = printed.rules().filter(|rule| rule.foreign).collect();
            assert!(foreign.is_empty() && printed.tables.iter().all(|table| table.unread.is_empty()), "{foreign:?}");
        }
        assert_eq!(printed.tables.len(), expected.tables.len(), "{tool}");
        for table in &expected.tables {
            // The order of tables is the kernel's.
            let printed = printed.table(&table.name).map(ToString::to_string).unwrap_or_default();
            for (printed, expected) in printed.lines().zip(table.to_string().lines()) {
                assert_eq!(printed, expected, "{tool}");
            }
            assert_eq!(printed, table.to_string(), "{tool}");
        }
    }
}

/// Of what nft adds to a table of iptables, `iptables-nft-save` may leave out what it does not know.
#[test]
fn privileged_rules_of_nft_among_those_of_iptables_are_known_as_such() {
    let lab = Lab::new();
    let router = lab.namespace("r");
    router.run("iptables-nft -A FORWARD -j ACCEPT");
    for rule in [
        "tcp sequence 5 drop",
        "udp length 8 counter drop",
        "ip saddr 192.0.2.1 ip saddr 192.0.2.2 drop",
        "ip daddr >= 192.0.2.5 drop",
        "ip saddr 192.0.2.1-192.0.2.9 drop",
        "ip saddr { 192.0.2.1, 192.0.2.2 } drop",
        "ip saddr . ip daddr { 192.0.2.1 . 192.0.2.2 } drop",
        "meta l4proto tcp meta l4proto udp drop",
    ] {
        router.run(&format!("nft flush chain ip filter FORWARD; nft 'add rule ip filter FORWARD {rule}'"));
        let text = router.run("iptables-nft-save");
        let mut saved = xt::parse(&text, Family::V4);
        note_foreign(&router, &mut saved, Family::V4);
        let foreign = saved.rules().any(|rule| rule.foreign);
        assert!(foreign || !saved.tables[0].unread.is_empty(), "{rule}: {text}");
    }
    // Fewer rules are printed than there are.
    router.run("nft flush chain ip filter FORWARD");
    let mut saved = xt::parse("*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j DROP\nCOMMIT\n", Family::V4);
    note_foreign(&router, &mut saved, Family::V4);
    assert_eq!(saved.tables[0].unread, ["FORWARD: nft lists 0 rules, iptables 1"]);
}

fn note_foreign(router: &Namespace, saved: &mut xt::Saved, family: Family) {
    let listed = nft::parse(&router.run("nft --stateless --json list ruleset")).expect("a ruleset");
    saved.note_foreign(&listed.tables, family);
}

#[test]
fn privileged_ipset_prints_the_corpus_so() {
    let lab = Lab::new();
    let router = lab.namespace("r");
    feed(&router, &["ipset", "restore"], IPSETS);
    let printed = ipset::parse(&router.run("ipset save")).without_counts();
    let expected = ipset::parse(IPSETS).without_counts();
    for set in &expected.sets {
        let sorted = |set: &ipset::IpSet| {
            let mut members: Vec<_> = set.members.iter().map(ToString::to_string).collect();
            members.sort();
            (set.to_string(), members)
        };
        let printed = printed.set(&set.name).unwrap_or_else(|| panic!("{set}"));
        assert_eq!(sorted(printed), sorted(set));
    }
    assert_eq!(printed.sets.len(), expected.sets.len());
}

fn feed(namespace: &Namespace, words: &[&str], text: &str) {
    let child = namespace.command(words).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{words:?}: {error}"));
    let mut input = child.stdin.take().expect("a pipe to write to");
    input.write_all(text.as_bytes()).unwrap_or_else(|error| panic!("{words:?}: {error}"));
    drop(input);
    let output = child.wait_with_output().unwrap_or_else(|error| panic!("{words:?}: {error}"));
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}
