//! What a connection costs: to begin one, to find one among a million, and with translation.

mod clock;

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use clock::on_processor;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fastrand::Rng;
use shunt_dataplane::conn::seen::{Kind, Seen};
use shunt_dataplane::conn::settings::Settings;
use shunt_dataplane::conn::{Connections, Local, Place, Sought};
use shunt_dataplane::xsk::BATCH;
use shunt_policy::Ifindex;
use shunt_policy::connection::{Endpoint, Manip, Range, Tracking, Tuple};

const MILLION: usize = 1_000_000;
const SECOND: u64 = 1_000_000_000;

fn timed(iterations: u64, mut turn: impl FnMut()) -> Duration {
    let before = on_processor();
    for _ in 0..iterations {
        turn();
    }
    on_processor() - before
}

fn table(capacity: usize) -> Connections {
    // Nobody listens: what a report costs is in, up to the full queue.
    let (producer, _) = rtrb::RingBuffer::new(1024);
    let settings = Settings { max: 0, ..Settings::default() };
    Connections::new(capacity, Place { worker: 0, workers: 1 }, Arc::new(settings), producer, 1)
}

/// The number's own connection.
fn seen(number: u32) -> Seen {
    let source = Endpoint { address: Ipv4Addr::from_bits(0xc612_0000 + (number & 0xffff)).into(), port: 5000 };
    let destination = Endpoint { address: Ipv4Addr::from_bits(0xcb00_7100 + (number >> 16)).into(), port: 443 };
    Seen { tuple: Tuple { source, destination, protocol: 17 }, kind: Kind::Udp }
}

fn pass(connections: &mut Connections, seen: Seen, now: u64) {
    let mut tracker = connections.tracker(seen, Local::No, now);
    let _ = black_box(tracker.track());
    let _ = black_box(tracker.forwarded());
}

/// As a worker does it.
fn pass_burst(connections: &mut Connections, burst: &mut Vec<Sought>, now: u64, mut seen: impl FnMut() -> Seen) {
    burst.extend((0..BATCH).map(|_| connections.seek(seen())));
    for sought in burst.iter() {
        connections.approach(sought);
    }
    for sought in burst.drain(..) {
        let mut tracker = connections.tracker_of(sought, Local::No, now);
        let _ = black_box(tracker.track());
        let _ = black_box(tracker.forwarded());
    }
}

fn masquerade(connections: &mut Connections, seen: Seen, range: &Range, now: u64) {
    let mut tracker = connections.tracker(seen, Local::No, now);
    let _ = black_box(tracker.track());
    let _ = black_box(tracker.translate(Manip::Destination, None, None));
    let _ = black_box(tracker.translate(Manip::Source, Some(Ifindex(2)), Some(range)));
    let _ = black_box(tracker.forwarded());
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("connections");
    group
        .throughput(Throughput::Elements(1))
        .warm_up_time(Duration::from_millis(500))
        .sample_size(20)
        .measurement_time(Duration::from_secs(4));
    let mut random = Rng::with_seed(1);
    for (name, count) in [("1000", 1000), ("1 M", MILLION)] {
        let mut connections = table(MILLION);
        for number in 0..count {
            pass(&mut connections, seen(number as u32), SECOND);
        }
        assert_eq!(connections.len(), count);
        let count = count as u32;
        group.bench_function(format!("a packet of one of {name}"), |bencher| {
            bencher.iter_custom(|iterations| {
                timed(iterations, || pass(&mut connections, seen(random.u32(..count)), SECOND))
            });
        });
        group.bench_function(format!("a packet of one of {name}, in bursts"), |bencher| {
            let mut burst = Vec::with_capacity(BATCH);
            bencher.iter_custom(|iterations| {
                let bursts = iterations.div_ceil(BATCH as u64);
                let time = timed(bursts, || {
                    pass_burst(&mut connections, &mut burst, SECOND, || seen(random.u32(..count)));
                });
                time.mul_f64(iterations as f64 / (bursts * BATCH as u64) as f64)
            });
        });
        group.bench_function(format!("a packet of none of {name}"), |bencher| {
            bencher.iter_custom(|iterations| {
                timed(iterations, || {
                    let stranger = seen(2 * MILLION as u32 + random.u32(..MILLION as u32));
                    let _ = black_box(connections.tracker(stranger, Local::No, SECOND).track());
                })
            });
        });
    }

    // From almost full: as each begins, one expires.
    let mut connections = table(MILLION);
    let mut now = SECOND;
    let mut number = 0;
    let mut turn = |connections: &mut Connections, settle: &mut dyn FnMut(&mut Connections, Seen, u64)| {
        number = (number + 1) % (16 * MILLION as u32);
        now += 30 * SECOND / 900_000;
        settle(connections, seen(number), now);
        connections.sweep(now, 2);
    };
    for _ in 0..MILLION {
        turn(&mut connections, &mut pass);
    }
    group.bench_function("set up and expire among 0.9 M", |bencher| {
        bencher.iter_custom(|iterations| timed(iterations, || turn(&mut connections, &mut pass)));
    });
    assert_eq!(connections.counts().full, 0);

    let public = |last: u8| -> IpAddr { Ipv4Addr::new(198, 51, 100, last).into() };
    let range = Range { addresses: Some((public(0), public(255))), ..Range::default() };
    let mut translate =
        |connections: &mut Connections, seen: Seen, now: u64| masquerade(connections, seen, &range, now);
    for _ in 0..MILLION {
        turn(&mut connections, &mut translate);
    }
    group.bench_function("set up, translate and expire among 0.9 M", |bencher| {
        bencher.iter_custom(|iterations| timed(iterations, || turn(&mut connections, &mut translate)));
    });
    assert_eq!(connections.counts().exhausted, 0);
    group.finish();
}

criterion_group!(connections, benches);
criterion_main!(connections);
