//! Guards: what of netfilter is not evaluated, and which packets it could touch.

use shunt_policy::config::{
    Action, BaseChain, ChainPolicy, Field, Guard, Hook, Match, NatTo, Origin, Source, Step, Test, Value, Verdict,
};
use shunt_policy::{Family, PuntReason};

use super::nft::{Direction, Unevaluated};
use super::{Item, Part};
use crate::mirror::netfilter::Netfilter;

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Masquerading touches what leaves by it, and the answers come back to an address of ours. Any other translation is seen in
/// packets that look like all others, so the family is the kernel's.
pub(super) fn nat(chain: &BaseChain, part: &mut Part) {
    let family = chain.family;
    if chain.policy == ChainPolicy::Drop {
        let origin = Origin::new(Source::Nftables, format!("{} policy drop", chain.name));
        part.guard_all(family, PuntReason::Nat, &origin);
        part.report.push(Item::punted(origin, PuntReason::Nat, "what it drops are the first packets of connections"));
    }
    for rule in chain.all_rules() {
        let masquerade =
            matches!(rule.steps.last(), Some(Step::Verdict(Verdict::Nat(nat))) if nat.to == NatTo::Masquerade);
        if masquerade && chain.hook == Hook::Postrouting && chain.rules.contains(rule) {
            let why = "new connections that could match it are the kernel's, as are the answers to them";
            let origin = rule.origin.clone();
            part.report.push(Item::punted(origin.clone(), PuntReason::Nat, why));
            // The rule sees the first packet of a connection, the translation all of them, and errors that quote one, too.
            let of_connection = known(&rule.steps, |test| stays_the_same(test) || names_egress(test));
            let mut of_error = known(&rule.steps, names_egress);
            let icmp = if family == Family::V4 { ICMP } else { ICMPV6 };
            of_error.push(Match { not: false, test: Test::protocol(icmp) });
            for matches in [of_connection, of_error] {
                let (reason, origin) = (PuntReason::Nat, origin.clone());
                part.guards.push(Guard { family, hook: Hook::Forward, matches, reason, origin });
            }
        } else {
            part.guard_all(family, PuntReason::Nat, &rule.origin);
            let why =
                format!("answers of translated connections look like any packet: all of {family} is the kernel's");
            part.report.push(Item::punted(rule.origin.clone(), PuntReason::Nat, why));
        }
    }
}

/// Connections go on as they were translated, whatever has become of the rule.
pub(super) fn still_translated(netfilter: &Netfilter, part: &mut Part) {
    for family in &netfilter.translated {
        let origin = Origin::new(Source::Nftables, format!("{family} connections that conntrack still translates"));
        part.guard_all(*family, PuntReason::Nat, &origin);
        let why = "rules have changed since, they go on: conntrack -L lists them, conntrack -D ends them";
        part.report.push(Item::punted(origin, PuntReason::Nat, why));
    }
}

/// A rule that asks connection tracking gets its answer from packets that went before, of both directions. So the kernel must see
/// all packets of the connections that could come to the rule: what tells them apart is what stays the same over a connection.
pub(super) fn connections(chain: &BaseChain, part: &mut Part) {
    for rule in chain.all_rules() {
        let asks = |step: &Step| {
            matches!(step, Step::Match(Match { test: Test::Connection(_), .. }) | Step::Do(Action::Connection(_)))
        };
        let Some(at) = rule.steps.iter().position(asks) else { continue };
        let mut one_way = known(&rule.steps[..at], stays_the_same);
        // The state of an ICMP error is that of the connection which it quotes, and that may be any.
        if !one_way.iter().any(excludes_icmp) {
            one_way.clear();
        }
        let other_way: Vec<Match> = one_way.iter().map(turned).collect();
        for matches in [one_way, other_way] {
            let guard = Guard {
                family: chain.family,
                hook: Hook::Prerouting,
                matches,
                reason: PuntReason::Conntrack,
                origin: rule.origin.clone(),
            };
            // One that takes all makes the others superfluous.
            let all = |other: &Guard| other.family == guard.family && other.matches.is_empty();
            if !part.guards.iter().any(all) {
                part.guards.push(guard);
            }
        }
    }
}

