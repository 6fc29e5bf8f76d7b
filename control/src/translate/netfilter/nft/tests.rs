use shunt_policy::Prefix;
use shunt_policy::config::{Action, ConnectionState, Field, Match, Nat, NatTo, PortRange, Step, Test, Value, Verdict};

use super::*;
use crate::mirror::netfilter::nft::parse;

/// The rules of a chain on the hook forward of a table `inet t`, as JSON, behind other objects of the table.
fn lowered(objects: &str, rules: &[&str]) -> Native {
    let mut text = r#"{"nftables": [{"table": {"family": "inet", "name": "t", "handle": 1}},
        {"chain": {"family": "inet", "table": "t", "name": "c", "handle": 1, "type": "filter", "hook": "forward", "prio": 5, "policy": "drop"}},
        {"chain": {"family": "inet", "table": "t", "name": "user", "handle": 2}},
        {"chain": {"family": "inet", "table": "t", "name": "unused", "handle": 3}},
        {"rule": {"family": "inet", "table": "t", "chain": "user", "handle": 4, "expr": [{"return": null}]}}"#
        .to_owned();
    text += objects;
    for (handle, rule) in rules.iter().enumerate() {
        text += &format!(
            r#", {{"rule": {{"family": "inet", "table": "t", "chain": "c", "handle": {}, "expr": {rule}}}}}"#,
            handle + 5
        );
    }
    chains(&parse(&(text + "]}")).unwrap())
}

/// The steps of a single rule, for both families.
fn steps(objects: &str, rule: &str) -> [Vec<Step>; 2] {
    let mut native = lowered(objects, &[rule]);
    assert_eq!(native.chains.len(), 2);
    let [v6, v4] = [native.chains.pop(), native.chains.pop()].map(|lowered| lowered.unwrap().chain);
    assert_eq!((v4.family, v6.family), (Family::V4, Family::V6));
    [v4, v6].map(|mut chain| chain.rules.pop().unwrap().steps)
}

fn holds(test: Test) -> Step {
    Step::Match(Match { not: false, test })
}

fn is_opaque(steps: &[Step]) -> bool {
    steps.iter().any(|step| match step {
        Step::Match(Match { test: Test::Opaque(_), .. }) | Step::Do(Action::Opaque(_)) => true,
        Step::Match(Match { test: Test::In { set, .. }, .. }) => set.opaque.is_some(),
        Step::Do(Action::MarkOf { map, .. }) => map.opaque.is_some(),
        Step::VerdictOf { map, .. } => map.opaque.is_some(),
        Step::Verdict(Verdict::Opaque(_)) => true,
        _ => false,
    })
}

