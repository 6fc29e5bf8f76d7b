//! Behind which address a packet is masqueraded.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use crate::config::{Link, LinkAddress};
use crate::names::Ifindex;
use crate::outcome::{DropReason, PuntReason, Stop};

/// `RT_SCOPE_UNIVERSE`
const UNIVERSE: u8 = 0;

/// The addresses of all interfaces, as masquerading asks for them.
#[derive(Debug, Default)]
pub(crate) struct Masquerade {
    addresses: HashMap<Ifindex, Box<[LinkAddress]>, foldhash::fast::RandomState>,
    elsewhere: Elsewhere,
}

/// The IPv4 address that the kernel takes for an interface without one of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Elsewhere {
    #[default]
    None,
    Address(Ipv4Addr),
    /// Several interfaces have one, and in which order the kernel looks at them cannot be seen.
    Unclear,
}

impl Masquerade {
    pub(crate) fn compile(links: &[Link]) -> Self {
        let with = links.iter().filter(|link| !link.addresses.is_empty());
        let addresses = with.map(|link| (link.ifindex, link.addresses.as_slice().into()));
        Masquerade { addresses: addresses.collect(), elsewhere: Elsewhere::among(links) }
    }

    /// The source for packets that leave by `oif`, by way of `via` or to the destination itself.
    ///
    /// # Errors
    ///
    /// There is none, or it cannot be known.
    pub(super) fn source(&self, oif: Ifindex, via: Option<IpAddr>, destination: IpAddr) -> Result<IpAddr, Stop> {
        let addresses = self.addresses.get(&oif).map_or(&[] as &[LinkAddress], |addresses| addresses);
        match destination {
            // `rt_nexthop`: a gateway of IPv6 is none.
            IpAddr::V4(_) => self.source4(addresses, via.filter(IpAddr::is_ipv4).unwrap_or(destination)),
            IpAddr::V6(_) => source6(addresses),
        }
    }

    /// `inet_select_addr` with the scope of the universe.
    fn source4(&self, addresses: &[LinkAddress], next_hop: IpAddr) -> Result<IpAddr, Stop> {
        let mut primary = primaries(addresses);
        let near = primary.clone().find(|one| one.network.contains(next_hop));
        if let Some(found) = near.or_else(|| primary.next()) {
            return Ok(found.address);
        }
        match self.elsewhere {
            Elsewhere::Address(address) => Ok(address.into()),
            Elsewhere::None => Err(Stop::Drop(DropReason::NatNoAddress)),
            Elsewhere::Unclear => Err(Stop::Punt(PuntReason::Nat)),
        }
    }
}

/// `ipv6_dev_get_saddr`, which weighs the addresses of all interfaces by RFC 6724: towards a global destination nothing beats the only
/// address that is of global scope (rule 2), preferred (3) and on the egress (5). Among several the rules behind ask for labels, temporary
/// addresses and the order of interfaces: those are the kernel's.
fn source6(addresses: &[LinkAddress]) -> Result<IpAddr, Stop> {
    let mut fitting = addresses.iter().filter(|one| one.address.is_ipv6() && one.scope == UNIVERSE && one.preferred);
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok(one.address),
        _ => Err(Stop::Punt(PuntReason::Nat)),
    }
}

fn primaries(addresses: &[LinkAddress]) -> impl Iterator<Item = &LinkAddress> + Clone {
    addresses.iter().filter(|one| one.address.is_ipv4() && !one.secondary && one.scope == UNIVERSE)
}

