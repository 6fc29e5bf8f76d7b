//! The format of `iptables-save`, in all four dialects: tables, chains, and rules in the form of [`shunt_policy::config`].
//!
//! Nothing here fails: a line that is not understood becomes an opaque rule, so that what it could touch is left to the kernel.

use std::net::IpAddr;

use shunt_policy::config::{ChainPolicy, InterfacePattern, MarkMatch, Origin, PortRange, Source};
use shunt_policy::{Family, Prefix};

/// One rule of a netfilter chain: all matches must hold, then the target acts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChainRule {
    pub matches: Vec<Match>,
    pub target: Target,
    pub origin: Origin,
}

/// One match of a rule, or its negation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Match {
    pub not: bool,
    pub test: Test,
}

/// What a match looks at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Test {
    /// `-i`
    In(InterfacePattern),
    /// `-o`; only where the egress is known (FORWARD, POSTROUTING).
    Out(InterfacePattern),
    /// `-s`
    Source(Prefix),
    /// `-d`
    Destination(Prefix),
    /// `-p`
    Protocol(u8),
    /// `--sport`, `-m multiport --sports`: any of the ranges. False for packets without ports.
    SourcePort(Vec<PortRange>),
    /// `--dport`, `-m multiport --dports`
    DestinationPort(Vec<PortRange>),
    /// `-m multiport --ports`: source or destination.
    EitherPort(Vec<PortRange>),
    /// `-m tos --tos VALUE/MASK`, over the whole TOS or traffic class byte (`xt_tos`).
    Tos { value: u8, mask: u8 },
    /// `-m dscp --dscp N`, N being the six-bit code point (`xt_dscp`).
    CodePoint(u8),
    /// `-m mark --mark VALUE/MASK`
    Mark(MarkMatch),
    /// `--icmp-type TYPE[/CODE]`, ICMP in IPv4 and ICMPv6 in IPv6. Codes are inclusive.
    Icmp { kind: u8, codes: (u8, u8) },
    /// A match we do not know: it might hold or not.
    Opaque(String),
}

/// What a matching rule does. Only [`Mark`](Target::Mark) and [`Continue`](Target::Continue) go on with the next rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    Accept,
    Drop,
    Return,
    Jump(String),
    /// Like jump, but does not come back.
    Goto(String),
    /// `mark = (mark & !clear) ^ flip`: the form to which all of `--set-mark`, `--set-xmark`, `--and-mark`, `--or-mark` and
    /// `--xor-mark` come down (`xt_MARK`'s mark_tg).
    Mark {
        clear: u32,
        flip: u32,
    },
    /// No target, or one without effect on the packet: only the rule's counter sees it.
    Continue,
    /// A target we do not know: packets that match are punted.
    Opaque(String),
}

/// A table as `iptables-save` prints it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Table {
    /// filter, nat, mangle, raw, security.
    pub name: String,
    pub chains: Vec<Chain>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chain {
    pub name: String,
    /// Built-in chains only.
    pub policy: Option<ChainPolicy>,
    pub rules: Vec<ChainRule>,
}

/// What a `-save` tool printed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Saved {
    pub tables: Vec<Table>,
    /// Tables that the tool calls incompatible: they were not written by iptables.
    pub incompatible: Vec<String>,
    /// The output ends in the middle of a table: it must not be believed.
    pub cut: bool,
}

impl Saved {
    pub fn table(&self, name: &str) -> Option<&Table> {
        self.tables.iter().find(|table| table.name == name)
    }
}

impl Table {
    pub fn chain(&self, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|chain| chain.name == name)
    }

    fn chain_mut(&mut self, name: &str) -> &mut Chain {
        let at = self.chains.iter().position(|chain| chain.name == name).unwrap_or_else(|| {
            self.chains.push(Chain { name: name.to_owned(), policy: None, rules: Vec::new() });
            self.chains.len() - 1
        });
        &mut self.chains[at]
    }
}

/// Reads the whole output of one tool.
pub fn parse(text: &str, family: Family, source: Source) -> Saved {
    let mut saved = Saved::default();
    for line in text.lines().map(str::trim_end) {
        if let Some(comment) = line.strip_prefix('#') {
            // # Table `filter' is incompatible, use 'nft' tool.
            if let Some((_, rest)) = comment.split_once("Table `")
                && let Some((name, _)) = rest.split_once("' is incompatible")
            {
                saved.incompatible.push(name.to_owned());
            }
        } else if let Some(name) = line.strip_prefix('*') {
            saved.cut = true;
            saved.tables.push(Table { name: name.trim().to_owned(), chains: Vec::new() });
        } else if line == "COMMIT" {
            saved.cut = false;
        } else if let Some(table) = saved.tables.last_mut() {
            if let Some(declaration) = line.strip_prefix(':') {
                declare(table, declaration);
            } else {
                rule(table, line, family, source);
            }
        }
    }
    saved
}

