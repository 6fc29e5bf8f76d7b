//! D19 to D32.

use std::time::Duration;

use shunt_tests::twin::{Body, Command, HOSTS, Packet, Twist, behind4, behind6, net4, net6};

use super::{Rows, SOURCE, TARGET, TARGET6, four, four_from, six, to};

#[test]
fn privileged_d19_reverse_path_asks_the_whole_rule_set() {
    let mut rows = Rows::new();
    // The way back to 192.0.2.0/24 is by p2 for marked packets and for those that would come in by p3; otherwise there is none.
    rows.set(&[
        Command::ip4("route add 192.0.2.0/24 via 198.51.100.10 table 102"),
        Command::ip4("route add 192.0.2.0/24 via 198.51.100.138 table 103"),
        Command::ip4("rule add priority 50 fwmark 0x1 lookup 102"),
        Command::ip4("rule add priority 51 iif p3 lookup 103"),
        Command::ip4("rule add priority 52 to 192.0.2.128/25 ipproto udp dport 4444 lookup 102"),
    ]);
    let asymmetric = Packet::udp(0, &behind4(1, 9), TARGET);
    let unknown = Packet::udp(0, "192.0.2.9", TARGET);
    let marked = Packet::udp(0, "192.0.2.9", TARGET).body(Body::Udp(5001, 9));
    let by_port = Packet::udp(0, "192.0.2.200", TARGET).body(Body::Udp(4444, 9));
    // To what lies behind p3: the way back is looked up as if the packet came in there.
    let by_oif = Packet::udp(0, "192.0.2.9", &behind4(3, 9));
    let expected = |rp_filter: u32, mark: u32| match (rp_filter, mark) {
        (0, _) => ["p1", "p1", "p1", "p1", "p1", "p3"],
        (1, 0) => ["p1", "-", "-", "-", "p1", "-"],
        (1, _) => ["p1", "-", "-", "p1", "p1", "-"],
        (_, 0) => ["p1", "p1", "-", "-", "p1", "p3"],
        (_, _) => ["p1", "p1", "-", "p1", "p1", "p3"],
    };
    for of_all in [false, true] {
        for rp_filter in 0..3 {
            for mark in 0..2 {
                let place = if of_all { "all" } else { "p0" };
                rows.set(&[
                    Command::sysctl(format!("ipv4/conf/{place}/rp_filter"), rp_filter),
                    Command::sysctl(format!("ipv4/conf/{place}/src_valid_mark"), mark),
                ]);
                let packets =
                    [four(), asymmetric.clone(), unknown.clone(), marked.clone(), by_port.clone(), by_oif.clone()];
                let ways = expected(rp_filter, mark);
                println!("{place} rp_filter {rp_filter} src_valid_mark {mark}");
                rows.expect(&packets.into_iter().zip(ways).collect::<Vec<_>>());
            }
        }
        rows.set(&[Command::sysctl("ipv4/conf/p0/rp_filter", 0), Command::sysctl("ipv4/conf/p0/src_valid_mark", 0)]);
    }
}

#[test]
fn privileged_d20_an_own_address_is_no_source_unless_accepted() {
    let mut rows = Rows::new();
    rows.set(&[
        Command::ip4("route add local 192.0.2.0/24 dev lo table 102"),
        Command::ip4("rule add priority 50 lookup 102"),
    ]);
    let own = |source: &str| Packet::udp(0, source, TARGET);
    let sources = [net4(0, 1), net4(1, 1), "192.0.2.7".to_owned()];
    let all = |ways: [&'static str; 3]| {
        sources.clone().into_iter().zip(ways).map(|(source, way)| (own(&source), way)).collect::<Vec<_>>()
    };
    rows.expect(&all(["-", "-", "-"]));
    assert_eq!(rows.twin.daemon().counted("punted", "source_local"), 3);
    rows.set(&[Command::sysctl("ipv4/conf/p0/accept_local", 1)]);
    rows.expect_by_anybody(&all(["p1", "p1", "p1"]));
    rows.set(&[Command::sysctl("ipv4/conf/p0/rp_filter", 1)]);
    let strict = rows.ways(&sources.clone().map(|source| own(&source)));
    println!("{strict:?}");
    // Without its local route, and with rules and routes as they are by default, an address is no less the router's own.
    rows.set(&[
        Command::sysctl("ipv4/conf/p0/rp_filter", 0),
        Command::sysctl("ipv4/conf/p0/accept_local", 0),
        Command::ip4("rule del priority 50"),
        Command::ip4("route flush table 102"),
        Command::ip4(format!("route del local {} table local", net4(1, 1))),
    ]);
    rows.ways(&[own(&net4(1, 1)), own(&net4(2, 1)), own(&net4(1, 63))]);
    // IPv6 has no such check.
    rows.expect(&[(Packet::udp(0, &net6(1, 1), TARGET6), "p1")]);
}

