//! The README's tables say what the enums say.
//!
//! `SHUNT_WRITE_README=1 cargo test -p shunt-tests --test readme` rewrites the tables of reasons.

use std::path::PathBuf;

use shunt_policy::config::{
    Action, Field, HashPolicy, NatTo, RouteKind, RuleAction, RuleSelector, Spreading, Suppress, Test,
};
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

    FIELDS.iter().for_each(|field| in_table(option(*field)));
    ["ACCEPT", "DROP", "RETURN", "-j", "-g", "vmap"].into_iter().for_each(in_table);
    let action = |action: &Action| match action {
        Action::Mark { .. } => Some("MARK"),
        Action::MarkOf { .. } => Some("meta mark set"),
        Action::Tos { .. } => Some("TOS"),
        Action::Ttl(_) => Some("TTL"),
        Action::Mss(_) => Some("TCPMSS"),
        Action::Nothing => Some("CLASSIFY"),
        Action::Untrack => Some("NOTRACK"),
        Action::CtMark { .. } | Action::SaveMark { .. } | Action::RestoreMark { .. } => Some("CONNMARK"),
        Action::Connection(_) | Action::Opaque(_) => None,
    };
    assert_eq!(action(&Action::Nothing), Some("CLASSIFY"));
    ["MARK", "meta mark set", "TOS", "DSCP", "TTL", "HL", "TCPMSS", "CLASSIFY", "NOTRACK", "CONNMARK"]
        .into_iter()
        .for_each(in_table);
    let target = |to: &NatTo| match to {
        NatTo::Addresses(_) => &["SNAT", "DNAT", "dnat to"][..],
        NatTo::Prefix(_) => &["NETMAP"],
        NatTo::Masquerade => &["MASQUERADE"],
        NatTo::Redirect => &["REDIRECT"],
    };
    let any = NatTo::Prefix(shunt_policy::Prefix::any(shunt_policy::Family::V4));
    [NatTo::Addresses(None), any, NatTo::Masquerade, NatTo::Redirect]
        .iter()
        .flat_map(target)
        .for_each(|word| in_table(word));
    let test = |test: &Test| match test {
        Test::Field { .. } | Test::Never | Test::Connection(_) | Test::Opaque(_) => None,
        Test::EitherPort(_) => Some("--ports"),
        Test::In { .. } => Some("--match-set"),
        Test::AddressType { .. } => Some("-m addrtype"),
    };
    assert_eq!(test(&Test::EitherPort(Vec::new())), Some("--ports"));
    ["--ports", "--match-set", "-m addrtype"].into_iter().for_each(in_table);
}

const FIELDS: [Field; 35] = [
    Field::Iif,
    Field::Oif,
    Field::IifGroup,
    Field::OifGroup,
    Field::Source,
    Field::Destination,
    Field::Protocol,
    Field::SourcePort,
    Field::DestinationPort,
    Field::IcmpType,
    Field::IcmpCode,
    Field::IcmpTypeCode,
    Field::Tos,
    Field::Ttl,
    Field::FlowLabel,
    Field::Length,
    Field::Mark,
    Field::TcpFlags,
    Field::TcpMss,
    Field::SourceMac,
    Field::IpsetSourcePort,
    Field::IpsetDestinationPort,
    Field::CtState,
    Field::CtDirection,
    Field::CtStatus,
    Field::CtMark,
    Field::CtProtocol,
    Field::CtOriginalSource,
    Field::CtOriginalDestination,
    Field::CtOriginalSourcePort,
    Field::CtOriginalDestinationPort,
    Field::CtReplySource,
    Field::CtReplyDestination,
    Field::CtReplySourcePort,
    Field::CtReplyDestinationPort,
];

/// How a rule asks for the field.
fn option(field: Field) -> &'static str {
    match field {
        Field::Iif => "-i",
        Field::Oif => "-o",
        Field::IifGroup => "--src-group",
        Field::OifGroup => "--dst-group",
        Field::Source => "-s",
        Field::Destination => "-d",
        Field::Protocol => "-p",
        Field::SourcePort => "--sport",
        Field::DestinationPort => "--dport",
        Field::IcmpType => "icmp type",
        Field::IcmpCode => "icmp code",
        Field::IcmpTypeCode => "--icmp-type",
        Field::Tos => "--tos",
        Field::Ttl => "--ttl",
        Field::FlowLabel => "ip6 flowlabel",
        Field::Length => "--length",
        Field::Mark => "--mark",
        Field::TcpFlags => "--tcp-flags",
        Field::TcpMss => "-m tcpmss",
        Field::SourceMac => "--mac-source",
        Field::IpsetSourcePort | Field::IpsetDestinationPort => "--match-set",
        Field::CtState => "--ctstate",
        Field::CtDirection => "--ctdir",
        Field::CtStatus => "--ctstatus",
        Field::CtMark => "-m connmark",
        Field::CtProtocol => "--ctproto",
        Field::CtOriginalSource => "--ctorigsrc",
        Field::CtOriginalDestination => "--ctorigdst",
        Field::CtOriginalSourcePort => "--ctorigsrcport",
        Field::CtOriginalDestinationPort => "--ctorigdstport",
        Field::CtReplySource => "--ctreplsrc",
        Field::CtReplyDestination => "--ctrepldst",
        Field::CtReplySourcePort => "--ctreplsrcport",
        Field::CtReplyDestinationPort => "--ctrepldstport",
    }
}
