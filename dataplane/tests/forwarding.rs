//! What goes in, and what comes out: each story sends exact bytes through the simulator.

mod common;

use common::{Crafted, ICMP, ICMPV6, LAN, TCP, UDP, UP, WAN, assert_sound, make_partial, own, peer, router};
use shunt_policy::{DropReason, PuntReason};

/// Sends one frame in by the LAN and returns what left by `WAN`, which must be one frame.
fn through(frame: &[u8]) -> Vec<u8> {
    let mut router = router(1, 1);
    router.inject(LAN, 0, frame);
    router.settle();
    let mut sent = router.take_sent(WAN);
    assert_eq!(sent.len(), 1, "{:?}", router.counters());
    sent.remove(0)
}

/// Sends one frame in and returns the reason for which it was punted, having seen that the kernel got it as it came.
fn punted(frame: &[u8]) -> PuntReason {
    let mut router = router(1, 1);
    router.inject(LAN, 0, frame);
    router.settle();
    assert_eq!(router.take_punted(), vec![(LAN, frame.to_vec())], "{:?}", router.counters());
    let counters = router.counters();
    assert_eq!(counters.punted.iter().sum::<u64>(), 1);
    PuntReason::ALL.into_iter().find(|reason| counters.of_punt(*reason) == 1).expect("a reason")
}

fn dropped(frame: &[u8]) -> DropReason {
    let mut router = router(1, 1);
    router.inject(LAN, 0, frame);
    router.settle();
    assert!(router.take_punted().is_empty());
    let counters = router.counters();
    assert_eq!(counters.dropped.iter().sum::<u64>(), 1, "{counters:?}");
    DropReason::ALL.into_iter().find(|reason| counters.of_drop(*reason) == 1).expect("a reason")
}

#[test]
fn a_packet_leaves_with_new_addresses_and_one_hop_less() {
    for protocol in [TCP, UDP, ICMP] {
        let frame = Crafted::default().protocol(protocol).on(LAN);
        let sent = through(&frame);
        assert_sound(&sent);
        assert_eq!(sent[..6], peer(WAN).0);
        assert_eq!(sent[6..12], own(WAN).0);
        assert_eq!(sent[22], 63);
        // Nothing else but the header checksum has changed.
        assert_eq!(sent[12..22], frame[12..22]);
        assert_eq!(sent[23], frame[23]);
        assert_eq!(sent[26..], frame[26..]);
    }
}

#[test]
fn the_same_in_ipv6() {
    for protocol in [TCP, UDP, ICMPV6] {
        let frame = Crafted::v6().protocol(protocol).on(LAN);
        let sent = through(&frame);
        assert_sound(&sent);
        assert_eq!(sent[..6], peer(WAN).0);
        assert_eq!(sent[21], 63);
        assert_eq!(sent[12..21], frame[12..21]);
        assert_eq!(sent[22..], frame[22..]);
    }
}

#[test]
fn the_default_route_goes_to_the_gateway() {
    let mut router = router(1, 1);
    router.inject(LAN, 0, &Crafted::default().to("198.18.0.1").on(LAN));
    router.settle();
    assert_eq!(router.take_sent(UP)[0][..6], peer(UP).0);
}

#[test]
fn padding_is_trimmed() {
    for crafted in [Crafted::default(), Crafted::v6()] {
        let plain = crafted.payload(2).on(LAN);
        let mut padded = plain.clone();
        padded.resize(plain.len() + 17, 0xee);
        assert_eq!(through(&padded), through(&plain));
    }
}

#[test]
fn partial_checksums_are_completed() {
    for crafted in [Crafted::default(), Crafted::v6()] {
        for protocol in [TCP, UDP] {
            for payload in [0, 1, 2, 3, 99, 1400] {
                let whole = crafted.clone().protocol(protocol).payload(payload).on(LAN);
                let mut partial = whole.clone();
                make_partial(&mut partial, protocol);
                assert_ne!(partial, whole);
                let sent = through(&partial);
                assert_sound(&sent);
                assert_eq!(sent, through(&whole), "as if the sender had finished it");
            }
        }
    }
}

#[test]
fn a_partial_checksum_that_comes_to_zero_is_sent_as_ones_in_udp() {
    let mut router = router(1, 1);
    let mut found = false;
    for last in 0..=u16::MAX {
        let mut frame = Crafted::default().payload(2).on(LAN);
        let end = frame.len();
        frame[end - 2..].copy_from_slice(&last.to_be_bytes());
        make_partial(&mut frame, UDP);
        router.inject(LAN, 0, &frame);
        router.settle();
        let sent = router.take_sent(WAN).remove(0);
        assert_ne!(sent[40..42], [0, 0]);
        found |= sent[40..42] == [0xff, 0xff];
    }
    assert!(found, "one of 65536 payloads sums to zero");
}

#[test]
fn other_checksums_are_not_touched() {
    let mut none = Crafted::default().on(LAN);
    none[40..42].fill(0);
    assert_eq!(through(&none)[40..42], [0, 0], "UDP without a checksum");
    let mut wrong = Crafted::default().protocol(TCP).on(LAN);
    wrong[50..52].copy_from_slice(&[0xbe, 0xef]);
    assert_eq!(through(&wrong)[50..52], [0xbe, 0xef], "a wrong one is the receiver's to find");
}

