//! RFC 4787: UDP.

use std::sync::Arc;

use shunt_dataplane::conn::exchange::ToWorker;
use shunt_dataplane::conn::record::Record;
use shunt_dataplane::conn::settings::Settings;
use shunt_policy::connection::{Endpoint, Tuple};
use shunt_policy::{Mark, PortId, PuntReason};

use crate::common::nat::{ends, icmp_error, nat};
use crate::common::{LAN, TCP, UDP, WAN, address};
use crate::scene::*;

#[test]
fn a_source_keeps_its_mapping_to_other_destinations() {
    for workers in 1..=3 {
        let mut scene = Scene::with_workers(workers, &nat());
        for outside in [(S, 53), (S, 54), (T, 53), (T, 9999), (S, 60_001), (S, 60_002), (T, 60_003)] {
            assert_eq!(scene.out(UDP, (A, 4000), outside), at(PUBLIC, 4000));
        }
    }
}

#[test]
fn a_source_keeps_its_mapping_after_a_collision_as_well() {
    for workers in 1..=3 {
        let mut scene = Scene::with_workers(workers, &nat());
        assert_eq!(scene.out(UDP, (A, 4000), (S, 53)), at(PUBLIC, 4000));
        let mapped = scene.out(UDP, (B, 4000), (S, 53));
        assert_ne!(mapped, at(PUBLIC, 4000));
        // The last are other workers'.
        for outside in [(S, 54), (T, 53), (T, 999), (S, 65_533), (S, 65_534), (T, 65_535)] {
            assert_eq!(scene.out(UDP, (B, 4000), outside), mapped, "{workers} workers");
            assert_eq!(scene.reaches(UDP, outside, &mapped), at(B, 4000));
        }
    }
}

/// Linux maps connections, not endpoints: what is taken towards a destination cannot be kept.
#[test]
fn a_mapping_that_is_taken_towards_a_destination_is_another_there() {
    let mut scene = Scene::new();
    assert_eq!(scene.out(UDP, (A, 4000), (S, 53)), at(PUBLIC, 4000));
    assert_eq!(scene.out(UDP, (B, 4000), (T, 53)), at(PUBLIC, 4000));
    let other = scene.out(UDP, (B, 4000), (S, 53));
    assert_ne!(other, at(PUBLIC, 4000));
    assert_eq!(scene.reaches(UDP, (S, 53), &other), at(B, 4000));
    assert_eq!(scene.reaches(UDP, (T, 53), &at(PUBLIC, 4000)), at(B, 4000));
}

#[test]
fn persistent_clients_keep_their_address_of_a_pool() {
    let mut scene = Scene::pool(Some(("203.0.113.16", "203.0.113.31")), |nat| nat.persistent = true);
    for inside in [A, B] {
        let (kept, _) = scene.out(UDP, (inside, 4000), (S, 53));
        for port in 4001..4040 {
            let outside = if port % 2 == 0 { (S, 53) } else { (T, 54) };
            assert_eq!(scene.out(UDP, (inside, port), outside), at(&kept, port));
        }
    }
}

#[test]
fn others_keep_it_for_each_of_their_endpoints() {
    for workers in 1..=3 {
        let mut scene = Scene::with_workers(workers, &pool(Some(("203.0.113.16", "203.0.113.31")), |_| {}));
        let mut addresses = std::collections::BTreeSet::new();
        for port in 4000..4008 {
            let mapped = scene.out(UDP, (A, port), (S, 53));
            // The last is another worker's, for most of the ports.
            for outside in [(T, 53), (T, 60_000 + port)] {
                assert_eq!(scene.out(UDP, (A, port), outside), mapped, "while the first lives, {workers} workers");
            }
            addresses.insert(mapped.0);
        }
        for port in 4008..4016 {
            addresses.insert(scene.out(UDP, (A, port), (T, 53)).0);
        }
        assert_eq!(addresses.len(), 2, "by the destination that came first");
    }
}

