//! A change on its way to the workers: the route is set, the policy compiled from the one before, published, and adopted by all.

// Its destinations and tests are for others.
#[path = "../../control/src/bench/internet.rs"]
#[allow(dead_code, unused_imports)]
mod internet;
#[path = "../../tests/tests/long_chains/mixed.rs"]
#[allow(dead_code)]
mod mixed;

use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use fastrand::Rng;
use shunt_dataplane::snapshot::{Publisher, Subscriber, channel};
use shunt_policy::config::{Config, Hops, Route, RouteKind};
use shunt_policy::{Generation, Ifindex, Policy, Prefix, Rib, TableId, compile, recompile};

/// The control side and its workers, all on one thread.
struct Bench {
    config: Config,
    rib: Rib,
    prefixes: Vec<Prefix>,
    publisher: Publisher,
    workers: Vec<Subscriber>,
}

fn route(last: u8) -> Route {
    Route::new(0, RouteKind::Unicast(Hops::one(Ifindex(4), Some([203, 0, 113, last].into()))))
}

impl Bench {
    /// So many routes, behind so many rules of a chain.
    fn new(routes: usize, rules: u32, workers: usize) -> Bench {
        let mut config = mixed::router(mixed::rules(rules, &mut Rng::with_seed(1)));
        let networks = internet::networks(routes);
        let prefix = |network: &internet::Network| Prefix::new(network.address.into(), network.length);
        let prefixes: Vec<Prefix> = networks.iter().map(|network| prefix(network).expect("a length of IPv4")).collect();
        let mut rib = Rib::default();
        for prefix in &prefixes {
            rib.set(TableId::MAIN, *prefix, &[route(2)]);
        }
        config.tables = rib.tables().clone();
        let (publisher, workers) = channel(workers, Arc::new(compile(&config, Generation(1))));
        Bench { config, rib, prefixes, publisher, workers }
    }

    /// Another next hop for one of the routes.
    fn change_route(&mut self, random: &mut Rng) {
        let prefix = self.prefixes[random.usize(..self.prefixes.len())];
        self.rib.set(TableId::MAIN, prefix, &[route(random.u8(2..250))]);
        self.config.tables = self.rib.tables().clone();
    }

    /// The last rule goes, or another one of its kind comes.
    fn change_rule(&mut self, random: &mut Rng) {
        let chain = &mut Arc::make_mut(&mut self.config.chains)[0];
        chain.rules.pop();
        chain.rules.extend(mixed::rules(1, random));
    }

    fn compiled(&self) -> Policy {
        let before = self.publisher.newest();
        recompile(&self.config, Generation(before.generation().0 + 1), before)
    }

    fn publish(&mut self, policy: Policy) {
        self.publisher.publish(Arc::new(policy));
        for worker in &mut self.workers {
            assert!(worker.adopt(), "there is a new one");
        }
    }
}

fn publish(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("publish");
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    let random = &mut Rng::with_seed(2);
    for workers in [1, 8] {
        let mut bench = Bench::new(10, 0, workers);
        group.bench_function(BenchmarkId::new("nothing changed, workers", workers), |bencher| {
            bencher.iter(|| bench.publish(bench.compiled()));
        });
    }
    for routes in [10, 1_000_000] {
        let mut bench = Bench::new(routes, 0, 1);
        group.bench_function(BenchmarkId::new("one route changed of", routes), |bencher| {
            bencher.iter(|| {
                bench.change_route(random);
                bench.publish(bench.compiled());
            });
        });
    }
    group.sample_size(10);
    for rules in [10, 10_000] {
        let mut bench = Bench::new(10, rules, 1);
        group.bench_function(BenchmarkId::new("one rule changed of", rules), |bencher| {
            bencher.iter(|| {
                bench.change_rule(random);
                bench.publish(bench.compiled());
            });
        });
    }
    group.finish();
}

criterion_group!(benches, publish);
criterion_main!(benches);
