//! Decisions beside the kernel's own answers. The network is that of [`TwoWays`].

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shunt_control::mirror::oracle::{Answer, Kind, Oracle, Route};
use shunt_control::mirror::{EVENT_BUFFER, Mirror};
use shunt_control::ports;
use shunt_control::translate::translate;
use shunt_control::verify::{Verifier, check};
use shunt_dataplane::Sample;
use shunt_policy::connection::Trackless;
use shunt_policy::{Generation, Ifindex, Mac, Mark, Policy, Query, Transport, compile};
use shunt_tests::lab::{Stream, TwoWays, eventually};

/// What the router's kernel has at this moment, as the daemon would compile it. To be called inside of its namespace.
fn policy_of_the_kernel() -> Policy {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mirror = runtime.block_on(Mirror::open(EVENT_BUFFER)).expect("the mirror opens");
    let numbers = ports::sort(mirror.view(), &[], &[]).numbers();
    compile(&translate(mirror.view(), &numbers).config, Generation(1))
}

fn ifindex(policy: &Policy, name: &str) -> Ifindex {
    let link = policy.config().links.iter().find(|link| link.name == name);
    link.unwrap_or_else(|| panic!("no interface {name}")).ifindex
}

/// A UDP packet from the client.
fn query(policy: &Policy, to: &str) -> Query {
    let destination: IpAddr = to.parse().expect("an address");
    let source = if destination.is_ipv4() { "192.0.2.10" } else { "2001:db8:1::10" };
    Query {
        iif: ifindex(policy, "eth0"),
        source: source.parse().expect("an address"),
        destination,
        protocol: 17,
        transport: Transport::Ports { source: 4000, destination: 5000 },
        tos: 0,
        flow_label: 0,
        mark: Mark(0),
        length: 100,
        ttl: 64,
        tcp_flags: 0,
        mss: None,
        source_mac: Mac([0; 6]),
    }
}

/// Numbers without order (`splitmix64`).
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A packet of any kind from the client to the servers' prefixes.
fn any_query(policy: &Policy, v6: bool, state: &mut u64) -> Query {
    let number = random(state);
    let [a, b, ..] = number.to_ne_bytes();
    let to = if v6 { format!("2001:db8:25::{a:x}:{b:x}") } else { format!("198.18.{a}.{b}") };
    let ports = Transport::Ports { source: (number >> 16) as u16, destination: (number >> 32) as u16 };
    let (protocol, transport) = match (number >> 48) % 3 {
        0 => (6, ports),
        1 => (17, ports),
        _ if v6 => (58, Transport::Icmp { kind: 128, code: 0 }),
        _ => (1, Transport::Icmp { kind: 8, code: 0 }),
    };
    // Half of the IPv6 packets are without a label.
    let flow_label = if v6 && number >> 63 == 1 { random(state) as u32 & 0xf_ffff } else { 0 };
    Query { protocol, transport, tos: (number >> 40) as u8, flow_label, ..query(policy, &to) }
}

/// Every hash policy, with ports dissected early or not: asked for a packet, the kernel names the leg that we choose, or, where the
/// question is hashed otherwise than the packet, one of the legs.
#[test]
fn privileged_the_kernel_names_our_leg_of_a_multipath_route() {
    let net = TwoWays::new();
    let router = &net.router;
    router.run("sysctl -qw net.ipv4.fib_multipath_hash_seed=4711");
    router.run("ip route replace 198.18.0.0/15 nexthop via 198.51.100.10 weight 2 nexthop via 203.0.113.10");
    router.run("ip -6 route replace 2001:db8:25::/48 nexthop via 2001:db8:2::10 weight 2 nexthop via 2001:db8:3::10");
    for dissected in [false, true] {
        if dissected {
            router.run("ip rule add dport 7 lookup 77; ip -6 rule add dport 7 lookup 77");
        }
        for (hash, fields) in [(0, 0x37), (1, 0x37), (2, 0x37), (3, 0x37), (3, 0x3f), (3, 0x9)] {
            for family in ["ipv4", "ipv6"] {
                router.run(&format!("sysctl -qw net.{family}.fib_multipath_hash_policy={hash} net.{family}.fib_multipath_hash_fields={fields}"));
            }
            router.enter(|| legs_are_alike(hash, dissected));
        }
    }
}

