//! What the operator wrote, as the kernel holds it: the input of [`compile`](crate::compile) and of the
//! [`reference`](crate::reference). Every item names its [`Origin`], so that every answer can.
//!
//! What cannot be mirrored exactly stands here too, as `Opaque` or as a [`Guard`]: it is never left out, because a rule that is
//! left out is a rule that is bypassed.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::names::{Dscp, Family, Ifindex, Mac, Mark, PortId, Prefix, Priority, TableId};
use crate::outcome::PuntReason;

/// Everything that decides where a forwarded packet goes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Config {
    pub links: Vec<Link>,
    pub neighbours: Vec<Neighbour>,
    /// In the order in which the kernel asks them (by priority, then by insertion), each family by itself.
    pub rules: Vec<Rule>,
    /// In any order; the first of two routes with equal table, prefix, tos and metric is the one the kernel lists first.
    pub routes: Vec<Route>,
    /// Chains hooked to PREROUTING that may set the mark, in the order in which the kernel runs them.
    pub mangle: Vec<BaseChain>,
    /// What else could touch a packet.
    pub guards: Vec<Guard>,
}

/// Where an item comes from, in the operator's own words.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Origin {
    pub source: Source,
    /// The item as the source's own tool prints it: `from all fwmark 0x1 lookup mail.out`,
    /// `-A PREROUTING -i eth0 -p tcp -m tcp --dport 25 -j MARK --set-xmark 0x1/0xffffffff`.
    pub text: Arc<str>,
}

impl Origin {
    pub fn new(source: Source, text: impl Into<Arc<str>>) -> Self {
        Origin { source, text: text.into() }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.source, self.text)
    }
}

/// The part of the kernel's configuration that an [`Origin`] belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Source {
    Link,
    Sysctl,
    Rule,
    Route,
    IptablesNft,
    IptablesLegacy,
    Nftables,
    TrafficControl,
    Xfrm,
}

impl Source {
    pub const ALL: [Source; 9] = [
        Source::Link,
        Source::Sysctl,
        Source::Rule,
        Source::Route,
        Source::IptablesNft,
        Source::IptablesLegacy,
        Source::Nftables,
        Source::TrafficControl,
        Source::Xfrm,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Source::Link => "link",
            Source::Sysctl => "sysctl",
            Source::Rule => "ip rule",
            Source::Route => "ip route",
            Source::IptablesNft => "iptables-nft",
            Source::IptablesLegacy => "iptables-legacy",
            Source::Nftables => "nftables",
            Source::TrafficControl => "tc",
            Source::Xfrm => "ip xfrm",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A network interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    pub ifindex: Ifindex,
    pub name: String,
    /// The interface's own Ethernet address; `None` for interfaces without one (tun, ppp).
    pub mac: Option<Mac>,
    /// `IFF_UP`.
    pub up: bool,
    /// Largest IP packet in bytes, IPv4 (`IFLA_MTU`).
    pub mtu: u32,
    /// Largest IP packet in bytes, IPv6 (`net.ipv6.conf.IF.mtu`, never above `mtu`).
    pub mtu6: u32,
    /// Packets that arrive here may be forwarded (`net.ipv4.conf.IF.forwarding`).
    pub forwarding4: bool,
    /// The same for IPv6; false while `net.ipv6.conf.all.forwarding` is 0 as well.
    pub forwarding6: bool,
    /// The larger of `net.ipv4.conf.{all,IF}.rp_filter`.
    pub rp_filter: RpFilter,
    /// `net.ipv4.conf.{all,IF}.src_valid_mark`, either of them.
    pub src_valid_mark: bool,
    /// How packets leave: by our workers, or only by the kernel and why.
    pub transmit: Transmit,
}

/// Who can send on a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transmit {
    /// One of our ports.
    Port(PortId),
    /// The kernel alone, for this reason; packets routed here are punted.
    Kernel(PuntReason),
}

/// Reverse-path filter of IPv4 (RFC 3704; `ip-sysctl.rst`, rp_filter).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RpFilter {
    Off,
    Strict,
    Loose,
}

