//! What the operator wrote, as the kernel holds it: the input of [`compile`](crate::compile) and of the
//! [`reference`](crate::reference). Every item names its [`Origin`], so that every answer can.
//!
//! What cannot be mirrored exactly stands here too, as `Opaque` or as a [`Guard`]: it is never left out, because a rule that is
//! left out is a rule that is bypassed.

mod link;
mod netfilter;
mod route;
mod rule;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

pub use link::{Link, LinkAddress, Neighbour, RpFilter, Transmit};
pub use netfilter::{
    Action, BaseChain, ChainPolicy, ChainRule, ConnectionState, CounterSlot, Element, Field, Guard, Hook,
    InterfacePattern, Match, Mss, MssLimit, Nat, NatTo, PortRange, Set, Side, Step, Test, TtlChange, UserChain, Value,
    Verdict,
};
pub use route::{HashPolicy, Hops, Leg, NexthopObject, Preference, Route, RouteKind, RouteText, Spreading};
pub use rule::{DscpMatch, FlowLabelMatch, MarkMatch, PortMatch, Rule, RuleAction, RuleSelector, Suppress};

use crate::tables::Tables;

/// Everything that decides where a forwarded packet goes. A copy is cheap, and two copies share what they have in common, so that
/// compiling anew costs only what has changed.
#[derive(Clone, Debug, Default)]
pub struct Config {
    pub links: Arc<Vec<Link>>,
    pub neighbours: Arc<Vec<Neighbour>>,
    /// In the order in which the kernel asks them (by priority, then by insertion), each family by itself.
    pub rules: Arc<Vec<Rule>>,
    pub tables: Tables,
    /// Nexthop objects by their id.
    pub nexthops: Arc<BTreeMap<u32, NexthopObject>>,
    pub spreading: Spreading,
    /// Largest packets in bytes towards single destinations, as routers on the way have told the kernel, where it goes by that.
    pub path_mtus: Arc<BTreeMap<IpAddr, u32>>,
    /// Netfilter's, those of one hook in the order in which the kernel runs them.
    pub chains: Arc<Vec<BaseChain>>,
    /// Whether the kernel tracks connections, by [`Family`](crate::Family).
    pub conntrack: [Conntrack; 2],
    /// What else could touch a packet.
    pub guards: Arc<Vec<Guard>>,
}

/// What the kernel does about the connections of a family. Tracking begins with the first rule that asks for it
/// (`nf_ct_netns_get`), translation with the first chain of type nat.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Conntrack {
    #[default]
    Off,
    Tracks,
    /// Also looks at each new connection for tuples that are taken, whatever the rules say (`nf_nat_alloc_null_binding`).
    Translates,
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