#[test]
fn a_mapped_port_is_shared_by_connections_to_different_destinations_only() {
    let mut scene = Scene::new();
    assert_eq!(scene.out(UDP, (A, 4000), (S, 53)), at(PUBLIC, 4000));
    assert_eq!(scene.out(UDP, (B, 4000), (T, 53)), at(PUBLIC, 4000));
    assert_eq!(scene.reaches(UDP, (S, 53), &at(PUBLIC, 4000)), at(A, 4000));
    assert_eq!(scene.reaches(UDP, (T, 53), &at(PUBLIC, 4000)), at(B, 4000));
    assert_ne!(scene.out(UDP, (B, 4000), (S, 53)), at(PUBLIC, 4000));
}

#[test]
fn a_port_that_cannot_be_kept_stays_in_its_class() {
    let mut scene = Scene::new();
    let classes = [(1, 511), (512, 1023), (1024, 65535)];
    for port in [1, 53, 511, 512, 700, 1023, 1024, 4000, 65535] {
        assert_eq!(scene.out(UDP, (A, port), (S, 53)), at(PUBLIC, port));
        let (_, mapped) = scene.out(UDP, (B, port), (S, 53));
        let (first, last) = classes.into_iter().find(|class| port <= class.1).expect("a class");
        assert!(mapped != port && first <= mapped && mapped <= last, "{port} became {mapped}");
    }
}

#[test]
fn parity_is_kept_with_the_port_and_else_left_to_chance() {
    let mut scene = Scene::new();
    let mut changed = 0;
    for port in 4000..4064 {
        assert_eq!(scene.out(UDP, (A, port), (S, 53)), at(PUBLIC, port));
        let (_, mapped) = scene.out(UDP, (B, port), (S, 53));
        changed += u32::from(mapped % 2 != port % 2);
    }
    assert!((8..56).contains(&changed), "{changed} of 64");
}

#[test]
fn udp_lives_thirty_seconds_until_answered_and_then_two_minutes() {
    let mut scene = Scene::new();
    let (inside, outside) = ((A, 4000), (S, 53));
    let mapped = scene.out(UDP, inside, outside);
    scene.wait(29);
    assert_eq!(scene.reaches(UDP, outside, &mapped), at(A, 4000));
    // Answered, and older than two seconds: a stream.
    scene.out(UDP, inside, outside);
    scene.wait(119);
    assert_eq!(scene.reaches(UDP, outside, &mapped), at(A, 4000));
    scene.wait(121);
    assert_eq!(scene.answer(UDP, outside, &mapped), LOCAL);

    let mapped = scene.out(UDP, (A, 4001), outside);
    scene.wait(31);
    assert_eq!(scene.answer(UDP, outside, &mapped), LOCAL);
}

#[test]
fn time_outs_of_udp_are_the_same_for_all_destination_ports() {
    let mut scene = Scene::new();
    let services = [7, 53, 123, 1023, 1024, 50_000];
    let mapped = services.map(|service| scene.out(UDP, (A, 4000), (S, service)));
    scene.wait(29);
    for (service, mapped) in services.into_iter().zip(&mapped) {
        assert_eq!(scene.reaches(UDP, (S, service), mapped), at(A, 4000));
    }
    scene.wait(31);
    for (service, mapped) in services.into_iter().zip(&mapped) {
        assert_eq!(scene.answer(UDP, (S, service), mapped), LOCAL);
    }
}

#[test]
fn time_outs_of_udp_are_the_operators() {
    let mut scene = Scene::new();
    scene.set(Settings { udp: 300, udp_stream: 600, ..Settings::default() });
    let (inside, outside) = ((A, 4000), (S, 53));
    let mapped = scene.out(UDP, inside, outside);
    scene.wait(299);
    scene.reaches(UDP, outside, &mapped);
    scene.out(UDP, inside, outside);
    scene.wait(599);
    scene.reaches(UDP, outside, &mapped);
    scene.wait(601);
    assert_eq!(scene.answer(UDP, outside, &mapped), LOCAL);
}

#[test]
fn packets_from_inside_refresh_a_mapping() {
    let mut scene = Scene::new();
    let mapped = scene.out(UDP, (A, 4000), (S, 53));
    for _ in 0..10 {
        scene.wait(25);
        assert_eq!(scene.out(UDP, (A, 4000), (S, 53)), mapped);
    }
    scene.wait(25);
    assert_eq!(scene.reaches(UDP, (S, 53), &mapped), at(A, 4000));
}

