//! IPv6 (RFC 8200), as `ip6_rcv_core` and `ip6_forward` look at it.

use std::net::{IpAddr, Ipv6Addr};

use shunt_policy::{PuntReason, Stop};

use super::{BAD_HEADER, ETHERNET, Packet, TRUNCATED, punt, transport};

const LENGTH: usize = 40;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;

pub(super) fn parse(packet: &[u8]) -> Result<Packet, Stop> {
    let header = packet.first_chunk::<LENGTH>().ok_or(TRUNCATED)?;
    if header[0] >> 4 != 6 {
        return Err(BAD_HEADER);
    }
    let payload = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let length = LENGTH + payload;
    if length > packet.len() {
        return Err(TRUNCATED);
    }
    let source = address(header, 8);
    let destination = address(header, 24);
    for end in [source, destination] {
        if end.is_unicast_link_local() {
            return Err(punt(PuntReason::LinkLocal));
        }
        if !ordinary(end) {
            return Err(punt(PuntReason::NotUnicast));
        }
    }
    let protocol = header[6];
    match protocol {
        FRAGMENT => return Err(punt(PuntReason::Fragment)),
        HOP_BY_HOP | ROUTING | AUTHENTICATION | DESTINATION_OPTIONS | MOBILITY | HIP | SHIM6 => {
            return Err(punt(PuntReason::Options));
        }
        _ => {}
    }
    if header[7] <= 1 {
        return Err(punt(PuntReason::TtlExpired));
    }
    Ok(Packet {
        source: IpAddr::V6(source),
        destination: IpAddr::V6(destination),
        protocol,
        transport: transport::parse(protocol, transport::ICMPV6, packet.get(LENGTH..length).unwrap_or_default())?,
        tos: (header[0] << 4) | (header[1] >> 4),
        flow_label: u32::from_be_bytes([0, header[1] & 0xf, header[2], header[3]]),
        header: LENGTH,
        length,
    })
}

/// The address that starts at byte `at` of the header.
fn address(header: &[u8; LENGTH], at: usize) -> Ipv6Addr {
    let bytes = header.get(at..).and_then(<[u8]>::first_chunk::<16>);
    bytes.map_or(Ipv6Addr::UNSPECIFIED, |bytes| Ipv6Addr::from(*bytes))
}

/// Not multicast, not in ::/96 (unspecified, loopback, the deprecated IPv4-compatible ones), not IPv4-mapped.
fn ordinary(address: Ipv6Addr) -> bool {
    let bits = address.to_bits();
    !address.is_multicast() && !matches!(bits >> 32, 0 | 0xffff)
}

/// `ip6_forward`: there is no header checksum to keep.
pub(super) fn decrement_hop_limit(frame: &mut [u8]) {
    if let Some(hop_limit) = frame.get_mut(ETHERNET + 7) {
        *hop_limit = hop_limit.saturating_sub(1);
    }
}
