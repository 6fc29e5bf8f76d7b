//! Connections end when the kernel's timeouts say so. D39

use std::time::{Duration, Instant};

use shunt_tests::lab::Witness;

use crate::by::{By, stories};
use crate::network::Edge;

stories![privileged_a_udp_connection_ends_with_its_timeout];

/// A second client gets the port of the first when, and only when, the first's connection has ended. Of UDP that has been answered once,
/// within the first two seconds, `nf_conntrack_udp_timeout` counts.
fn privileged_a_udp_connection_ends_with_its_timeout(by: By) {
    let edge = Edge::new();
    edge.masquerade();
    let _witness = Witness::serve(&edge.server, &["198.18.0.25:80"]);
    let router = by.start(&edge.router);
    // After the start: sysctls are followed.
    edge.router.run("sysctl -qw net.netfilter.nf_conntrack_udp_timeout=3");
    std::thread::sleep(Duration::from_millis(1500));
    let port_of = |host: &shunt_tests::lab::Namespace, port: u16| {
        Witness::sees(host, &format!("0.0.0.0:{port}"), "198.18.0.25:80").expect("an answer").port()
    };
    let ports = [7000, 7001, 7002];
    let start = Instant::now();
    router.forwards(3, || ports.map(|port| assert_eq!(port_of(&edge.alice, port), port)));
    let at = |seconds: f64| std::thread::sleep(Duration::from_secs_f64(seconds).saturating_sub(start.elapsed()));
    at(2.0);
    let early = port_of(&edge.bob, ports[0]);
    assert!(early != ports[0], "ended after {:?}", start.elapsed());
    at(4.5);
    assert_eq!(port_of(&edge.bob, ports[1]), ports[1], "still there after {:?}", start.elapsed());
    drop(router);
}
