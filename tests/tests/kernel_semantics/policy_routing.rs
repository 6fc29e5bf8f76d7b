//! D1 to D12, D17, D18.

use std::collections::BTreeMap;

use shunt_policy::Family;
use shunt_tests::twin::{Body, Command, Packet, RawRule, Twist, behind4, behind6};

use super::{Rows, SOURCE, four, six, to};

/// A rule with attributes that Debian's `ip` cannot write, to table 101.
fn raw(family: Family, priority: u32, attributes: &[(u16, &[u8])]) -> Command {
    let attributes = attributes.iter().map(|(kind, value)| (*kind, value.to_vec())).collect();
    Command::Rule(RawRule { family, priority, table: 101, attributes })
}

/// Source ports that PREROUTING marks with 0x1, 0x2, 0x100, 0x111.
fn marked(port: u16) -> Packet {
    four().body(Body::Udp(port, 9))
}

#[test]
fn privileged_d01_tos_compares_three_bits_and_dscp_six() {
    let mut rows = Rows::new();
    rows.set(&[
        Command::ip4("rule add priority 50 tos 0x10 lookup 100"),
        Command::ip6("rule add priority 50 tos 0x10 lookup 100"),
    ]);
    rows.expect(&[
        (four().tos(0x10), "p2"),
        (four().tos(0xb0), "p2"),
        (four().tos(0x90), "p2"),
        (four().tos(0x11), "p2"),
        (four().tos(0x18), "p1"),
        (four().tos(0x00), "p1"),
        // IPv6 compares the whole DSCP.
        (six().tos(0x10), "p2"),
        (six().tos(0xb0), "p1"),
        (six().tos(0x11), "p2"),
    ]);
    // FRA_DSCP, then with FRA_DSCP_MASK.
    for (family, plain) in [(Family::V4, four()), (Family::V6, six())] {
        rows.set(&[raw(family, 40, &[(25, &[0x2c])]), raw(family, 41, &[(25, &[0x07]), (30, &[0x07])])]);
        rows.expect(&[
            (plain.clone().tos(0xb0), "p3"),
            (plain.clone().tos(0xb3), "p3"),
            (plain.clone().tos(0x1c), "p3"),
            (plain.clone().tos(0xfc), "p3"),
            (plain.clone().tos(0x0c), "p1"),
            (plain.tos(0x10), "p2"),
        ]);
    }
}

#[test]
fn privileged_d02_a_tos_route_goes_before_the_one_for_any_tos() {
    let mut rows = Rows::new();
    rows.set(&[
        Command::ip4("route add 198.18.7.0/24 via 198.51.100.202"),
        Command::ip4("route add 198.18.7.0/24 tos 0x10 via 198.51.100.138"),
        // Only with a TOS: others fall to the shorter prefix.
        Command::ip4("route add 198.18.8.0/24 tos 0x08 via 198.51.100.138"),
    ]);
    rows.expect(&[
        (to("198.18.7.1").tos(0x10), "p2"),
        (to("198.18.7.1").tos(0xf3), "p2"),
        (to("198.18.7.1").tos(0x08), "p3"),
        (to("198.18.7.1"), "p3"),
        (to("198.18.8.1").tos(0x08), "p2"),
        (to("198.18.8.1"), "p1"),
    ]);
}

#[test]
fn privileged_d03_a_mark_is_compared_under_its_mask_and_zero_is_a_mark() {
    let mut rows = Rows::new();
    rows.set(&[
        Command::ip4("rule add priority 50 fwmark 0x100/0xf00 lookup 100"),
        Command::ip4("rule add priority 51 fwmark 0x1 lookup 101"),
    ]);
    rows.expect(&[
        (marked(5003), "p2"),
        (marked(5004), "p2"),
        (marked(5001), "p3"),
        (marked(5002), "p1"),
        (marked(4000), "p1"),
    ]);
    rows.set(&[Command::ip4("rule add priority 40 fwmark 0/0xff lookup 101")]);
    rows.expect(&[(marked(5003), "p3"), (marked(4000), "p3"), (marked(5004), "p2"), (marked(5002), "p1")]);
    rows.set(&[Command::ip4("rule del priority 40"), Command::ip4("rule add priority 40 not fwmark 0x2 lookup 101")]);
    rows.expect(&[(marked(5002), "p1"), (marked(4000), "p3")]);
}

