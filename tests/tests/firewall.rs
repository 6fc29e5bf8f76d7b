//! What we do not evaluate is never bypassed: the packets that it could touch fare as in the kernel. The network is that of
//! [`TwoWays`], and each story first watches what the kernel alone does.

use std::time::Duration;

use shunt_tests::lab::{Daemon, TwoWays, eventually};

/// Something of the operator's that stops or changes packets.
struct Barrier {
    /// Puts it up and takes it away.
    set: &'static str,
    unset: &'static str,
    /// Text of the item in `shunt check`, and how its packets end: with the reason under which they are punted, or mirrored exactly.
    named: &'static str,
    punted: Option<&'static str>,
}

const BARRIERS: [Barrier; 15] = [
    Barrier {
        set: "iptables-nft -A FORWARD -p udp --dport 5000 -j DROP",
        unset: "iptables-nft -F FORWARD",
        named: "-A FORWARD -p udp",
        punted: None,
    },
    Barrier {
        set: "iptables-legacy -A FORWARD -p udp --dport 5000 -j DROP",
        unset: "iptables-legacy -F FORWARD",
        named: "-A FORWARD -p udp",
        punted: None,
    },
    Barrier {
        set: "iptables-nft -P FORWARD DROP",
        unset: "iptables-nft -P FORWARD ACCEPT",
        named: "filter FORWARD policy drop",
        punted: None,
    },
    Barrier {
        set: "iptables-nft -N OWN; iptables-nft -A OWN -j DROP; iptables-nft -A FORWARD -o eth1 -j OWN",
        unset: "iptables-nft -F FORWARD; iptables-nft -F OWN; iptables-nft -X OWN",
        named: "-A FORWARD -o eth1 -j OWN",
        punted: None,
    },
    Barrier {
        set: "iptables-nft -t raw -A PREROUTING -s 192.0.2.10 -j DROP",
        unset: "iptables-nft -t raw -F PREROUTING",
        named: "-A PREROUTING -s 192.0.2.10",
        punted: None,
    },
    Barrier {
        set: "iptables-nft -t mangle -A POSTROUTING -o eth1 -p udp -j DROP",
        unset: "iptables-nft -t mangle -F POSTROUTING",
        named: "-A POSTROUTING -o eth1",
        punted: None,
    },
    Barrier {
        set: "iptables-nft -t mangle -A PREROUTING -p udp -m length --length 0:65535 -j DROP",
        unset: "iptables-nft -t mangle -F PREROUTING",
        named: "--length 0:65535",
        punted: None,
    },
    Barrier {
        set: "nft 'table ip own { chain f { type filter hook forward priority 0; udp dport 5000 drop; }; }'",
        unset: "nft delete table ip own",
        named: "table ip own chain f",
        punted: None,
    },
    Barrier {
        set: "nft 'table inet own { chain f { type filter hook prerouting priority -300; policy drop; }; }'",
        unset: "nft delete table inet own",
        named: "table inet own chain f policy drop",
        punted: None,
    },
    Barrier {
        set: "iptables-nft -A FORWARD -p udp -m limit --limit 1/day --limit-burst 1 -j RETURN; iptables-nft -A FORWARD -p udp -j DROP",
        unset: "iptables-nft -F FORWARD",
        named: "--limit 1/day",
        punted: Some("opaque_forward"),
    },
    Barrier {
        set: "nft 'table netdev own { chain f { type filter hook ingress device eth0 priority 0; udp dport 5000 drop; }; }'",
        unset: "nft delete table netdev own",
        named: "table netdev own chain f",
        punted: Some("netdev"),
    },
    Barrier {
        set: "nft 'table ip filter { chain forward { type filter hook forward priority 0; policy drop; }; }'",
        unset: "nft delete table ip filter",
        named: "table ip filter chain forward policy drop",
        punted: None,
    },
    Barrier {
        set: "nft 'table ip filter { chain FORWARD { type filter hook forward priority 10; policy drop; }; }'",
        unset: "nft delete table ip filter",
        named: "table ip filter chain FORWARD policy drop",
        punted: None,
    },
    Barrier {
        set: "nft 'table ip own { chain f { type nat hook postrouting priority 100; policy drop; oifname none masquerade; }; }'",
        unset: "nft delete table ip own",
        named: "table ip own chain f policy drop",
        punted: None,
    },
    Barrier {
        set: "ip xfrm policy add dst 198.18.0.0/15 dir fwd action block",
        unset: "ip xfrm policy flush",
        named: "ipv4 policies",
        punted: Some("xfrm"),
    },
];

fn passes(net: &TwoWays) -> bool {
    net.client.ask_udp(TwoWays::SERVER, 5000, Duration::from_millis(200)).is_ok()
}

