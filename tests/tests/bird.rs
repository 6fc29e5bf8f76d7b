//! A routing daemon at work: BIRD hears a hundred thousand routes from a neighbour and writes them into the router's kernel. They
//! go and come again, and what shunt holds is what the kernel holds, while packets flow.

use std::time::{Duration, Instant};

use shunt_policy::Mac;
use shunt_tests::lab::{Daemon, Holdings, Namespace, Process, Stream, TwoWays, eventually};

const ROUTES4: u32 = 60_000;
const ROUTES6: u32 = 40_000;
const ROUTES: u64 = (ROUTES4 + ROUTES6) as u64;
const PATIENCE: Duration = Duration::from_secs(60);
/// This long after the kernel's last change the tables are equal.
const EQUAL: Duration = Duration::from_secs(1);

const ROUTER: &str = "
    router id 192.0.2.1;
    protocol device {}
    protocol kernel { ipv4 { import none; export where source = RTS_BGP; }; }
    protocol kernel { ipv6 { import none; export where source = RTS_BGP; }; }
    protocol bgp neighbour {
        local 203.0.113.1 as 64500;
        neighbor 203.0.113.10 as 64501;
        connect delay time 1; connect retry time 1; error wait time 1, 1;
        ipv4 { import all; export none; };
        ipv6 { import all; export none; };
    }";
const PEER: &str = r#"
    router id 203.0.113.10;
    protocol device {}
    protocol static routes4 { ipv4;
        include "/run/routes4.conf";
    }
    protocol static routes6 { ipv6;
        include "/run/routes6.conf";
    }
    protocol bgp uplink {
        local 203.0.113.10 as 64501;
        neighbor 203.0.113.1 as 64500;
        connect delay time 1; connect retry time 1; error wait time 1, 1;
        ipv4 { import none; export all; };
        ipv6 { import none; export all; next hop address 2001:db8:3::10; };
    }"#;

/// A BIRD in a namespace.
struct Bird {
    namespace: Namespace,
    control: String,
    _process: Process,
}

impl Bird {
    fn start(namespace: &Namespace, config: &str) -> Bird {
        let path = |kind: &str| format!("/run/bird-{}.{kind}", namespace.name());
        std::fs::write(path("conf"), config).expect("a folder of ours");
        namespace.run(&format!("bird -p -c {}", path("conf")));
        let words = ["bird", "-f", "-c", &path("conf"), "-s", &path("ctl"), "-P", &path("pid")];
        let _process = namespace.spawn(&words);
        let bird = Bird { namespace: namespace.clone(), control: path("ctl"), _process };
        let up = eventually(Duration::from_secs(5), || (bird.try_say("show status").code == 0).then_some(()));
        assert!(up.is_some(), "bird does not start: {:?}", bird.try_say("show status"));
        bird
    }

    fn say(&self, command: &str) {
        let output = self.try_say(command);
        assert_eq!(output.code, 0, "birdc {command}: {output:?}");
    }

    fn try_say(&self, command: &str) -> shunt_tests::lab::Output {
        self.namespace.try_run(&format!("birdc -s {} {command}", self.control))
    }
}

/// The i-th announced IPv4 address and IPv6 network: none of them holds an address that anybody has.
fn announced4(number: u32) -> std::net::Ipv4Addr {
    std::net::Ipv4Addr::from_bits(u32::from_be_bytes([198, 18, 16, 0]) + number)
}

fn announced6(number: u32) -> String {
    format!("2001:db8:{:x}:{:x}", 0x8000 + (number >> 8), number & 0xff)
}

fn announcements() {
    let four: String = (0..ROUTES4).map(|number| format!("route {}/32 unreachable;\n", announced4(number))).collect();
    let six: String = (0..ROUTES6).map(|number| format!("route {}::/64 unreachable;\n", announced6(number))).collect();
    std::fs::write("/run/routes4.conf", four).expect("a folder of ours");
    std::fs::write("/run/routes6.conf", six).expect("a folder of ours");
}

/// Waits until BIRD has written as many routes as `announced`, and asserts that shunt holds what the kernel holds a second later.
fn in_step(net: &TwoWays, shunt: &Daemon, announced: u64) {
    let start = Instant::now();
    let written = || net.router.run("ip -4 route show proto bird; ip -6 route show proto bird").lines().count() as u64;
    let all = eventually(PATIENCE, || (written() == announced).then_some(()));
    assert!(all.is_some(), "the kernel has {} routes of BIRD's", written());
    println!("{announced} routes in the kernel after {:?}", start.elapsed());
    Holdings::equal_within(shunt, EQUAL);
    spot_checks(shunt, announced > 0);
}

/// Announced prefixes lead by `ppp0`, and without them a shorter one by `eth1` (IPv6: none).
fn spot_checks(shunt: &Daemon, announced: bool) {
    for sample in 0..10 {
        let four = announced4(sample * (ROUTES4 - 1) / 9);
        let answer = shunt.explain(&format!("--iif eth0 --src 192.0.2.10 --dst {four} --proto 17 --dport 9"));
        assert_eq!(answer["oif"], if announced { "ppp0" } else { "eth1" }, "{four}: {answer:#}");
        assert_eq!(answer["agreed"], true, "{answer:#}");
        let six = announced6(sample * (ROUTES6 - 1) / 9);
        let answer = shunt.explain(&format!("--iif eth0 --src 2001:db8:1::10 --dst {six}::1 --proto 17 --dport 9"));
        let expected = if announced { "forward" } else { "punt: no_route" };
        assert_eq!(answer["end"], expected, "{six}: {answer:#}");
        assert_eq!(answer["agreed"], true, "{answer:#}");
    }
}

#[test]
fn privileged_a_hundred_thousand_routes_come_and_go() {
    let net = TwoWays::new();
    announcements();
    // Only IPv4 is spoken over this link, and nobody is there to keep the other family's entry.
    let mac = Mac(net.slow.mac("eth0"));
    net.router.run(&format!("ip neigh replace 2001:db8:3::10 lladdr {mac} dev ppp0 nud permanent"));
    let shunt = net.router.start_shunt("");
    let kernel = net.router.kernel_forwarded();
    let stream = Stream::start(&net.client, TwoWays::SERVER, 5000, Duration::from_millis(1));

    let _router = Bird::start(&net.router, ROUTER);
    let peer = Bird::start(&net.slow, PEER);
    in_step(&net, &shunt, ROUTES);
    for _ in 0..2 {
        ["disable routes4", "disable routes6"].iter().for_each(|command| peer.say(command));
        in_step(&net, &shunt, 0);
        ["enable routes4", "enable routes6"].iter().for_each(|command| peer.say(command));
        in_step(&net, &shunt, ROUTES);
    }
    // The neighbour dies without a word, and comes back.
    drop(peer);
    in_step(&net, &shunt, 0);
    let _peer = Bird::start(&net.slow, PEER);
    in_step(&net, &shunt, ROUTES);

    let report = stream.finish();
    let status = shunt.status();
    println!("{report:?} {:#}", status["mirror"]);
    assert_eq!((report.lost(), report.duplicates), (0, 0), "{report:?} {status:#}");
    assert_eq!(report.answers.keys().collect::<Vec<_>>(), ["fast"], "{report:?}");
    assert_eq!(net.router.kernel_forwarded(), kernel, "the kernel forwarded: {status:#}");
    assert_eq!(status["mirror"]["undecodable"], 0);
    assert_eq!(shunt.terminate().code, 0);
}
