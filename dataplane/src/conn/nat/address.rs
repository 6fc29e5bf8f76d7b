//! Which address of a range (`find_best_ips_proto`): by a hash, so that a client keeps its address, even over restarts and on another
//! router. Words are as the kernel reads them: from network order in memory, by the machine's own order.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use shunt_policy::connection::{Manip, Tuple};

/// The address for one end of this tuple out of the inclusive range.
pub(super) fn choose(tuple: &Tuple, manip: Manip, (first, last): (IpAddr, IpAddr), persistent: bool) -> IpAddr {
    if first == last {
        return first;
    }
    let (minimum, maximum) = (words(first), words(last));
    let mut destination = words(tuple.destination.address);
    let used = if first.is_ipv4() { 1 } else { 4 };
    let seed = if persistent { 0 } else { destination[used - 1] };
    let mut hash = jhash2(words(tuple.source.address), seed);
    let mut chosen = [0; 4];
    let mut whole = false;
    for place in 0..used {
        let (low, span) = match whole {
            false => {
                let (low, high) = (u32::from_be(minimum[place]), u32::from_be(maximum[place]));
                (low, high.wrapping_sub(low).wrapping_add(1))
            }
            true => (0, u32::MAX),
        };
        chosen[place] = low.wrapping_add(((u64::from(hash) * u64::from(span)) >> 32) as u32).to_be();
        whole |= chosen[place] != maximum[place];
        // The kernel writes into the tuple that it reads here.
        if manip == Manip::Destination {
            destination[place] = chosen[place];
        }
        if !persistent {
            hash ^= destination[place];
        }
    }
    address(chosen, first.is_ipv4())
}

fn words(address: IpAddr) -> [u32; 4] {
    match address {
        IpAddr::V4(address) => [u32::from_ne_bytes(address.octets()), 0, 0, 0],
        IpAddr::V6(address) => {
            let octets = address.octets();
            std::array::from_fn(|place| {
                let at = place * 4;
                u32::from_ne_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]])
            })
        }
    }
}

fn address(words: [u32; 4], v4: bool) -> IpAddr {
    if v4 {
        return IpAddr::V4(Ipv4Addr::from(words[0].to_ne_bytes()));
    }
    let mut octets = [0; 16];
    for (octets, word) in octets.chunks_exact_mut(4).zip(words) {
        octets.copy_from_slice(&word.to_ne_bytes());
    }
    IpAddr::V6(Ipv6Addr::from(octets))
}

