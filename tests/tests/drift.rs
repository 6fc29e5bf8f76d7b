//! The mirror does not drift: whatever happens to interfaces, addresses, routes and sysctls, within a second it holds what the kernel
//! holds. The network is that of [`TwoWays`], with more routes; both sides are read and compared whole.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sendto, socket};
use serde_json::Value;
use shunt_tests::lab::{Daemon, Holdings, TwoWays, eventually};

/// Within this the mirror equals the kernel, whatever was announced of it.
const BOUND: Duration = Duration::from_secs(1);

/// Of everything something: multipath, objects and groups, TOS, metrics, gateways of the other family, several tables.
const RICH: &str = "
    ip nexthop add id 1 via 203.0.113.10 dev ppp0
    ip nexthop add id 2 via 198.51.100.10 dev eth1
    ip nexthop add id 3 blackhole
    ip nexthop add id 4 via 2001:db8:3::10 dev ppp0
    ip nexthop add id 5 via 2001:db8:2::10 dev eth1
    ip nexthop add id 10 group 1,3/2
    ip nexthop add id 11 group 1/2 type resilient buckets 8
    ip nexthop add id 12 group 4/5
    ip nexthop add id 13 via 203.0.113.10 dev ppp0
    ip route add 192.88.0.0/24 nhid 1
    ip route add 192.88.1.0/24 nhid 10
    ip route add 192.88.2.0/24 nhid 11
    ip -6 route add 2001:db8:10::/64 nhid 12
    ip -6 route add 2001:db8:11::/64 nhid 4
    ip route add 192.88.3.0/24 nexthop via 203.0.113.10 weight 2 nexthop via 198.51.100.10
    ip route add 192.88.4.0/24 via 203.0.113.10 tos 0x10
    ip route add 192.88.4.0/24 via 198.51.100.10 metric 20
    ip route append 192.88.4.0/24 via 203.0.113.10 metric 20
    ip route add 192.88.5.0/24 via inet6 2001:db8:3::10 dev ppp0
    ip route add 192.88.6.0/24 via 198.51.100.10 src 203.0.113.1
    ip addr add 203.0.113.2/24 dev ppp0
    ip route add 192.88.7.0/24 via 198.51.100.10 src 203.0.113.2
    ip route add default via 203.0.113.10 table 201
    ip route add throw 192.88.8.0/24 table 201
    ip route add unreachable 192.88.9.0/24 metric 4294967295
    ip -6 route add 2001:db8:12::/64 nexthop via 2001:db8:3::10 weight 3 nexthop via 2001:db8:2::10
    ip -6 route add 2001:db8:13::/64 via 2001:db8:3::10 mtu 1400
    ip -6 route add 2001:db8:14::/64 via 2001:db8:3::10 metric 7 table 202
    ip -6 route add prohibit 2001:db8:15::/64
    ip rule add priority 100 iif ppp0 lookup 201
    ip rule add priority 101 fwmark 0x1/0xff to 192.88.0.0/16 goto 32766
    ip -6 rule add priority 100 from 2001:db8:1::/64 lookup 202 suppress_prefixlength 0
    ip neigh add 203.0.113.77 lladdr 02:00:00:00:00:77 dev ppp0 nud permanent
    ip -6 neigh add 2001:db8:3::77 lladdr 02:00:00:00:00:77 dev ppp0 nud permanent";

fn rich() -> (TwoWays, Daemon) {
    let net = TwoWays::new();
    net.router.run(RICH);
    let shunt = net.router.start_shunt("");
    Holdings::equal_within(&shunt, BOUND);
    (net, shunt)
}

/// Runs a command in the router, after which the mirror has to be equal in time.
fn after(net: &TwoWays, shunt: &Daemon, command: &str) {
    net.router.run(command);
    let took = Holdings::equal_within(shunt, BOUND);
    println!("{took:9.3?}  {command}");
}

