//! Neighbours are the kernel's, and fare as if it forwarded itself: entries in use are kept fresh, the others age, a host that dies
//! or changes its MAC without a word is noticed as soon. Every story is told of two routers side by side, of which one is the
//! kernel's alone.
//!
//! ```text
//!  client 192.0.2.10, 2001:db8:1::10 --- eth0 [router] eth1 --- server 198.51.100.10, 2001:db8:2::10
//! ```
//!
//! Timers are some twelfth of their defaults, so that 50 s stand for ten minutes: entries are believed for 1.2 to 3.6 s
//! (`base_reachable_time_ms`, drawn anew now and then), and probed three times, each 80 ms (`retrans_time_ms`).
//! `delay_first_probe_time` counts in seconds: 1 instead of 5. Were an entry believed for less, it would be probed for ever though
//! nobody uses it (`neigh_add_timer` takes a confirmation for a use).

use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use shunt_tests::lab::{Daemon, Lab, Namespace, eventually};

const SERVERS: [&str; 2] = ["198.51.100.10", "2001:db8:2::10"];
const CLIENTS: [&str; 2] = ["192.0.2.10", "2001:db8:1::10"];
const PORT: u16 = 5000;
/// The kernel's longest: believed, then waited, then probed.
const NOTICED: Duration = Duration::from_millis(3600 + 1000 + 3 * 80);
/// We look at the marks twice a second, and the machine is slow.
const LATER: Duration = Duration::from_millis(500 + 500);

/// One router between two hosts.
struct Row {
    client: Namespace,
    router: Namespace,
    server: Namespace,
}

impl Row {
    fn new(lab: &Lab, name: &str) -> Row {
        let [client, router, server] =
            ["client", "router", "server"].map(|host| lab.namespace(&format!("{name}-{host}")));
        lab.veth((&client, "eth0"), (&router, "eth0"));
        lab.veth((&server, "eth0"), (&router, "eth1"));
        router.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        for (namespace, device, v4, v6) in [
            (&client, "eth0", "192.0.2.10/24", "2001:db8:1::10/64"),
            (&router, "eth0", "192.0.2.1/24", "2001:db8:1::1/64"),
            (&router, "eth1", "198.51.100.1/24", "2001:db8:2::1/64"),
            (&server, "eth0", "198.51.100.10/24", "2001:db8:2::10/64"),
        ] {
            namespace.run(&format!("ip addr add {v4} dev {device}; ip addr add {v6} dev {device} nodad"));
        }
        client.run("ip route add default via 192.0.2.1; ip -6 route add default via 2001:db8:1::1");
        server.run("ip route add default via 198.51.100.1; ip -6 route add default via 2001:db8:2::1");
        for family in ["ipv4", "ipv6"] {
            // Probes of the client's own would make use of the router's entry.
            client.run(&format!("sysctl -qw net.{family}.neigh.eth0.base_reachable_time_ms=3600000"));
            for device in ["eth0", "eth1"] {
                let timers = "base_reachable_time_ms=2400 delay_first_probe_time=1 retrans_time_ms=80";
                for timer in timers.split(' ') {
                    router.run(&format!("sysctl -qw net.{family}.neigh.{device}.{timer}"));
                }
            }
        }
        let row = Row { client, router, server };
        let met = eventually(Duration::from_secs(5), || {
            let pings = SERVERS.iter().chain(&CLIENTS).map(|host| format!("ping -q -c1 -W1 {host}"));
            let pings = pings.collect::<Vec<_>>().join(" && ");
            (row.router.try_run(&pings).code == 0).then_some(())
        });
        assert!(met.is_some(), "the hosts do not answer");
        row
    }

    fn neighbours(&self) -> Vec<Value> {
        serde_json::from_str(&self.router.run("ip -j neigh")).expect("ip prints JSON")
    }

    /// The state of an entry, `NONE` if there is none.
    fn state(&self, address: &str) -> String {
        let all = self.neighbours();
        let found = all.iter().find(|one| one["dst"] == address).and_then(|one| one["state"][0].as_str());
        found.unwrap_or("NONE").to_owned()
    }
}

/// Two rows alike, of which the second has a daemon on its router.
fn side_by_side() -> ([Row; 2], Daemon) {
    let lab = Lab::new();
    let rows = [Row::new(&lab, "kernel"), Row::new(&lab, "shunt")];
    let shunt = rows[1].router.start_shunt("");
    (rows, shunt)
}

/// Datagrams of both families one way, and no answer ever.
struct OneWay {
    stop: Arc<AtomicBool>,
    sent: [Arc<AtomicU64>; 2],
    received: [Arc<AtomicU64>; 2],
    threads: Vec<JoinHandle<()>>,
    /// The longest time in which none arrived.
    gaps: [JoinHandle<Duration>; 2],
}