#[test]
fn privileged_d21_martians() {
    let mut rows = Rows::new();
    let sources = [
        ("0.0.0.0", "-"),
        ("0.1.2.3", "p1"),
        ("10.0.0.1", "p1"),
        ("127.0.0.1", "-"),
        ("127.255.255.255", "-"),
        ("169.254.1.1", "p1"),
        ("224.0.0.1", "-"),
        ("239.255.255.255", "-"),
        ("240.0.0.1", "p1"),
        ("255.255.255.254", "p1"),
        ("255.255.255.255", "-"),
        // Broadcast and network of p0.
        ("198.51.100.63", "-"),
        ("198.51.100.0", "p1"),
        ("::", "-"),
        ("::1", "-"),
        ("::2", "p1"),
        ("::198.18.0.1", "p1"),
        ("::ffff:198.18.0.1", "p1"),
        ("fe80::1", "-"),
        ("ff02::1", "-"),
        ("ff0e::1", "-"),
        ("fec0::1", "p1"),
        ("64:ff9b::1", "p1"),
    ];
    let targets = [
        ("0.0.0.0", "-"),
        ("0.1.2.3", "p2"),
        ("127.0.0.1", "-"),
        ("127.1.2.3", "-"),
        ("169.254.1.1", "p2"),
        ("224.0.0.1", "-"),
        ("239.1.1.1", "-"),
        ("240.0.0.1", "p2"),
        ("255.255.255.254", "p2"),
        ("255.255.255.255", "-"),
        ("198.51.100.63", "-"),
        ("198.51.100.64", "-"),
        ("203.0.113.127", "-"),
        ("::", "p2"),
        ("::1", "-"),
        ("::198.18.0.1", "p2"),
        ("::ffff:198.18.0.1", "p2"),
        // The routes of link-local addresses begin with p0's.
        ("fe80::a", "p0"),
        ("ff02::1", "-"),
        ("ff0e::1", "-"),
        ("fec0::1", "p2"),
        ("64:ff9b::1", "p2"),
    ];
    let by_source = sources.iter().map(|(source, way)| {
        let target = if source.contains(':') { TARGET6 } else { TARGET };
        (Packet::udp(0, source, target), *way)
    });
    let by_target = targets.iter().zip(0..).map(|((target, way), host)| {
        let source = if target.contains(':') { behind6(0, host) } else { behind4(0, host) };
        (Packet::udp(0, &source, target), *way)
    });
    let all: Vec<(Packet, &str)> = by_source.chain(by_target).collect();
    let packets: Vec<Packet> = all.iter().map(|(packet, _)| packet.clone()).collect();
    rows.set(&[
        Command::ip4("route add default via 198.51.100.138"),
        Command::ip6("route add default via 2001:db8:2::a"),
    ]);
    rows.expect_by_anybody(&all);
    rows.set(&[Command::sysctl("ipv4/conf/all/route_localnet", 1)]);
    rows.ways(&packets);
    rows.set(&[Command::sysctl("ipv4/conf/all/route_localnet", 0), Command::sysctl("ipv4/conf/p0/rp_filter", 1)]);
    rows.ways(&packets);
}