#[test]
fn privileged_links_that_come_go_and_change_leave_the_mirror_equal() {
    let (net, shunt) = rich();
    let routes = |shunt: &Daemon| shunt.mirror()["routes"].as_array().map_or(0, Vec::len);
    // The kernel lowers the MTU of IPv6 routes along with it, and raises it again.
    after(&net, &shunt, "ip link set ppp0 mtu 1300");
    after(&net, &shunt, "ip link set ppp0 mtu 1500");
    let before = routes(&shunt);
    after(&net, &shunt, "ip link set ppp0 down");
    assert!(routes(&shunt) < before, "nothing has vanished");
    after(&net, &shunt, "ip link set ppp0 up; ip addr add 2001:db8:3::1/64 dev ppp0 nodad");
    after(&net, &shunt, "ip link set ppp0 group 7");
    after(&net, &shunt, "ip link set ppp0 address 02:00:00:00:00:55");
    after(&net, &shunt, "ip link set ppp0 down; ip link set ppp0 name wan0; ip link set wan0 up");
    after(&net, &shunt, "ip link set wan0 down; ip link set wan0 name ppp0; ip link set ppp0 up");
    after(&net, &shunt, "ip link set ppp0 netns client");
    after(&net, &shunt, "true");
    net.client.run("ip link set ppp0 netns router");
    after(&net, &shunt, "ip link set ppp0 up; ip addr add 203.0.113.1/24 dev ppp0");
    after(&net, &shunt, "ip link del ppp0");
    net.lab.veth((&net.slow, "eth0"), (&net.router, "ppp0"));
    after(&net, &shunt, "ip addr add 203.0.113.1/24 dev ppp0; ip route add 192.88.0.0/24 via 203.0.113.10");
    after(&net, &shunt, "ip link add br0 type bridge; ip link set br0 up; ip link set ppp0 master br0");
    after(&net, &shunt, "ip link set ppp0 nomaster; ip link del br0");
}

/// With the carrier go nexthop objects (`nh_netdev_event`), and with these their routes; not one message tells of it.
#[test]
fn privileged_a_lost_carrier_leaves_the_mirror_equal() {
    let (net, shunt) = rich();
    let objects = |shunt: &Daemon| shunt.mirror()["nexthops"].as_array().map_or(0, Vec::len);
    let before = objects(&shunt);
    net.slow.run("ip link set eth0 down");
    after(&net, &shunt, "true");
    let gone = eventually(BOUND, || (objects(&shunt) < before).then_some(()));
    assert!(gone.is_some(), "the kernel kept its objects: the story tells nothing");
    after(&net, &shunt, "sysctl -qw net.ipv4.conf.ppp0.ignore_routes_with_linkdown=1");
    net.slow.run("ip link set eth0 up");
    after(&net, &shunt, "true");
}

#[test]
fn privileged_addresses_and_objects_that_go_take_their_routes_out_of_the_mirror() {
    let (net, shunt) = rich();
    let has = |shunt: &Daemon, dst: &str| {
        let mirror = shunt.mirror();
        mirror["routes"].as_array().is_some_and(|routes| routes.iter().any(|route| route["dst"] == dst))
    };
    // A preferred source; not the last address.
    assert!(has(&shunt, "192.88.7.0/24"));
    after(&net, &shunt, "ip addr del 203.0.113.2/24 dev ppp0");
    assert!(!has(&shunt, "192.88.7.0/24"));
    after(&net, &shunt, "ip nexthop del id 13");
    after(&net, &shunt, "ip nexthop del id 1");
    assert!(!has(&shunt, "192.88.0.0/24"));
    after(&net, &shunt, "ip nexthop del id 5");
    after(&net, &shunt, "ip nexthop replace id 2 via 198.51.100.11 dev eth1");
    after(&net, &shunt, "ip nexthop replace id 10 group 2");
    after(&net, &shunt, "ip nexthop flush");
    // The last one.
    after(&net, &shunt, "ip addr flush dev ppp0");
    assert!(!has(&shunt, "192.88.5.0/24"));
    after(
        &net,
        &shunt,
        "ip route flush table 201; ip -6 route flush table 202; ip rule del priority 100; ip -6 rule flush",
    );
}

