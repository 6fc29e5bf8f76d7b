//! The network around each of the two routers, and the state from which every case starts.
//!
//! ```text
//!   hosts .10 .11 .12 ---- p0  198.51.100.1/26    203.0.113.1/26    2001:db8:0::1/64  \
//!   hosts .74 .75 .76 ---- p1  198.51.100.65/26   203.0.113.65/26   2001:db8:1::1/64   [router]
//!   hosts .138 ...    ---- p2  198.51.100.129/26  203.0.113.129/26  2001:db8:2::1/64  /
//!   hosts .202 ...    ---- p3  198.51.100.193/26  203.0.113.193/26  2001:db8:3::1/64 /
//! ```
//!
//! Behind the host .10 (.74, ...) of each port lies a network of [`behind4`] and [`behind6`], from which packets come. Nobody lives at the
//! far ends, they only listen: the router knows the hosts' addresses by permanent entries. Packets are marked by their source port.

use std::fmt::Write as _;

use shunt_policy::Mac;

use super::command::Command;
use super::packet::{far_mac, router_mac};

pub const PORTS: usize = 4;
/// Last part of the addresses of hosts, whose MACs are known.
pub const HOSTS: [u8; 3] = [10, 11, 12];
/// Routes of a case carry it, so that they can be taken away.
pub const PROTOCOL: &str = "99";

/// UDP and TCP source ports, and the marks that PREROUTING gives to them.
pub const MARKS: [(u16, u32); 5] = [(5001, 0x1), (5002, 0x2), (5003, 0x100), (5004, 0x111), (5005, 0xffff_ffff)];

/// The first address of a port's IPv4 network, `198.51.100.0/26` and so on.
pub fn net4(port: usize, host: u8) -> String {
    format!("198.51.100.{}", port as u8 * 64 + host)
}

/// The same in the port's second network.
pub fn second4(port: usize, host: u8) -> String {
    format!("203.0.113.{}", port as u8 * 64 + host)
}

pub fn net6(port: usize, host: u8) -> String {
    format!("2001:db8:{port}::{host:x}")
}

/// A host of the network behind a port, `198.19.0.0/18` and so on.
pub fn behind4(port: usize, host: u16) -> String {
    let [high, low] = (host & 0x3fff).to_be_bytes();
    format!("198.19.{}.{low}", port as u8 * 64 + high)
}

/// The same of `2001:db8:f0::/48` and so on.
pub fn behind6(port: usize, host: u16) -> String {
    format!("2001:db8:f{port}::{host:x}")
}

/// What is done once.
pub fn set_up() -> String {
    let mut script = String::new();
    for port in 0..PORTS {
        // Anew, so that the link-local address follows.
        let lladdr = Mac(router_mac(port));
        let _ = writeln!(script, "ip link set p{port} down; ip link set p{port} address {lladdr} up");
    }
    script + &marks()
}

/// The rules that every case finds.
fn marks() -> String {
    let mut script = String::new();
    for family in ["iptables", "ip6tables"] {
        let _ = writeln!(script, "{family}-nft-restore --noflush <<'END'\n*mangle");
        for (port, mark) in MARKS {
            for protocol in ["udp", "tcp"] {
                let matched = format!("-p {protocol} --sport {port}");
                let _ = writeln!(script, "-A PREROUTING {matched} -j MARK --set-mark {mark:#x}");
            }
        }
        script += "COMMIT\nEND\n";
    }
    script
}

/// Has the chains of iptables-legacy on the hooks, from which it never takes them off again.
pub fn legacy_tables(tables: &[&str]) -> Command {
    let mut script = String::new();
    for family in ["iptables", "ip6tables"] {
        for table in tables {
            let _ = writeln!(script, "{family}-legacy -w 10 -t {table} -S >/dev/null");
        }
    }
    Command::Shell(script)
}

/// Takes back all rules of netfilter's that a case may have loaded, and what the kernel has learned by them.
pub fn reset_rules() -> Vec<Command> {
    let mut script = "nft flush ruleset\n".to_owned();
    for family in ["iptables", "ip6tables"] {
        let empty = ["raw", "mangle", "filter"]
            .map(|table| {
                let hooks: &[&str] = match table {
                    "raw" => &["PREROUTING"],
                    "filter" => &["FORWARD"],
                    _ => &["PREROUTING", "FORWARD", "POSTROUTING"],
                };
                let policies: String = hooks.iter().map(|hook| format!(":{hook} ACCEPT [0:0]\n")).collect();
                format!("*{table}\n{policies}COMMIT\n")
            })
            .concat();
        let _ = write!(script, "{family}-legacy-restore -w 10 <<'END'\n{empty}END\n");
        // Where it is not, its name would have it made.
        let names = family.replace("tables", "_tables_names");
        let _ = writeln!(script, "if grep -qx nat /proc/net/{names}; then {family}-legacy -w 10 -t nat -F; fi");
    }
    // The kernel lets go of what rules have used some time after them.
    script += "for i in $(seq 20); do ipset flush; ipset destroy 2>/dev/null && break; sleep 0.02; done\n";
    vec![Command::Shell(script + &marks()), Command::ForgetConnections]
}

