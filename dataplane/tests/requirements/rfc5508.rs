//! RFC 5508: ICMP.

use std::net::IpAddr;
use std::sync::Arc;

use etherparse::PacketBuilder;
use shunt_dataplane::conn::settings::Settings;
use shunt_policy::{DropReason, PortId, PuntReason};

use crate::common::nat::{ends, icmp_error, nat};
use crate::common::{ICMP, LAN, UDP, WAN, address, own, peer};
use crate::scene::*;

/// An ICMP message of this type with an identifier.
fn message(from: PortId, ends: (&str, &str), kind: u8, identifier: u16) -> Vec<u8> {
    let (IpAddr::V4(of), IpAddr::V4(to)) = (address(ends.0), address(ends.1)) else { panic!("IPv4") };
    let [high, low] = identifier.to_be_bytes();
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(peer(from).0, own(from).0)
        .ipv4(of.octets(), to.octets(), 64)
        .icmpv4_raw(kind, 0, [high, low, 0, 9])
        .write(&mut frame, &[0; 12])
        .expect("written");
    frame
}

/// The error about what S has seen of A, its checksum finished after `change` has had the packet that it quotes.
fn error_about(seen: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut quoted = seen[14..].to_vec();
    change(&mut quoted);
    icmp_error(WAN, (address(S), address(PUBLIC)), (3, 3), &quoted)
}

#[test]
fn queries_and_their_answers_pass() {
    let mut scene = Scene::new();
    for (query, reply) in [(8, 0), (13, 14), (15, 16), (17, 18)] {
        let sent = scene.sent(LAN, &message(LAN, (A, S), query, 700));
        assert_eq!(ends(&sent), (address(PUBLIC), 700, address(S), 0));
        let back = scene.sent(WAN, &message(WAN, (S, PUBLIC), reply, 700));
        assert_eq!(ends(&back), (address(S), 700, address(A), 0));
    }
}

/// Queries they are, for they have an identifier; conntrack knows no type above 18.
#[test]
fn domain_name_queries_are_not_known() {
    let mut scene = Scene::new();
    for kind in [37, 38] {
        assert_eq!(scene.fate(LAN, &message(LAN, (A, S), kind, 700)), KERNELS);
    }
}

#[test]
fn an_identifier_keeps_its_mapping_to_other_hosts() {
    let mut scene = Scene::new();
    for host in [S, T] {
        assert_eq!(scene.out(ICMP, (A, 7), (host, 0)), at(PUBLIC, 7));
    }
    let mapped = scene.out(ICMP, (B, 7), (S, 0));
    assert_ne!(mapped, at(PUBLIC, 7));
    // A's query to T has ended; B's keeps its mapping there nonetheless.
    scene.wait(25);
    scene.reaches(ICMP, (S, 0), &mapped);
    scene.reaches(ICMP, (S, 0), &at(PUBLIC, 7));
    scene.wait(6);
    assert_eq!(scene.out(ICMP, (B, 7), (T, 0)), mapped);
    assert_eq!(scene.reaches(ICMP, (S, 0), &mapped), at(B, 7));
    assert_eq!(scene.reaches(ICMP, (S, 0), &at(PUBLIC, 7)), at(A, 7));
}

#[test]
fn a_query_lives_thirty_seconds() {
    let mut scene = Scene::new();
    let mapped = scene.out(ICMP, (A, 7), (S, 0));
    for _ in 0..3 {
        scene.wait(29);
        assert_eq!(scene.reaches(ICMP, (S, 0), &mapped), at(A, 7));
    }
    scene.wait(31);
    assert_eq!(scene.answer(ICMP, (S, 0), &mapped), LOCAL);
}

#[test]
fn the_time_out_of_queries_is_the_operators() {
    let mut scene = Scene::new();
    scene.set(Settings { icmp: 60, ..Settings::default() });
    let mapped = scene.out(ICMP, (A, 7), (S, 0));
    scene.wait(59);
    assert_eq!(scene.reaches(ICMP, (S, 0), &mapped), at(A, 7));
    scene.wait(61);
    assert_eq!(scene.answer(ICMP, (S, 0), &mapped), LOCAL);
}

#[test]
fn an_error_with_a_wrong_checksum_is_not_translated() {
    let mut scene = Scene::new();
    let seen = scene.sent(LAN, &packet(LAN, UDP, (A, 4000), (S, 53)));
    let mut error = error_about(&seen, |_| {});
    error[37] ^= 1;
    assert_eq!(scene.fate(WAN, &error), KERNELS);
    error[37] ^= 1;
    scene.sent(WAN, &error);
}