#[test]
fn privileged_d22_frames_for_others_and_for_all_are_not_forwarded() {
    let mut rows = Rows::new();
    rows.set(&[Command::ip("link set p0 promisc on")]);
    for plain in [four(), six()] {
        let frame = |mac: [u8; 6]| plain.clone().twist(Twist::To(mac));
        rows.expect(&[
            (frame([2, 0, 0x5e, 0, 0x53, 1]), "-"),
            (frame([0xff; 6]), "-"),
            (frame([1, 0, 0x5e, 1, 2, 3]), "-"),
            (frame([0x33, 0x33, 0, 0, 0, 1]), "-"),
            (plain.clone(), "p1"),
        ]);
    }
}

#[test]
fn privileged_d23_forwarding_is_switched_by_interface_and_for_all() {
    let mut rows = Rows::new();
    let from_1 = Packet::udp(1, &behind4(1, 1), &behind4(2, 1));
    rows.set(&[Command::sysctl("ipv4/conf/p0/forwarding", 0)]);
    // Without a word (`ip_error`).
    rows.expect(&[(four(), "-"), (from_1.clone(), "p2"), (six(), "p1")]);
    // The switch for all sets those of the interfaces.
    rows.set(&[Command::sysctl("ipv4/ip_forward", 0)]);
    rows.ways(&[four_from(2), from_1.clone(), six()]);
    rows.set(&[Command::sysctl("ipv4/ip_forward", 1)]);
    rows.expect(&[(four(), "p1"), (from_1, "p2"), (six(), "p1")]);
    rows.set(&[Command::sysctl("ipv6/conf/p0/forwarding", 0)]);
    rows.expect(&[(four(), "p1"), (six(), "p1")]);
    rows.set(&[Command::sysctl("ipv6/conf/all/forwarding", 0)]);
    rows.expect(&[(four(), "p1"), (six(), "-")]);
    rows.set(&[Command::sysctl("ipv6/conf/p0/force_forwarding", 1)]);
    rows.expect_by_anybody(&[(six(), "p1")]);
    rows.set(&[Command::sysctl("ipv6/conf/all/forwarding", 1)]);
    rows.expect(&[(four(), "p1"), (six(), "p1")]);
}

#[test]
fn privileged_d24_time_exceeded_comes_before_the_filter_and_the_rest_of_the_header_stays() {
    let mut rows = Rows::new();
    rows.set(&[Command::shell(
        "iptables -A FORWARD -p udp --dport 99 -j DROP; ip6tables -A FORWARD -p udp --dport 99 -j DROP",
    )]);
    for (plain, exceeded) in [(four(), "p0:11/0"), (six(), "p0:3/0")] {
        let dropped = plain.clone().body(Body::Udp(4000, 99));
        rows.expect(&[
            (plain.clone().ttl(2), "p1"),
            (plain.clone().ttl(255).tos(0xff), "p1"),
            (plain.clone().ttl(1), exceeded),
            (plain.clone().ttl(0), exceeded),
            (dropped.clone(), "-"),
            (dropped.ttl(1), exceeded),
        ]);
    }
    // By TTL as the filter sees it: not yet less by one in PREROUTING, less by one behind FORWARD.
    rows.set(&[Command::shell("iptables -t mangle -A POSTROUTING -m ttl --ttl-eq 9 -j DROP")]);
    rows.expect_by_anybody(&[(four().ttl(10), "-"), (four().ttl(9), "p1"), (four().ttl(8), "p1")]);
}