#[test]
fn packets_from_outside_refresh_it_too() {
    let mut scene = Scene::new();
    let mapped = scene.out(UDP, (A, 4000), (S, 53));
    for _ in 0..10 {
        scene.wait(25);
        assert_eq!(scene.reaches(UDP, (S, 53), &mapped), at(A, 4000));
    }
}

/// A host outside that has an address of the internal network cannot be reached: routes decide.
#[test]
fn addresses_of_the_internal_network_are_inside() {
    let mut scene = Scene::new();
    let inward = packet(LAN, UDP, (A, 4000), (B, 53));
    assert_eq!(scene.fate(LAN, &inward), Fate::Punted(PuntReason::Redirect));
}

#[test]
fn only_the_endpoint_that_was_asked_may_answer() {
    let mut scene = Scene::new();
    let mapped = scene.out(UDP, (A, 4000), (S, 53));
    for stranger in [(S, 54), (T, 53), (T, 54)] {
        assert_eq!(scene.answer(UDP, stranger, &mapped), LOCAL);
    }
    assert_eq!(scene.reaches(UDP, (S, 53), &mapped), at(A, 4000));
}

/// The peer may have been first. If a rule of INPUT has dropped its packet, both ends can still meet.
#[test]
fn a_mapping_is_kept_after_an_unsolicited_packet_for_it() {
    let mut scene = Scene::new();
    assert_eq!(scene.answer(UDP, (S, 5000), &at(PUBLIC, 4000)), LOCAL);
    assert_eq!(scene.out(UDP, (A, 4000), (S, 5000)), at(PUBLIC, 4000));
    assert_eq!(scene.reaches(UDP, (S, 5000), &at(PUBLIC, 4000)), at(A, 4000));
}

/// If none has, the packet has begun a connection of the machine, and its tuple is taken.
#[test]
fn what_an_unsolicited_packet_began_at_the_machine_is_not_taken_from_it() {
    let mut scene = Scene::new();
    assert_eq!(scene.answer(UDP, (S, 5000), &at(PUBLIC, 4000)), LOCAL);
    let record = kernels(((S, 5000), (PUBLIC, 4000)), ((PUBLIC, 4000), (S, 5000)));
    scene.tell(ToWorker::Kernel { record: Record { kernels: false, ..record }, whole: false });
    let mapped = scene.out(UDP, (A, 4000), (S, 5000));
    assert_ne!(mapped, at(PUBLIC, 4000));
    assert_eq!(scene.reaches(UDP, (S, 5000), &mapped), at(A, 4000));
    let theirs = scene.answer(UDP, (S, 5000), &at(PUBLIC, 4000));
    assert_eq!(theirs, Fate::Punted(PuntReason::KernelConnection));
}

#[test]
fn a_forwarded_port_is_open_to_all() {
    let mut scene = Scene::new();
    for outside in [(S, 4000), (S, 4001), (T, 4000)] {
        let syn = packet(WAN, TCP, outside, (PUBLIC, 8080));
        let sent = scene.sent(WAN, &syn);
        assert_eq!(ends(&sent), (address(outside.0), outside.1, address(A), 80));
    }
}

#[test]
fn hairpins_are_the_kernels() {
    let mut scene = Scene::new();
    let mapped = scene.out(UDP, (A, 4000), (S, 53));
    // To a mapped port: nobody there may ask.
    assert_eq!(scene.fate(LAN, &packet(LAN, UDP, (B, 4000), (PUBLIC, mapped.1))), LOCAL);
    // To a forwarded one: it would leave by the interface it came in.
    let syn = packet(LAN, TCP, (B, 4000), (PUBLIC, 8080));
    assert_eq!(scene.fate(LAN, &syn), Fate::Punted(PuntReason::Redirect));
    let again = scene.fate(LAN, &syn);
    assert_eq!(again, Fate::Punted(PuntReason::KernelConnection), "and stays the kernel's");
}