/// Rules without a goal: a table that is not there, a goto to nowhere whose goal comes and goes; a route whose interface goes.
#[test]
fn privileged_rules_and_routes_to_nowhere_are_held_as_they_are() {
    let net = TwoWays::new();
    let shunt = net.router.start_shunt("");
    let end = |shunt: &Daemon| {
        let told = shunt.explain("--iif eth0 --src 192.0.2.10 --dst 198.18.0.25 --proto udp");
        (told["end"].as_str().unwrap_or_default().to_owned(), told["oif"].as_str().unwrap_or_default().to_owned())
    };
    let by = |oif: &str| ("forward".to_owned(), oif.to_owned());
    let asked = |net: &TwoWays| net.client.ask_tcp(TwoWays::SERVER, 80).expect("an answer");
    // A missing table is an empty one.
    after(&net, &shunt, "ip rule add priority 50 iif eth0 lookup 999");
    assert_eq!((end(&shunt), asked(&net)), (by("eth1"), "fast".to_owned()));
    // Unresolved, it is no rule at all; resolved, it passes over what would lead by the slow link.
    after(&net, &shunt, "ip route add default via 203.0.113.10 table 201; ip rule add priority 70 iif eth0 lookup 201");
    after(&net, &shunt, "ip rule add priority 60 iif eth0 goto 80");
    assert_eq!((end(&shunt), asked(&net)), (by("ppp0"), "slow".to_owned()));
    after(&net, &shunt, "ip rule add priority 80 lookup main");
    assert_eq!((end(&shunt), asked(&net)), (by("eth1"), "fast".to_owned()));
    after(&net, &shunt, "ip rule del priority 80");
    assert_eq!((end(&shunt), asked(&net)), (by("ppp0"), "slow".to_owned()));
    // The interface takes the route along.
    after(&net, &shunt, "ip link del ppp0");
    assert_eq!((end(&shunt), asked(&net)), (by("eth1"), "fast".to_owned()));
}

/// Every sysctl that decides is in the mirror within the bound that `shunt status` states, whether the kernel tells of it or not.
#[test]
fn privileged_every_sysctl_is_followed_within_its_stated_bound() {
    let net = TwoWays::new();
    let shunt = net.router.start_shunt("");
    let status = shunt.status();
    let sources = status["mirror"]["sources"].as_array().expect("sources");
    let source = sources.iter().find(|source| source["source"] == "sysctls").expect("sysctls");
    let bound = Duration::from_millis(source["staleness_bound_ms"].as_u64().expect("a bound"));
    assert!(bound <= BOUND, "{bound:?}");
    let of_link = |key: &'static str| {
        move |sysctls: &Value| {
            let links = sysctls["links"].as_array().expect("interfaces");
            let found = links.iter().find(|one| one[0] == "eth0" && one[1] == key);
            found.map(|one| one[2].to_string()).unwrap_or_default()
        }
    };
    let spreading = |sysctls: &Value| sysctls["spreading"].to_string();
    let narrow = |sysctls: &Value| sysctls["narrowest_path"].to_string();
    type Read = Box<dyn Fn(&Value) -> String>;
    let kinds: Vec<(&str, &str, Read)> = vec![
        ("ipv4.conf.eth0.forwarding", "0", Box::new(of_link("forwarding4"))),
        ("ipv6.conf.all.forwarding", "0", Box::new(of_link("forwarding6"))),
        ("ipv6.conf.all.forwarding", "1", Box::new(of_link("forwarding6"))),
        ("ipv4.conf.eth0.accept_redirects", "0", Box::new(of_link("redirected4"))),
        ("ipv6.conf.eth0.forwarding", "0", Box::new(of_link("redirected6"))),
        ("ipv6.conf.eth0.disable_ipv6", "1", Box::new(of_link("forwarding6"))),
        ("ipv4.conf.eth0.rp_filter", "1", Box::new(of_link("rp_filter"))),
        ("ipv4.conf.all.rp_filter", "2", Box::new(of_link("rp_filter"))),
        ("ipv4.conf.eth0.src_valid_mark", "1", Box::new(of_link("src_valid_mark"))),
        ("ipv4.conf.eth0.accept_local", "1", Box::new(of_link("accept_local"))),
        ("ipv4.conf.eth0.ignore_routes_with_linkdown", "1", Box::new(of_link("ignore_linkdown4"))),
        ("ipv6.conf.all.ignore_routes_with_linkdown", "1", Box::new(of_link("ignore_linkdown6"))),
        (
            "ipv6.conf.eth1.mtu",
            "1280",
            Box::new(|sysctls| {
                let links = sysctls["links"].as_array().expect("interfaces");
                links
                    .iter()
                    .find(|one| one[0] == "eth1" && one[1] == "mtu6")
                    .map(|one| one[2].to_string())
                    .unwrap_or_default()
            }),
        ),
        ("ipv4.fib_multipath_hash_policy", "1", Box::new(spreading)),
        ("ipv6.fib_multipath_hash_policy", "3", Box::new(spreading)),
        ("ipv6.fib_multipath_hash_fields", "1", Box::new(spreading)),
        ("ipv4.fib_multipath_hash_seed", "7", Box::new(spreading)),
        ("ipv4.fib_multipath_use_neigh", "1", Box::new(spreading)),
        ("ipv4.ip_forward_use_pmtu", "1", Box::new(narrow)),
    ];
    for (key, value, read) in kinds {
        let before = read(&shunt.mirror()["sysctls"]);
        net.router.run(&format!("sysctl -qw net.{key}={value}"));
        let start = Instant::now();
        let followed = eventually(bound, || (read(&shunt.mirror()["sysctls"]) != before).then(|| start.elapsed()));
        println!("{followed:9.3?}  {key} = {value}");
        assert!(followed.is_some(), "{key} = {value} is not followed within {bound:?}: {before}");
    }
    Holdings::equal_within(&shunt, BOUND);
}