#[test]
fn privileged_d04_a_miss_and_throw_go_on_and_errors_end_with_their_icmp() {
    let mut rows = Rows::new();
    for (ip, net) in [("-4", "198.18"), ("-6", "2001:db8:1")] {
        let prefix =
            |number: u8| if ip == "-4" { format!("{net}.{number}.0/24") } else { format!("{net}{number:02}::/48") };
        let set: Vec<Command> = [
            "rule add priority 50 lookup 102".to_owned(),
            format!("route add throw {} table 102", prefix(1)),
            format!("route add blackhole {} table 102", prefix(2)),
            format!("route add prohibit {} table 102", prefix(3)),
            format!("route add unreachable {} table 102", prefix(4)),
            format!("rule add priority 40 to {} blackhole", prefix(11)),
            format!("rule add priority 41 to {} prohibit", prefix(12)),
            format!("rule add priority 42 to {} unreachable", prefix(13)),
            format!("rule add priority 43 to {} nop", prefix(14)),
            format!("rule add priority 44 to {} lookup 7777", prefix(15)),
        ]
        .into_iter()
        .map(|text| if ip == "-4" { Command::ip4(text) } else { Command::ip6(text) })
        .collect();
        rows.set(&set);
    }
    // Another host each: the kernel limits such errors by host.
    let four = |number: u8| Packet::udp(0, &behind4(0, 100 + u16::from(number)), &format!("198.18.{number}.1"));
    let six = |number: u8| Packet::udp(0, &behind6(0, 100 + u16::from(number)), &format!("2001:db8:1{number:02}::1"));
    rows.expect(&[
        (four(1), "p1"),
        (four(2), "-"),
        (four(3), "p0:3/13"),
        (four(4), "p0:3/1"),
        (four(5), "p1"),
        (four(11), "-"),
        (four(12), "p0:3/13"),
        (four(13), "p0:3/0"),
        (four(14), "p1"),
        (four(15), "p1"),
        (six(1), "p1"),
        (six(2), "-"),
        (six(3), "p0:1/1"),
        (six(4), "p0:1/0"),
        (six(5), "p1"),
        (six(11), "-"),
        (six(12), "p0:1/1"),
        (six(13), "p0:1/0"),
        (six(14), "p1"),
        (six(15), "p1"),
    ]);
    let shunt = rows.twin.daemon();
    for reason in ["unreachable_route", "prohibit_route", "prohibit_rule", "unreachable_rule"] {
        assert_eq!(shunt.counted("punted", reason), 2, "{reason}");
    }
    assert_eq!((shunt.counted("dropped", "blackhole_route"), shunt.counted("dropped", "blackhole_rule")), (2, 2));
}

