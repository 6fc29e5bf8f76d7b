//! Writes what translation has made of addresses and ports, checksums kept as the kernel keeps them (`nf_nat_manip_pkt`).

use std::net::IpAddr;

use shunt_policy::Family;
use shunt_policy::connection::Endpoint;

use super::seen::{ICMP_HEADER, address_sum, word};
use super::transport::{ICMP, ICMPV6, TCP, UDP, UDP_LITE};
use super::{Packet, checksum};

/// What both ends of a packet become; `None` where nothing changes. Of an ICMP query the port is its identifier.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ends {
    pub source: Option<Endpoint>,
    pub destination: Option<Endpoint>,
}

impl Ends {
    pub fn is_none(&self) -> bool {
        self.source.is_none() && self.destination.is_none()
    }
}

/// Writes the ends of the packet whose IP header starts at `packet`; what it quotes, if it is an ICMP error, becomes `quoted`. A checksum
/// that is yet to be computed stays so, for the new addresses.
pub(super) fn packet(facts: &Packet, packet: &mut [u8], unfinished: Option<usize>, ends: &Ends, quoted: &Ends) {
    let family = facts.family();
    let (old, new) = readdress(family, packet, ends);
    let Some(payload) = packet.get_mut(facts.header..facts.length) else { return };
    let addresses = Change { old, new };
    match (facts.protocol, unfinished) {
        (_, Some(at)) => {
            ports(facts.protocol, payload, ends, None);
            let sum = address_sums(&new) + u64::from(facts.protocol) + payload.len() as u64;
            write(payload, at, checksum::fold(sum).to_be_bytes());
        }
        (ICMP, None) => {
            ports(ICMP, payload, ends, Some(2));
            requote(Family::V4, payload, quoted);
        }
        (ICMPV6, None) => {
            addresses.amend(payload, 2);
            ports(ICMPV6, payload, ends, Some(2));
            requote(Family::V6, payload, quoted);
        }
        (protocol, None) => transport(protocol, payload, ends, &addresses),
    }
}

type Addresses = [Option<IpAddr>; 2];

/// Addresses that a pseudo-header holds, before and after.
struct Change {
    old: Addresses,
    new: Addresses,
}

impl Change {
    /// The checksum at `at` of `bytes` after the addresses have changed.
    fn amend(&self, bytes: &mut [u8], at: usize) {
        let Some(sum) = word(bytes, at) else { return };
        write(bytes, at, self.amended(sum).to_be_bytes());
    }

    /// RFC 1624, equation 3.
    fn amended(&self, sum: u16) -> u16 {
        let old = checksum::fold(address_sums(&self.old));
        !checksum::fold(u64::from(!sum) + u64::from(!old) + address_sums(&self.new))
    }
}

fn address_sums(addresses: &Addresses) -> u64 {
    addresses.iter().flatten().map(|address| address_sum(*address)).sum()
}

/// Writes addresses into the IP header, and the checksum of an IPv4 header. Tells those that were there and those that are.
fn readdress(family: Family, packet: &mut [u8], ends: &Ends) -> (Addresses, Addresses) {
    let (at, length) = match family {
        Family::V4 => ([12, 16], 4),
        Family::V6 => ([8, 24], 16),
    };
    let read = |packet: &[u8]| at.map(|at| address(packet.get(at..at + length)?));
    let old = read(packet);
    for (at, end) in at.into_iter().zip([ends.source, ends.destination]) {
        let (Some(field), Some(end)) = (packet.get_mut(at..at + length), end) else { continue };
        match end.address {
            IpAddr::V4(address) if length == 4 => field.copy_from_slice(&address.octets()),
            IpAddr::V6(address) if length == 16 => field.copy_from_slice(&address.octets()),
            _ => {}
        }
    }
    let new = read(packet);
    if family == Family::V4 {
        Change { old, new }.amend(packet, 10);
    }
    (old, new)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes {
        [a, b, c, d] => Some(IpAddr::from([*a, *b, *c, *d])),
        bytes => Some(IpAddr::from(*bytes.first_chunk::<16>()?)),
    }
}

