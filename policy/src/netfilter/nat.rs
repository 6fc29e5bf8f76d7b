//! Connection tracking and nat on a packet's way: when conntrack is asked, which nat rules are, and what they want.

use std::net::IpAddr;

use super::chain::{CompiledBase, Flow};
use super::{Chains, Facts, Surroundings, Tally, drop_at};
use crate::compile::Policy;
use crate::config::{ChainPolicy, Hook, LinkAddress, Nat, NatTo};
use crate::connection::{Direction, Endpoint, Manip, Range, Tracking};
use crate::fib;
use crate::names::{Family, Prefix};
use crate::outcome::{PuntReason, Stop};
use crate::query::Transport;

impl Chains {
    /// `nf_conntrack_in`
    pub(super) fn track(&self, facts: &mut Facts<'_>, tracking: &mut impl Tracking) -> Result<(), Stop> {
        if facts.connection.is_some() {
            tracking.pass_over();
            return Ok(());
        }
        facts.connection = Some(tracking.track()?);
        self.look_up_tuples(facts, tracking);
        Ok(())
    }

    /// `nf_nat_inet_fn`: nat rules are asked for the first packet of a connection, all others go the way of that one. Packets of no
    /// connection pass.
    pub(super) fn translate(
        &self,
        manip: Manip,
        facts: &mut Facts<'_>,
        surroundings: Surroundings<'_>,
        tracking: &mut impl Tracking,
        tally: &mut impl Tally,
    ) -> Result<(), Stop> {
        if facts.tracked().is_none() {
            return Ok(());
        }
        let mut range = None;
        if tracking.is_unbound(manip) {
            for chain in &self.nat[surroundings.hook as usize] {
                if let Some(nat) = chain.ask(facts, surroundings, tally)? {
                    range = Some(resolve(nat, manip, facts, surroundings)?);
                    break;
                }
            }
        }
        if let Some(end) = tracking.translate(manip, facts.oif, range.as_ref())? {
            facts.readdress(manip, end);
        }
        if let Some(connection) = &mut facts.connection {
            connection.status = tracking.status();
        }
        self.look_up_tuples(facts, tracking);
        Ok(())
    }

    fn look_up_tuples(&self, facts: &mut Facts<'_>, tracking: &impl Tracking) {
        if self.asks_tuples {
            let tuples = (tracking.tuple(Direction::Original), tracking.tuple(Direction::Reply));
            facts.tuples = tuples.0.zip(tuples.1).map(|(original, reply)| [original, reply]);
        }
    }

    /// Whether rules on PREROUTING translate.
    pub(crate) fn has_destination_nat(&self) -> bool {
        !self.nat[Hook::Prerouting as usize].is_empty()
    }
}

impl CompiledBase {
    /// The translation on which the chain comes to an end, if it does on one.
    fn ask(
        &self,
        facts: &mut Facts<'_>,
        surroundings: Surroundings<'_>,
        tally: &mut impl Tally,
    ) -> Result<Option<&Nat>, Stop> {
        match self.run(facts, surroundings, tally)? {
            Flow::Nat(number) => Ok(self.nats.get(number as usize).map(|nat| &**nat)),
            Flow::Accept => Ok(None),
            Flow::Return if self.policy == ChainPolicy::Accept => Ok(None),
            Flow::Return => Err(drop_at(surroundings.hook)),
        }
    }
}

impl Facts<'_> {
    /// `nf_nat_manip_pkt`
    fn readdress(&mut self, manip: Manip, end: Endpoint) {
        let aligned = fib::aligned_address(end.address);
        match manip {
            Manip::Source => {
                (self.query.source, self.source, self.new_source) = (end.address, aligned, Some(end));
            }
            Manip::Destination => {
                (self.query.destination, self.destination) = (end.address, aligned);
                self.new_destination = Some(end);
            }
        }
        if let Transport::Ports { source, destination } = &mut self.query.transport {
            *(if manip == Manip::Source { source } else { destination }) = end.port;
        }
    }
}

/// What the rule wants for this packet.
fn resolve(nat: &Nat, manip: Manip, facts: &Facts<'_>, surroundings: Surroundings<'_>) -> Result<Range, Stop> {
    let Nat { to, ports, base, random, fully_random, persistent } = nat;
    let current = match manip {
        Manip::Source => facts.query.source,
        Manip::Destination => facts.query.destination,
    };
    let addresses = match to {
        NatTo::Addresses(addresses) => *addresses,
        NatTo::Prefix(prefix) => {
            let address = mapped(current, *prefix).ok_or(Stop::Punt(PuntReason::Nat))?;
            Some((address, address))
        }
        NatTo::Masquerade => {
            let address = surroundings.policy.masquerade(facts).ok_or(Stop::Punt(PuntReason::Nat))?;
            Some((address, address))
        }
        // It ends here.
        NatTo::Redirect => return Err(Stop::Punt(PuntReason::Local)),
    };
    Ok(Range {
        addresses,
        ports: ports.map(|ports| (ports.first, ports.last)),
        base: *base,
        random: *random,
        fully_random: *fully_random,
        persistent: *persistent,
        masquerade: *to == NatTo::Masquerade,
    })
}

