//! Where chains go, and what targets do. What matches mean is compared with the kernel in `tests/tests/kernel_semantics`.

use shunt_policy::config::{self, InterfacePattern, Nat, NatTo};

use super::*;
use crate::mirror::netfilter::{Netfilter, xt};

fn lowered(text: &str, family: Family) -> Vec<Lowered> {
    let netfilter = Netfilter::default();
    let dialect = Dialect { family, source: Source::IptablesNft, saved: xt::parse(text, family) };
    chains(&dialect, &mut Sets::new(&netfilter))
}

/// The steps of the one rule of a chain.
fn steps(table: &str, chain: &str, rule: &str) -> Vec<Step> {
    let text = format!("*{table}\n:{chain} ACCEPT [0:0]\n:own - [0:0]\n-A {chain} {rule}\nCOMMIT\n");
    let [Lowered { chain, .. }] = &lowered(&text, Family::V4)[..] else { panic!("{rule}") };
    let [rule] = &chain.rules[..] else { panic!("{rule}") };
    rule.steps.clone()
}

#[test]
fn chains_hang_where_the_kernel_hangs_them() {
    let mut text = String::new();
    for table in ["raw", "mangle", "nat", "filter", "security"] {
        text += &format!("*{table}\n");
        for chain in ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"] {
            text += &format!(":{chain} DROP [0:0]\n");
        }
        text += "COMMIT\n";
    }
    let places: Vec<_> = lowered(&text, Family::V6)
        .into_iter()
        .map(|Lowered { chain, .. }| (chain.name, chain.hook, chain.priority, chain.nat, chain.policy))
        .collect();
    for (name, hook, priority, nat) in [
        ("raw PREROUTING", Hook::Prerouting, -300, false),
        ("mangle PREROUTING", Hook::Prerouting, -150, false),
        ("mangle FORWARD", Hook::Forward, -150, false),
        ("mangle POSTROUTING", Hook::Postrouting, -150, false),
        ("nat PREROUTING", Hook::Prerouting, -100, true),
        ("nat POSTROUTING", Hook::Postrouting, 100, true),
        ("filter FORWARD", Hook::Forward, 0, false),
        ("security FORWARD", Hook::Forward, 50, false),
    ] {
        let place = (format!("iptables-nft {name}"), hook, priority, nat, ChainPolicy::Drop);
        assert!(places.contains(&place), "{place:?}");
    }
    // A chain of a built-in's name that is on no hook is a user chain.
    assert!(lowered("*filter\n:FORWARD - [0:0]\nCOMMIT\n", Family::V4).is_empty());
}

#[test]
fn a_base_chain_brings_the_user_chains_that_it_leads_to() {
    let text = "*filter\n:FORWARD ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:one - [0:0]\n:two - [0:0]\n:other - [0:0]\n\
        -A FORWARD -j one\n-A INPUT -j other\n-A one -g two\n-A two -j one\nCOMMIT\n";
    let [Lowered { chain, .. }] = &lowered(text, Family::V4)[..] else { panic!() };
    let mut names: Vec<_> = chain.user.iter().map(|user| user.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["one", "two"]);
    assert_eq!(&*chain.rules[0].origin.text, "-A FORWARD -j one");
}

#[test]
fn a_line_of_which_the_chain_is_not_known_could_be_of_any() {
    let text = "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j ACCEPT\nError: unknown payload offset\nCOMMIT\n";
    let [Lowered { chain, .. }] = &lowered(text, Family::V4)[..] else { panic!() };
    assert_eq!(chain.rules[0].steps, [Step::Do(Action::Connection("Error: unknown payload offset".to_owned()))]);
    assert_eq!(chain.rules.len(), 2);
}

#[test]
fn the_counter_stands_between_matches_and_target() {
    let eth0 = config::Test::Field {
        field: Field::Iif,
        mask: u128::MAX,
        values: vec![Value::Name(InterfacePattern("eth0".to_owned()))],
    };
    let not_eth0 = Step::Match(config::Match { not: true, test: eth0 });
    let limit = is(config::Test::Opaque("-m limit --limit 5/min".to_owned()));
    let drop = Step::Verdict(Verdict::Drop);
    assert_eq!(
        steps("filter", "FORWARD", "! -i eth0 -m limit --limit 5/min -m comment --comment x -j DROP"),
        [not_eth0, limit, Step::Count, drop]
    );
    assert_eq!(steps("filter", "FORWARD", "-m comment --comment x"), [Step::Count]);
    let bytes = "-m connbytes --connbytes 10:20 --connbytes-mode bytes --connbytes-dir both";
    let asks = is(config::Test::Connection(bytes.to_owned()));
    assert_eq!(steps("filter", "FORWARD", bytes), [asks, Step::Count]);
}

