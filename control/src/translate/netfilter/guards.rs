//! Guards: what of netfilter is not evaluated, and which packets it could touch.

use shunt_policy::PuntReason;
use shunt_policy::config::{Action, BaseChain, Field, Guard, Hook, Match, Step, Test, Value};

use super::nft::{Direction, Unevaluated};
use super::{Item, Part};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// A rule that asks connection tracking gets its answer from packets that went before, of both directions. So the kernel must see
/// all packets of the connections that could come to the rule: what tells them apart is what stays the same over a connection.
/// Where connections are translated (`translates`), its packets may have any addresses and ports when they arrive.
pub(super) fn connections(chain: &BaseChain, translates: bool, part: &mut Part) {
    let of_use = if translates { is_never_translated } else { stays_the_same };
    for rule in chain.all_rules() {
        let asks = |step: &Step| {
            matches!(step, Step::Match(Match { test: Test::Connection(_), .. }) | Step::Do(Action::Connection(_)))
        };
        let Some(at) = rule.steps.iter().position(asks) else { continue };
        let mut one_way = known(&rule.steps[..at], of_use);
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

fn is_never_translated(test: &Test) -> bool {
    matches!(test, Test::Field { field: Field::Protocol, .. } | Test::Never)
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