/// What the kernel knows of an address on a link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Neighbour {
    pub ifindex: Ifindex,
    pub address: IpAddr,
    /// `None` while the kernel resolves it or has failed to (INCOMPLETE, FAILED, NONE): such packets are the kernel's.
    pub mac: Option<Mac>,
}

/// An `ip rule`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    pub family: Family,
    pub priority: Priority,
    pub selector: RuleSelector,
    pub action: RuleAction,
    pub origin: Origin,
}

/// What a rule asks of a packet; every selector that is set must match (`fib_rule_match`).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RuleSelector {
    /// Inverts the whole (`FIB_RULE_INVERT`).
    pub not: bool,
    pub from: Option<Prefix>,
    pub to: Option<Prefix>,
    /// By name: a rule whose interface is gone matches nothing until one of that name returns.
    pub iif: Option<String>,
    pub fwmark: Option<MarkMatch>,
    /// `tos` selector: the value as the kernel holds it, never 0.
    pub tos: Option<Dscp>,
    /// Selectors we do not evaluate, as text. A packet that all the others match *might* match: it is punted.
    pub opaque: Option<String>,
}

/// `mark & mask == value` (`fwmark VALUE/MASK`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MarkMatch {
    pub value: u32,
    pub mask: u32,
}

impl MarkMatch {
    pub fn matches(self, mark: Mark) -> bool {
        (mark.0 ^ self.value) & self.mask == 0
    }
}

/// What a matching rule does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RuleAction {
    Lookup(TableId),
    Blackhole,
    Unreachable,
    Prohibit,
    /// goto, nop, suppressors, unknown: packets that match are punted.
    Opaque(String),
}

/// A route of any table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    pub table: TableId,
    pub destination: Prefix,
    /// IPv4 TOS routes only; 0 is "any".
    pub tos: Dscp,
    /// `RTA_PRIORITY`: lower is preferred.
    pub metric: u32,
    pub kind: RouteKind,
    pub origin: Origin,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RouteKind {
    Unicast(Nexthop),
    /// The packet is for this machine.
    Local,
    Broadcast,
    Anycast,
    Multicast,
    Blackhole,
    Unreachable,
    Prohibit,
    /// On to the next rule.
    Throw,
    /// ECMP, nexthop objects, encapsulation, unknown attributes: packets that end here are punted.
    Opaque(String),
}

/// Where a unicast route leads.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Nexthop {
    pub oif: Ifindex,
    /// The gateway; `None` when the destination itself is on the link.
    pub via: Option<IpAddr>,
    /// The route's own MTU in bytes, if it has one.
    pub mtu: Option<u32>,
}

/// A chain hooked to PREROUTING, with the chains it can jump to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BaseChain {
    pub family: Family,
    /// For messages: `iptables-nft mangle PREROUTING`.
    pub name: String,
    pub rules: Vec<ChainRule>,
    /// What happens to a packet that reaches the end.
    pub policy: ChainPolicy,
    /// User-defined chains, in any order; names are unique.
    pub user: Vec<UserChain>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChainPolicy {
    Accept,
    Drop,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UserChain {
    pub name: String,
    pub rules: Vec<ChainRule>,
}

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

/// Inclusive range of ports, host order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

impl PortRange {
    pub fn one(port: u16) -> Self {
        PortRange { first: port, last: port }
    }

    pub fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

/// An interface name, or with a trailing `+` all names that start so (iptables' own wildcard). A lone `+` is every interface.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct InterfacePattern(pub String);

impl InterfacePattern {
    pub fn matches(&self, name: &str) -> bool {
        match self.0.strip_suffix('+') {
            Some(start) => name.starts_with(start),
            None => self.0 == name,
        }
    }
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

/// Something of the kernel's that we do not evaluate: a packet that it could touch is punted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Guard {
    pub family: Family,
    pub hook: Hook,
    /// What we know of what it looks at; empty is "every packet". [`Test::Opaque`] counts as matching.
    pub matches: Vec<Match>,
    pub reason: PuntReason,
    pub origin: Origin,
}

/// Where a [`Guard`] stands in the packet's way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hook {
    /// Before the mark is set; the egress is not known. Mark tests see the mark with which the packet arrived.
    Prerouting,
    /// The egress is known. Mark tests see the final mark.
    Forward,
}
