//! Rule sets that translate addresses and ask connection tracking, in all dialects, over routes chosen by marks.

use fastrand::Rng;
use shunt_policy::Family;

use super::netfilter::routing;
use super::{one, rarely};
use crate::twin::base::{MARKS, PORTS, net4, net6, second4};
use crate::twin::command::Command;
use crate::twin::rules::{Backend, Tool};

/// Ranges of ports that rules translate to. Outside of them, a port keeps its class.
pub const PORT_RANGES: [(u16, u16); 4] = [(20000, 20100), (30000, 30003), (8080, 8080), (40000, 40010)];

/// The configuration of a case.
pub fn commands(rng: &mut Rng) -> Vec<Command> {
    let mut all = routing(rng);
    for key in ["nf_conntrack_tcp_loose", "nf_conntrack_tcp_be_liberal", "nf_conntrack_checksum"] {
        let usual = u32::from(key != "nf_conntrack_tcp_be_liberal");
        let value = if rarely(rng, 6) { 1 - usual } else { usual };
        all.push(Command::sysctl(format!("netfilter/{key}"), value));
    }
    let families: &[Family] = match rng.u32(..4) {
        0 => &[Family::V6],
        1 => &Family::BOTH,
        _ => &[Family::V4],
    };
    for family in families.iter().copied() {
        let back_end = one(rng, &[Some(Backend::Nft), Some(Backend::Legacy), None]);
        match back_end {
            Some(back_end) => xtables(rng, family, back_end, &mut all),
            None => nftables(rng, family, &mut all),
        }
        // Sometimes another one for the marks and verdicts of the same connections.
        if back_end.is_none() || rarely(rng, 4) {
            nft_states(rng, family, &mut all);
        }
    }
    all
}

fn xtables(rng: &mut Rng, family: Family, backend: Backend, all: &mut Vec<Command>) {
    let mut load = |table: &'static str, text: String| {
        all.push(Command::load(Tool::Iptables(family, backend), table, format!("-A {text}")));
    };
    if rarely(rng, 4) {
        load("raw", format!("PREROUTING{} -j CT --notrack", matches(rng, family)));
    }
    if rng.bool() {
        let mask = one(rng, &["", " --nfmask 0xff --ctmask 0xff"]);
        load("mangle", format!("PREROUTING -j CONNMARK --restore-mark{mask}"));
        for _ in 0..rng.u32(1..3) {
            let state = one(rng, &["", " -m conntrack --ctstate NEW", " -m mark --mark 0"]);
            let mark = one(rng, &MARKS).1;
            load("mangle", format!("PREROUTING{}{state} -j MARK --set-xmark {mark:#x}/0xff", matches(rng, family)));
        }
        load("mangle", format!("PREROUTING -j CONNMARK --save-mark{mask}"));
    }
    if rarely(rng, 4) {
        load(
            "mangle",
            format!("{} -j CONNMARK --set-xmark {:#x}/0xff00", one(rng, &["FORWARD", "POSTROUTING"]), 0x500),
        );
    }
    for _ in 0..rng.u32(..4) {
        load("nat", format!("PREROUTING{}", destination_target(rng, family)));
    }
    for _ in 0..rng.u32(1..4) {
        load("nat", format!("POSTROUTING{}", source_target(rng, family)));
    }
    for _ in 0..rng.u32(..4) {
        let state =
            one(rng, &["INVALID", "NEW", "ESTABLISHED", "RELATED", "ESTABLISHED,RELATED", "DNAT", "SNAT", "UNTRACKED"]);
        let table = one(rng, &["mangle", "filter"]);
        let chain = if table == "filter" { "FORWARD" } else { one(rng, &["PREROUTING", "FORWARD", "POSTROUTING"]) };
        let target = match rng.u32(..8) {
            0 => "-j DROP".to_owned(),
            1 if table == "mangle" => "-j MARK --or-mark 0x10".to_owned(),
            _ => "-j ACCEPT".to_owned(),
        };
        let only = match (target.as_str(), chain) {
            // There is no `-i`.
            ("-j DROP", "POSTROUTING") => " -p udp --dport 25".to_owned(),
            ("-j DROP", _) => matches(rng, family),
            _ => String::new(),
        };
        load(table, format!("{chain}{only} -m conntrack --ctstate {state} {target}"));
    }
    if rarely(rng, 4) {
        let direction = one(rng, &["ORIGINAL", "REPLY"]);
        load("mangle", format!("FORWARD -m conntrack --ctdir {direction} -j TOS --set-tos 0x10/0xff"));
    }
    if rarely(rng, 4) {
        load("mangle", format!("FORWARD -m connmark --mark {:#x}/0xff -j TOS --set-tos 0x08/0xff", one(rng, &MARKS).1));
    }
}