#[test]
fn privileged_d25_too_long_for_the_egress() {
    let mut rows = Rows::new();
    rows.set(&[
        Command::ip("link set p1 mtu 1400"),
        Command::ip4("route add 198.18.1.0/24 via 198.51.100.138 mtu 1300"),
        Command::ip4("route add 198.18.2.0/24 via 198.51.100.138 mtu lock 1300"),
        Command::ip6("route add 2001:db8:101::/48 via 2001:db8:2::a mtu 1300"),
    ]);
    let four = |target: &str, length: usize, dont_fragment| Packet { dont_fragment, ..to(target).fill(length - 28) };
    let six = |target: &str, length: usize| to(target).fill(length - 48);
    let check = |rows: &mut Rows| {
        rows.ways(&[
            four(TARGET, 1400, true),
            four(TARGET, 1401, true),
            four(TARGET, 1450, false),
            four("198.18.1.1", 1300, true),
            four("198.18.1.1", 1301, true),
            four("198.18.1.1", 1350, false),
            four("198.18.2.1", 1300, true),
            four("198.18.2.1", 1301, true),
            four("198.18.2.1", 1350, false),
            six(TARGET6, 1400),
            six(TARGET6, 1401),
            six("2001:db8:101::1", 1300),
            six("2001:db8:101::1", 1301),
        ])
    };
    let ways = check(&mut rows);
    println!("{ways:?}");
    assert_eq!(ways[..3], ["p1", "p0:3/4", "p1+p1"]);
    assert_eq!(ways[6..9], ["p2", "p0:3/4", "p2+p2"], "a locked MTU counts");
    assert_eq!(ways[9..11], ["p1", "p0:2/0"]);
    rows.set(&[Command::sysctl("ipv4/ip_forward_use_pmtu", 1)]);
    let ways = check(&mut rows);
    println!("{ways:?}");
    assert_eq!(ways[3..6], ["p2", "p0:3/4", "p2+p2"], "now that of the route counts unlocked");
}

/// What routers tell this machine of a path counts for packets that it forwards as well. In IPv4 only if it is not believed.
#[test]
fn privileged_d25_ipv6_paths_of_which_the_router_itself_was_told() {
    let mut rows = Rows::new();
    let four = |length: usize| Packet { dont_fragment: true, ..to(TARGET).fill(length - 28) };
    let six = |target: &str, length: usize| to(target).fill(length - 48);
    rows.expect(&[(four(1400), "p1"), (six(TARGET6, 1400), "p1")]);
    let told = |source: &str, own: &str, target: &str| {
        Packet::udp(1, source, own).body(Body::TooBig(1300, target.parse().expect("an address")))
    };
    let told = [told("198.51.100.74", "198.51.100.65", TARGET), told("2001:db8:1::a", "2001:db8:1::1", TARGET6)];
    assert_eq!(rows.ways(&told), ["-", "-"], "taken in");
    std::thread::sleep(Duration::from_secs(1));
    rows.expect_by_anybody(&[
        (four(1400), "p1"),
        (six(TARGET6, 1300), "p1"),
        (six(TARGET6, 1301), "p0:2/0"),
        (six("2001:db8:100::a", 1400), "p1"),
    ]);
}