#[test]
fn privileged_d05_suppressors_look_at_the_prefix_and_at_the_group_of_the_egress() {
    let mut rows = Rows::new();
    // The layout of wg-quick: main without its default route, the tunnel for all else.
    for family in [Family::V4, Family::V6] {
        let (default, tunnel) = match family {
            Family::V4 => ("198.51.100.74", "198.51.100.138"),
            Family::V6 => ("2001:db8:1::a", "2001:db8:2::a"),
        };
        rows.set(&[
            Command::Ip(Some(family), format!("route add default via {default}")),
            Command::Ip(Some(family), format!("route add default via {tunnel} table 51820")),
            Command::Ip(Some(family), "rule add priority 51 not fwmark 0x2 lookup 51820".to_owned()),
            Command::Ip(Some(family), "rule add priority 50 lookup main suppress_prefixlength 0".to_owned()),
        ]);
    }
    let by_group = [
        (to("203.0.114.1"), "p2"),
        (to("203.0.114.1").body(Body::Udp(5002, 9)), "p1"),
        (four(), "p1"),
        (to("2001:db9::1"), "p2"),
        (to("2001:db9::1").body(Body::Udp(5002, 9)), "p1"),
        (six(), "p1"),
    ];
    rows.expect(&by_group);
    for family in [Family::V4, Family::V6] {
        rows.set(&[
            Command::Ip(Some(family), "rule del priority 50".to_owned()),
            Command::Ip(Some(family), "rule add priority 50 lookup main suppress_ifgroup 7".to_owned()),
        ]);
    }
    rows.expect(&[(four(), "p1"), (six(), "p1"), (to("203.0.114.1"), "p1")]);
    rows.set(&[Command::ip("link set p1 group 7")]);
    rows.expect(&[(four(), "p2"), (six(), "p2"), (to("203.0.114.1"), "p2"), (to(&behind4(3, 7)), "p3")]);
}

#[test]
fn privileged_d06_goto_leads_forward_and_waits_for_its_target() {
    let mut rows = Rows::new();
    let both = |text: &str| [Command::ip4(text), Command::ip6(text)];
    rows.set(&both("rule add priority 50 goto 200"));
    rows.set(&both("rule add priority 100 lookup 100"));
    rows.expect(&[(four(), "p2"), (six(), "p2")]);
    rows.set(&both("rule add priority 200 lookup 101"));
    rows.expect(&[(four(), "p3"), (six(), "p3")]);
    rows.set(&both("rule del priority 200"));
    rows.expect(&[(four(), "p2"), (six(), "p2")]);
    // Backward is refused.
    let refused = rows.twin.apply(&both("rule add priority 60 goto 50"));
    assert!(refused.contains("Backward goto not supported"), "{refused}");
    rows.expect(&[(four(), "p2"), (six(), "p2")]);
}

#[test]
fn privileged_d07_the_default_rules_can_be_moved_and_deleted() {
    let mut rows = Rows::new();
    let both = |text: &str| [Command::ip4(text), Command::ip6(text)];
    // Cilium's and VRF's layout: something is asked before the local table.
    rows.set(&both("rule add priority 100 lookup local"));
    rows.set(&both("rule del priority 0"));
    rows.set(&both("rule add priority 9 fwmark 0x1 lookup 100"));
    rows.set(&[
        Command::ip4("route add 198.51.100.1/32 via 198.51.100.138 table 100"),
        Command::ip6("route add 2001:db8:0::1/128 via 2001:db8:2::a table 100"),
    ]);
    let through = |packet: Packet| packet.body(Body::Udp(5001, 9));
    rows.expect(&[(through(four()), "p2"), (four(), "p1"), (through(six()), "p2"), (six(), "p1")]);
    // Its own address, but not for marked packets. The frames are for the workers only if the program knows that.
    rows.expect_by_anybody(&[
        (through(to("198.51.100.1")), "p2"),
        (to("198.51.100.1"), "p0:3/3"),
        (through(to("2001:db8:0::1")), "p2"),
        (to("2001:db8:0::1"), "p0:1/4"),
    ]);
    rows.set(&both("rule del priority 32766"));
    rows.expect(&[(through(four()), "p2"), (through(six()), "p2")]);
    rows.expect(&[(four(), "-"), (six(), "-")]);
}

