//! Native tables of nftables, families `ip`, `ip6` and `inet`.

use fastrand::Rng;
use shunt_policy::Family;

use super::{destination_port, mac, mark, network, one, range, rarely, source_port};
use crate::twin::base::PORTS;
use crate::twin::command::Command;
use crate::twin::rules::Tool;

/// Hooks and priorities of base chains.
const HOOKS: [(&str, &[i32]); 4] = [
    ("prerouting", &[-450, -300, -300, -150, -150, -149, -50, 0, 10]),
    ("forward", &[-300, -150, -150, 0, 0, 1, 225]),
    ("forward", &[-150, 0, 0, 10]),
    ("postrouting", &[-150, 0, 300]),
];

/// Some tables with chains and rules.
pub fn rules(rng: &mut Rng, dialect: usize, all: &mut Vec<Command>) {
    for number in 0..rng.usize(1..3) {
        let words = one(rng, &["ip", "ip6", "inet", "inet"]);
        let mut table = Table::new(rng, words, &format!("t{dialect}{number}"), all);
        table.sets(rng);
        let bases = table.chains(rng);
        table.fill(rng, &bases);
    }
}

struct Table<'a> {
    /// `inet t0`
    name: String,
    /// `ip`, `ip6` or `inet`.
    words: &'static str,
    all: &'a mut Vec<Command>,
    /// Sets by their type, verdict maps too.
    sets: Vec<(&'static str, String)>,
    /// User-defined chains, of which each leads only to those behind it.
    user: Vec<String>,
}

struct Chain {
    name: String,
    /// Whether packets come here before and behind routing.
    before: bool,
    behind: bool,
    /// The chains that it may lead to, by number.
    from: usize,
}

impl<'a> Table<'a> {
    fn new(rng: &mut Rng, words: &'static str, name: &str, all: &'a mut Vec<Command>) -> Self {
        // Two tables of one case may have the same name in different families.
        let name = format!("{words} {name}");
        let user = (0..rng.usize(..3)).map(|number| format!("u{number}")).collect();
        let mut table = Table { name, words, all, sets: Vec::new(), user };
        table.load(format!("add table {}", table.name));
        for chain in table.user.clone() {
            table.load(format!("add chain {} {chain}", table.name));
        }
        table
    }

    fn load(&mut self, text: String) {
        self.all.push(Command::load(Tool::Nft, "", text));
    }

    /// Of this rule's packets; a rule of an `inet` table is about one of them.
    fn family(&self, rng: &mut Rng) -> Family {
        match self.words {
            "ip" => Family::V4,
            "ip6" => Family::V6,
            _ => one(rng, &[Family::V4, Family::V6]),
        }
    }

    fn sets(&mut self, rng: &mut Rng) {
        for number in 0..rng.usize(..4) {
            let family = self.family(rng);
            let (address, target) = match family {
                Family::V4 => ("ipv4_addr", "198.18.7."),
                Family::V6 => ("ipv6_addr", "2001:db8:100:7::"),
            };
            let (four, name) = (family == Family::V4, format!("s{number}"));
            let (kind, definition): (&'static str, String) = match rng.u32(..9) {
                8 => ("dscp", "set { type dscp; elements = { ef, cs2, 0x04 }; }".to_owned()),
                0 => {
                    let elements = format!("{}, {target}8", network(rng, family));
                    (
                        if four { "net4" } else { "net6" },
                        format!("set {{ type {address}; flags interval; auto-merge; elements = {{ {elements} }}; }}"),
                    )
                }
                1 => {
                    let (first, last) = range(rng, family);
                    (
                        if four { "net4" } else { "net6" },
                        format!("set {{ type {address}; flags interval; elements = {{ {first}-{last} }}; }}"),
                    )
                }
                2 => {
                    let extra = one(rng, &["", "timeout 1h; ", "size 100; ", "counter; "]);
                    (
                        if four { "net4" } else { "net6" },
                        format!("set {{ type {address}; {extra}elements = {{ {target}8, {target}9 }}; }}"),
                    )
                }
                3 => ("port", "set { type inet_service; flags interval; elements = { 9, 25-80 }; }".to_owned()),
                4 => (
                    if four { "pair4" } else { "pair6" },
                    format!(
                        "set {{ type {address} . inet_service; flags interval; elements = {{ {target}9 . 25-80, {} . 9 }}; }}",
                        network(rng, family)
                    ),
                ),
                5 => (
                    "marks",
                    "map { type inet_service : mark; elements = { 9 : 0x1, 25 : 0x2, 80 : 0x100 }; }".to_owned(),
                ),
                6 => (
                    if four { "nets4" } else { "nets6" },
                    format!(
                        "map {{ type {address} : mark; flags interval; elements = {{ {} : {:#x} }}; }}",
                        network(rng, family),
                        mark(rng)
                    ),
                ),
                _ => (
                    "verdicts",
                    "map { type mark : verdict; elements = { 0x1 : accept, 0x2 : continue, 0x111 : return }; }"
                        .to_owned(),
                ),
            };
            let (word, body) = definition.split_once(' ').unwrap_or_default();
            self.load(format!("add {word} {} {name} {body}", self.name));
            self.sets.push((kind, name));
        }
    }