/// Within a second, in which the mirror may still learn of it. One late answer of a busy machine is not a barrier.
fn stops(net: &TwoWays) -> bool {
    eventually(Duration::from_secs(1), || (0..3).all(|_| !passes(net)).then_some(())).is_some()
}

fn resumes(net: &TwoWays) -> bool {
    eventually(Duration::from_secs(2), || passes(net).then_some(())).is_some()
}

fn named(shunt: &Daemon, barrier: &Barrier) {
    let items = shunt.checked(barrier.named);
    assert!(!items.is_empty(), "{} is not in {:#?}", barrier.named, shunt.check());
    for item in items {
        let standing = if barrier.punted.is_some() { "punted" } else { "exact" };
        assert_eq!((&item["standing"], &item["reason"]), (&standing.into(), &barrier.punted.into()), "{item}");
    }
}

#[test]
fn privileged_a_barrier_put_up_live_holds_within_a_second() {
    let net = TwoWays::new();
    // IPv6 keeps the ports worth taking.
    let shunt = net.router.start_shunt("");
    assert!(passes(&net));
    for barrier in &BARRIERS {
        net.router.run(barrier.set);
        assert!(stops(&net), "{} is bypassed: {:#}", barrier.set, shunt.status());
        assert!((0..5).all(|_| !passes(&net)), "{} is bypassed now and then", barrier.set);
        named(&shunt, barrier);
        net.router.run(barrier.unset);
        assert!(resumes(&net), "{} leaves the way closed: {:#}", barrier.unset, shunt.status());
    }
    let kernel = net.router.kernel_forwarded();
    assert!(
        eventually(Duration::from_secs(2), || {
            let before = net.router.kernel_forwarded();
            (passes(&net) && net.router.kernel_forwarded() == before).then_some(())
        })
        .is_some(),
        "the workers do not take over again: {kernel} {:#}",
        shunt.status()
    );
}

#[test]
fn privileged_a_barrier_that_was_there_first_holds_from_the_first_packet() {
    let net = TwoWays::new();
    for barrier in &BARRIERS {
        net.router.run(barrier.set);
        let shunt = net.router.start_shunt("");
        assert!((0..3).all(|_| !passes(&net)), "{} is bypassed: {:#}", barrier.set, shunt.status());
        named(&shunt, barrier);
        assert_eq!(shunt.terminate().code, 0);
        net.router.run(barrier.unset);
    }
}

/// A table that sleeps stops nobody, though `iptables-nft-save` prints it as if it were awake.
#[test]
fn privileged_a_table_of_iptables_that_is_asleep_stops_nothing() {
    let net = TwoWays::new();
    let shunt = net.router.start_shunt("");
    net.router.run("iptables -t mangle -A FORWARD -p tcp -j ACCEPT; iptables -P FORWARD DROP");
    assert!(stops(&net));
    net.router.run("nft add table ip filter '{ flags dormant; }'");
    assert!(resumes(&net), "{:#?}", shunt.check());
    let kernel = net.router.kernel_forwarded();
    assert!(passes(&net));
    assert_eq!(net.router.kernel_forwarded(), kernel, "{:#}", shunt.status());
}

/// Only what a rule could touch goes to the kernel: the neighbouring port is still ours.
#[test]
fn privileged_a_rule_takes_only_what_it_could_match() {
    let net = TwoWays::new();
    net.router.run("iptables -A FORWARD -i eth0 -p tcp --dport 80 -j REJECT");
    net.router.run("iptables -t nat -A POSTROUTING -o ppp0 -j MASQUERADE");
    let shunt = net.router.start_shunt("");
    let kernel = net.router.kernel_forwarded();
    assert_eq!(net.client.ask_tcp(TwoWays::SERVER, 25).expect("an answer"), "fast");
    assert_eq!(net.router.kernel_forwarded(), kernel, "{:#}", shunt.status());
    let refused = net.client.ask_tcp(TwoWays::SERVER, 80).expect_err("the kernel rejects");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(shunt.counted("punted", "reject") > 0);
}

/// The server sees the router's address.
#[test]
fn privileged_marked_and_masqueraded_connections_are_the_workers() {
    let net = TwoWays::new();
    net.router.run("ip rule add fwmark 1 table 201; ip route add default via 203.0.113.10 table 201");
    net.router.run("iptables -t mangle -A PREROUTING -i eth0 -p tcp --dport 25 -j MARK --set-mark 1");
    net.router.run("iptables -t nat -A POSTROUTING -o ppp0 -j MASQUERADE");
    let shunt = net.router.start_shunt("");
    // Without a way back to the client the slow side can only answer what was translated.
    net.slow.run("ip route del default; ip route add 203.0.113.0/24 dev eth0 src 198.18.0.25 metric 1 || true");
    let before = shunt.forwarded();
    assert_eq!(net.client.ask_tcp(TwoWays::SERVER, 25).expect("an answer to a translated connection"), "slow");
    assert!(shunt.forwarded() > before + 4, "{:#}", shunt.status());
}

