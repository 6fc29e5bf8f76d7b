//! Which packets translation may touch, for whoever brings packets to a decision.

use std::net::IpAddr;

use crate::compile::Policy;
use crate::config::{
    self, BaseChain, ChainRule, Conntrack, Field, Hook, Match, NatTo, PortRange, Set, Step, Test, Value, Verdict,
};
use crate::fib;
use crate::names::{Family, Ifindex, Prefix};

impl Policy {
    /// What the kernel does about the connections of a family.
    pub fn conntrack(&self, family: Family) -> Conntrack {
        self.family(family).conntrack
    }

    /// Whether nat rules may change where packets go.
    pub fn has_destination_nat(&self, family: Family) -> bool {
        self.destination_nat(family).any(|chain| chain.all_rules().next().is_some())
    }

    /// Whether nat rules may take one of several addresses for a source: then which one it is hangs on what it was before.
    pub fn has_source_pools(&self, family: Family) -> bool {
        self.family(family).chains.has_source_pools()
    }

    /// Whether the address is this machine's own by the tables.
    pub fn is_own(&self, address: &IpAddr) -> bool {
        self.config.tables.family(Family::of(*address)).is_local(fib::aligned_address(*address))
    }

    /// Which protocols and destination ports a packet to an address of this machine may have that a nat rule sends elsewhere: what has none
    /// of them is the machine's own. `None` if it may be any.
    pub fn destination_nat_ports(&self, family: Family) -> Option<Vec<(u8, PortRange)>> {
        let own: Vec<(u128, u128)> = self.config.tables.own(family).filter_map(span).collect();
        let mut ports = Vec::new();
        for rule in self.destination_nat(family).flat_map(BaseChain::all_rules) {
            ports.extend(translated(rule, &own)?);
        }
        ports.sort_by_key(|(protocol, PortRange { first, last })| (*protocol, *first, *last));
        ports.dedup();
        Some(ports)
    }

    /// The interface behind which a connection is masqueraded whose answers come to this address, as far as the rules tell: one
    /// masquerades, and none translates to the address by its number.
    pub fn masqueraded_behind(&self, address: &IpAddr) -> Option<Ifindex> {
        let family = Family::of(*address);
        let sources = self.config.chains.iter();
        let sources = sources.filter(|chain| chain.family == family && chain.nat && chain.hook == Hook::Postrouting);
        let verdicts = sources.flat_map(BaseChain::all_rules).flat_map(|rule| &rule.steps).flat_map(nat_of);
        let mut masquerades = false;
        for nat in verdicts {
            match &nat.to {
                NatTo::Masquerade => masquerades = true,
                NatTo::Addresses(Some((first, last))) if (first..=last).contains(&address) => return None,
                NatTo::Addresses(_) | NatTo::Prefix(_) | NatTo::Redirect => {}
            }
        }
        let links = self.config.links.iter().filter(|_| masquerades);
        let mut holders = links.filter(|link| link.addresses.iter().any(|own| own.address == *address));
        holders.next().map(|link| link.ifindex)
    }

    fn destination_nat(&self, family: Family) -> impl Iterator<Item = &BaseChain> {
        let on_prerouting =
            move |chain: &&BaseChain| chain.family == family && chain.nat && chain.hook == Hook::Prerouting;
        self.config.chains.iter().filter(on_prerouting)
    }
}

/// What a step may want of an end.
pub(crate) fn nat_of(step: &Step) -> Vec<&config::Nat> {
    match step {
        Step::Verdict(verdict) => wanted(verdict).into_iter().collect(),
        Step::VerdictOf { map, .. } => map.elements.iter().filter_map(|element| wanted(&element.data)).collect(),
        _ => Vec::new(),
    }
}

fn wanted(verdict: &Verdict) -> Option<&config::Nat> {
    match verdict {
        Verdict::Nat(nat) => Some(nat),
        _ => None,
    }
}

fn span(prefix: Prefix) -> Option<(u128, u128)> {
    match Value::prefix(prefix) {
        Value::Range { first, last } => Some((first, last)),
        Value::Name(_) => None,
    }
}

