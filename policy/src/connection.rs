//! Connections, as far as rules ask for them and translation changes them (`struct nf_conn`). Nothing here keeps any: whoever decides
//! about packets of connections is given a [`Tracking`].

use std::net::IpAddr;

use crate::names::{Ifindex, Mark};
use crate::outcome::{PuntReason, Stop};

/// One end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Endpoint {
    pub address: IpAddr,
    /// Host order. 0 for protocols without ports; for ICMP see [`Tuple`].
    pub port: u16,
}

/// What tells the packets of one direction of a connection from all others (`struct nf_conntrack_tuple`).
///
/// ICMP has the identifier as port of the source, and type and code as that of the destination (`type << 8 | code`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tuple {
    pub source: Endpoint,
    pub destination: Endpoint,
    pub protocol: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Direction {
    Original,
    Reply,
}

/// What conntrack makes of a packet (`enum ip_conntrack_info`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum State {
    New,
    Established,
    /// Of an ICMP error about a connection. (What a helper expects is the kernel's.)
    Related,
    /// Of no connection, and cannot begin one.
    Invalid,
    /// Before conntrack has looked at it, or with NOTRACK.
    Untracked,
}

impl State {
    /// Whether the packet belongs to a connection at all.
    pub fn has_connection(self) -> bool {
        matches!(self, State::New | State::Established | State::Related)
    }
}

/// What rules may ask of a packet's connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connection {
    pub state: State,
    pub direction: Direction,
    /// Bits of `enum ip_conntrack_status`, `IPS_*`.
    pub status: u16,
    /// `ct mark`
    pub mark: Mark,
}

impl Connection {
    pub const SEEN_REPLY: u16 = 1 << 1;
    pub const ASSURED: u16 = 1 << 2;
    pub const CONFIRMED: u16 = 1 << 3;
    pub const SRC_NAT: u16 = 1 << 4;
    pub const DST_NAT: u16 = 1 << 5;
    /// What becomes of the end has been chosen, be it what it was.
    pub const SRC_NAT_DONE: u16 = 1 << 7;
    pub const DST_NAT_DONE: u16 = 1 << 8;

    /// None: conntrack has not looked at the packet (yet), or there is none.
    pub const NONE: Connection =
        Connection { state: State::Untracked, direction: Direction::Original, status: 0, mark: Mark(0) };
}

/// Which end of a packet a translation writes (`enum nf_nat_manip_type`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Manip {
    Source,
    Destination,
}

/// What a rule wants an end of a connection to become (`struct nf_nat_range2`), for one packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Range {
    /// Inclusive; `None` leaves the address.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// Inclusive, host order; `None` leaves the port if it can.
    pub ports: Option<(u16, u16)>,
    /// `NF_NAT_RANGE_PROTO_OFFSET`: the first of the original ports, to which the first of `ports` belongs.
    pub base: Option<u16>,
    /// `NF_NAT_RANGE_PROTO_RANDOM`
    pub random: bool,
    /// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`
    pub fully_random: bool,
    /// `NF_NAT_RANGE_PERSISTENT`
    pub persistent: bool,
    /// By MASQUERADE: the connection ends when it would leave by another interface.
    pub masquerade: bool,
}

/// Connection tracking, as a decision meets it. What it changes is tentative until whoever made the decision settles it.
pub trait Tracking {
    /// `nf_conntrack_in`: which connection the packet belongs to, or begins.
    ///
    /// # Errors
    ///
    /// The connection is the kernel's, or there is no room for a new one.
    fn track(&mut self) -> Result<Connection, Stop>;

    /// The tuple of the packet's connection, as rules ask for it (`ct original`, `--ctorigdst`); that of a new one changes with its
    /// translation. `None` without a connection.
    fn tuple(&self, direction: Direction) -> Option<Tuple>;

    /// NOTRACK: conntrack is not going to look at the packet.
    fn pass_over(&mut self) {}

    /// Whether nat rules are to be asked: the connection is new, and nothing was chosen for this end (`nf_nat_initialized`).
    fn is_unbound(&self, manip: Manip) -> bool;

