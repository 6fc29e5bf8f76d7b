//! The slow, literal interpreter of [`Config`]: walks the lists as the operator wrote them and says what it sees.
//!
//! It shares no code with [`compile`](crate::compile) beyond the small vocabulary of [`config`](crate::config) and the hash of
//! multipath routes: the property tests hold the two against each other, and `shunt explain` prints its [`Trace`].

mod connection;
mod masquerade;
mod matching;
mod netfilter;
mod routing;

use std::fmt;
use std::net::IpAddr;

use crate::config::{ChainPolicy, Config, CounterSlot, Hook, Leg, Link, Origin, RuleAction, Transmit};
use crate::connection::{Direction, Endpoint, Manip, State, Tracking, Trackless};
use crate::names::{Family, Ifindex, Mac, Mark, TableId};
use crate::neighbour::NeighbourSlot;
use crate::outcome::{Egress, PuntReason, Stop};
use crate::query::Query;
use netfilter::{EVER, Packet};

/// What was asked on the way, and how it ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trace {
    pub steps: Vec<Step>,
    /// The mark behind PREROUTING; as it arrived if the packet did not get there.
    pub mark: Mark,
    /// The netfilter rules that count the packet, in their order. Of one that is punted the kernel counts.
    pub counted: Vec<CounterSlot>,
    pub end: Result<Egress, Stop>,
}

/// One thing that had a say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// A netfilter rule matched. What it changed, in words.
    Matched { rule: Origin, changes: Vec<String> },
    /// What conntrack says of the packet, and the state in words.
    Tracked { state: State, direction: Direction },
    /// Translation: what the source or destination becomes, if it changes.
    Translated { manip: Manip, new: Option<Endpoint> },
    /// A netfilter rule that we do not evaluate might match.
    MightMatch { rule: Origin },
    /// The end of a chain decided.
    ChainPolicy { chain: String, policy: ChainPolicy },
    /// An `ip rule` matched.
    Rule { rule: Origin, action: RuleAction },
    /// The asked table has no route that suits.
    Miss { table: TableId },
    /// The asked table's route, as `ip route` prints it.
    Route { table: TableId, route: String },
    /// The rule does not accept what its table says (`suppress_prefixlength`, `suppress_ifgroup`).
    Suppressed { table: TableId, route: String },
    /// The leg that the packet takes of a multipath route.
    Leg { number: usize, of: usize, oif: String },
    /// The way back to the source, which the kernel wants to know.
    WayBack { found: String },
    /// The next hop on its link, and its MAC if the kernel knows it.
    NextHop { oif: String, address: IpAddr, mac: Option<Mac> },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Matched { rule, changes } if changes.is_empty() => write!(f, "{rule}"),
            Step::Matched { rule, changes } => write!(f, "{rule} ({})", changes.join(", ")),
            Step::Tracked { state, direction } => write!(f, "conntrack: {state:?}, {direction:?}"),
            Step::Translated { manip, new: Some(Endpoint { address, port: 0 }) } => {
                write!(f, "nat: {manip:?} -> {address}")
            }
            Step::Translated { manip, new: Some(Endpoint { address, port }) } => {
                write!(f, "nat: {manip:?} -> {address} port {port}")
            }
            Step::Translated { manip, new: None } => write!(f, "nat: {manip:?} stays"),
            Step::MightMatch { rule } => write!(f, "{rule} (not mirrored: could match)"),
            Step::ChainPolicy { chain, policy } => write!(f, "{chain}: chain policy {policy:?}"),
            Step::Rule { rule, .. } => write!(f, "{rule}"),
            Step::Miss { table } => write!(f, "table {table}: no route"),
            Step::Route { table, route } => write!(f, "table {table}: {route}"),
            Step::Suppressed { table, route } => write!(f, "table {table}: {route} (suppressed by the rule)"),
            Step::Leg { number, of, oif } => write!(f, "leg {number} of {of}, dev {oif}"),
            Step::WayBack { found } => write!(f, "the way back to the source: {found}"),
            Step::NextHop { oif, address, mac: Some(mac) } => write!(f, "next hop {address} dev {oif} lladdr {mac}"),
            Step::NextHop { oif, address, mac: None } => write!(f, "next hop {address} dev {oif} is not resolved"),
        }
    }
}

/// Follows one packet, which nobody tracks, through a configuration.
pub fn trace(config: &Config, query: &Query) -> Trace {
    trace_tracking(config, query, &mut Trackless)
}

