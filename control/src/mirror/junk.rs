//! Messages of the kernel's, damaged in every way: no decoder panics, and what cannot be decoded is said to be so.
//!
//! `junk/*.bin` are dumps as a kernel gave them (6.18), of a namespace that has some of everything: links, addresses, neighbours,
//! rules, routes, nexthop objects and buckets, qdiscs; connections; IPsec policies.

use std::collections::BTreeMap;

use super::attributes::HEADER;
use super::decode::{self, Undecodable};
use super::netlink::{self, each_message};
use super::{TableNames, raw};

const ROUTE: &[u8] = include_bytes!("junk/route.bin");
const CONNTRACK: &[u8] = include_bytes!("junk/conntrack.bin");
const XFRM: &[u8] = include_bytes!("junk/xfrm.bin");
const MESSAGES: usize = 1_000_000;

fn messages(dump: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    each_message(dump, |_, message| {
        all.push(message.to_vec());
        Ok(())
    })
    .unwrap();
    all
}

/// What the mirror does with a message of the route protocol.
fn decoded(kind: u16, message: &[u8], names: &TableNames) -> Result<(), Undecodable> {
    match kind {
        16 | 36 => netlink::decoded(message).map(drop).ok_or(Undecodable("link or qdisc")),
        20 => decode::address(message).map(drop),
        24 => decode::route(message).map(drop),
        28 => decode::neighbour(message).map(drop),
        32 => decode::rule(message, names).map(drop),
        104 => decode::nexthop(message).map(drop),
        116 => decode::bucket(message).map(drop),
        _ => Ok(()),
    }
}

/// As in Marsaglia's Xorshift RNGs.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 16) as usize % bound
    }

    /// Bytes flipped, set to what lengths and types are made of, cut off, doubled, added.
    fn damage(&mut self, message: &mut Vec<u8>, others: &[Vec<u8>]) {
        for _ in 0..=self.below(4) {
            let at = self.below(message.len().max(1));
            match self.below(6) {
                0 if at < message.len() => message[at] ^= 1 << self.below(8),
                1 if at < message.len() => message[at] = [0, 1, 3, 4, 5, 0x7f, 0x80, 0xff][self.below(8)],
                2 => message.truncate(at),
                3 => message.extend(self.next().to_le_bytes()),
                4 => {
                    let other = &others[self.below(others.len())];
                    let from = self.below(other.len());
                    message.splice(at.., other[from..].iter().copied());
                }
                _ => {
                    let piece = message[at..message.len().min(at + 12)].to_vec();
                    message.splice(at..at, piece);
                }
            }
        }
        // Mostly the header's length is right, so that decoders see the message and not only the walk over the datagram.
        if self.below(8) != 0 && message.len() >= HEADER {
            let length = message.len() as u32;
            message[..4].copy_from_slice(&length.to_ne_bytes());
        }
    }
}

#[test]
fn the_dumps_are_decoded_as_they_are() {
    let names = TableNames::default();
    let mut seen: BTreeMap<u16, usize> = BTreeMap::new();
    each_message(ROUTE, |header, message| {
        assert_eq!(decoded(header.message_type(), message, &names), Ok(()));
        *seen.entry(header.message_type()).or_default() += 1;
        Ok(())
    })
    .unwrap();
    assert_eq!(seen.into_keys().collect::<Vec<_>>(), [16, 20, 24, 28, 32, 36, 104, 116]);
    assert_eq!(messages(XFRM).iter().map(|message| raw::policy_families(message).len()).collect::<Vec<_>>(), [1, 1]);
}

#[test]
fn a_million_damaged_messages_are_decoded_or_refused() {
    let names = TableNames::default();
    let seeds = messages(ROUTE);
    let others = [messages(CONNTRACK), messages(XFRM)].concat();
    let mut random = Random(0x005d_eece_66d1_2345);
    let (mut fine, mut refused): (BTreeMap<u16, u64>, BTreeMap<u16, u64>) = Default::default();
    for number in 0..MESSAGES {
        if number % 16 == 0 {
            let mut message = others[random.below(others.len())].clone();
            random.damage(&mut message, &others);
            raw::policy_families(&message);
            continue;
        }
        let seed = &seeds[random.below(seeds.len())];
        let kind = u16::from_ne_bytes([seed[4], seed[5]]);
        let mut message = seed.clone();
        random.damage(&mut message, &seeds);
        let _ = each_message(&message, |_, one| {
            let count = if decoded(kind, one, &names).is_ok() { &mut fine } else { &mut refused };
            *count.entry(kind).or_default() += 1;
            Ok(())
        });
    }
    // Both happen, to every kind: else it would be no test of either.
    assert!(fine.len() == 8 && fine.values().all(|count| *count > 1000), "{fine:?}");
    assert!(refused.len() == 8 && refused.values().all(|count| *count > 1000), "{refused:?}");
}
