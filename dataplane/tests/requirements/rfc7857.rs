//! RFC 7857: what it changes of the others.

use shunt_policy::DropReason;

use crate::common::nat::{ends, icmp_error, nat};
use crate::common::{ICMP, LAN, TCP, UDP, WAN, address};
use crate::scene::*;

#[test]
fn a_reset_is_translated_and_ends_the_connection_after_ten_seconds() {
    let (out, home) = ((OUTWARD.client, OUTWARD.service), (OUTWARD.server, OUTWARD.caller));
    for from in [LAN, WAN] {
        for (later, alive) in [(9, true), (11, false)] {
            let mut scene = Scene::new();
            scene.connect(LAN, &OUTWARD);
            let (ends_of, numbers) = if from == LAN { (out, (1001, 9001)) } else { (home, (9001, 1001)) };
            let reset = scene.segment(from, ends_of, "ra", numbers, 0);
            assert_eq!(ends(&reset).0, address(if from == LAN { PUBLIC } else { S }));
            scene.wait(later);
            let again = segment(WAN, home, "ra", (9001, 1001), 0);
            assert_eq!(scene.fate(WAN, &again) != LOCAL, alive, "{later} s");
        }
    }
}

#[test]
fn a_reset_out_of_the_window_ends_nothing() {
    let mut scene = Scene::new();
    scene.connect(LAN, &OUTWARD);
    let home = (OUTWARD.server, OUTWARD.caller);
    for sequence in [0, 8000, 9_000_000] {
        let forged = segment(WAN, home, "r", (sequence, 0), 0);
        assert_eq!(scene.fate(WAN, &forged), Fate::Dropped(DropReason::Misfit), "invalid, so untranslated");
    }
    scene.wait(4 * 86_400);
    scene.segment(WAN, home, "a", (9001, 1001), 0);
}

#[test]
fn pairing_is_the_same_for_all_protocols() {
    let mut scene = Scene::pool(Some(("203.0.113.16", "203.0.113.31")), |nat| nat.persistent = true);
    let (address, _) = scene.out(UDP, (A, 4000), (S, 53));
    for port in 4000..4020 {
        assert_eq!(scene.out(TCP, (A, port), (T, 80)).0, address);
        assert_eq!(scene.out(ICMP, (A, port), (T, 0)).0, address);
    }
}

#[test]
fn an_address_without_a_free_port_is_not_left_for_another() {
    for protocol in [UDP, TCP] {
        let mut scene = Scene::pool(Some(("203.0.113.16", "203.0.113.31")), |nat| {
            nat.persistent = true;
            nat.ports = ports(5000, 5003);
        });
        let addresses: Vec<_> = (4000..4004).map(|port| scene.out(protocol, (A, port), (S, 53)).0).collect();
        assert!(addresses.iter().all(|address| *address == addresses[0]));
        let fifth = packet(LAN, protocol, (A, 4004), (S, 53));
        assert_eq!(scene.fate(LAN, &fifth), Fate::Dropped(DropReason::NatExhausted));
        // Towards another destination there is room.
        assert_eq!(scene.out(protocol, (A, 4004), (T, 53)).0, addresses[0]);
    }
}

#[test]
fn protocols_are_mapped_each_for_itself() {
    let mut scene = Scene::new();
    assert_eq!(scene.out(UDP, (A, 4000), (S, 53)), at(PUBLIC, 4000));
    assert_eq!(scene.out(TCP, (B, 4000), (S, 53)), at(PUBLIC, 4000));
    assert_eq!(scene.out(ICMP, (B, 4000), (S, 0)), at(PUBLIC, 4000));
    assert_ne!(scene.out(UDP, (B, 4000), (S, 53)), at(PUBLIC, 4000));
}

#[test]
fn protocols_are_filtered_each_for_itself() {
    let mut scene = Scene::new();
    scene.out(UDP, (A, 4000), (S, 53));
    assert_eq!(scene.fate(WAN, &packet(WAN, TCP, (S, 53), (PUBLIC, 4000))), LOCAL);
    assert_eq!(scene.answer(ICMP, (S, 0), &at(PUBLIC, 4000)), LOCAL);
    assert_eq!(scene.reaches(UDP, (S, 53), &at(PUBLIC, 4000)), at(A, 4000));
}

#[test]
fn packets_that_are_filtered_refresh_nothing() {
    let mut scene = Scene::new();
    let mapped = scene.out(UDP, (A, 4000), (S, 53));
    for _ in 0..2 {
        scene.wait(14);
        assert_eq!(scene.answer(UDP, (T, 53), &mapped), LOCAL);
    }
    scene.wait(3);
    assert_eq!(scene.answer(UDP, (S, 53), &mapped), LOCAL);

    let mut scene = Scene::new();
    scene.segment(LAN, (OUTWARD.client, OUTWARD.service), "s", (1000, 0), 0);
    scene.wait(100);
    for flags in ["s", "sa", "ra"] {
        let stray = segment(WAN, ((T, 80), OUTWARD.caller), flags, (9000, 1001), 0);
        assert_eq!(scene.fate(WAN, &stray), LOCAL, "{flags}");
    }
    scene.wait(21);
    let late = segment(WAN, (OUTWARD.server, OUTWARD.caller), "sa", (9000, 1001), 0);
    assert_eq!(scene.fate(WAN, &late), LOCAL);
}

