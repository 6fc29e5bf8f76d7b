//! The namespaces of the demo, and what is counted in them.

use crate::lab::{Daemon, Host, Lab, Namespace};

use super::report::{Census, KINDS, UPLINKS};

pub(super) const MAIL: &str = "198.19.25.25";
pub(super) const WEB: &str = "198.19.80.80";

pub(super) struct Network {
    pub(super) anna: Namespace,
    pub(super) ben: Namespace,
    pub(super) router: Namespace,
    /// In the order of [`UPLINKS`].
    isps: [Namespace; UPLINKS.len()],
    mail: Namespace,
    web: Namespace,
}

impl Network {
    pub(super) fn build() -> Self {
        let lab = Lab::new();
        let [anna, ben, switch, router] = ["anna", "ben", "switch", "router"].map(|name| lab.namespace(name));
        let isps = ["fast", "flat", "isdn"].map(|name| lab.namespace(name));
        let [core, mail, web] = ["core", "mail", "web"].map(|name| lab.namespace(name));

        lab.veth((&anna, "eth0"), (&switch, "anna"));
        lab.veth((&ben, "eth0"), (&switch, "ben"));
        lab.veth((&router, "eth0"), (&switch, "router"));
        switch.run("ip link add br0 type bridge; ip link set br0 up");
        switch.run("for port in anna ben router; do ip link set $port master br0; done");
        anna.run("ip addr add 192.0.2.10/24 dev eth0; ip route add default via 192.0.2.1");
        ben.run("ip addr add 192.0.2.20/24 dev eth0; ip route add default via 192.0.2.1");
        router.run("ip addr add 192.0.2.1/24 dev eth0");

        for (number, (isp, uplink)) in isps.iter().zip(UPLINKS).enumerate() {
            let (near, to_core) = (["198.51.100", "203.0.113", "198.18.3"][number], format!("198.18.1{number}"));
            lab.veth((&router, uplink), (isp, "customer"));
            lab.veth((isp, "core"), (&core, isp.name()));
            router.run(&format!("ip addr add {near}.1/24 dev {uplink}"));
            isp.run(&format!("ip addr add {near}.2/24 dev customer; ip addr add {to_core}.1/24 dev core"));
            core.run(&format!("ip addr add {to_core}.2/24 dev {}", isp.name()));
            isp.run(&format!("ip route add default via {to_core}.2; ip route add 192.0.2.0/24 via {near}.1"));
            for (kind, matches) in KINDS {
                isp.run(&format!("iptables -A FORWARD -i customer {matches} -m comment --comment {kind}"));
            }
        }
        // What is slow about the slow links is at their ISPs' side.
        isps[1].run("tc qdisc add dev core root tbf rate 4mbit burst 16k latency 200ms");
        isps[2].run("tc qdisc add dev core root tbf rate 1mbit burst 8k latency 200ms");
        router.run("ip route add default via 198.51.100.2");
        core.run("ip route add 192.0.2.0/24 via 198.18.10.1");
        for (server, address) in [(&mail, MAIL), (&web, WEB)] {
            let network = address.rsplit_once('.').map_or(address, |(network, _)| network);
            lab.veth((server, "eth0"), (&core, server.name()));
            server.run(&format!("ip addr add {address}/24 dev eth0; ip route add default via {network}.1"));
            core.run(&format!("ip addr add {network}.1/24 dev {}", server.name()));
        }
        for forwarding in isps.iter().chain([&router, &core]) {
            forwarding.run("sysctl -qw net.ipv4.ip_forward=1");
        }
        Network { anna, ben, router, isps, mail, web }
    }

    pub(super) fn serve(&self) -> [Host; 2] {
        [Host::serve(&self.mail, "mail", &[25]), Host::serve(&self.web, "web", &[22, 80, 5000])]
    }

    /// All counters, now.
    pub(super) fn census(&self, shunt: Option<&Daemon>) -> Census {
        let mut census = Census { kernel: self.router.kernel_forwarded(), ..Census::default() };
        for (isp, counts) in self.isps.iter().zip(&mut census.by_uplink) {
            // packets, bytes, then the rule with its comment
            let listed = isp.run("iptables -nvxL FORWARD");
            for (at, (kind, _)) in KINDS.iter().enumerate() {
                let rule = listed.lines().find(|line| line.contains(&format!("/* {kind} */")));
                let packets = rule.and_then(|line| line.split_whitespace().next()?.parse().ok());
                counts[at] = packets.unwrap_or_else(|| panic!("no counter {kind} in\n{listed}"));
            }
        }
        if let Some(shunt) = shunt {
            census.workers = shunt.forwarded();
            census.punted = shunt.punted();
        }
        census
    }
}
