//! Conntrack and nat in their places among the chains, and what rules see of connections.

use std::net::IpAddr;

use super::netfilter::{EVER, Packet};
use super::{Step, Walk};
use crate::config::{BaseChain, ConnectionState, Conntrack, Field, Hook, Nat, NatTo};
use crate::connection::{Connection, Direction, Endpoint, Manip, Range, State, Tuple};
use crate::names::{Family, Prefix};
use crate::outcome::{PuntReason, Stop};
use crate::query::Transport;

impl<'a> Walk<'a> {
    /// With nat chains the kernel translates, whatever is said of it.
    pub(super) fn conntrack(&self) -> Conntrack {
        let nat = |chain: &&BaseChain| chain.family == self.family && chain.nat && chain.hook != Hook::Forward;
        if self.config.chains.iter().any(|chain| nat(&chain)) {
            Conntrack::Translates
        } else {
            self.config.conntrack[self.family as usize]
        }
    }

    pub(super) fn prerouting(&mut self, packet: &mut Packet) -> Result<Option<Endpoint>, Stop> {
        self.hook(Hook::Prerouting, (i32::MIN, -200), packet)?;
        if self.conntrack() != Conntrack::Off && !packet.untracked {
            packet.connection = self.tracking.track()?;
            let Connection { state, direction, .. } = packet.connection;
            packet.untracked = state == State::Untracked;
            self.steps.push(Step::Tracked { state, direction });
        }
        self.hook(Hook::Prerouting, (-199, -100), packet)?;
        let new = self.translate(Manip::Destination, packet)?;
        self.hook(Hook::Prerouting, (-99, EVER.1), packet)?;
        Ok(new)
    }

    pub(super) fn postrouting(&mut self, packet: &mut Packet) -> Result<Option<Endpoint>, Stop> {
        self.hook(Hook::Postrouting, (i32::MIN, 100), packet)?;
        let new = self.translate(Manip::Source, packet)?;
        self.hook(Hook::Postrouting, (101, EVER.1), packet)?;
        Ok(new)
    }

    fn translate(&mut self, manip: Manip, packet: &mut Packet) -> Result<Option<Endpoint>, Stop> {
        if self.conntrack() != Conntrack::Translates || !packet.has_connection() {
            return Ok(None);
        }
        let is_error = packet.connection.state == State::Related;
        let binds = !is_error && self.tracking.is_unbound(manip);
        let range = if binds { self.nat_chains(manip, packet)? } else { None };
        let new = self.tracking.translate(manip, packet.oif, range.as_ref())?;
        if let Some(Endpoint { address, port }) = new {
            let query = &mut packet.query;
            match (manip, &mut query.transport) {
                (Manip::Source, Transport::Ports { source, .. }) => *source = port,
                (Manip::Destination, Transport::Ports { destination, .. }) => *destination = port,
                _ => {}
            }
            match manip {
                Manip::Source => query.source = address,
                Manip::Destination => query.destination = address,
            }
        }
        if binds {
            packet.connection.status |= match (manip, new.is_some()) {
                (Manip::Source, false) => 0x80,
                (Manip::Source, true) => 0x80 | 0x10,
                (Manip::Destination, false) => 0x100,
                (Manip::Destination, true) => 0x100 | 0x20,
            };
        }
        if binds || new.is_some() {
            self.steps.push(Step::Translated { manip, new });
        }
        Ok(new)
    }

    /// What a nat rule makes of this packet.
    pub(super) fn range(&self, hook: Hook, nat: &Nat, packet: &Packet) -> Result<Range, Stop> {
        let unknown = Stop::Punt(PuntReason::opaque_at(hook));
        let one = |address: IpAddr| Some((address, address));
        let mut masquerade = false;
        let addresses = match &nat.to {
            NatTo::Addresses(addresses) => *addresses,
            NatTo::Prefix(prefix) => {
                let old = if hook == Hook::Postrouting { packet.query.source } else { packet.query.destination };
                one(with_prefix(*prefix, old).ok_or(unknown)?)
            }
            NatTo::Masquerade => {
                let oif = packet.oif.filter(|_| hook == Hook::Postrouting).ok_or(unknown)?;
                if packet.query.source.is_unspecified() {
                    return Err(unknown);
                }
                masquerade = true;
                one(self.masquerade_source(oif, packet.via, packet.query.destination)?)
            }
            NatTo::Redirect if hook == Hook::Prerouting => return Err(Stop::Punt(PuntReason::Local)),
            NatTo::Redirect => return Err(unknown),
        };
        Ok(Range {
            addresses,
            ports: nat.ports.map(|ports| (ports.first, ports.last)),
            base: nat.base,
            random: nat.random,
            fully_random: nat.fully_random,
            persistent: nat.persistent,
            masquerade,
        })
    }

