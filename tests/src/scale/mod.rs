//! The mirror at the size of the Internet: how long until it is complete, what a route costs in memory, how fast a change shows.
//!
//! Told on [`TwoWays`]: a hundred next hops stand behind `eth1`, and the packets by which changes are seen go to an address that
//! leads by either way. What is measured is the whole: from the word to `ip` until a packet has arrived by the new way; and the
//! same of the kernel alone, which has to do its part in both cases.

mod figures;
mod internet;
mod kernel;
mod probe;
mod stall;
mod walk;

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use shunt_policy::{Family, Prefix};

use crate::lab::{Daemon, Namespace, TwoWays, machine};
pub use figures::Memory;
use figures::{Spread, mib, rounded};
use internet::Internet;
use probe::{Ip, Probe};

const ROUTES4: usize = 1_000_000;
const ROUTES6: usize = 200_000;
const NEXT_HOPS: usize = 100;
const RULES: usize = 10_000;
const TABLES: usize = 4_000;
const STARTS: usize = 3;
const CHANGES: usize = 200;
const SETTLING: Duration = Duration::from_secs(5);
/// Where the results are kept, from the root of the tree.
const RESULTS: &str = "benches/results/scale.json";
/// So that what takes packets by turns is one thing.
const ARGUMENTS: &str = "--workers 1";

/// Measures everything, tells it to `out` and writes the results.
///
/// # Errors
///
/// Of `out`, and of the file of results.
///
/// # Panics
///
/// Without root, and when something does not work at all.
pub fn run(out: &mut dyn Write) -> io::Result<()> {
    let machine = machine();
    let net = TwoWays::new();
    writeln!(out, "An empty router.")?;
    let (empty, empty_memory) = starts(&net);
    let internet = [Internet::of(Family::V4, ROUTES4), Internet::of(Family::V6, ROUTES6)];
    let real: usize = internet.iter().map(|family| family.real).sum();
    writeln!(out, "Filling the kernel: {ROUTES4} + {ROUTES6} routes, {real} of them real.")?;
    let filling = fill(&net.router, &internet);
    let kernel = Spread::of(STARTS, |_| kernel::dump(&net.router));
    let (full, memory) = starts(&net);
    let routes = (ROUTES4 + ROUTES6) as f64;
    let per_route = |bytes: u64| rounded(bytes.saturating_sub(empty_memory.now) as f64 / routes, 10.0);
    let mut results = json!({
        "machine": machine,
        "routes": { "ipv4": ROUTES4, "ipv6": ROUTES6, "real": real, "next_hops": NEXT_HOPS },
        "start_s": { "empty": empty.seconds(), "full": full.seconds(), "kernel_dump": kernel.seconds(),
                     "filling_the_kernel": rounded(filling.as_secs_f64(), 10.0) },
        "bytes_per_route": { "resident": per_route(memory.now), "peak_at_start": per_route(memory.peak) },
        "memory_mib": { "empty": mib(empty_memory.now), "full": mib(memory.now) },
    });
    writeln!(out, "{results:#}")?;

    results["kernel_change_us"] = route_changes(&net);
    writeln!(out, "The kernel alone: {:#}", results["kernel_change_us"])?;
    let shunt = settled(&net);
    results["change_us"] = route_changes(&net);
    writeln!(out, "{:#}", results["change_us"])?;
    results["resync"] = stall::resync(&net, &shunt, &internet[0].prefixes, |lines| batch(&net.router, lines));
    writeln!(out, "{:#}", results["resync"])?;
    assert_eq!(shunt.terminate().code, 0);

    writeln!(out, "{RULES} rules and {TABLES} tables besides.")?;
    add_rules(&net.router);
    let (ruled, ruled_memory) = starts(&net);
    let all_changes = || {
        let mut changes = route_changes(&net);
        changes["rule"] = rule_changes(&net);
        changes
    };
    let kernel_changes = all_changes();
    let shunt = settled(&net);
    let changes = all_changes();
    results["with_rules"] = json!({
        "rules": RULES, "tables": TABLES, "start_s": ruled.seconds(),
        "memory_mib": mib(ruled_memory.now),
        "change_us": changes,
        "kernel_change_us": kernel_changes,
        "decision_ns": { "without": walk::decision(0).as_nanos() as u64, "with": walk::decision(RULES).as_nanos() as u64 },
    });
    writeln!(out, "{:#}", results["with_rules"])?;
    assert_eq!(shunt.terminate().code, 0);

    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(RESULTS);
    std::fs::create_dir_all(path.parent().expect("a folder"))?;
    std::fs::write(&path, format!("{results:#}\n"))?;
    writeln!(out, "written to {RESULTS}")
}

