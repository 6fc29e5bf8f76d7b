//! What came out for a packet, in few words.

use std::net::IpAddr;

use super::Outcome;
use super::packet::{Body, Packet};

/// `p1` for the packet itself by that port, `p0:3/13` for an ICMP error of this type and code, `p0:rst` for a TCP reset, several joined
/// by `+`, and `-` for silence. Behind the port of the packet itself stands what was changed besides its TTL: `p1 tos 0x10`,
/// `p1 ttl 9`, `p1 mss 1452`.
pub fn in_short(packet: &Packet, outcome: &Outcome) -> String {
    if outcome.is_empty() {
        return "-".to_owned();
    }
    let mut frames: Vec<String> = outcome.iter().map(|(port, frame)| of_frame(packet, *port, frame)).collect();
    frames.sort();
    frames.join("+")
}

fn of_frame(packet: &Packet, port: usize, frame: &[u8]) -> String {
    let (source, at) = match packet.source {
        IpAddr::V4(source) => (source.octets().to_vec(), 26),
        IpAddr::V6(source) => (source.octets().to_vec(), 22),
    };
    let v4 = packet.source.is_ipv4();
    let body = if v4 { 14 + usize::from(frame[14] & 15) * 4 } else { 54 };
    if frame.get(at..at + source.len()) != Some(&source[..]) {
        let protocol = if v4 { frame[23] } else { frame[20] };
        return match protocol {
            6 => format!("p{port}:rst"),
            _ => format!("p{port}:{}/{}", frame[body], frame[body + 1]),
        };
    }
    let (tos, ttl) = if v4 { (frame[15], frame[22]) } else { (frame[14] << 4 | frame[15] >> 4, frame[21]) };
    let mut text = format!("p{port}");
    if tos != packet.tos {
        text += &format!(" tos {tos:#04x}");
    }
    if ttl != packet.ttl - 1 {
        text += &format!(" ttl {ttl}");
    }
    if let Body::Tcp(..) = packet.body {
        let header = usize::from(frame[body + 12] >> 4) * 4;
        let mss = mss(&frame[body + 20..body + header]);
        if mss != self::mss(&packet.tcp_options) {
            text += &mss.map_or(" no mss".to_owned(), |mss| format!(" mss {mss}"));
        }
    }
    text
}

/// The MSS option among the options of a TCP header.
fn mss(mut options: &[u8]) -> Option<u16> {
    while let [kind, rest @ ..] = options {
        match (kind, rest) {
            (0, _) => return None,
            (1, _) => options = rest,
            (2, [4, high, low, ..]) => return Some(u16::from_be_bytes([*high, *low])),
            (_, [length, ..]) => options = options.get(usize::from(*length).max(2)..)?,
            (_, []) => return None,
        }
    }
    None
}
