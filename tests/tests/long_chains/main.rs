//! A chain of 10,000 rules costs a packet about what one of ten costs. Rules are counted, not seconds: what a rule costs is measured by
//! the benches.

mod mixed;

use std::time::{Duration, Instant};

use fastrand::Rng;
use shunt_policy::config::{CounterSlot, Field, Test};
use shunt_policy::{Generation, Tally, Trackless, compile, reference};

/// How many rules a packet is held against.
#[derive(Default)]
struct Held {
    rules: u32,
    matched: u32,
}

impl Tally for Held {
    fn count(&mut self, _: CounterSlot) {
        self.matched += 1;
    }

    fn held(&mut self) {
        self.rules += 1;
    }
}

/// On average and at most, over many packets.
fn held(rules: u32) -> (f64, u32) {
    const PACKETS: u32 = 10_000;
    let mut random = Rng::with_seed(1);
    let rules = mixed::rules(rules, &mut random);
    let packets: Vec<_> = (0..PACKETS).map(|_| mixed::packet(&rules, &mut random)).collect();
    let policy = compile(&mixed::router(rules), Generation(1));
    let (mut sum, mut most, mut matched) = (0, 0, 0);
    for packet in &packets {
        let mut held = Held::default();
        policy.decide_counting(packet, &mut Trackless, &mut held).expect("forwarded");
        (sum, most, matched) = (sum + held.rules, most.max(held.rules), matched + held.matched);
    }
    let (average, matched) = (f64::from(sum) / f64::from(PACKETS), f64::from(matched) / f64::from(PACKETS));
    println!(
        "{} rules: {matched:.2} match a packet, {average:.2} are looked at, at most {most}",
        policy.summary().netfilter_rules
    );
    (average, most)
}

#[test]
fn of_ten_thousand_rules_a_packet_is_held_against_a_handful() {
    let (few, _) = held(10);
    let (average, most) = held(10_000);
    assert!(average < few.max(10.0), "{average} rules on average");
    assert!(most < 60, "{most} rules");
}

#[test]
fn a_hundred_thousand_rules_are_compiled_at_once() {
    let mut random = Rng::with_seed(2);
    let rules = mixed::rules(100_000, &mut random);
    let packet = mixed::packet(&rules, &mut random);
    let config = mixed::router(rules);
    let begin = Instant::now();
    let policy = compile(&config, Generation(1));
    let took = begin.elapsed();
    // It is less than 1 s in this profile; if it grew faster than the rules it would be minutes.
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert_eq!(policy.decide(&packet), reference::trace(&config, &packet).end);
}

/// What no index can tell apart costs what a walk costs, and no more: each rule once.
#[test]
fn rules_that_all_match_are_each_looked_at_once() {
    let mut random = Rng::with_seed(3);
    let packet = mixed::packet(&[], &mut random);
    let of_the_mark_before = |number: u32| Test::masked(Field::Mark, number & 0xff, 0xffu8);
    for test in [|_| Test::protocol(6), of_the_mark_before] {
        let rules = (0..10_000).map(|number| mixed::marks(number + 1, [test(number)])).collect();
        let policy = compile(&mixed::router(rules), Generation(1));
        let mut held = Held::default();
        policy.decide_counting(&packet, &mut Trackless, &mut held).expect("forwarded");
        assert_eq!((held.rules, held.matched), (10_000, 10_000));
    }
}