#[test]
fn targets() {
    for (target, expected) in [
        ("-j own", Step::Verdict(Verdict::Jump("own".to_owned()))),
        ("-g own", Step::Verdict(Verdict::Goto("own".to_owned()))),
        ("-j REJECT --reject-with tcp-reset", Step::Verdict(Verdict::Reject)),
        ("-j MARK --set-xmark 0x5/0x7", Step::Do(Action::Mark { clear: 7, flip: 5 })),
        ("-j MARK --set-mark 0x5/0x3", Step::Do(Action::Mark { clear: 7, flip: 5 })),
        ("-j MARK --and-mark 0xf", Step::Do(Action::Mark { clear: !0xf, flip: 0 })),
        ("-j MARK --or-mark 0x11", Step::Do(Action::Mark { clear: 0x11, flip: 0x11 })),
        ("-j MARK --xor-mark 0x11", Step::Do(Action::Mark { clear: 0, flip: 0x11 })),
        ("-j TOS --set-tos 0x10/0x1f", Step::Do(Action::Tos { clear: 0x1f, flip: 0x10 })),
        ("-j DSCP --set-dscp 0x2e", Step::Do(Action::Tos { clear: 0xfc, flip: 0xb8 })),
        ("-j TTL --ttl-inc 2", Step::Do(Action::Ttl(TtlChange::Raise(2)))),
        ("-j TCPMSS --clamp-mss-to-pmtu", Step::Do(Action::Mss(config::Mss { to: MssLimit::PathMtu, adds: true }))),
        ("-j CLASSIFY --set-class 0001:0010", Step::Do(Action::Nothing)),
        ("-j CONNMARK --set-xmark 0x5/0x7", Step::Do(Action::CtMark { clear: 7, flip: 5 })),
        (
            "-j CONNMARK --save-mark --nfmask 0xff --ctmask 0xf",
            Step::Do(Action::SaveMark { clear: 0xf, take: 0xff, flip: 0 }),
        ),
        (
            "-j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xf",
            Step::Do(Action::RestoreMark { clear: 0xff, take: 0xf, flip: 0 }),
        ),
        (
            "-j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xff --left-shift-mark 4",
            Step::Do(Action::Connection(
                "CONNMARK --restore-mark --nfmask 0xff --ctmask 0xff --left-shift-mark 4".to_owned(),
            )),
        ),
        ("-j CT --zone 5", Step::Do(Action::Connection("CT --zone 5".to_owned()))),
        ("-j CT --notrack", Step::Do(Action::Untrack)),
        ("-j NOTRACK", Step::Do(Action::Untrack)),
        // Not in table nat.
        ("-j NETMAP --to 192.0.2.0/24", Step::Verdict(Verdict::Opaque("NETMAP --to 192.0.2.0/24".to_owned()))),
        ("-j SET --add-set x src", Step::Do(Action::Opaque("SET --add-set x src".to_owned()))),
        ("-j NFQUEUE --queue-num 1", Step::Verdict(Verdict::Opaque("NFQUEUE --queue-num 1".to_owned()))),
    ] {
        assert_eq!(steps("mangle", "PREROUTING", target), [Step::Count, expected], "{target}");
    }
}

#[test]
fn what_depends_on_the_hook() {
    let never = is(config::Test::Never);
    assert_eq!(steps("mangle", "PREROUTING", "-o eth0"), [never.clone(), Step::Count]);
    assert_eq!(steps("mangle", "PREROUTING", "! -o eth0"), [Step::Count]);
    assert_eq!(steps("mangle", "FORWARD", "-o eth0")[0], is(config::Test::oif("eth0")));
    assert_eq!(steps("mangle", "FORWARD", "-m ttl --ttl-lt 0")[0], is(config::Test::of(Field::Ttl, [])));
    for line in ["-m tcpmss ! --mss 536", "-m tcp --tcp-option 8", "-m set --match-set missing src"] {
        assert!(
            matches!(&steps("mangle", "FORWARD", line)[0], Step::Match(one) if matches!(one.test, config::Test::Opaque(_))),
            "{line}"
        );
    }
}