/// A hundred thousand changes, and no room for events: the kernel throws them away, and the mirror reads everything anew.
#[test]
fn privileged_lost_events_are_made_up_for() {
    let net = TwoWays::new();
    let route = |number: u32| format!("100.{}.{}.{}/32", 64 + (number >> 16), number >> 8 & 255, number & 255);
    let batch = |verb: &str, numbers: std::ops::Range<u32>, via: &str| -> String {
        numbers.map(|number| format!("route {verb} {} via {via}\n", route(number))).collect()
    };
    let run = |text: String| {
        std::fs::write("/run/batch", text).expect("a place for the batch");
        net.router.run("ip -batch /run/batch");
    };
    let shunt = net.router.start_shunt("--event-buffer 4096");
    run(batch("add", 0..50_000, "198.51.100.10"));
    // Of addresses the kernel says when a dump was interrupted, of IPv4 routes it does not.
    let addresses =
        |verb: &str| (60_000..64_000).map(|number| format!("addr {verb} {} dev lo\n", route(number))).collect();
    let interrupted = || shunt.status()["mirror"]["retried_dumps"].as_u64() > Some(0);
    run(addresses("add"));
    // Whether a dump ran just then is chance.
    for _ in 0..20 {
        if interrupted() {
            break;
        }
        run(addresses("del"));
        run(addresses("add"));
    }
    assert!(interrupted(), "no dump of addresses was interrupted: {:#}", shunt.status());
    run(batch("replace", 0..30_000, "203.0.113.10") + &batch("del", 30_000..50_000, "198.51.100.10"));
    let took = Holdings::equal_within(&shunt, Duration::from_secs(10));
    let status = shunt.status();
    println!("{took:?} {}", status["mirror"]);
    assert!(status["mirror"]["lost_events"].as_u64() > Some(0), "nothing was lost: the story tells nothing");
    assert!(status["mirror"]["resyncs"].as_u64() > Some(0), "{status:#}");
    assert_eq!(status["mirror"]["in_step"], true, "{status:#}");
    assert_eq!(status["mirror"]["audit"]["differing"], 0, "what was lost is known to be lost: {status:#}");
}

