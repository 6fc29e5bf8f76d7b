//! Every frame of memory comes home, whatever happens. The simulator checks after each round; here is what happens.

mod common;

use common::{Crafted, Dice, LAN, UP, WAN, config, policy, router};
use shunt_policy::{DropReason, Generation, PuntReason};

#[test]
fn nothing_is_lost_between_workers() {
    for (workers, queues) in [(1, 1), (2, 1), (2, 2), (3, 2), (4, 3)] {
        let mut router = router(workers, queues);
        let mut expected = 0;
        for round in 0..50u32 {
            for queue in 0..queues {
                for _ in 0..=round % 7 {
                    router.inject(LAN, queue, &Crafted::default().on(LAN));
                    router.inject(WAN, queue, &Crafted::default().to("198.18.0.9").on(WAN));
                    expected += 1;
                }
            }
            router.round();
        }
        router.settle();
        assert_eq!(router.take_sent(WAN).len(), expected);
        assert_eq!(router.take_sent(UP).len(), expected);
        assert_eq!(router.counters().forwarded, 2 * expected as u64);
        assert_eq!(router.finish(), 0);
    }
}

#[test]
fn a_full_egress_drops_by_name_and_recovers() {
    for workers in [1, 2] {
        let mut router = router(workers, 1);
        router.stick(WAN, true);
        for _ in 0..5000 {
            router.inject(LAN, 0, &Crafted::default().on(LAN));
        }
        router.settle();
        let dropped = router.counters().of_drop(DropReason::TransmitFull);
        assert!(dropped > 0);
        assert_eq!(router.counters().forwarded + dropped, 5000);
        router.stick(WAN, false);
        router.settle();
        assert_eq!(router.take_sent(WAN).len() as u64, 5000 - dropped);
        router.inject(LAN, 0, &Crafted::default().on(LAN));
        router.settle();
        assert_eq!(router.take_sent(WAN).len(), 1);
        assert_eq!(router.finish(), 0);
    }
}

#[test]
fn a_kernel_that_takes_no_more_is_a_drop_by_name() {
    let mut router = router(2, 1);
    router.limit_punts(3);
    for _ in 0..10 {
        router.inject(LAN, 0, &Crafted::default().to("203.0.113.99").on(LAN));
    }
    router.settle();
    assert_eq!(router.take_punted().len(), 3);
    assert_eq!(router.counters().of_punt(PuntReason::Neighbour), 3);
    assert_eq!(router.counters().of_drop(DropReason::PuntFull), 7);
    assert_eq!(router.finish(), 0);
}

#[test]
fn frames_on_their_way_when_the_router_ends_are_not_lost() {
    let mut router = router(2, 1);
    router.stick(WAN, true);
    for _ in 0..300 {
        router.inject(LAN, 0, &Crafted::default().on(LAN));
    }
    router.round();
    assert_eq!(router.finish(), 0);
}

#[test]
fn a_frame_longer_than_a_chunk_is_missed_and_not_lost() {
    let mut router = router(1, 1);
    router.inject(LAN, 0, &vec![0; 5000]);
    router.inject(LAN, 0, &Crafted::default().on(LAN));
    router.settle();
    assert_eq!(router.take_sent(WAN).len(), 1);
    assert_eq!(router.finish(), 0);
}

#[test]
fn every_packet_follows_the_old_policy_or_the_new_one() {
    let mut router = router(2, 2);
    let mut without = config();
    std::sync::Arc::make_mut(&mut without.neighbours)
        .retain(|neighbour| neighbour.address != common::address("203.0.113.2"));
    let mut dice = Dice::new(7);
    let mut injected = 0;
    for generation in 2..1002 {
        let next = if generation % 2 == 0 {
            std::sync::Arc::new(shunt_policy::compile(&without, Generation(generation)))
        } else {
            policy(generation)
        };
        router.publish(next);
        for _ in 0..dice.below(5) {
            router.inject(LAN, dice.below(2) as u32, &Crafted::default().on(LAN));
            injected += 1;
        }
        router.round();
        assert_eq!(router.adopted(), Generation(generation));
    }
    router.settle();
    let counters = router.counters();
    assert_eq!(counters.forwarded + counters.of_punt(PuntReason::Neighbour), injected);
    assert!(counters.forwarded > 0 && counters.of_punt(PuntReason::Neighbour) > 0);
    router.collect();
    assert_eq!(router.finish(), 0);
}
