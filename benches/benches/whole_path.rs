//! The whole way of a packet of a masqueraded UDP connection, known or new, through a worker: from the queue it came by to the one it leaves
//! by.

mod clock;
mod masqueraded;
#[path = "../../tests/tests/long_chains/mixed.rs"]
#[allow(dead_code)]
mod mixed;

use std::time::Duration;

use clock::on_processor;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use fastrand::Rng;
use masqueraded::{Bench, LAN, WAN};
use shunt_dataplane::sim::Echo;
use shunt_dataplane::xsk::BATCH;

const MILLION: usize = 1_000_000;
const RULES: u32 = 10_000;

/// Connections that begin before all of them end.
const NEW: usize = 1 << 15;

/// Bursts in which packets are measured: by both ports at once, twice.
const ROUNDS: usize = 2;
const MEASURED: usize = ROUNDS * 2 * BATCH;

impl Bench {
    /// Time on the processor in which the worker has dealt with so many packets (more, if they do not fill the bursts).
    fn forward(&mut self, packets: u64, random: &mut Rng) -> Duration {
        let turns = packets.div_ceil(MEASURED as u64);
        let mut total = Duration::ZERO;
        for _ in 0..turns {
            for _ in 0..MEASURED / 2 {
                self.inject(LAN, random.usize(..self.flows));
                self.inject(WAN, random.usize(..self.flows));
            }
            let before = on_processor();
            for _ in 0..ROUNDS {
                self.router.round();
            }
            total += on_processor() - before;
            self.router.take_told();
        }
        total.mul_f64(packets as f64 / (turns * MEASURED as u64) as f64)
    }
}

/// First packets of connections.
struct New {
    bench: Bench,
    next: usize,
}

impl New {
    /// Time on the processor in which the worker has dealt with so many.
    fn begin(&mut self, packets: u64) -> Duration {
        let turns = packets.div_ceil(BATCH as u64);
        let mut total = Duration::ZERO;
        for _ in 0..turns {
            if self.next == NEW {
                self.next = 0;
                self.bench.router.advance(Duration::from_secs(3600));
                self.bench.settle();
            }
            for flow in self.next..self.next + BATCH {
                self.bench.inject(LAN, flow);
            }
            self.next += BATCH;
            let before = on_processor();
            self.bench.router.round();
            total += on_processor() - before;
            self.bench.router.take_told();
        }
        total.mul_f64(packets as f64 / (turns * BATCH as u64) as f64)
    }
}

/// The same of frames that no worker sees: the simulated port alone.
fn reflect(echo: &mut Echo, frame: &[u8], packets: u64) -> Duration {
    let turns = packets.div_ceil(MEASURED as u64);
    let mut total = Duration::ZERO;
    for _ in 0..turns {
        for _ in 0..MEASURED {
            echo.inject(frame);
        }
        let before = on_processor();
        let sent: usize = (0..2 * ROUNDS).map(|_| echo.round()).sum();
        total += on_processor() - before;
        assert_eq!(sent, MEASURED);
    }
    total.mul_f64(packets as f64 / (turns * MEASURED as u64) as f64)
}

fn run(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, make: impl Fn() -> Bench, random: &mut Rng) {
    let mut made = None;
    group.bench_function(name, |bencher| {
        let bench = made.get_or_insert_with(&make);
        bencher.iter_custom(|packets| bench.forward(packets, random));
    });
    if let Some(Bench { router, injected, .. }) = made {
        assert_eq!(router.counters().forwarded, injected, "{:?}", router.counters());
    }
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("whole path");
    group
        .throughput(Throughput::Elements(1))
        .warm_up_time(Duration::from_secs(1))
        .sample_size(20)
        .measurement_time(Duration::from_secs(4));
    let frame = Bench::empty(1, 1).frame(LAN, 0).to_vec();
    let mut echo = Echo::default();
    group.bench_function("the simulated port alone", |bencher| {
        bencher.iter_custom(|packets| reflect(&mut echo, &frame, packets));
    });
    let mut random = Rng::with_seed(1);
    for (connections, flows) in [("1000", 1000), ("1 M", MILLION)] {
        for (routes, networks) in [("10", 10), ("1 M", MILLION)] {
            let name = format!("one of {connections} connections, {routes} routes");
            run(&mut group, &name, || Bench::new(flows, networks), &mut random);
        }
    }
    let decided = || Bench::without_flows(1000, 10);
    run(&mut group, "one of 1000 connections, 10 routes, decided anew", decided, &mut random);
    for (name, rules) in [("no rules", 0), ("10000 rules", RULES)] {
        let chains = mixed::router(mixed::rules(rules, &mut random)).chains;
        let mut new = New { bench: Bench::behind(&chains, NEW, 10), next: 0 };
        group.bench_function(format!("the first of a connection, {name}"), |bencher| {
            bencher.iter_custom(|packets| new.begin(packets));
        });
        let Bench { router, injected, .. } = new.bench;
        assert_eq!(router.counters().forwarded, injected, "{:?}", router.counters());
    }
    group.finish();
}

criterion_group!(whole_path, benches);
criterion_main!(whole_path);
