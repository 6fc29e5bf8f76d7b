//! The connection of a packet that is only asked about: it begins with it.

use shunt_policy::connection::{Connection, Direction, Endpoint, Manip, Range, State, Tracking, Tuple};
use shunt_policy::{Ifindex, Mark, Query, Stop, Transport};

/// A connection of which nothing is known but its first packet. Of a range it takes the first address, and its own port or the first.
pub struct Fresh {
    /// `None` for what cannot begin a connection.
    original: Option<Tuple>,
    reply: Option<Tuple>,
    /// By [`Manip`].
    bound: [bool; 2],
}

impl Fresh {
    pub fn of(query: &Query) -> Self {
        let (source, destination) = match query.transport {
            Transport::Ports { source, destination } => (source, destination),
            Transport::Icmp { kind, code } => (0, u16::from_be_bytes([kind, code])),
            Transport::Spi(_) | Transport::Other => (0, 0),
        };
        let tuple = Tuple {
            source: Endpoint { address: query.source, port: source },
            destination: Endpoint { address: query.destination, port: destination },
            protocol: query.protocol,
        };
        // An ICMP answer begins nothing, nor does an error (`icmp_new`).
        let begins = match query.transport {
            Transport::Icmp { kind, .. } => matches!((query.protocol, kind), (1, 8 | 13 | 15 | 17) | (58, 128 | 139)),
            _ => true,
        };
        let reply = tuple.inverse().filter(|_| begins);
        Fresh { original: reply.map(|_| tuple), reply, bound: [false; 2] }
    }
}

impl Tracking for Fresh {
    fn track(&mut self) -> Result<Connection, Stop> {
        let state = if self.original.is_some() { State::New } else { State::Invalid };
        Ok(Connection { state, ..Connection::NONE })
    }

    fn tuple(&self, direction: Direction) -> Option<Tuple> {
        match direction {
            Direction::Original => self.original,
            Direction::Reply => self.reply,
        }
    }

    fn is_unbound(&self, manip: Manip) -> bool {
        !self.bound[manip as usize]
    }

    fn translate(&mut self, manip: Manip, _: Option<Ifindex>, range: Option<&Range>) -> Result<Option<Endpoint>, Stop> {
        self.bound[manip as usize] = true;
        let (Some(range), Some(reply)) = (range, &mut self.reply) else { return Ok(None) };
        let has_ports = matches!(reply.protocol, 6 | 17 | 33 | 132 | 136);
        let end = match manip {
            Manip::Source => &mut reply.destination,
            Manip::Destination => &mut reply.source,
        };
        let address = range.addresses.map_or(end.address, |(first, _)| first);
        let port = range
            .ports
            .filter(|_| has_ports)
            .map_or(end.port, |(first, last)| if (first..=last).contains(&end.port) { end.port } else { first });
        let new = Endpoint { address, port };
        let changes = *end != new;
        *end = new;
        Ok(changes.then_some(new))
    }

    fn keep_mark(&mut self, _: Mark) {}
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use shunt_policy::Mac;

    use super::*;

    fn query(protocol: u8, transport: Transport) -> Query {
        Query {
            iif: Ifindex(2),
            source: IpAddr::from([192, 0, 2, 1]),
            destination: IpAddr::from([198, 51, 100, 1]),
            protocol,
            transport,
            tos: 0,
            flow_label: 0,
            mark: Mark(0),
            length: 60,
            ttl: 64,
            tcp_flags: 2,
            mss: None,
            source_mac: Mac([2; 6]),
        }
    }

    #[test]
    fn a_range_gives_its_first_address_and_the_port_stays_if_it_can() {
        let mut fresh = Fresh::of(&query(6, Transport::Ports { source: 4000, destination: 80 }));
        assert_eq!(fresh.track().map(|connection| connection.state), Ok(State::New));
        let addresses = (IpAddr::from([203, 0, 113, 7]), IpAddr::from([203, 0, 113, 9]));
        let range = Range { addresses: Some(addresses), ..Range::default() };
        let new = Endpoint { address: addresses.0, port: 4000 };
        assert_eq!(fresh.translate(Manip::Source, None, Some(&range)), Ok(Some(new)));
        assert!(!fresh.is_unbound(Manip::Source) && fresh.is_unbound(Manip::Destination));
        let ports = Range { ports: Some((8080, 8089)), ..Range::default() };
        let new = Endpoint { address: IpAddr::from([198, 51, 100, 1]), port: 8080 };
        assert_eq!(fresh.translate(Manip::Destination, None, Some(&ports)), Ok(Some(new)));
        let reply = fresh.tuple(Direction::Reply).unwrap();
        assert_eq!((reply.source, reply.destination.address), (new, addresses.0));
    }

    #[test]
    fn answers_and_errors_begin_nothing() {
        let state = |protocol, kind| {
            let mut fresh = Fresh::of(&query(protocol, Transport::Icmp { kind, code: 0 }));
            fresh.track().map(|connection| connection.state)
        };
        assert_eq!([8, 0, 3].map(|kind| state(1, kind)), [Ok(State::New), Ok(State::Invalid), Ok(State::Invalid)]);
    }
}