#[test]
fn privileged_d08_equal_priorities_are_asked_in_the_order_of_their_coming() {
    let mut rows = Rows::new();
    let both = |text: &str| [Command::ip4(text), Command::ip6(text)];
    for table in [100, 101, 254] {
        rows.set(&both(&format!("rule add priority 50 lookup {table}")));
    }
    rows.expect(&[(four(), "p2"), (six(), "p2")]);
    rows.set(&both("rule del priority 50 lookup 100"));
    rows.expect(&[(four(), "p3"), (six(), "p3")]);
    rows.set(&both("rule add priority 50 lookup 100"));
    rows.expect(&[(four(), "p3"), (six(), "p3")]);
    rows.set(&both("rule del priority 50 lookup 101"));
    rows.expect(&[(four(), "p1"), (six(), "p1")]);
}

#[test]
fn privileged_d09_an_interface_is_meant_by_its_name() {
    let mut rows = Rows::new();
    let both = |text: &str| [Command::ip4(text), Command::ip6(text)];
    rows.set(&both("rule add priority 50 iif lan0 lookup 100"));
    rows.set(&both("rule add priority 51 iif p0 lookup 101"));
    rows.expect(&[(four(), "p3"), (six(), "p3")]);
    rows.set(&[Command::ip("link set p0 name lan0")]);
    rows.expect(&[(four(), "p2"), (six(), "p2")]);
    rows.set(&[Command::ip("link set lan0 name other")]);
    rows.expect(&[(four(), "p1"), (six(), "p1")]);
    rows.set(&[Command::ip("link set other name p0")]);
    rows.expect(&[(four(), "p3"), (six(), "p3")]);
}

#[test]
fn privileged_d10_rules_for_lo_and_with_oif_are_not_for_forwarded_packets() {
    let mut rows = Rows::new();
    let both = |text: &str| [Command::ip4(text), Command::ip6(text)];
    rows.set(&both("rule add priority 50 iif lo blackhole"));
    rows.set(&both("rule add priority 51 oif p1 blackhole"));
    rows.expect(&[(four(), "p1"), (six(), "p1")]);
    rows.set(&both("rule add priority 52 not oif p1 lookup 100"));
    rows.expect(&[(four(), "p2"), (six(), "p2")]);
}

#[test]
fn privileged_d11_forwarded_packets_are_those_of_user_0() {
    let mut rows = Rows::new();
    let both = |text: &str| [Command::ip4(text), Command::ip6(text)];
    rows.set(&both("rule add priority 50 uidrange 1-4294967294 blackhole"));
    rows.expect(&[(four(), "p1"), (six(), "p1")]);
    rows.set(&both("rule add priority 51 uidrange 0-0 lookup 100"));
    rows.expect(&[(four(), "p2"), (six(), "p2")]);
}

#[test]
fn privileged_d12_port_rules_see_the_ports_of_whole_packets_only() {
    let mut rows = Rows::new();
    let both = |text: &str| [Command::ip4(text), Command::ip6(text)];
    rows.set(&both("rule add priority 50 ipproto udp dport 53 lookup 100"));
    rows.set(&both("rule add priority 51 sport 6000-6010 lookup 101"));
    for plain in [four(), six()] {
        rows.expect(&[
            (plain.clone().body(Body::Udp(4000, 53)), "p2"),
            (plain.clone().body(Body::Tcp(4000, 53)), "p1"),
            (plain.clone().body(Body::Tcp(6005, 80)), "p3"),
            (plain.clone().body(Body::Sctp(6010, 80)), "p3"),
            (plain.clone().body(Body::Udp(6011, 80)), "p1"),
            (plain.clone().body(Body::Esp(0x1770_0035)), "p3"),
            (plain.clone().body(Body::Icmp(if plain.source.is_ipv4() { 8 } else { 128 }, 0)), "p1"),
        ]);
        // Fragments are the kernel's, and without ports, the first one too (`fib_rules_early_flow_dissect` does not ask for them).
        let dns = plain.body(Body::Udp(4000, 53));
        rows.expect_by_anybody(&[
            (dns.clone().twist(Twist::Fragment(0, true)), "p1"),
            (dns.twist(Twist::Fragment(185, false)), "p1"),
        ]);
    }
    // A port under a mask: FRA_DPORT_MASK.
    let port = [0x1000u16.to_ne_bytes(), 0x1000u16.to_ne_bytes()].concat();
    let masked: [(u16, &[u8]); 2] = [(24, &port), (29, &0xf000u16.to_ne_bytes())];
    rows.set(&[raw(Family::V4, 40, &masked), raw(Family::V6, 40, &masked)]);
    for plain in [four(), six()] {
        rows.expect(&[
            (plain.clone().body(Body::Udp(4000, 0x1abc)), "p3"),
            (plain.body(Body::Udp(4000, 0x2abc)), "p1"),
        ]);
    }
}

