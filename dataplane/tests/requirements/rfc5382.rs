//! RFC 5382: TCP.

use shunt_dataplane::conn::settings::{Settings, TcpTimeouts};
use shunt_policy::PuntReason;

use crate::common::nat::{ends, icmp_error};
use crate::common::{LAN, TCP, WAN, address};
use crate::scene::*;

/// Seconds
const DAY: u64 = 86_400;

#[test]
fn a_tcp_source_keeps_its_mapping() {
    let mut scene = Scene::new();
    for outside in [(S, 80), (S, 443), (T, 80)] {
        assert_eq!(scene.out(TCP, (A, 4000), outside), at(PUBLIC, 4000));
    }
    let mapped = scene.out(TCP, (B, 4000), (S, 80));
    assert_ne!(mapped, at(PUBLIC, 4000));
    for outside in [(S, 22), (T, 443)] {
        assert_eq!(scene.out(TCP, (B, 4000), outside), mapped);
    }
}

/// Data both ways, then both sides close one after the other; `closes` says who is first. All of it passes.
fn talk(scene: &mut Scene, talk: &Talk, client_closes: bool) {
    let (front, back) = if talk.client.0 == A { (LAN, WAN) } else { (WAN, LAN) };
    let (out, home) = ((talk.client, talk.service), (talk.server, talk.caller));
    scene.connect(front, talk);
    scene.segment(front, out, "a", (1001, 9001), 10);
    scene.segment(back, home, "a", (9001, 1011), 20);
    scene.segment(front, out, "a", (1011, 9021), 0);
    // A keepalive and its answer.
    scene.segment(front, out, "a", (1010, 9021), 0);
    scene.segment(back, home, "a", (9021, 1011), 0);
    if client_closes {
        scene.segment(front, out, "fa", (1011, 9021), 0);
        scene.segment(back, home, "a", (9021, 1012), 0);
        // Half closed: the other side goes on.
        scene.segment(back, home, "a", (9021, 1012), 100);
        scene.segment(front, out, "a", (1012, 9121), 0);
        scene.segment(back, home, "fa", (9121, 1012), 0);
        scene.segment(front, out, "a", (1012, 9122), 0);
    } else {
        // Both at once.
        scene.segment(back, home, "fa", (9021, 1011), 0);
        scene.segment(front, out, "fa", (1011, 9021), 0);
        scene.segment(back, home, "a", (9022, 1012), 0);
        scene.segment(front, out, "a", (1012, 9022), 0);
    }
}

#[test]
fn connections_from_inside_pass_from_handshake_to_close() {
    for client_closes in [true, false] {
        talk(&mut Scene::new(), &OUTWARD, client_closes);
    }
}

#[test]
fn connections_to_a_forwarded_port_pass_from_handshake_to_close() {
    for client_closes in [true, false] {
        talk(&mut Scene::new(), &INWARD, client_closes);
    }
}

#[test]
fn both_sides_may_open_at_once() {
    let mut scene = Scene::new();
    let (out, home) = ((OUTWARD.client, OUTWARD.service), (OUTWARD.server, OUTWARD.caller));
    scene.segment(LAN, out, "s", (1000, 0), 0);
    let crossing = scene.segment(WAN, home, "s", (9000, 0), 0);
    assert_eq!(ends(&crossing), (address(S), 80, address(A), 4000));
    scene.segment(LAN, out, "sa", (1000, 9001), 0);
    scene.segment(WAN, home, "sa", (9000, 1001), 0);
    scene.segment(LAN, out, "a", (1001, 9001), 0);
    scene.segment(WAN, home, "a", (9001, 1001), 10);
    scene.segment(LAN, out, "a", (1001, 9011), 10);
    scene.segment(WAN, home, "a", (9011, 1011), 0);
    // It has come to be established.
    scene.wait(4 * DAY);
    scene.segment(WAN, home, "a", (9011, 1011), 0);
}

#[test]
fn only_the_tcp_endpoint_that_was_called_gets_in() {
    let mut scene = Scene::new();
    scene.connect(LAN, &OUTWARD);
    for stranger in [(S, 81), (T, 80)] {
        for flags in ["s", "a", "ra"] {
            let segment = segment(WAN, (stranger, OUTWARD.caller), flags, (9001, 1001), 0);
            assert_eq!(scene.fate(WAN, &segment), LOCAL, "{flags}");
        }
    }
    scene.segment(WAN, (OUTWARD.server, OUTWARD.caller), "a", (9001, 1001), 10);
}