fn legs_are_alike(hash: u32, dissected: bool) {
    let policy = policy_of_the_kernel();
    let mut oracle = Oracle::open().expect("a socket");
    let mut state = u64::from(hash);
    for number in 0..600 {
        let query = any_query(&policy, number % 2 == 1, &mut state);
        let checked = check(&policy, &query, None, policy.decide(&query), &mut oracle);
        assert_eq!(checked.same, Some(true), "hash policy {hash}, dissected {dissected}: {query:?}: {checked:?}");

        let routing = policy.routing(&query, &mut Trackless).expect("no chain is in the way");
        assert_eq!((routing.legs.len(), routing.dissected), (2, dissected));
        let alike = query.source.is_ipv4()
            || match hash {
                0 => query.flow_label == 0 || !(dissected && query.protocol == 58),
                1 => true,
                2 => query.flow_label == 0,
                _ => false,
            };
        assert_eq!(oracle.chooses_alike(&query, &routing, &policy.config().spreading), alike);
        if alike {
            let Ok(Answer::Route(Route { kind: Kind::Unicast, next_hop, .. })) = checked.kernel else {
                panic!("{checked:?}");
            };
            assert_eq!(routing.taken, Some(next_hop));
        }
    }
}

/// What the kernel says where it does not forward.
#[test]
fn privileged_each_way_to_end_is_the_kernels_too() {
    let net = TwoWays::new();
    let router = &net.router;
    for (number, kind) in ["blackhole", "unreachable", "prohibit", "throw"].into_iter().enumerate() {
        router
            .run(&format!("ip route add {kind} 198.19.{number}.0/24; ip -6 route add {kind} 2001:db8:f{number}::/48"));
        if kind != "throw" {
            router.run(&format!(
                "ip rule add to 198.19.1{number}.0/24 {kind}; ip -6 rule add to 2001:db8:e{number}::/48 {kind}"
            ));
        }
    }
    router.run("ip rule add fwmark 9 prohibit; iptables -t mangle -A PREROUTING -p udp --dport 9 -j MARK --set-mark 9");
    // An ip6 rule of user 0: forwarded packets are its.
    router.run("ip -6 rule add uidrange 0-0 to 2001:db8:e7::/48 prohibit");
    router.run(
        "ip route add 198.19.30.0/24 via inet6 2001:db8:3::10 dev ppp0; sysctl -qw net.ipv4.conf.eth0.rp_filter=1",
    );
    router.enter(|| {
        let policy = policy_of_the_kernel();
        let mut oracle = Oracle::open().expect("a socket");
        let mut told = |query: &Query| {
            let outcome = policy.decide(query);
            let checked = check(&policy, query, None, outcome, &mut oracle);
            let same = checked.same.map_or("not comparable", |same| if same { "same" } else { "differs" });
            let ours = outcome.map_or_else(|stop| stop.to_string(), |_| "forward".to_owned());
            format!("{ours} / {} / {same}", checked.kernel_in_words(policy.config()))
        };
        let refused = "refused: a blackhole, or an objection to the source (EINVAL)";
        for (to, wanted) in [
            ("198.18.0.25", "forward / via 198.51.100.10 dev eth1 / same".to_owned()),
            ("2001:db8:25::25", "forward / via 2001:db8:2::10 dev eth1 / same".to_owned()),
            ("198.19.30.1", "forward / via 2001:db8:3::10 dev ppp0 / same".to_owned()),
            ("198.51.100.10", "forward / dev eth1 / same".to_owned()),
            ("2001:db8:3::10", "forward / dev ppp0 / same".to_owned()),
            ("198.51.100.99", "punt: neighbour / dev eth1 / same".to_owned()),
            ("192.0.2.99", "punt: redirect / dev eth0 / same".to_owned()),
            ("198.51.100.1", "punt: local / local / same".to_owned()),
            ("2001:db8:2::1", "punt: local / local / same".to_owned()),
            ("203.0.114.1", "punt: no_route / no route (ENETUNREACH) / same".to_owned()),
            ("2001:db8:99::1", "punt: no_route / no route (ENETUNREACH) / same".to_owned()),
            ("198.19.0.1", format!("drop: blackhole_route / {refused} / same")),
            ("2001:db8:f0::1", format!("drop: blackhole_route / {refused} / same")),
            ("198.19.10.1", format!("drop: blackhole_rule / {refused} / same")),
            ("2001:db8:e0::1", format!("drop: blackhole_rule / {refused} / same")),
            ("198.19.1.1", "punt: unreachable_route / unreachable (EHOSTUNREACH) / same".to_owned()),
            ("2001:db8:f1::1", "punt: unreachable_route / unreachable (EHOSTUNREACH) / same".to_owned()),
            ("198.19.11.1", "punt: unreachable_rule / no route (ENETUNREACH) / same".to_owned()),
            ("2001:db8:e1::1", "punt: unreachable_rule / no route (ENETUNREACH) / same".to_owned()),
            ("198.19.2.1", "punt: prohibit_route / prohibited (EACCES) / same".to_owned()),
            ("2001:db8:f2::1", "punt: prohibit_route / prohibited (EACCES) / same".to_owned()),
            ("198.19.12.1", "punt: prohibit_rule / prohibited (EACCES) / same".to_owned()),
            ("2001:db8:e2::1", "punt: prohibit_rule / prohibited (EACCES) / same".to_owned()),
            ("2001:db8:e7::1", "punt: prohibit_rule / prohibited (EACCES) / same".to_owned()),
        ] {
            assert_eq!(told(&query(&policy, to)), wanted, "{to}");
        }
        let plain = query(&policy, "198.18.0.25");
        let marked = Query { transport: Transport::Ports { source: 1, destination: 9 }, ..plain };
        assert_eq!(told(&marked), "punt: prohibit_rule / prohibited (EACCES) / same");
        let sctp = Query { protocol: 132, ..plain };
        let only = "not asked: the kernel answers for TCP, UDP and ICMP only";
        assert_eq!(told(&sctp), format!("forward / {only} / not comparable"));
        let spoofed = Query { source: [198, 18, 1, 1].into(), ..query(&policy, "203.0.113.10") };
        assert_eq!(told(&spoofed), format!("punt: reverse_path / {refused} / same"));
        let own = Query { source: [203, 0, 113, 1].into(), ..plain };
        assert_eq!(told(&own), format!("punt: source_local / {refused} / same"));
    });
    router.run("sysctl -qw net.ipv4.conf.eth0.forwarding=0");
    router.enter(|| {
        let policy = policy_of_the_kernel();
        let plain = query(&policy, "198.18.0.25");
        let checked = check(&policy, &plain, None, policy.decide(&plain), &mut Oracle::open().expect("a socket"));
        assert_eq!(checked.same, Some(true), "{checked:?}");
        assert_eq!(checked.kernel_in_words(policy.config()), "unreachable (EHOSTUNREACH)");
    });
}