#[test]
fn privileged_d12_flow_labels_and_tunnel_ids_are_selectors_too() {
    let mut rows = Rows::new();
    rows.set(&[
        raw(Family::V6, 50, &[(26, &0x12300u32.to_be_bytes()), (27, &0xfff00u32.to_be_bytes())]),
        Command::ip4("rule add priority 50 tun_id 7 blackhole"),
        Command::ip6("rule add priority 51 tun_id 7 blackhole"),
        Command::ip4("rule add priority 52 not tun_id 7 lookup 100"),
    ]);
    let label = |flow_label| Packet { flow_label, ..six() };
    rows.expect(&[(label(0x123ff), "p3"), (label(0x12400), "p1"), (six(), "p1"), (four(), "p2")]);
}

#[test]
fn privileged_d17_the_lowest_of_32_bit_metrics_wins() {
    let mut rows = Rows::new();
    let ways = [(4_294_967_295u32, 0), (1025, 1), (257, 2), (20, 3)];
    for (metric, port) in ways {
        rows.set(&[
            Command::ip4(format!("route add 203.0.114.0/24 via 198.51.100.{} metric {metric}", port * 64 + 10)),
            Command::ip6(format!("route add 2001:db9::/32 via 2001:db8:{port}::a metric {metric}")),
        ]);
    }
    let from = |port: usize| {
        [Packet::udp(port, &behind4(port, 9), "203.0.114.1"), Packet::udp(port, &behind6(port, 9), "2001:db9::1")]
    };
    for (gone, left) in [(None, "p3"), (Some(20), "p2"), (Some(257), "p1")] {
        if let Some(metric) = gone {
            rows.set(&[
                Command::ip4(format!("route del 203.0.114.0/24 metric {metric}")),
                Command::ip6(format!("route del 2001:db9::/32 metric {metric}")),
            ]);
        }
        let [four, six] = from(0);
        rows.expect(&[(four, left), (six, left)]);
    }
    rows.set(&[
        Command::ip4("route del 203.0.114.0/24 metric 1025"),
        Command::ip6("route del 2001:db9::/32 metric 1025"),
    ]);
    let [four, six] = from(1);
    rows.expect(&[(four, "p0"), (six, "p0")]);
}

/// How many of 200 flows went each way; whether they agree with the kernel flow by flow is asserted underneath.
fn split(rows: &mut Rows, flow: impl Fn(u16) -> Packet) -> BTreeMap<String, usize> {
    let packets: Vec<Packet> = (0..200).map(flow).collect();
    let before = rows.twin.daemon().forwarded();
    let mut split = BTreeMap::new();
    for way in rows.ways(&packets) {
        *split.entry(way).or_default() += 1;
    }
    assert_eq!(rows.twin.daemon().forwarded() - before, 200, "by the workers: {:#}", rows.twin.daemon().status());
    split
}

