//! The packet path allocates nothing.

mod common;

use common::{Crafted, LAN, TCP, UP, WAN, make_partial, router};

#[test]
fn no_packet_costs_an_allocation() {
    let mut router = router(2, 1);
    router.record(false);
    let mut partial = Crafted::default().protocol(TCP).on(LAN);
    make_partial(&mut partial, TCP);
    let frames = [
        Crafted::default().on(LAN),
        Crafted::v6().on(LAN),
        Crafted::default().to("198.18.0.1").on(LAN),
        partial,
        Crafted::default().ttl(1).on(LAN),
        vec![0; 10],
    ];
    let turn = |router: &mut shunt_dataplane::sim::Router| {
        for frame in &frames {
            for _ in 0..40 {
                router.inject(LAN, 0, frame);
            }
        }
        router.settle();
    };
    // The first turn fills the simulator's own buffers.
    turn(&mut router);
    for _ in 0..100 {
        // With room for samples and without.
        let sampled = router.take_samples().len();
        assert!(sampled > 0);
        let counted = allocation_counter::measure(|| turn(&mut router));
        assert_eq!(counted.count_total, 0);
    }
    assert_eq!(router.counters().forwarded, 101 * 160);
    assert!(router.take_sent(WAN).is_empty() && router.take_sent(UP).is_empty());
    assert_eq!(router.finish(), 0);
}
