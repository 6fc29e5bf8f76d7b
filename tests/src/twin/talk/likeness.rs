//! Whether two routers did the same, but for ports that the kernel draws at random.
//!
//! A port may differ where both routers have changed it, and both to one of the same class or range; from then on the two ports stand
//! for each other wherever the client's packets are concerned, in quotes, too. Checksums are compared by how far they are off, so that
//! a wrong one stays as wrong as it was.

use std::collections::HashMap;
use std::net::IpAddr;

use super::frames::{Parts, is_redirect, parts, quotes};
use super::{Outcome, Talk};
use crate::twin::random::PORT_RANGES;

pub(super) enum Verdict {
    Same,
    /// In which way.
    Differ(String),
}

type Endpoint = (IpAddr, u16);

/// What stands for what.
#[derive(Default)]
pub(super) struct Pairs {
    /// By protocol, both ends of a conversation and the kernel's port: shunt's port.
    of_talks: HashMap<(u8, Endpoint, Endpoint, u16), u16>,
    /// The same by its client alone: a source is translated to what it was translated to before (`find_appropriate_src`).
    of_sources: HashMap<(u8, Endpoint, u16), u16>,
}

/// Compares what came out for one step. `sent` is what went into the two routers.
pub(super) fn compare(
    talk: &Talk,
    sent: &[Option<(usize, Vec<u8>)>; 2],
    kernel: &Outcome,
    shunt: &Outcome,
    pairs: &mut Pairs,
) -> Verdict {
    // How many redirects a host gets depends on the millisecond (ip_rt_send_redirect, inet_peer_xrlim_allow).
    let (mut kernel, mut shunt) = (kernel.clone(), shunt.clone());
    if kernel.len() != shunt.len() {
        kernel.retain(|(_, frame)| !is_redirect(frame));
        shunt.retain(|(_, frame)| !is_redirect(frame));
    }
    if kernel.len() != shunt.len() {
        return Verdict::Differ(format!("{} frames of the kernel, {} of shunt", kernel.len(), shunt.len()));
    }
    let before = sent.clone().map(|sent| sent.map(|(_, frame)| numbers(&frame)).unwrap_or_default());
    let source = sent[0].as_ref().and_then(|(_, frame)| parts(frame, 14)).map(|parts| parts.source);
    let by_client = source == Some(talk.client.address);
    for ((port, one), (other_port, other)) in kernel.iter().zip(&shunt) {
        if port != other_port {
            return Verdict::Differ(format!("out by p{port} and p{other_port}"));
        }
        if let Err(why) = alike(talk, one, other, &before, by_client, pairs) {
            return Verdict::Differ(why);
        }
    }
    Verdict::Same
}

fn alike(
    talk: &Talk,
    one: &[u8],
    other: &[u8],
    before: &[Vec<u16>; 2],
    by_client: bool,
    pairs: &mut Pairs,
) -> Result<(), String> {
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
                pairs.allow(talk, a, b, before, by_client)?;
                seen[at..at + 2].copy_from_slice(&one[at..at + 2]);
            }
        }
    }
    if same == seen { Ok(()) } else { Err("frames differ".to_owned()) }
}

impl Pairs {
    fn allow(
        &mut self,
        talk: &Talk,
        kernel: u16,
        shunt: u16,
        before: &[Vec<u16>; 2],
        by_client: bool,
    ) -> Result<(), String> {
        let Talk { protocol, client, server, .. } = talk;
        let (client, server) = ((client.address, client.number), (server.address, server.number));
        let of_source = (*protocol, client, kernel);
        let of_talk = (*protocol, client, server, kernel);
        let source_before = || self.of_sources.get(&of_source).filter(|_| by_client);
        if let Some(known) = self.of_talks.get(&of_talk).or_else(source_before) {
            let known = *known;
            self.of_talks.insert(of_talk, known);
            return if known == shunt { Ok(()) } else { Err(format!("port {shunt}, but before it was {known}")) };
        }
        if before[0].contains(&kernel) || before[1].contains(&shunt) {
            return Err(format!("ports {kernel} and {shunt}, one of which is what it was before"));
        }
        if !are_of_one_class(kernel, shunt, talk.protocol) {
            return Err(format!("ports {kernel} and {shunt} are of two classes"));
        }
        self.of_talks.insert(of_talk, shunt);
        if by_client {
            self.of_sources.insert(of_source, shunt);
        }
        Ok(())
    }
}

