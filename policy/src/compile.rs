//! [`Config`] in, [`Policy`] out: the same answers, faster.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::classify::{CompiledGuard, Facts, Mangle};
use crate::config::{Config, Hook, Link, Nexthop, RpFilter, Transmit};
use crate::fib::Fib;
use crate::names::{Family, Generation, Ifindex, Mac, PortId};
use crate::outcome::{Egress, PuntReason, Stop};
use crate::query::Query;
use crate::rules::{self, Routing};

/// Loopback's number in every network namespace (`LOOPBACK_IFINDEX`).
pub(crate) const LOOPBACK: Ifindex = Ifindex(1);

/// All that decides where packets go, compiled and immutable.
#[derive(Debug)]
pub struct Policy {
    generation: Generation,
    summary: Summary,
    links: HashMap<Ifindex, LinkFacts, foldhash::fast::RandomState>,
    neighbours: HashMap<(Ifindex, IpAddr), Mac, foldhash::fast::RandomState>,
    hops: Vec<Hop>,
    v4: FamilyPolicy,
    v6: FamilyPolicy,
}

/// How much a policy holds, for `shunt status`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    pub rules: usize,
    pub tables: usize,
    pub routes: usize,
    pub mangle_rules: usize,
    pub guards: usize,
}

#[derive(Debug)]
struct FamilyPolicy {
    before: Vec<CompiledGuard>,
    mangle: Mangle,
    routing: Routing,
    local_sources: Fib<()>,
    after: Vec<CompiledGuard>,
}

#[derive(Clone, Copy, Debug)]
struct LinkFacts {
    forwarding4: bool,
    forwarding6: bool,
    reverse_path: bool,
    src_valid_mark: bool,
    mtu: u32,
    mtu6: u32,
    egress: Result<(PortId, Mac), PuntReason>,
}

/// A next hop with what is known of it before a packet comes.
#[derive(Debug)]
struct Hop {
    nexthop: Nexthop,
    /// The gateway's MAC; `None` when the next hop is the destination itself or the gateway is unresolved.
    gateway: Option<Mac>,
}

/// Compiles a configuration. It never fails: what cannot be evaluated was made a punt by whoever wrote the [`Config`].
pub fn compile(config: &Config, generation: Generation) -> Policy {
    let neighbours: HashMap<_, _, _> =
        config.neighbours.iter().filter_map(|n| n.mac.map(|mac| ((n.ifindex, n.address), mac))).collect();
    let mut hops = Vec::new();
    let mut numbers: HashMap<Nexthop, u32> = HashMap::new();
    let mut hop = |nexthop: Nexthop| {
        *numbers.entry(nexthop).or_insert_with(|| {
            let gateway = nexthop.via.and_then(|via| neighbours.get(&(nexthop.oif, via)).copied());
            hops.push(Hop { nexthop, gateway });
            (hops.len() - 1) as u32
        })
    };
    let v4 = FamilyPolicy::compile(Family::V4, config, &mut hop);
    let v6 = FamilyPolicy::compile(Family::V6, config, &mut hop);
    Policy {
        generation,
        summary: Summary {
            rules: config.rules.len(),
            tables: v4.routing.tables() + v6.routing.tables(),
            routes: config.routes.len(),
            mangle_rules: config
                .mangle
                .iter()
                .map(|chain| chain.rules.len() + chain.user.iter().map(|user| user.rules.len()).sum::<usize>())
                .sum(),
            guards: config.guards.len(),
        },
        links: config.links.iter().map(|link| (link.ifindex, LinkFacts::of(link))).collect(),
        neighbours,
        hops,
        v4,
        v6,
    }
}

