//! Random chains.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use shunt_policy::config::{
    Action, BaseChain, ChainPolicy, ChainRule, CounterSlot, Element, Field, Guard, Hook, InterfacePattern, Match, Mss,
    MssLimit, Nat, NatTo, PortRange, Set, Side, Source, Step, Test, TtlChange, UserChain, Value, Verdict,
};
use shunt_policy::{Family, PuntReason};

use super::{address, family, mark_value, mask, mss, origin, port, prefix, protocol, tcp_flags, tos};

/// In the kernel's order.
pub fn chains() -> impl Strategy<Value = Vec<BaseChain>> {
    vec(base_chain(), 0..5).prop_map(|mut chains| {
        chains.sort_by_key(|chain| (chain.family, chain.hook, chain.priority));
        let mut slot = 0;
        for at in 0..chains.len() {
            let place = |chain: &BaseChain| (chain.family, chain.hook, chain.priority);
            chains[at].unordered = at > 0 && chains[at].unordered && place(&chains[at - 1]) == place(&chains[at]);
            let BaseChain { rules, user, .. } = &mut chains[at];
            for rule in rules.iter_mut().chain(user.iter_mut().flat_map(|user| &mut user.rules)) {
                rule.counter = CounterSlot(slot);
                slot += 1;
            }
        }
        chains
    })
}

fn base_chain() -> impl Strategy<Value = BaseChain> {
    let policy = prop_oneof![9 => Just(ChainPolicy::Accept), 1 => Just(ChainPolicy::Drop)];
    let hook = select(vec![Hook::Prerouting, Hook::Prerouting, Hook::Forward, Hook::Postrouting]);
    let nat = prop::bool::weighted(0.3);
    let place = (hook, nat).prop_flat_map(|(hook, nat)| {
        let priorities = match (hook, nat) {
            (_, true) => vec![-100, 0, 100],
            (Hook::Prerouting, false) => [vec![-300; 4], vec![-150; 8], vec![-50; 4], vec![-200, -100]].concat(),
            (Hook::Forward, false) => vec![-150, 0],
            (Hook::Postrouting, false) => [vec![-150; 4], vec![150; 4], vec![100]].concat(),
        };
        (Just(hook), Just(nat), select(priorities))
    });
    (family(), place, any::<bool>()).prop_flat_map(move |(family, (hook, nat, priority), unordered)| {
        // Now and then so many that they are not asked one by one.
        let rules = move |most: usize| {
            prop_oneof![
                160 => vec(rule(family, nat), 0..most),
                1 => vec(rule(family, nat), 20..40),
                3 => vec(one_of_many(family, nat), 7..40),
                1 => vec(one_of_many(family, nat), 40..200),
            ]
        };
        // Mostly nat chains translate what their rules have passed by.
        let last = if nat { option::weighted(0.7, translation(family)).boxed() } else { Just(None).boxed() };
        let rules_and_last = (rules(5), last).prop_map(|(mut rules, last)| {
            rules.extend(last);
            rules
        });
        (rules_and_last, rules(3), rules(3), policy.clone()).prop_map(move |(rules, first, second, policy)| BaseChain {
            family,
            hook,
            priority,
            unordered,
            name: "a chain".to_owned(),
            nat,
            rules,
            policy,
            user: vec![
                UserChain { name: "first".to_owned(), rules: first },
                UserChain { name: "second".to_owned(), rules: second },
            ],
        })
    })
}

fn rule(family: Family, nat: bool) -> impl Strategy<Value = ChainRule> {
    // As iptables has it, mostly; nftables mixes.
    let step = prop_oneof![
        8 => one_match(family).prop_map(Step::Match),
        1 => Just(Step::Count),
        1 => action(family).prop_map(Step::Do),
    ];
    let last = prop_oneof![
        6 => action(family).prop_map(|action| Some(Step::Do(action))),
        6 => verdict(family, nat).prop_map(|verdict| Some(Step::Verdict(verdict))),
        1 => map(family, verdict(family, nat).boxed()).prop_map(|(key, map)| Some(Step::VerdictOf { key, map })),
        1 => Just(None),
    ];
    (vec(step, 0..4), prop::bool::weighted(0.7), last).prop_map(|(mut steps, counts, last)| {
        if counts {
            steps.push(Step::Count);
        }
        steps.extend(last);
        ChainRule { steps, counter: CounterSlot(0), origin: origin(Source::Nftables) }
    })
}

