//! The network of the stories.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use shunt_tests::lab::{Lab, Namespace, eventually};

/// A router at the edge of a network, with two ways out. Nobody outside has a route to the inner networks.
///
/// ```text
///  alice 192.0.2.10 \                           wan0 198.51.100.1 --- .254 eth0 \
///  2001:db8:1::10    [lan] --- .1 eth0 [router]      2001:db8:2::1    ::fe       [isp] eth2 198.18.1.1 --- .2 [server]
///  bob   192.0.2.11 /          ::1              wan1 203.0.113.1  --- .254 eth1 /           2001:db8:4::1     198.18.0.25 to .34
///  2001:db8:1::11                                    2001:db8:3::1    ::fe                                    2001:db8:25::25
/// ```
///
/// The default route leads by `wan0`. `lan` is a bridge; `isp` takes from each of its links only what belongs there (rp_filter 1).
pub struct Edge {
    pub alice: Namespace,
    pub bob: Namespace,
    pub router: Namespace,
    pub isp: Namespace,
    pub server: Namespace,
}

impl Edge {
    pub const SERVER: &str = "198.18.0.25";
    pub const SERVER6: &str = "2001:db8:25::25";
    /// First and last parts of the server's addresses.
    pub const SERVERS: std::ops::Range<u8> = 25..35;

    pub fn new() -> Edge {
        let lab = Lab::new();
        let [alice, bob, lan, router, isp, server] =
            ["alice", "bob", "lan", "router", "isp", "server"].map(|name| lab.namespace(name));
        lab.veth((&alice, "eth0"), (&lan, "p1"));
        lab.veth((&bob, "eth0"), (&lan, "p2"));
        lab.veth((&router, "eth0"), (&lan, "p0"));
        lab.veth((&router, "wan0"), (&isp, "eth0"));
        lab.veth((&router, "wan1"), (&isp, "eth1"));
        lab.veth((&isp, "eth2"), (&server, "eth0"));
        lan.run(
            "ip link add br0 type bridge mcast_snooping 0; ip link set br0 up
            for port in p0 p1 p2; do ip link set $port master br0; done",
        );
        for (namespace, device, v4, v6) in [
            (&alice, "eth0", "192.0.2.10/24", "2001:db8:1::10/64"),
            (&bob, "eth0", "192.0.2.11/24", "2001:db8:1::11/64"),
            (&router, "eth0", "192.0.2.1/24", "2001:db8:1::1/64"),
            (&router, "wan0", "198.51.100.1/24", "2001:db8:2::1/64"),
            (&router, "wan1", "203.0.113.1/24", "2001:db8:3::1/64"),
            (&isp, "eth0", "198.51.100.254/24", "2001:db8:2::fe/64"),
            (&isp, "eth1", "203.0.113.254/24", "2001:db8:3::fe/64"),
            (&isp, "eth2", "198.18.1.1/24", "2001:db8:4::1/64"),
            (&server, "eth0", "198.18.1.2/24", "2001:db8:4::2/64"),
        ] {
            namespace.run(&format!("ip addr add {v4} dev {device}; ip addr add {v6} dev {device} nodad"));
        }
        for namespace in [&router, &isp] {
            namespace.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.icmp_ratelimit=0");
        }
        isp.run("for port in eth0 eth1; do sysctl -qw net.ipv4.conf.$port.rp_filter=1; done");
        for host in [&alice, &bob] {
            host.run("ip route add default via 192.0.2.1; ip -6 route add default via 2001:db8:1::1");
        }
        router.run("ip route add default via 198.51.100.254; ip -6 route add default via 2001:db8:2::fe");
        isp.run("ip route add 198.18.0.0/24 via 198.18.1.2; ip -6 route add 2001:db8:25::/48 via 2001:db8:4::2");
        for host in Self::SERVERS {
            server.run(&format!("ip addr add 198.18.0.{host}/32 dev lo"));
        }
        server.run(&format!(
            "ip addr add {v6}/128 dev lo nodad
            ip route add default via 198.18.1.1 src {v4}; ip -6 route add default via 2001:db8:4::1 src {v6}",
            v4 = Self::SERVER,
            v6 = Self::SERVER6
        ));
        let edge = Edge { alice, bob, router, isp, server };
        edge.resolve_neighbours();
        edge
    }

    /// Masquerades what leaves by the two ways out, in both families.
    pub fn masquerade(&self) {
        for tool in ["iptables", "ip6tables"] {
            self.router
                .run(&format!("for wan in wan0 wan1; do {tool} -t nat -A POSTROUTING -o $wan -j MASQUERADE; done"));
        }
    }

    /// So that a story starts without the first packet's punt.
    fn resolve_neighbours(&self) {
        let all = ["192.0.2.10", "192.0.2.11", "198.51.100.254", "203.0.113.254"];
        let all6 = ["2001:db8:1::10", "2001:db8:1::11", "2001:db8:2::fe", "2001:db8:3::fe"];
        let pings = all.iter().chain(&all6).map(|address| format!("ping -q -c1 -W1 {address} >/dev/null"));
        let pings = pings.collect::<Vec<_>>().join(" && ");
        let answered = eventually(Duration::from_secs(5), || (self.router.try_run(&pings).code == 0).then_some(()));
        assert!(answered.is_some(), "the router does not reach its neighbours: {}", self.router.run("ip neigh"));
        assert_eq!(self.isp.try_run(&format!("ping -q -c1 -W2 {}", Self::SERVER)).code, 0, "no way to the server");
        assert_eq!(self.isp.try_run(&format!("ping -q -c1 -W2 {}", Self::SERVER6)).code, 0, "no way to the server");
    }
}

/// Downloads so many bytes from a `Witness` with curl; the whole must come.
pub fn download(from: &Namespace, server: &str, bytes: u64) {
    let output = from.run(&format!("curl -sS -g -m 20 -o /dev/null -w '%{{size_download}}' http://{server}/{bytes}"));
    assert_eq!(output, bytes.to_string(), "from {server}");
}

/// How a `Witness` sees a curl from this port: one that no connection of the namespace has had before, or the port may still be in
/// TIME_WAIT, and none that the kernel gives by itself (`ip_local_port_range`).
pub fn curl_is_seen_as(from: &Namespace, server: &str, port: u16) -> SocketAddr {
    let text = from.run(&format!("curl -sS -g -m 10 --local-port {port} http://{server}/who"));
    text.parse().unwrap_or_else(|_| panic!("{server}: {text}"))
}

/// Runs iperf3 against a server that has just been started. Returns the bytes that were received, and the seconds it took.
pub fn iperf3(client: &Namespace, options: &str) -> (u64, f64) {
    let mut said = String::new();
    let report = eventually(Duration::from_secs(10), || {
        said = client.try_run(&format!("timeout 9 iperf3 -J {options}")).stdout;
        let report: Value = serde_json::from_str(&said).ok()?;
        let end = &report["end"];
        Some((end["sum_received"]["bytes"].as_u64()?, end["sum_sent"]["seconds"].as_f64()?))
    });
    report.unwrap_or_else(|| panic!("iperf3 {options}: {said}"))
}
