//! iptables of both kinds: tables as the tools print them become chains of the common form. Each match and target means what the
//! kernel's module of its name does (`xt_*`, `ipt_*`, `ip6t_*`).

mod connection;
mod nat;

use std::collections::HashMap;

use shunt_policy::Family;
use shunt_policy::config::{
    self, Action, BaseChain, ChainPolicy, ChainRule, CounterSlot, Field, Hook, MssLimit, Origin, PortRange, Side,
    Source, Step, TtlChange, UserChain, Value, Verdict,
};

use super::Lowered;
use super::ipset::{Asked, Sets};
use crate::mirror::netfilter::Dialect;
use crate::mirror::netfilter::xt::{
    AddressMask, AddressRange, Chain, Comparison, Condition, HopChange, IcmpType, MarkChange, Masked, Match, Mss,
    PacketType, Range, Rule, Table, Target, Test,
};

/// The chains that forwarded packets pass.
pub(super) fn chains(dialect: &Dialect, sets: &mut Sets) -> Vec<Lowered> {
    let mut all = Vec::new();
    for table in &dialect.saved.tables {
        for chain in &table.chains {
            // One without a policy hangs on no hook, whatever its name.
            let (Some((hook, priority)), Some(policy)) = (place(&table.name, &chain.name), chain.policy) else {
                continue;
            };
            let nat = table.name == "nat";
            let lowering = Lowering { source: dialect.source, family: dialect.family, hook, nat, sets };
            let chain = lowering.base(table, chain, priority, policy);
            all.push(Lowered { chain, table: format!("{} {}", dialect.source, table.name) });
        }
    }
    all
}

/// Where a built-in chain hangs (`NF_IP_PRI_*`).
fn place(table: &str, chain: &str) -> Option<(Hook, i32)> {
    let hook = match chain {
        "PREROUTING" => Hook::Prerouting,
        "FORWARD" => Hook::Forward,
        "POSTROUTING" => Hook::Postrouting,
        _ => return None,
    };
    let priority = match (table, hook) {
        ("raw", _) => -300,
        ("mangle", _) => -150,
        ("nat", Hook::Prerouting) => -100,
        ("nat", _) => 100,
        ("filter", _) => 0,
        ("security", _) => 50,
        _ => return None,
    };
    Some((hook, priority))
}

/// What a rule's meaning depends on beside its text.
struct Lowering<'a, 'b> {
    source: Source,
    family: Family,
    hook: Hook,
    /// Of table nat.
    nat: bool,
    sets: &'a mut Sets<'b>,
}

/// What is left of a condition.
enum Holds {
    Always,
    Never,
    If(config::Match),
}

impl Lowering<'_, '_> {
    fn base(mut self, table: &Table, chain: &Chain, priority: i32, policy: ChainPolicy) -> BaseChain {
        let mut rules: Vec<ChainRule> = table.unread.iter().map(|line| self.unread(line)).collect();
        rules.extend(chain.rules.iter().map(|rule| self.rule(chain, rule)));
        let user = reachable(table, chain).into_iter().map(|chain| UserChain {
            name: chain.name.clone(),
            rules: chain.rules.iter().map(|rule| self.rule(chain, rule)).collect(),
        });
        let user = user.collect();
        BaseChain {
            family: self.family,
            hook: self.hook,
            priority,
            unordered: false,
            nat: self.nat,
            name: format!("{} {} {}", self.source, table.name, chain.name),
            rules,
            policy,
            user,
        }
    }

    /// A line that could be a rule of any chain, and ask anything.
    fn unread(&self, line: &str) -> ChainRule {
        let steps = vec![Step::Do(Action::Connection(line.to_owned()))];
        ChainRule { steps, counter: CounterSlot::default(), origin: Origin::new(self.source, line) }
    }

