//! IPv6 (RFC 8200), as `ip6_rcv_core` and `ip6_forward` look at it.

use std::net::{IpAddr, Ipv6Addr};

use shunt_policy::{Egress, Mac, PuntReason, Stop};

use super::{BAD_HEADER, ETHERNET, Packet, TRUNCATED, TcpFacts, punt, transport};

const LENGTH: usize = 40;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;

pub(super) fn parse(packet: &[u8], source_mac: Mac) -> Result<Packet, Stop> {
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
    if protocol == transport::ICMP {
        return Err(punt(PuntReason::ForeignIcmp));
    }
    let payload = packet.get(LENGTH..length).unwrap_or_default();
    let transport = transport::parse(protocol, transport::ICMPV6, payload)?;
    let tcp = if protocol == transport::TCP { TcpFacts::of(payload)? } else { TcpFacts::default() };
    Ok(Packet {
        source: IpAddr::V6(source),
        destination: IpAddr::V6(destination),
        protocol,
        transport,
        tcp,
        source_mac,
        ttl: header[7],
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

/// Writes what rules have made of traffic class and hop limit. There is no header checksum to keep.
pub(super) fn rewrite(packet: &Packet, frame: &mut [u8], egress: &Egress) {
    let Some(header) = frame.get_mut(ETHERNET..).and_then(|packet| packet.first_chunk_mut::<LENGTH>()) else { return };
    if egress.tos() != packet.tos {
        header[0] = header[0] & 0xf0 | egress.tos() >> 4;
        header[1] = header[1] & 0x0f | egress.tos() << 4;
    }
    header[7] = egress.ttl();
}