/// `xt_NETMAP`: the network's bits are the prefix's, the host's stay.
fn mapped(address: IpAddr, prefix: Prefix) -> Option<IpAddr> {
    match (address, prefix.address()) {
        (IpAddr::V4(old), IpAddr::V4(new)) => {
            let host = u32::MAX.checked_shr(prefix.length().into()).unwrap_or(0);
            Some(std::net::Ipv4Addr::from_bits(old.to_bits() & host | new.to_bits()).into())
        }
        (IpAddr::V6(old), IpAddr::V6(new)) => {
            let host = u128::MAX.checked_shr(prefix.length().into()).unwrap_or(0);
            Some(std::net::Ipv6Addr::from_bits(old.to_bits() & host | new.to_bits()).into())
        }
        _ => None,
    }
}

impl Policy {
    /// The address behind which a packet is masqueraded. `None` where only the kernel knows.
    fn masquerade(&self, facts: &Facts<'_>) -> Option<IpAddr> {
        let oif = facts.oif?;
        let link = self.config.links.iter().find(|link| link.ifindex == oif)?;
        masquerade(&link.addresses, facts.query.family(), facts.next_hop)
    }
}

const UNIVERSE: u8 = 0;

/// IPv4: `inet_select_addr` towards the next hop; an egress without an address of its own takes that of some other interface. IPv6:
/// `ipv6_dev_get_saddr`, where the egress has one address that is preferred and no second one to weigh against it (RFC 6724, rules 1 to
/// 5).
fn masquerade(addresses: &[LinkAddress], family: Family, next_hop: IpAddr) -> Option<IpAddr> {
    let fit = addresses.iter().filter(|one| Family::of(one.address) == family && one.scope == UNIVERSE);
    match family {
        Family::V4 => {
            let primary = || fit.clone().filter(|one| !one.secondary);
            let near = primary().find(|one| one.network.contains(next_hop));
            near.or_else(|| primary().next()).map(|one| one.address)
        }
        Family::V6 => {
            let mut preferred = fit.filter(|one| one.preferred);
            let only = preferred.next()?;
            preferred.next().is_none().then_some(only.address)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(address: &str, length: u8, secondary: bool) -> LinkAddress {
        let address: IpAddr = address.parse().expect("an address");
        let network = Prefix::new(address, length).expect("a prefix");
        LinkAddress { address, network, scope: UNIVERSE, secondary, preferred: true }
    }

    #[test]
    fn masquerade_takes_the_primary_address_in_the_network_of_the_next_hop() {
        let addresses = [
            on("192.0.2.1", 24, false),
            on("198.51.100.1", 24, false),
            on("198.51.100.2", 24, true),
            LinkAddress { scope: 253, ..on("203.0.113.1", 24, false) },
        ];
        let towards = |next_hop: &str| masquerade(&addresses, Family::V4, next_hop.parse().expect("an address"));
        let is = |address: &str| Some(address.parse::<IpAddr>().expect("an address"));
        assert_eq!(towards("198.51.100.254"), is("198.51.100.1"));
        assert_eq!(towards("203.0.113.254"), is("192.0.2.1"));
        assert_eq!(masquerade(&addresses[3..], Family::V4, IpAddr::from([203, 0, 113, 9])), None);
    }

    #[test]
    fn two_addresses_of_ipv6_are_the_kernels_to_choose_from() {
        let addresses = [
            LinkAddress { scope: 253, ..on("fe80::1", 64, false) },
            on("2001:db8::1", 64, false),
            LinkAddress { preferred: false, ..on("2001:db8::2", 64, false) },
        ];
        let next_hop: IpAddr = "2001:db8::9".parse().expect("an address");
        assert_eq!(masquerade(&addresses, Family::V6, next_hop), Some(addresses[1].address));
        assert_eq!(masquerade(&[&addresses[..], &[on("2001:db8:1::1", 64, false)]].concat(), Family::V6, next_hop), None);
    }

    #[test]
    fn a_mapped_network_keeps_its_hosts() {
        let prefix = Prefix::new([198, 51, 100, 0].into(), 24).expect("a prefix");
        assert_eq!(mapped([192, 0, 2, 77].into(), prefix), Some([198, 51, 100, 77].into()));
        let all = Prefix::new([198, 51, 100, 1].into(), 32).expect("a prefix");
        assert_eq!(mapped([192, 0, 2, 77].into(), all), Some([198, 51, 100, 1].into()));
    }
}
