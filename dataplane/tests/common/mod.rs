//! A router with three ports on plain memory, and packets for it.
//!
//! ```text
//!   198.51.100.0/24   ┌───────────┐   203.0.113.0/24
//!   2001:db8:1::/64 ──┤0  router 1├── 2001:db8:2::/64
//!                     └─────2─────┘   default via 192.0.2.1, 2001:db8:3::1
//! ```
#![allow(dead_code)]

pub(crate) mod nat;

use std::net::IpAddr;
use std::sync::Arc;

use etherparse::PacketBuilder;
use shunt_dataplane::sim::{Router, SimSpec};
use shunt_policy::config::{
    Config, Hops, Link, Neighbour, Origin, Route, RouteKind, Rule, RuleAction, RuleSelector, Source,
};
use shunt_policy::{Family, Generation, Ifindex, Mac, Policy, PortId, Prefix, Priority, Rib, TableId, compile};

pub(crate) const LAN: PortId = PortId(0);
pub(crate) const WAN: PortId = PortId(1);
pub(crate) const UP: PortId = PortId(2);

/// The router's own address on a port.
pub(crate) fn own(port: PortId) -> Mac {
    Mac([2, 0, 0, 0, 0, 0x10 + port.0 as u8])
}

/// The address of the neighbour on a port.
pub(crate) fn peer(port: PortId) -> Mac {
    Mac([2, 0, 0, 0, 0, 0x20 + port.0 as u8])
}

pub(crate) fn ifindex(port: PortId) -> Ifindex {
    Ifindex(10 + u32::from(port.0))
}

pub(crate) fn rib() -> Rib {
    let mut rib = Rib::default();
    let mut route = |destination: &str, length, port, via: Option<&str>| {
        let prefix = Prefix::new(address(destination), length).expect("a prefix");
        let kind = RouteKind::Unicast(Hops::one(ifindex(port), via.map(address)));
        rib.append(TableId::MAIN, prefix, Route::new(0, kind));
    };
    route("198.51.100.0", 24, LAN, None);
    route("203.0.113.0", 24, WAN, None);
    route("0.0.0.0", 0, UP, Some("192.0.2.1"));
    route("2001:db8:1::", 64, LAN, None);
    route("2001:db8:2::", 64, WAN, None);
    route("::", 0, UP, Some("2001:db8:3::1"));
    let local = Route::new(0, RouteKind::Local(Some(ifindex(LAN))));
    rib.append(TableId::LOCAL, Prefix::host(address("198.51.100.1")), local);
    rib
}

pub(crate) fn config() -> Config {
    let link = |port: PortId| Link::port(ifindex(port), &format!("eth{}", port.0), own(port), port);
    let rib = rib();
    let known = [("198.51.100.2", LAN), ("203.0.113.2", WAN), ("192.0.2.1", UP)];
    let known6 = [("2001:db8:1::2", LAN), ("2001:db8:2::2", WAN), ("2001:db8:3::1", UP)];
    let known = known.into_iter().chain(known6);
    let rules = Family::BOTH.iter().flat_map(|family| {
        [(0, TableId::LOCAL), (32766, TableId::MAIN)].map(|(priority, table)| Rule {
            family: *family,
            priority: Priority(priority),
            selector: RuleSelector::default(),
            action: RuleAction::lookup(table),
            origin: Origin::new(Source::Rule, "test"),
        })
    });
    Config {
        links: Arc::new([LAN, WAN, UP].map(link).to_vec()),
        neighbours: Arc::new(
            known
                .map(|(host, port)| Neighbour {
                    ifindex: ifindex(port),
                    address: address(host),
                    mac: Some(peer(port)),
                    valid: true,
                })
                .collect(),
        ),
        rules: Arc::new(rules.collect()),
        tables: rib.tables().clone(),
        ..Config::default()
    }
}

pub(crate) fn policy(generation: u64) -> Arc<Policy> {
    Arc::new(compile(&config(), Generation(generation)))
}

pub(crate) fn router(workers: usize, queues: u32) -> Router {
    let ports = [LAN, WAN, UP].map(|id| SimSpec { id, ifindex: ifindex(id), queues });
    Router::new(workers, &ports, policy(1))
}

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// What is said of a packet when it matters.
#[derive(Clone)]
pub(crate) struct Crafted {
    pub(crate) source: &'static str,
    pub(crate) destination: &'static str,
    pub(crate) ttl: u8,
    pub(crate) protocol: u8,
    pub(crate) payload: usize,
}

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMPV6: u8 = 58;

