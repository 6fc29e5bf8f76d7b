//! In which order chains stand, what is said of rules, and what is guarded.

use std::sync::Arc;

use shunt_policy::config::{Field, Guard, Source};

use super::*;
use crate::mirror::netfilter::{Dialect, nft, xt};

fn iptables(text: &str) -> Netfilter {
    let saved = xt::parse(text, Family::V4);
    assert!(!saved.cut && saved.tables.iter().all(|table| table.unread.is_empty()), "{text}");
    let dialect = Dialect { family: Family::V4, source: Source::IptablesNft, saved };
    Netfilter { saved: vec![dialect], ..Netfilter::default() }
}

/// A chain on prerouting, in a table of its own.
fn native(table: &str, kind: &str, priority: i32) -> nft::Table {
    let text = format!(
        r#"{{"nftables": [{{"table": {{"family": "ip", "name": "{table}", "handle": 1}}}},
        {{"chain": {{"family": "ip", "table": "{table}", "name": "c", "handle": 1, "type": "{kind}", "hook": "prerouting", "prio": {priority}}}}},
        {{"rule": {{"family": "ip", "table": "{table}", "chain": "c", "handle": 2, "expr": [{{"accept": null}}]}}}}]}}"#
    );
    nft::parse(&text).unwrap().tables.pop().unwrap()
}

fn with(tables: Vec<nft::Table>) -> Netfilter {
    Netfilter { nft: Arc::new(nft::Ruleset { tables, ..Default::default() }), ..Netfilter::default() }
}

fn translated(netfilter: &Netfilter) -> (Evaluated, Part) {
    let mut part = Part::default();
    (translate(netfilter, &mut Counters::default(), &mut part), part)
}

#[test]
fn nat_stands_where_its_own_hook_is_whatever_its_priorities() {
    let (evaluated, _) = translated(&with(vec![
        native("late", "nat", 500),
        native("early", "nat", -500),
        native("mangle", "filter", -150),
        native("behind", "filter", -99),
    ]));
    let order: Vec<_> =
        evaluated.chains.iter().map(|chain| (chain.name.as_str(), chain.nat, chain.unordered)).collect();
    assert_eq!(
        order,
        [
            ("table ip mangle chain c", false, false),
            ("table ip early chain c", true, false),
            ("table ip late chain c", true, false),
            ("table ip behind chain c", false, false),
        ]
    );
}

#[test]
fn what_hangs_beside_nat_may_run_before_or_behind_it() {
    let of = |tables| {
        let (evaluated, _) = translated(&with(tables));
        evaluated.chains.iter().map(|chain| (chain.nat, chain.unordered)).collect::<Vec<_>>()
    };
    assert_eq!(
        of(vec![native("a", "nat", 0), native("b", "filter", NAT_DST), native("c", "nat", 0)]),
        [(false, false), (true, true), (true, true)]
    );
    assert_eq!(of(vec![native("a", "nat", 1), native("b", "nat", 0)]), [(true, false), (true, false)]);
}

#[test]
fn rules_of_nat_and_connections_are_exact_where_they_are_known() {
    let (evaluated, part) = translated(&iptables(
        "*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n-A PREROUTING -j REDIRECT\n\
        -A PREROUTING -j DNAT --to-destination 192.0.2.9\n-A POSTROUTING -j MASQUERADE\n-A POSTROUTING -j MASQUERADE --hum\nCOMMIT\n\
        *filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT\n\
        -A FORWARD -p tcp -m connbytes --connbytes 5 -j DROP\nCOMMIT\n",
    ));
    assert_eq!(evaluated.conntrack, [Conntrack::Translates, Conntrack::Off]);
    let standing = |text: &str| part.report.iter().find(|item| &*item.origin.text == text).unwrap().standing;
    for (text, expected) in [
        ("-A PREROUTING -j REDIRECT", Standing::Punted(PuntReason::Local)),
        ("-A PREROUTING -j DNAT --to-destination 192.0.2.9", Standing::Exact),
        ("-A POSTROUTING -j MASQUERADE", Standing::Exact),
        ("-A POSTROUTING -j MASQUERADE --hum", Standing::Punted(PuntReason::OpaquePostrouting)),
        ("-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT", Standing::Exact),
        ("-A FORWARD -p tcp -m connbytes --connbytes 5 -j DROP", Standing::Punted(PuntReason::Conntrack)),
    ] {
        assert_eq!(standing(text), expected, "{text}");
    }
}

/// The addresses and ports of a translated connection are others when its packets arrive.
#[test]
fn a_guard_of_connections_asks_for_what_stays_the_same() {
    const RULE: &str = "*filter\n:FORWARD ACCEPT [0:0]\n\
        -A FORWARD -s 192.0.2.0/24 -p tcp -m tcp --dport 80 -m connbytes --connbytes 5 -j DROP\nCOMMIT\n";
    let fields = |text: &str| -> Vec<Vec<Field>> {
        let (_, part) = translated(&iptables(text));
        let of = |guard: &Guard| {
            let fields = guard.matches.iter().filter_map(|one| match &one.test {
                Test::Field { field, .. } => Some(*field),
                _ => None,
            });
            fields.collect()
        };
        part.guards.iter().map(of).collect()
    };
    assert_eq!(
        fields(RULE),
        [
            [Field::Source, Field::Protocol, Field::DestinationPort],
            [Field::Destination, Field::Protocol, Field::SourcePort]
        ]
    );
    let translating = format!("{RULE}*nat\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n");
    assert_eq!(fields(&translating), [[Field::Protocol], [Field::Protocol]]);
}
