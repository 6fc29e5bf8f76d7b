//! Tables of the Internet: real ones, filled up.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::Command;

use shunt_policy::{Family, Prefix};

/// Of Debian's python3-pyasn: what a route collector held on 2015-11-01, both families.
const TABLE: &str = "/usr/lib/python3/dist-packages/data/ipasn6_20151101.dat.gz";

/// The lab's own, and what no kernel forwards.
const RESERVED: [&str; 12] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "192.0.2.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/3",
    "2001:db8::/32",
    "fe80::/10",
    "ff00::/8",
    "::/8",
];

/// Prefixes of one family.
pub struct Internet {
    pub prefixes: Vec<Prefix>,
    /// How many of them were announced in the world.
    pub real: usize,
}

impl Internet {
    /// `size` prefixes: the real ones, and to fill up /24 and /48 networks split off them at random.
    ///
    /// # Panics
    ///
    /// Without the package.
    pub fn of(family: Family, size: usize) -> Internet {
        assert!(Path::new(TABLE).exists(), "{TABLE} is missing: install Debian's python3-pyasn");
        let output = Command::new("zcat").arg(TABLE).output().expect("zcat runs");
        let text = String::from_utf8(output.stdout).expect("a table is text");
        let reserved: Vec<Prefix> = RESERVED.iter().filter_map(|text| parse(text)).collect();
        let free = |prefix: &Prefix| {
            prefix.length() > 0
                && !reserved.iter().any(|r| r.contains(prefix.address()) || prefix.contains(r.address()))
        };
        let real = text.lines().filter_map(|line| parse(line.split('\t').next()?));
        let mut all: BTreeSet<Prefix> =
            real.filter(|prefix| prefix.family() == family).filter(free).take(size).collect();
        let whole: Vec<Prefix> = all.iter().filter(|prefix| prefix.length() < customary(family)).copied().collect();
        let real = all.len();
        let mut random = Random(1);
        while all.len() < size {
            let prefix = whole[random.below(whole.len() as u64) as usize];
            let split = inside(prefix, random.next());
            all.extend(Some(split).filter(free));
        }
        Internet { prefixes: all.into_iter().collect(), real }
    }
}

/// The longest prefixes that the Internet carries everywhere.
fn customary(family: Family) -> u8 {
    match family {
        Family::V4 => 24,
        Family::V6 => 48,
    }
}

/// A customary network in a larger one, chosen by `random`.
fn inside(prefix: Prefix, random: u64) -> Prefix {
    let address = match prefix.address() {
        IpAddr::V4(address) => {
            let host = (random as u32) & u32::MAX.checked_shr(prefix.length().into()).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() | host).into()
        }
        IpAddr::V6(address) => {
            let host = (u128::from(random) << 64) & u128::MAX.checked_shr(prefix.length().into()).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() | host).into()
        }
    };
    Prefix::new(address, customary(prefix.family())).expect("a customary length")
}

fn parse(text: &str) -> Option<Prefix> {
    let (address, length) = text.split_once('/')?;
    Prefix::new(address.parse().ok()?, length.parse().ok()?)
}

/// SplitMix64: the same table every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