/// A rule that most packets pass by or go on behind, so that they come to the end of a long chain.
fn one_of_many(family: Family, nat: bool) -> impl Strategy<Value = ChainRule> {
    let known = |one: Match| if let Test::Opaque(_) = one.test { Match { test: Test::iif("+"), ..one } } else { one };
    let matches = vec(one_match(family).prop_map(move |one| Step::Match(known(one))), 1..4);
    let mark = || (mask(), mark_value()).prop_map(|(clear, flip)| Action::Mark { clear, flip });
    let last = prop_oneof![
        20 => mark().prop_map(Step::Do),
        3 => (select(vec![0xffu8, 0xfc]), tos()).prop_map(|(clear, flip)| Step::Do(Action::Tos { clear, flip })),
        1 => Just(Step::Verdict(Verdict::Jump("second".to_owned()))),
        1 => (mask(), mark_value()).prop_map(|(clear, flip)| Step::Do(Action::CtMark { clear, flip })),
        1 => verdict(family, nat).prop_map(Step::Verdict),
    ];
    let usual = (matches, last).prop_map(|(matches, last)| ChainRule {
        steps: matches.into_iter().chain([Step::Count, last]).collect(),
        counter: CounterSlot(0),
        origin: origin(Source::IptablesNft),
    });
    prop_oneof![40 => usual, 1 => rule(family, nat)]
}

fn verdict(family: Family, in_nat: bool) -> impl Strategy<Value = Verdict> {
    let often = if in_nat { 20 } else { 1 };
    let chain = || select(vec!["first", "second", "missing"]).prop_map(str::to_owned);
    prop_oneof![
        6 => Just(Verdict::Accept),
        2 => Just(Verdict::Drop),
        4 => Just(Verdict::Return),
        2 => Just(Verdict::Continue),
        6 => chain().prop_map(Verdict::Jump),
        2 => chain().prop_map(Verdict::Goto),
        1 => Just(Verdict::Reject),
        often => nat(family).prop_map(|nat| Verdict::Nat(nat.into())),
        1 => Just(Verdict::Opaque("queue".to_owned())),
    ]
}

fn translation(family: Family) -> impl Strategy<Value = ChainRule> {
    nat(family).prop_map(|nat| ChainRule {
        steps: vec![Step::Count, Step::Verdict(Verdict::Nat(nat.into()))],
        counter: CounterSlot(0),
        origin: origin(Source::IptablesNft),
    })
}

fn nat(family: Family) -> impl Strategy<Value = Nat> {
    let pair = move || (address(family), address(family));
    let to = prop_oneof![
        8 => pair().prop_map(|(one, other)| NatTo::Addresses(Some((one.min(other), one.max(other))))),
        1 => Just(NatTo::Addresses(None)),
        3 => prefix(family).prop_map(NatTo::Prefix),
        10 => Just(NatTo::Masquerade),
        1 => Just(NatTo::Redirect),
    ];
    let ports = option::of(port().prop_map(|first| PortRange { first, last: first.saturating_add(9) }));
    let rarely = || prop::bool::weighted(0.2);
    (to, ports, option::weighted(0.1, port()), rarely(), rarely(), rarely()).prop_map(
        |(to, ports, base, random, fully_random, persistent)| Nat { to, ports, base, random, fully_random, persistent },
    )
}

fn action(family: Family) -> impl Strategy<Value = Action> {
    let ttl = prop_oneof![
        select(vec![64u8, 1, 0, 255]).prop_map(TtlChange::Set),
        select(vec![1u8, 255]).prop_map(TtlChange::Raise),
        select(vec![1u8, 62]).prop_map(TtlChange::Lower),
    ];
    let limit = prop_oneof![mss().prop_map(MssLimit::Bytes), Just(MssLimit::PathMtu)];
    prop_oneof![
        8 => (mask(), mark_value()).prop_map(|(clear, flip)| Action::Mark { clear, flip }),
        2 => map(family, mark_value().boxed()).prop_map(|(key, map)| Action::MarkOf { key, map }),
        3 => (select(vec![0xffu8, 0xfc, 0]), tos()).prop_map(|(clear, flip)| Action::Tos { clear, flip }),
        2 => ttl.prop_map(Action::Ttl),
        3 => (limit, any::<bool>()).prop_map(|(to, adds)| Action::Mss(Mss { to, adds })),
        1 => Just(Action::Nothing),
        1 => Just(Action::Untrack),
        2 => (mask(), mark_value()).prop_map(|(clear, flip)| Action::CtMark { clear, flip }),
        2 => (mask(), mask(), mark_value()).prop_map(|(clear, take, flip)| Action::SaveMark { clear, take, flip }),
        2 => (mask(), mask(), mark_value()).prop_map(|(clear, take, flip)| Action::RestoreMark { clear, take, flip }),
        1 => Just(Action::Opaque("limit".to_owned())),
        1 => Just(Action::Connection("CONNMARK".to_owned())),
    ]
}

