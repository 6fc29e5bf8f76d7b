//! Rules, routes, nexthop objects, links and sysctls.

use fastrand::Rng;
use shunt_policy::{Family, Mac};

use super::{one, rarely};
use crate::twin::base::{HOSTS, MARKS, PORTS, PROTOCOL, net4, net6, second4};
use crate::twin::command::{Command, RawRule};
use crate::twin::packet::far_mac;

const TABLES: [u32; 6] = [254, 254, 253, 100, 101, 4_000_000_000];
const NETWORKS4: [&str; 12] = [
    "default",
    "198.18.0.0/15",
    "198.18.0.0/16",
    "198.18.64.0/18",
    "198.18.7.0/24",
    "198.18.7.128/25",
    "198.18.7.9/32",
    "198.18.7.8/31",
    "198.51.100.64/27",
    "203.0.113.0/24",
    "192.0.2.0/24",
    "198.19.64.0/19",
];
const NETWORKS6: [&str; 10] = [
    "default",
    "2001:db8:100::/40",
    "2001:db8:100::/48",
    "2001:db8:100:7::/64",
    "2001:db8:100:7::/65",
    "2001:db8:100:7::9/128",
    "2001:db8:100:4000::/50",
    "2001:db8:1::/80",
    "2001:db8:f1::/49",
    "2001:db8::/32",
];

/// The configuration of a case.
pub fn commands(rng: &mut Rng) -> Vec<Command> {
    let mut all = sysctls(rng);
    links(rng, &mut all);
    neighbours(rng, &mut all);
    for family in Family::BOTH {
        let objects = nexthops(rng, family, &mut all);
        for _ in 0..rng.usize(4..22) {
            all.extend(route(rng, family, &objects));
        }
        rules(rng, family, &mut all);
    }
    all
}

fn ip(family: Family, text: String) -> Command {
    Command::Ip(Some(family), text)
}

fn sysctls(rng: &mut Rng) -> Vec<Command> {
    let mut all = Vec::new();
    // Those of all first: what the interfaces say behind it counts for some of them.
    for (path, odds) in [
        ("ipv4/conf/all/ignore_routes_with_linkdown", 12),
        ("ipv6/conf/all/ignore_routes_with_linkdown", 12),
        ("ipv4/conf/all/accept_redirects", 12),
        ("ipv6/conf/all/accept_redirects", 12),
    ] {
        if rarely(rng, odds) {
            all.push(Command::sysctl(path, 1));
        }
    }
    for port in 0..PORTS {
        let mut set = |family: &str, key: &str, value: u32| {
            all.push(Command::sysctl(format!("{family}/conf/p{port}/{key}"), value))
        };
        if rarely(rng, 3) {
            set("ipv4", "rp_filter", rng.u32(0..3));
        }
        for (key, odds) in [
            ("accept_local", 6),
            ("src_valid_mark", 4),
            ("route_localnet", 8),
            ("bc_forwarding", 8),
            ("ignore_routes_with_linkdown", 4),
        ] {
            if rarely(rng, odds) {
                set("ipv4", key, 1);
            }
        }
        for (family, key, odds) in [
            ("ipv4", "forwarding", 16),
            ("ipv4", "send_redirects", 4),
            ("ipv4", "shared_media", 4),
            ("ipv6", "disable_ipv6", 40),
        ] {
            if rarely(rng, odds) {
                set(family, key, u32::from(key == "disable_ipv6"));
            }
        }
        if rarely(rng, 4) {
            set("ipv6", "ignore_routes_with_linkdown", rng.u32(..2));
        }
        if rarely(rng, 6) {
            set("ipv4", "accept_redirects", rng.u32(..2));
        }
        if rarely(rng, 16) {
            set("ipv6", "forwarding", 0);
        }
        if rarely(rng, 16) {
            set("ipv6", "force_forwarding", 1);
        }
    }
    let mut set = |path: &str, value: u32| all.push(Command::sysctl(path, value));
    for (key, odds) in
        [("rp_filter", 8), ("accept_local", 12), ("src_valid_mark", 8), ("route_localnet", 16), ("bc_forwarding", 12)]
    {
        if rarely(rng, odds) {
            set(&format!("ipv4/conf/all/{key}"), if key == "rp_filter" { rng.u32(0..3) } else { 1 });
        }
    }
    if rarely(rng, 12) {
        set("ipv6/conf/all/forwarding", 0);
    }
    for family in ["ipv4", "ipv6"] {
        set(&format!("{family}/fib_multipath_hash_policy"), rng.u32(0..4));
        set(&format!("{family}/fib_multipath_hash_fields"), rng.u32(1..0x1000));
    }
    set("ipv4/fib_multipath_hash_seed", rng.u32(1..));
    set("ipv4/fib_multipath_use_neigh", rng.u32(0..2));
    if rarely(rng, 8) {
        set("ipv4/ip_forward_use_pmtu", 1);
    }
    if rarely(rng, 4) {
        set("ipv4/icmp_errors_use_inbound_ifaddr", 1);
    }
    if rarely(rng, 8) {
        set("ipv4/fwmark_reflect", 1);
    }
    all
}

