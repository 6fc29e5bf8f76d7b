//! Several ways out, and what happens to connections when ways and addresses change.

use std::time::Duration;

use shunt_tests::lab::{Stream, Witness, eventually};

use crate::by::{By, stories};
use crate::network::{Edge, curl_is_seen_as, download};

stories![
    privileged_replies_leave_by_the_link_the_connection_came_in,
    privileged_a_masqueraded_flow_takes_the_address_of_its_new_link,
    privileged_a_flow_with_snat_keeps_its_address_on_another_link,
    privileged_a_deleted_address_ends_what_was_masqueraded_behind_it,
];

/// The multi-WAN set-up with connection marks. The provider takes from each link only what belongs there. D16
fn privileged_replies_leave_by_the_link_the_connection_came_in(by: By) {
    let edge = Edge::new();
    edge.masquerade();
    edge.router.run(
        "iptables -t mangle -A PREROUTING -j CONNMARK --restore-mark
        iptables -t mangle -A PREROUTING -m mark --mark 0 -i wan0 -j MARK --set-mark 1
        iptables -t mangle -A PREROUTING -m mark --mark 0 -i wan1 -j MARK --set-mark 2
        iptables -t mangle -A PREROUTING -j CONNMARK --save-mark
        for wan in wan0 wan1; do
            iptables -t nat -A PREROUTING -i $wan -p tcp --dport 8080 -j DNAT --to-destination 192.0.2.10:80
            iptables -t nat -A PREROUTING -i $wan -p udp --dport 8080 -j DNAT --to-destination 192.0.2.10:80
        done
        ip route add default via 203.0.113.254 table 102
        ip rule add priority 100 fwmark 2 iif eth0 lookup 102",
    );
    let _witness = Witness::serve(&edge.alice, &["[::]:80"]);
    let router = by.start(&edge.router);
    for (public, port, link, other) in [("198.51.100.1", 5126, "wan0", "wan1"), ("203.0.113.1", 5136, "wan1", "wan0")] {
        let sent = [link, other].map(|device| edge.router.packets(device).1);
        let server = format!("{public}:8080");
        let seen = curl_is_seen_as(&edge.server, &server, port);
        assert_eq!(seen.to_string(), format!("198.18.0.25:{port}"));
        router.forwards(20, || download(&edge.server, &server, 1_000_000));
        let stream = Stream::start(&edge.server, public, 8080, Duration::from_millis(2));
        assert!(eventually(Duration::from_secs(3), || (stream.received() > 100).then_some(())).is_some(), "{public}");
        let report = stream.finish();
        assert!(report.lost() * 20 < report.sent, "{report:?}");
        let now = [link, other].map(|device| edge.router.packets(device).1);
        assert!(now[0] >= sent[0] + 100, "{public}: {sent:?} {now:?}");
        assert!(now[1] < sent[1] + 20, "{public} is answered by {other}: {sent:?} {now:?}");
    }
}

/// Sends UDP by `wan0`, then has the default route lead by `wan1`. Returns the addresses that the server saw, in no order.
fn moved(edge: &Edge, by: By) -> Vec<String> {
    edge.isp.run("for port in all eth0 eth1; do sysctl -qw net.ipv4.conf.$port.rp_filter=0; done");
    let _witness = Witness::serve(&edge.server, &["198.18.0.25:5060"]);
    let router = by.start(&edge.router);
    let stream = Stream::start(&edge.alice, Edge::SERVER, 5060, Duration::from_millis(5));
    let first = eventually(Duration::from_secs(3), || (stream.received() > 50).then_some(()));
    assert!(first.is_some(), "no answers");
    assert!(stream.last_answer().expect("one").starts_with("198.51.100.1:"));
    edge.router.run("ip route replace default via 203.0.113.254");
    router.forwards(150, || std::thread::sleep(Duration::from_millis(800)));
    let report = stream.finish();
    // One packet ends a masqueraded connection; the mirror follows routes at once.
    assert!(report.lost() * 10 < report.sent, "{report:?}");
    let mut answers: Vec<String> = report.answers.into_keys().collect();
    for answer in &mut answers {
        answer.truncate(answer.rfind(':').expect("a port"));
    }
    answers
}

/// D34
fn privileged_a_masqueraded_flow_takes_the_address_of_its_new_link(by: By) {
    let edge = Edge::new();
    edge.masquerade();
    assert_eq!(moved(&edge, by), ["198.51.100.1", "203.0.113.1"]);
}

fn privileged_a_flow_with_snat_keeps_its_address_on_another_link(by: By) {
    let edge = Edge::new();
    edge.router.run(
        "iptables -t nat -A POSTROUTING -o wan0 -j SNAT --to-source 198.51.100.1
        iptables -t nat -A POSTROUTING -o wan1 -j SNAT --to-source 203.0.113.1",
    );
    assert_eq!(moved(&edge, by), ["198.51.100.1"]);
}

/// `masq_inet_event`
fn privileged_a_deleted_address_ends_what_was_masqueraded_behind_it(by: By) {
    let edge = Edge::new();
    edge.masquerade();
    edge.router.run("sysctl -qw net.ipv4.conf.wan0.promote_secondaries=1; ip addr add 198.51.100.2/24 dev wan0");
    let _witness = Witness::serve(&edge.server, &["198.18.0.25:5060"]);
    let router = by.start(&edge.router);
    let stream = Stream::start(&edge.alice, Edge::SERVER, 5060, Duration::from_millis(5));
    let is_behind = |address: &str| stream.last_answer().is_some_and(|answer| answer.starts_with(address));
    assert!(eventually(Duration::from_secs(3), || is_behind("198.51.100.1:").then_some(())).is_some(), "no answers");
    edge.router.run("ip addr del 198.51.100.1/24 dev wan0; ip route replace default via 198.51.100.254");
    let moved = eventually(Duration::from_secs(1), || is_behind("198.51.100.2:").then_some(()));
    assert!(moved.is_some(), "still behind {:?}: {}", stream.last_answer(), edge.router.run("conntrack -L 2>&1"));
    router.forwards(60, || std::thread::sleep(Duration::from_millis(500)));
    assert!(is_behind("198.51.100.2:"), "{:?}", stream.last_answer());
}