    fn rule(&mut self, chain: &Chain, rule: &Rule) -> ChainRule {
        let mut steps = Vec::with_capacity(rule.matches.len() + 2);
        if rule.foreign {
            // It may ask connection tracking, or lead to a chain that does.
            let what = "nft has added it, and iptables may not print all of it";
            steps.push(is(config::Test::Connection(what.to_owned())));
        }
        for one in &rule.matches {
            match one {
                Match::Plain(condition) => steps.extend(self.condition(condition)),
                Match::Module { name: "conntrack" | "state", conditions } => match connection::tests(conditions) {
                    Some(tests) => steps.extend(tests.into_iter().map(Step::Match)),
                    None => steps.push(is(config::Test::Connection(one.to_string()))),
                },
                Match::Module { conditions, .. } => {
                    steps.extend(conditions.iter().filter_map(|condition| self.condition(condition)));
                }
                Match::Connection(text) => steps.push(is(config::Test::Connection(text.to_string()))),
                Match::Opaque(text) => steps.push(is(config::Test::Opaque(text.to_string()))),
            }
        }
        steps.push(Step::Count);
        steps.extend(rule.target.as_ref().map(|target| self.target(target)));
        let origin = Origin::new(self.source, chain.line(rule));
        ChainRule { steps, counter: CounterSlot::default(), origin }
    }

    fn condition(&mut self, condition: &Condition) -> Option<Step> {
        match self.holds(condition) {
            Holds::Always => None,
            Holds::Never => Some(is(config::Test::Never)),
            Holds::If(one) => Some(Step::Match(one)),
        }
    }

    fn holds(&mut self, condition: &Condition) -> Holds {
        let Condition { not, test } = condition;
        let holds = |yes: bool| if yes == *not { Holds::Never } else { Holds::Always };
        let test = match test {
            Test::Source(address) => address_mask(Field::Source, *address),
            Test::Destination(address) => address_mask(Field::Destination, *address),
            Test::In(name) => config::Test::iif(&name.0),
            // Iptables refuses it here, except in a chain that PREROUTING is led to: it compares with no name then
            // (ip_packet_match's nulldevname, nft_meta_get_eval).
            Test::Out(_) if self.hook == Hook::Prerouting => return holds(false),
            Test::Out(name) => config::Test::oif(&name.0),
            Test::Protocol(protocol) => config::Test::protocol(protocol.number),
            // All fragments are the kernel's.
            Test::Fragment => return holds(false),
            Test::SourcePort(range) => ports(Field::SourcePort, &[*range]),
            Test::DestinationPort(range) => ports(Field::DestinationPort, &[*range]),
            Test::SourcePorts(ranges) => ports(Field::SourcePort, ranges),
            Test::DestinationPorts(ranges) => ports(Field::DestinationPort, ranges),
            Test::EitherPort(ranges) => {
                config::Test::EitherPort(ranges.iter().map(|range| PortRange::from(*range)).collect())
            }
            Test::TcpFlags { mask, set } => config::Test::masked(Field::TcpFlags, set.0, mask.0),
            Test::Tos(tos) => config::Test::masked(Field::Tos, tos.value, tos.mask),
            Test::Dscp(point) => config::Test::masked(Field::Tos, point << 2, 0xfcu8),
            Test::EcnIpEct(bits) => config::Test::masked(Field::Tos, *bits, 3u8),
            Test::EcnTcpEce => config::Test::masked(Field::TcpFlags, 0x40u8, 0x40u8),
            Test::EcnTcpCwr => config::Test::masked(Field::TcpFlags, 0x80u8, 0x80u8),
            Test::Ttl(comparison) | Test::HopLimit(comparison) => compared(Field::Ttl, *comparison),
            Test::Length(range) => numbers(Field::Length, *range),
            Test::Mark(mark) => config::Test::masked(Field::Mark, mark.value, mark.mask),
            Test::ConnectionMark(mark) => config::Test::masked(Field::CtMark, mark.value, mark.mask),
            // To IPv4 255 is any type, to IPv6 a type like all others (icmp_type_code_match, icmp6_type_code_match).
            Test::Icmp(IcmpType::Any | IcmpType::Kind { kind: u8::MAX, .. }) => return holds(true),
            Test::Icmp(IcmpType::Kind { kind, code }) | Test::Icmp6(IcmpType::Kind { kind, code }) => {
                let [first, last] = [code.unwrap_or(0), code.unwrap_or(u8::MAX)];
                let [first, last] = [first, last].map(|code| u16::from_be_bytes([*kind, code]));
                numbers(Field::IcmpTypeCode, Range { first, last })
            }
            // What is not addressed to the port's own MAC is the kernel's.
            Test::PacketType(kind) => return holds(*kind == PacketType::Unicast),
            Test::MacSource(mac) if self.hook != Hook::Postrouting => {
                config::Test::of(Field::SourceMac, [Value::one(mac.number())])
            }
            Test::AddressType { of, types } if self.family == Family::V4 => {
                config::Test::AddressType { of: *of, types: types.0 }
            }
            Test::MatchSet { name, sides } => match self.sets.asked(name, sides, self.family) {
                Asked::Never => return holds(false),
                Asked::In { key, set } => config::Test::In { key, set },
                Asked::Opaque(why) => config::Test::Opaque(why),
            },
            Test::SourceGroup(group) if self.hook != Hook::Postrouting => {
                interface_group(Field::IifGroup, group.masked())
            }
            Test::DestinationGroup(group) if self.hook != Hook::Prerouting => {
                interface_group(Field::OifGroup, group.masked())
            }
            Test::Comment(_) => return Holds::Always,
            // Its negation holds for a packet without the option too (tcpmss_mt).
            Test::TcpMss(range) if !not => numbers(Field::TcpMss, *range),
            Test::SourceRange(range) => addresses(Field::Source, *range),
            Test::DestinationRange(range) => addresses(Field::Destination, *range),
            // Those of one module are taken together.
            Test::Connection(_) => config::Test::Connection(condition.to_string()),
            Test::TcpOption(_)
            | Test::Icmp6(IcmpType::Any)
            | Test::MacSource(_)
            | Test::AddressType { .. }
            | Test::SourceGroup(_)
            | Test::DestinationGroup(_)
            | Test::TcpMss(_) => config::Test::Opaque(condition.to_string()),
        };
        Holds::If(config::Match { not: *not, test })
    }