#[test]
fn privileged_d18_multipath_takes_the_kernels_leg_by_every_policy() {
    let mut rows = Rows::new();
    let set = |key: &str, value: u32| ["ipv4", "ipv6"].map(|family| Command::sysctl(format!("{family}/{key}"), value));
    rows.set(&[
        Command::ip4(
            "route replace 198.18.0.0/15 nexthop via 198.51.100.74 weight 3 nexthop via 198.51.100.138 weight 1",
        ),
        Command::ip6(
            "route add 2001:db8:200::/40 nexthop via 2001:db8:1::a weight 3 nexthop via 2001:db8:2::a weight 1",
        ),
        Command::sysctl("ipv4/fib_multipath_hash_seed", 4711),
    ]);
    let v4_ports = |flow: u16| four().body(Body::Udp(1000 + flow, 9));
    let v6_ports = |flow: u16| Packet::udp(0, super::SOURCE6, "2001:db8:200::9").body(Body::Udp(1000 + flow, 9));
    let v4_hosts = |flow: u16| Packet::udp(0, &behind4(0, flow), super::TARGET);
    let v6_hosts = |flow: u16| Packet::udp(0, &behind6(0, flow), "2001:db8:200::9");
    let one_way = |split: &BTreeMap<String, usize>| split.len() == 1;
    // Three to one, within what chance allows 200 flows (five standard deviations).
    let weighted = |split: &BTreeMap<String, usize>| (119..=181).contains(&split.get("p1").copied().unwrap_or(0));

    // Addresses only: ports must not spread.
    rows.set(&set("fib_multipath_hash_policy", 0));
    for split in [split(&mut rows, v4_ports), split(&mut rows, v6_ports)] {
        assert!(one_way(&split), "{split:?}");
    }
    for split in [split(&mut rows, v4_hosts), split(&mut rows, v6_hosts)] {
        assert!(weighted(&split), "{split:?}");
    }
    // Ports too.
    rows.set(&set("fib_multipath_hash_policy", 1));
    for split in [split(&mut rows, v4_ports), split(&mut rows, v6_ports)] {
        assert!(weighted(&split), "{split:?}");
    }
    // Addresses, or those inside of a tunnel.
    rows.set(&set("fib_multipath_hash_policy", 2));
    for split in [split(&mut rows, v4_ports), split(&mut rows, v6_ports)] {
        assert!(one_way(&split), "{split:?}");
    }
    let inside = |protocol, a: &str, b: &str| {
        Body::Inside(protocol, a.parse().expect("an address"), b.parse().expect("an address"))
    };
    let tunnels: Vec<Packet> = (0..20)
        .flat_map(|flow| {
            let (inner, inner6) = (format!("192.0.2.{flow}"), format!("2001:db8:77::{flow}"));
            [
                four().body(inside(4, &inner, "203.0.113.250")),
                four().body(inside(47, &inner, "203.0.113.250")),
                v6_ports(0).body(inside(41, &inner6, "2001:db8:88::1")),
                v6_ports(0).body(inside(47, &inner6, "2001:db8:88::1")),
            ]
        })
        .collect();
    rows.ways(&tunnels);
    assert!(rows.twin.daemon().counted("punted", "multipath_inner") >= 80);
    // Chosen fields: the destination port alone, then the source address alone, then the label.
    rows.set(&set("fib_multipath_hash_policy", 3));
    rows.set(&set("fib_multipath_hash_fields", 0x20));
    for split in [split(&mut rows, v4_ports), split(&mut rows, v6_ports), split(&mut rows, v4_hosts)] {
        assert!(one_way(&split), "{split:?}");
    }
    let by_target = |flow: u16| four().body(Body::Udp(1000, 1000 + flow));
    let split_by_target = split(&mut rows, by_target);
    assert!(weighted(&split_by_target), "{split_by_target:?}");
    rows.set(&set("fib_multipath_hash_fields", 0x08));
    let labelled = |flow: u16| Packet { flow_label: u32::from(flow) * 523, ..v6_ports(0) };
    let split_by_label = split(&mut rows, labelled);
    assert!(weighted(&split_by_label), "{split_by_label:?}");
}