/// Bob Jenkins' lookup3 over four words, as `jhash2` of linux/jhash.h defines it.
fn jhash2(words: [u32; 4], seed: u32) -> u32 {
    let start = 0xdead_beef_u32.wrapping_add(4 << 2).wrapping_add(seed);
    let (mut a, mut b, mut c) =
        (start.wrapping_add(words[0]), start.wrapping_add(words[1]), start.wrapping_add(words[2]));
    for (subtract, rotate) in [(0, 4), (1, 6), (2, 8), (0, 16), (1, 19), (2, 4)] {
        let (x, y, z) = match subtract {
            0 => (&mut a, &mut b, &mut c),
            1 => (&mut b, &mut c, &mut a),
            _ => (&mut c, &mut a, &mut b),
        };
        *x = x.wrapping_sub(*z) ^ z.rotate_left(rotate);
        *z = z.wrapping_add(*y);
    }
    a = a.wrapping_add(words[3]);
    for (turn, rotate) in [(0, 14), (1, 11), (2, 25), (0, 16), (1, 4), (2, 14), (0, 24)] {
        let (x, y) = match turn {
            0 => (&mut c, b),
            1 => (&mut a, c),
            _ => (&mut b, a),
        };
        *x = (*x ^ y).wrapping_sub(y.rotate_left(rotate));
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;
    use shunt_policy::connection::Endpoint;

    fn tuple(source: IpAddr, destination: IpAddr) -> Tuple {
        let end = |address| Endpoint { address, port: 1 };
        Tuple { source: end(source), destination: end(destination), protocol: 6 }
    }

    #[test]
    fn the_hash_is_lookup3() {
        assert_eq!(jhash2([1, 2, 3, 4], 0), 0x6649_1246);
        assert_eq!(jhash2([0; 4], 0), 0xbaf9_078c);
        assert_eq!(jhash2([1, 2, 3, 4], 0x0102_0304), 0xf479_0d87);
    }

    /// Seen of Linux 6.18, with `snat to FIRST-LAST`, `... persistent` and `dnat to ...`.
    #[test]
    fn linux_chooses_the_same() {
        let v4 = ("203.0.113.10", "203.0.113.210");
        let v6 = ("2001:db8:ff::10", "2001:db8:ff::2:3:ffff");
        let (source, destination) = (Manip::Source, Manip::Destination);
        for (range, manip, persistent, from, to, chosen) in [
            (v4, source, false, "192.0.2.162", "198.51.100.199", "203.0.113.91"),
            (v4, source, false, "192.0.2.145", "198.51.100.76", "203.0.113.41"),
            (v4, source, true, "192.0.2.81", "198.51.100.109", "203.0.113.72"),
            (v4, source, true, "192.0.2.41", "198.51.100.213", "203.0.113.49"),
            (v4, destination, false, "192.0.2.214", "198.51.100.180", "203.0.113.87"),
            (v4, destination, false, "192.0.2.184", "198.51.100.215", "203.0.113.187"),
            (v6, source, false, "2001:db8:1::876f", "2001:db8:2::9378", "2001:db8:ff::1:8e50:50f5"),
            (v6, source, false, "2001:db8:1::9e81", "2001:db8:2::2b22", "2001:db8:ff::2:3:49d6"),
            (v6, source, true, "2001:db8:1::a53b", "2001:db8:2::e3e6", "2001:db8:ff::44b7:6515"),
            (v6, source, true, "2001:db8:1::d886", "2001:db8:2::7fa5", "2001:db8:ff::1:a94c:941f"),
            (v6, destination, false, "2001:db8:1::2f73", "2001:db8:2::3302", "2001:db8:ff::1:9de6:b2fe"),
            (v6, destination, false, "2001:db8:1::ec97", "2001:db8:2::cad2", "2001:db8:ff::2:3:f170"),
        ] {
            let range = (range.0.parse().unwrap(), range.1.parse().unwrap());
            let tuple = tuple(from.parse().unwrap(), to.parse().unwrap());
            assert_eq!(choose(&tuple, manip, range, persistent).to_string(), chosen);
        }
    }

    #[test]
    fn addresses_stay_in_the_range_and_clients_keep_theirs() {
        let range = ("203.0.113.10".parse().unwrap(), "203.0.113.13".parse().unwrap());
        let mut seen = std::collections::BTreeSet::new();
        for client in 1..=200u8 {
            let client = IpAddr::from([192, 0, 2, client]);
            let choose = |to: [u8; 4], persistent| choose(&tuple(client, to.into()), Manip::Source, range, persistent);
            let chosen = choose([198, 51, 100, 1], true);
            assert!(range.0 <= chosen && chosen <= range.1);
            assert_eq!(chosen, choose([198, 51, 100, 77], true));
            seen.insert(choose([198, 51, 100, 1], false));
        }
        assert_eq!(seen.len(), 4);
    }

    #[test]
    fn ipv6_ranges_are_kept_word_by_word() {
        let range: (IpAddr, IpAddr) = ("2001:db8::10".parse().unwrap(), "2001:db8::2:ffff".parse().unwrap());
        for client in 1..=200u16 {
            let client = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, client).into();
            let chosen = choose(&tuple(client, "2001:db8:2::1".parse().unwrap()), Manip::Source, range, false);
            assert!(range.0 <= chosen && chosen <= range.1, "{chosen}");
        }
    }
}
