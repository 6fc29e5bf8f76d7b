//! Bad input: port scans, and floods of packets that begin connections which nobody wants.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use shunt_tests::lab::{CrowdServer, Daemon, Host, Namespace, Stream, Wire, Witness};
use shunt_tests::scale::Memory;

use crate::by::{By, stories};
use crate::network::Edge;

stories![privileged_a_flood_costs_no_established_connection, privileged_a_port_scan_is_answered_as_by_the_kernel,];

type Frame = Vec<u8>;
type Macs = ([u8; 6], [u8; 6]);

/// Room in the table of shunt. The kernel's is the whole machine's, `nf_conntrack_max` cannot be set for one namespace.
const ROOM: u64 = 1024;
const FLOOD: Duration = Duration::from_secs(6);
/// A burst of each kind of the flood, a pause, and so on: what is lost is not to be lost in a queue.
const BURST: usize = 3;
const PAUSE: Duration = Duration::from_millis(2);
/// More memory than that is not for a table of this size.
const GROWTH: u64 = 16 << 20;
const DOWNLOAD: u64 = 12_000_000;
const PORT: u16 = 7000;

/// ```text
///  alice: a download and a call         [router]       [isp] ---------- server: a forwarded port is flooded
///  bob: SYN, UDP, echo requests of random sources  ->   198.18.99.0/24 vanishes here, and so do answers to 198.19.0.0/16
/// ```
fn privileged_a_flood_costs_no_established_connection(by: By) {
    let edge = Edge::new();
    edge.masquerade();
    edge.router.run("iptables -t nat -A PREROUTING -i wan0 -p tcp --dport 8080 -j DNAT --to-destination 192.0.2.10:80");
    edge.isp.run("ip route add blackhole 198.18.99.0/24; ip route add blackhole 198.19.0.0/16");
    edge.alice.run("sysctl -qw net.ipv4.tcp_syncookies=0");
    let addresses: Vec<String> = Edge::SERVERS.map(|host| format!("198.18.0.{host}:80")).collect();
    let _witness = Witness::serve(&edge.server, &addresses.iter().map(String::as_str).collect::<Vec<_>>());
    let _forwarded = Witness::serve(&edge.alice, &["192.0.2.10:80"]);
    let router = by.start_with(&edge.router, &format!("--connections {ROOM}"));

    let download = Download::start(&edge.alice);
    let call = Stream::start(&edge.alice, Edge::SERVER, 80, Duration::from_millis(20));
    // UDP is assured after two seconds.
    std::thread::sleep(Duration::from_secs(3));
    let before = router.0.as_ref().map(|daemon| Memory::of(daemon.id()).now);
    let sent = flood(&edge, FLOOD, || router.0.as_ref().into_iter().for_each(fits));
    if let Some(daemon) = &router.0 {
        let status = daemon.status();
        let happened = &status["conntrack"]["happened"];
        let evicted = happened["evicted"].as_u64().expect("a number");
        assert!(sent > 4 * ROOM && evicted > ROOM, "of {sent} packets: {status:#}");
        fill_with_assured(&edge, daemon);
        let after = Memory::of(daemon.id()).now;
        let grown = after.saturating_sub(before.unwrap_or_default());
        assert!(grown < GROWTH, "{grown} bytes more than {before:?}");
    }
    let call = call.finish();
    let tuples: Vec<&String> = call.answers.keys().collect();
    assert!(tuples.len() == 1 && tuples[0].starts_with("198.51.100.1:"), "one tuple from first to last: {call:?}");
    // Queues are short, and a machine with other work to do is late to empty them.
    assert!(call.lost() * 50 <= call.sent, "{call:?}");
    download.ends_well();
}

/// The table never has more than its room.
fn fits(daemon: &Daemon) {
    let status = daemon.status();
    let connections = status["conntrack"]["connections"].as_u64().expect("a number");
    assert!(connections <= ROOM, "{status:#}");
}

/// Sends all kinds of packets that begin a connection. Returns how many.
fn flood(edge: &Edge, time: Duration, mut look: impl FnMut()) -> u64 {
    let mut random = fastrand::Rng::with_seed(1);
    let (mut inside, mut outside) = (Wire::open(&edge.bob, "eth0"), Wire::open(&edge.server, "eth0"));
    let to_router = (edge.bob.mac("eth0"), edge.router.mac("eth0"));
    let to_isp = (edge.server.mac("eth0"), edge.isp.mac("eth2"));
    let (begun, mut sent, mut looked) = (Instant::now(), 0, Instant::now());
    while begun.elapsed() < time {
        for _ in 0..BURST {
            // Hosts that there are not, in a network that there is.
            let source = Ipv4Addr::new(192, 0, 2, random.u8(128..250));
            let nowhere = Ipv4Addr::new(198, 18, 99, random.u8(..));
            let stranger = Ipv4Addr::new(198, 19, random.u8(..), random.u8(..));
            let ports = (random.u16(1024..), random.u16(1..));
            inside.send(&syn(to_router, (source, nowhere), ports));
            inside.send(&udp(to_router, (source, nowhere), ports));
            inside.send(&echo(to_router, (source, nowhere), random.u16(..)));
            outside.send(&syn(to_isp, (stranger, Ipv4Addr::new(198, 51, 100, 1)), (ports.0, 8080)));
            sent += 4;
        }
        if looked.elapsed() > Duration::from_millis(500) {
            looked = Instant::now();
            look();
        }
        std::thread::sleep(PAUSE);
    }
    sent
}