    fn chains(&mut self, rng: &mut Rng) -> Vec<Chain> {
        let mut chains = Vec::new();
        for number in 0..rng.usize(1..4) {
            let (hook, priorities) = one(rng, &HOOKS);
            let priority = one(rng, priorities);
            let name = format!("{hook}{number}");
            let drops = rarely(rng, 24);
            let policy = if drops { "drop" } else { "accept" };
            self.load(format!(
                "add chain {} {name} {{ type filter hook {hook} priority {priority}; policy {policy}; }}",
                self.name
            ));
            if drops {
                self.load(format!("add rule {} {name} meta mark != 0x5 accept", self.name));
            }
            chains.push(Chain { name, before: hook == "prerouting", behind: hook == "postrouting", from: 0 });
        }
        if rarely(rng, 16) && self.words != "ip6" {
            self.load(format!("add chain {} nat {{ type nat hook postrouting priority 100; }}", self.name));
            let device = rng.usize(..PORTS);
            // Few packets have such a port, so that no two connections meet in one.
            self.load(format!("add rule {} nat oifname \"p{device}\" udp sport 4000-4999 masquerade", self.name));
        }
        chains
    }

    fn fill(&mut self, rng: &mut Rng, bases: &[Chain]) {
        let before = bases.iter().any(|chain| chain.before);
        let behind = bases.iter().any(|chain| chain.behind);
        let chain = |(number, name): (usize, &String)| Chain { name: name.clone(), before, behind, from: number + 1 };
        let user: Vec<Chain> = self.user.iter().enumerate().map(chain).collect();
        for chain in bases.iter().chain(&user) {
            for _ in 0..rng.usize(1..4) {
                let rule = self.rule(rng, chain);
                self.load(format!("add rule {} {} {rule}", self.name, chain.name));
            }
        }
    }

    fn rule(&mut self, rng: &mut Rng, chain: &Chain) -> String {
        let family = self.family(rng);
        let (needs, last) = self.statement(rng, family, chain);
        let stops = ["drop", "reject"].iter().any(|stop| last.contains(stop));
        let mut words: Vec<String> = needs.into_iter().map(str::to_owned).collect();
        for _ in 0..if stops { 2 } else { rng.usize(..3) } {
            let test = self.test(rng, family, chain);
            let clash = |of: &str| words.iter().any(|word| word.contains(of));
            // Two protocols in one rule are refused.
            let protocols = ["tcp", "udp", "sctp", "th ", "icmp", "l4proto", "protocol", "nexthdr"];
            if !protocols.iter().any(|of| test.contains(of))
                || !protocols.iter().any(|of| last.contains(of) || clash(of))
            {
                words.push(test);
            }
        }
        if rng.bool() {
            words.push("counter".to_owned());
        }
        // A statement between two matches.
        if rarely(rng, 8) {
            words.insert(0, format!("meta mark set {:#x}", mark(rng)));
        }
        words.push(last);
        words.retain(|word| !word.is_empty());
        if words.is_empty() {
            return "counter".to_owned();
        }
        let comment = if rarely(rng, 8) { " comment \"ours, of course\"" } else { "" };
        words.join(" ") + comment
    }

    fn set(&self, rng: &mut Rng, kinds: &[&str]) -> Option<(&'static str, String)> {
        let fitting: Vec<_> = self.sets.iter().filter(|(kind, _)| kinds.contains(kind)).collect();
        fitting.get(rng.usize(..fitting.len().max(1))).map(|(kind, name)| (*kind, name.clone()))
    }

