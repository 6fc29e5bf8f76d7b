//! Changes take hold while packets flow. The network is that of [`TwoWays`].

use std::time::{Duration, Instant};

use shunt_tests::lab::{Namespace, Stream, TwoWays, eventually};

const RULES_AND_ROUTES: Duration = Duration::from_millis(50);

/// How long after a command an answer by `who` first comes, asking all the time.
fn takes(net: &TwoWays, command: &str, who: &str) -> Duration {
    let stream = Stream::start(&net.client, TwoWays::SERVER, 5000, Duration::from_millis(1));
    std::thread::sleep(Duration::from_millis(100));
    assert_ne!(stream.last_answer().as_deref(), Some(who), "{command} would change nothing");
    net.router.run(command);
    let start = Instant::now();
    let changed = eventually(Duration::from_secs(2), || (stream.last_answer()? == who).then_some(()));
    let took = start.elapsed();
    assert!(changed.is_some(), "{command}: no answer by {who}");
    stream.finish();
    took
}

/// The best of three: one late wake-up of a busy machine is not the daemon's.
fn at_best(mut measure: impl FnMut() -> Duration) -> Duration {
    (0..3).map(|_| measure()).min().expect("three")
}

#[test]
fn privileged_rules_and_routes_are_followed_within_50_ms() {
    let net = TwoWays::new();
    net.router.run("ip route add default via 203.0.113.10 table 201");
    let shunt = net.router.start_shunt("");
    let rule = at_best(|| {
        let took = takes(&net, "ip rule add priority 100 iif eth0 table 201", "slow");
        net.router.run("ip rule del priority 100");
        took
    });
    let route = at_best(|| {
        let took = takes(&net, "ip route add 198.18.0.25/32 via 203.0.113.10", "slow");
        net.router.run("ip route del 198.18.0.25/32");
        took
    });
    println!("rule {rule:?}, route {route:?}");
    assert!(rule < RULES_AND_ROUTES, "a rule took {rule:?}");
    assert!(route < RULES_AND_ROUTES, "a route took {route:?}");
    drop(shunt);
}