    pub(super) fn connection_value(&self, field: Field, packet: &Packet) -> Option<u128> {
        let Packet { connection: Connection { state, direction, status, mark }, untracked, .. } = packet;
        if field == Field::CtState {
            let bits = match state {
                _ if *untracked => ConnectionState::UNTRACKED,
                State::Invalid | State::Untracked => ConnectionState::INVALID,
                State::New => ConnectionState::NEW,
                State::Established => ConnectionState::ESTABLISHED,
                State::Related => ConnectionState::RELATED,
            };
            let source = if packet.has_connection() && status & 0x10 != 0 { ConnectionState::SNAT } else { 0 };
            let destination = if packet.has_connection() && status & 0x20 != 0 { ConnectionState::DNAT } else { 0 };
            return Some(u128::from(bits | source | destination));
        }
        if !packet.has_connection() {
            return None;
        }
        let original = self.tracking.tuple(Direction::Original);
        let reply = self.tracking.tuple(Direction::Reply);
        let number = |address: IpAddr| match address {
            IpAddr::V4(address) => u128::from(u32::from(address)),
            IpAddr::V6(address) => u128::from(address),
        };
        let source = |tuple: Option<Tuple>| Some(number(tuple?.source.address));
        let destination = |tuple: Option<Tuple>| Some(number(tuple?.destination.address));
        let source_port = |tuple: Option<Tuple>| Some(tuple?.source.port.into());
        let destination_port = |tuple: Option<Tuple>| Some(tuple?.destination.port.into());
        match field {
            Field::CtDirection => Some(if *direction == Direction::Original { 0 } else { 1 }),
            Field::CtStatus => Some((*status).into()),
            Field::CtMark => Some(mark.0.into()),
            Field::CtProtocol => Some(original?.protocol.into()),
            Field::CtOriginalSource => source(original),
            Field::CtOriginalDestination => destination(original),
            Field::CtOriginalSourcePort => source_port(original),
            Field::CtOriginalDestinationPort => destination_port(original),
            Field::CtReplySource => source(reply),
            Field::CtReplyDestination => destination(reply),
            Field::CtReplySourcePort => source_port(reply),
            Field::CtReplyDestinationPort => destination_port(reply),
            _ => None,
        }
    }
}

impl Packet {
    pub(super) fn has_connection(&self) -> bool {
        matches!(self.connection.state, State::New | State::Established | State::Related)
    }
}

/// Bit for bit: those of the prefix, then those of the address.
fn with_prefix(prefix: Prefix, address: IpAddr) -> Option<IpAddr> {
    if Family::of(address) != prefix.family() {
        return None;
    }
    let pick = |at: usize, network: u8, host: u8| {
        let bit = |place: usize| 0x80u8 >> place;
        (0..8).fold(0, |byte, place| {
            let fixed = at * 8 + place < usize::from(prefix.length());
            byte | (if fixed { network } else { host }) & bit(place)
        })
    };
    Some(match (prefix.address(), address) {
        (IpAddr::V4(network), IpAddr::V4(host)) => {
            let (network, host) = (network.octets(), host.octets());
            IpAddr::from(std::array::from_fn::<u8, 4, _>(|at| pick(at, network[at], host[at])))
        }
        (IpAddr::V6(network), IpAddr::V6(host)) => {
            let (network, host) = (network.octets(), host.octets());
            IpAddr::from(std::array::from_fn::<u8, 16, _>(|at| pick(at, network[at], host[at])))
        }
        _ => return None,
    })
}