    fn test(&self, rng: &mut Rng, family: Family, chain: &Chain) -> String {
        let not = if rarely(rng, 5) { "!= " } else { "" };
        let (four, ip) = (family == Family::V4, if family == Family::V4 { "ip" } else { "ip6" });
        let side = one(rng, &["saddr", "daddr", "daddr"]);
        let oif = !chain.before;
        match rng.u32(..34) {
            0 => format!("iifname {not}\"{}\"", one(rng, &["p0", "p1", "p2", "p*", "gone"])),
            1 => format!("iifname {not}{{ \"p0\", \"p2\" }}"),
            2 if oif => format!("oifname {not}\"{}\"", one(rng, &["p0", "p1", "p2", "p*"])),
            3 if oif => format!("oif {not}p{}", rng.usize(..PORTS)),
            3 => format!("iif {not}p{}", rng.usize(..PORTS)),
            4 => format!("iifgroup {not}{}", rng.u32(..3)),
            5..8 => format!("{ip} {side} {not}{}", network(rng, family)),
            8 => {
                let (first, last) = range(rng, family);
                format!("{ip} {side} {not}{first}-{last}")
            }
            9 if four => format!("ip daddr {not}{{ 198.18.7.8, 198.18.7.128/25, 198.18.0.1-198.18.0.99 }}"),
            9 => format!("ip6 daddr {not}{{ 2001:db8:100:7::8, 2001:db8:100:4000::/50 }}"),
            10 if four => "ip saddr & 0.0.0.1 == 0.0.0.1".to_owned(),
            10 => "ip6 saddr & ::1 == ::1".to_owned(),
            11 | 12 => match self.set(rng, if four { &["net4"] } else { &["net6"] }) {
                Some((_, name)) => format!("{ip} {side} {not}@{name}"),
                None => String::new(),
            },
            13 => match self.set(rng, if four { &["pair4"] } else { &["pair6"] }) {
                Some((_, name)) => format!("{ip} daddr . udp dport {not}@{name}"),
                None if four => format!("ip daddr . udp dport {not}{{ 198.18.7.9 . 9, 198.18.7.8 . 25-80 }}"),
                None => format!("ip6 daddr . tcp dport {not}{{ 2001:db8:100:7::9 . 80 }}"),
            },
            14 => match self.set(rng, &["port"]) {
                Some((_, name)) => format!("udp dport {not}@{name}"),
                None => format!("th dport {not}{{ 9, 25-80 }}"),
            },
            15..18 => {
                let protocol = one(rng, &["udp", "udp", "tcp", "sctp", "udplite"]);
                match rng.u32(..3) {
                    0 => format!("{protocol} sport {not}{}", source_port(rng)),
                    1 => format!("{protocol} sport {not}5001-5003"),
                    _ => format!("{protocol} dport {not}{}", destination_port(rng)),
                }
            }
            18 => {
                format!("meta l4proto {not}{}", one(rng, &["udp", "tcp", "{ tcp, udp }", "{ icmp, ipv6-icmp, esp }"]))
            }
            19 if four => format!("ip protocol {not}{}", one(rng, &["tcp", "{ udp, sctp }", "esp"])),
            19 => format!("ip6 nexthdr {not}{}", one(rng, &["tcp", "{ udp, sctp }", "esp"])),
            20 if rng.bool() && self.set(rng, &["dscp"]).is_some() => {
                format!("{ip} dscp {not}@{}", self.set(rng, &["dscp"]).unwrap_or_default().1)
            }
            20 => format!("{ip} dscp {not}{}", one(rng, &["ef", "{ cs1, cs2, af13 }", "0x04", "0x00-0x10"])),
            21 => format!("{ip} ecn {not}{}", one(rng, &["ect0", "ce", "not-ect"])),
            22 => {
                let field = if four { "ip ttl" } else { "ip6 hoplimit" };
                format!("{field} {}", one(rng, &["64", "!= 63", "> 10", "< 64", "{ 62, 63, 64 }"]))
            }
            23 => {
                let field = one(rng, &["meta length", if four { "ip length" } else { "ip6 length" }]);
                format!("{field} {}", one(rng, &["> 100", "<= 1300", "40-80", "!= 52"]))
            }
            24..27 => match rng.u32(..5) {
                0 => format!("meta mark {not}{:#x}", mark(rng)),
                1 => format!("meta mark & 0xff {} 0x1", one(rng, &["==", "!="])),
                2 => "meta mark & 0xf00 != 0x100".to_owned(),
                3 => format!("meta mark {not}{{ 0x1, 0x100-0x200 }}"),
                _ => "meta mark 0x2-0x111".to_owned(),
            },
            27 if four => {
                format!("icmp type {not}{}", one(rng, &["echo-request", "{ echo-request, timestamp-request }", "3"]))
            }
            27 => format!("icmpv6 type {not}{}", one(rng, &["echo-request", "{ echo-reply, packet-too-big }", "1"])),
            28 => one(
                rng,
                &[
                    "tcp flags syn",
                    "tcp flags & (syn|ack) == syn",
                    "tcp flags & (fin|syn|rst|ack) != syn",
                    "tcp flags { syn, ack, syn|ack }",
                    "tcp flags != ack",
                    "tcp option maxseg size > 1400",
                    "tcp option maxseg exists",
                ],
            )
            .to_owned(),
            29 if !chain.behind => format!("ether saddr {not}{}", mac(rng)),
            29 => format!("meta pkttype {not}unicast"),
            30 if four && !chain.behind => {
                let (side, kind) =
                    one(rng, &[("daddr", "local"), ("daddr", "unicast"), ("saddr", "unicast"), ("daddr", "broadcast")]);
                format!("fib {side} type {not}{kind}")
            }
            31 if self.words == "inet" && four => "meta nfproto ipv4".to_owned(),
            // Not `meta protocol` of the other family: nft (1.0.6) does not list it before a field of an IP header.
            31 => one(rng, &["@th,16,16 9", if four { "ip version 4" } else { "ip6 version 6" }]).to_owned(),
            _ if rarely(rng, 4) => one(
                rng,
                &[
                    "limit rate 10000/second burst 10000 packets",
                    "quota 100 mbytes",
                    "numgen inc mod 1 0",
                    "ct state new",
                    "ct state established,related",
                    "ct state untracked",
                    "ct mark 0x0",
                    "meta hour 00:00-23:59",
                    "meta cpu < 1000",
                    "meta iiftype ether",
                ],
            )
            .to_owned(),
            _ => format!("{ip} daddr {not}{}", network(rng, family)),
        }
    }

