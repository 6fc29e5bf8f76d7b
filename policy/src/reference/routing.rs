//! Rules, tables, legs and the way back, as `ip rule` and `ip route` list them.

use super::{Step, Walk};
use crate::compile::LOOPBACK;
use crate::config::{
    Hops, Leg, Link, NexthopObject, Route, RouteKind, RouteText, RpFilter, Rule, RuleAction, RuleSelector, Suppress,
};
use crate::multipath;
use crate::names::{Dscp, Family, Ifindex, Mark, Prefix, TableId};
use crate::outcome::{DropReason, PuntReason, Stop};
use crate::query::{Query, Transport};

/// What the rules and tables say to one look-up.
enum Found<'a> {
    Unicast(Prefix, &'a Route),
    /// Local, broadcast, anycast, multicast.
    Own(&'a Route),
    /// The kernel finds nothing either.
    Failed(Stop),
    /// We cannot say what the kernel finds.
    Unclear(Stop),
}

/// How a packet ends that is for the machine itself.
fn own(route: &Route, family: Family) -> Stop {
    Stop::Punt(match (&route.kind, family) {
        (RouteKind::Local(_), _) | (RouteKind::Anycast(_), Family::V6) => PuntReason::Local,
        _ => PuntReason::NotUnicast,
    })
}

impl<'a> Walk<'a> {
    /// The next hop, and the route's own MTU.
    pub(super) fn route(&mut self, query: &Query) -> Result<(Leg, Option<u32>), Stop> {
        match self.look_up(query, true) {
            Found::Unicast(_, route) => {
                let legs = self.legs(route);
                let leg = self.pick(route, &legs, query)?;
                if legs.len() > 1 {
                    let number = legs.iter().position(|other| *other == leg).unwrap_or(0) + 1;
                    self.steps.push(Step::Leg { number, of: legs.len(), oif: self.link_name(leg.oif) });
                }
                Ok((leg, route.mtu))
            }
            Found::Own(route) => Err(own(route, self.family)),
            Found::Failed(stop) | Found::Unclear(stop) => Err(stop),
        }
    }

    /// Largest packet that the way to the sender takes, asked for its address alone.
    pub(super) fn mtu_back(&mut self, query: &Query) -> Result<u32, Stop> {
        let query = query.to_sender();
        match self.look_up(&query, false) {
            Found::Unicast(_, route) => {
                if let Some(mtu) = route.mtu {
                    return Ok(mtu);
                }
                let legs = self.legs(route);
                let leg = self.pick(route, &legs, &query)?;
                Ok(self.link(leg.oif).map_or(u32::MAX, |link| match self.family {
                    Family::V4 => link.mtu,
                    Family::V6 => link.mtu6,
                }))
            }
            Found::Failed(_) => Ok(u32::MAX),
            Found::Own(route) => Err(own(route, self.family)),
            Found::Unclear(stop) => Err(stop),
        }
    }

    /// The rules in order, each one's table, the longest prefix that suits. `told` is whether the steps are of interest.
    fn look_up(&mut self, query: &Query, told: bool) -> Found<'a> {
        let (config, family) = (self.config, self.family);
        let rules: Vec<&Rule> = config.rules.iter().filter(|rule| rule.family == family).collect();
        let mut next = 0;
        while next < rules.len() {
            let rule = rules[next];
            next += 1;
            match self.rule_matches(rule, query) {
                Some(false) => continue,
                None => {
                    self.tell(told, Step::MightMatch { rule: rule.origin.clone() });
                    return Found::Unclear(Stop::Punt(PuntReason::OpaqueRule));
                }
                Some(true) => {
                    self.tell(told, Step::Rule { rule: rule.origin.clone(), action: rule.action.clone() });
                }
            }
            let (table, suppress) = match rule.action {
                RuleAction::Lookup(table, suppress) => (table, suppress),
                RuleAction::Goto(priority) => {
                    // Only forward; a target that is not there is no target.
                    let target = rules.iter().position(|rule| rule.priority == priority);
                    next = target.filter(|target| *target >= next).unwrap_or(next);
                    continue;
                }
                RuleAction::Nop => continue,
                RuleAction::Blackhole => return Found::Failed(Stop::Drop(DropReason::BlackholeRule)),
                RuleAction::Unreachable => return Found::Failed(Stop::Punt(PuntReason::UnreachableRule)),
                RuleAction::Prohibit => return Found::Failed(Stop::Punt(PuntReason::ProhibitRule)),
                RuleAction::Opaque(_) => return Found::Unclear(Stop::Punt(PuntReason::OpaqueRule)),
            };
            let Some((prefix, route)) = self.longest_match(table, query) else {
                self.tell(told, Step::Miss { table });
                continue;
            };
            let text = RouteText { prefix, route, links: &config.links }.to_string();
            match self.is_suppressed(prefix, route, suppress, query) {
                Err(stop) => return Found::Unclear(stop),
                Ok(true) => {
                    self.tell(told, Step::Suppressed { table, route: text });
                    continue;
                }
                Ok(false) => self.tell(told, Step::Route { table, route: text }),
            }
            return match &route.kind {
                RouteKind::Unicast(_) => match self.object_stop(route) {
                    Some(stop @ Stop::Drop(_)) => Found::Failed(stop),
                    Some(stop) => Found::Unclear(stop),
                    None => Found::Unicast(prefix, route),
                },
                RouteKind::Throw => continue,
                kind if kind.is_own() => Found::Own(route),
                RouteKind::Blackhole => Found::Failed(Stop::Drop(DropReason::BlackholeRoute)),
                RouteKind::Unreachable => Found::Failed(Stop::Punt(PuntReason::UnreachableRoute)),
                RouteKind::Prohibit => Found::Failed(Stop::Punt(PuntReason::ProhibitRoute)),
                _ => Found::Unclear(Stop::Punt(PuntReason::OpaqueRoute)),
            };
        }
        Found::Failed(Stop::Punt(PuntReason::NoRoute))
    }

    fn tell(&mut self, told: bool, step: Step) {
        if told {
            self.steps.push(step);
        }
    }

    /// Whether a rule matches; `None` if only an opaque selector could say.
    fn rule_matches(&self, rule: &Rule, query: &Query) -> Option<bool> {
        let RuleSelector {
            not,
            from,
            to,
            iif,
            oif,
            fwmark,
            tos,
            dscp,
            protocol,
            source_port,
            destination_port,
            uid_range,
            l3mdev,
            tunnel,
            flow_label,
            opaque,
        } = &rule.selector;
        let iif = iif.as_ref().is_none_or(|name| {
            self.config.links.iter().find(|link| link.name == *name).is_some_and(|link| link.ifindex == query.iif)
        });
        let ports = query.dissected_ports();
        let known = iif
            && oif.is_none()
            && !l3mdev
            && tunnel.is_none()
            && uid_range.is_none_or(|(first, _)| first == 0)
            && from.is_none_or(|from| from.contains(query.source))
            && to.is_none_or(|to| to.contains(query.destination))
            && fwmark.is_none_or(|fwmark| query.mark.0 & fwmark.mask == fwmark.value & fwmark.mask)
            && tos.is_none_or(|tos| tos == self.comparable_tos(query.tos))
            && dscp.is_none_or(|dscp| query.tos & dscp.mask.bits() == dscp.value.bits() & dscp.mask.bits())
            && protocol.is_none_or(|protocol| protocol == query.protocol)
            && source_port.is_none_or(|port| port.matches(ports.0))
            && destination_port.is_none_or(|port| port.matches(ports.1))
            && flow_label.is_none_or(|label| query.flow_label & label.mask == label.value & label.mask);
        match opaque {
            Some(_) if known => None,
            _ => Some(known != *not),
        }
    }

    fn comparable_tos(&self, tos: u8) -> Dscp {
        Dscp::of_tos(match self.family {
            Family::V4 => tos & 0b0001_1100,
            Family::V6 => tos,
        })
    }

    fn longest_match(&self, table: TableId, query: &Query) -> Option<(Prefix, &'a Route)> {
        let all = self.config.tables.each_of(self.family, table);
        let mut matching: Vec<_> = all.filter(|(prefix, _)| prefix.contains(query.destination)).collect();
        matching.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.length()));
        matching.into_iter().find_map(|(prefix, routes)| Some((prefix, self.best(routes, query)?)))
    }

    /// Which of the routes of one prefix.
    fn best(&self, routes: &'a [Route], query: &Query) -> Option<&'a Route> {
        let tos = self.comparable_tos(query.tos);
        let mut usable = routes.iter().filter(|route| self.is_usable(route));
        match self.family {
            Family::V4 => usable.find(|route| route.tos == Dscp::default() || route.tos == tos),
            Family::V6 => {
                let usable: Vec<_> = usable.collect();
                let lowest = routes.first()?.metric;
                let of_lowest: Vec<_> = usable.iter().copied().filter(|route| route.metric == lowest).collect();
                let group = if of_lowest.is_empty() { usable } else { of_lowest };
                // Ends the search where it stands, whatever was found better before (`__find_rr_leaf`).
                if let Some(blackhole) = group.iter().find(|route| self.is_blackhole_object(route)) {
                    return Some(blackhole);
                }
                // The look-up prefers what leads back to where the packet came from (`ip6_pol_route_input`).
                let score = |route: &Route| (route.preference, self.leads_to(route, query.iif));
                let highest = group.iter().map(|route| score(route)).max()?;
                group.into_iter().find(|route| score(route) == highest)
            }
        }
    }

    fn is_blackhole_object(&self, route: &Route) -> bool {
        match &route.kind {
            RouteKind::Unicast(Hops::Object(id)) => self.config.nexthops.get(id) == Some(&NexthopObject::Blackhole),
            _ => false,
        }
    }

    fn leads_to(&self, route: &Route, ifindex: Ifindex) -> bool {
        match &route.kind {
            RouteKind::Unicast(_) => self.legs(route).iter().any(|leg| leg.oif == ifindex && self.is_alive(leg)),
            kind => kind.own_interface() == Some(ifindex),
        }
    }

    /// A unicast route needs one leg that is alive.
    fn is_usable(&self, route: &Route) -> bool {
        match &route.kind {
            RouteKind::Unicast(Hops::Legs(legs)) => legs.iter().any(|leg| self.is_alive(leg)),
            _ => true,
        }
    }

    fn is_alive(&self, leg: &Leg) -> bool {
        let ignored = self.link(leg.oif).is_some_and(|link| match self.family {
            Family::V4 => link.ignored4,
            Family::V6 => link.ignored6,
        });
        !(leg.dead || ignored)
    }

    fn legs(&self, route: &Route) -> Vec<Leg> {
        let leg = |id: &u32| match self.config.nexthops.get(id) {
            Some(NexthopObject::Leg(leg)) => Some(*leg),
            _ => None,
        };
        match &route.kind {
            RouteKind::Unicast(Hops::Legs(legs)) => legs.to_vec(),
            RouteKind::Unicast(Hops::Object(id)) => match self.config.nexthops.get(id) {
                Some(NexthopObject::Leg(leg)) => vec![*leg],
                Some(NexthopObject::Group(members) | NexthopObject::Resilient { members, .. }) => {
                    let legs: Option<Vec<Leg>> =
                        members.iter().map(|(id, weight)| Some(Leg { weight: *weight, ..leg(id)? })).collect();
                    legs.unwrap_or_default()
                }
                _ => Vec::new(),
            },
            _ => Vec::new(),
        }
    }

    /// Why a route by a nexthop object leads nowhere, if it does.
    fn object_stop(&self, route: &Route) -> Option<Stop> {
        let RouteKind::Unicast(Hops::Object(id)) = &route.kind else { return None };
        let unclear = Some(Stop::Punt(PuntReason::OpaqueRoute));
        match self.config.nexthops.get(id) {
            Some(NexthopObject::Blackhole) => return Some(Stop::Drop(DropReason::BlackholeRoute)),
            Some(NexthopObject::Resilient { members, buckets }) => {
                let known = |bucket: &u32| members.iter().any(|(id, _)| id == bucket);
                if buckets.is_empty() || !buckets.iter().all(known) {
                    return unclear;
                }
            }
            _ => {}
        }
        if self.legs(route).iter().any(|leg| self.is_alive(leg)) { None } else { unclear }
    }

    fn pick(&self, route: &Route, legs: &[Leg], query: &Query) -> Result<Leg, Stop> {
        let object = match &route.kind {
            RouteKind::Unicast(Hops::Object(id)) => self.config.nexthops.get(id),
            _ => None,
        };
        if legs.len() == 1 && !matches!(object, Some(NexthopObject::Group(_) | NexthopObject::Resilient { .. })) {
            return Ok(legs[0]);
        }
        let dissected = self.config.rules.iter().any(|rule| {
            let RuleSelector { iif, protocol, source_port, destination_port, .. } = &rule.selector;
            let asks = protocol.is_some() || source_port.is_some() || destination_port.is_some();
            rule.family == self.family && asks && iif.as_deref() != Some("lo")
        });
        let hash = multipath::hash(query, &self.config.spreading, dissected)?;
        if let Some(NexthopObject::Resilient { members, buckets }) = object {
            let id = buckets[hash as usize % buckets.len()];
            let at = members.iter().position(|(member, _)| *member == id).unwrap_or(0);
            return Ok(legs[at]);
        }
        // Objects ask the neighbours always and the carrier never, other routes the other way round.
        let counts = |leg: &Leg| object.is_some() || self.is_alive(leg);
        let asks = object.is_some() || (self.family == Family::V4 && self.config.spreading.use_neighbours);
        let total: u64 = legs.iter().filter(|leg| counts(leg)).map(|leg| u64::from(leg.weight)).sum();
        let mut sum = 0;
        let mut last_resort = None;
        for leg in legs.iter().filter(|leg| counts(leg) && leg.weight != 0) {
            sum += u64::from(leg.weight);
            if asks && !self.answers(leg) {
                continue;
            }
            last_resort = last_resort.or(Some(*leg));
            let bound = ((sum << 31) + total / 2) / total;
            if u64::from(hash) < bound {
                return Ok(*leg);
            }
        }
        let first = if object.is_some() { Some(legs[0]) } else { legs.iter().find(|leg| self.is_alive(leg)).copied() };
        Ok(last_resort.or(first).unwrap_or(legs[0]))
    }

    /// Whether the leg's gateway is not known to be silent.
    fn answers(&self, leg: &Leg) -> bool {
        let Some(via) = leg.via else { return true };
        let known = self.config.neighbours.iter().rfind(|n| n.ifindex == leg.oif && n.address == via);
        known.is_none_or(|neighbour| neighbour.valid)
    }

    fn is_suppressed(&self, prefix: Prefix, route: &Route, suppress: Suppress, query: &Query) -> Result<bool, Stop> {
        let oif = match &route.kind {
            RouteKind::Unicast(_) if suppress == Suppress::default() || self.object_stop(route).is_some() => {
                return Ok(false);
            }
            RouteKind::Unicast(_) => {
                let legs = self.legs(route);
                match self.family {
                    Family::V4 => Some(legs[0].oif),
                    Family::V6 => Some(self.pick(route, &legs, query)?.oif),
                }
            }
            RouteKind::Local(dev) | RouteKind::Anycast(dev) | RouteKind::Broadcast(dev) | RouteKind::Multicast(dev) => {
                if self.family == Family::V6 {
                    Some(LOOPBACK)
                } else {
                    *dev
                }
            }
            // An error is no result that could be suppressed.
            _ => return Ok(false),
        };
        let group = oif.and_then(|oif| self.link(oif)).map(|link| link.group);
        Ok(suppress.prefix_length.is_some_and(|limit| prefix.length() <= limit)
            || suppress.group.is_some_and(|unwanted| group == Some(unwanted)))
    }

    /// IPv4 only.
    pub(super) fn validate_source(&mut self, query: &Query, ingress: &Link, oif: Ifindex) -> Result<(), Stop> {
        let own = |routes: &[Route]| routes.iter().any(|route| route.kind.is_own());
        let mut all = self.config.tables.each(self.family);
        let may_be_own = all.any(|(_, prefix, routes)| prefix.contains(query.source) && own(routes));
        if ingress.rp_filter == RpFilter::Off && (ingress.accept_local || !may_be_own) {
            return Ok(());
        }
        let transport = match query.transport {
            Transport::Ports { source, destination } => Transport::Ports { source: destination, destination: source },
            Transport::Spi(spi) => Transport::Spi(spi.rotate_right(16)),
            other => other,
        };
        let back = Query {
            iif: oif,
            source: query.destination,
            destination: query.source,
            mark: if ingress.src_valid_mark { query.mark } else { Mark(0) },
            transport,
            ..*query
        };
        let objection = Err(Stop::Punt(PuntReason::ReversePath));
        let text = |prefix, route| RouteText { prefix, route, links: &self.config.links }.to_string();
        match self.look_up(&back, false) {
            Found::Unicast(prefix, route) => {
                let legs = self.legs(route);
                self.steps.push(Step::WayBack { found: text(prefix, route) });
                match ingress.rp_filter {
                    _ if legs.iter().any(|leg| leg.oif == query.iif) => Ok(()),
                    RpFilter::Strict => objection,
                    RpFilter::Loose if !ingress.has_address4 => objection,
                    RpFilter::Loose | RpFilter::Off => Ok(()),
                }
            }
            Found::Own(Route { kind: RouteKind::Local(dev), .. }) if ingress.accept_local => {
                self.steps.push(Step::WayBack { found: "it is one of this machine's own addresses".to_owned() });
                let strict = ingress.rp_filter == RpFilter::Strict;
                let nameless = ingress.rp_filter == RpFilter::Loose && !ingress.has_address4;
                if *dev != Some(query.iif) && (strict || nameless) { objection } else { Ok(()) }
            }
            Found::Own(_) => {
                self.steps.push(Step::WayBack { found: "it is an address of this machine".to_owned() });
                Err(Stop::Punt(PuntReason::SourceLocal))
            }
            Found::Failed(_) => {
                self.steps.push(Step::WayBack { found: "there is none".to_owned() });
                if ingress.rp_filter == RpFilter::Off { Ok(()) } else { objection }
            }
            Found::Unclear(stop) => Err(stop),
        }
    }
}
