//! Which worker a connection belongs to, and whether a worker can go on with one that the kernel has begun.

use std::collections::HashSet;
use std::net::IpAddr;

use shunt_dataplane::conn::Place;
use shunt_dataplane::conn::record::{Record, TcpState};
use shunt_policy::connection::{Connection, Tuple};

use super::attributes::TCP;

/// The worker that gets packets of this direction of a connection, and the other one if those of the other direction come to another.
pub(super) fn owners(place: Place, original: &Tuple, reply: &Tuple) -> (usize, Option<usize>) {
    let (first, second) = (place.owner(original), place.owner(reply));
    (first, (first != second).then_some(second))
}

/// The addresses of the router; `None` while they are not known.
#[derive(Default)]
pub(super) struct Local(Option<HashSet<IpAddr>>);

impl Local {
    /// Says whether they are others now.
    pub fn set(&mut self, addresses: Vec<IpAddr>) -> bool {
        let addresses = Some(addresses.into_iter().collect());
        let other = self.0 != addresses;
        self.0 = addresses;
        other
    }

    /// Whether a worker may go on with a connection of the kernel's: its packets are forwarded, come to one worker in both directions,
    /// and need nothing that the kernel alone knows.
    pub fn is_whole(&self, place: Place, record: &Record) -> bool {
        let Record { original, reply, status, mark: _, timeout: _, tcp, kernels, masquerade: _ } = record;
        // Where packets really come from and go to: with translation the router's address may stand in the other two places.
        !kernels
            && place.owner(original) == place.owner(reply)
            && !self.is_local(original.source.address)
            && !self.is_local(reply.source.address)
            && match original.protocol {
                // The handshake and the end of a connection have to be seen by the one who has seen the rest.
                TCP => {
                    tcp.is_some_and(|tcp| tcp.state == TcpState::Established)
                        && status & u32::from(Connection::ASSURED) != 0
                }
                _ => true,
            }
    }

    /// What is not forwarded to or from, in doubt all.
    fn is_local(&self, address: IpAddr) -> bool {
        let special = match address {
            IpAddr::V4(address) => address.is_broadcast() || address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        special
            || address.is_loopback()
            || address.is_multicast()
            || address.is_unspecified()
            || self.0.as_ref().is_none_or(|addresses| addresses.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use shunt_dataplane::conn::record::TcpRecord;
    use shunt_policy::Mark;
    use shunt_policy::connection::Endpoint;

    use super::*;

    fn tuple(protocol: u8, source: (&str, u16), destination: (&str, u16)) -> Tuple {
        let end = |(address, port): (&str, u16)| Endpoint { address: address.parse().unwrap(), port };
        Tuple { source: end(source), destination: end(destination), protocol }
    }

    /// A client of 192.0.2.0/24 behind the router 203.0.113.1.
    fn masqueraded(protocol: u8, tcp: Option<TcpState>) -> Record {
        Record {
            original: tuple(protocol, ("192.0.2.10", 40000), ("198.51.100.25", 25)),
            reply: tuple(protocol, ("198.51.100.25", 25), ("203.0.113.1", 40000)),
            status: 0x19e,
            mark: Mark(0),
            timeout: 100,
            tcp: tcp.map(|state| TcpRecord { state, scale: [7; 2], flags: [0x23; 2] }),
            kernels: false,
            masquerade: None,
        }
    }

    fn known() -> Local {
        let mut local = Local::default();
        assert!(local.set(vec!["203.0.113.1".parse().unwrap(), "192.0.2.1".parse().unwrap()]));
        local
    }

    #[test]
    fn both_directions_have_one_owner_if_the_higher_port_stays() {
        let place = Place { worker: 0, workers: 8 };
        let record = masqueraded(6, None);
        assert_eq!(place.owner(&record.original), place.owner(&record.reply));
        let ping = tuple(1, ("192.0.2.10", 77), ("198.51.100.25", 0x0800));
        assert_eq!(place.owner(&ping), place.owner(&ping.inverse().unwrap()));
        let owners: HashSet<_> =
            (40000..41000).map(|port| place.owner(&tuple(17, ("192.0.2.10", port), ("198.51.100.25", 53)))).collect();
        assert_eq!(owners.len(), 8);
    }

    #[test]
    fn a_worker_goes_on_with_what_is_forwarded_and_established() {
        let place = Place { worker: 0, workers: 8 };
        let local = known();
        assert!(local.is_whole(place, &masqueraded(6, Some(TcpState::Established))));
        assert!(local.is_whole(place, &masqueraded(17, None)));
        assert!(!local.is_whole(place, &masqueraded(6, Some(TcpState::SynRecv))));
        assert!(!local.is_whole(place, &masqueraded(6, None)));
        let unassured = Record { status: 0x18a, ..masqueraded(6, Some(TcpState::Established)) };
        assert!(!local.is_whole(place, &unassured));
        assert!(!local.is_whole(place, &Record { kernels: true, ..masqueraded(17, None) }));
        assert!(!Local::default().is_whole(place, &masqueraded(17, None)), "who is local is not known");
    }

    #[test]
    fn what_comes_from_the_router_or_ends_there_stays_the_kernels() {
        let place = Place { worker: 0, workers: 1 };
        let local = known();
        let own = Record {
            original: tuple(17, ("203.0.113.1", 40000), ("198.51.100.25", 53)),
            reply: tuple(17, ("198.51.100.25", 53), ("203.0.113.1", 40000)),
            ..masqueraded(17, None)
        };
        assert!(!local.is_whole(place, &own));
        let to_us = Record {
            original: tuple(17, ("192.0.2.10", 40000), ("192.0.2.1", 53)),
            reply: tuple(17, ("192.0.2.1", 53), ("192.0.2.10", 40000)),
            ..masqueraded(17, None)
        };
        assert!(!local.is_whole(place, &to_us));
        let forwarded_port = Record {
            original: tuple(17, ("198.51.100.25", 40000), ("203.0.113.1", 53)),
            reply: tuple(17, ("192.0.2.10", 53), ("198.51.100.25", 40000)),
            ..masqueraded(17, None)
        };
        assert!(local.is_whole(place, &forwarded_port), "DNAT to a host behind the router");
    }
}
