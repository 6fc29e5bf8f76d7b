//! Servers behind the router, reached by its own addresses.

use std::time::Duration;

use shunt_tests::lab::{Host, Stream, Witness, eventually};

use crate::by::{By, stories};
use crate::network::{Edge, curl_is_seen_as, download};

stories![privileged_curl_through_dnat, privileged_hairpin, privileged_a_new_dnat_target_is_for_new_connections,];

fn privileged_curl_through_dnat(by: By) {
    let edge = Edge::new();
    edge.masquerade();
    edge.router.run(
        "iptables -t nat -A PREROUTING -i wan0 -p tcp --dport 8080 -j DNAT --to-destination 192.0.2.10:80
        ip6tables -t nat -A PREROUTING -i wan0 -p tcp --dport 8080 -j DNAT --to-destination [2001:db8:1::10]:80",
    );
    let _witness = Witness::serve(&edge.alice, &["[::]:80"]);
    let router = by.start(&edge.router);
    for (public, port, client) in
        [("198.51.100.1:8080", 5124, Edge::SERVER), ("[2001:db8:2::1]:8080", 5134, Edge::SERVER6)]
    {
        let seen = curl_is_seen_as(&edge.server, public, port);
        assert_eq!((seen.ip().to_string().as_str(), seen.port()), (client, port), "a client keeps its address");
        router.forwards(40, || download(&edge.server, public, 3_000_000));
    }
}

/// A client asks a server of its own network by the router's public address. Without masquerade the server's answer would not come by
/// the router.
fn privileged_hairpin(by: By) {
    let edge = Edge::new();
    edge.router.run(
        "iptables -t nat -A PREROUTING -d 198.51.100.1 -p tcp --dport 8080 -j DNAT --to-destination 192.0.2.11:80
        iptables -t nat -A POSTROUTING -s 192.0.2.0/24 -d 192.0.2.0/24 -j MASQUERADE",
    );
    let _witness = Witness::serve(&edge.bob, &["[::]:80"]);
    let router = by.start(&edge.router);
    let seen = curl_is_seen_as(&edge.alice, "198.51.100.1:8080", 5125);
    assert_eq!(seen.to_string(), "192.0.2.1:5125");
    // What leaves by the way it came in is the kernel's: it may have a redirect to send.
    download(&edge.alice, "198.51.100.1:8080", 3_000_000);
    drop(router);
}

/// D37
fn privileged_a_new_dnat_target_is_for_new_connections(by: By) {
    let edge = Edge::new();
    let _hosts = [Host::serve(&edge.alice, "alice", &[5000, 5001]), Host::serve(&edge.bob, "bob", &[5000, 5001])];
    let iptables = |verb: &str, target: &str| {
        format!("iptables -t nat {verb} -i wan0 -p udp --dport 5000 -j DNAT --to-destination {target}")
    };
    edge.router.run(&iptables("-A PREROUTING", "192.0.2.10"));
    edge.router.run(
        "nft add table ip own
        nft add chain ip own p '{ type nat hook prerouting priority -90; }'
        nft add rule ip own p iifname wan0 udp dport 5001 dnat to 192.0.2.10",
    );
    let router = by.start(&edge.router);
    let streams = [5000, 5001].map(|port| Stream::start(&edge.server, "198.51.100.1", port, Duration::from_millis(5)));
    let first =
        eventually(Duration::from_secs(3), || streams.iter().all(|stream| stream.received() > 20).then_some(()));
    assert!(first.is_some(), "no answers");
    edge.router.run(&iptables("-R PREROUTING 1", "192.0.2.11"));
    edge.router.run("nft flush chain ip own p; nft add rule ip own p iifname wan0 udp dport 5001 dnat to 192.0.2.11");
    router.reload();
    router.forwards(100, || std::thread::sleep(Duration::from_millis(600)));
    for port in [5000, 5001] {
        let answer = edge.server.ask_udp("198.51.100.1", port, Duration::from_secs(1));
        assert_eq!(answer.expect("an answer"), "bob", "a new connection");
    }
    for stream in streams {
        let report = stream.finish();
        assert_eq!(report.answers.keys().collect::<Vec<_>>(), ["alice"], "{report:?}");
        assert!(report.lost() * 20 < report.sent, "{report:?}");
    }
}