/// Linux does not look at it, and changes it as it changes the addresses: wrong stays wrong.
#[test]
fn a_wrong_header_checksum_inside_stays_wrong() {
    let mut scene = Scene::new();
    let seen = scene.sent(LAN, &packet(LAN, UDP, (A, 4000), (S, 53)));
    let right = scene.sent(WAN, &error_about(&seen, |_| {}));
    let wrong = scene.sent(WAN, &error_about(&seen, |quoted| quoted[11] ^= 1));
    assert_eq!(ends(&wrong).2, address(A));
    assert_eq!(wrong[42 + 12..], right[42 + 12..]);
    assert_ne!(wrong[42 + 10..42 + 12], right[42 + 10..42 + 12]);
}

#[test]
fn options_of_the_quoted_packet_are_passed_over() {
    let mut scene = Scene::new();
    let seen = scene.sent(LAN, &packet(LAN, UDP, (A, 4000), (S, 53)));
    let error = error_about(&seen, |quoted| {
        quoted[0] = 0x46;
        quoted.splice(20..20, [1, 1, 1, 1]);
        // Four bytes of "no operation", a longer header, a shorter payload.
        quoted[3] += 4;
    });
    let sent = scene.sent(WAN, &error);
    let quoted = &sent[42..];
    assert_eq!((quoted[0], &quoted[20..24]), (0x46, &[1u8; 4][..]));
    assert_eq!(quoted[12..16], [198, 51, 100, 2]);
    assert_eq!(quoted[24..28], [4000u16.to_be_bytes(), 53u16.to_be_bytes()].concat());
    assert_eq!((ends(&sent).0, ends(&sent).2), (address(S), address(A)));
}

#[test]
fn a_wrong_transport_checksum_inside_does_not_matter() {
    let mut scene = Scene::new();
    let asked = packet(LAN, UDP, (A, 4000), (S, 53));
    let seen = scene.sent(LAN, &asked);
    let sent = scene.sent(WAN, &error_about(&seen, |quoted| quoted[27] ^= 0x55));
    assert_eq!(ends(&sent).2, address(A));
    assert_eq!(sent[42 + 12..42 + 26], asked[26..40], "addresses, ports and length");
    assert_ne!(sent[42 + 26..42 + 28], asked[40..42], "wrong as it was");
}

#[test]
fn extensions_behind_the_quoted_packet_are_left_alone() {
    let mut scene = Scene::new();
    let seen = scene.sent(LAN, &packet(LAN, UDP, (A, 4000), (S, 53)));
    let extension = [0x20, 0, 0, 0, 0, 8, 1, 1, 0, 0x12, 0x31, 0x01];
    let error = error_about(&seen, |quoted| {
        quoted.resize(128, 0);
        quoted.extend_from_slice(&extension);
    });
    let sent = scene.sent(WAN, &error);
    assert_eq!(ends(&sent).2, address(A));
    assert_eq!(sent[42 + 128..], extension);
    let length = seen.len() - 14;
    assert!(sent[42 + length..42 + 128].iter().all(|byte| *byte == 0));
}

#[test]
fn an_error_from_outside_about_nothing_known_is_the_kernels() {
    let mut scene = Scene::new();
    let unknown = packet(WAN, UDP, (PUBLIC, 4000), (S, 53));
    assert_eq!(scene.fate(WAN, &error_about(&unknown, |_| {})), LOCAL);
}

#[test]
fn an_error_from_outside_is_reverted() {
    let mut scene = Scene::new();
    // Under another port, so that there is something to revert.
    scene.out(UDP, (A, 4000), (S, 53));
    let asked = packet(LAN, UDP, (B, 4000), (S, 53));
    let seen = scene.sent(LAN, &asked);
    assert_ne!(ends(&seen).1, 4000);
    for (kind, code) in [(3, 1), (3, 3), (3, 4), (11, 0), (12, 0)] {
        let error = icmp_error(WAN, (address("203.0.113.77"), address(PUBLIC)), (kind, code), &seen[14..]);
        let sent = scene.sent(WAN, &error);
        assert_eq!(sent[34..36], [kind, code]);
        assert_eq!((ends(&sent).0, ends(&sent).2), (address("203.0.113.77"), address(B)));
        assert_eq!(sent[42 + 12..], asked[26..], "addresses, ports, checksum and payload");
    }
}