/// Takes back whatever a case may have done.
pub fn reset() -> Vec<Command> {
    let mut all = vec![
        Command::ip4(format!("route flush table all proto {PROTOCOL}")),
        // All but those of priority 0, of which the case may have moved the only one.
        Command::ip4("rule flush"),
        Command::ip4("rule del priority 0"),
        Command::ip4("rule add priority 0 table local"),
        Command::ip4("rule add priority 32766 table main"),
        Command::ip4("rule add priority 32767 table default"),
        Command::ip6(format!("route flush table all proto {PROTOCOL}")),
        Command::ip6("rule flush"),
        Command::ip6("rule del priority 0"),
        Command::ip6("rule add priority 0 table local"),
        Command::ip6("rule add priority 32766 table main"),
        Command::ip("nexthop flush"),
    ];
    // Before addresses and neighbours: with IPv6 disabled the kernel takes none of them.
    all.extend(sysctls());
    for port in 0..PORTS {
        all.push(Command::Far(format!("link set w{port} up")));
    }
    for port in 0..PORTS {
        all.push(Command::ip(format!("link set p{port} up mtu 1500 group default")));
        for address in [net4(port, 1), second4(port, 1)] {
            all.push(Command::ip(format!("addr replace {address}/26 dev p{port}")));
        }
        all.push(Command::ip(format!("addr replace {}/64 dev p{port} nodad", net6(port, 1))));
        for host in HOSTS {
            for address in [net4(port, host), second4(port, host), net6(port, host), format!("fe80::{host:x}")] {
                let lladdr = Mac(far_mac(port, host));
                all.push(Command::ip(format!("neigh replace {address} lladdr {lladdr} dev p{port} nud permanent")));
            }
        }
    }
    for port in 0..PORTS {
        let (via4, via6) = (net4(port, HOSTS[0]), net6(port, HOSTS[0]));
        all.push(Command::ip4(format!("route replace {}/18 via {via4}", behind4(port, 0))));
        all.push(Command::ip6(format!("route replace {}/48 via {via6}", behind6(port, 0))));
    }
    all
}

/// Everything that a case may change, and what makes ICMP errors comparable: no limits, no random flow labels.
fn sysctls() -> Vec<Command> {
    let mut all = Vec::new();
    let mut set = |path: String, value: u32| all.push(Command::sysctl(path, value));
    for (key, value) in [
        ("ipv4/ip_forward", 1),
        ("ipv4/icmp_ratelimit", 0),
        ("ipv4/icmp_msgs_per_sec", 1_000_000),
        ("ipv4/icmp_msgs_burst", 100_000),
        ("ipv4/icmp_errors_use_inbound_ifaddr", 0),
        ("ipv4/ip_forward_use_pmtu", 0),
        ("ipv4/ip_forward_update_priority", 1),
        ("ipv4/fib_multipath_hash_policy", 0),
        ("ipv4/fib_multipath_hash_fields", 7),
        ("ipv4/fib_multipath_hash_seed", 1),
        ("ipv4/fib_multipath_use_neigh", 0),
        ("ipv4/fwmark_reflect", 0),
        ("ipv6/icmp/ratelimit", 0),
        ("ipv6/auto_flowlabels", 0),
        ("ipv6/flowlabel_reflect", 0),
        ("ipv6/fib_multipath_hash_policy", 0),
        ("ipv6/fib_multipath_hash_fields", 7),
        ("ipv6/conf/all/forwarding", 1),
        ("ipv6/conf/all/keep_addr_on_down", 1),
    ] {
        set(key.to_owned(), value);
    }
    for key in [
        "rp_filter",
        "accept_local",
        "src_valid_mark",
        "ignore_routes_with_linkdown",
        "accept_redirects",
        "route_localnet",
        "bc_forwarding",
    ] {
        set(format!("ipv4/conf/all/{key}"), 0);
    }
    set("ipv4/conf/all/send_redirects".to_owned(), 1);
    for key in ["ignore_routes_with_linkdown", "accept_redirects"] {
        set(format!("ipv6/conf/all/{key}"), 0);
    }
    for port in 0..PORTS {
        for (key, value) in [
            ("forwarding", 1),
            ("rp_filter", 0),
            ("accept_local", 0),
            ("src_valid_mark", 0),
            ("route_localnet", 0),
            ("bc_forwarding", 0),
            ("send_redirects", 1),
            ("shared_media", 1),
            ("accept_redirects", 1),
            ("accept_source_route", 0),
            ("ignore_routes_with_linkdown", 0),
            ("drop_unicast_in_l2_multicast", 0),
        ] {
            set(format!("ipv4/conf/p{port}/{key}"), value);
        }
        for (key, value) in
            [("forwarding", 1), ("force_forwarding", 0), ("ignore_routes_with_linkdown", 0), ("disable_ipv6", 0)]
        {
            set(format!("ipv6/conf/p{port}/{key}"), value);
        }
    }
    all
}
