//! Connections through the workers: what is translated comes back, and every checksum is right.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::nat::{ends, frame, icmp_error, nat, router, router_of, through};
use common::{LAN, TCP, UDP, WAN, address, ifindex, make_partial, rib};
use shunt_dataplane::sim::Router;
use shunt_policy::config::{Hops, Origin, Route, RouteKind, Rule, RuleAction, RuleSelector, Source};
use shunt_policy::{Family, Prefix, Priority, PuntReason, TableId};

#[test]
fn a_masqueraded_connection_goes_both_ways_and_comes_back_to_its_worker() {
    for workers in [1, 2] {
        let mut router = router(workers);
        for (protocol, inside, outside) in [
            (UDP, "198.51.100.2", "203.0.113.2"),
            (TCP, "198.51.100.2", "203.0.113.2"),
            (1, "198.51.100.2", "203.0.113.2"),
            (UDP, "2001:db8:1::2", "2001:db8:2::2"),
            (TCP, "2001:db8:1::2", "2001:db8:2::2"),
            (58, "2001:db8:1::2", "2001:db8:2::2"),
        ] {
            let public = address(if inside.contains(':') { "2001:db8:2::1" } else { "203.0.113.1" });
            for port in [4000u16, 4001, 40_000, 40_001] {
                let service = if matches!(protocol, 1 | 58) { 0 } else { 53 };
                let asked = (address(inside), port, address(outside), service);
                let out = through(&mut router, LAN, WAN, &frame(LAN, protocol, asked, "syn"));
                assert_eq!(ends(&out), (public, port, address(outside), service), "protocol {protocol}");
                let answer = match protocol {
                    1 | 58 => frame(WAN, protocol, (address(outside), 0, public, port), "reply"),
                    TCP => frame(WAN, TCP, (address(outside), 53, public, port), "syn ack"),
                    _ => frame(WAN, UDP, (address(outside), 53, public, port), ""),
                };
                let back = through(&mut router, WAN, LAN, &answer);
                let (source, from, destination, to) = ends(&back);
                assert_eq!((source, destination), (address(outside), address(inside)));
                assert!(to == port || from == port, "protocol {protocol}");
            }
        }
        assert!(router.take_punted().is_empty());
    }
}

#[test]
fn unfinished_checksums_are_finished_for_the_new_addresses() {
    let mut router = router(1);
    for protocol in [UDP, TCP] {
        let asked = (address("198.51.100.2"), 4000, address("203.0.113.2"), 53);
        let mut unfinished = frame(LAN, protocol, asked, "syn");
        make_partial(&mut unfinished, protocol);
        let out = through(&mut router, LAN, WAN, &unfinished);
        assert_eq!(ends(&out), (address("203.0.113.1"), 4000, address("203.0.113.2"), 53));
    }
}

#[test]
fn a_udp_packet_without_a_checksum_stays_without() {
    let mut router = router(1);
    let mut plain = frame(LAN, UDP, (address("198.51.100.2"), 4000, address("203.0.113.2"), 53), "");
    plain[40..42].fill(0);
    let out = through(&mut router, LAN, WAN, &plain);
    assert_eq!(out[40..42], [0, 0]);
    assert_eq!(ends(&out).0, address("203.0.113.1"));
}

#[test]
fn a_forwarded_port_leads_inside_and_its_answers_out() {
    for workers in [1, 2] {
        let mut router = router(workers);
        let (client, public, server) = (address("203.0.113.2"), address("203.0.113.1"), address("198.51.100.2"));
        for port in [40_000, 40_001, 40_002] {
            let syn = frame(WAN, TCP, (client, port, public, 8080), "syn");
            assert_eq!(ends(&through(&mut router, WAN, LAN, &syn)), (client, port, server, 80));
            let answer = frame(LAN, TCP, (server, 80, client, port), "syn ack");
            assert_eq!(ends(&through(&mut router, LAN, WAN, &answer)), (public, 8080, client, port));
        }
    }
}

