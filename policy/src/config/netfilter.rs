//! Netfilter chains and rules.

use super::{MarkMatch, Origin};
use crate::names::{Family, Prefix};
use crate::outcome::PuntReason;

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