#[test]
fn what_a_packet_says_of_addresses_is_left_alone() {
    let mut scene = Scene::new();
    let text = format!("INVITE sip:b@{S}\r\nVia: SIP/2.0/UDP {A}:5060\r\nContact: <sip:a@{A}>\r\n\r\n");
    let invite = udp(LAN, (A, 5060), (S, 5060), text.as_bytes());
    let sent = scene.sent(LAN, &invite);
    assert_eq!(ends(&sent).0, address(PUBLIC));
    assert_eq!(&sent[42..], text.as_bytes());
}

/// What the kernel says of a connection of UDP that it keeps; both its tuples.
fn kernels(original: (At, At), reply: (At, At)) -> Record {
    let end = |(host, port): At| Endpoint { address: address(host), port };
    let tuple = |(source, destination)| Tuple { source: end(source), destination: end(destination), protocol: UDP };
    Record {
        original: tuple(original),
        reply: tuple(reply),
        status: 0,
        mark: Mark(0),
        timeout: 100,
        tcp: None,
        kernels: true,
        masquerade: None,
    }
}

#[test]
fn connections_with_a_helper_are_the_kernels() {
    let mut scene = Scene::new();
    let record = kernels(((A, 5060), (S, 5060)), ((S, 5060), (PUBLIC, 5060)));
    scene.tell(ToWorker::Kernel { record, whole: true });
    let kernels = Fate::Punted(PuntReason::KernelConnection);
    assert_eq!(scene.fate(LAN, &packet(LAN, UDP, (A, 5060), (S, 5060))), kernels);
    assert_eq!(scene.answer(UDP, (S, 5060), &at(PUBLIC, 5060)), kernels);
    // Others are not, of the same port or not.
    assert_eq!(scene.out(UDP, (A, 5060), (T, 5060)), at(PUBLIC, 5060));
}

#[test]
fn collisions_change_neither_mappings_nor_filters() {
    let mut scene = Scene::new();
    let probe = |scene: &mut Scene| {
        let mapped = scene.out(UDP, (A, 4000), (S, 53));
        let other = scene.out(UDP, (A, 4000), (T, 54));
        let filtered = [(S, 54), (T, 53)].map(|stranger| scene.answer(UDP, stranger, &mapped));
        (mapped.clone(), other, scene.reaches(UDP, (S, 53), &mapped), filtered)
    };
    let before = probe(&mut scene);
    let taken: Vec<_> = (0..50).map(|n| scene.out(UDP, (B, 4000 + n), (S, 53))).collect();
    assert_ne!(taken[0].1, 4000);
    assert_eq!(probe(&mut scene), before);
    // Those that had to be given another port are filtered and found as any.
    let mapped = &taken[0];
    assert_eq!(scene.answer(UDP, (S, 54), mapped), LOCAL);
    assert_eq!(scene.reaches(UDP, (S, 53), mapped), at(B, 4000));
}

#[test]
fn no_icmp_message_ends_a_mapping() {
    let mut scene = Scene::new();
    let mapped = scene.out(UDP, (A, 4000), (S, 53));
    let seen = packet(WAN, UDP, (PUBLIC, mapped.1), (S, 53));
    for (kind, codes) in [(3, 16), (11, 2), (12, 3)] {
        for code in 0..codes {
            let error = icmp_error(WAN, (address(S), address(PUBLIC)), (kind, code), &seen[14..]);
            scene.sent(WAN, &error);
            assert_eq!(scene.reaches(UDP, (S, 53), &mapped), at(A, 4000), "type {kind}, code {code}");
        }
    }
    // Source quench and redirect.
    for kind in [4, 5] {
        scene.fate(WAN, &icmp_error(WAN, (address(S), address(PUBLIC)), (kind, 0), &seen[14..]));
        assert_eq!(scene.reaches(UDP, (S, 53), &mapped), at(A, 4000), "type {kind}");
    }
    assert_eq!(scene.out(UDP, (A, 4000), (S, 53)), mapped);
}

