//! D18.

use std::collections::BTreeMap;

use shunt_tests::twin::{Body, Command, Packet, behind4, behind6};

use super::{Rows, SOURCE6, TARGET, four, to};

/// How many of 200 flows went each way; whether they agree with the kernel flow by flow is asserted underneath.
fn split(rows: &mut Rows, flow: impl Fn(u16) -> Packet) -> BTreeMap<String, usize> {
    let packets: Vec<Packet> = (0..200).map(flow).collect();
    let before = rows.twin.daemon().forwarded();
    let mut split = BTreeMap::new();
    for way in rows.ways(&packets) {
        *split.entry(way).or_default() += 1;
    }
    let by_workers = rows.twin.daemon().forwarded() - before;
    assert!(by_workers >= 200, "{by_workers} of 200 by the workers: {:#}", rows.twin.daemon().status());
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
    let v6_ports = |flow: u16| Packet::udp(0, SOURCE6, "2001:db8:200::9").body(Body::Udp(1000 + flow, 9));
    let v4_hosts = |flow: u16| Packet::udp(0, &behind4(0, flow), TARGET);
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
    let v6 = |number: u16| Packet::udp(0, SOURCE6, "2001:db8:107::1").body(Body::Udp(1000 + number, 9));
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
}

/// A neighbour that needs no ARP is good to a group (`ipv4_good_nh`, NUD_VALID), though we leave the packets to the kernel.
#[test]
fn privileged_d18_a_gateway_without_arp_is_good() {
    let mut rows = Rows::new();
    rows.set(&[
        Command::sysctl("ipv4/fib_multipath_hash_policy", 1),
        Command::sysctl("ipv6/fib_multipath_hash_policy", 1),
        Command::ip("neigh replace 198.51.100.74 lladdr 02:00:00:00:02:1a dev p1 nud noarp"),
        Command::ip("neigh replace 2001:db8:1::a lladdr 02:00:00:00:02:1a dev p1 nud noarp"),
        Command::ip4("nexthop add id 1 via 198.51.100.74 dev p1"),
        Command::ip4("nexthop add id 2 via 198.51.100.138 dev p2"),
        Command::ip6("nexthop add id 3 via 2001:db8:1::a dev p1"),
        Command::ip6("nexthop add id 4 via 2001:db8:2::a dev p2"),
        Command::ip("nexthop add id 10 group 1/2"),
        Command::ip("nexthop add id 11 group 3/4"),
        Command::ip4("route add 198.18.7.0/24 nhid 10"),
        Command::ip6("route add 2001:db8:107::/48 nhid 11"),
    ]);
    for target in ["198.18.7.1", "2001:db8:107::1"] {
        let before = rows.twin.daemon().counted("punted", "neighbour");
        let packets: Vec<Packet> = (0..60).map(|flow| to(target).body(Body::Udp(1000 + flow, 9))).collect();
        let ways = rows.ways(&packets);
        let without_arp = ways.iter().filter(|way| *way == "p1").count();
        assert!((5..=55).contains(&without_arp), "{ways:?}");
        assert!(rows.twin.daemon().counted("punted", "neighbour") - before >= without_arp as u64);
    }
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