/// The protocols and ports of the packets to one of the `own` addresses that the rule itself translates; `None` if it may be any.
fn translated(rule: &ChainRule, own: &[(u128, u128)]) -> Option<Vec<(u8, PortRange)>> {
    let (mut protocols, mut ports) = (None, None);
    for step in &rule.steps {
        match step {
            Step::Match(Match { not: false, test }) => {
                if asked(test, Field::Destination).is_some_and(|ranges| !meet(&ranges, own)) {
                    return Some(Vec::new());
                }
                protocols = protocols.or_else(|| asked(test, Field::Protocol));
                ports = ports.or_else(|| asked(test, Field::DestinationPort));
            }
            Step::Verdict(Verdict::Nat(nat)) if nat.to == NatTo::Redirect => return Some(Vec::new()),
            Step::Verdict(Verdict::Nat(_)) => return pairs(&protocols?, &ports?),
            Step::VerdictOf { key, map } if map.elements.iter().any(|one| matches!(one.data, Verdict::Nat(_))) => {
                let protocols = protocols.or_else(|| of_key(key, map, Field::Protocol));
                let ports = ports.or_else(|| of_key(key, map, Field::DestinationPort));
                return pairs(&protocols?, &ports?);
            }
            Step::Verdict(_) => return Some(Vec::new()),
            Step::Match(_) | Step::Count | Step::Do(_) | Step::VerdictOf { .. } => {}
        }
    }
    Some(Vec::new())
}

/// The ranges in which the test wants the field; `None` if it wants nothing of it.
fn asked(test: &Test, field: Field) -> Option<Vec<(u128, u128)>> {
    match test {
        Test::Field { field: of, mask, values } if *of == field && covers(*mask, field) => {
            values.iter().map(range).collect()
        }
        Test::In { key, set } => of_key(key, set, field),
        _ => None,
    }
}

/// No bit of the field is masked out.
fn covers(mask: u128, field: Field) -> bool {
    match field {
        Field::Protocol => mask & 0xff == 0xff,
        Field::DestinationPort => mask & 0xffff == 0xffff,
        _ => mask == u128::MAX,
    }
}

fn of_key<T>(key: &[Field], set: &Set<T>, field: Field) -> Option<Vec<(u128, u128)>> {
    let at = key.iter().position(|one| *one == field).filter(|_| set.opaque.is_none())?;
    set.elements.iter().map(|config::Element { key, .. }| range(key.get(at)?)).collect()
}

fn range(value: &Value) -> Option<(u128, u128)> {
    match value {
        Value::Range { first, last } => Some((*first, *last)),
        Value::Name(_) => None,
    }
}

fn meet(some: &[(u128, u128)], others: &[(u128, u128)]) -> bool {
    some.iter().any(|(first, last)| others.iter().any(|(from, to)| first <= to && from <= last))
}

