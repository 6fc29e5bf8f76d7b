//! New connections as fast as they come.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use shunt_tests::lab::{Crowd, CrowdServer, TwoWays};

use crate::by::{By, stories};

stories![privileged_every_new_connection_completes];

/// New connections a second, and seconds of a run; `NAT_RATE=10000 NAT_SECONDS=60` for a long one (`make crowd`).
const RATE: u32 = 1000;
const SECONDS: u64 = 3;
/// A whole connection: SYN, SYN-ACK, ACK, a byte there, a byte back, FIN, FIN, ACK, or some of them in one.
const PACKETS: u64 = 7;
const PORT: u16 = 7000;

fn number<T: std::str::FromStr>(name: &str) -> Option<T> {
    Some(std::env::var(name).ok()?.parse().unwrap_or_else(|_| panic!("{name}: a number is expected")))
}

/// Sixteen clients and ten servers: of the connections that use a source port at one time some want the same server, and cannot all keep
/// it.
fn privileged_every_new_connection_completes(by: By) {
    let net = TwoWays::new();
    net.client.run(
        "ip route add local 198.19.1.0/24 dev lo
        sysctl -qw net.ipv4.tcp_max_tw_buckets=1000000",
    );
    net.fast.run(
        "ip route add local 198.18.0.0/24 dev lo
        sysctl -qw net.ipv4.tcp_max_tw_buckets=1000000 net.ipv4.tcp_max_syn_backlog=8192 net.core.somaxconn=8192",
    );
    // A connection is remembered for two minutes after its end, else, and a minute's need more than the kernel's table has by default.
    net.router.run(
        "ip route add 198.19.1.0/24 via 192.0.2.10
        iptables -t nat -A POSTROUTING -o eth1 -j MASQUERADE
        sysctl -qw net.netfilter.nf_conntrack_tcp_timeout_time_wait=10 net.netfilter.nf_conntrack_tcp_timeout_close=2",
    );
    let _server = CrowdServer::serve(&net.fast, PORT);
    let router = by.start(&net.router);
    let (rate, seconds) = (number("NAT_RATE"), number("NAT_SECONDS"));
    let crowd = Crowd {
        rate: rate.unwrap_or(RATE),
        time: Duration::from_secs(seconds.unwrap_or(SECONDS)),
        sources: (1..=16).map(|host| Ipv4Addr::new(198, 19, 1, host)).collect(),
        targets: (25..35).map(|host| SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, host), PORT)).collect(),
    };
    let packets = u64::from(crowd.rate) * crowd.time.as_secs() * PACKETS;
    let report = router.forwards(packets, || crowd.come_from(&net.client));
    if rate.is_some() || seconds.is_some() {
        println!("by {by:?}, {} a second wanted: {report}", crowd.rate);
        if let Some(daemon) = &router.0 {
            let threads = format!("/proc/{}/task/*/stat", daemon.id());
            let program = "{ printf \"%s %.2f s, \", $2, ($14 + $15) / 100 }";
            println!("time on the processors: {}", net.router.run(&format!("awk '{program}' {threads}")));
            let status = daemon.status();
            println!("connections: {}", status["conntrack"]);
            println!("dropped: {}", status["counters"]["dropped"]);
        }
    }
    assert!(report.failed.is_empty() && report.completed == report.opened, "{report}");
}