/// A route that the mirror has not heard of is what `verify` is for. Time is an argument, so nobody waits for it.
#[test]
fn privileged_a_route_that_only_the_kernel_has_is_reported() {
    let net = TwoWays::new();
    net.router.enter(|| {
        let policy = policy_of_the_kernel();
        let sample = |to: &str| {
            let query = query(&policy, to);
            Sample { query, tracked: None, outcome: policy.decide(&query), generation: policy.generation() }
        };
        let start = Instant::now();
        let mut verifier = Verifier::open().expect("a socket");
        // Each turn is half a second later.
        let mut turns = 0;
        let mut turn = |verifier: &mut Verifier, samples: Vec<Sample>, policy: &Policy, in_step: bool| {
            verifier.turn(samples, policy, &mut || in_step, start + Duration::from_millis(500) * turns);
            turns += 1;
            let json = verifier.json();
            ["compared", "unsettled", "pending", "divergence_total"].map(|key| json[key].as_u64().expect("a number"))
        };
        let (good, bad) = (sample("198.18.1.1"), sample("198.18.0.25"));
        assert_eq!(turn(&mut verifier, vec![good, bad], &policy, true), [2, 0, 0, 0]);

        // Only a race: the kernel has changed its mind before the third look.
        net.router.run("ip route add 198.18.0.0/24 via 203.0.113.10");
        assert_eq!(turn(&mut verifier, vec![good, bad], &policy, true), [3, 0, 1, 0]);
        assert_eq!(turn(&mut verifier, Vec::new(), &policy, true), [3, 0, 1, 0]);
        net.router.run("ip route del 198.18.0.0/24");
        assert_eq!(turn(&mut verifier, Vec::new(), &policy, true), [3, 1, 0, 0]);

        // For good. While the mirror is not in step, or has just brought another policy, nothing is said.
        net.router.run("ip route add 198.18.0.0/24 via 203.0.113.10");
        assert_eq!(turn(&mut verifier, vec![bad], &policy, true), [3, 1, 1, 0]);
        for in_step in [true, true, false] {
            assert_eq!(turn(&mut verifier, Vec::new(), &policy, in_step), [3, 1, 1, 0]);
        }
        let next = compile(policy.config(), Generation(2));
        assert_eq!(
            turn(&mut verifier, vec![good], &next, true),
            [4, 1, 1, 0],
            "one of the policy before, decided again"
        );
        assert_eq!(turn(&mut verifier, Vec::new(), &next, true), [4, 1, 1, 0]);
        assert_eq!(turn(&mut verifier, Vec::new(), &next, true), [5, 1, 0, 1]);
        let wanted = json!([{
            "number": 1,
            "packet": "iif eth0 192.0.2.10 -> 198.18.0.25 proto 17 sport 4000 dport 5000 tos 0x00 mark 0x0",
            "ours": "via 198.51.100.10 dev eth1",
            "kernel": "via 203.0.113.10 dev ppp0",
            "generation": 2,
        }]);
        assert_eq!(verifier.json()["divergences"], wanted);

        // The same packet again is counted again and shown once; without an end of changes a doubt is given up.
        let bad = Sample { generation: next.generation(), ..bad };
        turn(&mut verifier, vec![bad], &next, true);
        let looks: Vec<_> = (0..3).map(|_| turn(&mut verifier, Vec::new(), &next, true)[3]).collect();
        assert_eq!(looks, [1, 1, 2]);
        assert_eq!(verifier.json()["divergences"].as_array().map(Vec::len), Some(1));
        turn(&mut verifier, vec![bad], &next, false);
        let pending: Vec<_> = (0..10).map(|_| turn(&mut verifier, Vec::new(), &next, false)[2]).collect();
        assert_eq!(pending, [1, 1, 1, 1, 1, 1, 1, 1, 1, 0]);
        assert_eq!(verifier.json()["divergence_total"], 2);
    });
}