    /// What must stand before it, and the end of a rule.
    fn statement(&self, rng: &mut Rng, family: Family, chain: &Chain) -> (Option<&'static str>, String) {
        let four = family == Family::V4;
        let ip = if four { "ip" } else { "ip6" };
        let plain = |text: &str| (None, text.to_owned());
        let value = mark(rng);
        let user = self.user.get(chain.from..).unwrap_or_default();
        match rng.u32(..32) {
            0..3 if !user.is_empty() => {
                plain(&format!("{} {}", one(rng, &["jump", "jump", "goto"]), user[rng.usize(..user.len())]))
            }
            3 if !user.is_empty() => {
                plain(&format!("meta mark vmap {{ 0x1 : accept, 0x2 : jump {}, 0x100-0x1ff : continue }}", user[0]))
            }
            4 => match self.set(rng, &["verdicts"]) {
                Some((_, name)) => plain(&format!("meta mark vmap @{name}")),
                None => plain("udp dport vmap { 9 : accept, 25-53 : return }"),
            },
            5 => plain("iifname vmap { \"p0\" : continue, \"p1\" : accept }"),
            6..9 => plain(&format!("meta mark set {value:#x}")),
            9 => plain(&format!("meta mark set meta mark & {:#x}", one(rng, &[0xffu32, 0xffff_ff00]))),
            10 => plain(&format!("meta mark set meta mark | {:#x}", one(rng, &[0x100u32, 0x10]))),
            11 => plain(&format!("meta mark set meta mark ^ {:#x}", one(rng, &[0x101u32, 0xffff_ffff]))),
            12 => plain(&format!("meta mark set meta mark & 0xfffff0ff | {:#x}", one(rng, &[0x100u32, 0x200]))),
            13 => match self.set(rng, &["marks"]) {
                Some((_, name)) => plain(&format!("meta mark set udp dport map @{name}")),
                None => plain("meta mark set udp dport map { 9 : 0x1, 25-80 : 0x2 }"),
            },
            14 => match self.set(rng, if four { &["nets4"] } else { &["nets6"] }) {
                Some((_, name)) => plain(&format!("meta mark set {ip} daddr map @{name}")),
                None => plain("meta mark set iifname map { \"p0\" : 0x1, \"p1\" : 0x100 }"),
            },
            15 | 16 => plain(&format!("{ip} dscp set {}", one(rng, &["ef", "cs1", "af13", "0x00", "cs4"]))),
            17 => plain(&format!("{ip} ecn set {}", one(rng, &["ect0", "not-ect"]))),
            18 | 19 => {
                let field = if four { "ip ttl" } else { "ip6 hoplimit" };
                plain(&format!("{field} set {}", one(rng, &[1, 2, 64, 65, 255])))
            }
            20 if !chain.before => (Some("tcp flags syn"), "tcp option maxseg size set rt mtu".to_owned()),
            20 | 21 => (
                Some("tcp flags & (syn|rst) == syn"),
                format!("tcp option maxseg size set {}", one(rng, &[1000, 1452, 60])),
            ),
            22 => plain("meta priority set 1:10"),
            23 if chain.before && self.user.is_empty() => plain("notrack"),
            24 | 25 => plain("drop"),
            26 if !chain.behind && self.words == "inet" && rng.bool() => {
                plain("reject with icmpx type admin-prohibited")
            }
            26 if !chain.behind => plain("reject"),
            27 => plain("return"),
            28 if self.words == "ip" && rarely(rng, 4) => plain("ip daddr set 198.18.7.9"),
            28 if rarely(rng, 2) => plain(one(
                rng,
                &[
                    "ct mark set 0x7",
                    "meta mark set ct mark",
                    "udp dport set 53",
                    "log prefix \"x \"",
                    "meta mark set numgen inc mod 1 offset 5",
                ],
            )),
            29 => plain(""),
            _ => plain("accept"),
        }
    }
}
