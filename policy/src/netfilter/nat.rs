//! Chains of type nat, and what their verdicts want a packet to become.

use std::net::IpAddr;

use super::chain::{CompiledBase, Flow};
use super::facts::{Facts, FieldSet};
use super::{Chains, Group, Surroundings, Tally, drop_at, opaque_at};
use crate::compile::Policy;
use crate::config::{ChainPolicy, Hook, Nat, NatTo};
use crate::connection::{Endpoint, Manip, Range};
use crate::fib;
use crate::names::{Prefix, mask32, mask128};
use crate::outcome::{PuntReason, Stop};
use crate::query::Transport;

impl Chains {
    /// Asks the nat chains what an end of the connection that the packet begins shall become, one after the other until one says so
    /// (`nf_nat_inet_fn`).
    ///
    /// # Errors
    ///
    /// How the packet ends here.
    pub(crate) fn range(
        &self,
        manip: Manip,
        facts: &mut Facts<'_>,
        policy: &Policy,
        tally: &mut impl Tally,
    ) -> Result<Option<Range>, Stop> {
        let hook = match manip {
            Manip::Source => Hook::Postrouting,
            Manip::Destination => Hook::Prerouting,
        };
        let surroundings = Surroundings { policy, family: facts.query.family(), hook };
        for Group(chains) in &self.nat[manip as usize] {
            let found = match &chains[..] {
                [chain] => chain.range(facts, surroundings, tally)?,
                chains => range_unordered(chains, facts, surroundings, tally)?,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

/// One of the chains may have a say; which of several comes first cannot be seen.
fn range_unordered(
    chains: &[CompiledBase],
    facts: &mut Facts<'_>,
    surroundings: Surroundings<'_>,
    tally: &mut impl Tally,
) -> Result<Option<Range>, Stop> {
    let unknown = Err(Stop::Punt(PuntReason::ChainOrder));
    let came = Facts { written: FieldSet::default(), counted: 0, ..*facts };
    let mut speaker = None;
    for (number, chain) in chains.iter().enumerate() {
        let mut own = came;
        let said = match chain.range(&mut own, surroundings, tally) {
            Err(punt @ Stop::Punt(_)) => return Err(punt),
            said => said,
        };
        if said == Ok(None) && own.written.is_empty() && own.counted == 0 {
            continue;
        }
        if speaker.is_some() {
            return unknown;
        }
        speaker = Some((number, said, own));
    }
    let Some((number, said, own)) = speaker else { return Ok(None) };
    if chains.iter().enumerate().any(|(other, chain)| other != number && chain.reads.meets(own.written)) {
        return unknown;
    }
    *facts = Facts { written: facts.written.with(own.written), counted: facts.counted, ..own };
    said
}

impl CompiledBase {
    fn range(
        &self,
        facts: &mut Facts<'_>,
        surroundings: Surroundings<'_>,
        tally: &mut impl Tally,
    ) -> Result<Option<Range>, Stop> {
        match self.run(facts, surroundings, tally)? {
            Flow::Accept => Ok(None),
            Flow::Return if self.policy == ChainPolicy::Accept => Ok(None),
            Flow::Return => Err(drop_at(surroundings.hook)),
            Flow::Nat(number) => range(&self.nats[number as usize], facts, surroundings).map(Some),
        }
    }
}

/// What a rule wants, for this packet.
fn range(nat: &Nat, facts: &Facts<'_>, surroundings: Surroundings<'_>) -> Result<Range, Stop> {
    let Nat { to, ports, base, random, fully_random, persistent } = nat;
    let unknown = Err(opaque_at(surroundings.hook));
    let range = Range {
        addresses: None,
        ports: ports.map(|ports| (ports.first, ports.last)),
        base: *base,
        random: *random,
        fully_random: *fully_random,
        persistent: *persistent,
        masquerade: false,
    };
    let (source, destination) = (facts.query.source, facts.query.destination);
    let one = |address: IpAddr| Some((address, address));
    Ok(match (to, surroundings.hook) {
        (NatTo::Addresses(addresses), _) => Range { addresses: *addresses, ..range },
        (NatTo::Prefix(prefix), hook) => {
            let old = if hook == Hook::Postrouting { source } else { destination };
            match mapped(*prefix, old) {
                Some(address) => Range { addresses: one(address), ..range },
                None => return unknown,
            }
        }
        (NatTo::Masquerade, Hook::Postrouting) => {
            // From nowhere: `nf_nat_masquerade_ipv4` leaves it.
            let Some(oif) = facts.oif.filter(|_| !source.is_unspecified()) else { return unknown };
            let address = surroundings.policy.links.masquerade.source(oif, facts.via, destination)?;
            Range { addresses: one(address), masquerade: true, ..range }
        }
        // To an address of the ingress: the packet is this machine's own then.
        (NatTo::Redirect, Hook::Prerouting) => return Err(Stop::Punt(PuntReason::Local)),
        (NatTo::Masquerade | NatTo::Redirect, _) => return unknown,
    })
}

/// The address with the bits of the prefix in front (`netmap_tg4`, `netmap_tg6`, `nft_nat_setup_netmap`).
fn mapped(prefix: Prefix, address: IpAddr) -> Option<IpAddr> {
    match (prefix.address(), address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            Some(IpAddr::V4((network.to_bits() | address.to_bits() & !mask32(prefix.length())).into()))
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            Some(IpAddr::V6((network.to_bits() | address.to_bits() & !mask128(prefix.length())).into()))
        }
        _ => None,
    }
}

impl Facts<'_> {
    /// The packet after translation. An ICMP identifier is nothing that rules look at.
    pub(crate) fn translated(&mut self, manip: Manip, new: Endpoint) {
        let Endpoint { address, port } = new;
        match manip {
            Manip::Source => (self.query.source, self.source) = (address, fib::aligned_address(address)),
            Manip::Destination => {
                (self.query.destination, self.destination) = (address, fib::aligned_address(address));
            }
        }
        if let Transport::Ports { source, destination } = &mut self.query.transport {
            *(if manip == Manip::Source { source } else { destination }) = port;
        }
    }
}