impl Policy {
    /// Which publication this is.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    pub fn summary(&self) -> Summary {
        self.summary
    }

    /// Where the packet goes, or why it does not go by our hands. Reads only; no allocation.
    pub fn decide(&self, query: &Query) -> Result<Egress, Stop> {
        let Some(ingress) = self.links.get(&query.iif) else { return Err(Stop::Punt(PuntReason::UnknownIngress)) };
        let family = match query.family() {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        };
        let facts = Facts::of(query);
        family.before.iter().try_for_each(|guard| guard.admit(&facts))?;
        let mark = family.mangle.classify(&facts)?;
        if !ingress.forwards(query.family()) {
            return Err(Stop::Punt(PuntReason::ForwardingOff));
        }

        let query = &Query { mark, ..*query };
        let hop = &self.hops[family.routing.route(query, facts.destination)? as usize];
        let oif = hop.nexthop.oif;
        self.validate_source(query, &facts, family, ingress)?;

        if oif == query.iif {
            return Err(Stop::Punt(PuntReason::Redirect));
        }
        let Some(egress) = self.links.get(&oif) else { return Err(Stop::Punt(PuntReason::EgressDown)) };
        if query.length > egress.mtu(query.family()).min(hop.nexthop.mtu.unwrap_or(u32::MAX)) {
            return Err(Stop::Punt(PuntReason::Oversize));
        }
        let facts = Facts { query, oif: Some(oif), ..facts };
        family.after.iter().try_for_each(|guard| guard.admit(&facts))?;

        let (port, source) = egress.egress.map_err(Stop::Punt)?;
        let destination = match hop.nexthop.via {
            Some(_) => hop.gateway,
            None => self.neighbours.get(&(oif, query.destination)).copied(),
        };
        let Some(destination) = destination else { return Err(Stop::Punt(PuntReason::Neighbour)) };
        Ok(Egress { port, oif, source, destination, mark })
    }

    /// `fib_validate_source`: IPv6 has none in the kernel but drops local sources elsewhere (`ip6_rcv_core`, `ip6_forward`).
    fn validate_source(
        &self,
        query: &Query,
        facts: &Facts<'_>,
        family: &FamilyPolicy,
        ingress: &LinkFacts,
    ) -> Result<(), Stop> {
        if family.local_sources.lookup(facts.source, |_| Some(())).is_some() {
            return Err(Stop::Punt(PuntReason::SourceLocal));
        }
        if !ingress.reverse_path || query.family() == Family::V6 {
            return Ok(());
        }
        // A rule that asks for the interface would need the kernel's choice of iif for the way back; leave it to the kernel.
        let objection = Err(Stop::Punt(PuntReason::ReversePath));
        if family.routing.asks_iif {
            return objection;
        }
        match family.routing.route(&query.reversed(ingress.src_valid_mark), facts.source) {
            Ok(hop) if self.hops[hop as usize].nexthop.oif == query.iif => Ok(()),
            // Also for loose mode: whether another way back is good enough depends on the interface's addresses.
            _ => objection,
        }
    }
}

impl Query {
    /// The look-up for the way back: addresses exchanged, the mark only if `src_valid_mark` asks for it.
    pub(crate) fn reversed(&self, keep_mark: bool) -> Query {
        Query {
            iif: LOOPBACK,
            source: self.destination,
            destination: self.source,
            mark: if keep_mark { self.mark } else { Default::default() },
            ..*self
        }
    }
}

impl FamilyPolicy {
    fn compile(family: Family, config: &Config, hop: &mut dyn FnMut(Nexthop) -> u32) -> Self {
        let guards = |hook: Hook| {
            config
                .guards
                .iter()
                .filter(move |guard| guard.family == family && guard.hook == hook)
                .map(|guard| CompiledGuard::compile(guard, &config.links))
                .collect()
        };
        FamilyPolicy {
            before: guards(Hook::Prerouting),
            mangle: Mangle::compile(config.mangle.iter().filter(|chain| chain.family == family), &config.links),
            routing: Routing::compile(family, &config.rules, &config.routes, &config.links, hop),
            local_sources: rules::local_sources(family, &config.routes),
            after: guards(Hook::Forward),
        }
    }
}

impl LinkFacts {
    fn of(link: &Link) -> Self {
        let egress = match (link.up, link.transmit, link.mac) {
            (false, ..) => Err(PuntReason::EgressDown),
            (true, Transmit::Kernel(reason), _) => Err(reason),
            (true, Transmit::Port(_), None) => Err(PuntReason::EgressNotTaken),
            (true, Transmit::Port(port), Some(mac)) => Ok((port, mac)),
        };
        LinkFacts {
            forwarding4: link.forwarding4,
            forwarding6: link.forwarding6,
            reverse_path: link.rp_filter != RpFilter::Off,
            src_valid_mark: link.src_valid_mark,
            mtu: link.mtu,
            mtu6: link.mtu6,
            egress,
        }
    }

    fn forwards(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.forwarding4,
            Family::V6 => self.forwarding6,
        }
    }

    fn mtu(&self, family: Family) -> u32 {
        match family {
            Family::V4 => self.mtu,
            Family::V6 => self.mtu6,
        }
    }
}
