//! Flows that a worker knows: what was decided about their first packets. What becomes of the bytes is held against a worker that knows none in
//! `xsk/program/replay_tests.rs`.

mod common;

use std::time::Duration;

use common::{Crafted, LAN, WAN, policy, router};
use shunt_dataplane::sim::Router;
use shunt_policy::Generation;

/// So many are not collected from in one round.
const FLOWS: u16 = 3000;

/// Frames of as many flows, each with a source port of its own and no UDP checksum.
fn send(router: &mut Router) {
    let mut frame = Crafted::default().on(LAN);
    frame[40..42].fill(0);
    for flow in 0..FLOWS {
        frame[34..36].copy_from_slice(&(1024 + flow).to_be_bytes());
        router.inject(LAN, 0, &frame);
        if flow % 32 == 0 {
            router.settle();
        }
    }
    router.settle();
}

#[test]
fn they_are_forwarded_and_counted_as_all_others() {
    let mut router = router(1, 1);
    for turn in 1..=3 {
        send(&mut router);
        assert_eq!(router.take_sent(WAN).len(), usize::from(FLOWS));
        let counters = router.counters();
        assert_eq!((counters.forwarded, counters.replayed), (turn * u64::from(FLOWS), 0));
    }
    // Collected from twice a second, and counted then.
    router.advance(Duration::from_secs(1));
    router.settle();
    assert!(router.workers()[0].flows > u64::from(FLOWS) * 9 / 10, "{:?}", router.workers());
}

#[test]
fn with_two_workers_each_finds_its_own() {
    let mut router = router(2, 2);
    for turn in 1..=3 {
        send(&mut router);
        assert_eq!(router.take_sent(WAN).len(), usize::from(FLOWS), "turn {turn}");
    }
}

/// The control side gives counters of rules to others when all workers go by a newer policy, and somebody may wait for that.
#[test]
fn policies_that_come_fast_are_announced_nonetheless() {
    let mut router = router(1, 1);
    send(&mut router);
    for generation in 2..40 {
        router.publish(policy(generation));
        router.round();
        router.collect();
    }
    assert!(router.adopted() > Generation(20), "{:?}", router.adopted());
    router.settle();
    assert_eq!(router.adopted(), Generation(39));
}
