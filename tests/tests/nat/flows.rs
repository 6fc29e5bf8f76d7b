//! Very many flows through one public address. D36

use std::collections::HashSet;
use std::net::UdpSocket;
use std::time::Duration;

use shunt_tests::lab::{Namespace, Witness};

use crate::by::{By, stories};
use crate::network::Edge;

stories![privileged_many_flows_have_a_tuple_each];

/// Flows of a run, unless `NAT_FLOWS` says otherwise. 8 s by the kernel and 24 s by shunt with debug assertions, 12 s by `make release`
/// (2 cores of AMD EPYC that had other work, too).
const FLOWS: usize = 200_000;
/// Of a second client with the source ports of the first.
const CLASHING: usize = 500;
const FIRST_PORT: usize = 10_000;
const THREADS: usize = 4;

/// A public source, and the server's address.
type Seen = (std::net::SocketAddr, u8);

/// Opens `count` flows: each source port to each address of the server, all of which live on. Returns how they are seen.
fn open(host: &Namespace, count: usize) -> Vec<(u16, Seen)> {
    let ports = count / Edge::SERVERS.len();
    let of_thread = |thread: usize| {
        host.enter(|| {
            let mut all = Vec::new();
            for port in (FIRST_PORT..FIRST_PORT + ports).skip(thread).step_by(THREADS) {
                let socket = UdpSocket::bind(("0.0.0.0", port as u16)).expect("a free port");
                socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a socket of ours");
                let mut missing: HashSet<u8> = Edge::SERVERS.collect();
                for _ in 0..5 {
                    for server in &missing {
                        socket.send_to(&[*server], (format!("198.18.0.{server}").as_str(), 80)).expect("a way");
                    }
                    let mut answer = [0; 64];
                    while !missing.is_empty()
                        && let Ok((length, from)) = socket.recv_from(&mut answer)
                    {
                        let server = answer[0];
                        assert_eq!(from.to_string(), format!("198.18.0.{server}:80"), "an answer of another flow");
                        let text = String::from_utf8_lossy(&answer[1..length]);
                        if missing.remove(&server) {
                            all.push((port as u16, (text.parse().expect("an address"), server)));
                        }
                    }
                    if missing.is_empty() {
                        break;
                    }
                }
                assert!(missing.is_empty(), "no answer of {missing:?} to port {port}");
            }
            all
        })
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || of_thread(thread))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("flows")).collect()
    })
}

fn privileged_many_flows_have_a_tuple_each(by: By) {
    let edge = Edge::new();
    // The table is the whole machine's, and on a small one it is small.
    let room: usize = edge.router.run("sysctl -n net.netfilter.nf_conntrack_max").trim().parse().expect("a number");
    let most = FLOWS.min(room / 4 * 3 / Edge::SERVERS.len() * Edge::SERVERS.len());
    let flows = std::env::var("NAT_FLOWS").map_or(most, |flows| flows.parse().expect("a number"));
    edge.masquerade();
    // None ends before the last begins.
    edge.router
        .run("sysctl -qw net.netfilter.nf_conntrack_udp_timeout=600 net.netfilter.nf_conntrack_udp_timeout_stream=600");
    let addresses: Vec<String> = Edge::SERVERS.map(|host| format!("198.18.0.{host}:80")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let _witness = Witness::serve(&edge.server, &addresses);
    let router = by.start(&edge.router);
    let first = router.forwards(flows as u64, || open(&edge.alice, flows));
    assert_eq!(first.len(), flows);
    assert!(first.iter().all(|(port, (seen, _))| seen.to_string() == format!("198.51.100.1:{port}")), "ports are kept");
    let mut tuples: HashSet<Seen> = first.iter().map(|(_, seen)| *seen).collect();
    assert_eq!(tuples.len(), flows);
    // All of them are taken for the second client.
    for (port, seen) in open(&edge.bob, CLASHING) {
        assert!(tuples.insert(seen), "{seen:?} is given twice");
        assert!(seen.0.port() != port && seen.0.port() >= 1024, "{port} became {seen:?}");
    }
    // They are what they were.
    let again = router.forwards(CLASHING as u64, || open(&edge.alice, CLASHING));
    assert!(again.iter().all(|(_, seen)| tuples.contains(seen)), "flows have changed");
    assert!(again.iter().all(|(port, (seen, _))| seen.port() == *port), "flows have changed");
}