fn links(rng: &mut Rng, all: &mut Vec<Command>) {
    for port in 0..PORTS {
        if rarely(rng, 6) {
            all.push(Command::ip(format!("link set p{port} mtu {}", one(rng, &[1280, 1300, 1400, 1499]))));
        }
        if rarely(rng, 4) {
            all.push(Command::ip(format!("link set p{port} group {}", rng.u32(0..3))));
        }
        if rarely(rng, 12) {
            all.push(Command::Far(format!("link set w{port} down")));
        }
        if rarely(rng, 24) {
            all.push(Command::ip(format!("link set p{port} down")));
        }
        if rarely(rng, 16) {
            all.push(Command::ip(format!("addr del {}/26 dev p{port}", second4(port, 1))));
        }
    }
}

/// Entries in other states than permanent, with other addresses, or none.
fn neighbours(rng: &mut Rng, all: &mut Vec<Command>) {
    for port in 0..PORTS {
        for host in HOSTS {
            for address in [net4(port, host), second4(port, host), net6(port, host), format!("fe80::{host:x}")] {
                let state = match rng.u32(..60) {
                    0 => "stale",
                    1 => "reachable",
                    2 => "failed",
                    3 => "noarp",
                    4 => "permanent",
                    5 => {
                        all.push(Command::ip(format!("neigh del {address} dev p{port}")));
                        continue;
                    }
                    _ => continue,
                };
                let lladdr = Mac(far_mac(port, one(rng, &[host, 14])));
                all.push(Command::ip(format!("neigh replace {address} lladdr {lladdr} dev p{port} nud {state}")));
            }
        }
    }
}

/// A next hop: mostly one that can be reached, of either family.
fn hop(rng: &mut Rng, family: Family) -> String {
    let port = rng.usize(..PORTS);
    // One more than there are: nobody answers there.
    let host = if rarely(rng, 10) { 13 } else { one(rng, &HOSTS) };
    match (family, rng.u32(..10)) {
        (_, 0) => format!("dev p{port}"),
        (Family::V4, 1) => format!("via inet6 {} dev p{port}", net6(port, host)),
        (Family::V4, 2..5) => format!("via {} dev p{port}", second4(port, host)),
        (Family::V4, 5) => format!("via {} dev p{port} onlink", net4(rng.usize(..PORTS), host)),
        (Family::V4, _) => format!("via {} dev p{port}", net4(port, host)),
        (Family::V6, 1..4) => format!("via fe80::{host:x} dev p{port}"),
        (Family::V6, _) => format!("via {} dev p{port}", net6(port, host)),
    }
}

