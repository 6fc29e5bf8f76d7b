//! The frames of conversations.

use std::net::IpAddr;

use super::{End, From, Heard, Step, Talk, What};
use crate::twin::packet::{MAGIC, checksum, far_mac, fill, pseudo_sum, router_mac};

/// Number of the host whose MAC frames come from.
const SENDER: u8 = 0x0f;
/// Bytes of a long quote.
const QUOTED: usize = 200;

/// What stands in a frame, as far as conversations are concerned. `None` for other frames, and for cut ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Parts {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    /// Start of what stands behind the IP header.
    pub body: usize,
    /// Numbers of the ports, where there are any; of ICMP echo, the identifier twice.
    pub numbers: Option<(u16, u16)>,
}

/// The parts of an IP packet that starts at `at`.
pub(super) fn parts(frame: &[u8], at: usize) -> Option<Parts> {
    let ip = frame.get(at..)?;
    let (source, destination, protocol, body) = match ip.first()? >> 4 {
        4 => {
            let address = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?));
            (address(12)?, address(16)?, *ip.get(9)?, at + usize::from(ip[0] & 15) * 4)
        }
        6 => {
            let address = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(ip.get(at..at + 16)?).ok()?));
            (address(8)?, address(24)?, *ip.get(6)?, at + 40)
        }
        _ => return None,
    };
    let word = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    let numbers = match protocol {
        6 | 17 => Some((word(body)?, word(body + 2)?)),
        1 | 58 if is_echo(protocol, *frame.get(body)?) => Some((word(body + 4)?, word(body + 4)?)),
        _ => None,
    };
    Some(Parts { source, destination, protocol, body, numbers })
}

fn is_echo(protocol: u8, kind: u8) -> bool {
    if protocol == 1 { matches!(kind, 0 | 8) } else { matches!(kind, 128 | 129) }
}

/// Whether an ICMP message quotes a packet.
pub(super) fn quotes(protocol: u8, kind: u8) -> bool {
    match protocol {
        1 => matches!(kind, 3 | 4 | 5 | 11 | 12),
        58 => kind < 128,
        _ => false,
    }
}

pub(super) fn is_redirect(frame: &[u8]) -> bool {
    parts(frame, 14)
        .is_some_and(|parts| matches!((parts.protocol, frame.get(parts.body)), (1, Some(5)) | (58, Some(137))))
}

/// Whether a frame belongs to a conversation of this protocol: errors do not.
pub(super) fn is_of(frame: &[u8], protocol: u8) -> bool {
    let Some(parts) = parts(frame, 14) else { return false };
    parts.protocol == protocol && !quotes(protocol, frame[parts.body])
}

/// The frame of a step. `None` where nothing has been heard yet of what it answers to.
pub(super) fn frame(talk: &Talk, step: &Step, tag: u32, heard: &Heard) -> Option<(usize, Vec<u8>)> {
    let (from, to) = ends(talk, step.from, heard)?;
    let (body, protocol) = match step.what {
        What::Data => (data(talk, step, tag, (from, to)), talk.protocol),
        What::Segment { flags, sequence, acknowledged } => {
            (segment(step, tag, (from, to), flags, sequence, acknowledged), 6)
        }
        What::Error { kind, code, short, spoiled } => {
            let quoted = match step.from {
                From::Client => heard.by_client.as_ref(),
                From::Server | From::Stranger => heard.by_server.as_ref(),
            };
            let (_, quoted) = quoted?;
            let protocol = if from.address.is_ipv4() { 1 } else { 58 };
            let to = parts(quoted, 14)?.source;
            let body = error(quoted, tag, (from.address, to), (kind, code), short, spoiled, step.bad_sum)?;
            return Some((from.port, ip(step, tag, (from, End { address: to, ..from }), protocol, &body)));
        }
    };
    Some((from.port, ip(step, tag, (from, to), protocol, &body)))
}

/// Who speaks, and to whom, as the speaker sees it.
fn ends(talk: &Talk, from: From, heard: &Heard) -> Option<(End, End)> {
    if from == From::Client {
        return Some((talk.client, talk.server));
    }
    let (server, client) = match &heard.by_server {
        Some((port, frame)) => {
            let parts = parts(frame, 14)?;
            let (source, destination) = parts.numbers.unwrap_or((talk.client.number, talk.server.number));
            (
                End { port: *port, address: parts.destination, number: destination },
                End { port: *port, address: parts.source, number: source },
            )
        }
        // Nothing has come yet: the first word is its own.
        None => (talk.server, talk.client),
    };
    if from == From::Server {
        return Some((server, client));
    }
    let address: IpAddr = match server.address {
        IpAddr::V4(_) => [198, 18, 77, 7].into(),
        IpAddr::V6(_) => [0x2001, 0xdb8, 0x100, 0x77, 0, 0, 0, 7].into(),
    };
    Some((End { address, ..server }, client))
}

fn with_sum(mut body: Vec<u8>, at: usize, (from, to): (IpAddr, IpAddr), protocol: u8, bad: bool) -> Vec<u8> {
    let pseudo = if protocol == 1 { 0 } else { pseudo_sum(from, to, protocol, body.len()) };
    let sum = checksum(&body, pseudo);
    let sum = if sum == 0 && protocol == 17 { 0xffff } else { sum };
    // Added, so that it is as far off wherever it started.
    let (more, carry) = sum.overflowing_add(if bad { 0x1000 } else { 0 });
    body[at..at + 2].copy_from_slice(&(more + u16::from(carry)).to_be_bytes());
    body
}