/// Somebody with the right to do so sends to our socket and to its groups: deletions that the kernel never made, and junk.
#[test]
fn privileged_messages_that_are_not_the_kernels_are_not_believed() {
    let net = TwoWays::new();
    let shunt = net.router.start_shunt("");
    let generation = shunt.generation();
    // The socket that listens has groups; the number of a netlink socket stands in the third column, its groups in the fourth.
    let sockets = net.router.run("cat /proc/net/netlink");
    let listening = sockets.lines().skip(1).filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let groups = u32::from_str_radix(words[3], 16).ok()?;
        (words[1] == "0" && groups & 0x40 != 0).then(|| words[2].parse::<u32>().ok()).flatten()
    });
    let ports: Vec<u32> = listening.filter(|port| *port != 0).collect();
    assert!(!ports.is_empty(), "{sockets}");
    net.router.enter(|| {
        let own = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::empty(), SockProtocol::NetlinkRoute);
        let own = own.expect("a netlink socket");
        let send = |message: &[u8], to: &NetlinkAddr| {
            sendto(std::os::fd::AsRawFd::as_raw_fd(&own), message, to, MsgFlags::empty()).expect("it is sent");
        };
        let mut state = 1u64;
        for _ in 0..2000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let junk = state.to_le_bytes().repeat(3 + (state >> 60) as usize);
            for port in &ports {
                send(&deleted_route(), &NetlinkAddr::new(*port, 0));
                send(&junk, &NetlinkAddr::new(*port, 0));
            }
            // RTMGRP_IPV4_ROUTE
            send(&deleted_route(), &NetlinkAddr::new(0, 0x40));
        }
    });
    let heard = eventually(BOUND, || (shunt.status()["mirror"]["strangers"].as_u64() >= Some(6000)).then_some(()));
    let status = shunt.status();
    assert!(heard.is_some(), "{:#}", status["mirror"]);
    Holdings::equal_within(&shunt, BOUND);
    assert_eq!(shunt.generation(), generation, "a stranger made a policy");
    assert_eq!(net.client.ask_tcp(TwoWays::SERVER, 80).expect("an answer"), "fast");
    assert_eq!(status["mirror"]["undecodable"], 0);
}

/// `RTM_DELROUTE` of 198.18.0.0/15 via 198.51.100.10 in the main table, word for word as the kernel would put it.
fn deleted_route() -> Vec<u8> {
    let mut message = vec![0; 16];
    message[4] = 25;
    // struct rtmsg: family, destination length, table, protocol, scope, type.
    message.extend([2, 15, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0]);
    for (kind, value) in [(1u16, [198, 18, 0, 0]), (5, [198, 51, 100, 10]), (15, 254u32.to_ne_bytes())] {
        message.extend(8u16.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(value);
    }
    let length = message.len() as u32;
    message[..4].copy_from_slice(&length.to_ne_bytes());
    message
}

/// IPv6 dumps that changes come in between leave routes out, and the kernel does not say so.
#[test]
fn privileged_ipv6_tables_that_never_rest_are_held_whole() {
    let net = TwoWays::new();
    let batch = |verb: &str, numbers: std::ops::Range<u32>| -> String {
        numbers.map(|number| format!("route {verb} 2001:db8:8000:{number:x}::/64 via 2001:db8:2::10\n")).collect()
    };
    // Those in front and behind are added and deleted again and again, so that what a dump counts is never what it skips.
    std::fs::write("/run/all", batch("add", 0..40_000)).expect("a place for the batch");
    let again = (0..40_000).step_by(500).map(|at| batch("del", at..at + 9) + &batch("add", at..at + 9));
    std::fs::write("/run/again", again.collect::<String>()).expect("a place for the batch");
    net.router.run("ip -batch /run/all");
    let shunt = net.router.start_shunt("");
    let rests = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !rests.load(Ordering::Relaxed) {
                net.router.run("ip -batch /run/again");
            }
        });
        for _ in 0..20 {
            // An object that goes takes its routes along, so all are in doubt.
            net.router.run("ip nexthop add id 7 via 203.0.113.10 dev ppp0; ip nexthop del id 7");
            std::thread::sleep(Duration::from_millis(100));
        }
        let asked = Instant::now();
        println!("{} after {:?}", shunt.reload(), asked.elapsed());
        rests.store(true, Ordering::Relaxed);
    });
    Holdings::equal_within(&shunt, Duration::from_secs(5));
    let status = shunt.status();
    println!("{}", status["mirror"]);
    assert!(status["mirror"]["retried_dumps"].as_u64() > Some(0), "no change came in between: {status:#}");
    assert_eq!(status["mirror"]["audit"]["differing"], 0, "{status:#}");
}