impl Elsewhere {
    /// The tail of `inet_select_addr`: loopback stands first in the kernel's list, the order of the others is not known.
    fn among(links: &[Link]) -> Self {
        let first = |link: &Link| match primaries(&link.addresses).next()?.address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        };
        let loopback = links.iter().find(|link| link.ifindex == crate::compile::LOOPBACK).and_then(first);
        if let Some(address) = loopback {
            return Elsewhere::Address(address);
        }
        let mut others = links.iter().filter_map(first);
        match (others.next(), others.next()) {
            (None, _) => Elsewhere::None,
            (Some(address), None) => Elsewhere::Address(address),
            (Some(_), Some(_)) => Elsewhere::Unclear,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{Mac, PortId, Prefix};

    const NO_ADDRESS: Result<IpAddr, Stop> = Err(Stop::Drop(DropReason::NatNoAddress));
    const UNCLEAR: Result<IpAddr, Stop> = Err(Stop::Punt(PuntReason::Nat));

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// `192.0.2.1/24`
    fn address(text: &str) -> LinkAddress {
        let (address, length) = text.split_once('/').unwrap();
        let network = Prefix::new(ip(address), length.parse().unwrap()).unwrap();
        LinkAddress { address: ip(address), network, scope: UNIVERSE, secondary: false, preferred: true }
    }

    fn link(number: u32, addresses: &[LinkAddress]) -> Link {
        let port = Link::port(Ifindex(number), &format!("eth{number}"), Mac([2, 0, 0, 0, 0, 1]), PortId(0));
        Link { addresses: addresses.to_vec(), ..port }
    }

    fn source(links: &[Link], via: Option<&str>, destination: &str) -> Result<IpAddr, Stop> {
        Masquerade::compile(links).source(Ifindex(2), via.map(ip), ip(destination))
    }

    #[test]
    fn ipv4_is_the_primary_address_in_the_network_of_the_next_hop() {
        let secondary = LinkAddress { secondary: true, ..address("198.51.100.7/24") };
        let narrow = LinkAddress { scope: 253, ..address("203.0.113.1/24") };
        let links = [link(2, &[narrow, address("192.0.2.1/24"), secondary, address("198.51.100.9/24")])];
        let far = "198.18.0.1";
        assert_eq!(source(&links, Some("198.51.100.1"), far), Ok(ip("198.51.100.9")), "not the secondary one");
        assert_eq!(source(&links, Some("192.0.2.77"), far), Ok(ip("192.0.2.1")));
        assert_eq!(source(&links, None, "198.51.100.4"), Ok(ip("198.51.100.9")), "the destination is on the link");
        assert_eq!(source(&links, Some("203.0.113.9"), far), Ok(ip("192.0.2.1")), "one of scope link is not asked");
        assert_eq!(source(&links, None, far), Ok(ip("192.0.2.1")), "else the first");
        assert_eq!(source(&links, Some("2001:db8::1"), "198.51.100.4"), Ok(ip("198.51.100.9")));
    }

    #[test]
    fn the_network_of_a_peer_is_that_of_the_peer() {
        let peer = LinkAddress { network: Prefix::host(ip("198.51.100.1")), ..address("192.0.2.9/32") };
        let links = [link(2, &[address("203.0.113.1/24"), peer])];
        assert_eq!(source(&links, None, "198.51.100.1"), Ok(ip("192.0.2.9")));
        assert_eq!(source(&links, None, "192.0.2.9"), Ok(ip("203.0.113.1")));
    }

    #[test]
    fn without_an_address_of_its_own_an_interface_borrows_one() {
        let far = "198.18.0.1";
        let other = |number| link(number, &[address("192.0.2.1/24")]);
        assert_eq!(source(&[link(2, &[])], None, far), NO_ADDRESS);
        assert_eq!(source(&[link(2, &[]), other(3)], None, far), Ok(ip("192.0.2.1")));
        assert_eq!(source(&[link(2, &[]), other(3), other(4)], None, far), UNCLEAR);
        let loopback = link(1, &[LinkAddress { scope: 254, ..address("127.0.0.1/8") }, address("203.0.113.5/32")]);
        assert_eq!(source(&[other(4), link(2, &[]), other(3), loopback], None, far), Ok(ip("203.0.113.5")));
    }

    #[test]
    fn ipv6_is_the_only_preferred_global_address_of_the_egress() {
        let local = LinkAddress { scope: 253, ..address("fe80::1/64") };
        let old = LinkAddress { preferred: false, ..address("2001:db8:1::1/64") };
        let far = "2001:db8:9::1";
        let (one, other) = (address("2001:db8:2::1/64"), address("2001:db8:9::2/64"));
        let v4 = address("192.0.2.1/24");
        assert_eq!(source(&[link(2, &[v4, local, old, one]), link(3, &[other])], None, far), Ok(ip("2001:db8:2::1")));
        assert_eq!(source(&[link(2, &[one, other])], None, far), UNCLEAR);
        assert_eq!(source(&[link(2, &[local, old]), link(3, &[other])], None, far), UNCLEAR);
    }
}
