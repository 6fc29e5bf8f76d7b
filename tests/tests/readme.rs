//! The README's tables say what the enums say.
//!
//! `SHUNT_WRITE_README=1 cargo test -p shunt-tests --test readme` rewrites the tables of reasons.

use std::path::PathBuf;

use shunt_policy::config::{HashPolicy, RouteKind, RuleAction, RuleSelector, Spreading, Suppress, Target, Test};
use shunt_policy::{DropReason, PassReason, PuntReason};

fn readme() -> (PathBuf, String) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = std::fs::read_to_string(&path).expect("the README is there");
    (path, text)
}

/// What stands between `<!-- name -->` and `<!-- /name -->`.
fn section<'a>(text: &'a str, name: &str) -> &'a str {
    let (open, close) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let start = text.find(&open).unwrap_or_else(|| panic!("no {open:?} in the README")) + open.len();
    &text[start..start + text[start..].find(&close).unwrap_or_else(|| panic!("no {close:?} in the README"))]
}

fn table<R: Copy>(reasons: &[R], word: fn(R) -> &'static str, meaning: fn(R) -> &'static str) -> String {
    let rows = reasons.iter().map(|reason| format!("| `{}` | {} |\n", word(*reason), meaning(*reason)));
    "| reason | meaning |\n|---|---|\n".to_owned() + &rows.collect::<String>()
}

#[test]
fn the_tables_of_reasons_are_those_of_the_enums() {
    let expected = [
        ("punted", table(&PuntReason::ALL, PuntReason::word, PuntReason::meaning)),
        ("passed", table(&PassReason::ALL, PassReason::word, PassReason::meaning)),
        ("dropped", table(&DropReason::ALL, DropReason::word, DropReason::meaning)),
    ];
    let (path, mut text) = readme();
    for (name, table) in &expected {
        if std::env::var_os("SHUNT_WRITE_README").is_some() {
            text = text.replacen(
                &format!("<!-- {name} -->\n{}", section(&text, name)),
                &format!("<!-- {name} -->\n{table}"),
                1,
            );
            std::fs::write(&path, &text).expect("the README can be written");
        }
        assert_eq!(section(&text, name), table, "README section {name}: rewrite it as the head of this file says");
    }
}

/// Exhaustive: a new variant does not compile here until somebody has decided what the README says of it.
#[test]
fn every_kind_of_selector_match_and_target_stands_in_the_table() {
    let (_, text) = readme();
    let mirrored = section(&text, "mirrored");
    let in_table = |word: &str| assert!(mirrored.contains(&format!("`{word}`")), "{word} is not in the README's table");

    // No `..`: a new selector has to be named.
    let RuleSelector {
        not,
        from,
        to,
        iif,
        oif,
        fwmark,
        tos,
        dscp,
        protocol,
        source_port,
        destination_port,
        uid_range,
        l3mdev,
        tunnel,
        flow_label,
        opaque: _,
    } = RuleSelector::default();
    let _ = (not, from, to, iif, oif, fwmark, tos, dscp);
    let _ = (protocol, source_port, destination_port, uid_range, l3mdev, tunnel, flow_label);
    ["not", "from", "to", "iif", "oif", "fwmark", "tos", "dscp"].into_iter().for_each(in_table);
    ["ipproto", "sport", "dport", "uidrange", "l3mdev", "tun_id", "flowlabel"].into_iter().for_each(in_table);

    let action = |action: &RuleAction| match action {
        RuleAction::Lookup(..) => Some("lookup"),
        RuleAction::Goto(_) => Some("goto"),
        RuleAction::Nop => Some("nop"),
        RuleAction::Blackhole => Some("blackhole"),
        RuleAction::Unreachable => Some("unreachable"),
        RuleAction::Prohibit => Some("prohibit"),
        RuleAction::Opaque(_) => None,
    };
    let lookup = RuleAction::lookup(shunt_policy::TableId::MAIN);
    let goto = RuleAction::Goto(shunt_policy::Priority(1));
    [lookup, goto, RuleAction::Nop, RuleAction::Blackhole, RuleAction::Unreachable, RuleAction::Prohibit]
        .iter()
        .filter_map(action)
        .for_each(in_table);
    let Suppress { prefix_length, group } = Suppress::default();
    let _ = (prefix_length, group);
    ["suppress_prefixlength", "suppress_ifgroup"].into_iter().for_each(in_table);

    let Spreading { policy4, policy6: _, seed, use_neighbours } = Spreading::default();
    let _ = (seed, use_neighbours);
    match policy4 {
        HashPolicy::L3 | HashPolicy::L4 | HashPolicy::Inner | HashPolicy::Custom(_) | HashPolicy::Unknown => {}
    }
    let settings = ["policy", "fields", "seed"].map(|key| format!("fib_multipath_hash_{key}"));
    settings.iter().for_each(|key| in_table(key));
    in_table("fib_multipath_use_neigh");

    let kind = |kind: &RouteKind| match kind {
        RouteKind::Unicast(_) => Some("unicast"),
        RouteKind::Local(_) => Some("local"),
        RouteKind::Broadcast(_) => Some("broadcast"),
        RouteKind::Anycast(_) => Some("anycast"),
        RouteKind::Multicast(_) => Some("multicast"),
        RouteKind::Blackhole => Some("blackhole"),
        RouteKind::Unreachable => Some("unreachable"),
        RouteKind::Prohibit => Some("prohibit"),
        RouteKind::Throw => Some("throw"),
        RouteKind::Opaque(_) => None,
    };
    in_table("unicast");
    [
        RouteKind::Local(None),
        RouteKind::Broadcast(None),
        RouteKind::Anycast(None),
        RouteKind::Multicast(None),
        RouteKind::Blackhole,
        RouteKind::Unreachable,
        RouteKind::Prohibit,
        RouteKind::Throw,
    ]
    .iter()
    .filter_map(kind)
    .for_each(in_table);

    let test = |test: &Test| match test {
        Test::In(_) => Some("-i"),
        // PREROUTING has no -o; guards use it.
        Test::Out(_) => None,
        Test::Source(_) => Some("-s"),
        Test::Destination(_) => Some("-d"),
        Test::Protocol(_) => Some("-p"),
        Test::SourcePort(_) => Some("--sport"),
        Test::DestinationPort(_) => Some("--dport"),
        Test::EitherPort(_) => Some("--ports"),
        Test::Tos { .. } => Some("--tos"),
        Test::CodePoint(_) => Some("--dscp"),
        Test::Mark(_) => Some("--mark"),
        Test::Icmp { .. } => Some("--icmp-type"),
        Test::Opaque(_) => None,
    };
    in_table("-p");
    assert_eq!(test(&Test::Protocol(6)), Some("-p"));
    ["-i", "-s", "-d", "--sport", "--dport", "--ports", "--tos", "--dscp", "--mark", "--icmp-type"]
        .into_iter()
        .for_each(in_table);

    let target = |target: &Target| match target {
        Target::Accept => Some("ACCEPT"),
        Target::Drop => Some("DROP"),
        Target::Return => Some("RETURN"),
        Target::Jump(_) => Some("-j"),
        Target::Goto(_) => Some("-g"),
        Target::Mark { .. } => Some("MARK"),
        Target::Continue | Target::Opaque(_) => None,
    };
    let name = || "chain".to_owned();
    [Target::Accept, Target::Drop, Target::Return, Target::Jump(name()), Target::Goto(name())]
        .iter()
        .filter_map(target)
        .for_each(in_table);
    in_table("MARK");
}