    fn target(&self, target: &Target) -> Step {
        Step::Do(match target {
            Target::Accept => return Step::Verdict(Verdict::Accept),
            Target::Drop => return Step::Verdict(Verdict::Drop),
            Target::Return => return Step::Verdict(Verdict::Return),
            Target::Jump(chain) => return Step::Verdict(Verdict::Jump(chain.to_string())),
            Target::Goto(chain) => return Step::Verdict(Verdict::Goto(chain.to_string())),
            Target::Reject(_) => return Step::Verdict(Verdict::Reject),
            Target::Nat(nat) => {
                let known = nat::nat(nat, self.hook).filter(|_| self.nat);
                return Step::Verdict(
                    known.map_or_else(|| Verdict::Opaque(nat.to_string()), |nat| Verdict::Nat(nat.into())),
                );
            }
            Target::Opaque(text) => return Step::Verdict(Verdict::Opaque(word(text))),
            Target::Mark(change) => mark(*change),
            Target::Tos(change) => Action::Tos { clear: change.mask, flip: change.value },
            // dscp_tg keeps the two bits of ECN.
            Target::Dscp(point) => Action::Tos { clear: 0xfc, flip: point << 2 },
            Target::Ttl(change) | Target::HopLimit(change) => Action::Ttl(match *change {
                HopChange::Set(value) => TtlChange::Set(value),
                HopChange::Increase(value) => TtlChange::Raise(value),
                HopChange::Decrease(value) => TtlChange::Lower(value),
            }),
            Target::Mss(change) => {
                let to = match *change {
                    Mss::Set(bytes) => MssLimit::Bytes(bytes),
                    Mss::ClampToPmtu => MssLimit::PathMtu,
                };
                Action::Mss(config::Mss { to, adds: true })
            }
            Target::Classify { .. } => Action::Nothing,
            Target::NoTrack { .. } => Action::Untrack,
            Target::ConnectionMark(change) => connection::mark(*change),
            Target::Connection(text) => Action::Connection(word(text)),
            Target::Set(text) => Action::Opaque(word(text)),
        })
    }
}

