//! The kernel's connections and those of workers are kept in step. The network is that of [`TwoWays`]; its router forwards by the
//! kernel alone, and the workers are queues that the story holds itself.

mod conntrack_workers;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use conntrack_workers::{Workers, tuple};
use shunt_control::conntrack::Conntrack;
use shunt_dataplane::conn::exchange::{FromWorker, ToWorker};
use shunt_dataplane::conn::record::{Record, TcpRecord, TcpState};
use shunt_policy::connection::{Connection, Endpoint, Tuple};
use shunt_policy::{Ifindex, Mark};
use shunt_tests::lab::{TwoWays, eventually};

const PATIENCE: Duration = Duration::from_secs(5);
const TCP: u8 = 6;
const UDP: u8 = 17;
const ROUTER: [&str; 6] =
    ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8:1::1", "2001:db8:2::1", "2001:db8:3::1"];

fn start(net: &TwoWays, workers: usize, room: usize) -> (Conntrack, Workers) {
    let conntrack = net.router.enter(|| Conntrack::start().expect("as the test needs it"));
    conntrack.local_addresses(ROUTER.iter().map(|address| address.parse().expect("as the test needs it")).collect());
    let workers = Workers::connect(&conntrack, workers, room);
    conntrack.set_active(true);
    eventually(PATIENCE, || conntrack.is_loaded().then_some(())).expect("all was told");
    (conntrack, workers)
}

fn tcp(net: &TwoWays, port: u16, server: &str) -> (TcpStream, TcpStream) {
    let any: SocketAddr = format!("[::]:{port}").parse().expect("as the test needs it");
    let listener = net.fast.enter(|| TcpListener::bind(any).expect("as the test needs it"));
    let to = SocketAddr::new(server.parse().expect("as the test needs it"), port);
    let client = net.client.enter(|| TcpStream::connect(to).expect("as the test needs it"));
    let (server, _) = listener.accept().expect("as the test needs it");
    (client, server)
}

fn exchange(from: &mut TcpStream, to: &mut TcpStream) {
    from.write_all(b"hello").expect("as the test needs it");
    to.set_read_timeout(Some(Duration::from_secs(2))).expect("as the test needs it");
    let mut read = [0; 5];
    to.read_exact(&mut read).expect("it arrives");
    assert_eq!(&read, b"hello");
}

/// A UDP socket of a namespace.
fn udp(namespace: &shunt_tests::lab::Namespace, address: &str) -> UdpSocket {
    let socket = namespace.enter(|| UdpSocket::bind(address).expect("as the test needs it"));
    socket.set_read_timeout(Some(Duration::from_secs(2))).expect("as the test needs it");
    socket
}

fn end(address: SocketAddr) -> Endpoint {
    Endpoint { address: address.ip(), port: address.port() }
}

