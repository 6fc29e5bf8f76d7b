//! Packets of both families, most of them in order.

use std::net::IpAddr;

use fastrand::Rng;
use shunt_policy::Family;

use super::{one, rarely};
use crate::twin::base::{HOSTS, MARKS, PORTS, behind4, behind6, net4, net6, second4};
use crate::twin::packet::{Body, Packet, Twist};

const TOS: [u8; 9] = [0, 0, 0x10, 0x08, 0x1c, 0xb8, 0xb9, 0x30, 0xff];
/// None, MSS of several sizes, others before it, and some that are no options.
const TCP_OPTIONS: [&[u8]; 9] = [
    &[],
    &[],
    &[2, 4, 0x05, 0xb4],
    &[2, 4, 0x05, 0xb4, 4, 2, 1, 1],
    &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 2, 4, 0x02, 0x18],
    &[3, 3, 7, 1, 2, 4, 0x05, 0x78],
    &[2, 4, 0, 40],
    &[2, 3, 5, 0],
    &[8, 0, 2, 4, 5, 0xb4, 0, 0],
];
const DESTINATION_PORTS: [u16; 4] = [9, 25, 80, 53];

/// The packets of a case.
pub fn packets(rng: &mut Rng, count: usize) -> Vec<Packet> {
    (0..count).map(|_| packet(rng)).collect()
}

fn packet(rng: &mut Rng) -> Packet {
    let family = if rng.u32(..5) < 3 { Family::V4 } else { Family::V6 };
    let port = rng.usize(..PORTS);
    let body = body(rng, family);
    let twist = if rarely(rng, 12) { twist(rng, family) } else { Twist::None };
    Packet {
        port,
        source: source(rng, family, port).parse().expect("an address"),
        destination: destination(rng, family).parse().expect("an address"),
        tos: if rarely(rng, 8) { rng.u8(..) } else { one(rng, &TOS) },
        ttl: match rng.u32(..32) {
            0 | 1 => rng.u8(..3),
            2 => one(rng, &[3, 10, 63, 65, 255]),
            _ => 64,
        },
        flow_label: match family {
            Family::V6 => one(rng, &[0, 0x12345, 0x12fff, 0xfffff]),
            Family::V4 => 0,
        },
        dont_fragment: family == Family::V4 && rng.bool(),
        body,
        tcp_flags: one(rng, &[0x10, 0x10, 0x02, 0x02, 0xc2, 0x12, 0x18, 0x11, 0x04, 0]),
        tcp_options: one(rng, &TCP_OPTIONS).to_vec(),
        sender: if rarely(rng, 4) { 0x0e } else { 0x0f },
        fill: match rng.u32(..16) {
            0 => rng.usize(1200..1480),
            1 => one(rng, &[1252, 1272, 1372, 1232, 1432, 1422, 1450]),
            _ => rng.usize(16..64),
        },
        twist,
    }
}

/// Mostly a fresh one: the kernel limits some of its errors by source.
fn source(rng: &mut Rng, family: Family, port: usize) -> String {
    let host = rng.u16(..);
    let other = rng.usize(..PORTS);
    match (family, rng.u32(..24)) {
        (Family::V4, 0) => net4(other, one(rng, &[1, 10, 11, 13, 0, 63])),
        (Family::V4, 1) => second4(port, one(rng, &[1, 10, 12, 63])),
        (Family::V4, 2) => {
            one(rng, &["127.0.0.1", "0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", "240.0.0.1", "169.254.1.1"])
                .to_owned()
        }
        (Family::V4, 3..6) => behind4(other, host),
        (Family::V4, 6) => format!("192.0.2.{}", host as u8),
        (Family::V4, 7) => format!("198.18.{}.{}", host >> 8, host & 0xff),
        (Family::V4, _) => behind4(port, host),
        (Family::V6, 0) => net6(other, one(rng, &[1, 10, 11, 13, 0])),
        (Family::V6, 1) => {
            one(rng, &["::1", "::", "fe80::10", "ff02::1", "::ffff:198.18.0.1", "::198.18.0.1"]).to_owned()
        }
        (Family::V6, 2..5) => behind6(other, host),
        (Family::V6, 5) => format!("2001:db8:100:7::{host:x}"),
        (Family::V6, _) => behind6(port, host),
    }
}

