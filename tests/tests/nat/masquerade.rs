//! Clients behind a masquerading router.

use std::net::UdpSocket;
use std::time::Duration;

use shunt_tests::lab::{Witness, eventually};

use crate::by::{By, stories};
use crate::network::{Edge, curl_is_seen_as, download, iperf3};

stories![
    privileged_curl_and_ping_through_masquerade,
    privileged_iperf3_both_ways_through_masquerade,
    privileged_dns_through_masquerade,
];

fn privileged_curl_and_ping_through_masquerade(by: By) {
    let edge = Edge::new();
    edge.masquerade();
    let _witness = Witness::serve(&edge.server, &["[::]:80"]);
    let router = by.start(&edge.router);
    for (server, address, port, public) in [
        (Edge::SERVER.to_owned(), Edge::SERVER, 5123, "198.51.100.1"),
        (format!("[{}]", Edge::SERVER6), Edge::SERVER6, 5133, "2001:db8:2::1"),
    ] {
        let seen = curl_is_seen_as(&edge.alice, &server, port);
        assert_eq!((seen.ip().to_string().as_str(), seen.port()), (public, port));
        router.forwards(40, || download(&edge.alice, &server, 3_000_000));
        let ping = router.forwards(10, || edge.alice.run(&format!("ping -q -c5 -i0.1 -W2 {address}")));
        assert!(ping.contains("5 packets transmitted, 5 received"), "{ping}");
    }
}

fn privileged_iperf3_both_ways_through_masquerade(by: By) {
    let edge = Edge::new();
    edge.masquerade();
    let _iperf3 = edge.server.spawn(&["iperf3", "-s"]);
    let router = by.start(&edge.router);
    for way in ["", "-R"] {
        let received = router.forwards(200, || iperf3(&edge.alice, &format!("-t 1 {way} -c {}", Edge::SERVER)).0);
        assert!(received > 2_000_000, "{received} bytes in a second, {way}");
    }
}

/// A query for the IPv4 address of a name (RFC 1035).
fn dns_query(id: u16, name: &str) -> Vec<u8> {
    let mut query = id.to_be_bytes().to_vec();
    // Recursion desired, one question.
    query.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    query
}

fn privileged_dns_through_masquerade(by: By) {
    let edge = Edge::new();
    edge.masquerade();
    let listen = format!("--listen-address={}", Edge::SERVER);
    let _dnsmasq = edge.server.spawn(&[
        "dnsmasq",
        "--no-daemon",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--user=root",
        "--pid-file",
        "--bind-interfaces",
        "--address=/example.net/203.0.113.53",
        &listen,
    ]);
    let router = by.start(&edge.router);
    let ask = |id: u16| {
        edge.alice.enter(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(Some(Duration::from_millis(500)))?;
            socket.connect((Edge::SERVER, 53))?;
            socket.send(&dns_query(id, "www.example.net"))?;
            let mut answer = vec![0; 512];
            let length = socket.recv(&mut answer)?;
            answer.truncate(length);
            Ok::<_, std::io::Error>(answer)
        })
    };
    assert!(eventually(Duration::from_secs(5), || ask(1).ok()).is_some(), "dnsmasq does not answer");
    router.forwards(40, || {
        for id in 2..22 {
            let answer = ask(id).expect("an answer");
            assert_eq!((&answer[..2], &answer[answer.len() - 4..]), (&id.to_be_bytes()[..], &[203, 0, 113, 53][..]));
        }
    });
}
