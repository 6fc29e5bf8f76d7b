//! Which leg of a multipath route a packet takes: the kernel's hash and its bounds.
//!
//! With `net.ipv4.fib_multipath_hash_seed` set, each flow takes the very leg that the kernel would choose. Without it the kernel
//! draws a seed at boot and tells nobody, so the spread is the same and the leg of a given flow is as arbitrary as the kernel's.

use std::net::IpAddr;

use crate::config::{HashPolicy, Spreading};
use crate::names::Family;
use crate::outcome::{PuntReason, Stop};
use crate::query::Query;

/// Ours while the operator has set none.
const OWN_SEED: u32 = 0x5eed_0001;

const ICMPV6: u8 = 58;

/// Bits of `fib_multipath_hash_fields`.
mod field {
    pub(super) const SOURCE: u32 = 1;
    pub(super) const DESTINATION: u32 = 1 << 1;
    pub(super) const PROTOCOL: u32 = 1 << 2;
    pub(super) const FLOW_LABEL: u32 = 1 << 3;
    pub(super) const SOURCE_PORT: u32 = 1 << 4;
    pub(super) const DESTINATION_PORT: u32 = 1 << 5;
    /// All that belong to the packet itself; those above belong to one inside of it.
    pub(super) const OUTER: u32 = (1 << 6) - 1;
}

/// The hash of a packet, 31 bits (`fib_multipath_hash`, `rt6_multipath_hash`). `dissected` is whether a rule made the kernel
/// dissect the packet's ports before, which shows in ICMPv6 (`ip6_route_input` hands the result on for that alone).
///
/// # Errors
///
/// A punt where the hash depends on headers inside of the packet.
pub(crate) fn hash(query: &Query, spreading: &Spreading, dissected: bool) -> Result<u32, Stop> {
    let family = query.family();
    let policy = match family {
        Family::V4 => spreading.policy4,
        Family::V6 => spreading.policy6,
    };
    let inside = Err(Stop::Punt(PuntReason::MultipathInner));
    let v6 = family == Family::V6;
    // The dissector's label is in host order, the header's is not.
    let label = |host: bool| if host { query.flow_label } else { query.flow_label.to_be() };
    let keys = match policy {
        HashPolicy::L3 if query.is_icmp_error() => return inside,
        HashPolicy::L3 if v6 => {
            let label = label(dissected && query.protocol == ICMPV6);
            Keys { protocol: query.protocol, label, ..Keys::addresses(query) }
        }
        HashPolicy::L3 => Keys::addresses(query),
        HashPolicy::L4 => Keys { protocol: query.protocol, ports: query.dissected_ports(), ..Keys::addresses(query) },
        HashPolicy::Inner if query.is_encapsulation() => return inside,
        HashPolicy::Inner if v6 => Keys { protocol: query.protocol, label: label(true), ..Keys::addresses(query) },
        HashPolicy::Inner => Keys::addresses(query),
        HashPolicy::Custom(fields) if fields & !field::OUTER != 0 && query.is_encapsulation() => return inside,
        HashPolicy::Custom(fields) => {
            let outer = match fields & field::OUTER {
                0 => 0,
                fields => Keys::chosen(query, fields).hash(spreading),
            };
            return Ok(jhash_two_words(outer, 0) >> 1);
        }
        HashPolicy::Unknown => return inside,
    };
    Ok(keys.hash(spreading) >> 1)
}

/// What goes into the hash (`struct flow_keys`).
struct Keys {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    /// As the number stands in memory.
    label: u32,
    ports: (u16, u16),
}

impl Keys {
    fn addresses(query: &Query) -> Self {
        let Query { source, destination, .. } = *query;
        Keys { source, destination, protocol: 0, label: 0, ports: (0, 0) }
    }

    fn chosen(query: &Query, fields: u32) -> Self {
        let has = |bit| fields & bit != 0;
        let none = match query.family() {
            Family::V4 => IpAddr::from([0; 4]),
            Family::V6 => IpAddr::from([0; 16]),
        };
        let (source_port, destination_port) = query.dissected_ports();
        Keys {
            source: if has(field::SOURCE) { query.source } else { none },
            destination: if has(field::DESTINATION) { query.destination } else { none },
            protocol: if has(field::PROTOCOL) { query.protocol } else { 0 },
            label: if has(field::FLOW_LABEL) { query.flow_label } else { 0 },
            ports: (
                if has(field::SOURCE_PORT) { source_port } else { 0 },
                if has(field::DESTINATION_PORT) { destination_port } else { 0 },
            ),
        }
    }

