//! Tests, sets and the fields that they look at.

use std::net::IpAddr;

use super::Walk;
use super::netfilter::Packet;
use crate::config::{Field, Match, RouteKind, Set, Side, Test, Value};
use crate::names::{Family, Prefix, TableId};
use crate::query::Transport;

impl Walk<'_> {
    /// Whether one match holds; `None` if we cannot know.
    pub(super) fn holds(&self, one: &Match, packet: &Packet) -> Option<bool> {
        let answer = match &one.test {
            Test::Field { field, mask, values } => match self.value(*field, packet) {
                None => return Some(false),
                Some(seen) => values.iter().any(|value| self.is(value, seen & mask, *field)),
            },
            Test::EitherPort(ranges) => {
                let Transport::Ports { source, destination } = packet.query.transport else { return Some(false) };
                ranges.iter().any(|range| range.contains(source) || range.contains(destination))
            }
            Test::In { key, set } => {
                if key.iter().any(|field| self.value(*field, packet).is_none()) {
                    return Some(false);
                }
                self.element(key, set, packet)?.is_some()
            }
            Test::AddressType { of, types } => {
                let address = match of {
                    Side::Source => packet.query.source,
                    Side::Destination => packet.query.destination,
                };
                types & (1 << self.address_type(address)) != 0
            }
            Test::Never => return Some(false),
            Test::Connection(_) | Test::Opaque(_) => return None,
        };
        Some(answer != one.not)
    }

    /// The element's data, if there is one; `None` if that cannot be known.
    pub(super) fn element<'s, T>(&self, key: &[Field], set: &'s Set<T>, packet: &Packet) -> Option<Option<&'s T>> {
        if set.opaque.is_some() {
            return None;
        }
        let mut seen = Vec::new();
        for field in key {
            match self.value(*field, packet) {
                Some(value) => seen.push((*field, value)),
                None => return Some(None),
            }
        }
        let found = set
            .elements
            .iter()
            .find(|element| element.key.iter().zip(&seen).all(|(value, (field, seen))| self.is(value, *seen, *field)));
        match found {
            Some(element) if element.uncertain => None,
            Some(element) => Some(Some(&element.data)),
            None => Some(None),
        }
    }

    fn is(&self, value: &Value, seen: u128, field: Field) -> bool {
        match value {
            Value::Range { first, last } => (*first..=*last).contains(&seen),
            Value::Name(pattern) => {
                let names_interfaces = matches!(field, Field::Iif | Field::Oif);
                let link = self.config.links.iter().find(|link| u128::from(link.ifindex.0) == seen);
                names_interfaces && link.is_some_and(|link| pattern.matches(&link.name))
            }
        }
    }

    fn value(&self, field: Field, packet: &Packet) -> Option<u128> {
        let Packet { query, oif, .. } = packet;
        let number = |address: IpAddr| match address {
            IpAddr::V4(address) => u128::from(u32::from(address)),
            IpAddr::V6(address) => u128::from(address),
        };
        let ports = match query.transport {
            Transport::Ports { source, destination } => Some((source, destination)),
            _ => None,
        };
        let icmp = match query.transport {
            Transport::Icmp { kind, code } => Some((kind, code)),
            _ => None,
        };
        match field {
            Field::Iif => Some(query.iif.0.into()),
            Field::Oif => oif.map(|oif| oif.0.into()),
            Field::IifGroup => self.link(query.iif).map(|link| link.group.into()),
            Field::OifGroup => self.link((*oif)?).map(|link| link.group.into()),
            Field::Source => Some(number(query.source)),
            Field::Destination => Some(number(query.destination)),
            Field::Protocol => Some(query.protocol.into()),
            Field::SourcePort => ports.map(|ports| ports.0.into()),
            Field::DestinationPort => ports.map(|ports| ports.1.into()),
            Field::IcmpType => icmp.map(|icmp| icmp.0.into()),
            Field::IcmpCode => icmp.map(|icmp| icmp.1.into()),
            Field::IcmpTypeCode => icmp.map(|icmp| u128::from(icmp.0) * 256 + u128::from(icmp.1)),
            Field::Tos => Some(query.tos.into()),
            Field::Ttl => Some(query.ttl.into()),
            Field::FlowLabel => (self.family == Family::V6).then_some(query.flow_label.into()),
            Field::Length => Some(query.length.into()),
            Field::Mark => Some(query.mark.0.into()),
            Field::TcpFlags => (query.protocol == 6).then_some(query.tcp_flags.into()),
            Field::TcpMss => query.mss.map(u128::from),
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
            | Field::CtReplyDestinationPort => self.connection_value(field, packet),
            Field::IpsetSourcePort | Field::IpsetDestinationPort => Some(match (query.protocol, ports, icmp) {
                (6 | 17 | 132 | 136, Some((source, _)), _) if field == Field::IpsetSourcePort => source.into(),
                (6 | 17 | 132 | 136, Some((_, destination)), _) => destination.into(),
                (_, _, Some((kind, code))) => u128::from(kind) * 256 + u128::from(code),
                _ => 0,
            }),
            Field::SourceMac => Some(query.source_mac.0.iter().fold(0, |sum, byte| sum << 8 | u128::from(*byte))),
        }
    }

    /// `RTN_UNICAST` and so on of `linux/rtnetlink.h`.
    fn address_type(&self, address: IpAddr) -> u32 {
        let local = self.config.tables.each_of(Family::of(address), TableId::LOCAL);
        let holds = local.filter(|(prefix, _): &(Prefix, _)| prefix.contains(address));
        let longest = holds.max_by_key(|(prefix, _)| prefix.length()).and_then(|(_, routes)| routes.first());
        match longest.map(|route| &route.kind) {
            Some(RouteKind::Local(_)) => 2,
            Some(RouteKind::Broadcast(_)) => 3,
            Some(RouteKind::Anycast(_)) => 4,
            Some(RouteKind::Multicast(_)) => 5,
            _ => 1,
        }
    }
}