#[test]
fn privileged_d18_nexthop_objects_groups_and_resilient_groups() {
    let mut rows = Rows::new();
    rows.set(&[
        Command::sysctl("ipv4/fib_multipath_hash_policy", 1),
        Command::sysctl("ipv6/fib_multipath_hash_policy", 1),
        Command::sysctl("ipv4/fib_multipath_hash_seed", 99),
        Command::ip4("nexthop add id 1 via 198.51.100.74 dev p1"),
        Command::ip4("nexthop add id 2 via 198.51.100.138 dev p2"),
        Command::ip4("nexthop add id 3 via 198.51.100.202 dev p3"),
        Command::ip6("nexthop add id 4 via 2001:db8:1::a dev p1"),
        Command::ip6("nexthop add id 5 via 2001:db8:2::a dev p2"),
        Command::ip("nexthop add id 10 group 1,3/2"),
        Command::ip("nexthop add id 11 group 1/2/3 type resilient buckets 32 idle_timer 0"),
        Command::ip("nexthop add id 12 group 4/5"),
        Command::ip("nexthop add id 13 blackhole"),
        Command::ip4("route add 198.18.1.0/24 nhid 10"),
        Command::ip4("route add 198.18.2.0/24 nhid 11"),
        Command::ip4("route add 198.18.3.0/24 nhid 3"),
        Command::ip4("route add 198.18.4.0/24 nhid 13"),
        Command::ip6("route add 2001:db8:101::/48 nhid 12"),
        // An IPv4 route by an IPv6 gateway.
        Command::ip4("route add 198.18.5.0/24 via inet6 2001:db8:3::b dev p3"),
    ]);
    let flow = |target: &str, flow: u16| to(target).body(Body::Udp(1000 + flow, 9));
    let group = split(&mut rows, |number| flow("198.18.1.1", number));
    assert!((119..=181).contains(&group["p1"]), "{group:?}");
    let resilient = split(&mut rows, |number| flow("198.18.2.1", number));
    assert_eq!(resilient.len(), 3, "{resilient:?}");
    let six = split(&mut rows, |number| flow("2001:db8:101::1", number));
    assert_eq!(six.len(), 2, "{six:?}");
    rows.expect(&[(to("198.18.3.1"), "p3"), (to("198.18.4.1"), "-"), (to("198.18.5.1"), "p3")]);

    // A member leaves; the buckets of the others stay as they are.
    rows.set(&[Command::ip("nexthop replace id 11 group 1/3 type resilient buckets 32 idle_timer 0")]);
    let fewer = split(&mut rows, |number| flow("198.18.2.1", number));
    assert_eq!(fewer.keys().collect::<Vec<_>>(), ["p1", "p3"], "{fewer:?}");
    // An object takes its routes and memberships along.
    rows.set(&[Command::ip("nexthop del id 3")]);
    let alone = split(&mut rows, |number| flow("198.18.2.1", number));
    assert_eq!(alone.keys().collect::<Vec<_>>(), ["p1"], "{alone:?}");
    rows.expect(&[(to("198.18.3.1"), "p1")]);
}