/// An error about a packet that is not of a connection is invalid, and invalid packets are not translated: a rule may drop them.
#[test]
fn an_error_from_inside_about_nothing_known_goes_on_untranslated() {
    let mut scene = Scene::new();
    let unknown = packet(LAN, UDP, (S, 53), (A, 4000));
    let sent = scene.sent(LAN, &icmp_error(LAN, (address(A), address(S)), (3, 3), &unknown[14..]));
    assert_eq!((ends(&sent).0, ends(&sent).2), (address(A), address(S)));
    assert_eq!(sent[34..], icmp_error(LAN, (address(A), address(S)), (3, 3), &unknown[14..])[34..]);
}

#[test]
fn an_error_from_inside_is_reverted_and_comes_from_the_mapped_address() {
    let mut scene = Scene::new();
    scene.out(UDP, (A, 4000), (S, 53));
    let mapped = scene.out(UDP, (B, 4000), (S, 53));
    let asked = answer(UDP, (S, 53), (&mapped.0, mapped.1));
    let Fate::Sent(received) = scene.fate(WAN, &asked) else { panic!("not forwarded") };
    // The host itself, and a router on the way to it.
    for sender in [B, "198.51.100.77"] {
        for (kind, code) in [(3, 3), (3, 1), (11, 0)] {
            let error = icmp_error(LAN, (address(sender), address(S)), (kind, code), &received[14..]);
            let sent = scene.sent(LAN, &error);
            assert_eq!(sent[34..36], [kind, code]);
            assert_eq!((ends(&sent).0, ends(&sent).2), (address(PUBLIC), address(S)));
            assert_eq!(sent[42 + 12..], asked[26..], "addresses, ports, checksum and payload");
        }
    }
}

#[test]
fn an_error_about_a_query_neither_refreshes_nor_ends_it() {
    let mut scene = Scene::new();
    let asked = packet(LAN, ICMP, (A, 7), (S, 0));
    let seen = scene.sent(LAN, &asked);
    let error = icmp_error(WAN, (address("203.0.113.77"), address(PUBLIC)), (11, 0), &seen[14..]);
    for _ in 0..2 {
        scene.wait(14);
        let sent = scene.sent(WAN, &error);
        assert_eq!(sent[42 + 12..], asked[26..], "the query as it was sent");
    }
    let mapped = at(PUBLIC, 7);
    scene.wait(1);
    assert_eq!(scene.reaches(ICMP, (S, 0), &mapped), at(A, 7), "not ended");
    for _ in 0..2 {
        scene.wait(14);
        scene.sent(WAN, &error);
    }
    scene.wait(3);
    assert_eq!(scene.answer(ICMP, (S, 0), &mapped), LOCAL, "not refreshed");

    // Nor does one from inside about the answer.
    scene.out(ICMP, (A, 7), (S, 0));
    let Fate::Sent(received) = scene.answer(ICMP, (S, 0), &mapped) else { panic!("not forwarded") };
    let error = icmp_error(LAN, (address(A), address(S)), (3, 3), &received[14..]);
    for _ in 0..2 {
        scene.wait(14);
        assert_eq!(ends(&scene.sent(LAN, &error)).0, address(PUBLIC), "translated, so not ended");
    }
    scene.wait(3);
    assert_eq!(scene.answer(ICMP, (S, 0), &mapped), LOCAL, "not refreshed");
}

#[test]
fn without_room_a_new_connection_is_dropped_without_a_word() {
    let mut scene = Scene::pool(None, |nat| nat.ports = ports(5000, 5000));
    assert_eq!(scene.out(UDP, (A, 4000), (S, 53)), at(PUBLIC, 5000));
    let second = packet(LAN, UDP, (B, 4000), (S, 53));
    assert_eq!(scene.fate(LAN, &second), Fate::Dropped(DropReason::NatExhausted));

    let mut scene = Scene::new();
    scene.set(Settings { max: 3, ..Settings::default() });
    for port in 4000..4003 {
        let talk = Talk { client: (A, port), caller: (PUBLIC, port), ..OUTWARD };
        scene.connect(LAN, &talk);
    }
    let fourth = packet(LAN, UDP, (B, 4000), (S, 53));
    assert_eq!(scene.fate(LAN, &fourth), Fate::Dropped(DropReason::ConntrackFull));
}

/// So what they are and where they go is a matter of the kernel's rules of OUTPUT.
#[test]
fn errors_of_the_router_itself_are_the_kernels() {
    let mut scene = Scene::new();
    let mut last_hop = packet(LAN, UDP, (A, 4000), (S, 53));
    last_hop[22] = 1;
    finish_header(&mut last_hop);
    assert_eq!(scene.fate(LAN, &last_hop), Fate::Punted(PuntReason::TtlExpired));
    let mut config = nat();
    for link in Arc::make_mut(&mut config.links) {
        link.mtu = 37;
    }
    let long = packet(LAN, UDP, (A, 4000), (S, 53));
    assert_eq!(Scene::of(&config).fate(LAN, &long), Fate::Punted(PuntReason::Oversize));
    let echo = message(WAN, (S, PUBLIC), 8, 7);
    assert_eq!(scene.fate(WAN, &echo), LOCAL);
}