#[test]
fn privileged_what_the_kernel_translates_is_told() {
    let net = TwoWays::new();
    net.router.run(
        "iptables -t nat -A POSTROUTING -o eth1 -j MASQUERADE; ip6tables -t nat -A POSTROUTING -o eth1 -j MASQUERADE
         iptables -t mangle -A FORWARD -j CONNMARK --set-mark 7",
    );
    let (before, _server) = tcp(&net, 7000, TwoWays::SERVER);
    let (conntrack, mut workers) = start(&net, 2, 4096);

    // What there was before.
    let original = tuple(TCP, &before.local_addr().expect("as the test needs it").to_string(), "198.18.0.25:7000");
    let reply = tuple(TCP, "198.18.0.25:7000", &format!("198.51.100.1:{}", original.source.port));
    let told = workers.kernel(&original).expect("told by the dump");
    assert_eq!((told.0.reply, told.0.mark, told.1), (reply, Mark(7), true));
    assert!(told.0.timeout > 430_000, "{told:?}");
    assert_eq!(told.0.tcp.map(|tcp| tcp.state), Some(TcpState::Established));
    let status = u32::from(Connection::ASSURED | Connection::SEEN_REPLY | Connection::SRC_NAT | Connection::CONFIRMED);
    assert_eq!(told.0.status & status, status);
    assert_eq!(told.0.status & u32::from(Connection::DST_NAT), 0);

    // What begins now, from the first packet on.
    let (mut after, mut server) = tcp(&net, 7001, TwoWays::SERVER);
    let original = tuple(TCP, &after.local_addr().expect("as the test needs it").to_string(), "198.18.0.25:7001");
    let story = workers.until(
        |message| match message {
            ToWorker::Kernel { record, whole } if record.original == original => {
                Some((record.tcp.expect("as the test needs it").state, *whole, record.mark))
            }
            _ => None,
        },
        |told| told.1,
    );
    assert_eq!(story[0], (TcpState::SynSent, false, Mark(7)), "{story:?}");
    assert_eq!(story.last(), Some(&(TcpState::Established, true, Mark(7))), "{story:?}");
    // Updates that leave the TCP state away are completed.
    net.router.run("iptables -t mangle -A FORWARD -p tcp --dport 7001 -j CONNMARK --set-mark 9");
    exchange(&mut after, &mut server);
    let marked = workers.wait(|message| match message {
        ToWorker::Kernel { record, whole } if record.mark == Mark(9) => Some((*record, *whole)),
        _ => None,
    });
    let (record, whole) = marked.expect("an update");
    assert!(whole && record.tcp.is_some_and(|tcp| tcp.state == TcpState::Established), "{record:?}");

    // Deleted by the operator.
    net.router.run("conntrack -D -p tcp --dport 7001");
    assert!(workers.ended(&original));
    server.write_all(b"x").expect("as the test needs it");

    // UDP, ICMP, IPv6; and the router's own.
    let socket = udp(&net.client, "192.0.2.10:0");
    socket.send_to(b"x", "198.18.0.25:9999").expect("as the test needs it");
    let original = tuple(UDP, &socket.local_addr().expect("as the test needs it").to_string(), "198.18.0.25:9999");
    let told = workers.kernel(&original).expect("UDP");
    assert!(told.1 && told.0.tcp.is_none() && (28..=30).contains(&told.0.timeout), "{told:?}");
    net.client.run("ping -q -c1 -W1 -e 77 198.18.0.25");
    let ping = tuple(1, "192.0.2.10:77", "198.18.0.25:2048");
    let told = workers.kernel(&ping).expect("ICMP");
    assert_eq!(told.0.reply, tuple(1, "198.18.0.25:77", "198.51.100.1:0"));
    net.client.run("ping -q -c1 -W1 -e 78 2001:db8:25::25");
    let ping = tuple(58, "[2001:db8:1::10]:78", "[2001:db8:25::25]:32768");
    let told = workers.kernel(&ping).expect("ICMPv6");
    assert_eq!(told.0.reply, tuple(58, "[2001:db8:25::25]:78", "[2001:db8:2::1]:33024"));
    assert!(told.1);
    let own = udp(&net.router, "198.51.100.1:0");
    own.send_to(b"x", "198.18.0.25:9999").expect("as the test needs it");
    let original = tuple(UDP, &own.local_addr().expect("as the test needs it").to_string(), "198.18.0.25:9999");
    let told = workers.kernel(&original).expect("its own");
    assert!(!told.1, "{told:?}");

    // What is said to all.
    net.router.run("sysctl -qw net.netfilter.nf_conntrack_udp_timeout=17");
    for worker in 0..2 {
        let settings = workers.wait_at(worker, |message| match message {
            ToWorker::Settings(settings) if settings.udp == 17 => Some(()),
            _ => None,
        });
        assert!(settings.is_some(), "worker {worker}");
    }
    let address: IpAddr = "198.51.100.1".parse().expect("as the test needs it");
    conntrack.address_gone(Ifindex(3), Some(address));
    for worker in 0..2 {
        let gone = ToWorker::Unmasquerade { oif: Ifindex(3), address: Some(address) };
        assert!(workers.wait_at(worker, |message| (*message == gone).then_some(())).is_some(), "worker {worker}");
    }
    let counts = conntrack.counts();
    assert!(counts.events > 5 && counts.own == 0 && counts.undecoded == 0 && counts.lost == 0, "{counts:?}");
    assert!(workers.rung() > 0);

    // Nothing needs it: nobody is told.
    conntrack.set_active(false);
    assert!(!conntrack.is_loaded());
    std::thread::sleep(Duration::from_millis(300));
    workers.drain();
    let (_client, _server) = tcp(&net, 7002, TwoWays::SERVER);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(workers.drain().len(), 0);
}