/// `:PREROUTING ACCEPT [0:0]`, `:user - [0:0]`
fn declare(table: &mut Table, declaration: &str) {
    let mut words = declaration.split_whitespace();
    let Some(name) = words.next() else { return };
    table.chain_mut(name).policy = match words.next() {
        Some("ACCEPT") => Some(ChainPolicy::Accept),
        Some("-") | None => None,
        Some(_) => Some(ChainPolicy::Drop),
    };
}

/// `-A CHAIN ...`, with `[packets:bytes]` in front if the tool was asked for counters.
fn rule(table: &mut Table, line: &str, family: Family, source: Source) {
    let words = words(line);
    let mut words = words.iter().map(String::as_str).peekable();
    words.next_if(|word| word.starts_with('['));
    if words.next() != Some("-A") {
        return;
    }
    let Some(chain) = words.next() else { return };
    let rest: Vec<&str> = words.collect();
    let (matches, target) = RuleReader { family, matches: Vec::new(), protocol: None, words: &rest, at: 0 }.read();
    let user = table.chains.iter().map(|chain| chain.name.clone()).collect::<Vec<_>>();
    let target = match target {
        Jumped::Target(target) => target,
        Jumped::Chain { name, goto } if user.contains(&name) => match goto {
            true => Target::Goto(name),
            false => Target::Jump(name),
        },
        Jumped::Chain { name, .. } => Target::Opaque(name),
    };
    let origin = Origin::new(source, line);
    table.chain_mut(chain).rules.push(ChainRule { matches, target, origin });
}

/// Splits as a shell would: double quotes, and backslashes inside them (`xtables_save_string`).
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' if quoted => word.get_or_insert_default().extend(letters.next()),
            space if space.is_whitespace() && !quoted => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}

enum Jumped {
    Target(Target),
    Chain { name: String, goto: bool },
}

/// Reads one rule word by word.
struct RuleReader<'a> {
    family: Family,
    matches: Vec<Match>,
    protocol: Option<u8>,
    words: &'a [&'a str],
    at: usize,
}

impl<'a> RuleReader<'a> {
    fn read(mut self) -> (Vec<Match>, Jumped) {
        let mut not = false;
        while let Some(word) = self.next() {
            match word {
                "!" => {
                    not = true;
                    continue;
                }
                "-j" => {
                    let target = self.target();
                    return (self.matches, target);
                }
                "-g" => {
                    let name = self.next().unwrap_or_default().to_owned();
                    return (self.matches, Jumped::Chain { name, goto: true });
                }
                // The module's own options follow; what they ask is read by their names.
                "-m" => match self.next() {
                    Some(
                        "tcp" | "udp" | "udplite" | "sctp" | "dccp" | "multiport" | "tos" | "dscp" | "mark" | "icmp"
                        | "icmp6",
                    ) => {}
                    Some("comment") => {
                        // --comment TEXT
                        self.at += 2;
                    }
                    module => {
                        let text = self.opaque_rest(module.unwrap_or_default());
                        self.matches.push(Match { not: false, test: Test::Opaque(text) });
                    }
                },
                option => {
                    let test = self.test(option).unwrap_or_else(|| Test::Opaque(self.opaque_rest(option)));
                    self.matches.push(Match { not, test });
                }
            }
            not = false;
        }
        (self.matches, Jumped::Target(Target::Continue))
    }

    fn next(&mut self) -> Option<&'a str> {
        let word = self.words.get(self.at).copied();
        self.at += 1;
        word
    }

    /// Passes over the options of something unknown, to the next `-m`, `-j` or `-g`.
    fn opaque_rest(&mut self, head: &str) -> String {
        let mut text = head.to_owned();
        while let Some(word) = self.words.get(self.at).filter(|word| !matches!(**word, "-m" | "-j" | "-g")) {
            text.push(' ');
            text.push_str(word);
            self.at += 1;
        }
        text
    }

    /// One option with its argument; `None` if it is not one of ours.
    fn test(&mut self, option: &str) -> Option<Test> {
        let start = self.at;
        let argument = self.next()?;
        let test = match option {
            "-i" => Some(Test::In(InterfacePattern(argument.to_owned()))),
            "-o" => Some(Test::Out(InterfacePattern(argument.to_owned()))),
            "-s" => prefix(argument, self.family).map(Test::Source),
            "-d" => prefix(argument, self.family).map(Test::Destination),
            "-p" => protocol(argument).map(|protocol| {
                self.protocol = Some(protocol);
                Test::Protocol(protocol)
            }),
            "--sport" | "--sports" => ranges(argument).map(Test::SourcePort),
            "--dport" | "--dports" => ranges(argument).map(Test::DestinationPort),
            "--ports" => ranges(argument).map(Test::EitherPort),
            "--tos" => masked(argument, 0xff).and_then(|(value, mask)| {
                Some(Test::Tos { value: value.try_into().ok()?, mask: mask.try_into().ok()? })
            }),
            "--dscp" => number(argument).filter(|point| *point < 64).map(|point| Test::CodePoint(point as u8)),
            "--mark" => masked(argument, u32::MAX).map(|(value, mask)| Test::Mark(MarkMatch { value, mask })),
            "--icmp-type" | "--icmpv6-type" => icmp(argument),
            _ => None,
        };
        if test.is_none() {
            self.at = start;
        }
        test
    }

    fn target(&mut self) -> Jumped {
        let Some(name) = self.next() else { return Jumped::Target(Target::Opaque(String::new())) };
        let rest = self.words.get(self.at..).unwrap_or_default();
        Jumped::Target(match (name, rest) {
            ("ACCEPT", []) => Target::Accept,
            ("DROP", []) => Target::Drop,
            ("RETURN", []) => Target::Return,
            ("MARK", [option, argument]) => {
                mark(option, argument).unwrap_or_else(|| Target::Opaque([name, option, argument].join(" ")))
            }
            (_, []) if !is_extension(name) => return Jumped::Chain { name: name.to_owned(), goto: false },
            _ => Target::Opaque(format!("{name} {}", rest.join(" ")).trim_end().to_owned()),
        })
    }
}