/// Objects, and the ids under which routes may name them.
fn nexthops(rng: &mut Rng, family: Family, all: &mut Vec<Command>) -> Vec<u32> {
    if rarely(rng, 2) {
        return Vec::new();
    }
    let base = if family == Family::V4 { 10 } else { 50 };
    let mut ids = Vec::new();
    for id in base..base + rng.u32(2..6) {
        let what = if rarely(rng, 12) { "blackhole".to_owned() } else { hop(rng, family).replace("inet6 ", "") };
        all.push(ip(family, format!("nexthop add id {id} {what}")));
        ids.push(id);
    }
    let single = ids.clone();
    for id in base + 10..base + 10 + rng.u32(0..4) {
        let members: Vec<String> = (0..rng.usize(1..4))
            .map(|_| {
                let member = one(rng, &single);
                if rng.bool() { format!("{member},{}", rng.u32(1..6)) } else { member.to_string() }
            })
            .collect();
        let kind =
            if rarely(rng, 3) { format!(" type resilient buckets {}", one(rng, &[4, 8, 32])) } else { String::new() };
        all.push(Command::ip(format!("nexthop add id {id} group {}{kind}", members.join("/"))));
        ids.push(id);
    }
    ids
}

fn route(rng: &mut Rng, family: Family, objects: &[u32]) -> Option<Command> {
    let network = match family {
        Family::V4 => one(rng, &NETWORKS4),
        Family::V6 => one(rng, &NETWORKS6),
    };
    let table = if rarely(rng, 24) { 255 } else { one(rng, &TABLES) };
    let mut text = match rng.u32(..24) {
        0 => format!("unreachable {network}"),
        1 => format!("prohibit {network}"),
        2 => format!("blackhole {network}"),
        3 => format!("throw {network}"),
        4 if table != 255 && !rarely(rng, 4) => format!("{network} {}", hop(rng, family)),
        4 => format!("local {network} dev lo"),
        5 if !rarely(rng, 3) => format!("{network} {}", hop(rng, family)),
        5 => format!("{} {network} dev p{}", one(rng, &["broadcast", "anycast", "multicast"]), rng.usize(..PORTS)),
        6..10 if !objects.is_empty() => format!("{network} nhid {}", one(rng, objects)),
        10..14 => {
            let legs: Vec<String> = (0..rng.usize(2..5))
                .map(|_| {
                    let hop = hop(rng, family).replace(" onlink", "");
                    format!("nexthop {hop} weight {}", rng.u32(1..5))
                })
                .collect();
            format!("{network} METRIC {}", legs.join(" "))
        }
        _ => format!("{network} {}", hop(rng, family)),
    };
    let mut extra = String::new();
    if rarely(rng, 4) {
        extra += &format!(" metric {}", one(rng, &[1u32, 20, 256, 1024, u32::MAX]));
    }
    if family == Family::V4 && rarely(rng, 10) {
        extra += &format!(" tos {:#x}", one(rng, &[0x10, 0x08, 0x1c]));
    }
    if rarely(rng, 16) {
        extra += &format!(" mtu {}{}", if rng.bool() { "lock " } else { "" }, one(rng, &[1280, 1350, 1450]));
    }
    if family == Family::V6 && rarely(rng, 10) {
        extra += &format!(" pref {}", one(rng, &["low", "medium", "high"]));
    }
    if family == Family::V4 && rarely(rng, 12) {
        extra += &format!(" src {}", net4(rng.usize(..PORTS), 1));
    }
    let extra = format!("table {table} proto {PROTOCOL}{extra}");
    // What belongs to the route as a whole stands before its legs.
    text = if text.contains("METRIC") { text.replace("METRIC", &extra) } else { format!("{text} {extra}") };
    let verb = one(rng, &["add", "add", "add", "append", "prepend", "replace"]);
    Some(ip(family, format!("route {verb} {text}")))
}

fn rules(rng: &mut Rng, family: Family, all: &mut Vec<Command>) {
    for _ in 0..rng.u32(..8) {
        let priority = one(rng, &[9, 50, 100, 100, 200, 300, 32_000, 32_800]);
        if rarely(rng, 6) {
            all.push(Command::Rule(raw_rule(rng, family, priority)));
            continue;
        }
        let mut text = format!("rule add {}priority {priority}", if rarely(rng, 10) { "not " } else { "" });
        for _ in 0..rng.u32(0..3) {
            text += &selector(rng, family);
        }
        text += &action(rng);
        all.push(ip(family, text));
    }
    // The kernel's own three, moved or deleted.
    match rng.u32(..16) {
        0 => {
            all.push(ip(family, "rule add priority 99 table local".to_owned()));
            all.push(ip(family, "rule del priority 0 table local".to_owned()));
        }
        1 => all.push(ip(family, "rule del priority 32766 table main".to_owned())),
        _ => {}
    }
}