    /// `flow_hash_from_keys_seed`: both directions of a flow have one hash, so the smaller address and port come first.
    fn hash(&self, spreading: &Spreading) -> u32 {
        // Offsets in struct flow_keys from `basic`: protocol 2, flow label 4, then VLANs and key id which are never set here,
        // ports 28, ICMP 32, addresses 36.
        let mut bytes = [0u8; 72];
        bytes[2] = self.protocol;
        bytes[4..8].copy_from_slice(&self.label.to_ne_bytes());
        // The kernel compares the numbers as they stand in memory.
        let (a, b) = (self.ports.0.to_be(), self.ports.1.to_be());
        let (first, second) = if b < a { (b, a) } else { (a, b) };
        bytes[28..30].copy_from_slice(&first.to_ne_bytes());
        bytes[30..32].copy_from_slice(&second.to_ne_bytes());
        let length = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let (a, b) = (u32::from_ne_bytes(source.octets()), u32::from_ne_bytes(destination.octets()));
                let (first, second) = if b < a { (b, a) } else { (a, b) };
                bytes[36..40].copy_from_slice(&first.to_ne_bytes());
                bytes[40..44].copy_from_slice(&second.to_ne_bytes());
                // With what the compiler adds to the struct behind the addresses.
                48
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let (mut first, mut second) = (source.octets(), destination.octets());
                if second < first {
                    std::mem::swap(&mut first, &mut second);
                }
                bytes[36..52].copy_from_slice(&first);
                bytes[52..68].copy_from_slice(&second);
                72
            }
            // A query's addresses are of one family.
            _ => 0,
        };
        let seed = u64::from(spreading.seed.unwrap_or(OWN_SEED));
        let key = seed << 32 | seed;
        // 0 stands for "not hashed".
        (siphash(&bytes[..length], key, key) as u32).max(1)
    }
}

/// SipHash-2-4 (Aumasson, Bernstein 2012), as in the kernel's `lib/siphash.c`.
fn siphash(bytes: &[u8], key0: u64, key1: u64) -> u64 {
    let mut v = [
        0x736f_6d65_7073_6575 ^ key0,
        0x646f_7261_6e64_6f6d ^ key1,
        0x6c79_6765_6e65_7261 ^ key0,
        0x7465_6462_7974_6573 ^ key1,
    ];
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        let word = word.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        v[3] ^= word;
        sip_rounds(&mut v, 2);
        v[0] ^= word;
    }
    let last = words.remainder().iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    let last = last | (bytes.len() as u64) << 56;
    v[3] ^= last;
    sip_rounds(&mut v, 2);
    v[0] ^= last;
    v[2] ^= 0xff;
    sip_rounds(&mut v, 4);
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

fn sip_rounds(v: &mut [u64; 4], rounds: u32) {
    for _ in 0..rounds {
        v[0] = v[0].wrapping_add(v[1]);
        v[1] = v[1].rotate_left(13) ^ v[0];
        v[0] = v[0].rotate_left(32);
        v[2] = v[2].wrapping_add(v[3]);
        v[3] = v[3].rotate_left(16) ^ v[2];
        v[0] = v[0].wrapping_add(v[3]);
        v[3] = v[3].rotate_left(21) ^ v[0];
        v[2] = v[2].wrapping_add(v[1]);
        v[1] = v[1].rotate_left(17) ^ v[2];
        v[2] = v[2].rotate_left(32);
    }
}

/// `jhash_2words` with an initial value of 0 (Jenkins 2006, lookup3).
fn jhash_two_words(first: u32, second: u32) -> u32 {
    let start = 0xdead_beefu32.wrapping_add(2 << 2);
    let (mut a, mut b, mut c) = (first.wrapping_add(start), second.wrapping_add(start), start);
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}

/// Upper bounds of the hash for each leg, by weight (`fib_rebalance`, `rt6_multipath_rebalance`, `nh_hthr_group_rebalance`):
/// the first leg whose bound is not below the hash is taken. A leg of weight 0 has none.
pub(crate) fn bounds(weights: impl Iterator<Item = u32> + Clone) -> impl Iterator<Item = Option<u32>> {
    let total: u64 = weights.clone().map(u64::from).sum();
    let mut sum = 0;
    weights.map(move |weight| {
        sum += u64::from(weight);
        // DIV_ROUND_CLOSEST_ULL(sum << 31, total) - 1
        (weight != 0).then(|| (((sum << 31) + total / 2) / total - 1) as u32)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siphash_is_that_of_the_paper() {
        // Appendix A: key 00..0f, message 00..0e.
        let message: Vec<u8> = (0..15).collect();
        let hash = siphash(&message, 0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908);
        assert_eq!(hash, 0xa129_ca61_49be_45e5);
    }

    #[test]
    fn bounds_divide_the_hash_by_weight() {
        assert_eq!(bounds([1].into_iter()).collect::<Vec<_>>(), [Some(0x7fff_ffff)]);
        assert_eq!(bounds([1, 3].into_iter()).collect::<Vec<_>>(), [Some(0x1fff_ffff), Some(0x7fff_ffff)]);
        assert_eq!(bounds([1, 0, 1].into_iter()).collect::<Vec<_>>(), [Some(0x3fff_ffff), None, Some(0x7fff_ffff)]);
    }
}