/// `nf_nat_l4proto_unique_tuple`. Identifiers of ICMP are all of one class, and rules have no ranges for them.
fn are_of_one_class(kernel: u16, shunt: u16, protocol: u8) -> bool {
    if matches!(protocol, 1 | 58) {
        return true;
    }
    if let Some((first, last)) = PORT_RANGES.into_iter().find(|(first, last)| (*first..=*last).contains(&kernel)) {
        return (first..=last).contains(&shunt);
    }
    let class = |port: u16| match port {
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
    let addresses = match (parts.protocol, parts.source) {
        (1, _) => &[][..],
        (_, IpAddr::V4(_)) => &frame[start + 12..start + 20],
        (_, IpAddr::V6(_)) => &frame[start + 8..start + 40],
    };
    let length = frame.len() - parts.body;
    let pseudo = folded(addresses, if parts.protocol == 1 { 0 } else { u32::from(parts.protocol) + length as u32 });
    // Of the router's own segments, which leave the rest to the device (CHECKSUM_PARTIAL).
    if parts.protocol != 1 && frame[at..at + 2] == pseudo.to_be_bytes() {
        return 0xffff;
    }
    folded(&frame[parts.body..], pseudo.into())
}

fn folded(bytes: &[u8], start: u32) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    let mut sum = start + bytes.chunks(2).map(word).sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::super::frames;
    use super::super::{End, From, Heard, Step, What};
    use super::*;

    const STEP: Step = Step { from: From::Client, what: What::Data, ttl: 64, tos: 0, fill: 24, bad_sum: false };

    fn talk(number: u16) -> Talk {
        let end = |address: [u8; 4], number| End { port: 0, address: address.into(), number };
        let (client, server) = (end([198, 19, 1, 1], number), end([198, 18, 7, 9], 53));
        Talk { protocol: 17, client, server, start: 0, steps: vec![STEP] }
    }

    /// What a client with this port sends, as if a router had translated it to that.
    fn frame(number: u16, step: Step) -> Vec<u8> {
        frames::frame(&talk(number), &step, 7, &Heard::default()).unwrap().1
    }

    fn verdict(pairs: &mut Pairs, kernel: &[u8], shunt: &[u8]) -> Verdict {
        let sent = Some((0, frame(4000, STEP)));
        compare(&talk(4000), &[sent.clone(), sent], &vec![(1, kernel.to_vec())], &vec![(1, shunt.to_vec())], pairs)
    }

    fn same(pairs: &mut Pairs, kernel: &[u8], shunt: &[u8]) -> bool {
        matches!(verdict(pairs, kernel, shunt), Verdict::Same)
    }

    #[test]
    fn a_port_drawn_at_random_stands_for_the_other_from_then_on() {
        let mut pairs = Pairs::default();
        assert!(same(&mut pairs, &frame(4000, STEP), &frame(4000, STEP)));
        assert!(same(&mut pairs, &frame(50000, STEP), &frame(51000, STEP)));
        assert!(same(&mut pairs, &frame(50000, STEP), &frame(51000, STEP)));
        assert!(!same(&mut pairs, &frame(50000, STEP), &frame(51001, STEP)));
    }

    #[test]
    fn no_other_difference_is_allowed() {
        let mut pairs = Pairs::default();
        assert!(!same(&mut pairs, &frame(4000, STEP), &frame(51000, STEP)), "the kernel keeps the port");
        assert!(!same(&mut pairs, &frame(50000, STEP), &frame(4000, STEP)), "shunt keeps the port");
        assert!(!same(&mut pairs, &frame(50000, STEP), &frame(500, STEP)), "another class");
        assert!(!same(&mut pairs, &frame(20005, STEP), &frame(51000, STEP)), "out of the range of a rule");
        assert!(!same(&mut pairs, &frame(50000, STEP), &frame(51000, Step { ttl: 63, ..STEP })));
        assert!(!same(&mut pairs, &frame(50000, STEP), &frame(51000, Step { bad_sum: true, ..STEP })), "a wrong sum");
        let (bad, other) = (Step { bad_sum: true, ..STEP }, Step { fill: 25, ..STEP });
        assert!(same(&mut pairs, &frame(50000, bad), &frame(51000, bad)), "as wrong as it was");
        assert!(!same(&mut pairs, &frame(50000, STEP), &frame(51000, other)));
        let silence = compare(&talk(4000), &[None, None], &vec![], &vec![(1, frame(4000, STEP))], &mut pairs);
        assert!(matches!(silence, Verdict::Differ(_)));
    }
}