/// Traffic of both families with marks, rules by TOS and port, legs by a seed, routes that end, and rp_filter.
#[test]
fn privileged_live_decisions_are_the_kernels() {
    let net = TwoWays::new();
    let router = &net.router;
    router.run("sysctl -qw net.ipv4.fib_multipath_hash_seed=4711 net.ipv4.fib_multipath_hash_policy=1 net.ipv6.fib_multipath_hash_policy=1");
    router.run("ip route add 198.19.0.0/24 nexthop via 198.51.100.10 nexthop via 203.0.113.10 weight 3");
    router.run("ip -6 route add 2001:db8:26::/48 nexthop via 2001:db8:2::10 nexthop via 2001:db8:3::10 weight 3");
    for (ip, iptables, gateway, ports) in
        [("ip", "iptables", "203.0.113.10", "4000-4999"), ("ip -6", "ip6tables", "2001:db8:3::10", "5000-5999")]
    {
        router.run(&format!("{ip} route add default via {gateway} table 201; {ip} rule add fwmark 1 lookup 201"));
        router.run(&format!("{iptables} -t mangle -A PREROUTING -i eth0 -p tcp --dport 25 -j MARK --set-mark 1"));
        router.run(&format!("{ip} rule add tos 0x10 lookup 201; {ip} rule add ipproto udp dport {ports} lookup 201"));
    }
    router.run("ip route add blackhole 198.19.1.0/24; ip -6 route add blackhole 2001:db8:f1::/48");
    router.run("ip route add prohibit 198.19.2.0/24; sysctl -qw net.ipv4.conf.eth0.rp_filter=1");
    net.client.run("ip addr add 198.51.100.200/32 dev lo");
    let shunt = router.start_shunt("");

    let none = net.router.shunt(&format!("verify --samples 10 --seconds 1 --socket {}", shunt.socket()));
    assert_eq!(none.code, 2, "{none:?}");
    assert!(none.stdout.starts_with("0 of 0 sampled") && none.stderr.contains("it takes traffic"), "{none:?}");

    let streams = [TwoWays::SERVER, TwoWays::SERVER6]
        .map(|server| Stream::start(&net.client, server, 5000, Duration::from_millis(2)));
    let traffic = "while :; do
        for i in 1 2 3 4 5 6 7 8; do
            for to in 198.19.0.$i 2001:db8:26::$i 198.19.1.$i 198.19.2.$i 2001:db8:f1::$i; do
                echo x > /dev/udp/$to/4321; echo x > /dev/udp/$to/5$i
            done
        done
        ping -q -c1 -W0.1 -I 198.51.100.200 198.18.0.25
        for to in 198.18.0.25 2001:db8:25::25; do
            for port in 25 80; do timeout 1 bash -c \"echo x > /dev/tcp/$to/$port\"; done
            ping -q -c2 -i0.01 -W1 -Q 0x10 $to; ping -q -c2 -i0.01 -W1 -Q 0x12 $to
        done
    done";
    let _traffic = net.client.spawn(&["bash", "-c", traffic]);
    let all = [("dropped", "blackhole_route"), ("punted", "prohibit_route"), ("punted", "reverse_path")];
    let seen = || all.iter().all(|(kind, reason)| shunt.counted(kind, reason) > 0);
    assert!(eventually(Duration::from_secs(20), || seen().then_some(())).is_some(), "{:#}", shunt.status());
    let output = net.router.shunt(&format!("verify --json --samples 800 --seconds 30 --socket {}", shunt.socket()));
    let report: Value = serde_json::from_str(&output.stdout).unwrap_or_default();
    let tell = || format!("{output:?} {:#}", shunt.status());
    println!("{report:#}");
    assert_eq!((output.code, &report["divergences"], &report["found"]), (0, &json!(0), &json!([])), "{}", tell());
    assert!(report["compared"].as_u64() >= Some(800), "{}", tell());
    for server in [&net.fast, &net.slow] {
        assert!(server.packets("eth0").0 > 100, "the story knows one way only: {}", tell());
    }
    streams.into_iter().for_each(|stream| drop(stream.finish()));
    assert!(shunt.status()["verify"]["compared"].as_u64() >= Some(800));
    assert_eq!(shunt.terminate().code, 0);
}