/// Opens connections and holds them until the table has room for hardly any but them, and drops others by name.
fn fill_with_assured(edge: &Edge, daemon: &Daemon) {
    let _server = CrowdServer::serve(&edge.server, PORT);
    let held = edge.alice.enter(|| {
        let (mut held, mut refused) = (Vec::new(), 0);
        for number in 0..2 * ROOM as usize {
            let server = Edge::SERVERS.start + (number % Edge::SERVERS.len()) as u8;
            let address = SocketAddr::from((Ipv4Addr::new(198, 18, 0, server), PORT));
            match TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
                Ok(stream) => held.push(stream),
                Err(_) => refused += 1,
            }
            if refused == 10 {
                break;
            }
        }
        held
    });
    fits(daemon);
    let status = daemon.status();
    let full = status["conntrack"]["happened"]["full"].as_u64().expect("a number");
    let dropped = status["counters"]["dropped"]["conntrack_full"].as_u64().expect("a number");
    assert!(full >= 5 && dropped >= 5, "{} are held: {status:#}", held.len());
}

/// A curl that takes its time.
struct Download(std::process::Child);

impl Download {
    fn start(from: &Namespace) -> Download {
        let url = format!("http://{}/{DOWNLOAD}", Edge::SERVER);
        let command = format!("curl -sS -m 60 --limit-rate 1M {url} | md5sum");
        let child = from.command(&["sh", "-c", &command]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        Download(child.expect("curl runs"))
    }

    fn ends_well(self) {
        let output = self.0.wait_with_output().expect("a child of ours");
        let sum = |output: &std::process::Output| String::from_utf8_lossy(&output.stdout).into_owned();
        let right = std::process::Command::new("sh")
            .args(["-c", &format!("head -c {DOWNLOAD} /dev/zero | tr '\\0' x | md5sum")])
            .output();
        assert_eq!(sum(&output), sum(&right.expect("sh runs")), "another file");
    }
}

/// What a port says to a SYN, or to a datagram.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Said {
    Open,
    Reset,
    /// Type and code.
    Icmp(u8, u8),
    Nothing,
}

/// All ports of the router from outside, and all of a server through it from inside. Both have open ports, closed ones, and rules that
/// drop or refuse.
fn privileged_a_port_scan_is_answered_as_by_the_kernel(by: By) {
    let edge = Edge::new();
    edge.masquerade();
    edge.router.run(
        "iptables -t nat -A PREROUTING -i wan0 -p tcp --dport 8080 -j DNAT --to-destination 192.0.2.10:80
        iptables -t nat -A PREROUTING -i wan0 -p tcp --dport 8081 -j DNAT --to-destination 192.0.2.10:81",
    );
    for host in [&edge.router, &edge.server] {
        host.run(
            "iptables -A INPUT -p tcp --dport 1000:1099 -j DROP
            iptables -A INPUT -p tcp --dport 2000:2009 -j REJECT
            sysctl -qw net.ipv4.icmp_ratelimit=0",
        );
    }
    let _hosts = [
        Host::serve(&edge.router, "router", &[22]),
        Host::serve(&edge.server, "server", &[22, 80]),
        Host::serve(&edge.alice, "alice", &[80]),
    ];
    let router = by.start_with(&edge.router, &format!("--connections {ROOM}"));
    let call = Stream::start(&edge.alice, Edge::SERVER, 80, Duration::from_millis(20));

    let to_isp = (edge.server.mac("eth0"), edge.isp.mac("eth2"));
    let of_router = (Ipv4Addr::new(198, 18, 1, 2), Ipv4Addr::new(198, 51, 100, 1));
    let said = scan(&edge.server, 1..=65_535, of_router, |port| syn(to_isp, of_router, (50_000, port)));
    let expected = |open: &[u16], port: u16| match port {
        1000..=1099 => Said::Nothing,
        2000..=2009 => Said::Icmp(3, 3),
        port if open.contains(&port) => Said::Open,
        _ => Said::Reset,
    };
    assert_eq!(differing(&said, |port| expected(&[22, 8080], port)), [], "the router's own ports");

    let to_router = (edge.bob.mac("eth0"), edge.router.mac("eth0"));
    let through = (Ipv4Addr::new(192, 0, 2, 11), Ipv4Addr::new(198, 18, 0, 25));
    let scanned = || scan(&edge.bob, 1..=65_535, through, |port| syn(to_router, through, (50_000, port)));
    let said = router.forwards(2 * 65_000, scanned);
    assert_eq!(differing(&said, |port| expected(&[22, 80], port)), [], "ports behind the router");

    let datagrams = scan(&edge.server, 30_000..=30_020, of_router, |port| udp(to_isp, of_router, (50_000, port)));
    assert_eq!(differing(&datagrams, |_| Said::Icmp(3, 3)), [], "the router's own UDP ports");
    let datagrams = scan(&edge.bob, 30_000..=30_020, through, |port| udp(to_router, through, (50_000, port)));
    assert_eq!(differing(&datagrams, |_| Said::Icmp(3, 3)), [], "UDP ports behind the router");
    router.0.as_ref().into_iter().for_each(fits);
    let call = call.finish();
    assert!(call.answers.keys().eq(["server"]) && call.lost() * 50 <= call.sent, "{call:?}");
}