#[test]
fn privileged_the_kernel_goes_on_with_a_workers_connection() {
    let net = TwoWays::new();
    // A nat chain, so that the kernel translates; no rule of it is for what follows. Nothing is picked up in its middle.
    net.router.run(
        "iptables -t nat -A POSTROUTING -p tcp --dport 7000 -j SNAT --to-source 198.51.100.1:30000
         ip6tables -t nat -A POSTROUTING -p 99 -j MASQUERADE
         iptables -t mangle -A FORWARD -m conntrack --ctstate INVALID -j DROP
         sysctl -qw net.netfilter.nf_conntrack_tcp_loose=0",
    );
    let (conntrack, mut workers) = start(&net, 1, 4096);

    // SNAT and DNAT at once, both with ports.
    let record = Record {
        original: tuple(UDP, "192.0.2.10:5555", "203.0.113.77:53"),
        reply: tuple(UDP, "198.18.0.25:9001", "198.51.100.1:6666"),
        status: 0,
        mark: Mark(5),
        timeout: 600,
        tcp: None,
        kernels: false,
        masquerade: None,
    };
    let client = udp(&net.client, "192.0.2.10:5555");
    let server = udp(&net.fast, "198.18.0.25:9001");
    workers.say(FromWorker::Lives(record));
    let shown = eventually(PATIENCE, || {
        let shown = net.router.run("conntrack -L -p udp --dport 53 2>/dev/null");
        (!shown.is_empty()).then_some(shown)
    });
    let shown = shown.expect("conntrack -L shows it");
    for part in [
        "src=192.0.2.10 dst=203.0.113.77 sport=5555 dport=53",
        "UNREPLIED",
        "mark=5",
        "src=198.18.0.25 dst=198.51.100.1 sport=9001 dport=6666",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    client.send_to(b"question", "203.0.113.77:53").expect("as the test needs it");
    let mut read = [0; 16];
    let (length, from) = server.recv_from(&mut read).expect("translated");
    assert_eq!((&read[..length], from.to_string().as_str()), (&b"question"[..], "198.51.100.1:6666"));
    server.send_to(b"answer", from).expect("as the test needs it");
    let (length, from) = client.recv_from(&mut read).expect("translated back");
    assert_eq!((&read[..length], from.to_string().as_str()), (&b"answer"[..], "203.0.113.77:53"));
    // Our own request is not told, what packets change is.
    let told = workers.kernel(&record.original).expect("it has been answered now");
    assert_eq!(told.0.status & u32::from(Connection::SEEN_REPLY | Connection::SRC_NAT | Connection::DST_NAT), 0x32);
    assert!(conntrack.counts().own >= 1);
    assert_eq!((told.0.reply, told.0.mark), (record.reply, Mark(5)));

    // Brought up to date, though the kernel has seen more than we say.
    workers.say(FromWorker::Lives(Record { mark: Mark(6), timeout: 900, ..record }));
    eventually(PATIENCE, || {
        net.router.run("conntrack -L -p udp --dport 53 2>/dev/null").contains("mark=6").then_some(())
    })
    .expect("the new mark");

    // Another with packets that the kernel has another connection for.
    workers.say(FromWorker::Lives(Record { original: tuple(UDP, "192.0.2.10:5556", "203.0.113.77:53"), ..record }));
    eventually(PATIENCE, || (conntrack.counts().export_failed.get(&17) == Some(&1)).then_some(())).expect("EEXIST");

    // And its end; which is nothing to tell.
    workers.drain();
    workers.say(FromWorker::Ended { original: record.original, reply: record.reply });
    eventually(PATIENCE, || net.router.run("conntrack -L -p udp --dport 53 2>/dev/null").is_empty().then_some(()))
        .expect("deleted");
    workers.say(FromWorker::Ended { original: record.original, reply: record.reply });
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(workers.drain(), []);

    // TCP, in its middle: the kernel forgets it, and gets it back from us.
    let (mut client, mut server) = tcp(&net, 7000, TwoWays::SERVER);
    exchange(&mut client, &mut server);
    let original = Tuple {
        source: end(client.local_addr().expect("as the test needs it")),
        destination: end(client.peer_addr().expect("as the test needs it")),
        protocol: TCP,
    };
    let kernels = workers.wait(|message| match message {
        ToWorker::Kernel { record, whole: true } if record.original == original => Some(*record),
        _ => None,
    });
    let kernels = kernels.expect("it is whole");
    assert_eq!(kernels.reply.destination.port, 30000);
    net.router.run("conntrack -D -p tcp --dport 7000");
    assert!(workers.ended(&original));
    let tcp_record = kernels.tcp.expect("as the test needs it");
    assert_eq!(tcp_record.flags.map(|flags| flags & 0x08), [0, 0], "it was not liberal");
    workers.say(FromWorker::Lives(Record { timeout: 1000, ..kernels }));
    eventually(PATIENCE, || {
        net.router.run("conntrack -L -p tcp --dport 7000 2>/dev/null").contains("ASSURED").then_some(())
    })
    .expect("it is back");
    for _ in 0..3 {
        exchange(&mut client, &mut server);
        exchange(&mut server, &mut client);
    }
    // The flag that lets it go on is none of the worker's.
    net.router.run("iptables -t mangle -A FORWARD -p tcp --dport 7000 -j CONNMARK --set-mark 3");
    exchange(&mut client, &mut server);
    let told = workers.kernel(&original).expect("the mark");
    assert_eq!((told.0.tcp, told.0.mark), (Some(TcpRecord { state: TcpState::Established, ..tcp_record }), Mark(3)));

    // ICMP with another identifier, IPv6.
    let ping = Record {
        original: tuple(1, "192.0.2.10:77", "198.18.0.25:2048"),
        reply: tuple(1, "198.18.0.25:99", "203.0.113.1:0"),
        timeout: 30,
        tcp: None,
        status: 0,
        mark: Mark(0),
        kernels: false,
        masquerade: None,
    };
    workers.say(FromWorker::Lives(ping));
    let client = udp(&net.client, "[2001:db8:1::10]:5555");
    let server = udp(&net.fast, "[2001:db8:25::25]:9001");
    let six = Record {
        original: tuple(UDP, "[2001:db8:1::10]:5555", "[2001:db8:25::25]:9001"),
        reply: tuple(UDP, "[2001:db8:25::25]:9001", "[2001:db8:2::1]:7777"),
        ..record
    };
    workers.say(FromWorker::Lives(six));
    eventually(PATIENCE, || {
        let shown = net.router.run("conntrack -L -p icmp 2>/dev/null; conntrack -f ipv6 -L -p udp 2>/dev/null");
        (shown.contains("id=99") && shown.contains("dport=7777")).then_some(())
    })
    .expect("both are shown");
    client.send_to(b"question", "[2001:db8:25::25]:9001").expect("as the test needs it");
    let (_, from) = server.recv_from(&mut read).expect("IPv6");
    assert_eq!(from.to_string(), "[2001:db8:2::1]:7777");
    net.client.run("ping -q -c1 -W1 -e 77 198.18.0.25");
    let told = workers.kernel(&ping.original).expect("answered");
    assert_eq!(told.0.reply, ping.reply);

    // What runs out in the kernel has not ended for the worker.
    workers.drain();
    workers.say(FromWorker::Lives(Record { timeout: 1, ..six }));
    eventually(PATIENCE, || net.router.run("conntrack -f ipv6 -L -p udp 2>/dev/null").is_empty().then_some(()))
        .expect("run out");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(workers.drain(), [ToWorker::Exported { original: six.original }]);
    let counts = conntrack.counts();
    assert_eq!(counts.export_failed.values().sum::<u64>(), 1, "{counts:?}");
}

#[test]
fn privileged_without_events_connections_are_looked_up() {
    let net = TwoWays::new();
    net.router
        .run("iptables -t nat -A POSTROUTING -o eth1 -j MASQUERADE; sysctl -qw net.netfilter.nf_conntrack_events=0");
    let (conntrack, mut workers) = start(&net, 2, 4096);
    let (client, _server) = tcp(&net, 7000, TwoWays::SERVER);
    let original = Tuple {
        source: end(client.local_addr().expect("as the test needs it")),
        destination: end(client.peer_addr().expect("as the test needs it")),
        protocol: TCP,
    };
    let told = workers.kernel(&original).expect("found");
    assert!(told.1, "{told:?}");
    net.router.run("conntrack -D -p tcp");
    assert!(workers.ended(&original));
    let counts = conntrack.counts();
    assert!(counts.events == 0 && counts.dumps >= 2 && counts.resyncs == 0, "{counts:?}");
}

/// Connections of one client, numbered.
fn numbered(number: u32) -> Record {
    let [_, _, high, low] = number.to_be_bytes();
    let host = |net: &str| format!("{net}.{high}:{}", 1024 + u16::from(low));
    let server = format!("198.18.{}.25:9001", number >> 16);
    Record {
        original: tuple(UDP, &host("192.0.2"), &server),
        reply: tuple(UDP, &server, &host("203.0.113")),
        status: 0,
        mark: Mark(number),
        timeout: 3000,
        tcp: None,
        kernels: false,
        masquerade: None,
    }
}

#[test]
fn privileged_all_is_found_again_when_a_queue_was_full() {
    const MANY: u32 = 50_000;
    let net = TwoWays::new();
    net.router.run("iptables -t nat -A POSTROUTING -p 99 -j MASQUERADE");
    let (conntrack, mut workers) = start(&net, 1, 1024);
    let begin = Instant::now();
    for number in 0..MANY {
        workers.say(FromWorker::Lives(numbered(number)));
    }
    eventually(PATIENCE * 4, || (conntrack.counts().exported == u64::from(MANY)).then_some(())).expect("all exported");
    println!("{:.0} exports/s", f64::from(MANY) / begin.elapsed().as_secs_f64());
    let counts = conntrack.counts();
    assert!(counts.export_failed.is_empty() && counts.lost == 0, "{counts:?}");

    // A new worker is told of all.
    let begin = Instant::now();
    conntrack.disconnect();
    let mut workers = Workers::connect(&conntrack, 1, 1024);
    let mut told = workers.originals_until_loaded(&conntrack);
    println!("{:?} for a dump of {MANY}", begin.elapsed());
    told.retain(|original| original.destination.port == 9001);
    assert_eq!(told.len(), MANY as usize);

    // One that does not listen for a while is told again.
    conntrack.disconnect();
    let mut workers = Workers::connect(&conntrack, 1, 1024);
    eventually(PATIENCE, || (conntrack.counts().lost > 0).then_some(())).expect("its queue is full");
    assert!(!conntrack.is_loaded());
    let mut told = workers.originals_until_loaded(&conntrack);
    told.retain(|original| original.destination.port == 9001);
    assert_eq!(told.len(), MANY as usize);

    // And what has ended meanwhile is told to have ended: nobody hears the events.
    let before = conntrack.counts();
    net.router.run("conntrack -F 2>/dev/null");
    eventually(PATIENCE, || (conntrack.counts().lost > before.lost).then_some(())).expect("its queue is full");
    let mut ended = std::collections::HashSet::new();
    eventually(PATIENCE * 4, || {
        for message in workers.drain() {
            if let ToWorker::Ended { original, .. } = message {
                ended.insert(original);
            }
        }
        (ended.len() >= MANY as usize).then_some(())
    })
    .unwrap_or_else(|| panic!("{} have ended: {:?}", ended.len(), conntrack.counts()));
    let counts = conntrack.counts();
    println!("{counts:?}");
    assert!(counts.resyncs > before.resyncs, "{counts:?}");
}

#[test]
fn privileged_what_began_before_anybody_listened_is_looked_up() {
    let net = TwoWays::new();
    net.router
        .run("iptables -t nat -A POSTROUTING -o eth1 -j MASQUERADE; sysctl -qw net.netfilter.nf_conntrack_events=0");
    let (client, _server) = tcp(&net, 7000, TwoWays::SERVER);
    let original = Tuple {
        source: end(client.local_addr().expect("as the test needs it")),
        destination: end(client.peer_addr().expect("as the test needs it")),
        protocol: TCP,
    };
    // It has no place for events, and gets none.
    net.router.run("sysctl -qw net.netfilter.nf_conntrack_events=2");
    let (conntrack, mut workers) = start(&net, 1, 1024);
    assert!(workers.kernel(&original).expect("told by the dump").1);
    assert!(conntrack.counts().unheard > 0);
    net.router.run("conntrack -D -p tcp");
    let ended = eventually(PATIENCE * 3, || workers.ended(&original).then_some(()));
    assert!(ended.is_some(), "{:?}", conntrack.counts());
    assert_eq!(conntrack.counts().resyncs, 0);
}