fn is(test: config::Test) -> Step {
    Step::Match(config::Match { not: false, test })
}

/// The user-defined chains that a base chain leads to, each once.
fn reachable<'a>(table: &'a Table, base: &'a Chain) -> Vec<&'a Chain> {
    let mut unseen: HashMap<&str, &Chain> =
        table.chains.iter().filter(|chain| chain.policy.is_none()).map(|chain| (chain.name.as_str(), chain)).collect();
    let mut found: Vec<&Chain> = Vec::new();
    let mut open = vec![base];
    while let Some(chain) = open.pop() {
        for rule in &chain.rules {
            let (Some(Target::Jump(name)) | Some(Target::Goto(name))) = &rule.target else { continue };
            if let Some(next) = unseen.remove(&**name) {
                found.push(next);
                open.push(next);
            }
        }
    }
    found
}

/// `(address & mask) == wanted`, which a wanted address with bits beside the mask never is (ip_packet_match).
fn address_mask(field: Field, wanted: AddressMask) -> config::Test {
    let all = match wanted.family {
        Family::V4 => u128::from(u32::MAX),
        Family::V6 => u128::MAX,
    };
    let host = all & !wanted.mask;
    let is_prefix = host & host.wrapping_add(1) == 0;
    if is_prefix && wanted.address & host == 0 {
        let range = Value::Range { first: wanted.address, last: wanted.address | host };
        return config::Test::of(field, [range]);
    }
    config::Test::masked(field, wanted.address, wanted.mask)
}

fn addresses(field: Field, range: AddressRange) -> config::Test {
    config::Test::of(
        field,
        (range.first <= range.last).then_some(Value::Range { first: range.first, last: range.last }),
    )
}

fn ports(field: Field, ranges: &[Range]) -> config::Test {
    config::Test::of(field, ranges.iter().map(|range| Value::from(PortRange::from(*range))))
}

fn numbers(field: Field, range: Range) -> config::Test {
    let value = Value::Range { first: range.first.into(), last: range.last.into() };
    config::Test::of(field, (range.first <= range.last).then_some(value))
}

/// No value at all is less than 0 or greater than 255.
fn compared(field: Field, comparison: Comparison) -> config::Test {
    let range = |first: u8, last: u8| Value::Range { first: first.into(), last: last.into() };
    config::Test::of(
        field,
        match comparison {
            Comparison::Equal(value) => Some(range(value, value)),
            Comparison::Less(value) => value.checked_sub(1).map(|last| range(0, last)),
            Comparison::Greater(value) => value.checked_add(1).map(|first| range(first, u8::MAX)),
        },
    )
}

/// `(group ^ wanted) & mask == 0` (devgroup_mt).
fn interface_group(field: Field, group: Masked) -> config::Test {
    config::Test::masked(field, group.value & group.mask, group.mask)
}

/// Without the `-j`.
fn word(text: &str) -> String {
    text.strip_prefix("-j ").unwrap_or(text).to_owned()
}

/// libxt_MARK's mark_tg2_parse, and mark_tg of xt_MARK.
fn mark(change: MarkChange) -> Action {
    let (clear, flip) = match change {
        MarkChange::SetXmark { value, mask } => (mask, value),
        MarkChange::SetMark(Masked { value, mask }) => (value | mask, value),
        MarkChange::And(bits) => (!bits, 0),
        MarkChange::Or(bits) => (bits, bits),
        MarkChange::Xor(bits) => (0, bits),
    };
    Action::Mark { clear, flip }
}

/// Which field holds the address of a side.
pub(super) fn address_of(side: Side) -> Field {
    match side {
        Side::Source => Field::Source,
        Side::Destination => Field::Destination,
    }
}

#[cfg(test)]
mod tests;