/// A gateway that sends the router elsewhere: the kernel takes that to heart for this destination, in no table that anybody can
/// dump beforehand. What the mirror cannot see, `verify` finds.
#[test]
fn privileged_what_the_mirror_cannot_see_is_found() {
    let net = TwoWays::new();
    let router = &net.router;
    // Of next hops with preferences of their own a dump shows the first one's only: low, so that the third route seems better.
    let route = "route append 2001:db8:25::/48 metric 100";
    router.run("ip -6 route del 2001:db8:25::/48");
    router.run(&format!("ip -6 {route} via 2001:db8:3::10 pref low; ip -6 {route} via 2001:db8:3::11 pref high"));
    router.run(&format!("ip -6 {route} dev eth1 pref medium"));
    let mac = Mac(net.fast.mac("eth0"));
    router.run(&format!("ip neigh add 2001:db8:25::25 lladdr {mac} dev eth1 nud permanent"));
    let shunt = router.start_shunt("");

    let stream = Stream::start(&net.client, TwoWays::SERVER6, 5000, Duration::from_millis(5));
    let output = router.shunt(&format!("verify --samples 100 --seconds 3 --socket {}", shunt.socket()));
    stream.finish();
    assert_eq!(output.code, 1, "{output:?}");
    for line in ["DIVERGES  iif eth0 2001:db8:1::10 -> 2001:db8:25::25 proto 17", "ours    dev eth1"] {
        assert!(output.stdout.contains(line), "{output:?}");
    }
    assert!(output.stdout.contains("kernel  via 2001:db8:3::1"), "{output:?}");
    let status = shunt.status();
    assert!(status["verify"]["divergence_total"].as_u64() > Some(0), "{status:#}");
    let explained = shunt.explain_text("--iif eth0 --src 2001:db8:1::10 --dst 2001:db8:25::25 --proto udp");
    assert!(explained.contains("dev ppp0 (differs)"), "{explained}");
    assert!(explained.contains("WARNING the kernel decides otherwise"), "{explained}");
    // Every other end of a daemon in the lab fails by such a thing.
    let unnoticed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| shunt.terminate()));
    assert!(unnoticed.is_err(), "the lab does not look");
}

