//! What long chains of netfilter rules cost a packet: the mix of `mixed.rs` in all lengths, and the worst cases; and many `ip rule`s.

#[path = "../../tests/tests/long_chains/mixed.rs"]
mod mixed;

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use fastrand::Rng;
use shunt_policy::config::{ChainRule, Field, Rule, RuleSelector, Test};
use shunt_policy::{Generation, Prefix, Priority, compile};

/// So many that branches are not learned by heart.
const PACKETS: usize = 4096;

fn decide(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("filter");
    group
        .throughput(Throughput::Elements(1))
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    let mut bench = |name: &str, rules: Vec<ChainRule>, random: &mut Rng| {
        let packets: Vec<_> = (0..PACKETS).map(|_| mixed::packet(&rules, random)).collect();
        let policy = compile(&mixed::router(rules), Generation(1));
        let mut packets = packets.iter().cycle();
        group.bench_function(name, |bencher| {
            bencher.iter(|| policy.decide(black_box(packets.next().expect("endless"))))
        });
    };
    let random = &mut Rng::with_seed(1);
    for count in [0, 10, 100, 1000, 10_000, 100_000] {
        let rules = mixed::rules(count, random);
        bench(&format!("decide, {count} mixed rules"), rules, random);
    }
    let alike = |test: fn(u32) -> Vec<Test>| (0..10_000).map(|number| mixed::marks(number, test(number))).collect();
    bench("decide, 10000 rules that all match", alike(|_| vec![Test::protocol(6)]), random);
    let own_mask = |number| vec![Test::masked(Field::Mark, number + 1, number + 1)];
    bench("decide, 10000 rules that nothing tells apart", alike(own_mask), random);

    let packets: Vec<_> = (0..PACKETS).map(|_| mixed::packet(&[], random)).collect();
    let mut config = mixed::router(Vec::new());
    let main = config.rules[0].clone();
    let of_source = |number: u32| Rule {
        priority: Priority(100),
        selector: RuleSelector {
            from: Some(Prefix::host(Ipv4Addr::from(0xc612_0000 + number * 13).into())),
            ..main.selector.clone()
        },
        ..main.clone()
    };
    config.rules = Arc::new((0..10_000).map(of_source).chain([main.clone()]).collect());
    let policy = compile(&config, Generation(1));
    let mut packets = packets.iter().cycle();
    group.bench_function("decide, 10000 ip rules", |bencher| {
        bencher.iter(|| policy.decide(black_box(packets.next().expect("endless"))));
    });
    group.finish();
}

fn compiled(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("filter");
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    let config = mixed::router(mixed::rules(100_000, &mut Rng::with_seed(2)));
    group.bench_function("compile 100000 mixed rules", |bencher| {
        bencher.iter_batched(|| (), |()| compile(&config, Generation(1)), BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group!(benches, decide, compiled);
criterion_main!(benches);
