//! What rules see of a packet's connection, and write to it.

use std::net::IpAddr;

use super::facts::FieldSet;
use crate::config::{ConnectionState, Field};
use crate::connection::{Connection, Direction, Manip, State, Tracking, Tuple};
use crate::names::Mark;
use crate::outcome::Stop;

/// A packet's connection on the packet's way.
#[derive(Clone, Copy)]
pub(crate) struct Tracked {
    connection: Connection,
    /// Passed over by conntrack (`IP_CT_UNTRACKED`).
    is_untracked: bool,
    /// A rule has set `ct mark`, be it to what it was.
    marked: bool,
    /// Original and reply; only where a rule asks for them.
    tuples: Option<(Tuple, Tuple)>,
}

impl Tracked {
    /// Before conntrack has seen the packet.
    pub(super) const NOT_YET: Tracked =
        Tracked { connection: Connection::NONE, is_untracked: false, marked: false, tuples: None };

    /// `nf_conntrack_in`. `asks_tuples` says that rules may look at them.
    pub(crate) fn track(&mut self, tracking: &mut impl Tracking, asks_tuples: bool) -> Result<(), Stop> {
        self.connection = tracking.track()?;
        self.is_untracked = self.connection.state == State::Untracked;
        if asks_tuples {
            self.take_tuples(tracking);
        }
        Ok(())
    }

    /// It has a connection (`nf_ct_get`).
    pub(crate) fn exists(&self) -> bool {
        match self.connection.state {
            State::New | State::Established | State::Related => true,
            State::Invalid | State::Untracked => false,
        }
    }

    pub(crate) fn is_untracked(&self) -> bool {
        self.is_untracked
    }

    /// An ICMP error about a connection.
    pub(crate) fn is_error(&self) -> bool {
        self.connection.state == State::Related
    }

    /// NOTRACK: of no effect on a packet that has a connection (`nft_notrack_eval`). Says whether it had one.
    pub(super) fn untrack(&mut self) -> bool {
        let untracks = !self.exists() && !self.is_untracked;
        self.is_untracked |= untracks;
        untracks
    }

    /// `ct mark`, of a packet that has a connection.
    pub(super) fn mark(&self) -> Option<Mark> {
        self.exists().then_some(self.connection.mark)
    }

    pub(super) fn set_mark(&mut self, mark: Mark) {
        (self.connection.mark, self.marked) = (mark, true);
    }

    /// The mark that rules have set.
    pub(crate) fn new_mark(&self) -> Option<Mark> {
        self.marked.then_some(self.connection.mark)
    }

    /// `nf_nat_setup_info` has chosen what this end becomes.
    pub(crate) fn bound(&mut self, manip: Manip, changes: bool) {
        let (done, changed) = match manip {
            Manip::Source => (Connection::SRC_NAT_DONE, Connection::SRC_NAT),
            Manip::Destination => (Connection::DST_NAT_DONE, Connection::DST_NAT),
        };
        self.connection.status |= if changes { done | changed } else { done };
    }

    /// They change with each end that is bound.
    pub(crate) fn take_tuples(&mut self, tracking: &impl Tracking) {
        self.tuples = tracking.tuple(Direction::Original).zip(tracking.tuple(Direction::Reply));
    }

    /// A field of [`FieldSet::CONNECTION`].
    pub(super) fn value(&self, field: Field) -> Option<u128> {
        if field == Field::CtState {
            return Some(self.state().into());
        }
        if !self.exists() {
            return None;
        }
        let Connection { direction, status, mark, .. } = self.connection;
        let number = |address: IpAddr| match address {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        };
        let (original, reply) = match field {
            Field::CtDirection => return Some(u128::from(direction == Direction::Reply)),
            Field::CtStatus => return Some(status.into()),
            Field::CtMark => return Some(mark.0.into()),
            _ => self.tuples?,
        };
        Some(match field {
            Field::CtProtocol => original.protocol.into(),
            Field::CtOriginalSource => number(original.source.address),
            Field::CtOriginalDestination => number(original.destination.address),
            Field::CtOriginalSourcePort => original.source.port.into(),
            Field::CtOriginalDestinationPort => original.destination.port.into(),
            Field::CtReplySource => number(reply.source.address),
            Field::CtReplyDestination => number(reply.destination.address),
            Field::CtReplySourcePort => reply.source.port.into(),
            Field::CtReplyDestinationPort => reply.destination.port.into(),
            _ => return None,
        })
    }

    /// `conntrack_mt` of xt_conntrack; nftables asks for no more than [`ConnectionState::NFTABLES`].
    fn state(&self) -> u16 {
        let state = match self.connection.state {
            _ if self.is_untracked => return ConnectionState::UNTRACKED,
            State::Invalid | State::Untracked => return ConnectionState::INVALID,
            State::New => ConnectionState::NEW,
            State::Established => ConnectionState::ESTABLISHED,
            State::Related => ConnectionState::RELATED,
        };
        let virtually = |status: u16, bit: u16| if self.connection.status & status != 0 { bit } else { 0 };
        state
            | virtually(Connection::SRC_NAT, ConnectionState::SNAT)
            | virtually(Connection::DST_NAT, ConnectionState::DNAT)
    }
}

impl FieldSet {
    /// Those that need the connection's tuples.
    pub(crate) const TUPLES: FieldSet = FieldSet::of(&[
        Field::CtProtocol,
        Field::CtOriginalSource,
        Field::CtOriginalDestination,
        Field::CtOriginalSourcePort,
        Field::CtOriginalDestinationPort,
        Field::CtReplySource,
        Field::CtReplyDestination,
        Field::CtReplySourcePort,
        Field::CtReplyDestinationPort,
    ]);
}
