//! Which port a translated connection gets (`nf_nat_l4proto_unique_tuple`). D35

use std::net::{SocketAddr, TcpStream};

use shunt_tests::lab::{Namespace, Witness};

use crate::by::{By, stories};
use crate::network::{Edge, curl_is_seen_as};

stories![
    privileged_a_port_is_kept_while_the_tuple_is_free,
    privileged_ports_keep_their_class,
    privileged_two_public_addresses_of_one_server_clash_behind_the_router,
    privileged_the_routers_own_connections_clash_with_nobody,
];

const PUBLIC: &str = "198.51.100.1";

fn seen(host: &Namespace, from: u16, to: &str) -> SocketAddr {
    let any = if to.starts_with('[') { "[::]" } else { "0.0.0.0" };
    Witness::sees(host, &format!("{any}:{from}"), to).unwrap_or_else(|error| panic!("from {from} to {to}: {error}"))
}

/// Two clients with one source port: to the same destination the second gets another port, to another destination the same.
fn privileged_a_port_is_kept_while_the_tuple_is_free(by: By) {
    let edge = Edge::new();
    edge.masquerade();
    let _witness = Witness::serve(&edge.server, &["198.18.0.25:80", "198.18.0.26:80", "[2001:db8:25::25]:80"]);
    let router = by.start(&edge.router);
    router.forwards(8, || {
        for to in ["198.18.0.25:80", "[2001:db8:25::25]:80"] {
            assert_eq!(seen(&edge.alice, 5060, to).port(), 5060);
            let second = seen(&edge.bob, 5060, to).port();
            assert!(second != 5060 && second >= 1024, "{second}");
            assert_eq!(seen(&edge.bob, 5060, to).port(), second, "it keeps what it has got");
            assert_eq!(seen(&edge.alice, 5060, to).port(), 5060);
        }
    });
    assert_eq!(seen(&edge.bob, 5062, "198.18.0.26:80").to_string(), format!("{PUBLIC}:5062"));
    assert_eq!(seen(&edge.alice, 5062, "198.18.0.25:80").to_string(), format!("{PUBLIC}:5062"));
    // Over TCP as well.
    assert_eq!(curl_is_seen_as(&edge.alice, "198.18.0.25", 5064).port(), 5064);
    let second = curl_is_seen_as(&edge.bob, "198.18.0.25", 5064).port();
    assert!(second != 5064 && second >= 1024, "{second}");
    assert_eq!(curl_is_seen_as(&edge.alice, "198.18.0.25", 5066).port(), 5066);
    assert_eq!(curl_is_seen_as(&edge.bob, "198.18.0.26", 5066).port(), 5066);
}

fn privileged_ports_keep_their_class(by: By) {
    let edge = Edge::new();
    edge.masquerade();
    let _witness = Witness::serve(&edge.server, &["198.18.0.25:80", "[2001:db8:25::25]:80"]);
    let router = by.start(&edge.router);
    router.forwards(12, || {
        for to in ["198.18.0.25:80", "[2001:db8:25::25]:80"] {
            for (port, class) in [(500, 1..=511), (600, 600..=1023), (4500, 1024..=65535)] {
                assert_eq!(seen(&edge.alice, port, to).port(), port);
                let second = seen(&edge.bob, port, to).port();
                assert!(second != port && class.contains(&second), "{port} became {second}");
            }
        }
    });
}

/// A client asks one server by two addresses of the router from one port: behind the router these would be one connection, so the second
/// gets another source port, though no rule asks for one.
fn privileged_two_public_addresses_of_one_server_clash_behind_the_router(by: By) {
    let edge = Edge::new();
    edge.router.run("iptables -t nat -A PREROUTING -p udp --dport 8080 -j DNAT --to-destination 192.0.2.10:80");
    let _witness = Witness::serve(&edge.alice, &["0.0.0.0:80"]);
    edge.router.run("ip addr add 198.51.100.2/24 dev wan0");
    let router = by.start(&edge.router);
    router.forwards(4, || {
        assert_eq!(seen(&edge.server, 5070, "198.51.100.1:8080").to_string(), "198.18.0.25:5070");
        let second = seen(&edge.server, 5070, "198.51.100.2:8080");
        assert!(second.port() != 5070 && second.port() >= 1024 && second.ip().to_string() == "198.18.0.25", "{second}");
        assert_eq!(seen(&edge.server, 5070, "198.51.100.1:8080").to_string(), "198.18.0.25:5070");
        assert_eq!(seen(&edge.server, 5070, "198.51.100.2:8080"), second);
    });
}

/// The router uses its public address for itself, too: no tuple is given twice, whoever came first. D39g
fn privileged_the_routers_own_connections_clash_with_nobody(by: By) {
    let edge = Edge::new();
    edge.masquerade();
    let _witness = Witness::serve(&edge.server, &["198.18.0.25:80"]);
    let router = by.start(&edge.router);
    // Held open, so that they are there when the other comes.
    let hold = |host: &Namespace, own: &str, port: u16| -> TcpStream {
        host.enter(|| {
            let socket = nix::sys::socket::socket(
                nix::sys::socket::AddressFamily::Inet,
                nix::sys::socket::SockType::Stream,
                nix::sys::socket::SockFlag::empty(),
                None,
            )
            .expect("a socket");
            let bound: std::net::SocketAddrV4 = format!("{own}:{port}").parse().expect("an address");
            let to: std::net::SocketAddrV4 = "198.18.0.25:80".parse().expect("an address");
            let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
            nix::sys::socket::bind(fd, &nix::sys::socket::SockaddrIn::from(bound)).expect("a free port");
            nix::sys::socket::connect(fd, &nix::sys::socket::SockaddrIn::from(to)).expect("a connection");
            TcpStream::from(socket)
        })
    };
    let who = |mut stream: TcpStream| -> u16 {
        use std::io::{Read, Write};
        stream.write_all(b"GET /who HTTP/1.0\r\n\r\n").expect("it is open");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let port = answer.rsplit(':').next().and_then(|port| port.parse().ok());
        port.unwrap_or_else(|| panic!("{answer}"))
    };
    let forwarded = hold(&edge.alice, "192.0.2.10", 40000);
    // The kernel hears of it by ctnetlink.
    std::thread::sleep(std::time::Duration::from_millis(50));
    let own = hold(&edge.router, PUBLIC, 40000);
    let second = who(own);
    assert!(second != 40000 && second >= 1024, "the router's own connection became {second}");
    assert_eq!(who(forwarded), 40000);
    let own = hold(&edge.router, PUBLIC, 41000);
    // The workers hear of it by an event.
    std::thread::sleep(std::time::Duration::from_millis(50));
    let forwarded = hold(&edge.alice, "192.0.2.10", 41000);
    let second = who(forwarded);
    assert!(second != 41000 && second >= 1024, "the client's became {second}");
    assert_eq!(who(own), 41000);
    let own = seen(&edge.router, 42000, "198.18.0.25:80");
    std::thread::sleep(std::time::Duration::from_millis(50));
    let forwarded = seen(&edge.alice, 42000, "198.18.0.25:80");
    assert!(own.port() == 42000 && forwarded.port() != 42000, "{own} and {forwarded}");
    drop(router);
}
