//! The kernel's own answer: where it would forward a packet, as `ip route get ... iif` asks it.
//!
//! The answer is that of the real look-up (`ip_route_input_rcu`, `ip6_route_input_lookup`): rules, tables, leg, and for IPv4 the
//! source as well. It knows nothing of netfilter, so the mark must be the one that PREROUTING leaves, and nothing of what comes
//! behind the route: MTU, FORWARD, neighbours. IPv6 does not ask for the sysctl `forwarding` either.

use std::io;
use std::net::Ipv6Addr;

use netlink_packet_core::NLM_F_REQUEST;
use netlink_sys::protocols::NETLINK_ROUTE;
use shunt_policy::config::{HashPolicy, Link, Spreading};
use shunt_policy::{Family, Ifindex, Mark, NextHop, Query, Routing, TableId};

use super::attributes::{HEADER, Request, attributes};
use super::decode::route::{FIXED, rta};
use super::decode::via;
use super::netlink::Dumper;
use super::{number, rtm};

/// `RTM_F_LOOKUP_TABLE`: name the table that the route is from.
const LOOKUP_TABLE: u32 = 0x1000;

/// Asks the kernel of this network namespace, one packet at a time: some 10 us each.
pub struct Oracle {
    dumper: Dumper,
    /// Since Linux 6.14, as are rules that look at the label.
    takes_label: bool,
}

/// What the kernel would do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    Route(Route),
    /// Not forward: the errno of the route, the rule or the objection to the source.
    Refused(i32),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    pub kind: Kind,
    pub next_hop: NextHop,
    pub table: TableId,
}

/// The route's type (`RTN_*`), as far as it matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Unicast,
    /// Delivered here: local, or an anycast address.
    Local,
    /// Broadcast, multicast and what else is not forwarded as unicast.
    Other(u8),
}

/// There is no answer for this packet.
#[derive(thiserror::Error, Debug)]
pub enum Unasked {
    #[error("it does not get as far as the routes")]
    Ended,
    #[error("the kernel answers for TCP, UDP and ICMP only")]
    Protocol,
    #[error("no usable answer: {0}")]
    Failed(#[from] io::Error),
}

impl Oracle {
    pub fn open() -> io::Result<Self> {
        let mut dumper = Dumper::open(NETLINK_ROUTE)?;
        // Whether the kernel refuses the attribute shows with a destination that is always there; without IPv6 nobody asks.
        let request = Request::new(rtm::GETROUTE, NLM_F_REQUEST, &fixed(Family::V6, [128, 0], 0))
            .with_address(rta::DST, Ipv6Addr::LOCALHOST.into());
        let takes_label = dumper.ask(&request.with(rta::FLOWLABEL, &1u32.to_be_bytes()), &mut |_| ()).is_ok();
        Ok(Oracle { dumper, takes_label })
    }

    /// Where the kernel would forward the packet, had PREROUTING left it with `mark`.
    ///
    /// # Errors
    ///
    /// Where the kernel cannot be asked, and where it cannot be understood.
    pub fn ask(&mut self, query: &Query, mark: Mark) -> Result<Answer, Unasked> {
        let request = self.request(query, mark)?;
        let mut answer = None;
        match self.dumper.ask(&request, &mut |message| answer = route(message)) {
            Ok(_) => {
                let answer = answer.ok_or_else(|| io::Error::other("the answer cannot be decoded"));
                Ok(Answer::Route(answer?))
            }
            Err(error) => match error.raw_os_error() {
                Some(errno) if IN_WORDS.iter().any(|(known, ..)| *known == errno) => Ok(Answer::Refused(errno)),
                _ => Err(error.into()),
            },
        }
    }

    /// Whether the kernel chooses the same leg of a multipath route when it is asked as when the packet comes. IPv4 hashes a packet
    /// made up for the purpose (`inet_rtm_getroute_build_skb`), and does. IPv6 hashes without one (`rt6_multipath_hash`): it then
    /// has the flow label in network order where the dissector of a real packet has it in host order (for policy 0 that is ICMPv6
    /// only), and mixes chosen fields otherwise (`rt6_multipath_custom_hash_fl6`).
    pub fn chooses_alike(&self, query: &Query, routing: &Routing, spreading: &Spreading) -> bool {
        let Spreading { policy4: _, policy6, seed, use_neighbours: _ } = *spreading;
        // The kernel's own seed is not known to us.
        if seed.is_none() {
            return false;
        }
        match (query.family(), policy6) {
            (Family::V4, _) | (Family::V6, HashPolicy::L4) => true,
            (Family::V6, HashPolicy::L3) => {
                query.flow_label == 0 || self.takes_label && !(routing.dissected && query.protocol == 58)
            }
            (Family::V6, HashPolicy::Inner) => query.flow_label == 0,
            (Family::V6, HashPolicy::Custom(_) | HashPolicy::Unknown) => false,
        }
    }

