//! IPv4 (RFC 791), as `ip_rcv_core` and `ip_route_input_slow` look at it.

use std::net::{IpAddr, Ipv4Addr};

use shunt_policy::{Egress, Mac, PuntReason, Stop};

use super::{BAD_HEADER, ETHERNET, Packet, TRUNCATED, TcpFacts, checksum, punt, transport};

const LENGTH: usize = 20;

/// More fragments, or an offset: everything of the field but "reserved" and "don't fragment".
const FRAGMENT: u16 = 0x3fff;

pub(super) fn parse(packet: &[u8], source_mac: Mac) -> Result<Packet, Stop> {
    let header = packet.first_chunk::<LENGTH>().ok_or(TRUNCATED)?;
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let ihl = usize::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || ihl < LENGTH {
        return Err(BAD_HEADER);
    }
    let whole = packet.get(..ihl).ok_or(TRUNCATED)?;
    if checksum::fold(checksum::sum(whole)) != 0xffff {
        return Err(BAD_HEADER);
    }
    if length > packet.len() {
        return Err(TRUNCATED);
    }
    if length < ihl {
        return Err(BAD_HEADER);
    }
    let source = Ipv4Addr::from_bits(u32::from_be_bytes([header[12], header[13], header[14], header[15]]));
    let destination = Ipv4Addr::from_bits(u32::from_be_bytes([header[16], header[17], header[18], header[19]]));
    if !ordinary(source) || !ordinary(destination) {
        return Err(punt(PuntReason::NotUnicast));
    }
    if ihl != LENGTH {
        return Err(punt(PuntReason::Options));
    }
    if u16::from_be_bytes([header[6], header[7]]) & FRAGMENT != 0 {
        return Err(punt(PuntReason::Fragment));
    }
    let protocol = header[9];
    if protocol == transport::ICMPV6 {
        return Err(punt(PuntReason::ForeignIcmp));
    }
    let payload = packet.get(LENGTH..length).unwrap_or_default();
    let transport = transport::parse(protocol, transport::ICMP, payload)?;
    let tcp = if protocol == transport::TCP { TcpFacts::of(payload)? } else { TcpFacts::default() };
    Ok(Packet {
        source: IpAddr::V4(source),
        destination: IpAddr::V4(destination),
        protocol,
        transport,
        tcp,
        source_mac,
        ttl: header[8],
        tos: header[1],
        flow_label: 0,
        header: LENGTH,
        length,
    })
}

/// Not 0/8, 127/8, multicast or reserved: those the kernel treats in ways of their own, as source (martians) or
/// destination.
fn ordinary(address: Ipv4Addr) -> bool {
    !matches!(address.octets()[0], 0 | 127 | 224..)
}

/// Writes what rules have made of TOS and TTL.
pub(super) fn rewrite(packet: &Packet, frame: &mut [u8], egress: &Egress) {
    let Some(header) = frame.get_mut(ETHERNET..).and_then(|packet| packet.first_chunk_mut::<LENGTH>()) else { return };
    if egress.tos() != packet.tos {
        let old = [header[0], header[1]];
        header[1] = egress.tos();
        let new = [header[0], header[1]];
        amend(header, old, new);
    }
    if egress.ttl() == packet.ttl.wrapping_sub(1) {
        decrement_ttl(header);
    } else {
        let old = [header[8], header[9]];
        header[8] = egress.ttl();
        let new = [header[8], header[9]];
        amend(header, old, new);
    }
}

/// The header's checksum after two bytes of it have changed.
fn amend(header: &mut [u8; LENGTH], old: [u8; 2], new: [u8; 2]) {
    let sum = checksum::amended(u16::from_be_bytes([header[10], header[11]]), old, new);
    [header[10], header[11]] = sum.to_be_bytes();
}

/// `ip_decrease_ttl`: the checksum incrementally (RFC 1624), bit for bit as the kernel writes it.
pub(super) fn decrement_ttl(header: &mut [u8; LENGTH]) {
    header[8] = header[8].saturating_sub(1);
    let old = u32::from(u16::from_be_bytes([header[10], header[11]]));
    let sum = old + 0x0100;
    let new = sum + u32::from(sum >= 0xffff);
    [header[10], header[11]] = (new as u16).to_be_bytes();
}
