//! The compiled policy answers every query as the literal reference does: a million random (configuration, query) pairs.
//!
//! Addresses, ports, marks, names and tables come from small pools, so that rules meet packets, prefixes nest, and two items
//! often speak of the same thing. A failure shrinks to a small configuration; proptest prints it and its seed.

mod arbitrary;

use arbitrary::script::{Call, script};

use std::collections::HashMap;

use proptest::test_runner::{Config as Settings, RngSeed, TestRunner};
use shunt_policy::config::{CounterSlot, Hops, Route, RouteKind};
use shunt_policy::{
    Family, Generation, Ifindex, Prefix, Rib, Stop, TableId, Tally, Uncounted, compile, recompile, reference,
};

/// Configurations of each half; each is asked [`QUERIES`] times.
const CONFIGURATIONS: u32 = 10_000;
const QUERIES: usize = 50;

/// In two halves, so that two cores share the work.
#[test]
fn compiled_equals_reference_on_half_a_million_pairs() {
    compiled_equals_reference(1);
}

#[test]
fn compiled_equals_reference_on_another_half_a_million_pairs() {
    compiled_equals_reference(2);
}

/// The same pairs from the same seed in every run.
fn settings(cases: u32, seed: u64) -> Settings {
    Settings { cases, failure_persistence: None, rng_seed: RngSeed::Fixed(seed), ..Settings::default() }
}

fn compiled_equals_reference(seed: u64) {
    let mut ends: HashMap<String, u32> = HashMap::new();
    let seen = std::cell::RefCell::new(&mut ends);
    let packet = (arbitrary::query(), script());
    let strategy = (arbitrary::config(), proptest::collection::vec(packet, QUERIES));
    let result = TestRunner::new(settings(CONFIGURATIONS, seed)).run(&strategy, |(config, packets)| {
        let policy = compile(&config, Generation(1));
        for (query, script) in &packets {
            let script = script.clone().of(query.family());
            let (mut told, mut tracking) = (script.clone(), script);
            let trace = reference::trace_tracking(&config, query, &mut told);
            let mut counted = Counted::default();
            let answer = policy.decide_counting(query, &mut tracking, &mut counted);
            proptest::prop_assert_eq!(&tracking.calls, &told.calls, "query {:?}\nsteps {:#?}", query, trace.steps);
            proptest::prop_assert_eq!(answer, trace.end, "query {:?}\nsteps {:#?}", query, trace.steps);
            if !matches!(answer, Err(Stop::Punt(_))) {
                proptest::prop_assert_eq!(&counted.0, &trace.counted, "query {:?}\nsteps {:#?}", query, trace.steps);
            }
            let word = match answer {
                Ok(egress) => {
                    let asked = tracking.calls.iter().any(|call| matches!(call, Call::Translate(.., Some(_))));
                    let changed = egress.new_source().is_some() || egress.new_destination().is_some();
                    if asked && changed { "forward translated".to_owned() } else { "forward".to_owned() }
                }
                Err(stop) => stop.to_string(),
            };
            *seen.borrow_mut().entry(word).or_default() += 1;
        }
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));

    // The generator is worth nothing if the interesting ends are never reached.
    println!("{} pairs: {ends:#?}", ends.values().sum::<u32>());
    assert_eq!(ends.values().sum::<u32>() as usize, CONFIGURATIONS as usize * QUERIES);
    for reason in policy_reasons() {
        assert!(ends.get(&reason).copied().unwrap_or(0) > 50, "the generator hardly reaches {reason:?}");
    }
    assert!(ends["forward"] > 25_000, "the generator hardly forwards");
    assert!(ends["forward translated"] > 1_000, "the generator hardly translates");
}

/// The rules that say that they count a packet.
#[derive(Default)]
struct Counted(Vec<CounterSlot>);

impl Tally for Counted {
    fn count(&mut self, slot: CounterSlot) {
        self.0.push(slot);
    }
}

/// Routes come and go, one at a time; what is compiled at the cost of the change answers as the literal reference does.
#[test]
fn recompiled_equals_reference() {
    let change = (arbitrary::route(), proptest::bool::ANY);
    let strategy = (
        arbitrary::config(),
        proptest::collection::vec(change, 1..30),
        proptest::collection::vec((arbitrary::query(), script()), 10),
    );
    let result = TestRunner::new(settings(1000, 3)).run(&strategy, |(mut config, changes, packets)| {
        // So many that they do not stand together, and that some numbers are free.
        let mut rib = Rib::default();
        for number in 0..150 {
            rib.set(OTHER, host_prefix(number), &[plain(number.into())]);
        }
        for family in Family::BOTH {
            for (table, prefix, routes) in config.tables.each(family) {
                rib.set(table, prefix, routes);
            }
        }
        config.tables = rib.tables().clone();
        let mut policy = compile(&config, Generation(0));
        for (at, ((table, prefix, route), comes)) in changes.into_iter().enumerate() {
            if comes {
                rib.append(table, prefix, route);
            } else {
                rib.set(table, prefix, &[]);
            }
            rib.set(OTHER, host_prefix(at as u8), &[]);
            config.tables = rib.tables().clone();
            policy = recompile(&config, Generation(at as u64), &policy);
            for (query, script) in &packets {
                let script = script.clone().of(query.family());
                let (mut told, mut tracking) = (script.clone(), script);
                let trace = reference::trace_tracking(&config, query, &mut told);
                let answer = policy.decide_counting(query, &mut tracking, &mut Uncounted);
                proptest::prop_assert_eq!(answer, trace.end, "query {:?}\n{:#?}", query, trace.steps);
                proptest::prop_assert_eq!(&tracking.calls, &told.calls, "query {:?}\n{:#?}", query, trace.steps);
            }
        }
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
}

/// A table that no rule names.
const OTHER: TableId = TableId(9000);

fn plain(metric: u32) -> Route {
    Route::new(metric, RouteKind::Unicast(Hops::one(Ifindex(2), None)))
}

fn host_prefix(host: u8) -> Prefix {
    Prefix::host([203, 0, 113, host].into())
}

/// The ends that the policy can decide; the others belong to the frame parser, the ports and the mirror.
fn policy_reasons() -> Vec<String> {
    use shunt_policy::{DropReason as D, PuntReason as P};
    let drops = [
        D::PreroutingDrop,
        D::ForwardDrop,
        D::PostroutingDrop,
        D::BlackholeRule,
        D::BlackholeRoute,
        D::NatExhausted,
        D::NatMoved,
        D::NatNoAddress,
        D::ConntrackFull,
    ]
    .map(Stop::Drop);
    let punts = [
        P::NotUnicast,
        P::Oversize,
        P::Local,
        P::SourceLocal,
        P::ReversePath,
        P::ForwardingOff,
        P::UnknownIngress,
        P::Redirect,
        P::Redirected,
        P::NoRoute,
        P::UnreachableRule,
        P::ProhibitRule,
        P::UnreachableRoute,
        P::ProhibitRoute,
        P::Neighbour,
        P::EgressDown,
        P::EgressNotTaken,
        P::EgressQdisc,
        P::OpaqueRule,
        P::OpaqueRoute,
        P::MultipathInner,
        P::OpaquePrerouting,
        P::OpaqueForward,
        P::OpaquePostrouting,
        P::Reject,
        P::MssOption,
        P::ChainOrder,
        P::TtlExpired,
        P::Conntrack,
        P::Netdev,
        P::Nat,
        P::KernelConnection,
    ]
    .map(Stop::Punt);
    drops.iter().chain(&punts).map(Stop::to_string).collect()
}
