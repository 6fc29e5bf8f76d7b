//! A table with a clock, and packets to ask it about.

use std::net::IpAddr;
use std::sync::Arc;

use shunt_policy::connection::{Connection, Endpoint, Manip, Range, State, Tracking, Tuple};
use shunt_policy::{Ifindex, Stop};

use super::super::exchange::FromWorker;
use super::super::seen::{Kind, Seen, Segment};
use super::super::settings::Settings;
use super::super::{Connections, Local, Place};

pub const SECOND: u64 = 1_000_000_000;
pub const CLIENT: &str = "192.0.2.10";
pub const SERVER: &str = "198.51.100.20";
pub const PUBLIC: &str = "203.0.113.1";

pub struct Desk {
    pub connections: Connections,
    pub reports: rtrb::Consumer<FromWorker>,
    pub now: u64,
}

impl Desk {
    pub fn new(capacity: usize) -> Self {
        Desk::with(capacity, Settings::default(), Place { worker: 0, workers: 1 })
    }

    pub fn with(capacity: usize, settings: Settings, place: Place) -> Self {
        let (producer, reports) = rtrb::RingBuffer::new(1024);
        let mut connections = Connections::new(capacity, place, Arc::new(settings), producer, 7);
        // What is worth telling of shows only so.
        connections.most_early = 0;
        Desk { connections, reports, now: 1000 * SECOND }
    }

    pub fn wait(&mut self, seconds: u64) {
        self.now += seconds * SECOND;
    }

    /// Tracked and forwarded without translation.
    pub fn pass(&mut self, seen: Seen) -> Result<Connection, Stop> {
        let mut tracker = self.connections.tracker(seen, Local::No, self.now);
        let connection = tracker.track()?;
        tracker.forwarded()?;
        Ok(connection)
    }

    pub fn state(&mut self, seen: Seen) -> State {
        self.pass(seen).unwrap().state
    }

    /// Tracked, its source translated, and forwarded; what the source became, and how the answers look.
    pub fn source_nat(&mut self, seen: Seen, range: &Range) -> Result<Tuple, Stop> {
        let mut tracker = self.connections.tracker(seen, Local::No, self.now);
        tracker.track()?;
        tracker.translate(Manip::Destination, None, None)?;
        tracker.translate(Manip::Source, Some(Ifindex(2)), Some(range))?;
        let reply = tracker.tuple(shunt_policy::connection::Direction::Reply).unwrap();
        tracker.forwarded()?;
        Ok(reply)
    }

    pub fn told(&mut self) -> Vec<FromWorker> {
        std::iter::from_fn(|| self.reports.pop().ok()).collect()
    }
}

pub fn end(address: &str, port: u16) -> Endpoint {
    Endpoint { address: address.parse().unwrap(), port }
}

pub fn tuple(protocol: u8, source: (&str, u16), destination: (&str, u16)) -> Tuple {
    Tuple { source: end(source.0, source.1), destination: end(destination.0, destination.1), protocol }
}

pub fn udp(source: (&str, u16), destination: (&str, u16)) -> Seen {
    Seen { tuple: tuple(17, source, destination), kind: Kind::Udp }
}

pub fn udp_of(tuple: Tuple) -> Seen {
    Seen { tuple, kind: Kind::Udp }
}

/// `kind` and code 0.
pub fn icmp(source: &str, destination: &str, kind: u8, identifier: u16) -> Seen {
    let tuple = tuple(1, (source, identifier), (destination, u16::from(kind) << 8));
    Seen { tuple, kind: Kind::Icmp }
}

/// One address.
pub fn to(address: &str) -> Range {
    let address: IpAddr = address.parse().unwrap();
    Range { addresses: Some((address, address)), ..Range::default() }
}

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

pub fn segment(flags: u8, sequence: u32, acknowledgement: u32, payload: u32) -> Segment {
    Segment {
        sequence,
        acknowledgement,
        window: 65_000,
        flags,
        payload,
        window_scale: None,
        sack_permitted: false,
        sack: None,
    }
}

pub fn tcp(tuple: Tuple, segment: Segment) -> Seen {
    Seen { tuple, kind: Kind::Tcp(segment) }
}

pub fn connection() -> Tuple {
    tuple(6, (CLIENT, 40_000), (SERVER, 443))
}

/// Up to ESTABLISHED: the client goes on at 101 with 301 acknowledged, the server the other way round.
pub fn shake_hands(desk: &mut Desk, original: Tuple, reply: Tuple) {
    assert_eq!(desk.state(tcp(original, segment(SYN, 100, 0, 0))), State::New);
    assert_eq!(desk.state(tcp(reply, segment(SYN | ACK, 300, 101, 0))), State::Established);
    assert_eq!(desk.state(tcp(original, segment(ACK, 101, 301, 0))), State::Established);
}