fn pairs(protocols: &[(u128, u128)], ports: &[(u128, u128)]) -> Option<Vec<(u8, PortRange)>> {
    let mut pairs = Vec::new();
    for (first, last) in protocols {
        for protocol in u8::try_from(*first).ok()?..=u8::try_from(*last).ok()? {
            for (first, last) in ports {
                let last = u16::try_from(*last).unwrap_or(u16::MAX);
                pairs.push((protocol, PortRange { first: u16::try_from(*first).ok()?, last }));
            }
        }
    }
    Some(pairs)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::compile;
    use crate::config::{ChainPolicy, Config, CounterSlot, Nat, Origin, Route, RouteKind, Source};
    use crate::names::{Generation, TableId};
    use crate::tables::Rib;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn dnat(tests: Vec<Test>) -> ChainRule {
        let matches = tests.into_iter().map(|test| Step::Match(Match { not: false, test }));
        let to = Verdict::Nat(Nat::plain(NatTo::Addresses(Some((ip("198.51.100.5"), ip("198.51.100.5"))))).into());
        let steps = matches.chain([Step::Verdict(to)]).collect();
        ChainRule { steps, counter: CounterSlot(0), origin: Origin::new(Source::IptablesNft, "-j DNAT") }
    }

    /// 192.0.2.1 is the machine's own.
    fn policy(rules: Vec<ChainRule>) -> Policy {
        let mut rib = Rib::default();
        rib.set(TableId::LOCAL, Prefix::host(ip("192.0.2.1")), &[Route::new(0, RouteKind::Local(None))]);
        rib.set(TableId::LOCAL, Prefix::host(ip("192.0.2.255")), &[Route::new(0, RouteKind::Broadcast(None))]);
        let chain = chain(Hook::Prerouting, rules);
        let config = Config { tables: rib.tables().clone(), chains: Arc::new(vec![chain]), ..Config::default() };
        compile(&config, Generation(1))
    }

    fn chain(hook: Hook, rules: Vec<ChainRule>) -> BaseChain {
        BaseChain {
            family: Family::V4,
            hook,
            priority: if hook == Hook::Prerouting { -100 } else { 100 },
            unordered: false,
            name: "nat".to_owned(),
            nat: true,
            rules,
            policy: ChainPolicy::Accept,
            user: Vec::new(),
        }
    }

    fn port(first: u16, last: u16) -> Test {
        Test::of(Field::DestinationPort, [PortRange { first, last }.into()])
    }

    #[test]
    fn ports_are_those_of_rules_that_may_translate_what_is_sent_to_the_machine() {
        let elsewhere = Test::destination(Prefix::host(ip("203.0.113.9")));
        let here = Test::destination(Prefix::new(ip("192.0.2.0"), 24).unwrap());
        let redirect = Verdict::Nat(Nat::plain(NatTo::Redirect).into());
        let rules = vec![
            dnat(vec![Test::protocol(6), here, port(80, 81)]),
            dnat(vec![elsewhere.clone(), Test::protocol(17), port(53, 53)]),
            dnat(vec![elsewhere]),
            ChainRule { steps: vec![Step::Verdict(redirect)], ..dnat(Vec::new()) },
            dnat(vec![Test::of(Field::Protocol, [Value::one(6u8), Value::one(17u8)]), port(5060, 5060)]),
        ];
        let policy = policy(rules);
        let range = |first, last| PortRange { first, last };
        let expected = vec![(6, range(80, 81)), (6, range(5060, 5060)), (17, range(5060, 5060))];
        assert_eq!(policy.destination_nat_ports(Family::V4), Some(expected));
        assert_eq!(policy.destination_nat_ports(Family::V6), Some(Vec::new()));
        assert_eq!([Family::V4, Family::V6].map(|family| policy.has_destination_nat(family)), [true, false]);
        assert_eq!(policy.conntrack(Family::V4), Conntrack::Translates, "a chain of type nat is enough");
        assert_eq!(policy.conntrack(Family::V6), Conntrack::Off);
    }

    #[test]
    fn a_pool_is_more_than_one_address() {
        let is_pool = |to: NatTo| {
            let steps = vec![Step::Verdict(Verdict::Nat(Nat::plain(to).into()))];
            let chain = chain(Hook::Postrouting, vec![ChainRule { steps, ..dnat(Vec::new()) }]);
            let config = Config { chains: Arc::new(vec![chain]), ..Config::default() };
            compile(&config, Generation(1)).has_source_pools(Family::V4)
        };
        let addresses = |first, last| NatTo::Addresses(Some((ip(first), ip(last))));
        assert!(is_pool(addresses("203.0.113.1", "203.0.113.2")));
        assert!(!is_pool(addresses("203.0.113.1", "203.0.113.1")));
        assert!(!is_pool(NatTo::Masquerade) && !is_pool(NatTo::Addresses(None)));
    }

    #[test]
    fn without_a_port_or_a_protocol_it_may_be_any() {
        assert_eq!(policy(vec![dnat(vec![Test::protocol(6)])]).destination_nat_ports(Family::V4), None);
        assert_eq!(policy(vec![dnat(vec![port(80, 80)])]).destination_nat_ports(Family::V4), None);
        let masked = Test::masked(Field::DestinationPort, 80u16, 0xfff0u16);
        assert_eq!(policy(vec![dnat(vec![Test::protocol(6), masked])]).destination_nat_ports(Family::V4), None);
    }

    #[test]
    fn own_is_what_the_tables_say_is_local() {
        let policy = policy(Vec::new());
        let own = ["192.0.2.1", "192.0.2.255", "192.0.2.2", "2001:db8::1"].map(|address| policy.is_own(&ip(address)));
        assert_eq!(own, [true, false, false, false]);
        assert!(!policy.has_destination_nat(Family::V4), "the chain is empty");
    }
}