fn destination(rng: &mut Rng, family: Family) -> String {
    let host = rng.u16(..);
    let port = rng.usize(..PORTS);
    match (family, rng.u32(..24)) {
        (Family::V4, 0) => net4(port, one(rng, &[0, 1, 10, 11, 12, 13, 63])),
        (Family::V4, 1) => second4(port, one(rng, &[0, 1, 10, 13, 63])),
        (Family::V4, 2) => {
            one(rng, &["127.0.0.1", "0.0.0.0", "224.0.0.5", "255.255.255.255", "240.0.0.1", "203.0.114.7"]).to_owned()
        }
        (Family::V4, 3..6) => behind4(port, host),
        (Family::V4, 6) => format!("192.0.2.{}", host as u8),
        (Family::V4, 7..14) => format!("198.18.7.{}", one(rng, &[8, 9, 7, 127, 128, 129, 200])),
        (Family::V4, 14..16) => net4(port, one(rng, &HOSTS)),
        (Family::V4, _) => format!("198.18.{}.{}", one(rng, &[0, 7, 64, 127, 128]), host & 0xff),
        (Family::V6, 0) => net6(port, one(rng, &[0, 1, 10, 11, 12, 13])),
        (Family::V6, 1) => {
            one(rng, &["::1", "fe80::10", "ff02::1", "ff0e::1", "::ffff:198.18.0.1", "2001:db9::1"]).to_owned()
        }
        (Family::V6, 2..5) => behind6(port, host),
        (Family::V6, 5..12) => format!("2001:db8:100:7::{:x}", one(rng, &[8, 9, 7, 0xffff])),
        (Family::V6, 12..15) => net6(port, one(rng, &HOSTS)),
        (Family::V6, _) => format!("2001:db8:100:{:x}::{host:x}", one(rng, &[0, 7, 0x4000, 0x7fff])),
    }
}

fn body(rng: &mut Rng, family: Family) -> Body {
    let source = match rng.u32(..4) {
        0 => 4000 + rng.u16(..2100),
        _ => one(rng, &MARKS).0,
    };
    let destination = one(rng, &DESTINATION_PORTS);
    match rng.u32(..24) {
        0..11 => Body::Udp(source, destination),
        11..16 => Body::Tcp(source, destination),
        16 => Body::Icmp(if family == Family::V4 { 8 } else { 128 }, 0),
        17 => match family {
            Family::V4 => Body::IcmpError(one(rng, &[3, 11, 12, 4]), rng.u8(..3), inner(rng, family)),
            Family::V6 => Body::IcmpError(rng.u8(1..5), rng.u8(..3), inner(rng, family)),
        },
        18 => Body::Sctp(source, destination),
        19 => Body::UdpLite(source, destination),
        20 => Body::Esp(rng.u32(256..)),
        21 => {
            let inside = if rng.bool() { Family::V4 } else { Family::V6 };
            let protocol = if rng.bool() {
                47
            } else if inside == Family::V4 {
                4
            } else {
                41
            };
            Body::Inside(protocol, inner(rng, inside), inner(rng, inside))
        }
        22 => Body::Icmp(if family == Family::V4 { 13 } else { 129 }, 0),
        _ => Body::Other(one(rng, &[253, 89, 2, 59, 33, 51])),
    }
}

fn inner(rng: &mut Rng, family: Family) -> IpAddr {
    let host = rng.u16(..);
    let text = match family {
        Family::V4 => behind4(rng.usize(..PORTS), host),
        Family::V6 => behind6(rng.usize(..PORTS), host),
    };
    text.parse().expect("an address")
}

fn twist(rng: &mut Rng, family: Family) -> Twist {
    let fragment = |rng: &mut Rng| Twist::Fragment(one(rng, &[0, 0, 1, 185]), rng.bool());
    match (family, rng.u32(..14)) {
        (_, 0..4) => Twist::Padding(rng.usize(1..20)),
        (_, 4) => Twist::To([2, 0, 0x5e, 0, 0x53, rng.u8(..)]),
        (_, 5) => Twist::To(one(rng, &[[0xff; 6], [1, 0, 0x5e, 1, 2, 3]])),
        (_, 6) => Twist::BodySum,
        (_, 7) => Twist::Version(one(rng, &[0, 5, 6, 4])),
        (_, 8) => Twist::Length(one(rng, &[-30, -9, -1, 1, 8])),
        (_, 9) => Twist::Cut(rng.usize(14..60)),
        (_, 10) => fragment(rng),
        (_, 11) => {
            if rng.bool() {
                Twist::Tagged(5)
            } else {
                Twist::EtherType(0x88cc)
            }
        }
        (Family::V4, 12) => Twist::HeaderSum,
        (Family::V4, _) => match rng.u32(..4) {
            0 => Twist::HeaderLength(rng.u8(..8)),
            1 => Twist::Options(vec![1, 1, 1, 0]),
            // Record route, router alert.
            2 => Twist::Options(vec![7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            _ => Twist::Options(vec![148, 4, 0, 0]),
        },
        (Family::V6, _) => Twist::Extension(one(rng, &[0, 60, 43, 44, 135])),
    }
}