    fn request(&self, query: &Query, mark: Mark) -> Result<Request, Unasked> {
        let Query { iif, source, destination, protocol, tos, flow_label, .. } = *query;
        // rtm_getroute_parse_ip_proto
        let icmp = if query.family() == Family::V4 { 1 } else { 58 };
        if ![6, 17, icmp].contains(&protocol) {
            return Err(Unasked::Protocol);
        }
        let bits = query.family().bits();
        // The two bits of ECN do not route (`inet_dsfield_to_dscp`).
        let mut request = Request::new(rtm::GETROUTE, NLM_F_REQUEST, &fixed(query.family(), [bits; 2], tos & 0xfc))
            .with_address(rta::DST, destination)
            .with_address(rta::SRC, source)
            .with(rta::IIF, &iif.0.to_ne_bytes())
            .with(rta::MARK, &mark.0.to_ne_bytes())
            .with(rta::IP_PROTO, &[protocol])
            // A forwarded packet is looked up as user 0, where IPv6 would otherwise ask as nobody (inet6_rtm_getroute).
            .with(rta::UID, &0u32.to_ne_bytes());
        if protocol != icmp {
            let (source, destination) = query.dissected_ports();
            request = request.with(rta::SPORT, &source.to_be_bytes()).with(rta::DPORT, &destination.to_be_bytes());
        }
        if flow_label != 0 && self.takes_label {
            request = request.with(rta::FLOWLABEL, &flow_label.to_be_bytes());
        }
        Ok(request)
    }
}

/// `struct rtmsg`: family, lengths of destination and source, TOS, flags.
fn fixed(family: Family, [destination, source]: [u8; 2], tos: u8) -> [u8; FIXED] {
    let mut fixed = [0; FIXED];
    fixed[..4].copy_from_slice(&[number(family), destination, source, tos]);
    // IPv6 names the table unasked, and refuses the flag (`inet6_rtm_valid_getroute_req`).
    if family == Family::V4 {
        fixed[8..].copy_from_slice(&LOOKUP_TABLE.to_ne_bytes());
    }
    fixed
}

fn route(message: &[u8]) -> Option<Route> {
    let kind = match *message.get(HEADER + 7)? {
        libc::RTN_UNICAST => Kind::Unicast,
        libc::RTN_LOCAL | libc::RTN_ANYCAST => Kind::Local,
        other => Kind::Other(other),
    };
    let (mut oif, mut gateway, mut table) = (None, None, u32::from(*message.get(HEADER + 4)?));
    for attribute in attributes(message.get(HEADER + FIXED..)?) {
        let attribute = attribute?;
        match attribute.kind {
            rta::OIF => oif = Some(Ifindex(attribute.u32()?)),
            rta::GATEWAY => gateway = Some(attribute.address()?),
            rta::VIA => gateway = Some(via(&attribute)?),
            rta::TABLE => table = attribute.u32()?,
            _ => {}
        }
    }
    Some(Route { kind, next_hop: NextHop { oif: oif?, via: gateway }, table: TableId(table) })
}

/// The errors that are an answer; any other means that the question could not be asked.
const IN_WORDS: [(i32, &str, &str); 5] = [
    (libc::EACCES, "EACCES", "prohibited"),
    (libc::EHOSTUNREACH, "EHOSTUNREACH", "unreachable"),
    (libc::ENETUNREACH, "ENETUNREACH", "no route"),
    (libc::EINVAL, "EINVAL", "refused: a blackhole, or an objection to the source"),
    (libc::EXDEV, "EXDEV", "refused by rp_filter"),
];

impl Answer {
    /// For the operator, with the interfaces' names.
    pub fn in_words(&self, links: &[Link]) -> String {
        match self {
            Answer::Route(Route { kind: Kind::Unicast, next_hop, .. }) => next_hop_in_words(next_hop, links),
            Answer::Route(Route { kind: Kind::Local, .. }) => "local".to_owned(),
            Answer::Route(Route { kind: Kind::Other(kind), .. }) => format!("not unicast (type {kind})"),
            Answer::Refused(errno) => match IN_WORDS.iter().find(|(known, ..)| known == errno) {
                Some((_, name, meaning)) => format!("{meaning} ({name})"),
                None => format!("errno {errno}"),
            },
        }
    }
}

/// As `ip route get` prints it.
pub fn next_hop_in_words(next_hop: &NextHop, links: &[Link]) -> String {
    let NextHop { oif, via } = next_hop;
    let name =
        links.iter().find(|link| link.ifindex == *oif).map_or_else(|| format!("if{}", oif.0), |l| l.name.clone());
    match via {
        Some(via) => format!("via {via} dev {name}"),
        None => format!("dev {name}"),
    }
}
