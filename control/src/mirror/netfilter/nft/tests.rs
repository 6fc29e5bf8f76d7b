use std::collections::BTreeMap;

use super::*;

/// Loaded into a real nft (1.0.6, in a namespace with a veth `t1`), and printed by it twice.
const TEXT: &str = include_str!("corpus/ruleset.txt");
const JSON: &str = include_str!("corpus/ruleset.json");

/// Lines that we print otherwise than nft: what JSON does not tell.
const OTHERWISE: [&str; 0] = [];

/// The rules of a listing, by table and handle.
fn listed(text: &str) -> BTreeMap<(String, u64), String> {
    let mut table = "";
    let mut rules = BTreeMap::new();
    for line in text.lines() {
        if let Some(head) = line.strip_suffix('}').or(Some(line)).filter(|line| line.starts_with("table ")) {
            table = head.split(" {").next().unwrap();
        }
        // Rules stand at the second level, as do policies and what belongs to sets.
        let Some(rule) = line.strip_prefix("\t\t") else { continue };
        let Some((_, handle)) = rule.rsplit_once(" # handle ") else { continue };
        rules.insert((table.to_owned(), handle.parse().unwrap()), rule.to_owned());
    }
    rules
}

#[test]
fn each_rule_is_printed_as_nft_prints_it() {
    let ruleset = parse(JSON).unwrap();
    let mut listed = listed(TEXT);
    let mut wrong = Vec::new();
    let mut same = 0;
    for table in &ruleset.tables {
        for rule in table.chains.iter().flat_map(|chain| &chain.rules) {
            let theirs = listed.remove(&(table.to_string(), rule.handle)).unwrap();
            let ours = rule.to_string();
            if ours == theirs {
                same += 1;
            } else if !OTHERWISE.contains(&theirs.as_str()) {
                wrong.push(format!("nft  {theirs}\nours {ours}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} otherwise:\n{}", wrong.len(), wrong.join("\n"));
    assert!(listed.is_empty(), "{listed:?}");
    assert!(same > 350, "{same}");
}

#[test]
fn what_nft_says_in_a_known_way_is_understood() {
    let ruleset = parse(JSON).unwrap();
    let rules = ruleset.tables.iter().flat_map(|table| &table.chains).flat_map(|chain| &chain.rules);
    let statements = rules.flat_map(|rule| &rule.statements);
    let unknown: Vec<_> =
        statements.filter(|one| matches!(one, Statement::Other { effect: Effect::Unknown, .. })).collect();
    assert!(unknown.is_empty(), "{unknown:#?}");
    assert!(!format!("{ruleset:?}").contains("Unknown"));
    let table = &ruleset.tables[0];
    assert_eq!(table.to_string(), "table ip filter4");
    let set = |name| table.set(name).unwrap();
    assert!(set("nets").interval && !set("nets").timeout && !set("nets").dynamic);
    assert!(set("temp").timeout && set("counted").stateful);
    assert!(set("dyn").dynamic, "a rule adds to it");
    assert!(!set("blocked").dynamic);
    assert_eq!(set("triples").key, ["ipv4_addr", "inet_proto", "inet_service"]);
    let base = table.chain("pre").unwrap().base.as_ref().unwrap();
    assert_eq!((&base.hook, base.priority, base.drops), (&Hook::Prerouting, -150, false));
    assert!(table.chain("forwarding").unwrap().base.as_ref().unwrap().drops);
    assert!(table.chain("web").unwrap().base.is_none());
}

#[test]
fn a_ruleset_cut_anywhere_is_refused() {
    let (start, end) = (0, JSON.trim_end().len());
    // Every place would take minutes.
    for at in (start..end).step_by(997).chain(end - 200..end) {
        if JSON.is_char_boundary(at) {
            assert!(parse(&JSON[..at]).is_err(), "cut at {at}");
        }
    }
}

#[test]
fn objects_out_of_nowhere_are_refused() {
    let ruleset = |object: &str| {
        format!(r#"{{"nftables": [{{"table": {{"family": "ip", "name": "t", "handle": 1}}}}, {object}]}}"#)
    };
    let refused = [
        r#"{"rule": {"family": "ip", "table": "t", "chain": "none", "handle": 4, "expr": []}}"#,
        r#"{"chain": {"family": "ip", "table": "none", "name": "c"}}"#,
        r#"{"chain": {"family": "ip", "table": "t", "name": "c", "hook": "forward", "type": "filter"}}"#,
        r#"{"chain": {"family": "ip", "table": "t", "hook": "forward", "type": "filter", "prio": 0}}"#,
        r#"{"set": {"family": "ip", "table": "t", "name": "s"}}"#,
        r#"{"table": {"family": "ip"}}"#,
        r#"{"table": {"family": "x25", "name": "t"}}"#,
        "7",
    ];
    for object in refused {
        assert!(parse(&ruleset(object)).is_err(), "{object}");
    }
    let ruleset = parse(&ruleset(r#"{"secret": {"family": "ip", "table": "t", "name": "s"}}"#)).unwrap();
    assert_eq!(ruleset.tables[0].unknown.len(), 1);
    for text in ["", "{}", "[]", "null", r#"{"nftables": 7}"#, r#"{"nftables": [[]]}"#] {
        assert!(parse(text).is_err(), "{text}");
    }
    assert_eq!(parse(r#"{"nftables": [{"metainfo": {"version": "9"}}]}"#).unwrap(), Ruleset::default());
}

#[test]
fn what_is_not_known_stays_at_its_place() {
    let text = r#"{"nftables": [{"table": {"family": "ip", "name": "t", "handle": 1}}, {"chain": {"family": "ip", "table": "t", "name": "c", "handle": 1}},
        {"rule": {"family": "ip", "table": "t", "chain": "c", "handle": 2, "expr": [
            {"match": {"op": "==", "left": {"meta": {"key": "mark", "secret": 1}}, "right": 5}},
            {"match": {"op": "~", "left": {"meta": {"key": "mark"}}, "right": 5}},
            {"hum": {"loud": true}}, {"accept": null, "drop": null}, {"jump": {"target": "c", "if": 7}}, null, {"drop": null}]}},
        {"rule": {"family": "ip", "table": "t", "chain": "c", "handle": 3, "when": "never", "expr": [{"accept": null}]}}]}"#;
    let ruleset = parse(text).unwrap();
    let [first, second] = &ruleset.tables[0].chains[0].rules[..] else { panic!("{ruleset:?}") };
    let unknown = |one: &Statement| matches!(one, Statement::Other { effect: Effect::Unknown, .. });
    assert!(matches!(&first.statements[0], Statement::Match { left: Expression::Unknown(_), .. }));
    assert!(first.statements[1..6].iter().all(unknown), "{first:?}");
    assert_eq!(first.statements[6], Statement::Verdict(Verdict::Drop));
    assert!(unknown(&second.statements[0]), "{second:?}");
}

/// Bytes flipped, cut out and replaced: never a panic.
#[test]
fn junk_does_no_harm() {
    let mut seed: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut random = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 16) as usize % below
    };
    let whole = &JSON[..JSON.find(r#"{"rule""#).unwrap() + 6000];
    for _ in 0..300 {
        let mut bytes = whole.as_bytes().to_vec();
        for _ in 0..=random(4) {
            let at = random(bytes.len());
            match random(4) {
                0 => bytes[at] ^= 1 << random(8),
                1 => drop(bytes.drain(at..(at + random(200)).min(bytes.len()))),
                2 => bytes[at] = b"{}[]\",:0"[random(8)],
                _ => bytes.truncate(at.max(1)),
            }
        }
        let _ = parse(&String::from_utf8_lossy(&bytes)).map(|ruleset| format!("{ruleset:?}"));
    }
}