#[test]
fn privileged_d26_icmp_errors_are_the_kernels_to_the_byte() {
    let mut rows = Rows::new();
    rows.set(&[
        Command::ip4("route add unreachable 198.18.1.0/24"),
        Command::ip4("route add prohibit 198.18.2.0/24"),
        Command::ip6("route add unreachable 2001:db8:101::/48"),
        Command::ip("link set p1 mtu 1300"),
    ]);
    let mut packets = Vec::new();
    for (host, target) in [TARGET, "198.18.1.1", "198.18.2.1", TARGET6, "2001:db8:101::1"].into_iter().enumerate() {
        for (number, (fill, ttl, tos)) in
            [(24, 1, 0), (600, 1, 0xb8), (1400, 64, 0), (1400, 1, 0x10)].into_iter().enumerate()
        {
            let host = (host * 16 + number) as u16;
            let source = if target.contains(':') { behind6(0, host) } else { behind4(0, host) };
            let packet = Packet { dont_fragment: true, ..Packet::udp(0, &source, target) }.fill(fill).ttl(ttl).tos(tos);
            packets.push(packet.clone());
            // No error for an error, nor for a fragment that is not the first, nor for what was sent to all.
            let v6 = target.contains(':');
            let to = source.parse().expect("an address");
            packets.push(packet.clone().body(Body::IcmpError(if v6 { 1 } else { 3 }, 1, to)));
            packets.push(packet.clone().body(Body::Icmp(if v6 { 128 } else { 8 }, 0)));
            packets.push(packet.clone().twist(Twist::Fragment(100, true)));
            packets.push(packet.twist(Twist::To([0xff; 6])));
        }
    }
    for inbound in 0..2 {
        rows.set(&[Command::sysctl("ipv4/icmp_errors_use_inbound_ifaddr", inbound)]);
        let outcomes = rows.outcomes(&packets);
        let errors = outcomes.iter().flatten().filter(|(port, _)| *port == 0).count();
        assert!(errors >= 40, "{errors} errors");
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// With its limits as they are by default: a burst from one host gets as many answers from either router.
#[test]
fn privileged_d26_icmp_errors_are_limited_as_the_kernel_limits_them() {
    let mut rows = Rows::new();
    rows.set(&[
        Command::sysctl("ipv4/icmp_ratelimit", 1000),
        Command::sysctl("ipv4/icmp_msgs_per_sec", 1000),
        Command::sysctl("ipv4/icmp_msgs_burst", 50),
        Command::sysctl("ipv6/icmp/ratelimit", 1000),
    ]);
    rows.twin.settle();
    for plain in [four(), six()] {
        let burst: Vec<Packet> = (0..100).map(|_| plain.clone().ttl(1)).collect();
        let outcomes = rows.twin.exchange(&burst);
        let kernel = outcomes.iter().filter(|outcomes| !outcomes.kernel.is_empty()).count();
        let shunt = outcomes.iter().filter(|outcomes| !outcomes.shunt.is_empty()).count();
        println!("{kernel} {shunt}");
        assert!((1..50).contains(&kernel) && kernel.abs_diff(shunt) <= 2, "kernel {kernel}, shunt {shunt} of 100");
    }
}

#[test]
fn privileged_d28_a_packet_that_turns_back_brings_a_redirect() {
    let mut rows = Rows::new();
    rows.set(&[
        Command::ip4("route add 192.0.2.0/24 via 198.51.100.11"),
        Command::ip6("route add 2001:db8:55::/48 via fe80::b dev p0"),
    ]);
    let neighbour = Packet::udp(0, &net4(0, HOSTS[0]), "192.0.2.1");
    let stranger = Packet::udp(0, SOURCE, "192.0.2.1");
    let neighbour6 = Packet::udp(0, &net6(0, HOSTS[0]), "2001:db8:55::1");
    // Not to whom the way back leads by a gateway.
    rows.expect_by_anybody(&[(neighbour, "p0+p0:5/1"), (stranger, "p0"), (neighbour6, "p0+p0:137/0")]);
    rows.set(&[Command::sysctl("ipv4/conf/p0/shared_media", 0)]);
    rows.ways(&[Packet::udp(0, &net4(0, HOSTS[1]), "192.0.2.1"), Packet::udp(0, &behind4(0, 77), "192.0.2.1")]);
    rows.set(&[Command::sysctl("ipv4/conf/p0/send_redirects", 0), Command::sysctl("ipv4/conf/all/send_redirects", 0)]);
    rows.expect_by_anybody(&[(Packet::udp(0, &net4(0, HOSTS[2]), "192.0.2.1"), "p0")]);
    assert!(rows.twin.daemon().counted("punted", "redirect") >= 6);
}

#[test]
fn privileged_d29_options_are_processed() {
    let mut rows = Rows::new();
    let option = |bytes: &[u8]| four().twist(Twist::Options(bytes.to_vec()));
    // RFC 791: record route, timestamp with addresses, router alert (RFC 2113), loose and strict source route, junk.
    let packets = [
        option(&[7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        option(&[68, 12, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
        option(&[148, 4, 0, 0]),
        option(&[131, 7, 4, 198, 18, 7, 9, 0]),
        option(&[137, 7, 4, 198, 51, 100, 74, 0]),
        option(&[1, 1, 1, 0]),
        option(&[7, 200, 4, 0]),
        six().twist(Twist::Extension(0)),
        six().twist(Twist::Extension(60)),
        six().twist(Twist::Extension(43)),
    ];
    for allowed in 0..2 {
        for place in ["all", "p0"] {
            rows.set(&[Command::sysctl(format!("ipv4/conf/{place}/accept_source_route"), allowed)]);
        }
        let outcomes = rows.outcomes(&packets);
        // The router has written its address: it forwards, and did not copy blindly.
        let recorded = &outcomes[0][0].1;
        assert_eq!(recorded[34 + 2], 8, "the pointer of the record moved: {recorded:02x?}");
    }
}

#[test]
fn privileged_d30_broken_headers_end_and_padding_is_cut_off() {
    let mut rows = Rows::new();
    let twisted = |twist: Twist| four().twist(twist);
    rows.expect(&[
        (four().fill(0).body(Body::Other(253)).fill(8).twist(Twist::Padding(18)), "p1"),
        (twisted(Twist::Padding(1)), "p1"),
        (twisted(Twist::HeaderSum), "-"),
        (twisted(Twist::Version(6)), "-"),
        (twisted(Twist::Version(5)), "-"),
        (twisted(Twist::HeaderLength(4)), "-"),
        (twisted(Twist::HeaderLength(0)), "-"),
        (twisted(Twist::Length(4)), "-"),
        (twisted(Twist::Length(-40)), "-"),
        (twisted(Twist::Cut(40)), "-"),
        (twisted(Twist::Cut(20)), "-"),
        (twisted(Twist::BodySum), "p1"),
        (six().twist(Twist::Padding(3)), "p1"),
        (six().twist(Twist::Version(4)), "-"),
        (six().twist(Twist::Length(4)), "-"),
        (six().twist(Twist::Cut(60)), "-"),
        (six().twist(Twist::BodySum), "p1"),
    ]);
    // Shorter than the frame, but a whole packet: the rest is padding.
    let shorter = [
        twisted(Twist::Length(-8)),
        six().twist(Twist::Length(-8)),
        four().body(Body::Other(6)).fill(12),
        four().body(Body::Other(6)).fill(30),
    ];
    rows.ways(&shorter);
}

#[test]
fn privileged_d31_directed_broadcasts_and_multicast_are_not_unicast() {
    let mut rows = Rows::new();
    let packets =
        ["198.51.100.127", "198.51.100.64", "203.0.113.191", "224.0.0.4", "239.1.2.3", "255.255.255.255", "ff0e::7"];
    let packets: Vec<Packet> = packets.into_iter().map(to).collect();
    let ways = rows.ways(&packets);
    assert!(ways.iter().all(|way| way == "-"), "{ways:?}");
    // Both switches are needed.
    for place in ["p0", "p1"] {
        rows.set(&[Command::sysctl(format!("ipv4/conf/{place}/bc_forwarding"), 1)]);
        println!("{place} {:?}", rows.ways(&packets));
    }
    rows.set(&[Command::sysctl("ipv4/conf/all/bc_forwarding", 1)]);
    let ways = rows.ways(&packets);
    println!("all {ways:?}");
    assert_eq!(ways[0], "p1", "a directed broadcast goes on");
}

/// Nobody answers for the next hop: some packets wait, then their senders hear that the host is unreachable.
#[test]
fn privileged_d32_an_unresolved_neighbour_ends_in_host_unreachable() {
    let mut rows = Rows::new();
    for key in ["ipv4/neigh/p1", "ipv6/neigh/p1"] {
        rows.set(&[Command::sysctl(format!("{key}/retrans_time_ms"), 200)]);
    }
    rows.twin.settle();
    let four = |host: u16| Packet::udp(0, &behind4(0, host), "198.51.100.77");
    let six = |host: u16| Packet::udp(0, &behind6(0, host), "2001:db8:1::d");
    let packets: Vec<Packet> = (0..3).flat_map(|host| [four(host), six(host)]).collect();
    for _ in 0..2 {
        let outcomes = rows.twin.exchange_for(&packets, Duration::from_secs(2));
        for (packet, outcomes) in packets.iter().zip(&outcomes) {
            assert!(outcomes.agree(), "{packet} {outcomes:02x?}");
            let way = shunt_tests::twin::in_short(packet, &outcomes.kernel);
            assert_eq!(way, if packet.source.is_ipv4() { "p0:3/1" } else { "p0:1/3" }, "{packet}");
        }
    }
    assert!(rows.twin.daemon().counted("punted", "neighbour") >= 12);
}