#[test]
fn privileged_a_deleted_route_stops_forwarding_within_50_ms() {
    let net = TwoWays::new();
    let shunt = net.router.start_shunt("");
    let took = at_best(|| {
        let stream = Stream::start(&net.client, TwoWays::SERVER, 5000, Duration::from_millis(1));
        std::thread::sleep(Duration::from_millis(100));
        net.router.run("ip route del 198.18.0.0/15");
        let start = Instant::now();
        // Silence is reached when nothing came for 100 ms; it began with the last answer.
        let mut last = (stream.received(), start);
        while last.1.elapsed() < Duration::from_millis(100) && start.elapsed() < Duration::from_secs(3) {
            if stream.received() != last.0 {
                last = (stream.received(), Instant::now());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        stream.finish();
        net.router.run("ip route add 198.18.0.0/15 via 198.51.100.10");
        last.1 - start
    });
    println!("{took:?}");
    assert!(took < RULES_AND_ROUTES, "forwarding went on for {took:?}");
    assert!(shunt.counted("punted", "no_route") > 0, "{:#}", shunt.status());
}

/// nftables tells of changes, iptables-legacy does not.
#[test]
fn privileged_netfilter_changes_are_followed_within_their_bounds() {
    let net = TwoWays::new();
    net.router.run("ip rule add fwmark 1 table 201; ip route add default via 203.0.113.10 table 201");
    net.router.run("nft 'table inet own { chain pre { type filter hook prerouting priority mangle; }; }'");
    let shunt = net.router.start_shunt("");
    let native =
        ("nft add rule inet own pre iifname eth0 udp dport 5000 meta mark set 1", "nft flush chain inet own pre");
    let iptables = "-t mangle -A PREROUTING -i eth0 -p udp -j MARK --set-mark 1";
    let by_iptables = |tool: &str| (format!("{tool} {iptables}"), format!("{tool} -t mangle -F PREROUTING"));
    let (nft, legacy) = (by_iptables("iptables-nft"), by_iptables("iptables-legacy"));
    for (name, set, unset, times, usual, most) in [
        ("nft", native.0, native.1, 10, 100, 1000),
        ("iptables-nft", &nft.0, &nft.1, 10, 100, 1000),
        ("iptables-legacy", &legacy.0, &legacy.1, 3, 2000, 2000),
    ] {
        let mut took: Vec<Duration> =
            (0..times).flat_map(|_| [takes(&net, set, "slow"), takes(&net, unset, "fast")]).collect();
        took.sort();
        let (median, longest) = (took[took.len() / 2], took[took.len() - 1]);
        println!("{name}: median {median:?}, longest {longest:?}");
        assert!(median < Duration::from_millis(usual), "{name}: {took:?}");
        assert!(longest < Duration::from_millis(most), "{name}: {took:?}");
    }
    let items = shunt.checked("table inet own");
    assert!(items.iter().all(|item| item["standing"] == "exact"), "{items:?}");
}

#[test]
fn privileged_a_changed_mac_is_followed_within_50_ms() {
    let net = TwoWays::new();
    let _shunt = net.router.start_shunt("");
    let mut last = 0;
    let took = at_best(|| {
        last += 1;
        let stream = Stream::start(&net.client, TwoWays::SERVER, 5000, Duration::from_millis(1));
        std::thread::sleep(Duration::from_millis(100));
        net.fast.run(&format!("ip link set eth0 address 02:00:5e:00:53:{last:02x}"));
        std::thread::sleep(Duration::from_millis(50));
        let before = stream.received();
        net.router.run(&format!("ip neigh replace 198.51.100.10 lladdr 02:00:5e:00:53:{last:02x} dev eth1"));
        let start = Instant::now();
        let back = eventually(Duration::from_secs(2), || (stream.received() > before + 1).then_some(()));
        let took = start.elapsed();
        assert!(back.is_some(), "no answer by the new address");
        stream.finish();
        took
    });
    println!("{took:?}");
    assert!(took < RULES_AND_ROUTES, "the new address took {took:?}");
}

/// A rule that sends everything by the slow link comes and goes a thousand times: each packet goes one way or the other, and
/// every one arrives, once.
#[test]
fn privileged_a_thousand_rule_flips_lose_nothing() {
    let net = TwoWays::new();
    net.router.run("ip route add default via 203.0.113.10 table 201");
    let shunt = net.router.start_shunt("");
    let kernel = net.router.kernel_forwarded();
    let first = shunt.generation();
    let stream = Stream::start(&net.client, TwoWays::SERVER, 5000, Duration::from_millis(1));
    flip(&net.router, 500);
    std::thread::sleep(Duration::from_millis(100));
    let report = stream.finish();
    println!("{report:?}, {} policies", shunt.generation() - first);
    assert_eq!((report.lost(), report.duplicates), (0, 0), "{report:?} {:#}", shunt.status());
    let by = |who: &str| report.answers.get(who).copied().unwrap_or(0);
    assert_eq!(by("fast") + by("slow"), report.received, "somebody else answered: {report:?}");
    assert!(by("fast") > 100 && by("slow") > 100, "the flips did not show: {report:?}");
    assert!(shunt.generation() - first > 100, "few policies for a thousand flips: {}", shunt.generation() - first);
    assert_eq!(net.router.kernel_forwarded(), kernel, "the kernel forwarded: {:#}", shunt.status());
    assert_eq!(shunt.terminate().code, 0);
}

/// `rounds` times there and back.
fn flip(router: &Namespace, rounds: u32) {
    router.run(&format!(
        "for i in $(seq {rounds}); do ip rule add priority 100 iif eth0 table 201; sleep 0.003; ip rule del priority 100; sleep 0.003; done"
    ));
}

/// An interface goes and comes back under its name; another one appears: both are taken without being told.
#[test]
fn privileged_ports_come_and_go() {
    let net = TwoWays::new();
    let shunt = net.router.start_shunt("");
    net.router.run("ip link del ppp0");
    let names = |shunt: &shunt_tests::lab::Daemon| -> Vec<String> {
        let status = shunt.status();
        let ports = status["ports"].as_array().expect("ports").iter();
        ports.map(|port| port["name"].as_str().expect("a name").to_owned()).collect()
    };
    let gone = eventually(Duration::from_secs(4), || (!names(&shunt).contains(&"ppp0".to_owned())).then_some(()));
    assert!(gone.is_some(), "{:?}", names(&shunt));
    assert_eq!(net.client.ask_tcp(TwoWays::SERVER, 80).expect("an answer"), "fast");

    net.lab.veth((&net.slow, "eth0"), (&net.router, "ppp0"));
    net.router.run("ip addr add 203.0.113.1/24 dev ppp0; ip route add default via 203.0.113.10 dev ppp0 table 201");
    net.slow.run("ip addr add 203.0.113.10/24 dev eth0; ip route add default via 203.0.113.1 src 198.18.0.25");
    net.router.run("ip rule add priority 100 iif eth0 table 201; ping -q -c1 -W1 203.0.113.10");
    let back = eventually(Duration::from_secs(4), || names(&shunt).contains(&"ppp0".to_owned()).then_some(()));
    assert!(back.is_some(), "{:?}", names(&shunt));
    let kernel = net.router.kernel_forwarded();
    assert_eq!(net.client.ask_tcp(TwoWays::SERVER, 80).expect("an answer"), "slow");
    assert_eq!(net.router.kernel_forwarded(), kernel, "{:#}", shunt.status());
}
