//! Arbitrary bytes never panic the parser, never lose a frame, and never leave as something another parser cannot read.

mod common;

use common::{Crafted, Dice, ICMP, ICMPV6, LAN, TCP, UDP, UP, WAN, assert_sound, make_partial, router};
use shunt_dataplane::packet::{Packet, partial};

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for protocol in [TCP, UDP, ICMP] {
        seeds.push(Crafted::default().protocol(protocol).on(LAN));
        seeds.push(Crafted::default().protocol(protocol).to("198.18.1.1").payload(0).on(LAN));
    }
    for protocol in [TCP, UDP, ICMPV6] {
        seeds.push(Crafted::v6().protocol(protocol).on(LAN));
    }
    for protocol in [TCP, UDP] {
        let mut partial = Crafted::default().protocol(protocol).on(LAN);
        make_partial(&mut partial, protocol);
        seeds.push(partial);
    }
    seeds
}

#[test]
fn every_prefix_of_a_valid_frame_is_survived() {
    for seed in seeds() {
        for length in 0..=seed.len() {
            let _ = Packet::parse(&seed[..length]);
            let _ = partial(&seed[..length]);
        }
    }
}

#[test]
fn mutated_frames_neither_panic_nor_vanish() {
    let seeds = seeds();
    let mut dice = Dice::new(0x5eed);
    let mut router = router(2, 1);
    let total = 200_000u64;
    for number in 0..total {
        let mut frame = seeds[dice.below(seeds.len())].clone();
        for _ in 0..dice.below(4) {
            let at = dice.below(frame.len());
            frame[at] = dice.roll() as u8;
        }
        match dice.below(8) {
            0 => frame.truncate(dice.below(frame.len() + 1)),
            1 => frame.resize(frame.len() + dice.below(64), dice.roll() as u8),
            _ => {}
        }
        router.inject(LAN, 0, &frame);
        if number % 32 == 31 {
            router.settle();
            router.take_punted();
            for sent in router.take_sent(WAN).into_iter().chain(router.take_sent(UP)) {
                readable(&sent);
            }
        }
    }
    router.settle();
    let counters = router.counters();
    let ended: u64 = counters.forwarded + counters.dropped.iter().sum::<u64>() + counters.punted.iter().sum::<u64>();
    assert_eq!(ended, total);
    assert!(counters.forwarded > total / 10, "{counters:?}");
    assert_eq!(router.finish(), 0);
}

/// A forwarded frame has a right IP header and no padding; its transport part may be as wrong as it came.
fn readable(frame: &[u8]) {
    let packet = Packet::parse(&with_ttl(frame)).expect("a frame that was forwarded parses");
    assert_eq!(packet.length + 14, frame.len());
}

/// The frame with a TTL that parses, in case it left with 1.
fn with_ttl(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if frame[12] == 0x08 && frame[22] == 1 {
        // One hop more and 0x0100 less in the checksum, one's complement.
        frame[22] = 2;
        let sum = u32::from(u16::from_be_bytes([frame[24], frame[25]])) + 0xfeff;
        let folded = ((sum & 0xffff) + (sum >> 16)) as u16;
        frame[24..26].copy_from_slice(&folded.to_be_bytes());
    } else if frame[12] == 0x86 && frame[21] == 1 {
        frame[21] = 2;
    }
    frame
}

#[test]
fn unmutated_seeds_leave_sound() {
    for seed in seeds() {
        let mut router = router(1, 1);
        router.inject(LAN, 0, &seed);
        router.settle();
        let sent: Vec<_> = router.take_sent(WAN).into_iter().chain(router.take_sent(UP)).collect();
        assert_eq!(sent.len(), 1);
        assert_sound(&sent[0]);
    }
}

#[test]
fn random_bytes_are_survived() {
    let mut dice = Dice::new(42);
    for _ in 0..200_000 {
        let mut frame = vec![0u8; dice.below(120)];
        frame.iter_mut().for_each(|byte| *byte = dice.roll() as u8);
        if frame.len() > 14 && dice.below(2) == 0 {
            // Past the EtherType, so that the IP parsers are reached.
            frame[0] &= 0xfe;
            frame[12..14].copy_from_slice(if dice.below(2) == 0 { &[0x08, 0x00] } else { &[0x86, 0xdd] });
            frame[14] = if frame[12] == 0x08 { 0x45 } else { 0x60 };
        }
        let _ = Packet::parse(&frame);
        let _ = partial(&frame);
    }
}