#[test]
fn a_chain_of_inet_stands_there_for_both_families() {
    let native = lowered("", &[r#"[{"counter": null}, {"jump": {"target": "user"}}]"#, r#"[{"accept": null}]"#]);
    for lowered in &native.chains {
        let BaseChain { hook, priority, name, rules, policy, user, .. } = &lowered.chain;
        assert_eq!((*hook, *priority, *policy), (Hook::Forward, 5, ChainPolicy::Drop));
        assert_eq!(name, "table inet t chain c");
        assert_eq!(rules[0].steps, [Step::Count, Step::Verdict(Verdict::Jump("user".to_owned()))]);
        assert_eq!(&*rules[1].origin.text, "table inet t chain c: accept # handle 6");
        assert_eq!(user.iter().map(|chain| chain.name.as_str()).collect::<Vec<_>>(), ["user"]);
        assert!(!lowered.chain.nat);
    }
}

#[test]
fn what_nft_leaves_out_is_asked_all_the_same() {
    let tcp = holds(Test::protocol(6));
    let port = holds(Test::of(Field::DestinationPort, [Value::one(22u8)]));
    let rule = r#"[{"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 22}}]"#;
    assert_eq!(steps("", rule), [vec![tcp.clone(), port.clone()], vec![tcp, port]]);
    let rule =
        r#"[{"match": {"op": "!=", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "192.0.2.1"}}]"#;
    let [v4, v6] = steps("", rule);
    assert!(matches!(&v4[..], [Step::Match(Match { not: true, test: Test::Field { field: Field::Source, .. } })]));
    assert_eq!(v6, [holds(Test::Never)]);
}

#[test]
fn what_is_not_known_exactly_is_opaque() {
    let set = |more: &str| {
        format!(
            r#", {{"set": {{"family": "inet", "table": "t", "name": "s", "type": "ipv4_addr", "handle": 9{more}}}}}"#
        )
    };
    let asks = r#"[{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "@s"}}, {"accept": null}]"#;
    let elements = r#", "elem": ["192.0.2.1"]"#;
    assert!(!is_opaque(&steps(&set(elements), asks)[0]));
    for more in [
        r#", "flags": ["dynamic"]"#,
        r#", "flags": ["secret"]"#,
        r#", "secret": 1"#,
        r#", "elem": ["example.org"]"#,
        r#", "elem": [{"concat": ["192.0.2.1", 5]}]"#,
        r#", "elem": [{"prefix": {"addr": "192.0.2.0", "len": 24}}, "192.0.2.7"]"#,
    ] {
        assert!(is_opaque(&steps(&set(more), asks)[0]), "{more}");
    }
    // A rule elsewhere in the table adds to it, or may do so.
    for adds in [
        r#"{"set": {"op": "add", "elem": {"payload": {"protocol": "ip", "field": "saddr"}}, "set": "@s"}}"#,
        r#"{"secret": {"of": "@s"}}"#,
    ] {
        let rule = format!(
            r#", {{"rule": {{"family": "inet", "table": "t", "chain": "unused", "handle": 77, "expr": [{adds}]}}}}"#
        );
        assert!(is_opaque(&steps(&(set(elements) + &rule), asks)[0]), "{adds}");
    }
    let iifname = |right: &str| {
        format!(r#"[{{"match": {{"op": "==", "left": {{"meta": {{"key": "iifname"}}}}, "right": {right}}}}}]"#)
    };
    assert!(!is_opaque(&steps("", &iifname(r#""wan*""#))[0]));
    assert!(!is_opaque(&steps("", &iifname(r#""a\\*""#))[0]));
    // A pattern of ours would not be that name; nft 1.0.6 prints some sets of names so.
    for right in [r#""a+""#, r#"{"set": [{"range": ["", ""]}]}"#, r#"{"set": ["a+"]}"#, r#""""#, "7"] {
        assert!(is_opaque(&steps("", &iifname(right))[0]), "{right}");
    }
    for rule in [
        r#"[{"match": {"op": "==", "left": {"payload": {"protocol": "th", "field": "dport"}}, "right": 22}}]"#,
        r#"[{"match": {"op": "==", "left": {">>": [{"meta": {"key": "mark"}}, 2]}, "right": 1}}]"#,
        r#"[{"match": {"op": "in", "left": {"payload": {"protocol": "tcp", "field": "flags"}}, "right": 0}}]"#,
        r#"[{"match": {"op": "==", "left": {"meta": {"key": "mark"}}, "right": 4294967296}}]"#,
        r#"[{"match": {"op": "==", "left": {"meta": {"key": "mark"}}, "right": "no-such-mark"}}]"#,
        r#"[{"match": {"op": "==", "left": {"meta": {"key": "iif"}}, "right": "no-such-interface"}}]"#,
        r#"[{"mangle": {"key": {"meta": {"key": "mark"}}, "value": {"meta": {"key": "cpu"}}}}]"#,
        r#"[{"mangle": {"key": {"meta": {"key": "pkttype"}}, "value": "other"}}]"#,
        r#"[{"limit": {"rate": 1, "per": "day"}}, {"accept": null}]"#,
        r#"[{"queue": null}]"#,
        r#"[{"flow": {"op": "add", "flowtable": "@f"}}]"#,
        r#"[{"vmap": {"key": {"meta": {"key": "mark"}}, "data": "@none"}}]"#,
        r#"[{"vmap": {"key": {"&": [{"meta": {"key": "mark"}}, 15]}, "data": {"set": [[1, {"accept": null}]]}}}]"#,
    ] {
        assert!(is_opaque(&steps("", rule)[0]), "{rule}");
    }
}

/// A rule that asks one thing.
fn asks(op: &str, left: &str, right: &str) -> String {
    format!(r#"[{{"match": {{"op": "{op}", "left": {left}, "right": {right}}}}}]"#)
}

#[test]
fn what_is_asked_of_connections() {
    let state = r#"{"ct": {"key": "state"}}"#;
    let seen = u128::from(ConnectionState::NFTABLES);
    let flags = |not, field, mask: u128| {
        Step::Match(Match { not, test: Test::Field { field, mask, values: vec![Value::one(0u8)] } })
    };
    let state_is = |not, values: &[u8]| {
        let values = values.iter().map(|value| Value::one(*value)).collect();
        Step::Match(Match { not, test: Test::Field { field: Field::CtState, mask: seen, values } })
    };
    for (op, right, expected) in [
        ("in", r#""new""#, flags(true, Field::CtState, 0x08)),
        ("in", r#"["established", "related"]"#, flags(true, Field::CtState, 0x06)),
        ("!", r#"["established", "related"]"#, flags(false, Field::CtState, 0x06)),
        ("==", r#""untracked""#, state_is(false, &[0x40])),
        ("!=", r#""new""#, state_is(true, &[0x08])),
        ("==", r#"{"set": ["established", "invalid"]}"#, state_is(false, &[0x02, 0x01])),
    ] {
        assert_eq!(steps("", &asks(op, state, right))[1], [expected], "{op} {right}");
    }
    let status = r#"{"ct": {"key": "status"}}"#;
    assert_eq!(steps("", &asks("in", status, r#""dnat""#))[0], [flags(true, Field::CtStatus, 0x20)]);
    let mark = r#"{"&": [{"ct": {"key": "mark"}}, 255]}"#;
    let five = holds(Test::masked(Field::CtMark, 5u8, 0xffu8));
    assert_eq!(steps("", &asks("==", mark, "5"))[0], [five]);
    let direction = holds(Test::of(Field::CtDirection, [Value::one(1u8)]));
    assert_eq!(steps("", &asks("==", r#"{"ct": {"key": "direction"}}"#, r#""reply""#))[0], [direction]);
    let [v4, v6] = steps("", &asks("==", r#"{"ct": {"key": "ip daddr", "dir": "reply"}}"#, r#""192.0.2.1""#));
    let address = Value::one(u32::from_be_bytes([192, 0, 2, 1]));
    assert_eq!(v4, [holds(Test::of(Field::CtReplyDestination, [address]))]);
    assert_eq!(v6, [holds(Test::Never)]);
    let port = r#"{"ct": {"key": "proto-dst", "dir": "original"}}"#;
    let expected = holds(Test::of(Field::CtOriginalDestinationPort, [Value::one(80u8)]));
    assert_eq!(steps("", &asks("==", port, "80"))[1], [expected]);
}

#[test]
fn what_is_not_known_of_connections_is_the_kernels_with_all_of_their_packets() {
    for (op, left, right) in [
        // Exactly these bits, of which we do not know all.
        ("==", r#"{"ct": {"key": "status"}}"#, r#""dnat""#),
        ("!=", r#"{"ct": {"key": "status"}}"#, r#"{"set": ["snat", "dnat"]}"#),
        ("in", r#"{"ct": {"key": "status"}}"#, r#""dying""#),
        ("in", r#"{"ct": {"key": "state"}}"#, r#""secret""#),
        ("==", r#"{"ct": {"key": "zone"}}"#, "0"),
        ("==", r#"{"ct": {"key": "bytes", "dir": "original"}}"#, "5"),
        ("==", r#"{"ct": {"key": "id"}}"#, "5"),
        ("==", r#"{"ct": {"key": "l3proto"}}"#, r#""ipv4""#),
        ("==", r#"{">>": [{"ct": {"key": "mark"}}, 2]}"#, "5"),
        (
            "==",
            r#"{"concat": [{"ct": {"key": "status"}}, {"meta": {"key": "mark"}}]}"#,
            r#"{"set": [{"concat": ["dnat", 5]}]}"#,
        ),
    ] {
        let [v4, _] = steps("", &asks(op, left, right));
        assert!(matches!(&v4[..], [Step::Match(Match { test: Test::Connection(_), .. })]), "{left}: {v4:?}");
    }
    for value in [
        r#"{"map": {"key": {"meta": {"key": "mark"}}, "data": {"set": [[1, 6]]}}}"#,
        r#"{"<<": [{"ct": {"key": "mark"}}, 1]}"#,
    ] {
        let [v4, _] =
            steps("", &format!(r#"[{{"mangle": {{"key": {{"ct": {{"key": "mark"}}}}, "value": {value}}}}}]"#));
        assert!(matches!(&v4[..], [Step::Do(Action::Connection(_))]), "{value}: {v4:?}");
    }
}

#[test]
fn marks_of_packets_and_connections() {
    let there = holds(Test::of(Field::CtDirection, [Value::Range { first: 0, last: 1 }]));
    let (meta, ct) = (r#"{"meta": {"key": "mark"}}"#, r#"{"ct": {"key": "mark"}}"#);
    let of = |what: &str| format!(r#"{{"|": [{{"&": [{what}, 255]}}, 256]}}"#);
    let (take, flip) = (0xff, 0x100);
    for (key, value, expected) in [
        (ct, "5".to_owned(), vec![Step::Do(Action::CtMark { clear: u32::MAX, flip: 5 })]),
        (ct, of(meta), vec![Step::Do(Action::SaveMark { clear: u32::MAX, take, flip })]),
        // What reads a connection ends the rule where there is none.
        (ct, of(ct), vec![there.clone(), Step::Do(Action::CtMark { clear: !take, flip })]),
        (meta, of(ct), vec![there.clone(), Step::Do(Action::RestoreMark { clear: u32::MAX, take, flip })]),
        (meta, ct.to_owned(), vec![there, Step::Do(Action::RestoreMark { clear: u32::MAX, take: u32::MAX, flip: 0 })]),
    ] {
        let rule = format!(r#"[{{"mangle": {{"key": {key}, "value": {value}}}}}]"#);
        assert_eq!(steps("", &rule)[0], expected, "{rule}");
    }
    assert_eq!(steps("", r#"[{"notrack": null}]"#)[0], [Step::Do(Action::Untrack)]);
    let map = format!(
        r#"[{{"mangle": {{"key": {meta}, "value": {{"map": {{"key": {ct}, "data": {{"set": [[5, 6]]}}}}}}}}}}]"#
    );
    assert!(matches!(&steps("", &map)[0][..], [Step::Do(Action::MarkOf { key, .. })] if key[..] == [Field::CtMark]));
}

/// Bits that only iptables sees stand in the field, and must not hide an element.
#[test]
fn a_state_is_found_in_a_map_whatever_iptables_sees_in_it() {
    let rule = r#"[{"vmap": {"key": {"concat": [{"ct": {"key": "state"}}, {"meta": {"key": "mark"}}]},
        "data": {"set": [[{"concat": ["new", 7]}, {"accept": null}]]}}}]"#;
    let [v4, _] = steps("", rule);
    let [Step::VerdictOf { key, map }] = &v4[..] else { panic!("{v4:?}") };
    assert_eq!(key[..], [Field::CtState, Field::Mark]);
    let keys: Vec<_> = map.elements.iter().map(|element| element.key.clone()).collect();
    assert_eq!(keys, [0x08, 0x88, 0x108, 0x188u16].map(|state| vec![Value::one(state), Value::one(7u8)]));
    assert!(map.opaque.is_none());
}

/// The steps of a rule in a chain of type nat, for both families.
fn translating(hook: &str, objects: &str, rule: &str) -> [Vec<Step>; 2] {
    let text = format!(
        r#"{{"nftables": [{{"table": {{"family": "inet", "name": "t", "handle": 1}}}},
        {{"chain": {{"family": "inet", "table": "t", "name": "c", "handle": 1, "type": "nat", "hook": "{hook}", "prio": 5, "policy": "accept"}}}}
        {objects},
        {{"rule": {{"family": "inet", "table": "t", "chain": "c", "handle": 2, "expr": {rule}}}}}]}}"#
    );
    let mut native = chains(&parse(&text).unwrap());
    let [v6, v4] = [native.chains.pop(), native.chains.pop()].map(|lowered| lowered.unwrap().chain);
    assert!(v4.nat && v6.nat);
    [v4, v6].map(|mut chain| chain.rules.pop().unwrap().steps)
}

#[test]
fn what_translates() {
    let before = |rule: &str| translating("prerouting", "", rule);
    let behind = |rule: &str| translating("postrouting", "", rule);
    let verdict = |nat: Nat| [Step::Verdict(Verdict::Nat(nat.into()))];
    let address = |text: &str| text.parse().unwrap();
    let to = |first, last| NatTo::Addresses(Some((address(first), address(last))));
    let ports = |first, last| Some(PortRange { first, last });
    let [v4, v6] = before(r#"[{"dnat": {"family": "ip", "addr": "192.0.2.5", "port": 8080}}]"#);
    assert_eq!(v4, verdict(Nat { ports: ports(8080, 8080), ..Nat::plain(to("192.0.2.5", "192.0.2.5")) }));
    assert_eq!(v6, [holds(Test::Never)]);
    let [_, v6] = behind(
        r#"[{"snat": {"family": "ip6", "addr": {"range": ["2001:db8::5", "2001:db8::7"]}, "flags": ["fully-random", "persistent"]}}]"#,
    );
    let expected = Nat { fully_random: true, persistent: true, ..Nat::plain(to("2001:db8::5", "2001:db8::7")) };
    assert_eq!(v6, verdict(expected));
    let [v4, v6] = behind(r#"[{"masquerade": {"port": {"range": [1024, 65535]}, "flags": "random"}}]"#);
    let expected = Nat { ports: ports(1024, 65535), random: true, ..Nat::plain(NatTo::Masquerade) };
    assert_eq!((v4, v6), (verdict(expected.clone()).to_vec(), verdict(expected).to_vec()));
    assert_eq!(before(r#"[{"redirect": null}]"#)[0], verdict(Nat::plain(NatTo::Redirect)));
    assert_eq!(
        before(r#"[{"dnat": {"port": 8080}}]"#)[1],
        verdict(Nat { ports: ports(8080, 8080), ..Nat::plain(NatTo::Addresses(None)) })
    );
    let network = Prefix::new([198, 51, 100, 0].into(), 24).unwrap();
    assert_eq!(
        before(
            r#"[{"dnat": {"family": "ip", "addr": {"prefix": {"addr": "198.51.100.0", "len": 24}}, "flags": "netmap", "type_flags": "prefix"}}]"#
        )[0],
        verdict(Nat::plain(NatTo::Prefix(network)))
    );
    for (hook, rule) in [
        ("postrouting", r#"[{"dnat": {"family": "ip", "addr": "192.0.2.5"}}]"#),
        ("prerouting", r#"[{"masquerade": null}]"#),
        ("prerouting", r#"[{"dnat": {"family": "ip", "addr": "192.0.2.5", "secret": 1}}]"#),
        ("prerouting", r#"[{"dnat": {"family": "ip", "addr": "192.0.2.5", "flags": ["secret"]}}]"#),
        ("prerouting", r#"[{"dnat": {"family": "ip", "addr": "example.org"}}]"#),
        (
            "prerouting",
            r#"[{"dnat": {"family": "ip", "addr": {"map": {"key": {"numgen": {"mode": "inc", "mod": 2, "offset": 0}}, "data": {"set": [[0, "192.0.2.1"]]}}}}}]"#,
        ),
    ] {
        assert!(is_opaque(&translating(hook, "", rule)[0]), "{rule}");
    }
    // Not in a chain of type nat.
    assert!(is_opaque(&steps("", r#"[{"masquerade": null}]"#)[0]));
}

#[test]
fn what_a_map_translates_to() {
    let map = r#", {"map": {"family": "inet", "table": "t", "name": "m", "type": ["ipv4_addr", "inet_service"], "map": "ipv4_addr . inet_service", "handle": 7,
        "elem": [[{"concat": ["192.0.2.1", 80]}, {"concat": ["198.51.100.1", 8080]}], [{"concat": ["192.0.2.2", 81]}, {"concat": ["198.51.100.2", {"range": [90, 99]}]}]]}}"#;
    let rule = r#"[{"dnat": {"family": "ip", "addr": {"map": {"key": {"concat": [{"payload": {"protocol": "ip", "field": "daddr"}},
        {"payload": {"protocol": "tcp", "field": "dport"}}]}, "data": "@m"}}, "flags": "random"}}]"#;
    let [v4, v6] = translating("prerouting", map, rule);
    assert_eq!(v6, [holds(Test::Never)]);
    let [tcp, Step::VerdictOf { key, map }] = &v4[..] else { panic!("{v4:?}") };
    assert_eq!(*tcp, holds(Test::protocol(6)));
    assert_eq!(key[..], [Field::Destination, Field::DestinationPort]);
    let to = |last, first_port, last_port| {
        let address = [198, 51, 100, last].into();
        let ports = Some(PortRange { first: first_port, last: last_port });
        let nat = Nat { ports, random: true, ..Nat::plain(NatTo::Addresses(Some((address, address)))) };
        Verdict::Nat(nat.into())
    };
    let data: Vec<_> = map.elements.iter().map(|element| element.data.clone()).collect();
    assert_eq!(data, [to(1, 8080, 8080), to(2, 90, 99)]);
    assert_eq!((map.name.as_str(), &map.opaque), ("map inet t m", &None));

    let ports = r#"[{"redirect": {"port": {"map": {"key": {"payload": {"protocol": "tcp", "field": "dport"}}, "data": {"set": [[80, 8080]]}}}}}]"#;
    let [v4, _] = translating("prerouting", "", ports);
    let [_, Step::VerdictOf { map, .. }] = &v4[..] else { panic!("{v4:?}") };
    let ports = Some(PortRange { first: 8080, last: 8080 });
    assert_eq!(map.elements[0].data, Verdict::Nat(Nat { ports, ..Nat::plain(NatTo::Redirect) }.into()));

    let networks = r#"[{"snat": {"family": "ip", "addr": {"map": {"key": {"payload": {"protocol": "ip", "field": "saddr"}}, "data": {"set": [
        [{"prefix": {"addr": "192.0.2.0", "len": 24}}, {"prefix": {"addr": "198.51.100.0", "len": 24}}]]}}}, "flags": "netmap", "type_flags": "prefix"}}]"#;
    let [v4, _] = translating("postrouting", "", networks);
    let [Step::VerdictOf { map, .. }] = &v4[..] else { panic!("{v4:?}") };
    let network = Prefix::new([198, 51, 100, 0].into(), 24).unwrap();
    assert_eq!(map.elements[0].data, Verdict::Nat(Nat::plain(NatTo::Prefix(network)).into()));
    // The same without a word of networks is any of the addresses.
    let [v4, _] =
        translating("postrouting", "", &networks.replace(r#", "flags": "netmap", "type_flags": "prefix""#, ""));
    let [Step::VerdictOf { map, .. }] = &v4[..] else { panic!("{v4:?}") };
    let range = NatTo::Addresses(Some(([198, 51, 100, 0].into(), [198, 51, 100, 255].into())));
    assert_eq!(map.elements[0].data, Verdict::Nat(Nat::plain(range).into()));
}

#[test]
fn elements_that_may_be_gone_are_uncertain() {
    let set = r#", {"set": {"family": "inet", "table": "t", "name": "s", "type": "ipv4_addr", "handle": 9, "flags": ["timeout"],
        "elem": ["192.0.2.1", {"elem": {"val": "192.0.2.2", "timeout": 60}}, {"elem": {"val": "192.0.2.3", "counter": null}}]}}"#;
    let asks = r#"[{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "@s"}}]"#;
    let [v4, _] = steps(set, asks);
    let [Step::Match(Match { test: Test::In { set, .. }, .. })] = &v4[..] else { panic!("{v4:?}") };
    assert_eq!(set.elements.iter().map(|element| element.uncertain).collect::<Vec<_>>(), [false, true, true]);
    assert_eq!(set.name, "set inet t s");
}

#[test]
fn a_verdict_map_is_asked_as_a_whole() {
    let vmap = |rest: &str| {
        format!(
            r#"[{{"vmap": {{"key": {{"payload": {{"protocol": "tcp", "field": "dport"}}}},
            "data": {{"set": [[22, {{"accept": null}}], [80, {{"continue": null}}], ["*", {{"goto": {{"target": "user"}}}}]]}}}}}}{rest}]"#
        )
    };
    let [v4, _] = steps("", &vmap(""));
    let [_, Step::VerdictOf { key, map }] = &v4[..] else { panic!("{v4:?}") };
    assert_eq!(key[..], [Field::DestinationPort]);
    let range = |first: u16, last: u16| vec![Value::Range { first: first.into(), last: last.into() }];
    let keys: Vec<_> = map.elements.iter().map(|element| element.key.clone()).collect();
    assert_eq!(keys, [range(22, 22), range(80, 80), range(0, 21), range(23, 79), range(81, 65535)]);
    assert_eq!(map.elements[1].data, Verdict::Continue);
    assert_eq!(map.elements[4].data, Verdict::Goto("user".to_owned()));
    // What stands behind it is reached by `continue`, which the common form has no word for.
    let [v4, _] = steps("", &vmap(r#", {"accept": null}"#));
    let [_, Step::VerdictOf { map, .. }, _] = &v4[..] else { panic!("{v4:?}") };
    assert!(matches!(map.elements[1].data, Verdict::Opaque(_)));
}

#[test]
fn what_stands_at_devices_is_left_out_by_name() {
    let ruleset = parse(
        r#"{"nftables": [{"table": {"family": "netdev", "name": "n", "handle": 1}},
        {"chain": {"family": "netdev", "table": "n", "name": "in", "handle": 1, "dev": "eth0", "type": "filter", "hook": "ingress", "prio": 0, "policy": "accept"}},
        {"chain": {"family": "netdev", "table": "n", "name": "empty", "handle": 2, "dev": "eth1", "type": "filter", "hook": "ingress", "prio": 0, "policy": "accept"}},
        {"chain": {"family": "netdev", "table": "n", "name": "out", "handle": 3, "type": "filter", "hook": "egress", "prio": 0, "policy": "drop"}},
        {"rule": {"family": "netdev", "table": "n", "chain": "in", "handle": 4, "expr": [{"drop": null}]}},
        {"table": {"family": "ip", "name": "f", "handle": 2}},
        {"flowtable": {"family": "ip", "table": "f", "name": "ft", "handle": 1, "hook": "ingress", "prio": 0, "dev": ["eth0", "eth1"]}},
        {"chain": {"family": "ip", "table": "f", "name": "new", "handle": 2, "type": "secret", "hook": "forward", "prio": 0, "policy": "accept"}},
        {"rule": {"family": "ip", "table": "f", "chain": "new", "handle": 4, "expr": [{"drop": null}]}},
        {"table": {"family": "bridge", "name": "b", "handle": 3}},
        {"chain": {"family": "bridge", "table": "b", "name": "f", "handle": 1, "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}}]}"#,
    )
    .unwrap();
    let native = chains(&ruleset);
    assert!(native.chains.is_empty());
    let left: Vec<_> = native
        .unevaluated
        .iter()
        .map(|left| (&*left.place.text, left.direction, left.devices.len(), left.families.len()))
        .collect();
    assert_eq!(
        left,
        [
            ("table netdev n chain in", Direction::In, 1, 2),
            ("table netdev n chain out", Direction::Out, 0, 2),
            ("table ip f flowtable ft", Direction::In, 2, 1),
            ("table ip f chain new", Direction::In, 0, 1),
        ]
    );
    assert_eq!(&*native.unevaluated[0].parts[0].text, "table netdev n chain in: drop # handle 4");
}
