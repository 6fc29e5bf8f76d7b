//! The source of a masqueraded packet, as the kernel looks for it.

use std::net::IpAddr;

use super::Walk;
use crate::config::{Link, LinkAddress};
use crate::names::Ifindex;
use crate::outcome::{DropReason, PuntReason, Stop};

impl Walk<'_> {
    pub(super) fn masquerade_source(
        &self,
        oif: Ifindex,
        via: Option<IpAddr>,
        destination: IpAddr,
    ) -> Result<IpAddr, Stop> {
        let egress = self.link(oif);
        let unclear = Err(Stop::Punt(PuntReason::Nat));
        if destination.is_ipv6() {
            let own = egress.map(|link| &link.addresses[..]).unwrap_or_default();
            let fits = |one: &&LinkAddress| one.address.is_ipv6() && one.scope == 0 && one.preferred;
            return match own.iter().filter(fits).collect::<Vec<_>>()[..] {
                [one] => Ok(one.address),
                _ => unclear,
            };
        }
        let next_hop = match via {
            Some(IpAddr::V4(gateway)) => IpAddr::V4(gateway),
            Some(IpAddr::V6(_)) | None => destination,
        };
        let mut first = None;
        for one in egress.map(|link| &link.addresses[..]).unwrap_or_default() {
            if one.secondary || one.scope > 0 || one.address.is_ipv6() {
                continue;
            }
            if one.network.contains(next_hop) {
                return Ok(one.address);
            }
            first = first.or(Some(one.address));
        }
        if let Some(first) = first {
            return Ok(first);
        }
        let of = |link: &Link| {
            link.addresses.iter().find(|one| one.address.is_ipv4() && !one.secondary && one.scope == 0).copied()
        };
        let loopback = self.config.links.iter().filter(|link| link.ifindex == Ifindex(1)).find_map(of);
        let others: Vec<LinkAddress> = self.config.links.iter().filter_map(of).collect();
        match (loopback.as_ref(), &others[..]) {
            (Some(one), _) | (None, [one]) => Ok(one.address),
            (None, []) => Err(Stop::Drop(DropReason::NatNoAddress)),
            (None, _) => unclear,
        }
    }
}