#[test]
fn what_is_asked_of_connections() {
    let asked = |line: &str| {
        let mut steps = steps("filter", "FORWARD", line);
        assert_eq!(steps.pop(), Some(Step::Count), "{line}");
        steps
    };
    // Any of the bits: not none of them.
    let any = |not: bool, field, bits: u16| {
        Step::Match(config::Match { not: !not, test: config::Test::masked(field, 0u8, bits) })
    };
    assert_eq!(asked("-m conntrack --ctstate RELATED,ESTABLISHED"), [any(false, Field::CtState, 0x06)]);
    assert_eq!(asked("-m conntrack ! --ctstate DNAT"), [any(true, Field::CtState, 0x100)]);
    assert_eq!(asked("-m state --state UNTRACKED"), [any(false, Field::CtState, 0x40)]);
    assert_eq!(asked("-m conntrack --ctstatus NONE"), [any(false, Field::CtStatus, 0)]);
    assert_eq!(
        asked("-m conntrack --ctstate ESTABLISHED --ctproto 6 --ctdir REPLY"),
        [
            any(false, Field::CtState, 0x02),
            is(config::Test::of(Field::CtProtocol, [Value::one(6u8)])),
            is(config::Test::of(Field::CtDirection, [Value::one(1u8)])),
        ]
    );
    assert_eq!(
        asked("-m conntrack ! --ctreplsrc 192.0.2.0/24 --ctorigdstport 1:9"),
        [
            Step::Match(config::Match {
                not: true,
                test: config::Test::of(Field::CtReplySource, [Value::prefix(network())])
            }),
            is(config::Test::of(Field::CtOriginalDestinationPort, [Value::Range { first: 1, last: 9 }])),
        ]
    );
    assert_eq!(asked("-m connmark --mark 0x1/0xff"), [is(config::Test::masked(Field::CtMark, 1u8, 0xffu8))]);
    // Where a packet without a connection passes by its state alone, the rest is not asked.
    for line in ["-m conntrack ! --ctstate NEW --ctproto 6", "-m conntrack --ctstate INVALID --ctdir REPLY"] {
        assert_eq!(asked(line), [is(config::Test::Connection(line.to_owned()))]);
    }
}

#[test]
fn what_translates() {
    let verdict = |chain: &str, target: &str| match steps("nat", chain, target).pop() {
        Some(Step::Verdict(Verdict::Nat(nat))) => Some((*nat).clone()),
        Some(Step::Verdict(Verdict::Opaque(_))) => None,
        other => panic!("{target}: {other:?}"),
    };
    let address = |text: &str| text.parse().unwrap();
    let to = |first, last| NatTo::Addresses(Some((address(first), address(last))));
    let plain = |to| Some(Nat::plain(to));
    assert_eq!(verdict("POSTROUTING", "-j MASQUERADE"), plain(NatTo::Masquerade));
    assert_eq!(verdict("PREROUTING", "-j REDIRECT"), plain(NatTo::Redirect));
    assert_eq!(verdict("POSTROUTING", "-j SNAT --to-source 192.0.2.1-192.0.2.5"), plain(to("192.0.2.1", "192.0.2.5")));
    let network = NatTo::Prefix(network());
    assert_eq!(verdict("PREROUTING", "-j NETMAP --to 192.0.2.0/24"), plain(network.clone()));
    assert_eq!(verdict("POSTROUTING", "-j NETMAP --to 192.0.2.0/24"), plain(network));
    let ports = Some(PortRange { first: 80, last: 90 });
    assert_eq!(
        verdict("PREROUTING", "-j DNAT --to-destination 192.0.2.9:80-90/1000 --random --persistent"),
        Some(Nat {
            ports,
            base: Some(1000),
            random: true,
            persistent: true,
            ..Nat::plain(to("192.0.2.9", "192.0.2.9"))
        })
    );
    assert_eq!(
        verdict("POSTROUTING", "-j MASQUERADE --to-ports 80-90 --random-fully"),
        Some(Nat { ports, fully_random: true, ..Nat::plain(NatTo::Masquerade) })
    );
    // The kernel refuses them there.
    assert_eq!(verdict("POSTROUTING", "-j DNAT --to-destination 192.0.2.9"), None);
    assert_eq!(verdict("PREROUTING", "-j MASQUERADE"), None);
    assert_eq!(verdict("PREROUTING", "-j NETMAP --to 192.0.2.0/255.0.255.0"), None);
}

fn network() -> shunt_policy::Prefix {
    shunt_policy::Prefix::new([192, 0, 2, 0].into(), 24).unwrap()
}