impl Default for Crafted {
    fn default() -> Self {
        Crafted { source: "198.51.100.2", destination: "203.0.113.2", ttl: 64, protocol: UDP, payload: 100 }
    }
}

impl Crafted {
    pub(crate) fn v6() -> Self {
        Crafted { source: "2001:db8:1::2", destination: "2001:db8:2::2", ..Crafted::default() }
    }

    pub(crate) fn protocol(self, protocol: u8) -> Self {
        Crafted { protocol, ..self }
    }

    pub(crate) fn to(self, destination: &'static str) -> Self {
        Crafted { destination, ..self }
    }

    pub(crate) fn ttl(self, ttl: u8) -> Self {
        Crafted { ttl, ..self }
    }

    pub(crate) fn payload(self, payload: usize) -> Self {
        Crafted { payload, ..self }
    }

    /// The frame as a neighbour on `port` sends it to the router.
    pub(crate) fn on(&self, port: PortId) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2(peer(port).0, own(port).0);
        let ip = match (address(self.source), address(self.destination)) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                ethernet.ipv4(source.octets(), destination.octets(), self.ttl)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                ethernet.ipv6(source.octets(), destination.octets(), self.ttl)
            }
            _ => panic!("two families"),
        };
        let payload: Vec<u8> = (0..self.payload).map(|i| (i * 7 + 1) as u8).collect();
        let mut frame = Vec::new();
        match self.protocol {
            TCP => ip.tcp(4321, 25, 7, 512).write(&mut frame, &payload).expect("written"),
            UDP => ip.udp(4321, 53).write(&mut frame, &payload).expect("written"),
            ICMP => ip.icmpv4_echo_request(1, 2).write(&mut frame, &payload).expect("written"),
            ICMPV6 => ip.icmpv6_echo_request(1, 2).write(&mut frame, &payload).expect("written"),
            other => panic!("protocol {other}"),
        }
        frame
    }
}

/// Reads a frame with another parser, checking every checksum. Panics with what is wrong.
pub(crate) fn assert_sound(frame: &[u8]) {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    let packet = SlicedPacket::from_ethernet(frame).expect("a readable frame");
    match (packet.net.expect("an IP packet"), packet.transport) {
        (NetSlice::Ipv4(ip), transport) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum(), "header checksum");
            assert_eq!(usize::from(header.total_len) + 14, frame.len(), "no padding");
            match transport {
                Some(TransportSlice::Tcp(tcp)) => {
                    let sum = tcp.calc_checksum_ipv4(header.source, header.destination).expect("a sum");
                    assert_eq!(tcp.checksum(), sum, "TCP checksum");
                }
                Some(TransportSlice::Udp(udp)) if udp.checksum() != 0 => {
                    let sum = udp.to_header().calc_checksum_ipv4_raw(header.source, header.destination, udp.payload());
                    assert_eq!(udp.checksum(), sum.expect("a sum"), "UDP checksum");
                }
                _ => {}
            }
        }
        (NetSlice::Ipv6(ip), transport) => {
            let header = ip.header().to_header();
            assert_eq!(usize::from(header.payload_length) + 54, frame.len(), "no padding");
            match transport {
                Some(TransportSlice::Tcp(tcp)) => {
                    let sum = tcp.calc_checksum_ipv6(header.source, header.destination).expect("a sum");
                    assert_eq!(tcp.checksum(), sum, "TCP checksum");
                }
                Some(TransportSlice::Udp(udp)) => {
                    let sum = udp.to_header().calc_checksum_ipv6_raw(header.source, header.destination, udp.payload());
                    assert_eq!(udp.checksum(), sum.expect("a sum"), "UDP checksum");
                }
                _ => {}
            }
        }
        _ => panic!("neither IPv4 nor IPv6"),
    }
}

/// Leaves the L4 checksum as a veth peer does: the folded sum of the pseudo-header, not inverted.
pub(crate) fn make_partial(frame: &mut [u8], protocol: u8) {
    let v6 = frame[12] == 0x86;
    let (addresses, start) = if v6 { (22..54, 54) } else { (26..34, 34) };
    let length =
        if v6 { u16::from_be_bytes([frame[18], frame[19]]) } else { u16::from_be_bytes([frame[16], frame[17]]) - 20 };
    let mut sum = u32::from(protocol) + u32::from(length);
    for pair in frame[addresses].chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let offset = start + if protocol == TCP { 16 } else { 6 };
    frame[offset..offset + 2].copy_from_slice(&(sum as u16).to_be_bytes());
}

/// A deterministic stream of numbers (xorshift64*).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Dice(seed.max(1))
    }

    pub(crate) fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.roll() % end.max(1) as u64) as usize
    }
}
