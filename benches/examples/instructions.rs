//! Does one thing so many times, for somebody who counts instructions: `instructions SCENARIO TIMES`. Run with two numbers of times under
//! callgrind, what one time costs is the difference.

#[path = "../benches/masqueraded/mod.rs"]
mod masqueraded;
#[path = "../../tests/tests/long_chains/mixed.rs"]
mod mixed;

use std::hint::black_box;
use std::process::ExitCode;

use fastrand::Rng;
use masqueraded::{Bench, LAN, WAN};
use shunt_dataplane::packet::Packet;
use shunt_dataplane::xsk::BATCH;
use shunt_policy::{Generation, PortId, compile};

/// Few, since they are also collected from, twice a second of real time.
const FLOWS: usize = 128;
const ROUTES: usize = 10_000;
const MOST: usize = 1 << 16;

fn parse(times: usize) {
    let frame = Bench::empty(1, 1).frame(LAN, 0).to_vec();
    for _ in 0..times {
        let _ = black_box(Packet::parse(black_box(&frame)));
    }
}

fn decide(rules: u32, times: usize) {
    let mut random = Rng::with_seed(1);
    let rules = mixed::rules(rules, &mut random);
    let packets: Vec<_> = (0..1024).map(|_| mixed::packet(&rules, &mut random)).collect();
    let policy = compile(&mixed::router(rules), Generation(1));
    for query in packets.iter().cycle().take(times) {
        let _ = black_box(policy.decide(black_box(query)));
    }
}

/// Made beforehand, whatever the number of times: they are not to be counted.
fn frames(bench: &mut Bench, port: PortId, flows: usize) -> Vec<Vec<u8>> {
    (0..flows).map(|flow| bench.frame(port, flow).to_vec()).collect()
}

/// Whole bursts, both ways.
fn forward(mut bench: Bench, times: usize) {
    let [lan, wan] = [LAN, WAN].map(|port| frames(&mut bench, port, FLOWS));
    let before = bench.router.counters().forwarded;
    let bursts = times / (2 * BATCH);
    for burst in 0..bursts {
        for packet in 0..BATCH {
            let flow = (burst * BATCH + packet) % FLOWS;
            bench.router.inject(LAN, 0, &lan[flow]);
            bench.router.inject(WAN, 0, &wan[flow]);
        }
        bench.router.round();
        bench.router.take_told();
    }
    assert_eq!(bench.router.counters().forwarded - before, (bursts * 2 * BATCH) as u64);
}

/// The first packets of connections, at most [`MOST`].
fn begin(times: usize) {
    let mut bench = Bench::empty(MOST, ROUTES);
    let lan = frames(&mut bench, LAN, MOST);
    for burst in lan[..times].chunks(BATCH) {
        burst.iter().for_each(|frame| bench.router.inject(LAN, 0, frame));
        bench.router.round();
        bench.router.take_told();
    }
    assert_eq!(bench.router.counters().forwarded, times as u64);
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, scenario, times] = &arguments[..] else { return usage() };
    let Ok(times) = times.parse() else { return usage() };
    match scenario.as_str() {
        "parse" => parse(times),
        "decide-without-rules" => decide(0, times),
        "decide-10000-mixed-rules" => decide(10_000, times),
        "forward-known-flow" => forward(Bench::new(FLOWS, ROUTES), times),
        "forward-known-connection" => forward(Bench::without_flows(FLOWS, ROUTES), times),
        "forward-first-packet" => begin(times),
        _ => return usage(),
    }
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("usage: instructions SCENARIO TIMES; see the source for scenarios");
    ExitCode::from(2)
}
