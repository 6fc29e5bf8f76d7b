//! What a rule asks of a packet.

use std::fmt;

use shunt_policy::config::{InterfacePattern, Side};
use shunt_policy::{Family, Mac};

use super::super::text::{Protocol, decimal, hexadecimal, number, prints_as};
use super::connection::ConnectionTest;
use super::values::{AddressMask, AddressRange, AddressTypes, Flags, Group, IcmpType, Masked, MaskedByte, Range};
use super::words::{Quoted, Words, unquoted};

/// One module of a rule, or one option that needs none. The kernel asks them in the order of the line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Match {
    Plain(Condition),
    /// All of the conditions must hold.
    Module {
        name: &'static str,
        conditions: Vec<Condition>,
    },
    /// A module that asks connection tracking something that we do not know, as it was printed.
    Connection(Box<str>),
    /// A module or option with something that we do not know, as it was printed.
    Opaque(Box<str>),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Condition {
    pub not: bool,
    pub test: Test,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Test {
    /// `-s`, `-d`
    Source(AddressMask),
    Destination(AddressMask),
    /// `-i`, `-o`
    In(InterfacePattern),
    Out(InterfacePattern),
    /// `-p`
    Protocol(Protocol),
    /// `-f`: the second fragment or a later one.
    Fragment,
    /// `--sport`, `--dport` of tcp, udp, udplite, sctp and dccp.
    SourcePort(Range),
    DestinationPort(Range),
    /// `--tcp-flags MASK SET`
    TcpFlags {
        mask: Flags,
        set: Flags,
    },
    /// `--tcp-option`
    TcpOption(u8),
    /// `--sports`, `--dports`, `--ports` of multiport.
    SourcePorts(Vec<Range>),
    DestinationPorts(Vec<Range>),
    EitherPort(Vec<Range>),
    Tos(MaskedByte),
    /// Six bits.
    Dscp(u8),
    EcnTcpEce,
    EcnTcpCwr,
    /// Two bits.
    EcnIpEct(u8),
    /// `--ttl-eq`, `--ttl-lt`, `--ttl-gt`, and those of hl.
    Ttl(Comparison),
    HopLimit(Comparison),
    Length(Range),
    Mark(Masked),
    Icmp(IcmpType),
    Icmp6(IcmpType),
    MacSource(Mac),
    AddressType {
        of: Side,
        types: AddressTypes,
    },
    /// Which side each field of the set's elements is compared with.
    MatchSet {
        name: Box<str>,
        sides: Vec<Side>,
    },
    PacketType(PacketType),
    SourceGroup(Group),
    DestinationGroup(Group),
    Comment(Box<str>),
    /// `-m conntrack`, `-m state`
    Connection(ConnectionTest),
    /// `-m connmark --mark`
    ConnectionMark(Masked),
    TcpMss(Range),
    SourceRange(AddressRange),
    DestinationRange(AddressRange),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Comparison {
    Equal(u8),
    Less(u8),
    Greater(u8),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PacketType {
    Unicast,
    Broadcast,
    Multicast,
}

/// The modules of which we know options.
const MODULES: [&str; 26] = [
    "tcp",
    "udp",
    "udplite",
    "sctp",
    "dccp",
    "multiport",
    "tos",
    "dscp",
    "ecn",
    "ttl",
    "hl",
    "length",
    "mark",
    "icmp",
    "icmp6",
    "mac",
    "addrtype",
    "set",
    "pkttype",
    "devgroup",
    "comment",
    "tcpmss",
    "iprange",
    "conntrack",
    "state",
    "connmark",
];

/// Modules that look up the packet's connection. Of some we know no option, of others not all.
const CONNECTION: [&str; 8] =
    ["conntrack", "state", "connmark", "connlimit", "connbytes", "connlabel", "helper", "cluster"];

impl Match {
    /// Reads the next one, whatever it is. What we would print otherwise than it stands there we have not understood, and take no
    /// part of it.
    pub(super) fn parse(words: &mut Words, family: Family) -> Self {
        let start = words.place();
        if let Some(read) = Match::known(words, family)
            && prints_as(&read, words.since(start))
        {
            return read;
        }
        words.return_to(start);
        let module = match words.next() {
            Some("-m") => words.next(),
            _ => None,
        };
        words.skip_to_next_part();
        let text = words.since(start).into();
        match module {
            Some(module) if CONNECTION.contains(&module) => Match::Connection(text),
            _ => Match::Opaque(text),
        }
    }

    fn known(words: &mut Words, family: Family) -> Option<Self> {
        if words.next_if(|word| word == "-m").is_none() {
            return Condition::parse(words, |option, words| plain(option, words, family)).map(Match::Plain);
        }
        let module = words.next()?;
        let name = *MODULES.iter().find(|known| **known == module)?;
        let mut conditions = Vec::new();
        while words.peek().is_some_and(|word| !matches!(word, "-m" | "-j" | "-g")) {
            conditions.push(Condition::parse(words, |option, words| of_module(name, option, words, family))?);
        }
        Some(Match::Module { name, conditions })
    }
}

impl Condition {
    fn parse(words: &mut Words, test: impl FnOnce(&str, &mut Words) -> Option<Test>) -> Option<Self> {
        let not = words.next_if(|word| word == "!").is_some();
        let option = words.next()?;
        Some(Condition { not, test: test(option, words)? })
    }
}

/// The options that need no module.
fn plain(option: &str, words: &mut Words, family: Family) -> Option<Test> {
    if option == "-f" && family == Family::V4 {
        return Some(Test::Fragment);
    }
    let argument = words.next()?;
    Some(match option {
        "-s" => Test::Source(AddressMask::parse(argument, family)?),
        "-d" => Test::Destination(AddressMask::parse(argument, family)?),
        "-i" => Test::In(InterfacePattern(argument.to_owned())),
        "-o" => Test::Out(InterfacePattern(argument.to_owned())),
        // 0 is "any" to iptables, and not printed.
        "-p" => Test::Protocol(Protocol::parse(argument).filter(|protocol| protocol.number != 0)?),
        _ => return None,
    })
}

fn of_module(module: &str, option: &str, words: &mut Words, family: Family) -> Option<Test> {
    match (module, option) {
        ("ecn", "--ecn-tcp-ece") => return Some(Test::EcnTcpEce),
        ("ecn", "--ecn-tcp-cwr") => return Some(Test::EcnTcpCwr),
        _ => {}
    }
    let argument = words.next()?;
    if let Some(test) = ConnectionTest::parse(module, option, argument, family) {
        return Some(Test::Connection(test));
    }
    Some(match (module, option) {
        ("tcp" | "udp" | "udplite" | "sctp" | "dccp", "--sport") => Test::SourcePort(Range::parse(argument)?),
        ("tcp" | "udp" | "udplite" | "sctp" | "dccp", "--dport") => Test::DestinationPort(Range::parse(argument)?),
        ("tcp", "--tcp-flags") => Test::TcpFlags { mask: Flags::parse(argument)?, set: Flags::parse(words.next()?)? },
        ("tcp", "--tcp-option") => Test::TcpOption(decimal(argument)?),
        ("multiport", "--sports") => Test::SourcePorts(Range::parse_list(argument)?),
        ("multiport", "--dports") => Test::DestinationPorts(Range::parse_list(argument)?),
        ("multiport", "--ports") => Test::EitherPort(Range::parse_list(argument)?),
        ("tos", "--tos") => Test::Tos(MaskedByte::parse(argument)?),
        ("dscp", "--dscp") => Test::Dscp(number(argument)?.try_into().ok().filter(|point| *point < 64)?),
        ("ecn", "--ecn-ip-ect") => Test::EcnIpEct(decimal(argument).filter(|bits| *bits < 4)?),
        ("ttl", "--ttl-eq") => Test::Ttl(Comparison::Equal(decimal(argument)?)),
        ("ttl", "--ttl-lt") => Test::Ttl(Comparison::Less(decimal(argument)?)),
        ("ttl", "--ttl-gt") => Test::Ttl(Comparison::Greater(decimal(argument)?)),
        ("hl", "--hl-eq") => Test::HopLimit(Comparison::Equal(decimal(argument)?)),
        ("hl", "--hl-lt") => Test::HopLimit(Comparison::Less(decimal(argument)?)),
        ("hl", "--hl-gt") => Test::HopLimit(Comparison::Greater(decimal(argument)?)),
        ("length", "--length") => Test::Length(Range::parse(argument)?),
        ("connmark", "--mark") => Test::ConnectionMark(Masked::parse(argument)?),
        ("mark", "--mark") => Test::Mark(Masked::parse(argument)?),
        ("icmp", "--icmp-type") => Test::Icmp(IcmpType::parse(argument)?),
        ("icmp6", "--icmpv6-type") => Test::Icmp6(IcmpType::parse(argument)?),
        ("mac", "--mac-source") => Test::MacSource(mac(argument)?),
        ("addrtype", "--src-type") => Test::AddressType { of: Side::Source, types: AddressTypes::parse(argument)? },
        ("addrtype", "--dst-type") => {
            Test::AddressType { of: Side::Destination, types: AddressTypes::parse(argument)? }
        }
        ("set", "--match-set") => Test::MatchSet { name: argument.into(), sides: sides(words.next()?)? },
        ("pkttype", "--pkt-type") => Test::PacketType(match argument {
            "unicast" => PacketType::Unicast,
            "broadcast" => PacketType::Broadcast,
            "multicast" => PacketType::Multicast,
            _ => return None,
        }),
        ("devgroup", "--src-group") => Test::SourceGroup(Group::parse(argument)?),
        ("devgroup", "--dst-group") => Test::DestinationGroup(Group::parse(argument)?),
        ("comment", "--comment") => Test::Comment(unquoted(argument).into()),
        ("tcpmss", "--mss") => Test::TcpMss(Range::parse(argument)?),
        ("iprange", "--src-range") => Test::SourceRange(AddressRange::parse(argument, family)?),
        ("iprange", "--dst-range") => Test::DestinationRange(AddressRange::parse(argument, family)?),
        _ => return None,
    })
}

/// `02:00:00:00:00:01`
pub(in super::super) fn mac(text: &str) -> Option<Mac> {
    let mut bytes = [0; 6];
    let mut words = text.split(':');
    for byte in &mut bytes {
        *byte = hexadecimal(words.next()?)?.try_into().ok()?;
    }
    words.next().is_none().then_some(Mac(bytes))
}

/// `src,dst`
fn sides(text: &str) -> Option<Vec<Side>> {
    let side = |word: &str| match word {
        "src" => Some(Side::Source),
        "dst" => Some(Side::Destination),
        _ => None,
    };
    text.split(',').map(side).collect()
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Match::Plain(condition) => write!(f, "{condition}"),
            Match::Module { name, conditions } => {
                write!(f, "-m {name}")?;
                conditions.iter().try_for_each(|condition| write!(f, " {condition}"))
            }
            Match::Connection(text) | Match::Opaque(text) => f.write_str(text),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.not { "! " } else { "" }, self.test)
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Test::Source(address) => write!(f, "-s {address}"),
            Test::Destination(address) => write!(f, "-d {address}"),
            Test::In(name) => write!(f, "-i {}", name.0),
            Test::Out(name) => write!(f, "-o {}", name.0),
            Test::Protocol(protocol) => write!(f, "-p {protocol}"),
            Test::Fragment => f.write_str("-f"),
            Test::SourcePort(range) => write!(f, "--sport {range}"),
            Test::DestinationPort(range) => write!(f, "--dport {range}"),
            Test::TcpFlags { mask, set } => write!(f, "--tcp-flags {mask} {set}"),
            Test::TcpOption(kind) => write!(f, "--tcp-option {kind}"),
            Test::SourcePorts(ranges) => list(f, "--sports", ranges),
            Test::DestinationPorts(ranges) => list(f, "--dports", ranges),
            Test::EitherPort(ranges) => list(f, "--ports", ranges),
            Test::Tos(tos) => write!(f, "--tos {tos}"),
            Test::Dscp(point) => write!(f, "--dscp {point:#04x}"),
            Test::EcnTcpEce => f.write_str("--ecn-tcp-ece"),
            Test::EcnTcpCwr => f.write_str("--ecn-tcp-cwr"),
            Test::EcnIpEct(bits) => write!(f, "--ecn-ip-ect {bits}"),
            Test::Ttl(comparison) => write!(f, "--ttl-{comparison}"),
            Test::HopLimit(comparison) => write!(f, "--hl-{comparison}"),
            Test::Length(range) => write!(f, "--length {range}"),
            Test::Mark(mark) | Test::ConnectionMark(mark) => write!(f, "--mark {mark}"),
            Test::Connection(test) => write!(f, "{test}"),
            Test::Icmp(kind) => write!(f, "--icmp-type {kind}"),
            Test::Icmp6(kind) => write!(f, "--icmpv6-type {kind}"),
            Test::MacSource(mac) => write!(f, "--mac-source {mac}"),
            Test::AddressType { of: Side::Source, types } => write!(f, "--src-type {types}"),
            Test::AddressType { of: Side::Destination, types } => write!(f, "--dst-type {types}"),
            Test::MatchSet { name, sides } => {
                write!(f, "--match-set {name} ")?;
                list_of_sides(f, sides)
            }
            Test::PacketType(PacketType::Unicast) => f.write_str("--pkt-type unicast"),
            Test::PacketType(PacketType::Broadcast) => f.write_str("--pkt-type broadcast"),
            Test::PacketType(PacketType::Multicast) => f.write_str("--pkt-type multicast"),
            Test::SourceGroup(group) => write!(f, "--src-group {group}"),
            Test::DestinationGroup(group) => write!(f, "--dst-group {group}"),
            Test::Comment(text) => write!(f, "--comment {}", Quoted(text)),
            Test::TcpMss(range) => write!(f, "--mss {range}"),
            Test::SourceRange(range) => write!(f, "--src-range {range}"),
            Test::DestinationRange(range) => write!(f, "--dst-range {range}"),
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Comparison::Equal(value) => write!(f, "eq {value}"),
            Comparison::Less(value) => write!(f, "lt {value}"),
            Comparison::Greater(value) => write!(f, "gt {value}"),
        }
    }
}

fn list(f: &mut fmt::Formatter<'_>, option: &str, ranges: &[Range]) -> fmt::Result {
    f.write_str(option)?;
    ranges.iter().enumerate().try_for_each(|(at, range)| write!(f, "{}{range}", if at == 0 { " " } else { "," }))
}

fn list_of_sides(f: &mut fmt::Formatter<'_>, sides: &[Side]) -> fmt::Result {
    sides.iter().enumerate().try_for_each(|(at, side)| {
        let word = match side {
            Side::Source => "src",
            Side::Destination => "dst",
        };
        write!(f, "{}{word}", if at == 0 { "" } else { "," })
    })
}