/// The daemon's side of the socket, told by a script: what `shunt verify` makes of a divergence.
#[test]
fn a_divergence_is_told_in_full_and_by_the_exit_code() {
    let path = std::env::temp_dir().join(format!("shunt-verify-{}.sock", std::process::id()));
    let verify = |arguments: &str| {
        let path = path.to_str().expect("text");
        std::process::Command::new(shunt_tests::lab::shunt_binary())
            .args(format!("verify {arguments} --socket {path}").split_whitespace())
            .output()
            .expect("shunt runs")
    };
    assert_eq!(verify("").status.code(), Some(2), "no daemon");

    let listener = UnixListener::bind(&path).expect("a socket");
    let known = json!({ "number": 1, "packet": "an old one", "ours": "x", "kernel": "y", "generation": 1 });
    let found = json!({ "number": 2, "packet": "iif eth0 192.0.2.10 -> 198.18.0.25", "ours": "via 198.51.100.10 dev eth1",
                        "kernel": "prohibited (EACCES)", "generation": 7 });
    let section = |compared: u64, pending: u64, total: u64, divergences: Value| {
        json!({ "sampled": compared + 5, "compared": compared, "not_comparable": 3, "unsettled": 2, "pending": pending,
                "divergence_total": total, "divergences": divergences })
    };
    let answers = [
        section(100, 0, 1, json!([known])),
        // Enough, but something is in doubt.
        section(200, 1, 1, json!([known])),
        section(210, 0, 2, json!([found, known])),
    ];
    let daemon = std::thread::spawn(move || {
        for verify in answers {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut question = String::new();
            stream.read_to_string(&mut question).expect("a question");
            assert_eq!(question, r#"{"ask":"status"}"#);
            stream
                .write_all(json!({ "ok": { "verify": verify } }).to_string().as_bytes())
                .expect("a client that listens");
            stream.shutdown(Shutdown::Both).expect("a client");
        }
    });
    let output = verify("--samples 50 --seconds 60");
    std::fs::remove_file(&path).expect("the socket is ours");
    daemon.join().expect("three questions");
    let told = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{told}");
    let full = "DIVERGES  iif eth0 192.0.2.10 -> 198.18.0.25
          ours    via 198.51.100.10 dev eth1
          kernel  prohibited (EACCES)
          by generation 7
110 of 110 sampled decisions compared with the kernel in ";
    assert!(told.starts_with(full) && told.trim_end().ends_with("divergences 1"), "{told}");
    assert!(!told.contains("an old one"), "{told}");
}