fn selector(rng: &mut Rng, family: Family) -> String {
    let network = |rng: &mut Rng| match family {
        Family::V4 => one(
            rng,
            &["198.18.0.0/15", "198.18.7.0/24", "198.18.7.9", "198.19.0.0/18", "192.0.2.0/24", "198.51.100.0/26"],
        ),
        Family::V6 => one(
            rng,
            &["2001:db8:100::/40", "2001:db8:100:7::/64", "2001:db8:100:7::9", "2001:db8:f0::/48", "2001:db8:1::/64"],
        ),
    };
    match rng.u32(..13) {
        0 => format!(" from {}", network(rng)),
        1 => format!(" to {}", network(rng)),
        2 => format!(" iif {}", one(rng, &["p0", "p1", "p2", "p3", "lo", "gone"])),
        3 => format!(" oif {}", one(rng, &["p0", "p1", "lo"])),
        4 | 5 => match rng.u32(..4) {
            0 => " fwmark 0/0xff".to_owned(),
            1 => " fwmark 0x100/0xf00".to_owned(),
            2 => " fwmark 0x1/0x1".to_owned(),
            _ => format!(" fwmark {:#x}", one(rng, &MARKS).1),
        },
        6 | 7 => format!(" tos {:#x}", one(rng, &[0x10, 0x08, 0x1c])),
        8 => format!(" ipproto {}", one(rng, &["udp", "tcp", "icmp", "132", "50"])),
        9 => format!(" sport {}", one(rng, &["4000-5001", "5003", "0-65535", "6000-6010"])),
        10 => format!(" dport {}", one(rng, &["9", "25-80", "53"])),
        11 => format!(" uidrange {}", one(rng, &["0-0", "1-1000", "0-4294967294"])),
        _ => format!(" tun_id {}", rng.u32(1..3)),
    }
}

fn action(rng: &mut Rng) -> String {
    match rng.u32(..14) {
        0 => " blackhole".to_owned(),
        1 => " unreachable".to_owned(),
        2 => " prohibit".to_owned(),
        3 => " nop".to_owned(),
        4 | 5 => format!(" goto {}", one(rng, &[100, 200, 300, 400, 32_000])),
        6 => format!(" lookup main suppress_prefixlength {}", one(rng, &[0, 0, 8, 16, 24])),
        7 => format!(" lookup {} suppress_ifgroup {}", one(rng, &[254, 100]), rng.u32(0..3)),
        _ => format!(" lookup {}", one(rng, &[100, 101, 101, 253, 254, 255, 7777, 4_000_000_000u32])),
    }
}

/// Selectors that need a newer iproute2: `dscp` and its mask, port masks, flow labels.
fn raw_rule(rng: &mut Rng, family: Family, priority: u32) -> RawRule {
    let range = |port: u16| [port.to_ne_bytes(), port.to_ne_bytes()].concat();
    let attributes = match rng.u32(..if family == Family::V6 { 6 } else { 4 }) {
        0 => vec![(25, vec![one(rng, &[4, 46, 12, 7])])],
        1 => vec![(25, vec![one(rng, &[4, 46, 12, 0])]), (30, vec![one(rng, &[0x38, 0x07, 0x3f, 0x2e])])],
        // FRA_SPORT_RANGE and its mask.
        2 => vec![(23, range(one(rng, &[0x1388, 0x1000]))), (28, 0xfff0u16.to_ne_bytes().to_vec())],
        3 => vec![(24, range(one(rng, &[0x0018, 0x0009]))), (29, 0x000fu16.to_ne_bytes().to_vec())],
        // FRA_FLOWLABEL and its mask.
        4 => vec![(26, 0x12345u32.to_be_bytes().to_vec())],
        _ => vec![(26, 0x12000u32.to_be_bytes().to_vec()), (27, 0xff000u32.to_be_bytes().to_vec())],
    };
    RawRule { family, priority, table: one(rng, &[100, 101]), attributes }
}