pub fn guard() -> impl Strategy<Value = Guard> {
    let reason = select(vec![PuntReason::Nat, PuntReason::Netdev, PuntReason::Conntrack]);
    let hook = select(vec![Hook::Prerouting, Hook::Forward]);
    (family(), hook, reason).prop_flat_map(|(family, hook, reason)| {
        vec(one_match(family), 0..3).prop_map(move |matches| Guard {
            family,
            hook,
            matches,
            reason,
            origin: origin(Source::IptablesNft),
        })
    })
}

fn one_match(family: Family) -> impl Strategy<Value = Match> {
    let ranges = || {
        vec((port(), 0..40u16).prop_map(|(first, more)| PortRange { first, last: first.saturating_add(more) }), 1..4)
    };
    let set = prop_oneof![
        3 => key(family, Just(())),
        1 => opaque_key(family),
    ];
    let test = prop_oneof![
        12 => field(family).prop_flat_map(|(field, value)| {
            (field_mask(field), vec(value, 1..4)).prop_map(move |(mask, values)| Test::Field { field, mask, values })
        }),
        1 => ranges().prop_map(Test::EitherPort),
        2 => set.prop_map(|(key, set)| Test::In { key, set }),
        1 => (select(vec![Side::Source, Side::Destination]), select(vec![2u16, 4, 8, 14])).prop_map(move |(of, types)| {
            // Of IPv4 only.
            if family == Family::V4 { Test::AddressType { of, types } } else { Test::Never }
        }),
        1 => Just(Test::Opaque("-m time --timestart 08:00".to_owned())),
    ];
    (prop::bool::weighted(0.2), test).prop_map(|(not, test)| Match { not, test })
}

fn field_mask(field: Field) -> BoxedStrategy<u128> {
    match field {
        Field::Mark | Field::CtMark => mask().prop_map(u128::from).boxed(),
        Field::CtState => select(vec![1u128, 0x02, 0x06, 0x08, 0x40, 0x80, 0x100, 0x1ff]).boxed(),
        Field::CtStatus => select(vec![0x02u128, 0x0e, 0x10, 0x20, 0x180]).boxed(),
        Field::Tos | Field::TcpFlags => select(vec![0xffu128, 0xfc, 0x03, 0x12]).boxed(),
        _ => Just(u128::MAX).boxed(),
    }
}

