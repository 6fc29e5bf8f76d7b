//! ICMP errors about translated packets reach who sent them, in his own words.

use crate::by::{By, stories};
use crate::network::{Edge, iperf3};

stories![
    privileged_traceroute_through_masquerade,
    privileged_traceroute_through_dnat,
    privileged_path_mtu_through_masquerade,
];

/// The addresses of the hops that answered, in their order.
fn hops(printed: &str) -> Vec<&str> {
    printed.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect()
}

fn privileged_traceroute_through_masquerade(by: By) {
    let edge = Edge::new();
    edge.masquerade();
    let router = by.start(&edge.router);
    for method in ["-U", "-I", "-T -p 9"] {
        let command = format!("traceroute -n -q1 -N1 -w2 -m5 {method}");
        let printed = router.forwards(3, || edge.alice.run(&format!("{command} {}", Edge::SERVER)));
        assert_eq!(hops(&printed), ["192.0.2.1", "198.51.100.254", Edge::SERVER], "{method}: {printed}");
        let printed = router.forwards(3, || edge.alice.run(&format!("{command} {}", Edge::SERVER6)));
        assert_eq!(hops(&printed), ["2001:db8:1::1", "2001:db8:2::fe", Edge::SERVER6], "{method}: {printed}");
    }
}

/// The last hop is the inner host under the router's address.
fn privileged_traceroute_through_dnat(by: By) {
    let edge = Edge::new();
    edge.router.run(
        "iptables -t nat -A PREROUTING -i wan0 -p udp -j DNAT --to-destination 192.0.2.10
        ip6tables -t nat -A PREROUTING -i wan0 -p udp -j DNAT --to-destination 2001:db8:1::10",
    );
    let router = by.start(&edge.router);
    let command = "traceroute -n -q1 -N1 -w2 -m5";
    let printed = router.forwards(1, || edge.server.run(&format!("{command} 198.51.100.1")));
    assert_eq!(hops(&printed), ["198.18.1.1", "198.51.100.1", "198.51.100.1"], "{printed}");
    let printed = router.forwards(1, || edge.server.run(&format!("{command} 2001:db8:2::1")));
    assert_eq!(hops(&printed), ["2001:db8:4::1", "2001:db8:2::1", "2001:db8:2::1"], "{printed}");
}

/// The way from the provider to the server takes 1400 bytes only, and he says so.
fn privileged_path_mtu_through_masquerade(by: By) {
    let edge = Edge::new();
    edge.masquerade();
    edge.isp.run("ip link set eth2 mtu 1400");
    // Segments of the inner hosts are as large as on a wire.
    edge.alice.run("ip link set eth0 gso_max_segs 1");
    let _iperf3 = edge.server.spawn(&["iperf3", "-s"]);
    let router = by.start(&edge.router);
    for server in [Edge::SERVER, Edge::SERVER6] {
        let (received, seconds) = router.forwards(200, || iperf3(&edge.alice, &format!("-n 1M -c {server}")));
        // The server stops to count when the client says that it is done.
        assert!(received >= 1 << 18 && seconds < 5.0, "TCP stalls: {received} bytes in {seconds} s");
        let route = edge.alice.run(&format!("ip route get {server}"));
        assert!(route.contains("mtu 1400"), "the sender does not know: {route}");
    }
}
