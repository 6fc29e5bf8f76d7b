//! What a rule can look at, as rules before have left it.

use std::net::IpAddr;

use super::connection::Tracked;
use crate::compile::Links;
use crate::config::Field;
use crate::fib;
use crate::names::{Family, Ifindex, Mark};
use crate::query::{Query, Transport};

/// TCP's protocol number.
pub(crate) const TCP: u8 = 6;

/// One packet on its way.
#[derive(Clone, Copy)]
pub(crate) struct Facts<'a> {
    pub(crate) query: Query,
    /// The addresses as tables and prefixes have them: the first bit of the address is the highest.
    pub(crate) source: u128,
    pub(crate) destination: u128,
    /// Known behind the route look-up only.
    pub(crate) oif: Option<Ifindex>,
    /// The gateway; `None` if the destination itself is on the link.
    pub(crate) via: Option<IpAddr>,
    /// Largest packet that the route ahead takes, in bytes; known with the egress.
    pub(crate) mtu: u32,
    pub(crate) links: &'a Links,
    pub(crate) tracked: Tracked,
    /// What rules have set, be it to what it was.
    pub(crate) written: FieldSet,
    /// How many rules have counted the packet.
    pub(crate) counted: u32,
}

impl<'a> Facts<'a> {
    pub(crate) fn of(query: &Query, links: &'a Links) -> Self {
        Facts {
            query: *query,
            source: fib::aligned_address(query.source),
            destination: fib::aligned_address(query.destination),
            oif: None,
            via: None,
            mtu: 0,
            links,
            tracked: Tracked::NOT_YET,
            written: FieldSet::default(),
            counted: 0,
        }
    }

    pub(super) fn changeable(&self) -> Changeable {
        let Query { mark, tos, ttl, mss, .. } = self.query;
        Changeable { mark, tos, ttl, mss, ct_mark: self.tracked.mark() }
    }

    /// The field's value; `None` if the packet has no such thing.
    pub(crate) fn value(&self, field: Field) -> Option<u128> {
        let query = &self.query;
        let address = |aligned: u128| match query.family() {
            Family::V4 => aligned >> 96,
            Family::V6 => aligned,
        };
        let group = |ifindex: Ifindex| self.links.groups.get(&ifindex).map(|group| u128::from(*group));
        Some(match field {
            Field::Iif => query.iif.0.into(),
            Field::Oif => self.oif?.0.into(),
            Field::IifGroup => group(query.iif)?,
            Field::OifGroup => group(self.oif?)?,
            Field::Source => address(self.source),
            Field::Destination => address(self.destination),
            Field::Protocol => query.protocol.into(),
            Field::SourcePort => match query.transport {
                Transport::Ports { source, .. } => source.into(),
                _ => return None,
            },
            Field::DestinationPort => match query.transport {
                Transport::Ports { destination, .. } => destination.into(),
                _ => return None,
            },
            Field::IcmpType => match query.transport {
                Transport::Icmp { kind, .. } => kind.into(),
                _ => return None,
            },
            Field::IcmpCode => match query.transport {
                Transport::Icmp { code, .. } => code.into(),
                _ => return None,
            },
            Field::IcmpTypeCode => match query.transport {
                Transport::Icmp { kind, code } => u16::from_be_bytes([kind, code]).into(),
                _ => return None,
            },
            Field::Tos => query.tos.into(),
            Field::Ttl => query.ttl.into(),
            Field::FlowLabel => match query.family() {
                Family::V4 => return None,
                Family::V6 => query.flow_label.into(),
            },
            Field::Length => query.length.into(),
            Field::Mark => query.mark.0.into(),
            Field::TcpFlags if query.protocol == TCP => query.tcp_flags.into(),
            Field::TcpFlags => return None,
            Field::TcpMss => query.mss?.into(),
            Field::SourceMac => query.source_mac.number().into(),
            Field::CtState
            | Field::CtDirection
            | Field::CtStatus
            | Field::CtMark
            | Field::CtProtocol
            | Field::CtOriginalSource
            | Field::CtOriginalDestination
            | Field::CtOriginalSourcePort
            | Field::CtOriginalDestinationPort
            | Field::CtReplySource
            | Field::CtReplyDestination
            | Field::CtReplySourcePort
            | Field::CtReplyDestinationPort => return self.tracked.value(field),
            Field::IpsetSourcePort => ipset_ports(query).0.into(),
            Field::IpsetDestinationPort => ipset_ports(query).1.into(),
        })
    }
}

/// What `get_port` of ip_set_getport.c finds for source and destination.
fn ipset_ports(query: &Query) -> (u16, u16) {
    match query.transport {
        // TCP, UDP, SCTP and UDP-Lite; not DCCP.
        Transport::Ports { source, destination } if matches!(query.protocol, TCP | 17 | 132 | 136) => {
            (source, destination)
        }
        Transport::Icmp { kind, code } => {
            let both = u16::from_be_bytes([kind, code]);
            (both, both)
        }
        _ => (0, 0),
    }
}

/// The highest number that a field can have; all bits below are set.
pub(super) fn span(field: Field, family: Family) -> u128 {
    match field {
        Field::Source
        | Field::Destination
        | Field::CtOriginalSource
        | Field::CtOriginalDestination
        | Field::CtReplySource
        | Field::CtReplyDestination => match family {
            Family::V4 => u32::MAX.into(),
            Family::V6 => u128::MAX,
        },
        Field::CtMark => u32::MAX.into(),
        Field::CtState
        | Field::CtStatus
        | Field::CtOriginalSourcePort
        | Field::CtOriginalDestinationPort
        | Field::CtReplySourcePort
        | Field::CtReplyDestinationPort => u16::MAX.into(),
        Field::CtDirection | Field::CtProtocol => u8::MAX.into(),
        Field::Iif | Field::Oif | Field::IifGroup | Field::OifGroup | Field::Length | Field::Mark => u32::MAX.into(),
        Field::SourcePort | Field::DestinationPort | Field::IcmpTypeCode | Field::TcpMss => u16::MAX.into(),
        Field::IpsetSourcePort | Field::IpsetDestinationPort => u16::MAX.into(),
        Field::Protocol | Field::IcmpType | Field::IcmpCode | Field::Tos | Field::Ttl | Field::TcpFlags => {
            u8::MAX.into()
        }
        Field::FlowLabel => 0xf_ffff,
        Field::SourceMac => 0xffff_ffff_ffff,
    }
}

/// The [mutable](Field::is_mutable) fields.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Changeable {
    mark: Mark,
    tos: u8,
    ttl: u8,
    mss: Option<u16>,
    ct_mark: Option<Mark>,
}

/// Some of the [`Field`]s.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct FieldSet(u64);

impl FieldSet {
    pub(crate) const fn of(fields: &[Field]) -> Self {
        let (mut set, mut at) = (0, 0);
        while at < fields.len() {
            set |= 1 << fields[at] as u64;
            at += 1;
        }
        FieldSet(set)
    }

    pub(crate) fn add(&mut self, field: Field) {
        self.0 |= 1 << field as u64;
    }

    pub(crate) fn with(self, other: FieldSet) -> Self {
        FieldSet(self.0 | other.0)
    }

    pub(crate) fn meets(self, other: FieldSet) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }
}
