//! Sets of routes, made ready: what can be decided before a packet comes is decided here.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::config::{Config, Hops, Leg, Link, Neighbour, NexthopObject, Route, RouteKind, Spreading};
use crate::multipath;
use crate::names::{Dscp, Family, Ifindex, Mac};
use crate::neighbour::NeighbourSlot;
use crate::outcome::{DropReason, PuntReason, Stop};
use crate::routing::NextHop;
use crate::slots::{self, Chunk, Slots};
use crate::tables::{RouteSet, SetId};

/// All sets of a family, by number.
#[derive(Debug)]
pub(crate) struct CompiledSets {
    /// What they are made of.
    sources: Slots<RouteSet>,
    chunks: Arc<[Arc<CompiledChunk>]>,
}

/// Sets of consecutive numbers, compiled anew only when one of them changes.
#[derive(Debug)]
struct CompiledChunk {
    sets: Box<[Candidates]>,
    ways: Box<[Way]>,
}

/// The routes of a prefix that can be used at present, in order of preference.
pub(crate) type Candidates = Box<[Candidate]>;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    tos: Dscp,
    /// Only for packets that came in by this interface.
    iif: Option<Ifindex>,
    pub(crate) fate: Fate,
}

impl Candidate {
    /// Whether it is for a packet of this TOS, as far as routes look at it, that came in by this interface.
    pub(crate) fn suits(&self, tos: Dscp, iif: Ifindex) -> bool {
        (self.tos == Dscp::default() || self.tos == tos) && self.iif.is_none_or(|only| only == iif)
    }
}

/// What a route does with a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    Onward(WayId),
    /// Local, broadcast and the like, on this interface.
    Own(Stop, Option<Ifindex>),
    Stop(Stop),
    /// On to the next rule.
    Throw,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct WayId {
    chunk: u32,
    at: u32,
}

/// Where a unicast route leads, with what is known of it before a packet comes.
#[derive(Debug)]
pub(crate) struct Way {
    /// Never none.
    legs: Box<[Hop]>,
    choice: Choice,
    /// The route's own, in bytes.
    pub(crate) mtu: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hop {
    pub(crate) oif: Ifindex,
    pub(crate) via: Option<IpAddr>,
    /// The gateway; `None` when the next hop is the destination itself or the gateway is unresolved.
    pub(crate) gateway: Option<(Mac, NeighbourSlot)>,
}

/// How a leg is chosen.
#[derive(Debug)]
enum Choice {
    /// Always this one.
    One(u16),
    /// The first whose bound is not below the hash, else the last resort.
    Weighted { bounds: Box<[(u32, u16)]>, last_resort: u16 },
    /// By the hash modulo their number.
    Buckets(Box<[u16]>),
}

impl CompiledSets {
    /// `before` is what was made by the same links, neighbours and nexthop objects.
    pub(crate) fn compile(
        family: Family,
        config: &Config,
        neighbours: &Neighbours,
        before: Option<&CompiledSets>,
    ) -> Self {
        let sources = &config.tables.family(family).sets;
        if let Some(before) = before.filter(|before| before.sources.is_same(sources)) {
            return CompiledSets { sources: sources.clone(), chunks: before.chunks.clone() };
        }
        let links: HashMap<Ifindex, &Link> = config.links.iter().map(|link| (link.ifindex, link)).collect();
        let Config { nexthops, spreading, .. } = config;
        let chunk = |(number, source): (usize, &Chunk<RouteSet>)| {
            if let Some(before) = before
                && before.sources.chunks().get(number).is_some_and(|other| Arc::ptr_eq(other, source))
            {
                return before.chunks[number].clone();
            }
            let chunk = number as u32;
            let mut compiler =
                Compiler { family, links: &links, neighbours, nexthops, spreading, chunk, ways: Vec::new() };
            let sets = source.iter().map(|set| compiler.set(set)).collect();
            Arc::new(CompiledChunk { sets, ways: compiler.ways.into() })
        };
        CompiledSets { sources: sources.clone(), chunks: sources.chunks().iter().enumerate().map(chunk).collect() }
    }