/// The first ports that say something else.
fn differing(said: &BTreeMap<u16, Said>, expected: impl Fn(u16) -> Said) -> Vec<(u16, Said)> {
    said.iter().filter(|(port, said)| **said != expected(**port)).map(|(port, said)| (*port, *said)).take(10).collect()
}

/// Asks each port, a few at a time, and those that say nothing twice more.
fn scan(
    from: &Namespace,
    ports: std::ops::RangeInclusive<u16>,
    (source, target): (Ipv4Addr, Ipv4Addr),
    frame: impl Fn(u16) -> Frame,
) -> BTreeMap<u16, Said> {
    let mut wire = Wire::open(from, "eth0");
    let mut said: BTreeMap<u16, Said> = ports.clone().map(|port| (port, Said::Nothing)).collect();
    for patience in [20, 100, 300].map(Duration::from_millis) {
        let silent: Vec<u16> = said.iter().filter(|(_, said)| **said == Said::Nothing).map(|(port, _)| *port).collect();
        for some in silent.chunks(64) {
            some.iter().for_each(|port| wire.send(&frame(*port)));
            let mut missing = some.len();
            wire.receive(patience, |bytes| {
                if let Some((port, answer)) = answer(bytes, source, target)
                    && let Some(place) = said.get_mut(&port)
                    && std::mem::replace(place, answer) == Said::Nothing
                {
                    missing -= usize::from(some.contains(&port));
                }
                missing == 0
            });
        }
    }
    said
}

/// Which port of the target an Ethernet frame with IPv4 tells of, and what.
fn answer(frame: &[u8], source: Ipv4Addr, target: Ipv4Addr) -> Option<(u16, Said)> {
    let port = |bytes: &[u8], at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let ip = frame.get(14..)?;
    let is = |ip: &[u8], at: usize, address: Ipv4Addr| ip.get(at..at + 4) == Some(&address.octets());
    if !is(ip, 16, source) {
        return None;
    }
    match *ip.get(9)? {
        6 if is(ip, 12, target) => {
            let flags = *ip.get(20 + 13)?;
            let said = if flags & 4 != 0 { Said::Reset } else { Said::Open };
            Some((port(ip, 20)?, said))
        }
        // Destination unreachable, with the header of ours, as we have sent it.
        1 if *ip.get(20)? == 3 => {
            let inner = ip.get(28..)?;
            (is(inner, 12, source) && is(inner, 16, target)).then_some(())?;
            Some((port(inner, 22)?, Said::Icmp(3, *ip.get(21)?)))
        }
        _ => None,
    }
}

fn syn(macs: Macs, (from, to): (Ipv4Addr, Ipv4Addr), ports: (u16, u16)) -> Frame {
    let builder = PacketBuilder::ethernet2(macs.0, macs.1).ipv4(from.octets(), to.octets(), 64);
    let builder = builder.tcp(ports.0, ports.1, 1000, 64_000).syn();
    let mut frame = Vec::with_capacity(builder.size(0));
    builder.write(&mut frame, &[]).expect("a vector takes everything");
    frame
}

fn udp(macs: Macs, addresses: (Ipv4Addr, Ipv4Addr), ports: (u16, u16)) -> Frame {
    shunt_tests::lab::ipv4_udp(macs, addresses, 64, ports, b"?")
}

fn echo(macs: Macs, (from, to): (Ipv4Addr, Ipv4Addr), identifier: u16) -> Frame {
    let builder = PacketBuilder::ethernet2(macs.0, macs.1).ipv4(from.octets(), to.octets(), 64);
    let builder = builder.icmpv4_echo_request(identifier, 1);
    let mut frame = Vec::with_capacity(builder.size(0));
    builder.write(&mut frame, &[]).expect("a vector takes everything");
    frame
}
