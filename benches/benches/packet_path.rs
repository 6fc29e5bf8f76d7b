//! Cost of a packet of the chapter: parsed, marked by a mangle rule, routed by its mark, rewritten; and of its parts.
//!
//! Memory to memory, on one core: what AF_XDP and the driver add is measured against the kernel elsewhere.

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use etherparse::PacketBuilder;
use shunt_dataplane::packet::Packet;
use shunt_dataplane::sample;
use shunt_dataplane::xsk::BATCH;
use shunt_policy::config::{
    Action, BaseChain, ChainPolicy, ChainRule, Config, CounterSlot, Field, Hook, Hops, Link, MarkMatch, Match,
    Neighbour, Origin, Route, RouteKind, Rule, RuleAction, RuleSelector, Source, Step, Test, Value,
};
use shunt_policy::{Family, Generation, Ifindex, Mac, Policy, PortId, Prefix, Priority, Rib, TableId, compile};

const LAN: Ifindex = Ifindex(2);
const MAIL_OUT: TableId = TableId(201);

/// The router of the chapter with `rules` mangle rules of which the last one matches mail, and `routes` more routes in its table.
fn policy(rules: usize, routes: u32) -> Policy {
    let link = |number: u16| {
        let mac = Mac([2, 0, 0, 0, 0, number as u8]);
        Link::port(Ifindex(u32::from(number) + 1), &format!("eth{number}"), mac, PortId(number - 1))
    };
    let gateway = address("203.0.113.2");
    let fwmark = RuleSelector { fwmark: Some(MarkMatch { value: 1, mask: u32::MAX }), ..RuleSelector::default() };
    let any = RuleSelector::default();
    let rules_of_routing = [(0, any.clone(), TableId::LOCAL), (32765, fwmark, MAIL_OUT), (32766, any, TableId::MAIN)];
    let rule = |(priority, selector, table): (u32, RuleSelector, TableId)| Rule {
        family: Family::V4,
        priority: Priority(priority),
        selector,
        action: RuleAction::lookup(table),
        origin: Origin::new(Source::Rule, "bench"),
    };
    let mut rib = Rib::default();
    let onward = Route::new(0, RouteKind::Unicast(Hops::one(Ifindex(4), Some(gateway))));
    rib.append(MAIL_OUT, Prefix::any(Family::V4), onward.clone());
    for number in 0..routes {
        // Spread over the address space by a multiplicative hash.
        let network = number.wrapping_mul(0x9e37_79b1) | 0x0100_0000;
        let prefix = Prefix::new(IpAddr::V4(network.into()), 24).expect("24 bits");
        rib.set(MAIL_OUT, prefix, std::slice::from_ref(&onward));
    }
    let chain_rule = |port: u16| ChainRule {
        steps: [Test::iif("eth1"), Test::protocol(6), Test::of(Field::DestinationPort, [Value::one(port)])]
            .map(|test| Step::Match(Match { not: false, test }))
            .into_iter()
            .chain([Step::Count, Step::Do(Action::Mark { clear: u32::MAX, flip: 1 })])
            .collect(),
        counter: CounterSlot(port.into()),
        origin: Origin::new(Source::IptablesNft, "bench"),
    };
    let chain = BaseChain {
        family: Family::V4,
        hook: Hook::Prerouting,
        priority: -150,
        unordered: false,
        nat: false,
        name: "bench".to_owned(),
        rules: (1..rules as u16).map(|number| chain_rule(1000 + number)).chain([chain_rule(25)]).collect(),
        policy: ChainPolicy::Accept,
        user: Vec::new(),
    };
    let neighbour =
        Neighbour { ifindex: Ifindex(4), address: gateway, mac: Some(Mac([2, 0, 0, 0, 1, 3])), valid: true };
    let config = Config {
        links: Arc::new((1..=3).map(link).collect()),
        neighbours: Arc::new(vec![neighbour]),
        rules: Arc::new(rules_of_routing.map(rule).to_vec()),
        tables: rib.tables().clone(),
        chains: Arc::new(vec![chain]),
        ..Config::default()
    };
    compile(&config, Generation(1))
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A mail segment of 64 bytes from the LAN.
fn mail() -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 0, 1])
        .ipv4([192, 0, 2, 10], [198, 51, 100, 25], 64)
        .tcp(40_000, 25, 1, 1024);
    let mut frame = Vec::new();
    builder.write(&mut frame, &[0; 10]).expect("a vector takes everything");
    frame
}

fn packet_path(criterion: &mut Criterion) {
    let frame = mail();
    let mut group = criterion.benchmark_group("packet");
    group
        .throughput(Throughput::Elements(1))
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    group.bench_function("parse", |bencher| bencher.iter(|| Packet::parse(black_box(&frame))));
    for (name, rules, routes) in [("chapter", 1, 0), ("1000 mangle rules", 1000, 0), ("100k routes", 1, 100_000)] {
        let policy = policy(rules, routes);
        let query = Packet::parse(&frame).expect("a good frame").query(LAN);
        group.bench_function(format!("decide, {name}"), |bencher| bencher.iter(|| policy.decide(black_box(&query))));
    }
    let policy = policy(1, 0);
    group.bench_function("forward and rewrite", |bencher| {
        let mut copy = frame.clone();
        bencher.iter(|| {
            copy.copy_from_slice(&frame);
            let packet = Packet::parse(&copy).expect("a good frame");
            let egress = policy.decide(&packet.query(LAN)).expect("a way out");
            packet.rewrite(&mut copy, &egress, &shunt_dataplane::packet::Ends::default())
        });
    });
    group.finish();
}

/// What it costs to keep a decision of a full burst for comparison with the kernel, by packet of the burst.
fn samples(criterion: &mut Criterion) {
    let burst = vec![mail(); BATCH];
    let policy = policy(1, 0);
    let query = Packet::parse(&burst[0]).expect("a packet").query(LAN);
    let (outcome, generation) = (policy.decide(&query), policy.generation());
    let sample = sample::Sample { query, tracked: None, outcome, generation };
    let mut group = criterion.benchmark_group("samples");
    group
        .throughput(Throughput::Elements(BATCH as u64))
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    for (name, taken) in [("nobody has taken the last", 0), ("each is taken at once", 1)] {
        let (mut sampler, mut samples) = sample::channel();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                if sampler.choose(black_box(&burst).len()).is_some() {
                    sampler.keep(sample);
                }
                samples.take(taken).count()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, packet_path, samples);
criterion_main!(benches);