/// Targets that take no argument and must not be mistaken for a chain, should one be named like them.
fn is_extension(name: &str) -> bool {
    matches!(name, "QUEUE" | "NOTRACK" | "MASQUERADE" | "REDIRECT" | "LOG" | "TRACE" | "CT" | "NFQUEUE" | "REJECT")
}

/// The forms of `-j MARK` (`xt_MARK`, libxt_MARK's mark_tg2_parse).
fn mark(option: &str, argument: &str) -> Option<Target> {
    let (clear, flip) = match option {
        "--set-xmark" => masked(argument, u32::MAX).map(|(value, mask)| (mask, value))?,
        "--set-mark" => masked(argument, u32::MAX).map(|(value, mask)| (value | mask, value))?,
        "--and-mark" => (!number(argument)?, 0),
        "--or-mark" => (number(argument)?, number(argument)?),
        "--xor-mark" => (0, number(argument)?),
        _ => return None,
    };
    Some(Target::Mark { clear, flip })
}

/// `192.0.2.0/24`, `192.0.2.1/32`, `192.0.2.0/255.255.255.0`; a mask with holes is not ours.
fn prefix(text: &str, family: Family) -> Option<Prefix> {
    let (address, mask) = match text.split_once('/') {
        Some((address, mask)) => (address, Some(mask)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    if Family::of(address) != family {
        return None;
    }
    let length = match mask {
        None => family.bits(),
        Some(mask) => match (mask.parse::<u8>(), mask.parse::<IpAddr>()) {
            (Ok(length), _) => length,
            (_, Ok(IpAddr::V4(mask))) if mask.to_bits().leading_ones() == mask.to_bits().count_ones() => {
                mask.to_bits().leading_ones() as u8
            }
            (_, Ok(IpAddr::V6(mask))) if mask.to_bits().leading_ones() == mask.to_bits().count_ones() => {
                mask.to_bits().leading_ones() as u8
            }
            _ => return None,
        },
    };
    Prefix::new(address, length)
}

fn protocol(text: &str) -> Option<u8> {
    Some(match text {
        "icmp" => 1,
        "igmp" => 2,
        "tcp" => 6,
        "udp" => 17,
        "dccp" => 33,
        "gre" => 47,
        "esp" => 50,
        "ah" => 51,
        "ipv6-icmp" | "icmpv6" => 58,
        "sctp" => 132,
        "udplite" => 136,
        // 0 is "any" to iptables.
        _ => text.parse().ok().filter(|protocol| *protocol != 0)?,
    })
}

/// `25`, `25:80`, `:80`, `25,80,100:200`
fn ranges(text: &str) -> Option<Vec<PortRange>> {
    let range = |text: &str| match text.split_once(':') {
        None => text.parse().ok().map(PortRange::one),
        Some((first, last)) => {
            let first = if first.is_empty() { 0 } else { first.parse().ok()? };
            let last = if last.is_empty() { u16::MAX } else { last.parse().ok()? };
            Some(PortRange { first, last })
        }
    };
    text.split(',').map(range).collect()
}

/// `VALUE[/MASK]`
fn masked(text: &str, default: u32) -> Option<(u32, u32)> {
    match text.split_once('/') {
        None => Some((number(text)?, default)),
        Some((value, mask)) => Some((number(value)?, number(mask)?)),
    }
}

fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// `TYPE`, `TYPE/CODE`; the `-save` tools print numbers, and `any` as such.
fn icmp(text: &str) -> Option<Test> {
    let (kind, codes) = match text.split_once('/') {
        Some((kind, code)) => {
            let code = code.parse().ok()?;
            (kind, (code, code))
        }
        None => (text, (0, u8::MAX)),
    };
    // 255 is iptables' own number for "any" and left to the kernel like the names.
    Some(Test::Icmp { kind: kind.parse().ok().filter(|kind| *kind != u8::MAX)?, codes })
}

#[cfg(test)]
mod tests;