impl OneWay {
    fn start(row: &Row) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (sent, received): ([Arc<AtomicU64>; 2], [Arc<AtomicU64>; 2]) = Default::default();
        let gaps = std::array::from_fn(|at| {
            let any = ["0.0.0.0", "::"][at].parse::<IpAddr>().expect("an address");
            let socket = row.server.enter(|| {
                // Two sockets for one port: the IPv6 one would take both.
                let port = PORT + at as u16;
                UdpSocket::bind((any, port)).expect("a free port")
            });
            socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a socket of ours");
            let (stop, received) = (stop.clone(), received[at].clone());
            std::thread::spawn(move || {
                let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
                loop {
                    if socket.recv(&mut [0; 64]).is_ok() {
                        received.fetch_add(1, Ordering::Relaxed);
                        longest = longest.max(last.elapsed());
                        last = Instant::now();
                    } else if stop.load(Ordering::Relaxed) {
                        return longest;
                    }
                }
            })
        });
        let threads = (0..2).map(|at| {
            let to = (SERVERS[at].parse::<IpAddr>().expect("an address"), PORT + at as u16);
            let any = ["0.0.0.0:0", "[::]:0"][at];
            let socket = row.client.enter(|| UdpSocket::bind(any).expect("a socket"));
            let (stop, sent) = (stop.clone(), sent[at].clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // What comes back of earlier ones is no matter.
                    if socket.send_to(b"one way", to).is_ok() {
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            })
        });
        let threads = threads.collect();
        OneWay { stop, sent, received, threads, gaps }
    }

    /// How many were sent and received, and the longest gap, for each family.
    fn finish(self) -> [(u64, u64, Duration); 2] {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("a thread of ours"));
        let gaps = self.gaps.map(|gap| gap.join().expect("a thread of ours"));
        let count = |count: &Arc<AtomicU64>| count.load(Ordering::Relaxed);
        std::array::from_fn(|at| (count(&self.sent[at]), count(&self.received[at]), gaps[at]))
    }
}

/// A packet that meets no neighbour is lost for seconds; one that meets a machine too busy to run the router is one of a few.
fn hardly_any(lost: u64, sent: u64) -> bool {
    lost * 100 <= sent
}

/// How an entry was seen over time.
#[derive(Default, Debug)]
struct Seen {
    samples: BTreeMap<String, u32>,
    stale_since: Option<Instant>,
    longest_stale: Duration,
}

impl Seen {
    fn note(&mut self, state: String) {
        match state.as_str() {
            "STALE" => {
                let since = *self.stale_since.get_or_insert_with(Instant::now);
                self.longest_stale = self.longest_stale.max(since.elapsed());
            }
            _ => self.stale_since = None,
        }
        *self.samples.entry(state).or_default() += 1;
    }
}