#[test]
fn an_icmp_error_may_come_from_anywhere() {
    let mut scene = Scene::new();
    let mapped = scene.out(UDP, (A, 4000), (S, 53));
    let seen = packet(WAN, UDP, (PUBLIC, mapped.1), (S, 53));
    for router in ["203.0.113.77", "192.0.2.200", S] {
        let sent = scene.sent(WAN, &icmp_error(WAN, (address(router), address(PUBLIC)), (11, 0), &seen[14..]));
        assert_eq!((ends(&sent).0, ends(&sent).2), (address(router), address(A)));
    }
}

#[test]
fn destination_unreachable_finds_the_sender() {
    let mut scene = Scene::new();
    let asked = packet(LAN, UDP, (A, 4000), (S, 53));
    let seen = scene.sent(LAN, &asked);
    for code in 0..16 {
        let error = icmp_error(WAN, (address(S), address(PUBLIC)), (3, code), &seen[14..]);
        let sent = scene.sent(WAN, &error);
        assert_eq!((ends(&sent).0, ends(&sent).2), (address(S), address(A)));
        assert_eq!(sent[34..36], [3, code]);
    }
    // From the addresses on it is as it was sent.
    let sent = scene.sent(WAN, &icmp_error(WAN, (address(S), address(PUBLIC)), (3, 3), &seen[14..]));
    assert_eq!(sent[42 + 12..], asked[14 + 12..], "addresses, ports and checksum");
}

/// What becomes of a packet of one byte more than the MTU; one without that passes.
fn oversize(dont_fragment: bool, from: PortId) -> Fate {
    let mut config = nat();
    Arc::make_mut(&mut config.links).iter_mut().for_each(|link| link.mtu = 600);
    let mut scene = Scene::of(&config);
    let mapped = scene.out(UDP, (A, 4000), (S, 53));
    let (source, destination) = if from == LAN { ((A, 4000), (S, 53)) } else { ((S, 53), (PUBLIC, mapped.1)) };
    let of = |length: usize| {
        let mut frame = udp(from, source, destination, &vec![1; length - 28]);
        frame[20] = if dont_fragment { 0x40 } else { 0 };
        finish_header(&mut frame);
        frame
    };
    let fate = scene.fate(from, &of(601));
    scene.sent(from, &of(600));
    fate
}

#[test]
fn what_may_not_be_fragmented_is_answered_by_the_kernel() {
    for from in [LAN, WAN] {
        assert_eq!(oversize(true, from), Fate::Punted(PuntReason::Oversize));
    }
}

#[test]
fn what_may_be_fragmented_is_fragmented_by_the_kernel() {
    for from in [LAN, WAN] {
        assert_eq!(oversize(false, from), Fate::Punted(PuntReason::Oversize));
    }
}

fn fragment(mut frame: Vec<u8>, offset: u16, more: bool) -> Vec<u8> {
    let field = offset | if more { 0x2000 } else { 0 };
    frame[20..22].copy_from_slice(&field.to_be_bytes());
    finish_header(&mut frame);
    frame
}

#[test]
fn fragments_in_any_order_are_the_kernels() {
    let mut scene = Scene::new();
    let mapped = scene.out(UDP, (A, 4000), (S, 53));
    let back = answer(UDP, (S, 53), (PUBLIC, mapped.1));
    for (offset, more) in [(2, false), (0, true), (1, true), (0, true), (1, true), (2, false)] {
        assert_eq!(scene.fate(WAN, &fragment(back.clone(), offset, more)), Fate::Punted(PuntReason::Fragment));
    }
}

#[test]
fn a_flood_of_fragments_leaves_whole_packets_alone() {
    let mut scene = Scene::new();
    let mapped = scene.out(UDP, (A, 4000), (S, 53));
    for number in 0..3000u16 {
        let stray = answer(UDP, (T, 1000 + number), (PUBLIC, mapped.1));
        assert_eq!(scene.fate(WAN, &fragment(stray, 7, true)), Fate::Punted(PuntReason::Fragment));
        if number % 300 == 0 {
            assert_eq!(scene.reaches(UDP, (S, 53), &mapped), at(A, 4000));
            scene.out(UDP, (A, 4000), (S, 53));
        }
    }
}