/// The higher port says whose a packet is; here it is another in the answers.
#[test]
fn a_forwarded_port_above_the_clients_is_the_kernels_both_ways_where_the_answers_are_another_workers() {
    let (client, public, server) = (address("203.0.113.2"), address("203.0.113.1"), address("198.51.100.2"));
    let mut router = router(2);
    let mut left = 0;
    for port in 5000..5032 {
        router.inject(WAN, 0, &frame(WAN, TCP, (client, port, public, 8080), "syn"));
        router.settle();
        let begun_in_kernel = router.take_punted().len();
        let sent = router.take_sent(LAN).len();
        assert_eq!(begun_in_kernel + sent, 1);
        router.inject(LAN, 0, &frame(LAN, TCP, (server, 80, client, port), "syn ack"));
        router.settle();
        assert_eq!(router.take_punted().len(), begun_in_kernel, "from port {port}");
        assert_eq!(router.take_sent(WAN).len(), sent, "from port {port}");
        left += begun_in_kernel;
    }
    assert!((8..24).contains(&left), "{left} of 32 were left to the kernel");
}

#[test]
fn an_error_about_a_translated_packet_finds_the_sender() {
    let mut router = router(2);
    let (client, server, public) = (address("198.51.100.2"), address("203.0.113.2"), address("203.0.113.1"));
    let out = through(&mut router, LAN, WAN, &frame(LAN, UDP, (client, 4000, server, 53), ""));
    // Port unreachable, about what the server has seen.
    let error = icmp_error(WAN, (server, public), (3, 3), &out[14..]);
    let back = through(&mut router, WAN, LAN, &error);
    assert_eq!((ends(&back).0, ends(&back).2), (server, client));
    let inner = &back[14 + 20 + 8..];
    assert_eq!(inner[12..16], [198, 51, 100, 2], "the quoted source is the client");
    let sum: u32 = inner[..20].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "the quoted header's checksum");
    let mut quoted_udp = Vec::from(&frame(LAN, UDP, (client, 4000, server, 53), "")[34..]);
    quoted_udp.truncate(inner.len() - 20);
    assert_eq!(inner[20..], quoted_udp, "ports and checksum are those that the client sent");
}

#[test]
fn what_is_addressed_to_the_router_itself_is_the_kernels() {
    let mut router = router(1);
    for protocol in [UDP, TCP] {
        router.inject(WAN, 0, &frame(WAN, protocol, (address("203.0.113.2"), 4000, address("203.0.113.1"), 22), "ack"));
    }
    router.settle();
    assert_eq!(router.take_punted().len(), 2);
    assert_eq!(router.counters().of_punt(PuntReason::Local), 2);
}

#[test]
fn a_connection_whose_answers_go_back_where_they_came_from_is_left_to_the_kernel() {
    let mut config = nat();
    // Whatever comes by the WAN leaves by it.
    let turn = TableId(100);
    let kind = RouteKind::Unicast(Hops::one(ifindex(WAN), Some(address("203.0.113.3"))));
    let everywhere = Prefix::new(address("0.0.0.0"), 0).expect("a prefix");
    let mut rib = rib();
    rib.append(turn, everywhere, Route::new(0, kind));
    config.tables = rib.tables().clone();
    Arc::make_mut(&mut config.rules).push(Rule {
        family: Family::V4,
        priority: Priority(100),
        selector: RuleSelector { iif: Some("eth1".to_owned()), ..RuleSelector::default() },
        action: RuleAction::lookup(turn),
        origin: Origin::new(Source::Rule, "test"),
    });
    Arc::make_mut(&mut config.rules).sort_by_key(|rule| rule.priority);
    let mut router = router_of(1, &config);
    for protocol in [TCP, UDP, 1] {
        let asked = (address("198.51.100.2"), 4000, address("203.0.113.2"), 53);
        router.inject(LAN, 0, &frame(LAN, protocol, asked, "syn"));
        router.settle();
    }
    assert_eq!(router.take_punted().len(), 3);
    assert_eq!(router.counters().of_punt(PuntReason::KernelConnection), 3);
    assert!(router.take_told().is_empty());
}

/// However many there are: a packet that comes while a worker looks through all of them would wait for it.
#[test]
fn connections_that_have_expired_go_a_few_at_a_time() {
    const MANY: u16 = 2000;
    let mut router = router(1);
    for port in 1..=MANY {
        let asked = (address("198.51.100.2"), port, address("203.0.113.2"), 53);
        through(&mut router, LAN, WAN, &frame(LAN, UDP, asked, ""));
    }
    let there_are = |router: &Router| router.workers()[0].connections;
    assert_eq!(there_are(&router), u64::from(MANY));
    router.advance(Duration::from_secs(3600));
    for _ in 0..3 {
        let before = there_are(&router);
        router.round();
        assert!((1..=128).contains(&(before - there_are(&router))), "{before}, {}", there_are(&router));
    }
    router.settle();
    assert_eq!(there_are(&router), 0);
}
