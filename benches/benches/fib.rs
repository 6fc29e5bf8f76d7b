//! Longest-prefix match at the size of the Internet: look-ups in bulk and one by one, and changes.
//!
//! With `FIB_TABLE` set, the IPv4 table and the addresses that are looked up are left in that file, for `peers/rte_fib.c`.

// Its destinations and tests are for others.
#[path = "../../control/src/bench/internet.rs"]
#[allow(dead_code, unused_imports)]
mod internet;

use std::collections::HashSet;
use std::fmt::Write;
use std::hint::black_box;
use std::net::IpAddr;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fastrand::Rng;
use internet::{length, networks};
use shunt_policy::fib::{Fib, aligned, aligned_address};
use shunt_policy::{Family, Prefix};

const ROUTES4: usize = 1_000_000;
const ROUTES6: usize = 200_000;
const ADDRESSES: usize = 1 << 20;

/// Next hops.
const WAYS: u32 = 200;

/// Lengths of prefixes, and how many of a thousand have them: as in the tables of 2024.
const LENGTHS6: [(u8, u32); 9] =
    [(48, 470), (32, 130), (44, 110), (40, 100), (36, 60), (29, 40), (46, 40), (47, 30), (33, 20)];

/// So many different ones.
fn prefixes(family: Family, count: usize, random: &mut Rng) -> Vec<Prefix> {
    let prefix = |address: IpAddr, length| Prefix::new(address, length).expect("a length of the family");
    if family == Family::V4 {
        return networks(count).iter().map(|network| prefix(network.address.into(), network.length)).collect();
    }
    // As if 2000::/12 were all there is, in blocks of /32.
    let any = |random: &mut Rng| {
        let block = u128::from(random.u32(..30_000).wrapping_mul(0x9e37_79b1) >> 12);
        let address = 0x2000u128 << 112 | block << 96 | random.u128(..) >> 32;
        prefix(IpAddr::V6(address.into()), length(&LENGTHS6, random))
    };
    let mut seen = HashSet::new();
    std::iter::repeat_with(|| any(random)).filter(|prefix| seen.insert(*prefix)).take(count).collect()
}

struct Bench {
    prefixes: Vec<Prefix>,
    fib: Fib<u32>,
    /// Half of them in prefixes of the table, half in others.
    addresses: Vec<u128>,
}

impl Bench {
    fn new(family: Family, routes: usize) -> Bench {
        let mut random = Rng::with_seed(1);
        let mut prefixes = prefixes(family, 2 * routes, &mut random);
        let mut fib = Fib::default();
        for prefix in &prefixes[..routes] {
            fib.insert(*prefix, random.u32(..WAYS));
        }
        let host = |prefix: Prefix, random: &mut Rng| {
            let bits = aligned_address(IpAddr::V6(random.u128(..).into())) >> prefix.length();
            aligned(prefix) | if family == Family::V4 { bits >> 96 << 96 } else { bits }
        };
        let addresses = (0..ADDRESSES).map(|_| host(prefixes[random.usize(..2 * routes)], &mut random)).collect();
        prefixes.truncate(routes);
        Bench { prefixes, fib, addresses }
    }

    fn value(&self, address: u128) -> u32 {
        self.fib.lookup(address, |_, value| Some(value)).unwrap_or(0)
    }

    /// A line for each prefix (`network length value`), then one for each address.
    fn text(&self) -> String {
        let mut text = format!("{} {}\n", self.prefixes.len(), self.addresses.len());
        for prefix in &self.prefixes {
            let value = self.fib.get(*prefix).copied().unwrap_or(0);
            let _ = writeln!(text, "{} {} {value}", aligned(*prefix) >> 96, prefix.length());
        }
        for address in &self.addresses {
            let _ = writeln!(text, "{} {}", address >> 96, self.value(*address));
        }
        text
    }
}

fn look_ups(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fib");
    group.sample_size(20).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    for (name, family, routes) in [("IPv4", Family::V4, ROUTES4), ("IPv6", Family::V6, ROUTES6)] {
        let bench = Bench::new(family, routes);
        if family == Family::V4
            && let Ok(path) = std::env::var("FIB_TABLE")
        {
            std::fs::write(&path, bench.text()).unwrap_or_else(|error| panic!("{path}: {error}"));
        }
        group.throughput(Throughput::Elements(ADDRESSES as u64));
        group.bench_function(format!("{name}, {routes} routes, in bulk"), |bencher| {
            // In bulks of 64, as `peers/rte_fib.c` does.
            let (bulks, _) = bench.addresses.as_chunks::<64>();
            let bulk = |addresses| {
                let mut sum = 0;
                bench.fib.longest_of(addresses, |_, found| sum += found.map_or(0, |(_, value)| u64::from(value)));
                sum
            };
            bencher.iter(|| bulks.iter().map(bulk).sum::<u64>());
        });
        group.bench_function(format!("{name}, {routes} routes, one by one"), |bencher| {
            bencher.iter(|| bench.addresses.iter().map(|address| u64::from(bench.value(*address))).sum::<u64>());
        });
        group.throughput(Throughput::Elements(1));
        let (mut at, mut before) = (0, 0);
        group.bench_function(format!("{name}, {routes} routes, each after the other"), |bencher| {
            bencher.iter(|| {
                // What is asked for hangs on the last answer.
                at = (at + 1) % ADDRESSES;
                before = bench.value(bench.addresses[at] ^ u128::from(black_box(before) >> 31) << 127);
                before
            });
        });
        let mut fib = bench.fib.clone();
        let mut random = Rng::with_seed(2);
        group.bench_function(format!("{name}, {routes} routes, one changed, one copy kept"), |bencher| {
            bencher.iter(|| {
                let before = fib.clone();
                fib.insert(bench.prefixes[random.usize(..routes)], random.u32(..WAYS));
                before
            });
        });
    }
    group.finish();
}

criterion_group!(fib, look_ups);
criterion_main!(fib);