#[test]
fn errors_from_inside_refresh_nothing() {
    let mut scene = Scene::new();
    let mapped = scene.out(UDP, (A, 4000), (S, 53));
    let Fate::Sent(received) = scene.answer(UDP, (S, 53), &mapped) else { panic!("not forwarded") };
    for _ in 0..2 {
        scene.wait(14);
        let error = scene.sent(LAN, &icmp_error(LAN, (address(A), address(S)), (3, 3), &received[14..]));
        assert_eq!((ends(&error).0, ends(&error).2), (address(PUBLIC), address(S)));
    }
    scene.wait(3);
    assert_eq!(scene.answer(UDP, (S, 53), &mapped), LOCAL);
}

/// Of five days one leaves ten seconds, and the next leaves ten seconds anew, as Linux has it.
#[test]
fn resets_from_inside_leave_ten_seconds_each() {
    let mut scene = Scene::new();
    scene.connect(LAN, &OUTWARD);
    for _ in 0..3 {
        let reset = scene.segment(LAN, (OUTWARD.client, OUTWARD.service), "ra", (1001, 9001), 0);
        assert_eq!(ends(&reset).0, address(PUBLIC));
        scene.wait(8);
    }
    scene.wait(3);
    let late = segment(WAN, (OUTWARD.server, OUTWARD.caller), "a", (9001, 1001), 0);
    assert_eq!(scene.fate(WAN, &late), LOCAL);
}

/// No protocol like PCP is spoken here: a daemon would make rules of what it is asked for.
#[test]
fn who_asks_for_a_mapping_asks_the_machine() {
    let mut scene = Scene::new();
    assert_eq!(scene.fate(LAN, &packet(LAN, UDP, (A, 5350), (PUBLIC, 5351))), LOCAL);
}

/// Whether one port does not tell the next.
fn are_hard_to_guess(ports: &[u16]) -> bool {
    let steps: std::collections::BTreeSet<_> = ports.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
    steps.len() > ports.len() * 3 / 4
}

#[test]
fn a_port_chosen_on_collision_is_hard_to_guess() {
    for protocol in [UDP, TCP] {
        let mut scene = Scene::new();
        let chosen = (4000..4064).map(|port| {
            assert_eq!(scene.out(protocol, (A, port), (S, 53)), at(PUBLIC, port));
            scene.out(protocol, (B, port), (S, 53)).1
        });
        assert!(are_hard_to_guess(&chosen.collect::<Vec<_>>()));
    }
}

#[test]
fn ports_are_random_where_a_rule_says_so() {
    for fully in [false, true] {
        let mut scene = Scene::pool(None, |nat| (nat.random, nat.fully_random) = (!fully, fully));
        let mapped: Vec<u16> = (4000..4064).map(|port| scene.out(UDP, (A, port), (S, 53)).1).collect();
        let kept = mapped.iter().zip(4000..).filter(|(mapped, port)| **mapped == *port).count();
        assert!(kept < 4, "{kept} of 64 are as they were");
        assert!(are_hard_to_guess(&mapped));
        assert!(mapped.iter().all(|port| *port >= 1024));
    }
}

/// As Linux, which leaves uniqueness of identifications to the senders.
#[test]
fn the_identification_of_a_packet_is_left_alone() {
    let mut scene = Scene::new();
    for identification in [[0, 0], [0x12, 0x34], [0xff, 0xff]] {
        let mut asked = packet(LAN, UDP, (A, 4000), (S, 53));
        asked[18..20].copy_from_slice(&identification);
        finish_header(&mut asked);
        assert_eq!(scene.sent(LAN, &asked)[18..20], identification);
    }
}

#[test]
fn a_mapping_of_icmp_ends_with_its_last_query() {
    let mut scene = Scene::new();
    scene.out(ICMP, (A, 7), (S, 0));
    let mapped = scene.out(ICMP, (B, 7), (S, 0));
    assert_ne!(mapped, at(PUBLIC, 7));
    scene.wait(20);
    assert_eq!(scene.out(ICMP, (B, 7), (T, 0)), mapped);
    scene.wait(20);
    // The first has ended; the other keeps the mapping.
    assert_eq!(scene.out(ICMP, (B, 7), (S, 0)), mapped);
    scene.wait(31);
    assert_eq!(scene.out(ICMP, (B, 7), (S, 0)), at(PUBLIC, 7));
}

#[test]
fn hairpins_of_icmp_are_the_kernels() {
    let mut scene = Scene::of(&nat());
    let mapped = scene.out(ICMP, (A, 7), (S, 0));
    assert_eq!(scene.fate(LAN, &packet(LAN, ICMP, (B, 7), (PUBLIC, mapped.1))), LOCAL);
    // An error about a hairpin, from the host inside that it led to.
    let syn = packet(LAN, TCP, (B, 4000), (PUBLIC, 8080));
    scene.fate(LAN, &syn);
    let seen = packet(LAN, TCP, (PUBLIC, 4000), (A, 80));
    assert_eq!(scene.fate(LAN, &icmp_error(LAN, (address(A), address(PUBLIC)), (3, 3), &seen[14..])), LOCAL);
}