/// The transport header at the start of `payload`, with its checksum, if that is there: what an ICMP error quotes may be cut.
fn transport(protocol: u8, payload: &mut [u8], ends: &Ends, addresses: &Change) {
    let at = match protocol {
        // Without the whole header the checksum is left alone (nf_nat_l4proto_manip_pkt).
        TCP if payload.len() >= 20 => 16,
        UDP | UDP_LITE => 6,
        _ => return ports(protocol, payload, ends, None),
    };
    // RFC 768: there is none.
    if protocol == UDP && word(payload, at) == Some(0) {
        return ports(protocol, payload, ends, None);
    }
    addresses.amend(payload, at);
    ports(protocol, payload, ends, Some(at));
    if protocol != TCP && word(payload, at) == Some(0) {
        write(payload, at, [0xff; 2]);
    }
}

/// Ports, or the identifier of an ICMP query, and the checksum at `sum`.
fn ports(protocol: u8, payload: &mut [u8], ends: &Ends, sum: Option<usize>) {
    let places = match protocol {
        TCP | UDP | UDP_LITE => [(0, ends.source), (2, ends.destination)],
        ICMP | ICMPV6 if has_identifier(protocol, payload) => [(4, ends.source.or(ends.destination)), (4, None)],
        _ => return,
    };
    for (at, end) in places {
        let (Some(end), Some(old)) = (end, payload.get(at..).and_then(<[u8]>::first_chunk::<2>).copied()) else {
            continue;
        };
        let new = end.port.to_be_bytes();
        write(payload, at, new);
        if let Some((sum, value)) = sum.and_then(|sum| Some((sum, word(payload, sum)?))) {
            write(payload, sum, checksum::amended(value, old, new).to_be_bytes());
        }
    }
}

/// `icmp_manip_pkt`, `icmpv6_manip_pkt`
fn has_identifier(protocol: u8, payload: &[u8]) -> bool {
    match (protocol, payload.first()) {
        (ICMP, Some(kind)) => matches!(kind, 0 | 8 | 13..=18),
        (_, Some(kind)) => matches!(kind, 128 | 129),
        _ => false,
    }
}

/// The packet that an ICMP error quotes, as the one who sent it knows it (`nf_nat_icmp_reply_translation`).
fn requote(family: Family, payload: &mut [u8], ends: &Ends) {
    if ends.is_none() {
        return;
    }
    // Its sum changes as its bytes do, whichever that are (the kernel computes it anew: so does the sum over old and new).
    let old = checksum::fold(checksum::sum(payload));
    if let Some(quoted) = payload.get_mut(ICMP_HEADER..) {
        let (protocol, header) = match family {
            Family::V4 => (quoted.get(9).copied(), quoted.first().map_or(0, |first| usize::from(first & 0x0f) * 4)),
            Family::V6 => (quoted.get(6).copied(), 40),
        };
        let (before, after) = readdress(family, quoted, ends);
        let addresses = Change { old: before, new: after };
        if let (Some(protocol), Some(payload)) = (protocol, quoted.get_mut(header..)) {
            match protocol {
                ICMP => ports(ICMP, payload, ends, Some(2)),
                ICMPV6 => {
                    addresses.amend(payload, 2);
                    ports(ICMPV6, payload, ends, Some(2));
                }
                protocol => transport(protocol, payload, ends, &addresses),
            }
        }
    }
    let new = checksum::fold(checksum::sum(payload));
    if let Some(sum) = word(payload, 2) {
        write(payload, 2, (!checksum::fold(u64::from(!sum) + u64::from(!old) + u64::from(new))).to_be_bytes());
    }
}

fn write(bytes: &mut [u8], at: usize, value: [u8; 2]) {
    if let Some(field) = bytes.get_mut(at..at + 2) {
        field.copy_from_slice(&value);
    }
}
