//! The `ip rule` walk: which table is asked, in which order, and how it ends.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::{Link, MarkMatch, Nexthop, Route, RouteKind, Rule, RuleAction, RuleSelector};
use crate::fib::Fib;
use crate::names::{Dscp, Family, Ifindex, Prefix, TableId};
use crate::outcome::{DropReason, PuntReason, Stop};
use crate::query::Query;

/// One family's rules and tables.
#[derive(Debug)]
pub(crate) struct Routing {
    family: Family,
    rules: Vec<CompiledRule>,
    tables: Vec<Fib<Leaf>>,
    /// A rule looks at the ingress interface.
    pub(crate) asks_iif: bool,
}

/// The routes of one prefix, in order of preference. Shared between all prefixes with the same routes.
type Leaf = Arc<[Candidate]>;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Candidate {
    tos: Dscp,
    fate: Fate,
}

/// What a route does with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Fate {
    /// Index of the next hop.
    Onward(u32),
    Stop(Stop),
    /// On to the next rule.
    Throw,
}

#[derive(Debug)]
struct CompiledRule {
    not: bool,
    from: Option<Prefix>,
    to: Option<Prefix>,
    iif: IifSelector,
    fwmark: Option<MarkMatch>,
    tos: Option<Dscp>,
    opaque: bool,
    action: Action,
}

#[derive(Clone, Copy, Debug)]
enum IifSelector {
    Any,
    Is(Ifindex),
    /// The named interface does not exist: the kernel calls the rule detached.
    Detached,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    /// Index of the table; `None` while it has no route.
    Lookup(Option<usize>),
    Stop(Stop),
}

impl Routing {
    /// `hop` gives the index of a route's next hop.
    pub(crate) fn compile(
        family: Family,
        rules: &[Rule],
        routes: &[Route],
        links: &[Link],
        hop: &mut dyn FnMut(Nexthop) -> u32,
    ) -> Self {
        let (tables, index) = compile_tables(family, routes, hop);
        let rules: Vec<_> = rules
            .iter()
            .filter(|rule| rule.family == family)
            .map(|rule| CompiledRule::compile(rule, &index, links))
            .collect();
        let asks_iif = rules.iter().any(|rule| !matches!(rule.iif, IifSelector::Any));
        Routing { family, rules, tables, asks_iif }
    }

    pub(crate) fn tables(&self) -> usize {
        self.tables.len()
    }

    /// Index of the next hop (`fib_rules_lookup`).
    pub(crate) fn route(&self, query: &Query, destination: u128) -> Result<u32, Stop> {
        let tos = matching_tos(self.family, query.tos);
        for rule in &self.rules {
            match (rule.known_selectors_match(query, tos), rule.opaque) {
                (true, true) => return Err(Stop::Punt(PuntReason::OpaqueRule)),
                // `not` inverts the whole (`fib_rule_match`).
                (known, _) if known == rule.not => continue,
                _ => {}
            }
            let table = match rule.action {
                Action::Stop(stop) => return Err(stop),
                Action::Lookup(None) => continue,
                Action::Lookup(Some(table)) => &self.tables[table],
            };
            let suits = |candidate: &&Candidate| candidate.tos == Dscp::default() || candidate.tos == tos;
            match table.lookup(destination, |leaf| leaf.iter().find(suits).map(|candidate| candidate.fate)) {
                Some(Fate::Onward(hop)) => return Ok(hop),
                Some(Fate::Stop(stop)) => return Err(stop),
                Some(Fate::Throw) | None => {}
            }
        }
        Err(Stop::Punt(PuntReason::NoRoute))
    }
}

/// The bits of the packet's TOS byte that `tos` selectors and TOS routes compare: IPv4 the three bits of `IPTOS_RT_MASK`
/// (`fib_dscp_masked_match`), IPv6 the whole DSCP (`fib6_rule_match`).
pub(crate) fn matching_tos(family: Family, tos: u8) -> Dscp {
    match family {
        Family::V4 => Dscp::of_tos(tos & 0x1c),
        Family::V6 => Dscp::of_tos(tos),
    }
}

/// What a route that is not unicast does, as seen by a packet that is to be forwarded. `None`: on to the next rule.
pub(crate) fn ending(kind: &RouteKind) -> Option<Stop> {
    Some(match kind {
        RouteKind::Unicast(_) | RouteKind::Throw => return None,
        RouteKind::Local | RouteKind::Anycast => Stop::Punt(PuntReason::Local),
        RouteKind::Broadcast | RouteKind::Multicast => Stop::Punt(PuntReason::NotUnicast),
        RouteKind::Blackhole => Stop::Drop(DropReason::BlackholeRoute),
        RouteKind::Unreachable => Stop::Punt(PuntReason::UnreachableRoute),
        RouteKind::Prohibit => Stop::Punt(PuntReason::ProhibitRoute),
        RouteKind::Opaque(_) => Stop::Punt(PuntReason::OpaqueRoute),
    })
}

