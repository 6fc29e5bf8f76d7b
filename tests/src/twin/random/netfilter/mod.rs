//! Rule sets of netfilter in all dialects, and routes that show what they do to marks and TOS. Values come from the pools of
//! [`packets`](super::packets()), so that rules meet packets; what stops packets is rare and narrow.

mod ipset;
mod nftables;
mod xtables;

use fastrand::Rng;
use shunt_policy::{Family, Mac};

use super::{configuration, one, rarely};
use crate::twin::base::{MARKS, PORTS, PROTOCOL, behind4, behind6, net4, net6};
use crate::twin::command::Command;
use crate::twin::packet::far_mac;
use crate::twin::rules::{Backend, Tool};

/// The configuration of a case: routes, then sets, then chains and rules.
pub fn commands(rng: &mut Rng) -> Vec<Command> {
    let mut all = if rarely(rng, 4) { configuration::commands(rng) } else { routing(rng) };
    // Which leg a flow takes is a matter of its own.
    all.retain(|command| !command.to_string().contains("fib_multipath_hash"));
    let dialects = if rarely(rng, 3) { rng.usize(2..5) } else { 1 };
    let mut sets = Vec::new();
    for family in Family::BOTH {
        sets.push(if rng.bool() { ipset::sets(rng, family, &mut all) } else { Vec::new() });
    }
    for dialect in 0..dialects {
        match rng.u32(..7) {
            0..4 => {
                let family = if rng.u32(..5) < 3 { Family::V4 } else { Family::V6 };
                let backend = if rng.bool() { Backend::Nft } else { Backend::Legacy };
                let sets = &sets[usize::from(family == Family::V6)];
                xtables::rules(rng, family, Tool::Iptables(family, backend), sets, &mut all);
            }
            _ => nftables::rules(rng, dialect, &mut all),
        }
    }
    all
}

/// Routes for everything, other ones by mark and TOS.
pub(super) fn routing(rng: &mut Rng) -> Vec<Command> {
    let mut all = Vec::new();
    for family in Family::BOTH {
        let ip = |text: String| Command::Ip(Some(family), text);
        let network = if family == Family::V4 { "198.18.0.0/15" } else { "2001:db8:100::/40" };
        let via = |port: usize| match family {
            Family::V4 => net4(port, 10),
            Family::V6 => net6(port, 10),
        };
        for (table, port) in [(254, rng.usize(..PORTS)), (100, rng.usize(..PORTS)), (101, rng.usize(..PORTS))] {
            all.push(ip(format!("route add {network} via {} table {table} proto {PROTOCOL}", via(port))));
        }
        if rarely(rng, 4) {
            let mtu = if rarely(rng, 3) { "lock 1300" } else { "1400" };
            let port = rng.usize(..PORTS);
            let narrow = if family == Family::V4 { "198.18.7.0/24" } else { "2001:db8:100:7::/64" };
            all.push(ip(format!("route add {narrow} via {} mtu {mtu} proto {PROTOCOL}", via(port))));
        }
        for priority in 0..rng.u32(1..5) {
            let selector = match rng.u32(..6) {
                0 => format!("tos {:#x}", one(rng, &[0x10, 0x08, 0x1c])),
                1 => format!("fwmark {:#x}/{:#x}", one(rng, &[0u32, 0x100, 0x10]), one(rng, &[0xf00u32, 0xff0, 0xf0])),
                2 => "ipproto udp dport 53".to_owned(),
                _ => format!("fwmark {:#x}", mark(rng)),
            };
            all.push(ip(format!("rule add priority {} {selector} lookup {}", 100 + priority, one(rng, &[100, 101]))));
        }
    }
    for port in 0..PORTS {
        if rarely(rng, 8) {
            all.push(Command::sysctl(format!("ipv4/conf/p{port}/rp_filter"), rng.u32(1..3)));
            all.push(Command::sysctl(format!("ipv4/conf/p{port}/src_valid_mark"), rng.u32(0..2)));
        }
        if rarely(rng, 8) {
            all.push(Command::ip(format!("link set p{port} mtu {}", one(rng, &[1300, 1400, 1492]))));
        }
        if rarely(rng, 8) {
            all.push(Command::ip(format!("link set p{port} group {}", rng.u32(0..3))));
        }
    }
    all
}

fn mark(rng: &mut Rng) -> u32 {
    if rarely(rng, 4) { one(rng, &[0, 0x10, 0x11, 0x3f00]) } else { one(rng, &MARKS).1 }
}

/// A prefix in which sources or destinations lie, or one address.
fn network(rng: &mut Rng, family: Family) -> String {
    let port = rng.usize(..PORTS);
    match (family, rng.u32(..8)) {
        (Family::V4, 0) => {
            one(rng, &["192.0.2.0/24", "203.0.113.0/24", "127.0.0.0/8", "224.0.0.0/4", "0.0.0.0/1"]).to_owned()
        }
        (Family::V4, 1) => format!("198.18.7.{}", one(rng, &[8, 9, 128])),
        (Family::V4, 2) => format!("{}/18", behind4(port, 0)),
        (Family::V4, 3) => format!("{}/{}", behind4(port, 0x2000), rng.u32(19..24)),
        (Family::V4, 4) => net4(port, 10),
        (Family::V4, _) => one(rng, &["198.18.0.0/15", "198.18.7.0/24", "198.18.7.128/25", "198.18.0.0/17"]).to_owned(),
        (Family::V6, 0) => one(rng, &["2001:db8::/32", "fe80::/10", "ff00::/8", "8000::/1"]).to_owned(),
        (Family::V6, 1) => format!("2001:db8:100:7::{}", one(rng, &[8, 9, 7])),
        (Family::V6, 2) => format!("{}/48", behind6(port, 0).trim_end_matches('0')),
        (Family::V6, 3) => format!("{}/{}", behind6(port, 0x8000), rng.u32(113..118)),
        (Family::V6, 4) => net6(port, 10),
        (Family::V6, _) => one(rng, &["2001:db8:100::/40", "2001:db8:100:7::/64", "2001:db8:100::/49"]).to_owned(),
    }
}

/// First and last address.
fn range(rng: &mut Rng, family: Family) -> (String, String) {
    let port = rng.usize(..PORTS);
    match (family, rng.bool()) {
        (Family::V4, true) => ("198.18.7.8".to_owned(), format!("198.18.7.{}", one(rng, &[9, 127, 128, 250]))),
        (Family::V4, false) => (behind4(port, rng.u16(..0x2000)), behind4(port, rng.u16(0x2000..0x4000))),
        (Family::V6, true) => {
            ("2001:db8:100:7::8".to_owned(), format!("2001:db8:100:7::{}", one(rng, &["9", "a", "ffff"])))
        }
        (Family::V6, false) => (behind6(port, rng.u16(..0x8000)), behind6(port, rng.u16(0x8000..))),
    }
}

fn source_port(rng: &mut Rng) -> u16 {
    one(rng, &MARKS).0
}

fn destination_port(rng: &mut Rng) -> u16 {
    one(rng, &[9, 25, 80, 53])
}

/// Of two of the hosts that frames come from.
fn mac(rng: &mut Rng) -> Mac {
    Mac(far_mac(rng.usize(..PORTS), one(rng, &[0x0f, 0x0e])))
}
