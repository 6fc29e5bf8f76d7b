//! D1 to D12, D17.

use shunt_policy::Family;
use shunt_tests::twin::{Body, Command, Packet, RawRule, Twist, behind4, behind6};

use super::{Rows, four, six, to};

/// A rule with attributes that Debian's `ip` cannot write, to table 101.
fn raw(family: Family, priority: u32, attributes: &[(u16, &[u8])]) -> Command {
    let attributes = attributes.iter().map(|(kind, value)| (*kind, value.to_vec())).collect();
    Command::Rule(RawRule { family, priority, table: 101, attributes })
}

/// The same of both families.
fn both(text: &str) -> [Command; 2] {
    [Command::ip4(text), Command::ip6(text)]
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
    rows.set(&both("rule add priority 50 iif lo blackhole"));
    rows.set(&both("rule add priority 51 oif p1 blackhole"));
    rows.expect(&[(four(), "p1"), (six(), "p1")]);
    rows.set(&both("rule add priority 52 not oif p1 lookup 100"));
    rows.expect(&[(four(), "p2"), (six(), "p2")]);
}

#[test]
fn privileged_d11_forwarded_packets_are_those_of_user_0() {
    let mut rows = Rows::new();
    rows.set(&both("rule add priority 50 uidrange 1-4294967294 blackhole"));
    rows.expect(&[(four(), "p1"), (six(), "p1")]);
    rows.set(&both("rule add priority 51 uidrange 0-0 lookup 100"));
    rows.expect(&[(four(), "p2"), (six(), "p2")]);
}

#[test]
fn privileged_d12_port_rules_see_the_ports_of_whole_packets_only() {
    let mut rows = Rows::new();
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
