//! Rules of iptables and ip6tables, of either kind.

use fastrand::Rng;
use shunt_policy::Family;

use super::ipset::Made;
use super::{destination_port, mac, mark, network, one, range, rarely, source_port};
use crate::twin::base::PORTS;
use crate::twin::command::Command;
use crate::twin::rules::Tool;

const CHAINS: [(&str, &str); 6] = [
    ("raw", "PREROUTING"),
    ("mangle", "PREROUTING"),
    ("mangle", "PREROUTING"),
    ("mangle", "FORWARD"),
    ("mangle", "POSTROUTING"),
    ("filter", "FORWARD"),
];
const MASKS: [u32; 5] = [u32::MAX, 0xff, 0xf00, 0x3f00, 0x1];

/// One rule in the making.
struct Rule<'a> {
    family: Family,
    table: &'static str,
    /// A chain on a hook; for a user-defined chain the one that leads to it.
    hook: &'static str,
    sets: &'a [Made],
    text: String,
    /// What `-p` stands at, if at anything.
    protocol: Option<&'static str>,
    matches: usize,
}

/// Some chains with some rules.
pub fn rules(rng: &mut Rng, family: Family, tool: Tool, sets: &[Made], all: &mut Vec<Command>) {
    let mut load = |table: &'static str, text: String| all.push(Command::load(tool, table, text));
    for _ in 0..rng.usize(1..4) {
        let (table, hook) = one(rng, &CHAINS);
        // A name that no other pair of table and hook has; a second round of one pair adds to its chains.
        let user: Vec<String> = (0..rng.usize(..3)).map(|number| format!("{}-{number}", hook.to_lowercase())).collect();
        user.iter().for_each(|chain| load(table, format!(":{chain} - [0:0]")));
        for (number, chain) in std::iter::once(hook).chain(user.iter().map(String::as_str)).enumerate() {
            for _ in 0..rng.usize(1..4) {
                let mut rule = Rule { family, table, hook, sets, text: String::new(), protocol: None, matches: 0 };
                // Only forward, so that there are no loops.
                rule.write(rng, &user[number..]);
                load(table, format!("-A {chain}{}", rule.text));
            }
        }
    }
    if rarely(rng, 24) {
        load("filter", "-A FORWARD -m mark ! --mark 0x5 -j ACCEPT".to_owned());
        load("filter", ":FORWARD DROP [0:0]".to_owned());
    }
    if rarely(rng, 16) && !matches!(tool, Tool::Iptables(_, crate::twin::rules::Backend::Legacy)) {
        // Few packets have such a port, so that no two connections meet in one.
        load("nat", format!("-A POSTROUTING -o p{} -p udp --sport 4000:4999 -j MASQUERADE", rng.usize(..PORTS)));
    }
}