/// Ten minutes of one-way traffic, with timers a twelfth: the entry in use is probed and stays, as the kernel's own does; the one
/// that is not in use becomes stale.
#[test]
fn privileged_an_entry_in_use_is_kept_fresh_and_an_unused_one_is_not() {
    let (rows, shunt) = side_by_side();
    let traffic = [OneWay::start(&rows[0]), OneWay::start(&rows[1])];
    let forwarded = rows[1].router.kernel_forwarded();
    let mut seen: [[Seen; 2]; 2] = Default::default();
    let end = Instant::now() + Duration::from_secs(50);
    while Instant::now() < end {
        for (row, seen) in rows.iter().zip(&mut seen) {
            for (server, seen) in SERVERS.iter().zip(seen) {
                seen.note(row.state(server));
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let unused = CLIENTS.map(|client| rows[1].state(client));
    let fresh = shunt.status()["neighbours"]["kept_fresh"].as_u64();
    let counted = traffic.map(OneWay::finish);
    println!("kernel {:?}\nshunt  {:?}\nkept fresh {fresh:?}, {counted:?}", seen[0], seen[1]);
    for (row, seen) in seen.iter().enumerate() {
        for seen in seen {
            // The kernel's own never is for long while packets pass.
            assert!(seen.longest_stale < LATER, "router {row}: {seen:?}");
            let alive: u32 = ["REACHABLE", "DELAY", "PROBE"].iter().filter_map(|state| seen.samples.get(*state)).sum();
            let all: u32 = seen.samples.values().sum();
            assert!(alive * 10 >= all * 9, "router {row}: {seen:?}");
            assert!(seen.samples.get("DELAY").is_some_and(|delay| *delay > 5), "router {row} probes none: {seen:?}");
        }
    }
    assert_eq!(unused, ["STALE", "STALE"], "nobody uses it");
    for (sent, received, _) in counted.iter().flatten() {
        assert!(*sent > 4000 && hardly_any(sent - received, *sent), "lost: {counted:?} {:#}", shunt.status());
    }
    // Two entries, twice a second at most; the clients' would make it four.
    assert!(fresh.is_some_and(|fresh| (100..=202).contains(&fresh)), "{fresh:?}");
    assert_eq!(rows[1].router.kernel_forwarded(), forwarded, "the kernel forwarded: {:#}", shunt.status());
}

/// The server loses its addresses and says nothing more. The entry fails in the kernel's own time; then the kernel answers, by both
/// routers alike.
#[test]
fn privileged_a_host_that_dies_is_noticed_as_soon_as_by_the_kernel() {
    let (rows, shunt) = side_by_side();
    let traffic = [OneWay::start(&rows[0]), OneWay::start(&rows[1])];
    std::thread::sleep(Duration::from_secs(1));
    rows.iter().for_each(|row| drop(row.server.run("ip addr flush dev eth0")));
    let died = Instant::now();
    let mut took = [[None; 2]; 2];
    while took.as_flattened().iter().any(Option::is_none) && died.elapsed() < NOTICED * 2 {
        for (row, took) in rows.iter().zip(&mut took) {
            for (server, took) in SERVERS.iter().zip(took) {
                let failed = matches!(row.state(server).as_str(), "FAILED" | "INCOMPLETE" | "NONE");
                *took = took.or_else(|| failed.then(|| died.elapsed()));
            }
        }
    }
    println!("noticed after: kernel {:?}, shunt {:?}", took[0], took[1]);
    for (row, later) in [Duration::from_millis(500), LATER].into_iter().enumerate() {
        for took in took[row] {
            assert!(took.is_some_and(|took| took < NOTICED + later), "router {row}: {took:?}");
        }
    }
    // The kernel grants a host one ICMP error a second (icmp_ratelimit), and the traffic takes them all.
    let _ = traffic.map(OneWay::finish);
    rows.iter().for_each(|row| drop(row.router.run("sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0")));
    let punted = shunt.counted("punted", "neighbour");
    for row in &rows {
        for (server, words) in SERVERS.iter().zip(["Destination Host Unreachable", "Address unreachable"]) {
            let told = row.client.try_run(&format!("ping -c8 -i0.2 -W1 {server}")).stdout;
            assert!(told.contains(words), "{told}");
        }
    }
    assert!(shunt.counted("punted", "neighbour") > punted, "{:#}", shunt.status());
}

/// The server gets another MAC and tells nobody (no gratuitous ARP). Packets go astray until the kernel has probed; no longer by us
/// than by the kernel.
#[test]
fn privileged_a_mac_that_changes_silently_is_found_out_as_soon_as_by_the_kernel() {
    let (rows, shunt) = side_by_side();
    let traffic = [OneWay::start(&rows[0]), OneWay::start(&rows[1])];
    std::thread::sleep(Duration::from_secs(1));
    rows.iter().for_each(|row| drop(row.server.run("ip link set eth0 address 02:00:00:00:00:77")));
    std::thread::sleep(NOTICED + LATER + Duration::from_secs(1));
    let counted = traffic.map(OneWay::finish);
    println!("kernel {:?}\nshunt  {:?}", counted[0], counted[1]);
    for (row, later) in [Duration::from_millis(500), LATER].into_iter().enumerate() {
        for (sent, received, gap) in counted[row] {
            assert!(gap > Duration::from_millis(100), "the story tells nothing: {counted:?}");
            assert!(gap < NOTICED + later, "router {row} took {gap:?}");
            assert!(received > sent / 10, "router {row} did not recover: {counted:?}");
        }
    }
    for row in &rows {
        for server in SERVERS {
            let all = row.neighbours();
            let entry = all.iter().find(|one| one["dst"] == server).expect("the entry");
            assert_eq!(entry["lladdr"], "02:00:00:00:00:77", "{entry}");
        }
    }
    assert!(shunt.forwarded() > 0);
}

/// What the operator or a routing daemon has entered keeps its kind, however much is sent there: `NTF_USE` would take it off.
#[test]
fn privileged_permanent_and_learned_entries_stay_what_they_are() {
    let lab = Lab::new();
    let row = Row::new(&lab, "shunt");
    let mac = row.server.run("cat /sys/class/net/eth0/address");
    let (v4, v6, mac) = (SERVERS[0], SERVERS[1], mac.trim());
    row.router.run(&format!("ip neigh replace {v4} lladdr {mac} dev eth1 nud permanent"));
    row.router.run(&format!("ip neigh replace {v6} lladdr {mac} dev eth1 nud reachable extern_learn"));
    let shunt = row.router.start_shunt("");
    let traffic = OneWay::start(&row);
    std::thread::sleep(Duration::from_secs(4));
    let entries = row.router.run("ip neigh show dev eth1");
    let line = |address: &str| entries.lines().find(|line| line.starts_with(address)).unwrap_or_default();
    assert!(line(v4).contains("PERMANENT"), "{entries}");
    assert!(line(v6).contains("extern_learn") && !line(v6).contains("STALE"), "{entries}");
    // Of the two only the learned one ages.
    let fresh = shunt.status()["neighbours"]["kept_fresh"].as_u64();
    assert!(fresh.is_some_and(|fresh| (4..=12).contains(&fresh)), "{fresh:?}");
    // Made permanent under traffic, it is left alone from then on.
    row.router.run(&format!("ip neigh replace {v6} lladdr {mac} dev eth1 nud permanent"));
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(row.state(v6), "PERMANENT");
    let held = row.router.shunt(&format!("mirror --socket {}", shunt.socket())).stdout;
    assert!(held.contains(&format!("neighbour {v6} dev eth1 lladdr {mac} PERMANENT")), "{held}");
    for (sent, received, _) in traffic.finish() {
        assert!(sent > 500 && hardly_any(sent - received, sent), "{sent} {received}");
    }
}
