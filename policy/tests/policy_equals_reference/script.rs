//! Connection tracking that says what it was told to say, and remembers what it was asked.

use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use shunt_policy::connection::{Connection, Direction, Endpoint, Manip, Range, State, Tracking, Tuple};
use shunt_policy::{DropReason, Family, Ifindex, Mark, PuntReason, Stop};

use super::{HOSTS, mark_value, pool_address, port, protocol};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Script {
    family: Family,
    connection: Result<Connection, Stop>,
    /// By [`Manip`].
    unbound: [bool; 2],
    /// What an end becomes if no rule says so; by [`Manip`].
    known: [Option<(u8, u8, u16)>; 2],
    failure: [Option<Stop>; 2],
    /// Network, host and port of each end of the tuples.
    ends: [(u8, u8, u16); 4],
    protocol: u8,
    bound: u8,
    pub calls: Vec<Call>,
}

/// What changes something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Call {
    Track,
    Translate(Manip, Option<Ifindex>, Option<Range>),
    KeepMark(Mark),
}

pub fn script() -> impl Strategy<Value = Script> {
    let end = || (0..2u8, select(HOSTS.to_vec()), port());
    let state = select(vec![
        State::New,
        State::New,
        State::New,
        State::Established,
        State::Established,
        State::Related,
        State::Invalid,
        State::Untracked,
    ]);
    let direction = select(vec![Direction::Original, Direction::Reply]);
    let status = select(vec![0u16, 0, Connection::SEEN_REPLY, 0x0e, 0x0e | Connection::SRC_NAT, Connection::DST_NAT]);
    let connection = (state, direction, status, mark_value());
    let connection = connection.prop_map(|(state, direction, status, mark)| Connection {
        state,
        direction,
        status,
        mark: Mark(mark),
    });
    let connection = prop_oneof![
        40 => connection.prop_map(Ok),
        1 => Just(Err(Stop::Punt(PuntReason::KernelConnection))),
        1 => Just(Err(Stop::Drop(DropReason::ConntrackFull))),
    ];
    let failure = || {
        let stops = [DropReason::NatExhausted, DropReason::NatMoved].map(Stop::Drop).to_vec();
        option::weighted(0.03, select(stops))
    };
    let known = || option::weighted(0.3, end());
    let ends = (end(), end(), end(), end()).prop_map(|(a, b, c, d)| [a, b, c, d]);
    let unbound = || prop::bool::weighted(0.8);
    ((connection, unbound(), unbound(), known(), known()), failure(), failure(), ends, protocol()).prop_map(
        |(
            (connection, source, destination, new_source, new_destination),
            no_source,
            no_destination,
            ends,
            protocol,
        )| {
            Script {
                family: Family::V4,
                connection,
                unbound: [source, destination],
                known: [new_source, new_destination],
                failure: [no_source, no_destination],
                ends,
                protocol,
                bound: 0,
                calls: Vec::new(),
            }
        },
    )
}

impl Script {
    /// For a packet of this family.
    pub fn of(self, family: Family) -> Self {
        Script { family, ..self }
    }

    fn endpoint(&self, (network, host, port): (u8, u8, u16)) -> Endpoint {
        Endpoint { address: pool_address(self.family, network, host), port }
    }

    fn is_error(&self) -> bool {
        self.connection.is_ok_and(|connection| connection.state == State::Related)
    }
}

impl Tracking for Script {
    fn track(&mut self) -> Result<Connection, Stop> {
        self.calls.push(Call::Track);
        self.connection
    }

    fn tuple(&self, direction: Direction) -> Option<Tuple> {
        let at = if direction == Direction::Original { 0 } else { 2 };
        let [source, destination] = [self.ends[at], self.ends[at + 1]].map(|end| self.endpoint(end));
        // Each end that is bound changes them.
        let source = Endpoint { port: source.port.wrapping_add(self.bound.into()), ..source };
        Some(Tuple { source, destination, protocol: self.protocol })
    }

    fn is_unbound(&self, manip: Manip) -> bool {
        self.unbound[manip as usize]
    }

    fn translate(
        &mut self,
        manip: Manip,
        oif: Option<Ifindex>,
        range: Option<&Range>,
    ) -> Result<Option<Endpoint>, Stop> {
        self.calls.push(Call::Translate(manip, oif, range.copied()));
        if let Some(stop) = self.failure[manip as usize] {
            return Err(stop);
        }
        if !self.is_error() && std::mem::take(&mut self.unbound[manip as usize]) {
            self.bound += 1;
        }
        let known = self.known[manip as usize].map(|end| self.endpoint(end));
        let Some(range) = range else { return Ok(known) };
        let address = range.addresses.map_or_else(|| self.endpoint(self.ends[0]).address, |(first, _)| first);
        Ok(Some(Endpoint { address, port: range.ports.map_or(self.ends[0].2, |(first, _)| first) }))
    }

    fn moves(&self, _: Ifindex) -> bool {
        self.failure[Manip::Source as usize] == Some(Stop::Drop(DropReason::NatMoved))
    }

    fn keep_mark(&mut self, mark: Mark) {
        self.calls.push(Call::KeepMark(mark));
    }
}
