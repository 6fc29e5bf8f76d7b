//! Sets of `ipset`.

use fastrand::Rng;
use shunt_policy::Family;

use super::{destination_port, mac, network, one, range, rarely, source_port};
use crate::twin::base::{PORTS, behind4, behind6};
use crate::twin::command::Command;
use crate::twin::rules::Tool;

/// A set's name, and how many fields it is asked for.
pub type Made = (String, usize);

/// Some sets of a family, with elements. Returns what rules can ask.
pub fn sets(rng: &mut Rng, family: Family, all: &mut Vec<Command>) -> Vec<Made> {
    let mut made = Vec::new();
    let mut load = |text: String| all.push(Command::load(Tool::Ipset, "", text));
    let (inet, letter) = if family == Family::V4 { ("inet", '4') } else { ("inet6", '6') };
    for number in 0..rng.usize(1..4) {
        let name = format!("s{letter}{number}");
        let kinds: &[&str] = match family {
            Family::V4 => &[
                "hash:ip",
                "hash:net",
                "hash:ip,port",
                "hash:net,port",
                "hash:ip,port,net",
                "hash:net,iface",
                "hash:ip,port,ip",
                "bitmap:port",
                "bitmap:ip",
                "bitmap:ip,mac",
            ],
            Family::V6 => {
                &["hash:ip", "hash:net", "hash:ip,port", "hash:net,port", "hash:ip,port,net", "hash:net,iface"]
            }
        };
        let kind = one(rng, kinds);
        let options = match kind {
            "bitmap:port" => " range 0-65535".to_owned(),
            "bitmap:ip" | "bitmap:ip,mac" => " range 198.18.0.0-198.18.255.255".to_owned(),
            _ => format!(" family {inet}"),
        };
        let extra = match rng.u32(..8) {
            0 => " timeout 3000",
            1 => " counters",
            2 => " comment",
            _ => "",
        };
        load(format!("create {name} {kind}{options}{extra}"));
        for _ in 0..rng.usize(1..6) {
            let element = element(rng, family, kind);
            load(format!("add {name} {element} -exist"));
        }
        made.push((name, kind.split(',').count()));
    }
    if rarely(rng, 4) {
        let single: Vec<_> = made.iter().filter(|(_, fields)| *fields == 1).map(|(name, _)| name.clone()).collect();
        if !single.is_empty() {
            let name = format!("s{letter}list");
            load(format!("create {name} list:set"));
            single.iter().for_each(|member| load(format!("add {name} {member}")));
            made.push((name, 1));
        }
    }
    made
}

fn element(rng: &mut Rng, family: Family, kind: &str) -> String {
    let address = |rng: &mut Rng| match (family, rng.bool()) {
        (Family::V4, true) => format!("198.18.7.{}", one(rng, &[8, 9, 7, 127, 128, 200])),
        (Family::V4, false) => behind4(rng.usize(..PORTS), rng.u16(..)),
        (Family::V6, true) => format!("2001:db8:100:7::{}", one(rng, &["8", "9", "7", "ffff"])),
        (Family::V6, false) => behind6(rng.usize(..PORTS), rng.u16(..)),
    };
    // Prefixes of length 0 are no elements.
    let network = |rng: &mut Rng| network(rng, family);
    let port = |rng: &mut Rng| match rng.u32(..6) {
        0 => format!("tcp:{}", destination_port(rng)),
        1 => format!("udp:{}", source_port(rng)),
        2 => "udp:25-80".to_owned(),
        3 if family == Family::V4 => "icmp:echo-request".to_owned(),
        3 => "icmpv6:echo-request".to_owned(),
        4 => format!("sctp:{}", destination_port(rng)),
        _ => format!("udp:{}", destination_port(rng)),
    };
    match kind {
        "hash:ip" if family == Family::V4 && rarely(rng, 3) => "198.18.7.0/25".to_owned(),
        "hash:ip" => address(rng),
        "hash:net" => format!("{}{}", network(rng), if rarely(rng, 4) { " nomatch" } else { "" }),
        "hash:ip,port" => format!("{},{}", address(rng), port(rng)),
        "hash:net,port" => format!("{},{}", network(rng), port(rng)),
        "hash:ip,port,net" => format!("{},{},{}", address(rng), port(rng), network(rng)),
        "hash:ip,port,ip" => format!("{},{},{}", address(rng), port(rng), address(rng)),
        "hash:net,iface" => format!("{},p{}", network(rng), rng.usize(..PORTS)),
        "bitmap:port" => one(rng, &["25-80", "9", "5001-5003", "53"]).to_owned(),
        "bitmap:ip,mac" => format!("198.18.7.{},{}", one(rng, &[8, 9, 128]), mac(rng)),
        _ => {
            let (first, last) =
                if rng.bool() { range(rng, family) } else { ("198.18.7.0".into(), "198.18.7.127".into()) };
            if first.starts_with("198.18.") { format!("{first}-{last}") } else { "198.18.7.9".to_owned() }
        }
    }
}