    pub(crate) fn set(&self, set: SetId) -> &[Candidate] {
        let (chunk, at) = slots::place(set.index());
        &self.chunks[chunk].sets[at]
    }

    pub(crate) fn way(&self, way: WayId) -> &Way {
        &self.chunks[way.chunk as usize].ways[way.at as usize]
    }
}

impl Way {
    /// The interface of the first leg (`fib_info_nhc(fi, 0)`).
    pub(crate) fn first_oif(&self) -> Ifindex {
        self.legs[0].oif
    }

    pub(crate) fn next_hops(&self) -> impl Iterator<Item = NextHop> {
        self.legs.iter().map(Hop::next_hop)
    }

    /// Whether some leg leaves by the interface (`fib_info_nh_uses_dev`).
    pub(crate) fn uses(&self, ifindex: Ifindex) -> bool {
        self.legs.iter().any(|leg| leg.oif == ifindex)
    }

    /// The leg for a packet, whose hash is asked for only if there is a choice.
    pub(crate) fn leg(&self, hash: impl FnOnce() -> Result<u32, Stop>) -> Result<&Hop, Stop> {
        let leg = match &self.choice {
            Choice::One(leg) => *leg,
            Choice::Weighted { bounds, last_resort } => {
                let hash = hash()?;
                bounds.iter().find(|(bound, _)| hash <= *bound).map_or(*last_resort, |(_, leg)| *leg)
            }
            Choice::Buckets(buckets) => buckets[hash()? as usize % buckets.len()],
        };
        Ok(&self.legs[usize::from(leg)])
    }
}

impl Hop {
    pub(crate) fn next_hop(&self) -> NextHop {
        NextHop { oif: self.oif, via: self.via }
    }
}

/// What the kernel knows of the addresses on a link.
#[derive(Debug, Default)]
pub(crate) struct Neighbours(HashMap<(Ifindex, IpAddr), Known, foldhash::fast::RandomState>);

#[derive(Clone, Copy, Debug)]
struct Known {
    mac: Option<(Mac, NeighbourSlot)>,
    valid: bool,
}

impl Neighbours {
    pub(crate) fn compile(config: &Config) -> Self {
        let known = |n: &Neighbour| Known {
            mac: n.mac.map(|mac| (mac, NeighbourSlot::of(n.ifindex, n.address))),
            valid: n.valid,
        };
        Neighbours(config.neighbours.iter().map(|n| ((n.ifindex, n.address), known(n))).collect())
    }

    /// `None` while it is not resolved.
    pub(crate) fn known(&self, oif: Ifindex, address: IpAddr) -> Option<(Mac, NeighbourSlot)> {
        self.0.get(&(oif, address))?.mac
    }

    /// Not known to be bad: an address that was never asked for counts as good (`fib_good_nh`, `ipv4_good_nh`).
    fn is_good(&self, leg: &Leg) -> bool {
        leg.via.is_none_or(|via| self.0.get(&(leg.oif, via)).is_none_or(|known| known.valid))
    }
}

struct Compiler<'a> {
    family: Family,
    links: &'a HashMap<Ifindex, &'a Link>,
    neighbours: &'a Neighbours,
    nexthops: &'a BTreeMap<u32, NexthopObject>,
    spreading: &'a Spreading,
    chunk: u32,
    ways: Vec<Way>,
}

