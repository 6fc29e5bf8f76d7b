use std::sync::Arc;

use shunt_policy::config::Source;

use super::*;

fn iptables(family: Family, text: &str) -> Netfilter {
    let saved = xt::parse(text, family);
    assert!(!saved.cut && saved.tables.iter().all(|table| table.unread.is_empty()), "{text}");
    Netfilter { saved: vec![Dialect { family, source: Source::IptablesLegacy, saved }], ..Netfilter::default() }
}

/// One table with one chain, and perhaps a rule in it.
fn native(family: &str, base: Option<(&str, &str)>, rule: &str, more: &str) -> Netfilter {
    let base = base.map_or(String::new(), |(kind, hook)| format!(r#", "type": "{kind}", "hook": "{hook}", "prio": 0"#));
    let rule = match rule {
        "" => String::new(),
        rule => format!(
            r#", {{"rule": {{"family": "{family}", "table": "t", "chain": "c", "handle": 2, "expr": [{rule}]}}}}"#
        ),
    };
    let text = format!(
        r#"{{"nftables": [{{"table": {{"family": "{family}", "name": "t", "handle": 1}}}},
        {{"chain": {{"family": "{family}", "table": "t", "name": "c", "handle": 1{base}}}}}{rule}{more}]}}"#
    );
    Netfilter { nft: Arc::new(nft::parse(&text).unwrap()), ..Netfilter::default() }
}

const NEW: &str = r#"{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "new"}}"#;
const MASQUERADE: &str = r#"{"masquerade": null}"#;
const OFF: [Conntrack; 2] = [Conntrack::Off; 2];

#[test]
fn any_rule_that_asks_makes_the_kernel_track() {
    assert_eq!(conntrack(&Netfilter::default()), OFF);
    let input = Some(("filter", "input"));
    let both = |state| [state, state];
    let only4 = |state| [state, Conntrack::Off];
    for (family, base, expected) in [
        ("ip", input, only4(Conntrack::Tracks)),
        ("ip6", input, [Conntrack::Off, Conntrack::Tracks]),
        ("inet", input, both(Conntrack::Tracks)),
        // A chain to which nothing leads.
        ("ip", None, only4(Conntrack::Tracks)),
    ] {
        assert_eq!(conntrack(&native(family, base, NEW, "")), expected, "{family} {base:?}");
    }
    for rule in [
        r#"{"mangle": {"key": {"meta": {"key": "mark"}}, "value": {"ct": {"key": "mark"}}}}"#,
        r#"{"mangle": {"key": {"ct": {"key": "zone"}}, "value": 5}}"#,
        r#"{"vmap": {"key": {"concat": [{"ct": {"key": "state"}}, {"meta": {"key": "mark"}}]}, "data": {"set": []}}}"#,
        r#"{"ct count": {"val": 5}}"#,
        r#"{"ct helper": "ftp"}"#,
        r#"{"set": {"op": "add", "elem": {"ct": {"key": "saddr", "dir": "original"}}, "set": "@s"}}"#,
        r#"{"synproxy": {"mss": 1460}}"#,
        r#"{"flow": {"op": "add", "flowtable": "@f"}}"#,
        r#"{"hum": {"ct": 5}}"#,
    ] {
        assert_eq!(conntrack(&native("ip", input, rule, "")), only4(Conntrack::Tracks), "{rule}");
    }
    for rule in [r#"{"notrack": null}"#, r#"{"drop": null}"#, r#"{"limit": {"rate": 1, "per": "day"}}"#] {
        assert_eq!(conntrack(&native("ip", input, rule, "")), OFF, "{rule}");
    }
    for object in [
        r#", {"ct timeout": {"family": "ip", "table": "t", "name": "x"}}"#,
        r#", {"set": {"family": "ip", "table": "t", "name": "s", "type": "ipv4_addr", "stmt": [{"ct count": {"val": 5}}]}}"#,
    ] {
        assert_eq!(conntrack(&native("ip", input, "", object)), only4(Conntrack::Tracks), "{object}");
    }
}

#[test]
fn so_does_a_rule_of_iptables_in_any_chain() {
    for (rule, tracks) in [
        ("-m conntrack --ctstate NEW -j ACCEPT", true),
        ("-m state --state NEW", true),
        ("-m connmark --mark 0x1", true),
        ("-m conntrack --ctexpire 5", true),
        ("-j CONNMARK --set-xmark 0x1/0xffffffff", true),
        ("-j CT --helper ftp", true),
        ("-j CONNSECMARK --save", true),
        ("-j NOTRACK", false),
        ("-j CT --notrack", false),
        ("-m limit --limit 5/min -j LOG", false),
    ] {
        let text = format!("*filter\n:INPUT ACCEPT [0:0]\n:own - [0:0]\n-A own {rule}\nCOMMIT\n");
        let expected = if tracks { Conntrack::Tracks } else { Conntrack::Off };
        assert_eq!(conntrack(&iptables(Family::V6, &text)), [Conntrack::Off, expected], "{rule}");
    }
}

/// What a chain of type nat does to connections it does only where there are any.
#[test]
fn translation_needs_a_chain_and_somebody_who_asks() {
    let nat = Some(("nat", "output"));
    assert_eq!(conntrack(&native("inet", nat, "", "")), OFF);
    assert_eq!(conntrack(&native("inet", nat, MASQUERADE, "")), [Conntrack::Translates; 2]);
    let mut both = native("ip", nat, "", "");
    Arc::make_mut(&mut both.nft).tables.extend(native("inet", None, NEW, "").nft.tables.iter().cloned());
    assert_eq!(conntrack(&both), [Conntrack::Translates, Conntrack::Tracks]);

    const EMPTY: &str = "*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n";
    assert_eq!(conntrack(&iptables(Family::V4, EMPTY)), OFF);
    let mut both = iptables(Family::V4, EMPTY);
    both.nft = native("inet", None, NEW, "").nft;
    assert_eq!(conntrack(&both), [Conntrack::Translates, Conntrack::Tracks]);
    let rule = "*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -j DNAT --to-destination 192.0.2.1\nCOMMIT\n";
    assert_eq!(conntrack(&iptables(Family::V4, rule)), [Conntrack::Translates, Conntrack::Off]);
}

#[test]
fn a_table_that_is_asleep_asks_but_does_not_translate() {
    let asleep = |base, rule| {
        let tables = native("ip", base, rule, "").nft.tables.clone();
        Netfilter { nft: Arc::new(nft::Ruleset { asleep: tables, ..Default::default() }), ..Netfilter::default() }
    };
    assert_eq!(conntrack(&asleep(Some(("filter", "input")), NEW)), [Conntrack::Tracks, Conntrack::Off]);
    assert_eq!(conntrack(&asleep(Some(("nat", "postrouting")), MASQUERADE)), [Conntrack::Tracks, Conntrack::Off]);
}