    /// `nf_nat_setup_info` for an end that is unbound (`None` for `nf_nat_alloc_null_binding`), then `nf_nat_packet`: what the packet's
    /// source or destination becomes, if it changes. `oif` is known when the source is translated.
    ///
    /// # Errors
    ///
    /// Every tuple of the range is taken; the connection was masqueraded behind another interface.
    fn translate(
        &mut self,
        manip: Manip,
        oif: Option<Ifindex>,
        range: Option<&Range>,
    ) -> Result<Option<Endpoint>, Stop>;

    /// Whether [`translate`](Self::translate) will end the connection if the packet is to leave by `oif` (`nf_nat_oif_changed`), so that
    /// it need not be the kernel's if that is where it came in.
    fn moves(&self, _oif: Ifindex) -> bool {
        false
    }

    /// `ct mark`, when the packet has passed all rules or the one that ended it.
    fn keep_mark(&mut self, mark: Mark);
}

/// Nobody tracks: what would have to be tracked is the kernel's.
pub struct Trackless;

impl Tracking for Trackless {
    fn track(&mut self) -> Result<Connection, Stop> {
        Err(Stop::Punt(PuntReason::Conntrack))
    }

    fn tuple(&self, _: Direction) -> Option<Tuple> {
        None
    }

    fn is_unbound(&self, _: Manip) -> bool {
        false
    }

    fn translate(&mut self, _: Manip, _: Option<Ifindex>, _: Option<&Range>) -> Result<Option<Endpoint>, Stop> {
        Ok(None)
    }

    fn keep_mark(&mut self, _: Mark) {}
}

/// What was found out about one packet, to decide about it again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Remembered {
    pub connection: Connection,
    /// Original and reply.
    pub tuples: Option<[Tuple; 2]>,
    /// What the ends of the packet became.
    pub source: Option<Endpoint>,
    pub destination: Option<Endpoint>,
}

/// `None`: nobody tracks, as [`Trackless`].
impl Tracking for Option<Remembered> {
    fn track(&mut self) -> Result<Connection, Stop> {
        self.map_or_else(|| Trackless.track(), |known| Ok(known.connection))
    }

    fn tuple(&self, direction: Direction) -> Option<Tuple> {
        self.as_ref()?.tuples.map(|tuples| tuples[direction as usize])
    }

    fn is_unbound(&self, _: Manip) -> bool {
        false
    }

    fn translate(&mut self, manip: Manip, _: Option<Ifindex>, _: Option<&Range>) -> Result<Option<Endpoint>, Stop> {
        Ok(self.and_then(|known| match manip {
            Manip::Source => known.source,
            Manip::Destination => known.destination,
        }))
    }

    fn keep_mark(&mut self, _: Mark) {}
}

impl Tuple {
    /// The other direction (`nf_ct_invert_tuple`); `None` for an ICMP type that has no answer.
    pub fn inverse(&self) -> Option<Tuple> {
        let Tuple { source, destination, protocol } = *self;
        let (source_port, destination_port) = match protocol {
            1 | 58 => (source.port, answer(protocol, destination.port)?),
            _ => (destination.port, source.port),
        };
        Some(Tuple {
            source: Endpoint { address: destination.address, port: source_port },
            destination: Endpoint { address: source.address, port: destination_port },
            protocol,
        })
    }
}

/// Type and code of the answer to an ICMP query, or the other way round (`icmp_invmap`, `icmpv6_invmap`).
fn answer(protocol: u8, kind: u16) -> Option<u16> {
    let [kind, code] = kind.to_be_bytes();
    let kind = match (protocol, kind) {
        (1, 8) => 0,
        (1, 0) => 8,
        (1, 13) => 14,
        (1, 14) => 13,
        (1, 15) => 16,
        (1, 16) => 15,
        (1, 17) => 18,
        (1, 18) => 17,
        (58, 128) => 129,
        (58, 129) => 128,
        (58, 139) => 140,
        (58, 140) => 139,
        _ => return None,
    };
    Some(u16::from_be_bytes([kind, code]))
}
