//! Datagrams to the byte.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep};

/// A UDP datagram in IPv4, valid in every sum.
pub fn ipv4_udp(
    macs: ([u8; 6], [u8; 6]),
    ips: (Ipv4Addr, Ipv4Addr),
    ttl: u8,
    ports: (u16, u16),
    payload: &[u8],
) -> Vec<u8> {
    udp(PacketBuilder::ethernet2(macs.0, macs.1).ipv4(ips.0.octets(), ips.1.octets(), ttl), ports, payload)
}

/// The same in IPv6.
pub fn ipv6_udp(
    macs: ([u8; 6], [u8; 6]),
    ips: (Ipv6Addr, Ipv6Addr),
    hops: u8,
    ports: (u16, u16),
    payload: &[u8],
) -> Vec<u8> {
    udp(PacketBuilder::ethernet2(macs.0, macs.1).ipv6(ips.0.octets(), ips.1.octets(), hops), ports, payload)
}

fn udp(ip: PacketBuilderStep<IpHeaders>, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let builder = ip.udp(ports.0, ports.1);
    let mut frame = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut frame, payload).expect("a vector takes everything");
    frame
}