impl Rule<'_> {
    fn write(&mut self, rng: &mut Rng, user: &[String]) {
        let target = self.target(rng, user);
        let stops = ["DROP", "REJECT", "NFQUEUE"].iter().any(|stop| target.contains(stop));
        // A target may have asked for a protocol.
        for _ in 0..if stops { 2 } else { rng.usize(..3) } {
            self.some_match(rng);
        }
        if rarely(rng, 8) {
            self.text += " -m comment --comment \"a rule, of \\\"ours\\\"\"";
        }
        self.text += &target;
    }

    fn add(&mut self, text: &str) {
        self.text += " ";
        self.text += text;
        self.matches += 1;
    }

    /// Asks for a protocol once.
    fn protocol(&mut self, rng: &mut Rng, protocols: &[&'static str]) -> Option<&'static str> {
        match self.protocol {
            Some(protocol) if protocols.contains(&protocol) => Some(protocol),
            Some(_) => None,
            None => {
                let protocol = one(rng, protocols);
                self.text += &format!(" -p {protocol}");
                self.protocol = Some(protocol);
                Some(protocol)
            }
        }
    }

    fn some_match(&mut self, rng: &mut Rng) {
        let not = if rarely(rng, 5) { "! " } else { "" };
        let v4 = self.family == Family::V4;
        let once = |rule: &Rule, word: &str| rule.text.contains(word);
        match rng.u32(..30) {
            0 | 1 if self.hook != "POSTROUTING" && !once(self, " -i ") => {
                let device = one(rng, &["p0", "p1", "p2", "p3", "p+", "gone"]);
                self.add(&format!("{not}-i {device}"));
            }
            2 if self.hook != "PREROUTING" && !once(self, " -o ") => {
                let device = one(rng, &["p0", "p1", "p2", "p3", "p+"]);
                self.add(&format!("{not}-o {device}"));
            }
            3 if !once(self, " -s ") => self.add(&format!("{not}-s {}", network(rng, self.family))),
            4 | 5 if !once(self, " -d ") => self.add(&format!("{not}-d {}", network(rng, self.family))),
            6 if v4 && !once(self, " -d ") => self.add(&format!("{not}-d 198.18.0.9/255.255.0.255")),
            6 | 7 if !once(self, "iprange") => {
                let side = one(rng, &["--src-range", "--dst-range"]);
                let (first, last) = range(rng, self.family);
                self.add(&format!("-m iprange {not}{side} {first}-{last}"));
            }
            8 if self.protocol.is_none() => {
                let protocol = one(rng, &["udp", "tcp", "sctp", "udplite", "esp", "132", "253", "47"]);
                self.add(&format!("{not}-p {protocol}"));
                self.protocol = Some("other");
            }
            9..12 => self.ports(rng, not),
            12 => self.tcp(rng, not),
            13 => self.multiport(rng, not),
            14 if !once(self, "-m tos") => {
                let value = one(rng, &["0x10", "0x08/0x1c", "0xb8/0xfc", "0x00/0xff", "0x01/0x03"]);
                self.add(&format!("-m tos {not}--tos {value}"));
            }
            15 if !once(self, "-m dscp") => {
                let value = one(rng, &["--dscp 0x2e", "--dscp-class cs2", "--dscp 0", "--dscp 0x04"]);
                self.add(&format!("-m dscp {not}{value}"));
            }
            16 if !once(self, "-m ttl") && !once(self, "-m hl") => {
                let (module, option) = if v4 { ("ttl", "--ttl") } else { ("hl", "--hl") };
                let text = match rng.u32(..3) {
                    0 => format!("-m {module} {not}{option}-eq {}", one(rng, &[64, 63, 62, 2])),
                    1 => format!("-m {module} {option}-lt {}", one(rng, &[64, 63, 10])),
                    _ => format!("-m {module} {option}-gt {}", one(rng, &[64, 63, 10])),
                };
                self.add(&text);
            }
            17 if !once(self, "-m ecn") => {
                self.add(&format!("-m ecn {not}--ecn-ip-ect {}", rng.u32(..4)));
            }
            18 if !once(self, "-m length") => {
                let range = one(rng, &["40:80", "0:1300", "1300:", ":65535", "52"]);
                self.add(&format!("-m length {not}--length {range}"));
            }
            19..22 if !once(self, "-m mark") => {
                let mask = one(rng, &MASKS);
                self.add(&format!("-m mark {not}--mark {:#x}/{mask:#x}", mark(rng) & mask));
            }
            22 | 23 => self.icmp(rng, not),
            24 if self.hook != "POSTROUTING" && !once(self, "-m mac") => {
                self.add(&format!("-m mac {not}--mac-source {}", mac(rng)));
            }
            25 if v4 && !once(self, "-m addrtype") => {
                let side = one(rng, &["--src-type", "--dst-type"]);
                let kind = one(rng, &["LOCAL", "UNICAST", "BROADCAST", "LOCAL,MULTICAST", "UNICAST,BLACKHOLE"]);
                let limit = if rarely(rng, 4) && self.hook != "POSTROUTING" { " --limit-iface-in" } else { "" };
                self.add(&format!("-m addrtype {not}{side} {kind}{limit}"));
            }
            26 if !once(self, "-m pkttype") => {
                self.add(&format!("-m pkttype {not}--pkt-type {}", one(rng, &["unicast", "multicast", "broadcast"])));
            }
            27 | 28 if !self.sets.is_empty() => {
                let (name, fields) = &self.sets[rng.usize(..self.sets.len())];
                // A set with interfaces asks for the ingress by `src`, and before routing there is no egress.
                let way = if self.hook == "PREROUTING" { "src" } else { one(rng, &["src", "dst"]) };
                let mut ways = vec![way; *fields];
                if *fields > 0 {
                    ways[0] = one(rng, &["src", "dst"]);
                }
                self.add(&format!("-m set {not}--match-set {name} {}", ways.join(",")));
            }
            _ if rarely(rng, 4) => self.unknown(rng),
            _ => {
                if !once(self, " -d ") {
                    self.add(&format!("-d {}", network(rng, self.family)));
                }
            }
        }
    }

    fn ports(&mut self, rng: &mut Rng, not: &str) {
        let Some(protocol) = self.protocol(rng, &["udp", "udp", "tcp", "sctp"]) else { return };
        let text = match rng.u32(..5) {
            0 => format!("--sport {}", source_port(rng)),
            1 => format!("--sport {}", one(rng, &["5001:5003", ":5002", "5003:", "4000:6000"])),
            2 => format!("--dport {}", one(rng, &["25:80", ":53", "80:"])),
            _ => format!("--dport {}", destination_port(rng)),
        };
        let word = text.split(' ').next().unwrap_or_default().to_owned();
        if !self.text.contains(&word) {
            self.add(&format!("-m {protocol} {not}{text}"));
        }
    }

    fn multiport(&mut self, rng: &mut Rng, not: &str) {
        if self.protocol(rng, &["udp", "tcp", "udplite", "sctp"]).is_none() || self.text.contains("multiport") {
            return;
        }
        let (side, ports) = one(
            rng,
            &[
                ("--dports", "9,25"),
                ("--dports", "25:80"),
                ("--dports", "9,50:60,80"),
                ("--sports", "5001,5003:5004"),
                ("--ports", "25,53,5002"),
            ],
        );
        self.add(&format!("-m multiport {not}{side} {ports}"));
    }

    fn tcp(&mut self, rng: &mut Rng, not: &str) {
        if self.protocol(rng, &["tcp"]).is_none() || self.text.contains("flags") || self.text.contains("-m tcpmss") {
            return;
        }
        let text = match rng.u32(..8) {
            0 => format!("-m tcp {not}--syn"),
            1 => format!("-m tcp {not}--tcp-flags SYN,ACK,FIN,RST {}", one(rng, &["SYN", "SYN,ACK", "NONE", "RST"])),
            2 => format!("-m tcp {not}--tcp-flags ALL {}", one(rng, &["ACK", "SYN", "FIN,ACK"])),
            3 => format!("-m tcp {not}--tcp-option {}", one(rng, &[2, 3, 8])),
            4 => format!(
                "-m tcp --tcp-flags SYN,RST SYN -m tcpmss {not}--mss {}",
                one(rng, &["536", "1000:1500", "1401:"])
            ),
            5 => "-m ecn --ecn-tcp-cwr".to_owned(),
            _ => "-m tcp --tcp-flags SYN,RST SYN".to_owned(),
        };
        if text.starts_with("-m ecn") && self.text.contains("-m ecn") {
            return;
        }
        self.add(&text);
    }

    fn icmp(&mut self, rng: &mut Rng, not: &str) {
        match self.family {
            Family::V4 => {
                if self.protocol(rng, &["icmp"]).is_some() && !self.text.contains("icmp-type") {
                    let kind = one(
                        rng,
                        &["8", "echo-request", "3", "3/1", "any", "13", "time-exceeded", "fragmentation-needed"],
                    );
                    self.add(&format!("-m icmp {not}--icmp-type {kind}"));
                }
            }
            Family::V6 => {
                if self.protocol(rng, &["ipv6-icmp"]).is_some() && !self.text.contains("icmpv6-type") {
                    let kind = one(rng, &["128", "echo-reply", "1", "1/0", "packet-too-big", "3/1"]);
                    self.add(&format!("-m icmp6 {not}--icmpv6-type {kind}"));
                }
            }
        }
    }

    /// What a mirror may well leave to the kernel; its answer is always the same.
    fn unknown(&mut self, rng: &mut Rng) {
        let texts: &[&str] = &[
            "-m statistic --mode random --probability 1",
            "-m statistic --mode nth --every 1 --packet 0",
            "-m limit --limit 10000/sec --limit-burst 10000",
            "-m hashlimit --hashlimit-above 9000/sec --hashlimit-name h --hashlimit-burst 9000",
            "-m string --algo bm --string TwIn",
            "-m string --algo kmp --from 20 --to 400 --hex-string |5477|",
            "-m time --timestart 00:00 --timestop 23:59:59",
            "-m quota --quota 100000000",
            "-m realm --realm 0",
            "-m devgroup --src-group 0",
            "-m u32 --u32 0&0x1=0:1",
            "-m conntrack --ctstate NEW",
            "-m conntrack --ctstate INVALID,UNTRACKED",
            "-m state --state ESTABLISHED,RELATED",
            "-m connmark --mark 0",
            "-m policy --dir in --pol none",
            "-m recent --rcheck --name nobody",
        ];
        let text = one(rng, texts);
        // Whether a way is that of a rule of IPsec is asked of its own hooks only; a realm belongs to a route of IPv4.
        let fits = match text {
            _ if self.text.contains(text) => false,
            text if text.contains("policy") => self.hook == "PREROUTING" || self.hook == "FORWARD",
            text if text.contains("realm") => self.family == Family::V4 && self.hook != "PREROUTING",
            text if text.contains("devgroup") => self.hook != "POSTROUTING",
            text if text.contains("conn") || text.contains("state ") => rarely(rng, 2),
            _ => true,
        };
        if fits {
            self.add(text);
        }
    }

    fn target(&mut self, rng: &mut Rng, user: &[String]) -> String {
        if rarely(rng, 8) {
            return one(rng, &[" -j ACCEPT", " -j ACCEPT", " -j RETURN", "", " -j LOG --log-prefix \"x y\""])
                .to_owned();
        }
        if !user.is_empty() && rarely(rng, 2) {
            return format!(" -{} {}", one(rng, &['j', 'j', 'g']), user[rng.usize(..user.len())]);
        }
        match self.table {
            "filter" => match rng.u32(..12) {
                0..4 => " -j DROP".to_owned(),
                4 | 5 => self.reject(rng),
                6 => " -j NFLOG --nflog-group 7".to_owned(),
                7..9 => " -j ACCEPT".to_owned(),
                9 => " -j RETURN".to_owned(),
                10 => format!(" -j MARK --set-xmark {:#x}/0xffffffff", mark(rng)),
                _ => String::new(),
            },
            "raw" => match rng.u32(..8) {
                0 => " -j DROP".to_owned(),
                1..4 => " -j CT --notrack".to_owned(),
                4 => format!(" -j MARK --set-mark {:#x}", mark(rng)),
                _ => " -j ACCEPT".to_owned(),
            },
            _ => self.mangle(rng),
        }
    }

    fn reject(&mut self, rng: &mut Rng) -> String {
        match (self.family, rng.u32(..4)) {
            (_, 0) => {
                if self.protocol(rng, &["tcp"]).is_some() {
                    " -j REJECT --reject-with tcp-reset".to_owned()
                } else {
                    " -j REJECT".to_owned()
                }
            }
            (Family::V4, 1) => " -j REJECT --reject-with icmp-admin-prohibited".to_owned(),
            (Family::V6, 1) => " -j REJECT --reject-with icmp6-adm-prohibited".to_owned(),
            _ => " -j REJECT".to_owned(),
        }
    }

    fn mangle(&mut self, rng: &mut Rng) -> String {
        let (value, mask) = (mark(rng), one(rng, &MASKS));
        match rng.u32(..24) {
            0..5 => format!(" -j MARK --set-mark {value:#x}"),
            5 | 6 => format!(" -j MARK --set-xmark {:#x}/{mask:#x}", value & mask),
            7 => format!(" -j MARK --set-mark {:#x}/{mask:#x}", value & mask),
            8 => format!(" -j MARK --and-mark {:#x}", one(rng, &[0xffu32, 0xffff_ff00, 0x1, 0])),
            9 => format!(" -j MARK --or-mark {value:#x}"),
            10 => format!(" -j MARK --xor-mark {value:#x}"),
            11 | 12 => format!(" -j TOS --set-tos {}", one(rng, &["0x10/0xff", "0x08/0x3f", "0x1c/0x1c", "0x00/0xfc"])),
            13 | 14 => format!(" -j DSCP --set-dscp {}", one(rng, &["0x2e", "0x04", "0x00", "0x3f"])),
            15 | 16 => {
                let (target, option) = if self.family == Family::V4 { ("TTL", "ttl") } else { ("HL", "hl") };
                let change = match rng.u32(..6) {
                    0 => "set 1".to_owned(),
                    1 => "set 65".to_owned(),
                    2 => "set 255".to_owned(),
                    3 => format!("inc {}", one(rng, &[1, 5, 200])),
                    _ => format!("dec {}", one(rng, &[1, 2, 62, 63])),
                };
                format!(" -j {target} --{option}-{change}")
            }
            17 | 18 if self.hook != "PREROUTING" && self.protocol(rng, &["tcp"]).is_some() => {
                self.add("-m tcp --tcp-flags SYN,RST SYN");
                let to = one(rng, &["--clamp-mss-to-pmtu", "--set-mss 1000", "--set-mss 1452", "--set-mss 60"]);
                format!(" -j TCPMSS {to}")
            }
            19 if self.hook != "PREROUTING" => " -j CLASSIFY --set-class 1:10".to_owned(),
            20 if rarely(rng, 3) => " -j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xff".to_owned(),
            20 if rarely(rng, 2) => " -j CONNMARK --set-xmark 0x7/0xff".to_owned(),
            21 if rarely(rng, 2) => {
                if self.protocol(rng, &["tcp"]).is_some() {
                    " -j TCPOPTSTRIP --strip-options sack-permitted,timestamp".to_owned()
                } else {
                    String::new()
                }
            }
            22 => " -j DROP".to_owned(),
            _ => format!(" -j MARK --set-mark {value:#x}"),
        }
    }
}