impl CompiledRule {
    fn compile(rule: &Rule, tables: &HashMap<TableId, usize>, links: &[Link]) -> Self {
        let RuleSelector { not, from, to, iif, fwmark, tos, opaque } = &rule.selector;
        let iif = match iif {
            None => IifSelector::Any,
            Some(name) => links
                .iter()
                .find(|link| link.name == *name)
                .map_or(IifSelector::Detached, |link| IifSelector::Is(link.ifindex)),
        };
        let action = match &rule.action {
            RuleAction::Lookup(table) => Action::Lookup(tables.get(table).copied()),
            RuleAction::Blackhole => Action::Stop(Stop::Drop(DropReason::BlackholeRule)),
            RuleAction::Unreachable => Action::Stop(Stop::Punt(PuntReason::UnreachableRule)),
            RuleAction::Prohibit => Action::Stop(Stop::Punt(PuntReason::ProhibitRule)),
            RuleAction::Opaque(_) => Action::Stop(Stop::Punt(PuntReason::OpaqueRule)),
        };
        CompiledRule {
            not: *not,
            from: *from,
            to: *to,
            iif,
            fwmark: *fwmark,
            tos: *tos,
            opaque: opaque.is_some(),
            action,
        }
    }

    fn known_selectors_match(&self, query: &Query, tos: Dscp) -> bool {
        let iif = match self.iif {
            IifSelector::Any => true,
            IifSelector::Is(iif) => iif == query.iif,
            IifSelector::Detached => false,
        };
        iif && self.fwmark.is_none_or(|fwmark| fwmark.matches(query.mark))
            && self.tos.is_none_or(|wanted| wanted == tos)
            && self.from.is_none_or(|from| from.contains(query.source))
            && self.to.is_none_or(|to| to.contains(query.destination))
    }
}

fn compile_tables(
    family: Family,
    routes: &[Route],
    hop: &mut dyn FnMut(Nexthop) -> u32,
) -> (Vec<Fib<Leaf>>, HashMap<TableId, usize>) {
    let mut order: Vec<&Route> = routes.iter().filter(|route| route.destination.family() == family).collect();
    // Stable: the first of two equal routes stays the first. A route with a TOS is asked before those without
    // (`fib_find_alias` keeps them by falling TOS, then by rising metric).
    order.sort_by_key(|route| (route.table, route.destination, std::cmp::Reverse(route.tos), route.metric));
    let mut tables: Vec<Fib<Leaf>> = Vec::new();
    let mut index = HashMap::new();
    let mut shared: HashMap<Box<[Candidate]>, Leaf> = HashMap::new();
    for same in order.chunk_by(|a, b| (a.table, a.destination) == (b.table, b.destination)) {
        let candidates: Box<[Candidate]> =
            same.iter().map(|route| Candidate { tos: route.tos, fate: fate(&route.kind, hop) }).collect();
        let leaf = shared.entry(candidates).or_insert_with_key(|key| Arc::from(&**key)).clone();
        let table = *index.entry(same[0].table).or_insert_with(|| {
            tables.push(Fib::default());
            tables.len() - 1
        });
        tables[table].insert(same[0].destination, leaf);
    }
    (tables, index)
}

fn fate(kind: &RouteKind, hop: &mut dyn FnMut(Nexthop) -> u32) -> Fate {
    match kind {
        RouteKind::Unicast(nexthop) => Fate::Onward(hop(*nexthop)),
        other => ending(other).map_or(Fate::Throw, Fate::Stop),
    }
}

/// Prefixes that a source address must not lie in: what is local or broadcast to this machine in any table. The kernel calls
/// such a packet martian (`__fib_validate_source`) unless sysctls allow it; either way it is the kernel's.
pub(crate) fn local_sources(family: Family, routes: &[Route]) -> Fib<()> {
    let mut sources = Fib::default();
    for route in routes.iter().filter(|route| route.destination.family() == family) {
        if is_local(&route.kind) {
            sources.insert(route.destination, ());
        }
    }
    sources
}

pub(crate) fn is_local(kind: &RouteKind) -> bool {
    matches!(kind, RouteKind::Local | RouteKind::Broadcast | RouteKind::Anycast | RouteKind::Multicast)
}
