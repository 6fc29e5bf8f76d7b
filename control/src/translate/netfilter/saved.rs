//! Tables of iptables.

use shunt_policy::config::{
    Action, BaseChain, ChainPolicy, ChainRule, CounterSlot, Field, Hook, Match, Origin, PortRange, Step, Test,
    UserChain, Value, Verdict,
};

use super::Lowered;
use crate::mirror::netfilter::Dialect;
use crate::mirror::netfilter::save::{self, Target};

pub(super) fn chains(dialect: &Dialect) -> Vec<Lowered> {
    let mut all = Vec::new();
    for table in &dialect.saved.tables {
        for chain in &table.chains {
            let (hook, priority) = match (table.name.as_str(), chain.name.as_str()) {
                ("raw", "PREROUTING") => (Hook::Prerouting, -300),
                ("mangle", "PREROUTING") => (Hook::Prerouting, -150),
                ("nat", "PREROUTING") => (Hook::Prerouting, -100),
                ("mangle", "FORWARD") => (Hook::Forward, -150),
                ("filter", "FORWARD") => (Hook::Forward, 0),
                ("security", "FORWARD") => (Hook::Forward, 50),
                ("mangle", "POSTROUTING") => (Hook::Postrouting, -150),
                ("nat", "POSTROUTING") => (Hook::Postrouting, 100),
                _ => continue,
            };
            let user = table.chains.iter().filter(|chain| chain.policy.is_none());
            let user =
                user.map(|chain| UserChain { name: chain.name.clone(), rules: chain.rules.iter().map(rule).collect() });
            let chain = BaseChain {
                family: dialect.family,
                hook,
                priority,
                unordered: false,
                name: format!("{} {} {}", dialect.source, table.name, chain.name),
                rules: chain.rules.iter().map(rule).collect(),
                policy: chain.policy.unwrap_or(ChainPolicy::Accept),
                user: user.collect(),
            };
            all.push(Lowered { chain, nat: table.name == "nat", table: format!("{} {}", dialect.source, table.name) });
        }
    }
    all
}

fn rule(rule: &save::ChainRule) -> ChainRule {
    let mut steps: Vec<Step> =
        rule.matches.iter().map(|one| Step::Match(Match { not: one.not, test: test(&one.test) })).collect();
    steps.push(Step::Count);
    steps.extend(match &rule.target {
        Target::Accept => Some(Step::Verdict(Verdict::Accept)),
        Target::Drop => Some(Step::Verdict(Verdict::Drop)),
        Target::Return => Some(Step::Verdict(Verdict::Return)),
        Target::Jump(name) => Some(Step::Verdict(Verdict::Jump(name.clone()))),
        Target::Goto(name) => Some(Step::Verdict(Verdict::Goto(name.clone()))),
        Target::Mark { clear, flip } => Some(Step::Do(Action::Mark { clear: *clear, flip: *flip })),
        Target::Continue => None,
        Target::Opaque(what) if what.starts_with("MASQUERADE") => {
            Some(Step::Verdict(Verdict::Nat { masquerade: true }))
        }
        Target::Opaque(what) if what.starts_with("CONNMARK") => Some(Step::Do(Action::Connection(what.clone()))),
        Target::Opaque(what) if what.starts_with("REJECT") => Some(Step::Verdict(Verdict::Reject)),
        Target::Opaque(what) => Some(Step::Verdict(Verdict::Opaque(what.clone()))),
    });
    let Origin { source, text } = &rule.origin;
    ChainRule { steps, counter: CounterSlot::default(), origin: Origin::new(*source, text.clone()) }
}

fn test(test: &save::Test) -> Test {
    let ports = |ranges: &[PortRange]| ranges.iter().map(|range| Value::from(*range)).collect::<Vec<_>>();
    match test {
        save::Test::In(pattern) => Test::iif(&pattern.0),
        save::Test::Out(pattern) => Test::oif(&pattern.0),
        save::Test::Source(prefix) => Test::source(*prefix),
        save::Test::Destination(prefix) => Test::destination(*prefix),
        save::Test::Protocol(protocol) => Test::protocol(*protocol),
        save::Test::SourcePort(ranges) => Test::of(Field::SourcePort, ports(ranges)),
        save::Test::DestinationPort(ranges) => Test::of(Field::DestinationPort, ports(ranges)),
        save::Test::EitherPort(ranges) => Test::EitherPort(ranges.clone()),
        save::Test::Tos { value, mask } => Test::masked(Field::Tos, *value, *mask),
        save::Test::CodePoint(point) => Test::masked(Field::Tos, point << 2, 0xfcu8),
        save::Test::Mark(mark) => Test::masked(Field::Mark, mark.value, mark.mask),
        save::Test::Icmp { kind, codes: (first, last) } => {
            let number = |code: u8| u128::from(u16::from_be_bytes([*kind, code]));
            Test::of(Field::IcmpTypeCode, [Value::Range { first: number(*first), last: number(*last) }])
        }
        save::Test::Opaque(what) if what.starts_with("conntrack") || what.starts_with("state") => {
            Test::Connection(what.clone())
        }
        save::Test::Opaque(what) => Test::Opaque(what.clone()),
    }
}
