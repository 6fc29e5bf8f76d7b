//! What routing alone says of a packet, for whoever holds a decision against the kernel's own.

use std::net::IpAddr;

use crate::compile::Policy;
use crate::connection::Tracking;
use crate::fib;
use crate::names::Ifindex;
use crate::netfilter::{Facts, Uncounted};
use crate::outcome::Stop;
use crate::query::Query;
use crate::rules::Answer;

/// Where rules and tables lead a packet, whatever comes of it behind them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Routing {
    /// The packet as PREROUTING left it: that is what the rules were asked about.
    pub query: Query,
    /// A rule looks at protocol or ports, so the kernel dissects a packet before it asks the rules.
    pub dissected: bool,
    /// All legs of the route, in its order; none if it leads to no next hop.
    pub legs: Vec<NextHop>,
    /// The leg that the packet takes.
    pub taken: Option<NextHop>,
}

/// A way onward.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NextHop {
    pub oif: Ifindex,
    /// The gateway, of either family; `None` when the destination itself is on the link.
    pub via: Option<IpAddr>,
}

impl Policy {
    /// Asks the rules and tables alone: no validation of the source, no guards. Allocates.
    ///
    /// # Errors
    ///
    /// What ended the packet in PREROUTING.
    pub fn routing(&self, query: &Query, tracking: &mut impl Tracking) -> Result<Routing, Stop> {
        let mut facts = Facts::of(query, &self.links);
        self.prerouting(&mut facts, tracking, &mut Uncounted)?;
        Ok(self.routing_of(&facts.query))
    }

    /// The same for a packet as PREROUTING has left it, which [`Tally::routed`](crate::Tally::routed) tells.
    pub fn routing_of(&self, query: &Query) -> Routing {
        let family = self.family(query.family());
        let ground = self.ground(query.family());
        let destination = fib::aligned_address(query.destination);
        let mut routing = Routing { query: *query, dissected: family.rules.dissects, legs: Vec::new(), taken: None };
        if let Answer::Onward(way) = ground.walk(query, destination) {
            routing.legs = family.sets.way(way).next_hops().collect();
            routing.taken = ground.leg(way, query).ok().map(|hop| hop.next_hop());
        }
        routing
    }
}