/// Which connections a rule takes; all of them, at times.
fn matches(rng: &mut Rng, family: Family) -> String {
    let mut text = String::new();
    if rarely(rng, 3) {
        text += &format!(" -i p{}", rng.usize(..PORTS));
    }
    match rng.u32(..6) {
        0 | 1 => text += &format!(" -p {}", one(rng, &["udp", "tcp"])),
        2 => text += &format!(" -p {} --dport {}", one(rng, &["udp", "tcp"]), one(rng, &[9, 25, 80, 53])),
        3 => text += if family == Family::V4 { " -p icmp" } else { " -p icmpv6" },
        _ => {}
    }
    text
}

fn port_range(rng: &mut Rng) -> String {
    let (first, last) = one(rng, &PORT_RANGES);
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

fn randomly(rng: &mut Rng, names: &[&'static str]) -> &'static str {
    if rarely(rng, 6) { one(rng, names) } else { "" }
}

/// A new destination: that of a host, or several.
fn destination_target(rng: &mut Rng, family: Family) -> String {
    let to = rng.usize(..PORTS);
    if rarely(rng, 8) {
        return match family {
            Family::V4 => " -d 198.18.7.128/26 -j NETMAP --to 198.18.64.0/26".to_owned(),
            Family::V6 => " -d 2001:db8:100:7::100/120 -j NETMAP --to 2001:db8:100:40::/120".to_owned(),
        };
    }
    let protocol = one(rng, &["udp", "tcp"]);
    if rarely(rng, 8) {
        let ports = if rng.bool() { " --to-ports 8080" } else { "" };
        return format!(" -p {protocol} --dport 25 -j REDIRECT{ports}");
    }
    let (own, target, range) = match family {
        Family::V4 => {
            let own = if rng.bool() { net4(to, 1) } else { second4(to, 1) };
            (own, format!("198.18.7.{}", one(rng, &[8, 9])), "198.18.64.8-198.18.64.11".to_owned())
        }
        Family::V6 => (net6(to, 1), "2001:db8:100:7::8".to_owned(), "2001:db8:100:40::8-2001:db8:100:40::b".to_owned()),
    };
    let selected = match rng.u32(..4) {
        0 => format!(" -d {own}"),
        1 => format!(" -d {own} -p {protocol}"),
        2 => format!(" -p {protocol} --dport {}", one(rng, &[9, 25, 80, 53])),
        _ => format!(" -i p{} -p {protocol}", rng.usize(..PORTS)),
    };
    let address = if rarely(rng, 3) { range } else { target };
    let flags = randomly(rng, &[" --random", " --persistent"]);
    let port = if selected.contains("-p ") && rng.bool() { format!(":{}", port_range(rng)) } else { String::new() };
    match family {
        Family::V6 if !port.is_empty() => format!("{selected} -j DNAT --to-destination [{address}]{port}{flags}"),
        _ => format!("{selected} -j DNAT --to-destination {address}{port}{flags}"),
    }
}

/// A new source.
fn source_target(rng: &mut Rng, family: Family) -> String {
    let out = rng.usize(..PORTS);
    let protocol = if rarely(rng, 3) { format!(" -p {}", one(rng, &["udp", "tcp"])) } else { String::new() };
    let port = if !protocol.is_empty() && rng.bool() { Some(port_range(rng)) } else { None };
    let selected = format!(" -o p{out}{protocol}");
    match rng.u32(..8) {
        0..4 => {
            let ports = port.map(|ports| format!(" --to-ports {ports}")).unwrap_or_default();
            format!("{selected} -j MASQUERADE{ports}{}", randomly(rng, &[" --random", " --random-fully"]))
        }
        4 => match family {
            Family::V4 => format!(" -o p{out} -s 198.19.0.0/24 -j NETMAP --to 192.0.2.0/24"),
            Family::V6 => format!(" -o p{out} -s 2001:db8:f0::/120 -j NETMAP --to 2001:db8:77::/120"),
        },
        _ => {
            let address = match (family, rng.u32(..4)) {
                (Family::V4, 0) => "192.0.2.80-192.0.2.83".to_owned(),
                (Family::V4, 1) => "192.0.2.77".to_owned(),
                (Family::V4, 2) => second4(out, 1),
                (Family::V4, _) => net4(out, 1),
                (Family::V6, 0) => "2001:db8:77::10-2001:db8:77::13".to_owned(),
                (Family::V6, 1) => "2001:db8:77::1".to_owned(),
                (Family::V6, _) => net6(out, 1),
            };
            let flags = randomly(rng, &[" --random", " --random-fully", " --persistent"]);
            match (family, port) {
                (Family::V6, Some(port)) => format!("{selected} -j SNAT --to-source [{address}]:{port}{flags}"),
                (_, Some(port)) => format!("{selected} -j SNAT --to-source {address}:{port}{flags}"),
                (_, None) => format!("{selected} -j SNAT --to-source {address}{flags}"),
            }
        }
    }
}

/// The same in nftables: in a table of one family, or of both.
fn nftables(rng: &mut Rng, family: Family, all: &mut Vec<Command>) {
    let mut load = |text: String| all.push(Command::load(Tool::Nft, "", text));
    let (ip, inet) = (if family == Family::V4 { "ip" } else { "ip6" }, rarely(rng, 3));
    let table = if inet { format!("inet nat{}", &ip[2..]) } else { format!("{ip} own") };
    // An address in `inet` says of which family it is.
    let to = if inet { format!("{ip} to") } else { "to".to_owned() };
    let only = match (inet, family) {
        (false, _) => "",
        (true, Family::V4) => "meta nfproto ipv4 ",
        (true, Family::V6) => "meta nfproto ipv6 ",
    };
    load(format!("add table {table}"));
    load(format!("add chain {table} pre {{ type nat hook prerouting priority {}; }}", one(rng, &["dstnat", "-90"])));
    load(format!("add chain {table} post {{ type nat hook postrouting priority {}; }}", one(rng, &["srcnat", "90"])));
    let port = |rng: &mut Rng| if rng.bool() { format!(":{}", port_range(rng)) } else { String::new() };
    let bracketed = |address: &str, port: &str| match family {
        Family::V6 if !port.is_empty() && address.contains('-') => {
            let (first, last) = address.split_once('-').unwrap_or_default();
            format!("[{first}]-[{last}]{port}")
        }
        Family::V6 if !port.is_empty() => format!("[{address}]{port}"),
        _ => format!("{address}{port}"),
    };
    let wide = if family == Family::V4 { "198.18.0.0/15" } else { "2001:db8:100::/40" };
    for _ in 0..rng.u32(..4) {
        let protocol = one(rng, &["udp", "tcp"]);
        let selected = match rng.u32(..3) {
            0 => format!("{protocol} dport {}", one(rng, &["9", "{ 25, 80 }", "53"])),
            1 => format!("iifname p{} meta l4proto {protocol}", rng.usize(..PORTS)),
            _ => format!("{ip} daddr {wide} {protocol} dport != 80"),
        };
        let address = match (family, rarely(rng, 3)) {
            (Family::V4, false) => "198.18.7.9",
            (Family::V4, true) => "198.18.64.8-198.18.64.11",
            (Family::V6, false) => "2001:db8:100:7::9",
            (Family::V6, true) => "2001:db8:100:40::8-2001:db8:100:40::b",
        };
        let port = port(rng);
        let flags = randomly(rng, &[" random", " persistent"]);
        let verdict = match rng.u32(..6) {
            0 => "redirect".to_owned(),
            1 => "redirect to :8080".to_owned(),
            _ => format!("dnat {to} {}{flags}", bracketed(address, &port)),
        };
        load(format!("add rule {table} pre {only}{selected} counter {verdict}"));
    }
    for _ in 0..rng.u32(1..4) {
        let out = rng.usize(..PORTS);
        let protocol =
            if rarely(rng, 3) { format!(" meta l4proto {}", one(rng, &["udp", "tcp"])) } else { String::new() };
        let port = if protocol.is_empty() { String::new() } else { port(rng) };
        let flags = randomly(rng, &[" random", " fully-random"]);
        let address = match (family, rng.u32(..3)) {
            (Family::V4, 0) => "192.0.2.80-192.0.2.83".to_owned(),
            (Family::V4, 1) => "192.0.2.77".to_owned(),
            (Family::V4, _) => net4(out, 1),
            (Family::V6, 0) => "2001:db8:77::10-2001:db8:77::13".to_owned(),
            (Family::V6, 1) => "2001:db8:77::1".to_owned(),
            (Family::V6, _) => net6(out, 1),
        };
        let verdict = if rng.bool() {
            let ports = if port.is_empty() { String::new() } else { format!(" to {port}") };
            format!("masquerade{ports}{flags}")
        } else {
            format!("snat {to} {}{flags}", bracketed(&address, &port))
        };
        load(format!("add rule {table} post {only}oifname p{out}{protocol} counter {verdict}"));
    }
}

/// Marks and states of connections.
fn nft_states(rng: &mut Rng, family: Family, all: &mut Vec<Command>) {
    let ip = if family == Family::V4 { "ip" } else { "ip6" };
    let mut load = |text: String| all.push(Command::load(Tool::Nft, "", text));
    let table = format!("{ip} states");
    load(format!("add table {table}"));
    load(format!("add chain {table} raw {{ type filter hook prerouting priority -300; }}"));
    load(format!("add chain {table} pre {{ type filter hook prerouting priority -140; }}"));
    load(format!("add chain {table} way {{ type filter hook forward priority 5; }}"));
    load(format!("add chain {table} post {{ type filter hook postrouting priority {}; }}", one(rng, &[-150, 300])));
    if rarely(rng, 4) {
        load(format!("add rule {table} raw udp dport {} counter notrack", one(rng, &[25, 53])));
    }
    if rng.bool() {
        load(format!("add rule {table} pre ct mark != 0 counter meta mark set ct mark"));
        let mark = one(rng, &MARKS).1;
        load(format!(
            "add rule {table} pre ct state new iifname p{} counter meta mark set {mark:#x}",
            rng.usize(..PORTS)
        ));
        load(format!("add rule {table} pre ct mark set meta mark"));
    }
    for _ in 0..rng.u32(1..4) {
        let state = one(
            rng,
            &[
                "ct state invalid",
                "ct state established,related",
                "ct state new",
                "ct state untracked",
                "ct status dnat",
                "ct status snat",
                "ct status & (seen-reply | assured) != 0",
                "ct direction reply",
            ],
        );
        let chain = one(rng, &["pre", "way", "way", "post"]);
        let what = match rng.u32(..8) {
            0 if chain == "way" => format!("udp dport {} counter drop", one(rng, &[9, 80])),
            1 => format!("counter {ip} dscp set 4"),
            _ => "counter".to_owned(),
        };
        load(format!("add rule {table} {chain} {state} {what}"));
    }
}
