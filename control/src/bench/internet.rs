//! Prefixes of the lengths that BGP carries, the same from the same seed on every machine.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

const SEED: u64 = 1;

/// Of a thousand prefixes so many have this length, about as the routing table of the Internet has it.
const LENGTHS: [(u8, u32); 13] = [
    (24, 610),
    (23, 100),
    (22, 110),
    (21, 52),
    (20, 45),
    (19, 27),
    (18, 15),
    (17, 9),
    (16, 14),
    (15, 6),
    (14, 6),
    (13, 4),
    (12, 2),
];

/// An IPv4 network.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Network {
    pub address: Ipv4Addr,
    pub length: u8,
}

/// So many networks, in no order, none of them one of the lab's.
pub fn networks(count: usize) -> Vec<Network> {
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut seen = BTreeSet::new();
    let mut networks = Vec::with_capacity(count);
    while networks.len() < count {
        let length = length(&LENGTHS, &mut random);
        let address = Ipv4Addr::from_bits(random.u32(..) & u32::MAX << (32 - length));
        let network = Network { address, length };
        if is_public(address) && seen.insert(network) {
            networks.push(network);
        }
    }
    networks
}

/// Addresses in random ones of these networks.
pub fn destinations(networks: &[Network], count: usize) -> Vec<Ipv4Addr> {
    let mut random = fastrand::Rng::with_seed(SEED + 1);
    let inside = |_| {
        let Network { address, length } = networks[random.usize(..networks.len())];
        Ipv4Addr::from_bits(address.to_bits() | random.u32(..) & (u32::MAX >> length))
    };
    (0..count).map(inside).collect()
}

/// A length of which so many of all prefixes are.
pub fn length(lengths: &[(u8, u32)], random: &mut fastrand::Rng) -> u8 {
    let mut rank = random.u32(..lengths.iter().map(|(_, share)| share).sum::<u32>());
    for (length, share) in lengths {
        if rank < *share {
            return *length;
        }
        rank -= share;
    }
    24
}

/// Neither reserved nor of a /8 that has something of the lab in it.
fn is_public(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    (1..224).contains(&first) && ![10, 100, 127, 169, 172, 192, 198, 203].contains(&first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_those_of_bgp_and_destinations_are_inside() {
        assert_eq!(LENGTHS.iter().map(|(_, share)| share).sum::<u32>(), 1000);
        let networks = networks(10_000);
        let longest = networks.iter().filter(|network| network.length == 24).count();
        assert!((5_000..7_500).contains(&longest), "{longest} of 10000 are /24");
        assert_eq!(networks[..5], super::networks(5), "the same from the same seed");
        let inside = |address: Ipv4Addr| {
            networks.iter().any(|one| address.to_bits() & u32::MAX << (32 - one.length) == one.address.to_bits())
        };
        assert!(destinations(&networks, 100).into_iter().all(inside));
    }
}