/// Follows one packet, whose connection is known to `tracking`, through a configuration.
pub fn trace_tracking(config: &Config, query: &Query, tracking: &mut dyn Tracking) -> Trace {
    let (family, mark) = (query.family(), query.mark);
    let mut walk = Walk { config, family, tracking, steps: Vec::new(), mark, counted: Vec::new() };
    let mut packet = Packet::of(query);
    let end = walk.follow(&mut packet);
    if packet.marks_connection {
        walk.tracking.keep_mark(packet.connection.mark);
    }
    Trace { steps: walk.steps, mark: walk.mark, counted: walk.counted, end }
}

struct Walk<'a> {
    config: &'a Config,
    family: Family,
    tracking: &'a mut dyn Tracking,
    steps: Vec<Step>,
    mark: Mark,
    counted: Vec<CounterSlot>,
}

impl<'a> Walk<'a> {
    fn follow(&mut self, packet: &mut Packet) -> Result<Egress, Stop> {
        let ingress = self.link(packet.query.iif).ok_or(Stop::Punt(PuntReason::UnknownIngress))?;
        self.guards(Hook::Prerouting, packet)?;
        let new_destination = self.prerouting(packet)?;
        self.mark = packet.query.mark;
        let query = &{ packet.query };
        let forwarding = match self.family {
            Family::V4 => ingress.forwarding4,
            Family::V6 => ingress.forwarding6,
        };
        if !forwarding {
            return Err(Stop::Punt(PuntReason::ForwardingOff));
        }

        let (leg, mtu) = self.route(query)?;
        if self.family == Family::V4 {
            self.validate_source(query, ingress, leg.oif)?;
        }
        if query.ttl <= 1 {
            return Err(Stop::Punt(PuntReason::TtlExpired));
        }
        if leg.oif == query.iif && !self.tracking.moves(leg.oif) {
            return Err(Stop::Punt(PuntReason::Redirect));
        }
        let egress = self.link(leg.oif).ok_or(Stop::Punt(PuntReason::EgressDown))?;
        let obeys = match self.family {
            Family::V4 => egress.redirected4,
            Family::V6 => egress.redirected6,
        };
        if obeys && leg.via.is_some() {
            return Err(Stop::Punt(PuntReason::Redirected));
        }
        let link_mtu = match self.family {
            Family::V4 => egress.mtu,
            Family::V6 => egress.mtu6,
        };
        let limits = [Some(link_mtu), mtu, self.config.path_mtus.get(&query.destination).copied()];
        let longest = limits.into_iter().flatten().min().unwrap_or(link_mtu);
        if query.length > longest {
            return Err(Stop::Punt(PuntReason::Oversize));
        }
        packet.query.ttl -= 1;
        packet.oif = Some(leg.oif);
        packet.via = leg.via;
        packet.mtu = mtu.unwrap_or(link_mtu);
        self.guards(Hook::Forward, packet)?;
        self.hook(Hook::Forward, EVER, packet)?;
        let new_source = self.postrouting(packet)?;
        let egress = self.send(&packet.query, leg, egress)?;
        Ok(Egress { new_source, new_destination, longest, ..egress })
    }

    fn link(&self, ifindex: Ifindex) -> Option<&'a Link> {
        self.config.links.iter().find(|link| link.ifindex == ifindex)
    }

    fn link_name(&self, ifindex: Ifindex) -> String {
        self.link(ifindex).map_or_else(|| format!("if{}", ifindex.0), |link| link.name.clone())
    }

    fn send(&mut self, query: &Query, leg: Leg, egress: &Link) -> Result<Egress, Stop> {
        if !egress.up {
            return Err(Stop::Punt(PuntReason::EgressDown));
        }
        let port = match egress.transmit {
            Transmit::Port(port) => port,
            Transmit::Kernel(reason) => return Err(Stop::Punt(reason)),
        };
        let source = egress.mac.ok_or(Stop::Punt(PuntReason::EgressNotTaken))?;
        let address = leg.via.unwrap_or(query.destination);
        let known = |n: &&crate::config::Neighbour| n.ifindex == leg.oif && n.address == address;
        let mac = self.config.neighbours.iter().rfind(known).and_then(|neighbour| neighbour.mac);
        self.steps.push(Step::NextHop { oif: egress.name.clone(), address, mac });
        let destination = mac.ok_or(Stop::Punt(PuntReason::Neighbour))?;
        let neighbour = NeighbourSlot::of(leg.oif, address);
        let Query { tos, ttl, mss, .. } = *query;
        let (new_source, new_destination) = (None, None);
        Ok(Egress {
            port,
            oif: leg.oif,
            source,
            destination,
            mark: self.mark,
            tos,
            ttl,
            mss,
            new_source,
            new_destination,
            neighbour,
            longest: 0,
            takes_redirected: egress.takes_redirected,
        })
    }
}
