//! Which rules make a decision one of a single packet, and which leave it one of the whole flow.

use std::sync::Arc;

use shunt_policy::config::{
    Action, BaseChain, ChainPolicy, ChainRule, Config, CounterSlot, Field, Guard, Hook, Match, Origin, Source, Step,
    Test, TtlChange, Value,
};
use shunt_policy::{Family, Generation, PuntReason, compile};

fn looked_at(steps: Vec<Step>, nat: bool) -> Option<Field> {
    let chain = BaseChain {
        family: Family::V4,
        hook: Hook::Prerouting,
        priority: -150,
        unordered: false,
        name: "test".to_owned(),
        nat,
        rules: vec![ChainRule { steps, counter: CounterSlot(0), origin: Origin::new(Source::Nftables, "test") }],
        policy: ChainPolicy::Accept,
        user: Vec::new(),
    };
    let policy = compile(&Config { chains: Arc::new(vec![chain]), ..Config::default() }, Generation(1));
    assert_eq!(policy.varies(Family::V6), None, "the other family has no rules");
    policy.varies(Family::V4)
}

fn asks(test: Test) -> Option<Field> {
    looked_at(vec![Step::Match(Match { not: false, test })], false)
}

/// `tcp flags & mask == value`
fn flags(value: u8, mask: u8) -> Test {
    Test::masked(Field::TcpFlags, value, mask)
}

#[test]
fn what_a_flow_has_in_common_does_not_vary() {
    let tests =
        [Field::Iif, Field::Oif, Field::Source, Field::DestinationPort, Field::Tos, Field::Mark, Field::CtState];
    for field in tests {
        assert_eq!(asks(Test::of(field, [Value::one(1u8)])), None, "{field:?}");
    }
}

#[test]
fn what_each_packet_has_of_its_own_varies() {
    for field in [Field::Ttl, Field::Length, Field::SourceMac] {
        assert_eq!(asks(Test::of(field, [Value::one(1u8)])), Some(field));
    }
    assert_eq!(looked_at(vec![Step::Do(Action::Ttl(TtlChange::Set(64)))], false), Some(Field::Ttl));
}

#[test]
fn flags_that_only_packets_for_a_worker_have_do_not_vary() {
    const FIN: u8 = 1;
    const SYN: u8 = 2;
    const RST: u8 = 4;
    const PSH: u8 = 8;
    const ACK: u8 = 16;
    // --syn, --tcp-flags SYN,RST SYN
    assert_eq!(asks(flags(SYN, FIN | SYN | RST | ACK)), None);
    assert_eq!(asks(flags(SYN, SYN | RST)), None);
    assert_eq!(asks(flags(0, FIN | SYN | RST)), None, "all others");
    assert_eq!(asks(flags(ACK, SYN | ACK)), Some(Field::TcpFlags));
    assert_eq!(asks(flags(PSH, PSH)), Some(Field::TcpFlags));
}

#[test]
fn nat_asks_a_connection_once() {
    assert_eq!(
        looked_at(vec![Step::Match(Match { not: false, test: Test::of(Field::Length, [Value::one(9u8)]) })], true),
        None
    );
}

#[test]
fn guards_look_as_well() {
    let guard = Guard {
        family: Family::V6,
        hook: Hook::Forward,
        matches: vec![Match { not: false, test: Test::of(Field::Length, [Value::one(9u8)]) }],
        reason: PuntReason::Netdev,
        origin: Origin::new(Source::Nftables, "test"),
    };
    let policy = compile(&Config { guards: Arc::new(vec![guard]), ..Config::default() }, Generation(1));
    assert_eq!([Family::V4, Family::V6].map(|family| policy.varies(family)), [None, Some(Field::Length)]);
}