/// A field, and values of it.
fn field(family: Family) -> impl Strategy<Value = (Field, BoxedStrategy<Value>)> {
    let one =
        |numbers: Vec<u128>| select(numbers).prop_map(|number| Value::Range { first: number, last: number }).boxed();
    let name = || {
        select(vec!["eth0", "eth+", "ppp0", "+", "gone"])
            .prop_map(|name| Value::Name(InterfacePattern(name.to_owned())))
            .boxed()
    };
    let network = move || {
        prop_oneof![
            3 => prefix(family).prop_map(Value::prefix),
            1 => (address(family), address(family)).prop_map(|(one, other)| {
                let number = |address: std::net::IpAddr| match address {
                    std::net::IpAddr::V4(address) => u128::from(address.to_bits()),
                    std::net::IpAddr::V6(address) => address.to_bits(),
                };
                let (one, other) = (number(one), number(other));
                Value::Range { first: one.min(other), last: one.max(other) }
            }),
        ]
        .boxed()
    };
    let ports = || {
        (port(), prop_oneof![Just(0u16), 0..400u16])
            .prop_map(|(first, more)| Value::from(PortRange { first, last: first.saturating_add(more) }))
            .boxed()
    };
    prop_oneof![
        2 => Just((Field::Iif, name())),
        1 => Just((Field::Iif, one(vec![2, 3]))),
        1 => Just((Field::Oif, name())),
        1 => Just((Field::IifGroup, one(vec![0, 1, 2]))),
        1 => Just((Field::OifGroup, one(vec![0, 1, 2]))),
        3 => Just((Field::Source, network())),
        3 => Just((Field::Destination, network())),
        3 => Just((Field::Protocol, protocol().prop_map(Value::one).boxed())),
        2 => Just((Field::SourcePort, ports())),
        3 => Just((Field::DestinationPort, ports())),
        1 => Just((Field::IcmpType, one(vec![0, 1, 2]))),
        1 => Just((Field::IcmpCode, one(vec![0, 1]))),
        1 => Just((Field::IcmpTypeCode, Just(Value::Range { first: 0x100, last: 0x1ff }).boxed())),
        2 => Just((Field::Tos, tos().prop_map(Value::one).boxed())),
        1 => Just((Field::Ttl, one(vec![1, 2, 63, 64]))),
        1 => Just((Field::FlowLabel, one(vec![0, 1]))),
        1 => Just((Field::Length, Just(Value::Range { first: 100, last: 1300 }).boxed())),
        3 => Just((Field::Mark, mark_value().prop_map(Value::one).boxed())),
        1 => Just((Field::TcpFlags, tcp_flags().prop_map(Value::one).boxed())),
        1 => Just((Field::TcpMss, Just(Value::Range { first: 0, last: 1300 }).boxed())),
        1 => Just((Field::SourceMac, one(vec![0x0200_0000_0901]))),
        1 => Just((Field::IpsetSourcePort, prop_oneof![Just(Value::one(0u16)), Just(Value::one(0x100u16))].boxed())),
        1 => Just((Field::IpsetDestinationPort, ports())),
        4 => Just((Field::CtState, Just(Value::Range { first: 1, last: 0x1ff }).boxed())),
        1 => Just((Field::CtStatus, Just(Value::Range { first: 1, last: 0x1ff }).boxed())),
        2 => Just((Field::CtMark, mark_value().prop_map(Value::one).boxed())),
        1 => Just((Field::CtDirection, one(vec![0, 1]))),
        1 => Just((Field::CtProtocol, protocol().prop_map(Value::one).boxed())),
        1 => select(vec![
            Field::CtOriginalSource,
            Field::CtOriginalDestination,
            Field::CtReplySource,
            Field::CtReplyDestination,
        ]).prop_map(move |field| (field, network())),
        1 => select(vec![
            Field::CtOriginalSourcePort,
            Field::CtOriginalDestinationPort,
            Field::CtReplySourcePort,
            Field::CtReplyDestinationPort,
        ]).prop_map(move |field| (field, ports())),
    ]
}

/// A key of one or two fields, and a set or map for it.
fn key<T: Clone + std::fmt::Debug + 'static>(
    family: Family,
    data: impl Strategy<Value = T> + Clone + 'static,
) -> BoxedStrategy<(Vec<Field>, Arc<Set<T>>)> {
    vec(field(family), 1..3)
        .prop_flat_map(move |fields| {
            let (key, values): (Vec<Field>, Vec<BoxedStrategy<Value>>) = fields.into_iter().unzip();
            let element = (values, data.clone(), prop::bool::weighted(0.05))
                .prop_map(|(key, data, uncertain)| Element { key, data, uncertain });
            prop_oneof![12 => vec(element.clone(), 0..4), 1 => vec(element, 12..40)].prop_map(move |elements| {
                let set = Set { name: "a set".to_owned(), elements: disjoint(elements), opaque: None };
                (key.clone(), Arc::new(set))
            })
        })
        .boxed()
}

fn map<T: Clone + std::fmt::Debug + 'static>(
    family: Family,
    data: impl Strategy<Value = T> + Clone + 'static,
) -> BoxedStrategy<(Vec<Field>, Arc<Set<T>>)> {
    key(family, data)
}

fn opaque_key(family: Family) -> impl Strategy<Value = (Vec<Field>, Arc<Set<()>>)> {
    (key(family, Just(())), option::weighted(0.5, Just("it is dynamic".to_owned())))
        .prop_map(|((key, set), opaque)| (key, Arc::new(Set { opaque, ..(*set).clone() })))
}

/// Leaves out elements that have a key in common with one before.
fn disjoint<T>(elements: Vec<Element<T>>) -> Vec<Element<T>> {
    let meet = |one: &Value, other: &Value| match (one, other) {
        (Value::Range { first, last }, Value::Range { first: from, last: to }) => first <= to && from <= last,
        // Names may stand for the same interface.
        _ => true,
    };
    let mut kept: Vec<Element<T>> = Vec::new();
    for element in elements {
        if !kept.iter().any(|other| other.key.iter().zip(&element.key).all(|(one, other)| meet(one, other))) {
            kept.push(element);
        }
    }
    kept
}