#[test]
fn what_is_too_big_is_told_with_the_mtu_of_the_next_hop() {
    let mut scene = Scene::new();
    let seen = scene.sent(LAN, &packet(LAN, UDP, (A, 4000), (S, 53)));
    let mut error = icmp_error(WAN, (address("203.0.113.77"), address(PUBLIC)), (3, 4), &seen[14..]);
    error[40..42].copy_from_slice(&1400u16.to_be_bytes());
    finish_icmp(&mut error);
    let sent = scene.sent(WAN, &error);
    assert_eq!((ends(&sent).0, ends(&sent).2), (address("203.0.113.77"), address(A)));
    assert_eq!((&sent[34..36], &sent[40..42]), (&[3, 4][..], &1400u16.to_be_bytes()[..]));
}

/// Loose, by way of T; and the end of options.
const SOURCE_ROUTE: [u8; 8] = [131, 7, 4, 203, 0, 113, 3, 0];

/// Of an IPv4 packet without options.
fn with_source_route(packet: &mut Vec<u8>) {
    packet[0] = 0x47;
    packet[3] += 8;
    packet.splice(20..20, SOURCE_ROUTE);
}

#[test]
fn packets_with_a_source_route_are_the_kernels() {
    let mut scene = Scene::new();
    for kind in [UDP, ICMP] {
        let plain = packet(LAN, kind, (A, 4000), (S, 53));
        let mut routed = plain[14..].to_vec();
        with_source_route(&mut routed);
        let mut frame = [&plain[..14], &routed[..]].concat();
        finish_header(&mut frame);
        assert_eq!(scene.fate(LAN, &frame), Fate::Punted(PuntReason::Options));
    }
}

/// Linux passes over what options a quoted packet has.
#[test]
fn a_quoted_source_route_is_left_alone() {
    let mut scene = Scene::new();
    let mapped = scene.out(UDP, (A, 4000), (S, 53));
    let Fate::Sent(received) = scene.answer(UDP, (S, 53), &mapped) else { panic!("not forwarded") };
    let mut quoted = received[14..].to_vec();
    with_source_route(&mut quoted);
    let sent = scene.sent(LAN, &icmp_error(LAN, (address(A), address(S)), (3, 3), &quoted));
    assert_eq!(ends(&sent).0, address(PUBLIC));
    assert_eq!(sent[42 + 20..42 + 28], SOURCE_ROUTE);
}

#[test]
fn a_source_quench_is_translated_as_any_error() {
    let mut scene = Scene::new();
    let asked = packet(LAN, UDP, (A, 4000), (S, 53));
    let seen = scene.sent(LAN, &asked);
    let sent = scene.sent(WAN, &icmp_error(WAN, (address(S), address(PUBLIC)), (4, 0), &seen[14..]));
    assert_eq!(sent[34..36], [4, 0]);
    assert_eq!((ends(&sent).0, ends(&sent).2), (address(S), address(A)));
    assert_eq!(sent[42 + 12..], asked[26..], "addresses, ports, checksum and payload");
}

#[test]
fn a_redirect_about_a_translated_connection_is_the_kernels() {
    let mut scene = Scene::new();
    let seen = scene.sent(LAN, &packet(LAN, UDP, (A, 4000), (S, 53)));
    let redirect = icmp_error(WAN, (address(T), address(PUBLIC)), (5, 1), &seen[14..]);
    assert_eq!(scene.fate(WAN, &redirect), Fate::Punted(PuntReason::Nat));
}

#[test]
fn what_is_neither_query_nor_error_is_not_translated() {
    let mut scene = Scene::new();
    for kind in [19, 40, 42, 255] {
        assert_eq!(scene.fate(LAN, &message(LAN, (A, S), kind, 0)), KERNELS, "conntrack does not know it");
    }
    for kind in [1, 2, 7, 9, 10] {
        let odd = message(LAN, (A, S), kind, 0);
        let sent = scene.sent(LAN, &odd);
        assert_eq!((sent[26..30].to_vec(), sent[34]), (vec![198, 51, 100, 2], kind));
        assert_eq!(scene.fate(WAN, &message(WAN, (S, PUBLIC), kind, 0)), LOCAL);
    }
}
