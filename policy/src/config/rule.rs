//! `ip rule`.

use super::{Origin, PortRange};
use crate::names::{Dscp, Family, Mark, Prefix, Priority, TableId};

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
    /// By name. No packet that is to be forwarded has an egress yet when rules are asked.
    pub oif: Option<String>,
    pub fwmark: Option<MarkMatch>,
    /// `tos` selector: the value as the kernel holds it, never 0.
    pub tos: Option<Dscp>,
    pub dscp: Option<DscpMatch>,
    pub protocol: Option<u8>,
    pub source_port: Option<PortMatch>,
    pub destination_port: Option<PortMatch>,
    /// Inclusive. The kernel looks up forwarded packets as user 0 (`ip_route_input_slow`, `ip6_route_input`).
    pub uid_range: Option<(u32, u32)>,
    /// Matches what belongs to a VRF; our ports do not.
    pub l3mdev: bool,
    /// Matches what came out of a tunnel with this id, never 0; on our ports nothing does.
    pub tunnel: Option<u64>,
    /// IPv6 only.
    pub flow_label: Option<FlowLabelMatch>,
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

/// `dscp VALUE/MASK`: over all six bits, unlike `tos`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DscpMatch {
    pub value: Dscp,
    pub mask: Dscp,
}

impl DscpMatch {
    pub fn matches(self, tos: u8) -> bool {
        (tos ^ self.value.bits()) & self.mask.bits() == 0
    }
}

/// `flowlabel VALUE/MASK`, 20 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowLabelMatch {
    pub value: u32,
    pub mask: u32,
}

impl FlowLabelMatch {
    pub fn matches(self, label: u32) -> bool {
        (label ^ self.value) & self.mask == 0
    }
}

/// `sport`, `dport`: a range, or a value under a mask (`fib_rule_port_match`). Host order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortMatch {
    Range(PortRange),
    Masked { value: u16, mask: u16 },
}

impl PortMatch {
    pub fn matches(self, port: u16) -> bool {
        match self {
            PortMatch::Range(range) => range.contains(port),
            PortMatch::Masked { value, mask } => (port ^ value) & mask == 0,
        }
    }
}

/// What a matching rule does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RuleAction {
    Lookup(TableId, Suppress),
    /// On with the first rule of this priority; without one, with the next rule.
    Goto(Priority),
    Nop,
    Blackhole,
    Unreachable,
    Prohibit,
    /// Unknown: packets that match are punted.
    Opaque(String),
}

/// Which results of a look-up are not good enough, so that the next rule is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Suppress {
    /// Prefixes of this length or shorter.
    pub prefix_length: Option<u8>,
    /// Interfaces of this group.
    pub group: Option<u32>,
}

impl RuleAction {
    pub fn lookup(table: TableId) -> Self {
        RuleAction::Lookup(table, Suppress::default())
    }
}