#[test]
fn the_kernel_gets_what_is_the_kernels() {
    let good = Crafted::default().on(LAN);
    let edit = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = good.clone();
        change(&mut frame);
        // The header checksum is right, so that it is not what stops the packet.
        frame[24..26].fill(0);
        let length = usize::from(frame[14] & 0x0f) * 4;
        let mut sum: u32 = frame[14..14 + length].chunks(2).map(|p| u32::from(u16::from_be_bytes([p[0], p[1]]))).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        frame[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        frame
    };
    assert_eq!(punted(&edit(&|f| f[22] = 1)), PuntReason::TtlExpired);
    assert_eq!(punted(&edit(&|f| f[22] = 0)), PuntReason::TtlExpired);
    assert_eq!(punted(&edit(&|f| f[20] = 0x20)), PuntReason::Fragment);
    assert_eq!(punted(&edit(&|f| f[21] = 0x08)), PuntReason::Fragment);
    assert_eq!(punted(&edit(&|f| f[14] = 0x46)), PuntReason::Options);
    assert_eq!(punted(&edit(&|f| f[30] = 224)), PuntReason::NotUnicast);
    assert_eq!(punted(&edit(&|f| f[30] = 127)), PuntReason::NotUnicast);
    assert_eq!(punted(&edit(&|f| f[26] = 0)), PuntReason::NotUnicast);
    assert_eq!(punted(&edit(&|f| f[26..30].fill(255))), PuntReason::NotUnicast);
    assert_eq!(punted(&edit(&|f| f[0] |= 1)), PuntReason::NotUnicast);
    assert_eq!(punted(&edit(&|f| f[12..14].copy_from_slice(&[0x08, 0x06]))), PuntReason::NotIp);
    assert_eq!(punted(&edit(&|f| f[12..14].copy_from_slice(&[0x81, 0x00]))), PuntReason::NotIp);
    assert_eq!(punted(&Crafted::default().to("198.51.100.1").on(LAN)), PuntReason::Local);
    assert_eq!(punted(&Crafted::default().to("203.0.113.77").on(LAN)), PuntReason::Neighbour);
    assert_eq!(punted(&Crafted::default().to("198.51.100.2").on(LAN)), PuntReason::Redirect);
    assert_eq!(punted(&Crafted::default().payload(1473).on(LAN)), PuntReason::Oversize);
    // The reserved bit and "don't fragment" are no fragments.
    assert_eq!(through(&edit(&|f| f[20] = 0xc0))[20], 0xc0);
}

#[test]
fn the_same_kernel_in_ipv6() {
    let good = Crafted::v6().on(LAN);
    let edit = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = good.clone();
        change(&mut frame);
        frame
    };
    assert_eq!(punted(&edit(&|f| f[21] = 1)), PuntReason::TtlExpired);
    assert_eq!(punted(&edit(&|f| f[20] = 44)), PuntReason::Fragment);
    for extension in [0, 43, 51, 60, 135, 139, 140] {
        assert_eq!(punted(&edit(&|f| f[20] = extension)), PuntReason::Options);
    }
    assert_eq!(punted(&edit(&|f| f[38] = 0xff)), PuntReason::NotUnicast);
    assert_eq!(punted(&edit(&|f| f[22..38].fill(0))), PuntReason::NotUnicast);
    assert_eq!(punted(&edit(&|f| f[38..52].fill(0))), PuntReason::NotUnicast);
    assert_eq!(punted(&edit(&|f| f[22..24].copy_from_slice(&[0xfe, 0x80]))), PuntReason::LinkLocal);
    assert_eq!(punted(&edit(&|f| f[38..40].copy_from_slice(&[0xfe, 0xbf]))), PuntReason::LinkLocal);
    assert_eq!(punted(&Crafted::v6().payload(1453).on(LAN)), PuntReason::Oversize);
}

#[test]
fn what_the_kernel_drops_without_a_word_is_dropped_by_name() {
    let good = Crafted::default().on(LAN);
    for length in 0..34 {
        assert_eq!(dropped(&good[..length]), DropReason::Truncated, "{length} bytes");
    }
    assert_eq!(dropped(&good[..good.len() - 1]), DropReason::Truncated);
    let edit = |at: usize, value: u8| {
        let mut frame = good.clone();
        frame[at] = value;
        frame
    };
    assert_eq!(dropped(&edit(24, good[24] ^ 1)), DropReason::BadHeader, "checksum");
    assert_eq!(dropped(&edit(14, 0x65)), DropReason::BadHeader, "version");
    assert_eq!(dropped(&edit(14, 0x44)), DropReason::BadHeader, "header length");
    let six = Crafted::v6().on(LAN);
    assert_eq!(dropped(&six[..six.len() - 1]), DropReason::Truncated);
    let mut version = six.clone();
    version[14] = 0x45;
    assert_eq!(dropped(&version), DropReason::BadHeader);
}

#[test]
fn a_transport_header_cut_short_is_the_kernels() {
    for protocol in [TCP, UDP, ICMPV6] {
        let mut frame = Crafted::v6().protocol(protocol).payload(0).on(LAN);
        frame.truncate(54 + 7);
        frame[19] = 7;
        assert_eq!(punted(&frame), PuntReason::TransportCut);
    }
}