/// The leading matches of a rule that are of use to a guard. A mark, TOS or TTL that rules before may have changed decides nothing.
fn known(steps: &[Step], of_use: fn(&Test) -> bool) -> Vec<Match> {
    let matches = steps.iter().map_while(|step| match step {
        Step::Match(one) => Some(Some(one)),
        Step::Count | Step::Do(Action::Nothing) => Some(None),
        _ => None,
    });
    let decides = |one: &&Match| match &one.test {
        Test::Field { field, .. } => !field.is_mutable(),
        Test::In { key, .. } => !key.iter().any(|field| field.is_mutable()),
        _ => true,
    };
    matches.flatten().filter(decides).filter(|one| of_use(&one.test)).cloned().collect()
}

/// Holds for no ICMP packet, whichever it is.
fn excludes_icmp(one: &Match) -> bool {
    let icmp = |values: &[Value]| {
        [ICMP, ICMPV6].into_iter().any(|icmp| {
            let within = |value: &Value| matches!(value, Value::Range { first, last } if (*first..=*last).contains(&icmp.into()));
            values.iter().any(within)
        })
    };
    match &one.test {
        Test::Field { field: Field::Protocol, mask: u128::MAX, values } => !one.not && !icmp(values),
        Test::Field { field: Field::SourcePort | Field::DestinationPort, .. } | Test::EitherPort(_) => true,
        _ => false,
    }
}

fn names_egress(test: &Test) -> bool {
    matches!(test, Test::Field { field: Field::Oif | Field::OifGroup, .. } | Test::Never)
}

/// What a test looks at is the same in all packets of a connection, but for the direction.
fn stays_the_same(test: &Test) -> bool {
    let same = |field: &Field| {
        matches!(
            field,
            Field::Source | Field::Destination | Field::Protocol | Field::SourcePort | Field::DestinationPort
        )
    };
    match test {
        Test::Field { field, .. } => same(field),
        Test::In { key, .. } => key.iter().all(same),
        Test::EitherPort(_) | Test::Never => true,
        Test::AddressType { .. } | Test::Connection(_) | Test::Opaque(_) => false,
    }
}

/// The same test of a packet that goes the other way.
fn turned(one: &Match) -> Match {
    let turn = |field: &Field| match field {
        Field::Source => Field::Destination,
        Field::Destination => Field::Source,
        Field::SourcePort => Field::DestinationPort,
        Field::DestinationPort => Field::SourcePort,
        other => *other,
    };
    let test = match &one.test {
        Test::Field { field, mask, values } => Test::Field { field: turn(field), mask: *mask, values: values.clone() },
        Test::In { key, set } => Test::In { key: key.iter().map(turn).collect(), set: set.clone() },
        other => other.clone(),
    };
    Match { not: one.not, test }
}

/// What stands at the devices, before a packet comes to us or behind, or forwards by itself.
pub(super) fn unevaluated(left: &Unevaluated, part: &mut Part) {
    for origin in &left.parts {
        part.report.push(Item::punted(origin.clone(), PuntReason::Netdev, left.why));
    }
    let hook = match left.direction {
        Direction::In => Hook::Prerouting,
        Direction::Out => Hook::Forward,
    };
    let test = |device: &String| match left.direction {
        Direction::In => Test::iif(device),
        Direction::Out => Test::oif(device),
    };
    let mut all: Vec<Vec<Match>> =
        left.devices.iter().map(|device| vec![Match { not: false, test: test(device) }]).collect();
    if all.is_empty() {
        all.push(Vec::new());
    }
    for family in &left.families {
        for matches in &all {
            let (reason, origin) = (PuntReason::Netdev, left.place.clone());
            part.guards.push(Guard { family: *family, hook, matches: matches.clone(), reason, origin });
        }
    }
}