/// Linux answers a SYN for a closed port at once, unless a rule of INPUT drops it.
#[test]
fn an_unsolicited_syn_is_the_kernels_and_does_not_hinder_the_one_that_crosses_it() {
    let mut scene = Scene::new();
    let syn = segment(WAN, (OUTWARD.server, OUTWARD.caller), "s", (9000, 0), 0);
    for _ in 0..3 {
        assert_eq!(scene.fate(WAN, &syn), LOCAL);
    }
    scene.connect(LAN, &OUTWARD);
}

#[test]
fn an_established_connection_lives_five_days() {
    let mut scene = Scene::new();
    scene.connect(LAN, &OUTWARD);
    let data = segment(WAN, (OUTWARD.server, OUTWARD.caller), "a", (9001, 1001), 0);
    scene.wait(5 * DAY - 10);
    scene.sent(WAN, &data);
    scene.wait(5 * DAY - 10);
    scene.sent(WAN, &data);
    scene.wait(5 * DAY + 1);
    assert_eq!(scene.fate(WAN, &data), LOCAL);
}

/// What is sent, who sends it, and how long the connection lives after it.
type Script<'a> = (&'a [(bool, &'a str, (u32, u32))], u64);

fn lives(settings: &Settings, (segments, seconds): Script) {
    for (later, alive) in [(seconds - 1, true), (seconds + 1, false)] {
        let mut scene = Scene::new();
        scene.set(settings.clone());
        let (out, home) = ((OUTWARD.client, OUTWARD.service), (OUTWARD.server, OUTWARD.caller));
        for (outward, flags, numbers) in segments {
            let (from, ends) = if *outward { (LAN, out) } else { (WAN, home) };
            scene.segment(from, ends, flags, *numbers, 0);
        }
        scene.wait(later);
        // Nothing that would begin a connection. An answer is found, and is part of it or is not.
        let quoted = segment(WAN, (OUTWARD.caller, OUTWARD.server), "a", (1001, 9001), 0);
        let error = icmp_error(WAN, (address(S), address(PUBLIC)), (3, 1), &quoted[14..]);
        assert_eq!(scene.fate(WAN, &error) != LOCAL, alive, "{segments:?} after {later} s");
    }
}

const SYN: (bool, &str, (u32, u32)) = (true, "s", (1000, 0));
const SYN_ACK: (bool, &str, (u32, u32)) = (false, "sa", (9000, 1001));
const ACK: (bool, &str, (u32, u32)) = (true, "a", (1001, 9001));
const FIN: (bool, &str, (u32, u32)) = (true, "fa", (1001, 9001));
const FIN_ACK: (bool, &str, (u32, u32)) = (false, "a", (9001, 1002));
const OTHER_FIN: (bool, &str, (u32, u32)) = (false, "fa", (9001, 1002));
const LAST_ACK: (bool, &str, (u32, u32)) = (true, "a", (1002, 9002));
const RST: (bool, &str, (u32, u32)) = (false, "ra", (9001, 1001));

#[test]
fn transitory_states_live_as_long_as_linux_lets_them() {
    let usual = Settings::default();
    lives(&usual, (&[SYN], 120));
    lives(&usual, (&[SYN, SYN_ACK], 60));
    lives(&usual, (&[SYN, SYN_ACK, ACK, FIN], 120));
    lives(&usual, (&[SYN, SYN_ACK, ACK, FIN, FIN_ACK], 60));
    lives(&usual, (&[SYN, SYN_ACK, ACK, FIN, FIN_ACK, OTHER_FIN], 30));
    lives(&usual, (&[SYN, SYN_ACK, ACK, FIN, FIN_ACK, OTHER_FIN, LAST_ACK], 120));
}

#[test]
fn time_outs_of_tcp_are_the_operators() {
    let tcp = TcpTimeouts {
        syn_sent: 240,
        syn_recv: 241,
        established: 7440,
        fin_wait: 242,
        close_wait: 243,
        last_ack: 244,
        time_wait: 245,
        close: 246,
        ..Settings::default().tcp
    };
    let settings = Settings { tcp, ..Settings::default() };
    lives(&settings, (&[SYN], 240));
    lives(&settings, (&[SYN, SYN_ACK], 241));
    lives(&settings, (&[SYN, SYN_ACK, ACK], 7440));
    lives(&settings, (&[SYN, SYN_ACK, ACK, FIN], 242));
    lives(&settings, (&[SYN, SYN_ACK, ACK, FIN, FIN_ACK], 243));
    lives(&settings, (&[SYN, SYN_ACK, ACK, FIN, FIN_ACK, OTHER_FIN], 244));
    lives(&settings, (&[SYN, SYN_ACK, ACK, FIN, FIN_ACK, OTHER_FIN, LAST_ACK], 245));
    lives(&settings, (&[SYN, SYN_ACK, ACK, RST], 246));
}

#[test]
fn what_a_segment_says_of_addresses_is_left_alone() {
    let mut scene = Scene::new();
    let talk = Talk { server: (S, 21), service: (S, 21), ..OUTWARD };
    scene.connect(LAN, &talk);
    let text = b"PORT 198,51,100,2,15,161\r\n";
    let mut command = segment(LAN, (talk.client, talk.service), "a", (1001, 9001), text.len());
    let end = command.len();
    command[end - text.len()..].copy_from_slice(text);
    finish_tcp(&mut command);
    let sent = scene.sent(LAN, &command);
    assert_eq!(ends(&sent).0, address(PUBLIC));
    assert!(sent.ends_with(text));
}

fn finish_tcp(frame: &mut [u8]) {
    let packet = etherparse::Ipv4Slice::from_slice(&frame[14..]).expect("IPv4");
    let tcp = etherparse::TcpSlice::from_slice(packet.payload().payload).expect("TCP");
    let sum = tcp.calc_checksum_ipv4(packet.header().source(), packet.header().destination()).expect("a sum");
    frame[50..52].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn a_mapped_port_of_tcp_is_shared_by_connections_to_different_destinations_only() {
    let mut scene = Scene::new();
    assert_eq!(scene.out(TCP, (A, 4000), (S, 80)), at(PUBLIC, 4000));
    assert_eq!(scene.out(TCP, (B, 4000), (T, 80)), at(PUBLIC, 4000));
    let sent = scene.segment(WAN, ((T, 80), (PUBLIC, 4000)), "sa", (9000, 1001), 0);
    assert_eq!(ends(&sent).2, address(B));
    assert_ne!(scene.out(TCP, (B, 4000), (S, 80)), at(PUBLIC, 4000));
}

#[test]
fn hairpins_of_tcp_are_the_kernels() {
    let mut scene = Scene::new();
    scene.connect(LAN, &OUTWARD);
    assert_eq!(scene.fate(LAN, &packet(LAN, TCP, (B, 4001), OUTWARD.caller)), LOCAL);
    let hairpin = (B, 4001);
    let segments = [
        (segment(LAN, (hairpin, (PUBLIC, 8080)), "s", (1000, 0), 0), PuntReason::Redirect),
        (segment(LAN, (hairpin, (PUBLIC, 8080)), "a", (1001, 9001), 0), PuntReason::KernelConnection),
        (segment(LAN, (hairpin, (PUBLIC, 8080)), "fa", (1001, 9001), 0), PuntReason::KernelConnection),
    ];
    for (segment, reason) in segments {
        assert_eq!(scene.fate(LAN, &segment), Fate::Punted(reason));
    }
}

#[test]
fn destination_unreachable_about_tcp_is_translated() {
    let mut scene = Scene::new();
    let asked = segment(LAN, (OUTWARD.client, OUTWARD.service), "s", (1000, 0), 0);
    let seen = scene.sent(LAN, &asked);
    for (code, quotes) in [(0, 28), (1, 28), (4, 40), (13, 40)] {
        let error = icmp_error(WAN, (address("203.0.113.77"), address(PUBLIC)), (3, code), &seen[14..14 + quotes]);
        let sent = scene.sent(WAN, &error);
        assert_eq!((ends(&sent).0, ends(&sent).2), (address("203.0.113.77"), address(A)));
        assert_eq!(sent[34..36], [3, code]);
        let quoted = &sent[42..];
        assert_eq!(quoted[12..24], asked[26..38], "addresses and ports of the client");
        assert_eq!(quoted.len(), quotes);
    }
}

#[test]
fn no_icmp_message_ends_a_tcp_connection() {
    let mut scene = Scene::new();
    scene.connect(LAN, &OUTWARD);
    let seen = segment(WAN, (OUTWARD.caller, OUTWARD.server), "a", (1001, 9001), 0);
    for (kind, code) in [(3, 0), (3, 1), (3, 2), (3, 3), (3, 4), (3, 13), (4, 0), (5, 1), (11, 0), (11, 1), (12, 0)] {
        scene.fate(WAN, &icmp_error(WAN, (address(S), address(PUBLIC)), (kind, code), &seen[14..]));
        let back = scene.segment(WAN, (OUTWARD.server, OUTWARD.caller), "a", (9001, 1001), 0);
        assert_eq!(ends(&back).2, address(A), "type {kind}, code {code}");
        // The same segment again and again would be retransmissions, of which a connection has but few.
        scene.segment(LAN, (OUTWARD.client, OUTWARD.service), "a", (1001, 9001), 0);
    }
    scene.wait(4 * DAY);
    scene.segment(WAN, (OUTWARD.server, OUTWARD.caller), "a", (9001, 1001), 0);
}
