//! Which packets destination nat rules may take, by protocol and port.

use crate::compile::Policy;
use crate::config::{BaseChain, ChainRule, Field, Hook, Match, NatTo, PortRange, Step, Test, Value, Verdict};
use crate::names::Family;

const ALL: PortRange = PortRange { first: 0, last: u16::MAX };

/// Those with ports.
const WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];

impl Policy {
    /// Protocols and destination ports (for ICMP identifiers) of packets that a rule on PREROUTING may lead to another machine; `None` if
    /// it may be any. What a rule leads to this machine is none of them.
    pub fn destination_nat_ports(&self, family: Family) -> Option<Vec<(u8, PortRange)>> {
        let chains = self.config.chains.iter();
        let on_prerouting = |chain: &&BaseChain| chain.nat && chain.family == family && chain.hook == Hook::Prerouting;
        let rules = chains.filter(on_prerouting).flat_map(BaseChain::all_rules);
        let mut ports = Vec::new();
        for rule in rules.filter(|rule| translates(rule)) {
            ports.extend(of_rule(rule)?);
        }
        Some(ports)
    }
}

fn translates(rule: &ChainRule) -> bool {
    let leads_on = |verdict: &Verdict| matches!(verdict, Verdict::Nat(nat) if nat.to != NatTo::Redirect);
    rule.steps.iter().any(|step| match step {
        Step::Verdict(verdict) => leads_on(verdict),
        Step::VerdictOf { map, .. } => map.opaque.is_some() || map.elements.iter().any(|one| leads_on(&one.data)),
        _ => false,
    })
}

/// By what the rule itself asks.
fn of_rule(rule: &ChainRule) -> Option<Vec<(u8, PortRange)>> {
    let ports = numbers(rule, Field::DestinationPort);
    let protocols = match numbers(rule, Field::Protocol) {
        Some(protocols) => protocols.into_iter().flat_map(|range| range.first..=range.last).collect(),
        None if ports.is_some() => WITH_PORTS.map(u16::from).to_vec(),
        None => return None,
    };
    let ports = ports.unwrap_or_else(|| vec![ALL]);
    let protocols = protocols.into_iter().filter_map(|protocol| u8::try_from(protocol).ok());
    Some(protocols.flat_map(|protocol| ports.iter().map(move |range| (protocol, *range))).collect())
}

/// The values of a field that the rule lets through, if it asks for the field.
fn numbers(rule: &ChainRule, wanted: Field) -> Option<Vec<PortRange>> {
    let ranges = rule.steps.iter().find_map(|step| match step {
        Step::Match(Match { not: false, test: Test::Field { field, mask: u128::MAX, values } }) if *field == wanted => {
            Some(values)
        }
        _ => None,
    })?;
    let range = |value: &Value| match value {
        Value::Range { first, last } => {
            let last = u16::try_from(*last).unwrap_or(u16::MAX);
            u16::try_from(*first).ok().map(|first| PortRange { first, last })
        }
        Value::Name(_) => None,
    };
    Some(ranges.iter().filter_map(range).collect())
}