/// From the start of the process until it forwards, and its memory then.
fn starts(net: &TwoWays) -> (Spread, Memory) {
    let mut memory = Vec::new();
    let spread = Spread::of(STARTS, |_| {
        let start = Instant::now();
        let shunt = net.router.start_shunt(ARGUMENTS);
        let took = start.elapsed();
        memory.push(Memory::of(shunt.id()));
        assert_eq!(shunt.terminate().code, 0);
        took
    });
    memory.sort_by_key(|memory| memory.now);
    (spread, memory[STARTS / 2])
}

/// A daemon that has looked once more at what its own start did to the routes.
fn settled(net: &TwoWays) -> Daemon {
    let shunt = net.router.start_shunt(ARGUMENTS);
    std::thread::sleep(SETTLING);
    shunt
}

fn fill(router: &Namespace, internet: &[Internet]) -> Duration {
    let hop = |number: usize, prefix: &Prefix| match prefix.family() {
        Family::V4 => format!("198.51.100.{}", 20 + number % NEXT_HOPS),
        Family::V6 => format!("2001:db8:2::{:x}", 0x100 + number % NEXT_HOPS),
    };
    let mut lines = String::new();
    for family in internet {
        for (number, prefix) in family.prefixes.iter().enumerate() {
            // Neighbouring prefixes are seldom of one mind.
            let via = hop(number.wrapping_mul(0x9e37_79b1) >> 7, prefix);
            lines += &format!("route add {prefix} via {via} dev eth1\n");
        }
    }
    batch(router, &lines)
}

fn add_rules(router: &Namespace) {
    let mut lines = String::new();
    for table in 0..TABLES {
        let via = 20 + table % NEXT_HOPS;
        lines += &format!("route add default via 198.51.100.{via} dev eth1 table {}\n", 1000 + table);
    }
    for rule in 0..RULES {
        let (high, low) = (rule / 256, rule % 256);
        let table = 1000 + rule % TABLES;
        lines += &format!("rule add priority {} from 198.19.{high}.{low} table {table}\n", 1000 + rule);
    }
    batch(router, &lines);
}

fn batch(router: &Namespace, lines: &str) -> Duration {
    let start = Instant::now();
    let mut ip = Ip::start(router);
    ip.say(lines);
    ip.finish();
    start.elapsed()
}

/// Each kind of change of one route, in microseconds until it shows.
fn route_changes(net: &TwoWays) -> Value {
    let mut all = Map::new();
    let families = [
        ("ipv4", TwoWays::SERVER, "32", ["198.51.100.10 dev eth1", "203.0.113.10 dev ppp0"]),
        ("ipv6", TwoWays::SERVER6, "128", ["2001:db8:2::10 dev eth1", "2001:db8:3::10 dev ppp0"]),
    ];
    for (name, server, bits, ways) in families {
        let probe = Probe::start(net, server);
        let mut ip = Ip::start(&net.router);
        let mut change = |host: usize, command: String| probe.until(host, || ip.say(&command));
        let route = format!("{server}/{bits}");
        // There and back: `add` and `del` by turns, then `replace` between both ways.
        let mut adds = Vec::new();
        let dels = Spread::of(CHANGES, |_| {
            adds.push(change(1, format!("route add {route} via {}", ways[1])));
            change(0, format!("route del {route} via {}", ways[1]))
        });
        change(1, format!("route add {route} via {}", ways[1]));
        let replaces = Spread::of(CHANGES, |at| change(at % 2, format!("route replace {route} via {}", ways[at % 2])));
        change(0, format!("route replace {route} via {}", ways[0]));
        ip.say(&format!("route del {route} via {}", ways[0]));
        let adds = Spread::of(CHANGES, |at| adds[at]);
        for (kind, spread) in [("add", adds), ("del", dels), ("replace", replaces)] {
            all.insert(format!("{name}_{kind}"), spread.microseconds());
        }
    }
    all.into()
}

/// A rule in front of all others that leads by the other way.
fn rule_changes(net: &TwoWays) -> Value {
    net.router.run("ip route replace default via 203.0.113.10 dev ppp0 table 999");
    let probe = Probe::start(net, TwoWays::SERVER);
    let mut ip = Ip::start(&net.router);
    let rule = "priority 500 from 192.0.2.10 table 999";
    let spread = Spread::of(CHANGES, |at| match at % 2 {
        0 => probe.until(1, || ip.say(&format!("rule add {rule}"))),
        _ => probe.until(0, || ip.say(&format!("rule del {rule}"))),
    });
    spread.microseconds()
}