impl Compiler<'_> {
    fn set(&mut self, routes: &[Route]) -> Candidates {
        match self.family {
            Family::V4 => routes.iter().filter_map(|route| self.candidate(route)).collect(),
            Family::V6 => self.best_of_six(routes),
        }
    }

    /// `find_rr_leaf`: the best of the lowest metric, else the best of all others; of equals the first. A route that leads back
    /// to where the packet came from is better than others of its preference (`rt6_score_route`, whose `oif` is the packet's iif
    /// in `ip6_pol_route_input`), so each interface that some of them lead to has a candidate of its own.
    fn best_of_six(&mut self, routes: &[Route]) -> Candidates {
        let lowest = routes.first().map_or(0, |route| route.metric);
        let (first, rest) = routes.split_at(routes.partition_point(|route| route.metric == lowest));
        for group in [first, rest] {
            let usable = group.iter().filter_map(|route| Some((route, self.candidate(route)?)));
            let mut usable: Vec<(&Route, Candidate)> = usable.collect();
            // Ends the search where it stands, whatever was found better before (`__find_rr_leaf`).
            if let Some((_, blackhole)) = usable.iter().find(|(route, _)| self.is_blackhole_object(route)) {
                return Box::new([*blackhole]);
            }
            let Some(preferred) = usable.iter().map(|(route, _)| route.preference).max() else { continue };
            usable.retain(|(route, _)| route.preference == preferred);
            let mut candidates: Vec<Candidate> = Vec::new();
            for (route, candidate) in usable.iter().filter(|_| usable.len() > 1) {
                for oif in self.interfaces(route) {
                    if candidates.iter().all(|other| other.iif != Some(oif)) {
                        candidates.push(Candidate { iif: Some(oif), ..*candidate });
                    }
                }
            }
            candidates.extend(usable.first().map(|(_, candidate)| *candidate));
            return candidates.into();
        }
        Box::default()
    }

    fn is_blackhole_object(&self, route: &Route) -> bool {
        match &route.kind {
            RouteKind::Unicast(Hops::Object(id)) => self.nexthops.get(id) == Some(&NexthopObject::Blackhole),
            _ => false,
        }
    }

    /// Where the route leads.
    fn interfaces(&self, route: &Route) -> Vec<Ifindex> {
        let legs = match &route.kind {
            RouteKind::Unicast(Hops::Legs(legs)) => legs.to_vec(),
            RouteKind::Unicast(Hops::Object(id)) => match self.nexthops.get(id) {
                Some(NexthopObject::Leg(leg)) => vec![*leg],
                Some(NexthopObject::Group(members) | NexthopObject::Resilient { members, .. }) => {
                    self.members(members).unwrap_or_default()
                }
                _ => Vec::new(),
            },
            kind => return kind.own_interface().into_iter().collect(),
        };
        legs.iter().filter(|leg| self.is_alive(leg)).map(|leg| leg.oif).collect()
    }

    /// `None` if the kernel passes the route over.
    fn candidate(&mut self, route: &Route) -> Option<Candidate> {
        let local = Stop::Punt(PuntReason::Local);
        let many = Stop::Punt(PuntReason::NotUnicast);
        let fate = match &route.kind {
            RouteKind::Unicast(Hops::Legs(legs)) => self.own_legs(legs, route.mtu)?,
            RouteKind::Unicast(Hops::Object(id)) => self.object(*id, route.mtu),
            RouteKind::Local(dev) => Fate::Own(local, *dev),
            RouteKind::Anycast(dev) if self.family == Family::V6 => Fate::Own(local, *dev),
            RouteKind::Anycast(dev) | RouteKind::Broadcast(dev) | RouteKind::Multicast(dev) => Fate::Own(many, *dev),
            RouteKind::Blackhole => Fate::Stop(Stop::Drop(DropReason::BlackholeRoute)),
            RouteKind::Unreachable => Fate::Stop(Stop::Punt(PuntReason::UnreachableRoute)),
            RouteKind::Prohibit => Fate::Stop(Stop::Punt(PuntReason::ProhibitRoute)),
            RouteKind::Throw => Fate::Throw,
            RouteKind::Opaque(_) => Fate::Stop(Stop::Punt(PuntReason::OpaqueRoute)),
        };
        Some(Candidate { tos: route.tos, iif: None, fate })
    }

    /// Whether a look-up may end at the leg (`fib_lookup_good_nhc`).
    fn is_alive(&self, leg: &Leg) -> bool {
        !leg.dead
            && self.links.get(&leg.oif).is_none_or(|link| match self.family {
                Family::V4 => !link.ignored4,
                Family::V6 => !link.ignored6,
            })
    }

    /// `fib_select_multipath`, `fib6_select_path`.
    fn own_legs(&mut self, legs: &[Leg], mtu: Option<u32>) -> Option<Fate> {
        let first_alive = legs.iter().position(|leg| self.is_alive(leg))?;
        if legs.len() == 1 {
            return Some(self.onward(legs, Choice::One(0), mtu));
        }
        let weights = legs.iter().map(|leg| if self.is_alive(leg) { leg.weight } else { 0 });
        let asks_neighbours = self.family == Family::V4 && self.spreading.use_neighbours;
        let bounds = multipath::bounds(weights).enumerate();
        let bounds = bounds.filter_map(|(at, bound)| Some((bound?, at as u16)));
        let bounds: Box<_> =
            bounds.filter(|(_, at)| !asks_neighbours || self.neighbours.is_good(&legs[usize::from(*at)])).collect();
        let last_resort = bounds.first().map_or(first_alive as u16, |(_, leg)| *leg);
        Some(self.onward(legs, Choice::Weighted { bounds, last_resort }, mtu))
    }

    fn object(&mut self, id: u32, mtu: Option<u32>) -> Fate {
        // The kernel then forgets the whole prefix and more (`fib_table_lookup`, miss): left to it.
        let unclear = Fate::Stop(Stop::Punt(PuntReason::OpaqueRoute));
        match self.nexthops.get(&id) {
            Some(NexthopObject::Leg(leg)) if self.is_alive(leg) => self.onward(&[*leg], Choice::One(0), mtu),
            Some(NexthopObject::Blackhole) => Fate::Stop(Stop::Drop(DropReason::BlackholeRoute)),
            Some(NexthopObject::Group(members)) => match self.members(members) {
                Some(legs) if legs.iter().any(|leg| self.is_alive(leg)) => {
                    let choice = self.by_threshold(&legs);
                    self.onward(&legs, choice, mtu)
                }
                _ => unclear,
            },
            Some(NexthopObject::Resilient { members, buckets }) => {
                let place = |id: &u32| Some(members.iter().position(|(member, _)| member == id)? as u16);
                match (self.members(members), buckets.iter().map(place).collect::<Option<Box<_>>>()) {
                    (Some(legs), Some(buckets)) if !buckets.is_empty() && legs.iter().any(|leg| self.is_alive(leg)) => {
                        self.onward(&legs, Choice::Buckets(buckets), mtu)
                    }
                    _ => unclear,
                }
            }
            Some(NexthopObject::Leg(_) | NexthopObject::Opaque(_)) | None => unclear,
        }
    }

    /// The legs of a group; `None` if one of them is none.
    fn members(&self, members: &[(u32, u32)]) -> Option<Vec<Leg>> {
        let leg = |(id, weight): &(u32, u32)| match self.nexthops.get(id) {
            Some(NexthopObject::Leg(leg)) => Some(Leg { weight: *weight, ..*leg }),
            _ => None,
        };
        members.iter().map(leg).collect()
    }

    /// `nexthop_select_path_hthr`: asks the neighbours always, and the carrier never.
    fn by_threshold(&self, legs: &[Leg]) -> Choice {
        let bounds = multipath::bounds(legs.iter().map(|leg| leg.weight)).enumerate();
        let bounds = bounds.filter_map(|(at, bound)| Some((bound?, at as u16)));
        let bounds: Box<_> = bounds.filter(|(_, at)| self.neighbours.is_good(&legs[usize::from(*at)])).collect();
        let last_resort = bounds.first().map_or(0, |(_, leg)| *leg);
        Choice::Weighted { bounds, last_resort }
    }

    fn onward(&mut self, legs: &[Leg], choice: Choice, mtu: Option<u32>) -> Fate {
        let hop = |leg: &Leg| Hop {
            oif: leg.oif,
            via: leg.via,
            gateway: leg.via.and_then(|via| self.neighbours.known(leg.oif, via)),
        };
        self.ways.push(Way { legs: legs.iter().map(hop).collect(), choice, mtu });
        Fate::Onward(WayId { chunk: self.chunk, at: self.ways.len() as u32 - 1 })
    }
}
