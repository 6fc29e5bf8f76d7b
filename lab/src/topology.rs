//! The network that most stories are told in.

use crate::host::Host;
use crate::namespace::Namespace;
use crate::{Lab, eventually};

/// A router with two ways to the same addresses.
///
/// ```text
///                                 eth1  198.51.100.1 --- .10  fast  \
///  client 192.0.2.10 --- eth0 [router]                                198.18.0.25, 2001:db8:25::25 on both
///  2001:db8:1::10                 ppp0  203.0.113.1  --- .10  slow  /
/// ```
///
/// Both ends answer on the ports of [`PORTS`](Self::PORTS) with their own name, so that a client knows which way it went. The main
/// table leads by `fast`.
pub struct TwoWays {
    pub lab: Lab,
    pub client: Namespace,
    pub router: Namespace,
    pub fast: Namespace,
    pub slow: Namespace,
    pub hosts: [Host; 2],
}

impl TwoWays {
    pub const PORTS: [u16; 4] = [22, 25, 80, 5000];
    /// Where the clients send to.
    pub const SERVER: &str = "198.18.0.25";
    pub const SERVER6: &str = "2001:db8:25::25";

    pub fn new() -> Self {
        Self::with_queues(1)
    }

    /// With several queues on each interface of the router.
    pub fn with_queues(queues: u32) -> Self {
        let lab = Lab::new();
        let [client, router, fast, slow] = ["client", "router", "fast", "slow"].map(|name| lab.namespace(name));
        lab.veth_with_queues((&client, "eth0"), (&router, "eth0"), queues);
        lab.veth_with_queues((&fast, "eth0"), (&router, "eth1"), queues);
        lab.veth_with_queues((&slow, "eth0"), (&router, "ppp0"), queues);
        router.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        for (namespace, device, v4, v6) in [
            (&client, "eth0", "192.0.2.10/24", "2001:db8:1::10/64"),
            (&router, "eth0", "192.0.2.1/24", "2001:db8:1::1/64"),
            (&router, "eth1", "198.51.100.1/24", "2001:db8:2::1/64"),
            (&fast, "eth0", "198.51.100.10/24", "2001:db8:2::10/64"),
            (&router, "ppp0", "203.0.113.1/24", "2001:db8:3::1/64"),
            (&slow, "eth0", "203.0.113.10/24", "2001:db8:3::10/64"),
        ] {
            namespace.run(&format!("ip addr add {v4} dev {device}; ip addr add {v6} dev {device} nodad"));
        }
        client.run("ip route add default via 192.0.2.1; ip -6 route add default via 2001:db8:1::1");
        for (host, gateway, gateway6) in
            [(&fast, "198.51.100.1", "2001:db8:2::1"), (&slow, "203.0.113.1", "2001:db8:3::1")]
        {
            let (v4, v6) = (Self::SERVER, Self::SERVER6);
            host.run(&format!("ip addr add {v4}/32 dev lo; ip addr add {v6}/128 dev lo nodad"));
            // UDP answers have the address that was asked.
            host.run(&format!("ip route add default via {gateway} src {v4}"));
            host.run(&format!("ip -6 route add default via {gateway6} src {v6}"));
        }
        router.run("ip route add 198.18.0.0/15 via 198.51.100.10; ip -6 route add 2001:db8:25::/48 via 2001:db8:2::10");
        let hosts = [Host::serve(&fast, "fast", &Self::PORTS), Host::serve(&slow, "slow", &Self::PORTS)];
        let lab = TwoWays { lab, client, router, fast, slow, hosts };
        lab.resolve_neighbours();
        lab
    }

    /// Lets the kernel learn every neighbour, so that a story starts without the first packet's punt.
    pub fn resolve_neighbours(&self) {
        let pings = "ping -q -c1 -W1 192.0.2.10; ping -q -c1 -W1 198.51.100.10; ping -q -c1 -W1 203.0.113.10;
                     ping -q -c1 -W1 2001:db8:1::10; ping -q -c1 -W1 2001:db8:2::10; ping -q -c1 -W1 2001:db8:3::10";
        let answered = eventually(std::time::Duration::from_secs(5), || {
            let output = self.router.try_run(&pings.replace(';', " >/dev/null &&"));
            (output.code == 0).then_some(())
        });
        assert!(
            answered.is_some(),
            "the router does not reach its neighbours:\n{}",
            self.router.run("ip addr; ip neigh")
        );
    }
}

impl Default for TwoWays {
    fn default() -> Self {
        Self::new()
    }
}