fn data(talk: &Talk, step: &Step, tag: u32, (from, to): (End, End)) -> Vec<u8> {
    let fill = fill(tag, step.fill.max(8));
    let addresses = (from.address, to.address);
    match talk.protocol {
        17 => {
            let length = 8 + fill.len() as u16;
            let header = [from.number, to.number, length, 0].map(u16::to_be_bytes).concat();
            with_sum([header, fill].concat(), 6, addresses, 17, step.bad_sum)
        }
        protocol @ (1 | 58) => {
            let kind = match (protocol, step.from) {
                (1, From::Client) => 8,
                (1, _) => 0,
                (_, From::Client) => 128,
                (_, _) => 129,
            };
            // An answer has the identifier of what came.
            let id = if step.from == From::Client { from.number } else { to.number };
            let header = [&[kind, 0, 0, 0][..], &id.to_be_bytes(), &[0, 1]].concat();
            with_sum([header, fill].concat(), 2, addresses, protocol, step.bad_sum)
        }
        // A GRE header without anything; ESP's index and number; for others it is as good as anything.
        47 => [&[0, 0, 0x08, 0][..], &fill].concat(),
        _ => [&[0, 0, 1, 0, 0, 0, 0, 9][..], &fill].concat(),
    }
}

fn segment(step: &Step, tag: u32, (from, to): (End, End), flags: u8, sequence: u32, acknowledged: u32) -> Vec<u8> {
    // An option of experiments (RFC 3692) carries the tag, so that segments without data have one.
    let mut options = [&[1, 1, 253, 10][..], &MAGIC, &tag.to_be_bytes()].concat();
    if flags & 0x02 != 0 {
        options.extend([2, 4, 0x05, 0xb4, 3, 3, 7, 1]);
    }
    let words = 5 + options.len() as u8 / 4;
    let mut body = [from.number.to_be_bytes(), to.number.to_be_bytes()].concat();
    body.extend(sequence.to_be_bytes());
    body.extend(acknowledged.to_be_bytes());
    body.extend([words << 4, flags, 0x20, 0, 0, 0, 0, 0]);
    body.extend(options);
    body.extend(fill(tag, step.fill));
    with_sum(body, 16, (from.address, to.address), 6, step.bad_sum)
}

fn error(
    quoted: &[u8],
    tag: u32,
    (from, to): (IpAddr, IpAddr),
    (kind, code): (u8, u8),
    short: bool,
    spoiled: bool,
    bad_sum: bool,
) -> Option<Vec<u8>> {
    let quoted_parts = parts(quoted, 14)?;
    let end = if short { quoted_parts.body + 8 } else { 14 + QUOTED };
    let mut quote = quoted[14..end.min(quoted.len())].to_vec();
    if let Some(at) = quote.windows(4).position(|window| window == MAGIC)
        && let Some(old) = quote.get_mut(at + 4..at + 8)
    {
        old.copy_from_slice(&tag.to_be_bytes());
    }
    if spoiled {
        // Of the destination: the source may be a port drawn at random. Of ICMP it is the checksum, which is as far off then whatever
        // identifier was drawn: a bit that is turned would make it more on one router and less on the other.
        let spoiled = quote.get_mut(quoted_parts.body - 14 + 3)?;
        *spoiled = spoiled.wrapping_add(1);
    }
    // The MTU of the next hop, where that is what it is about.
    let [high, low] = 1280u16.to_be_bytes();
    let word = match (from.is_ipv4(), kind, code) {
        (true, 3, 4) | (false, 2, _) => [0, 0, high, low],
        _ => [0; 4],
    };
    let body = [&[kind, code, 0, 0][..], &word, &quote].concat();
    Some(with_sum(body, 2, (from, to), if from.is_ipv4() { 1 } else { 58 }, bad_sum))
}

fn ip(step: &Step, tag: u32, (from, to): (End, End), protocol: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = [router_mac(from.port), far_mac(from.port, SENDER)].concat();
    match (from.address, to.address) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend([0x08, 0x00]);
            let mut header = vec![0x45, step.tos];
            header.extend((20 + body.len() as u16).to_be_bytes());
            header.extend((tag as u16).to_be_bytes());
            header.extend([0x40, 0, step.ttl, protocol, 0, 0]);
            header.extend(source.octets());
            header.extend(destination.octets());
            let sum = checksum(&header, 0);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            frame.extend(header);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            frame.extend([0x86, 0xdd]);
            frame.extend((6u32 << 28 | u32::from(step.tos) << 20).to_be_bytes());
            frame.extend((body.len() as u16).to_be_bytes());
            frame.extend([protocol, step.ttl]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        _ => unreachable!("a conversation is of one family"),
    }
    frame.extend(body);
    frame
}

/// Whether a frame is the TCP reset that answers what was sent.
pub(super) fn is_reset_of(frame: &[u8], sent: &[u8]) -> bool {
    let (Some(reset), Some(sent)) = (parts(frame, 14), parts(sent, 14)) else { return false };
    let numbers = sent.numbers.map(|(source, destination)| (destination, source));
    reset.protocol == 6
        && sent.protocol == 6
        && frame.get(reset.body + 13).is_some_and(|flags| flags & 0x04 != 0)
        && (reset.source, reset.destination, reset.numbers) == (sent.destination, sent.source, numbers)
}

/// An error with a short quote has no tag in it but that of its own header.
pub(super) fn has_identification(frame: &[u8], tag: u32) -> bool {
    parts(frame, 14).is_some_and(|parts| {
        parts.protocol == 1
            && frame.get(parts.body).is_some_and(|kind| quotes(1, *kind))
            && frame[18..20] == (tag as u16).to_be_bytes()
    })
}