/// Where every packet of a port would be punted, the port is better left alone; it is taken when that changes.
#[test]
fn privileged_a_port_that_is_all_the_kernels_is_not_taken() {
    let net = TwoWays::new();
    let rule = "FORWARD -m conntrack --ctexpire 5000:6000 -j DROP";
    net.router.run(&format!("iptables -A {rule}; ip6tables -A {rule}"));
    let shunt = net.router.start_shunt("");
    let status = shunt.status();
    assert_eq!(status["ports"].as_array().map(Vec::len), Some(0), "{status:#}");
    let left = status["left"].as_array().expect("a list");
    assert!(
        left.iter().any(|left| left["why"].as_str().is_some_and(|why| why.contains("--ctexpire 5000:6000"))),
        "{left:?}"
    );
    assert!(!net.router.run("ip -d link show").contains("xdp"));
    net.router.run("iptables -F FORWARD");
    let taken = eventually(Duration::from_secs(4), || {
        (shunt.status()["ports"].as_array().map(Vec::len) == Some(3)).then_some(())
    });
    assert!(taken.is_some(), "{:#}", shunt.status());
    let kernel = net.router.kernel_forwarded();
    assert!(resumes(&net));
    assert_eq!(net.router.kernel_forwarded(), kernel);
}

/// Strict reverse-path filtering: an answer that comes back by the wrong link is dropped by the kernel, not by us, and not passed.
#[test]
fn privileged_rp_filter_is_obeyed() {
    let net = TwoWays::new();
    net.router.run("sysctl -qw net.ipv4.conf.all.rp_filter=1");
    let shunt = net.router.start_shunt("");
    let kernel = net.router.kernel_forwarded();
    assert!(passes(&net), "symmetric traffic");
    assert_eq!(net.router.kernel_forwarded(), kernel, "symmetric traffic is ours: {:#}", shunt.status());
    // Marked requests leave by the slow link; the way back to where the answers come from is not marked, and by the fast one.
    net.router.run("iptables -t mangle -A PREROUTING -i eth0 -j MARK --set-mark 1");
    net.router.run("ip rule add fwmark 1 table 201; ip route add default via 203.0.113.10 table 201");
    assert!(stops(&net), "{:#}", shunt.status());
    assert!(shunt.counted("punted", "reverse_path") > 0);
    net.router.run("sysctl -qw net.ipv4.conf.all.rp_filter=0");
    assert!(resumes(&net), "{:#}", shunt.status());
}

/// Routes that we do not mirror: what they lead away goes by the kernel.
#[test]
fn privileged_encapsulating_routes_are_the_kernels() {
    let net = TwoWays::new();
    let shunt = net.router.start_shunt("");
    net.router.run("ip route replace 198.18.0.0/15 encap ip id 7 dst 192.0.2.99 via 198.51.100.10");
    std::thread::sleep(Duration::from_millis(100));
    let kernel = net.router.kernel_forwarded();
    assert!(passes(&net));
    assert!(net.router.kernel_forwarded() > kernel, "not the kernel: {:#}", shunt.status());
    assert!(shunt.counted("punted", "opaque_route") > 0);
    let items = shunt.checked("198.18.0.0/15");
    assert!(items.iter().any(|item| item["reason"] == "opaque_route"), "{items:?}");
}

/// A shaper on the egress must be passed: what leaves there goes by the kernel.
#[test]
fn privileged_an_operators_qdisc_is_not_bypassed() {
    let net = TwoWays::new();
    let shunt = net.router.start_shunt("");
    net.router.run("tc qdisc add dev eth1 root handle 1: tbf rate 100mbit burst 32k latency 50ms");
    std::thread::sleep(Duration::from_millis(100));
    assert!(passes(&net));
    let sent = net.router.run("tc -s qdisc show dev eth1");
    assert!(!sent.contains("Sent 0 bytes"), "bypassed: {sent}");
    assert!(shunt.counted("punted", "egress_qdisc") > 0);
    assert!(
        shunt.checked("root qdisc on eth1").iter().any(|item| item["reason"] == "egress_qdisc"),
        "{:#?}",
        shunt.check()
    );
}

/// Filters at a port's ingress see what arrives before we could: the port is not taken.
#[test]
fn privileged_a_port_with_ingress_filters_is_left() {
    let net = TwoWays::new();
    net.router.run("tc qdisc add dev eth0 clsact");
    let shunt = net.router.start_shunt("");
    let status = shunt.status();
    let left = status["left"].as_array().expect("a list");
    let why = left.iter().find(|left| left["name"] == "eth0").and_then(|left| left["why"].as_str());
    assert!(why.is_some_and(|why| why.contains("clsact")), "{left:?}");
    assert!(passes(&net));
}