#[test]
fn privileged_d18_dead_legs_are_passed_over() {
    let mut rows = Rows::new();
    let legs = "nexthop via 198.51.100.74 nexthop via 198.51.100.138";
    let legs6 = "nexthop via 2001:db8:1::a nexthop via 2001:db8:2::a";
    rows.set(&[
        Command::sysctl("ipv4/fib_multipath_hash_policy", 1),
        Command::sysctl("ipv6/fib_multipath_hash_policy", 1),
        Command::ip4(format!("route add 198.18.7.0/24 {legs}")),
        Command::ip6(format!("route add 2001:db8:107::/48 {legs6}")),
    ]);
    let v4 = |number: u16| four().body(Body::Udp(1000 + number, 9));
    let v6 = |number: u16| Packet::udp(0, super::SOURCE6, "2001:db8:107::1").body(Body::Udp(1000 + number, 9));
    assert_eq!((split(&mut rows, v4).len(), split(&mut rows, v6).len()), (2, 2));
    // Without its carrier a leg is used, unless the sysctl says otherwise. What is sent there is lost.
    rows.set(&[
        Command::sysctl("ipv4/conf/p1/ignore_routes_with_linkdown", 1),
        Command::sysctl("ipv6/conf/p1/ignore_routes_with_linkdown", 1),
        Command::far("link set w1 down"),
    ]);
    rows.twin.settle_ports();
    for split in [split(&mut rows, v4), split(&mut rows, v6)] {
        assert_eq!(split.keys().collect::<Vec<_>>(), ["p2"]);
    }
    rows.set(&[Command::far("link set w1 up")]);
    rows.twin.settle_ports();
    assert_eq!((split(&mut rows, v4).len(), split(&mut rows, v6).len()), (2, 2));
    // An interface that is down.
    rows.set(&[Command::ip("link set p1 down")]);
    rows.twin.settle_ports();
    for split in [split(&mut rows, v4), split(&mut rows, v6)] {
        assert_eq!(split.keys().collect::<Vec<_>>(), ["p2"]);
    }
    // A neighbour that does not answer, if the sysctl asks for it.
    rows.set(&[
        Command::ip("link set p1 up"),
        Command::ip("neigh replace 198.51.100.74 lladdr 02:00:00:00:02:1a dev p1 nud permanent"),
        Command::sysctl("ipv4/fib_multipath_use_neigh", 1),
        Command::ip("neigh replace 198.51.100.138 dev p2 nud failed"),
    ]);
    rows.twin.settle_ports();
    let good = split(&mut rows, v4);
    assert_eq!(good.keys().collect::<Vec<_>>(), ["p1"]);
    // All of them were from one host.
    assert_eq!(SOURCE, "198.19.1.1");
}

/// Of equal IPv6 routes the first one, unless another leads back to where the packet came from; a blackhole object goes before all.
#[test]
fn privileged_d18_equal_ipv6_routes_are_told_apart_by_the_ingress() {
    let mut rows = Rows::new();
    rows.set(&[
        // By objects, so that they do not become one multipath route.
        Command::ip6("nexthop add id 21 via 2001:db8:1::a dev p1"),
        Command::ip6("nexthop add id 22 via 2001:db8:2::a dev p2"),
        Command::ip6("nexthop add id 23 blackhole"),
        Command::ip6("route append 2001:db8:200::/40 nhid 21"),
        Command::ip6("route append 2001:db8:200::/40 nhid 22"),
    ]);
    let from = |port: usize| Packet::udp(port, &behind6(port, 7), "2001:db8:200::9");
    rows.expect(&[(from(0), "p1"), (from(3), "p1")]);
    rows.expect_by_anybody(&[(from(2), "p2"), (from(1), "p1")]);
    rows.set(&[Command::ip6("route append 2001:db8:200::/40 nhid 23")]);
    rows.expect(&[(from(0), "-"), (from(2), "-")]);
}

/// `fib_check_nh_v6_gw` does not look at the carrier.
#[test]
fn privileged_d18_an_ipv6_gateway_added_without_a_carrier_is_not_passed_over() {
    let mut rows = Rows::new();
    rows.set(&[Command::sysctl("ipv4/conf/p3/ignore_routes_with_linkdown", 1), Command::far("link set w3 down")]);
    // The kernel's own watch over links takes up to a second.
    rows.twin.settle_ports();
    rows.set(&[
        Command::ip4("route add 198.18.77.0/24 via 198.51.100.203"),
        Command::ip4("route add 198.18.78.0/24 via inet6 2001:db8:3::b dev p3"),
    ]);
    rows.expect_by_anybody(&[(to("198.18.77.1"), "p1"), (to("198.18.78.1"), "-")]);
    rows.set(&[Command::far("link set w3 up")]);
    rows.twin.settle_ports();
    rows.expect(&[(to("198.18.77.1"), "p3"), (to("198.18.78.1"), "p3")]);
}
