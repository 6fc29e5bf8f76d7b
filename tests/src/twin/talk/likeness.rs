//! Whether two routers did the same, but for ports that the kernel draws at random.
//!
//! A port may differ where both routers have changed it, and both to one of the same class or range; from then on the two ports stand
//! for each other wherever the client's packets are concerned, in quotes, too. Checksums are compared by how far they are off, so that
//! a wrong one stays as wrong as it was.

use std::collections::HashMap;
use std::net::IpAddr;

use super::frames::{Parts, parts, quotes};
use super::{Outcome, Talk};
use crate::twin::random::PORT_RANGES;

pub(super) enum Verdict {
    Same,
    /// In which way.
    Differ(String),
}

/// What stands for what: protocol, the client, and the kernel's port; shunt's port.
#[derive(Default)]
pub(super) struct Pairs(HashMap<(u8, IpAddr, u16, u16), u16>);

/// Compares what came out for one step. `sent` is what went into the two routers.
pub(super) fn compare(
    talk: &Talk,
    sent: &[Option<(usize, Vec<u8>)>; 2],
    kernel: &Outcome,
    shunt: &Outcome,
    pairs: &mut Pairs,
) -> Verdict {
    if kernel.len() != shunt.len() {
        return Verdict::Differ(format!("{} frames of the kernel, {} of shunt", kernel.len(), shunt.len()));
    }
    let before = sent.clone().map(|sent| sent.map(|(_, frame)| numbers(&frame)).unwrap_or_default());
    for ((port, one), (other_port, other)) in kernel.iter().zip(shunt) {
        if port != other_port {
            return Verdict::Differ(format!("out by p{port} and p{other_port}"));
        }
        if let Err(why) = alike(talk, one, other, &before, pairs) {
            return Verdict::Differ(why);
        }
    }
    Verdict::Same
}

fn alike(talk: &Talk, one: &[u8], other: &[u8], before: &[Vec<u16>; 2], pairs: &mut Pairs) -> Result<(), String> {
    if one == other {
        return Ok(());
    }
    let (layers, others) = (layers(one), self::layers(other));
    if layers.len() != others.len() || layers.iter().zip(&others).any(|(a, b)| (a.0, a.1.body) != (b.0, b.1.body)) {
        return Err("frames differ".to_owned());
    }
    let (mut same, mut seen) = (one.to_vec(), other.to_vec());
    for (number, (start, parts)) in layers.iter().enumerate() {
        if let Some(at) = sum_at(one, parts) {
            let (a, b) = (off_by(one, *start, parts, at), off_by(other, *start, &others[number].1, at));
            if a != b {
                return Err(format!("checksums are off by {a:#06x} and {b:#06x}"));
            }
            seen[at..at + 2].copy_from_slice(&one[at..at + 2]);
            same[at..at + 2].copy_from_slice(&one[at..at + 2]);
        }
        // ICMP knows its identifier once.
        let fields: &[usize] = match parts.protocol {
            6 | 17 => &[0, 2],
            1 | 58 if parts.numbers.is_some() => &[4],
            _ => &[],
        };
        for at in fields.iter().map(|at| parts.body + at) {
            let [a, b] = [one, other].map(|frame| u16::from_be_bytes([frame[at], frame[at + 1]]));
            if a != b {
                pairs.allow(talk, a, b, before)?;
                seen[at..at + 2].copy_from_slice(&one[at..at + 2]);
            }
        }
    }
    if same == seen { Ok(()) } else { Err("frames differ".to_owned()) }
}

impl Pairs {
    fn allow(&mut self, talk: &Talk, kernel: u16, shunt: u16, before: &[Vec<u16>; 2]) -> Result<(), String> {
        let key = (talk.protocol, talk.client.address, talk.client.number, kernel);
        if let Some(known) = self.0.get(&key) {
            return if *known == shunt { Ok(()) } else { Err(format!("port {shunt}, but before it was {known}")) };
        }
        if before[0].contains(&kernel) || before[1].contains(&shunt) {
            return Err(format!("ports {kernel} and {shunt}, one of which is what it was before"));
        }
        if !are_of_one_class(kernel, shunt, talk.protocol) {
            return Err(format!("ports {kernel} and {shunt} are of two classes"));
        }
        self.0.insert(key, shunt);
        Ok(())
    }
}

/// `nf_nat_l4proto_unique_tuple`; identifiers of ICMP are all of one class.
fn are_of_one_class(kernel: u16, shunt: u16, protocol: u8) -> bool {
    if let Some((first, last)) = PORT_RANGES.into_iter().find(|(first, last)| (*first..=*last).contains(&kernel)) {
        return (first..=last).contains(&shunt);
    }
    let class = |port: u16| match port {
        _ if matches!(protocol, 1 | 58) => 2,
        1..=511 => 0,
        600..=1023 => 1,
        1024.. => 2,
        _ => 3,
    };
    class(kernel) == class(shunt)
}

/// The packet of a frame and the one that it quotes, with the places where they start.
fn layers(frame: &[u8]) -> Vec<(usize, Parts)> {
    let mut layers = Vec::new();
    let mut at = 14;
    while let Some(parts) = parts(frame, at) {
        layers.push((at, parts));
        match frame.get(parts.body) {
            Some(kind) if quotes(parts.protocol, *kind) => at = parts.body + 8,
            _ => break,
        }
    }
    layers
}

/// All ports of a frame, those of quotes too.
fn numbers(frame: &[u8]) -> Vec<u16> {
    let numbers = layers(frame).into_iter().filter_map(|(_, parts)| parts.numbers);
    numbers.flat_map(|(source, destination)| [source, destination]).collect()
}

/// Where the checksum of what stands behind the IP header is, if it is there.
fn sum_at(frame: &[u8], parts: &Parts) -> Option<usize> {
    let at = parts.body
        + match parts.protocol {
            6 => 16,
            17 => 6,
            1 | 58 => 2,
            _ => return None,
        };
    (frame.len() >= at + 2).then_some(at)
}

/// The sum of all that the checksum is about, itself included, as far as it is there: 0xffff if it is right and all is there. UDP
/// without a checksum is off by 0.
fn off_by(frame: &[u8], start: usize, parts: &Parts, at: usize) -> u16 {
    if parts.protocol == 17 && frame[at..at + 2] == [0, 0] {
        return 0;
    }
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    let addresses = match (parts.protocol, parts.source) {
        (1, _) => &[][..],
        (_, IpAddr::V4(_)) => &frame[start + 12..start + 20],
        (_, IpAddr::V6(_)) => &frame[start + 8..start + 40],
    };
    let length = frame.len() - parts.body;
    let pseudo = if parts.protocol == 1 { 0 } else { u32::from(parts.protocol) + length as u32 };
    let mut sum: u32 = addresses.chunks(2).chain(frame[parts.body..].chunks(2)).map(word).sum::<u32>() + pseudo;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