/// What changed without a word is found when the operator asks for it.
#[test]
fn privileged_reload_reads_everything_and_says_what_had_differed() {
    let (net, shunt) = rich();
    let differed = |shunt: &Daemon| -> Vec<String> {
        let reload = shunt.reload();
        let words = reload["differed"].as_array().expect("parts").iter();
        words.map(|word| word.as_str().expect("a word").to_owned()).collect()
    };
    // The kernel may still be at settling neighbours.
    let quiet = eventually(BOUND, || differed(&shunt).is_empty().then_some(()));
    assert!(quiet.is_some());
    // A sysctl without an event, and an answer after which it is in force.
    net.router.run("sysctl -qw net.ipv4.conf.eth0.accept_local=1");
    assert!(differed(&shunt).contains(&"sysctls".to_owned()));
    let reload = shunt.reload();
    let status = shunt.status();
    assert_eq!(reload["generation"], status["policy"]["adopted"], "{reload} {:#}", status["policy"]);
    Holdings::equal_within(&shunt, Duration::ZERO);
    let text = net.router.shunt(&format!("reload --socket {}", shunt.socket())).stdout;
    assert!(text.contains("everything was in step"), "{text}");
}

/// `shunt status` and `shunt mirror` as the operator reads them.
#[test]
fn privileged_the_mirror_is_shown_in_the_words_of_ip() {
    let (net, shunt) = rich();
    let ask = |words: &str| net.router.shunt(&format!("{words} --socket {}", shunt.socket())).stdout;
    let mirror = ask("mirror");
    for line in [
        "route     192.88.3.0/24 nexthop via 203.0.113.10 dev ppp0 weight 2 nexthop via 198.51.100.10 dev eth1 weight 1\n",
        "route     default via 203.0.113.10 dev ppp0 table 201\n",
        "rule      101: from all to 192.88.0.0/16 fwmark 0x1/0xff goto 32766\n",
        "nexthop   id 10 group 1,3/2\n",
        "nexthop   id 11 group 1/2 type resilient buckets 8\n",
        "neighbour 203.0.113.77 dev ppp0 lladdr 02:00:00:00:00:77 PERMANENT\n",
        "address   203.0.113.2/24 dev ppp0\n",
    ] {
        assert!(mirror.contains(line), "{line:?} is not in\n{mirror}");
    }
    let six = ask("mirror -6 --table 202");
    assert!(six.contains("route     2001:db8:14::/64 via 2001:db8:3::10 dev ppp0 metric 7 table 202\n"), "{six}");
    assert_eq!(six.lines().filter(|line| line.starts_with("route")).count(), 1, "{six}");
    assert!(!six.contains("192.88."), "{six}");
    let refused = net.router.shunt(&format!("mirror --table nowhere --socket {}", shunt.socket()));
    assert!(refused.code == 2 && refused.stderr.contains("--table nowhere"), "{refused:?}");
    let status = ask("status");
    for words in
        ["mirror    in step", "audit     ", "source    routes          told", "source    sysctls         polled"]
    {
        assert!(status.contains(words), "{words:?} is not in\n{status}");
    }
    let status = shunt.status();
    let sources = status["mirror"]["sources"].as_array().expect("sources");
    assert!(sources.iter().all(|source| source["staleness_bound_ms"].as_u64() <= Some(1000)), "{status:#}");
    assert!(status["mirror"]["age_ms"].as_u64() < Some(1000), "{status:#}");
}
