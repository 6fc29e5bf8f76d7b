//! What a rule can look at, as rules before have left it.

use std::net::IpAddr;

use crate::compile::Links;
use crate::config::{ConnectionState, Field};
use crate::connection::{Connection, Direction, Endpoint, State, Tuple};
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
    /// The gateway or the destination itself; known with the egress.
    pub(crate) next_hop: IpAddr,
    /// Largest packet that the route ahead takes, in bytes; known with the egress.
    pub(crate) mtu: u32,
    /// `None` until conntrack has looked at the packet; it does not look at one that is untracked by then.
    pub(crate) connection: Option<Connection>,
    /// Of the connection, original and reply, if rules ask for them.
    pub(crate) tuples: Option<[Tuple; 2]>,
    pub(crate) new_source: Option<Endpoint>,
    pub(crate) new_destination: Option<Endpoint>,
    pub(crate) links: &'a Links,
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
            next_hop: query.destination,
            mtu: 0,
            connection: None,
            tuples: None,
            new_source: None,
            new_destination: None,
            links,
            written: FieldSet::default(),
            counted: 0,
        }
    }

    pub(super) fn changeable(&self) -> Changeable {
        let Query { mark, tos, ttl, mss, .. } = self.query;
        let ct_mark = self.connection.map(|connection| connection.mark);
        Changeable { mark, tos, ttl, mss, ct_mark }
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
            Field::CtState => self.connection_state().into(),
            Field::CtDirection => u128::from(self.tracked()?.direction == Direction::Reply),
            Field::CtStatus => self.tracked()?.status.into(),
            Field::CtMark => self.tracked()?.mark.0.into(),
            Field::CtProtocol => self.tuple(Direction::Original)?.protocol.into(),
            Field::CtOriginalSource => number(self.tuple(Direction::Original)?.source.address),
            Field::CtOriginalDestination => number(self.tuple(Direction::Original)?.destination.address),
            Field::CtOriginalSourcePort => self.tuple(Direction::Original)?.source.port.into(),
            Field::CtOriginalDestinationPort => self.tuple(Direction::Original)?.destination.port.into(),
            Field::CtReplySource => number(self.tuple(Direction::Reply)?.source.address),
            Field::CtReplyDestination => number(self.tuple(Direction::Reply)?.destination.address),
            Field::CtReplySourcePort => self.tuple(Direction::Reply)?.source.port.into(),
            Field::CtReplyDestinationPort => self.tuple(Direction::Reply)?.destination.port.into(),
            Field::IpsetSourcePort => ipset_ports(query).0.into(),
            Field::IpsetDestinationPort => ipset_ports(query).1.into(),
        })
    }
}

impl Facts<'_> {
    /// The packet's connection, if it has one (`nf_ct_get`).
    pub(crate) fn tracked(&self) -> Option<&Connection> {
        self.connection.as_ref().filter(|connection| connection.state.has_connection())
    }

    /// `ct mark = (ct mark & !clear) ^ (mark & take) ^ flip` (`connmark_tg_shift`); nothing without a connection.
    pub(super) fn set_connection_mark(&mut self, clear: u32, take: u32, flip: u32) {
        let mark = self.query.mark.0 & take;
        if let Some(connection) = self.connection.as_mut().filter(|connection| connection.state.has_connection()) {
            connection.mark = Mark((connection.mark.0 & !clear) ^ mark ^ flip);
            self.written.add(Field::CtMark);
        }
    }

    fn tuple(&self, direction: Direction) -> Option<&Tuple> {
        self.tracked()?;
        self.tuples.as_ref().map(|tuples| &tuples[direction as usize])
    }

    /// `state_mt` of xt_state, `conntrack_mt`, `nft_ct_get_eval`.
    fn connection_state(&self) -> u16 {
        let Some(connection) = &self.connection else { return ConnectionState::INVALID };
        let state = match connection.state {
            State::New => ConnectionState::NEW,
            State::Established => ConnectionState::ESTABLISHED,
            State::Related => ConnectionState::RELATED,
            State::Invalid => return ConnectionState::INVALID,
            State::Untracked => return ConnectionState::UNTRACKED,
        };
        let if_set = |bit: u16, state: u16| if connection.status & bit != 0 { state } else { 0 };
        state
            | if_set(Connection::SRC_NAT, ConnectionState::SNAT)
            | if_set(Connection::DST_NAT, ConnectionState::DNAT)
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
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
    pub(crate) fn add(&mut self, field: Field) {
        self.0 |= 1 << field as u64;
    }

    /// What shows the tuples of connections.
    pub(super) fn tuples() -> Self {
        let mut fields = FieldSet::default();
        for field in [
            Field::CtProtocol,
            Field::CtOriginalSource,
            Field::CtOriginalDestination,
            Field::CtOriginalSourcePort,
            Field::CtOriginalDestinationPort,
            Field::CtReplySource,
            Field::CtReplyDestination,
            Field::CtReplySourcePort,
            Field::CtReplyDestinationPort,
        ] {
            fields.add(field);
        }
        fields
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
