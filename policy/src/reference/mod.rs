//! The slow, literal interpreter of [`Config`]: walks the lists as the operator wrote them and says what it sees.
//!
//! It shares no code with [`compile`](crate::compile) beyond the small vocabulary of [`config`](crate::config) and the hash of
//! multipath routes: the property tests hold the two against each other, and `shunt explain` prints its [`Trace`].

mod routing;

use std::fmt;
use std::net::IpAddr;

use crate::classify::DEEPEST_JUMP;
use crate::config::{
    BaseChain, ChainPolicy, ChainRule, Config, Guard, Hook, Leg, Link, Match, Origin, PortRange, RuleAction, Target,
    Test, Transmit,
};
use crate::names::{Family, Ifindex, Mac, Mark, TableId};
use crate::neighbour::NeighbourSlot;
use crate::outcome::{DropReason, Egress, PuntReason, Stop};
use crate::query::{Query, Transport};

/// What was asked on the way, and how it ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trace {
    pub steps: Vec<Step>,
    /// The mark behind PREROUTING; as it arrived if the packet did not get there.
    pub mark: Mark,
    pub end: Result<Egress, Stop>,
}

/// One thing that had a say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// A netfilter rule matched and left this mark.
    Matched { rule: Origin, before: Mark, after: Mark },
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
            Step::Matched { rule, before, after } if before == after => write!(f, "{rule} (mark stays {after})"),
            Step::Matched { rule, before, after } => write!(f, "{rule} (mark {before} -> {after})"),
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

/// Follows one packet through a configuration.
pub fn trace(config: &Config, query: &Query) -> Trace {
    let mut walk = Walk { config, family: query.family(), steps: Vec::new(), mark: query.mark };
    let end = walk.follow(query);
    Trace { steps: walk.steps, mark: walk.mark, end }
}

struct Walk<'a> {
    config: &'a Config,
    family: Family,
    steps: Vec<Step>,
    mark: Mark,
}

/// How a chain ended.
enum Verdict {
    Accept,
    Return,
}

impl<'a> Walk<'a> {
    fn follow(&mut self, query: &Query) -> Result<Egress, Stop> {
        let ingress = self.link(query.iif).ok_or(Stop::Punt(PuntReason::UnknownIngress))?;
        self.guards(Hook::Prerouting, query, None)?;
        let (config, family) = (self.config, self.family);
        for chain in config.mangle.iter().filter(|chain| chain.family == family) {
            self.base_chain(chain, query)?;
        }
        let query = &Query { mark: self.mark, ..*query };
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
        if leg.oif == query.iif {
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
        if query.length > link_mtu || mtu.is_some_and(|mtu| query.length > mtu) {
            return Err(Stop::Punt(PuntReason::Oversize));
        }
        self.guards(Hook::Forward, query, Some(leg.oif))?;
        self.send(query, leg, egress)
    }

    fn link(&self, ifindex: Ifindex) -> Option<&'a Link> {
        self.config.links.iter().find(|link| link.ifindex == ifindex)
    }

    fn link_name(&self, ifindex: Ifindex) -> String {
        self.link(ifindex).map_or_else(|| format!("if{}", ifindex.0), |link| link.name.clone())
    }

    fn guards(&mut self, hook: Hook, query: &Query, oif: Option<Ifindex>) -> Result<(), Stop> {
        let (config, family) = (self.config, self.family);
        for guard in config.guards.iter().filter(|guard| guard.family == family && guard.hook == hook) {
            let Guard { matches, reason, origin, .. } = guard;
            let excluded = matches.iter().any(|one| self.holds(one, query, oif) == Some(false));
            if !excluded {
                self.steps.push(Step::MightMatch { rule: origin.clone() });
                return Err(Stop::Punt(*reason));
            }
        }
        Ok(())
    }

    fn base_chain(&mut self, chain: &'a BaseChain, query: &Query) -> Result<(), Stop> {
        match self.chain(chain, &chain.rules, query, 0)? {
            Verdict::Accept => Ok(()),
            Verdict::Return if chain.policy == ChainPolicy::Accept => Ok(()),
            Verdict::Return => {
                self.steps.push(Step::ChainPolicy { chain: chain.name.clone(), policy: chain.policy });
                Err(Stop::Drop(DropReason::MangleDrop))
            }
        }
    }

    fn chain(
        &mut self,
        base: &'a BaseChain,
        rules: &'a [ChainRule],
        query: &Query,
        depth: usize,
    ) -> Result<Verdict, Stop> {
        for rule in rules {
            let answers: Vec<_> = rule.matches.iter().map(|one| self.holds(one, query, None)).collect();
            if answers.contains(&Some(false)) {
                continue;
            }
            if answers.contains(&None) {
                self.steps.push(Step::MightMatch { rule: rule.origin.clone() });
                return Err(Stop::Punt(PuntReason::OpaqueMangle));
            }
            let before = self.mark;
            if let Target::Mark { clear, flip } = rule.target {
                self.mark = Mark((before.0 & !clear) ^ flip);
            }
            self.steps.push(Step::Matched { rule: rule.origin.clone(), before, after: self.mark });
            match &rule.target {
                Target::Mark { .. } | Target::Continue => {}
                Target::Accept => return Ok(Verdict::Accept),
                Target::Drop => return Err(Stop::Drop(DropReason::MangleDrop)),
                Target::Return => return Ok(Verdict::Return),
                Target::Opaque(_) => return Err(Stop::Punt(PuntReason::OpaqueMangle)),
                Target::Jump(name) | Target::Goto(name) => {
                    let user = base.user.iter().rfind(|user| user.name == *name);
                    let user = user.filter(|_| depth < DEEPEST_JUMP).ok_or(Stop::Punt(PuntReason::OpaqueMangle))?;
                    let verdict = self.chain(base, &user.rules, query, depth + 1)?;
                    if matches!(verdict, Verdict::Accept) || matches!(rule.target, Target::Goto(_)) {
                        return Ok(verdict);
                    }
                }
            }
        }
        Ok(Verdict::Return)
    }

    /// Whether one match holds; `None` if we cannot know.
    fn holds(&self, one: &Match, query: &Query, oif: Option<Ifindex>) -> Option<bool> {
        let named = |ifindex: Option<Ifindex>, pattern: &crate::config::InterfacePattern| {
            ifindex.and_then(|ifindex| self.link(ifindex)).is_some_and(|link| pattern.matches(&link.name))
        };
        let ports = match query.transport {
            Transport::Ports { source, destination } => Some((source, destination)),
            _ => None,
        };
        let any = |ranges: &[PortRange], port: Option<u16>| {
            port.is_some_and(|port| ranges.iter().any(|range| range.contains(port)))
        };
        let answer = match &one.test {
            Test::In(pattern) => named(Some(query.iif), pattern),
            Test::Out(pattern) => named(oif, pattern),
            Test::Source(prefix) => prefix.contains(query.source),
            Test::Destination(prefix) => prefix.contains(query.destination),
            Test::Protocol(protocol) => query.protocol == *protocol,
            Test::SourcePort(ranges) => any(ranges, ports.map(|ports| ports.0)),
            Test::DestinationPort(ranges) => any(ranges, ports.map(|ports| ports.1)),
            Test::EitherPort(ranges) => {
                any(ranges, ports.map(|ports| ports.0)) || any(ranges, ports.map(|ports| ports.1))
            }
            Test::Tos { value, mask } => query.tos & mask == *value,
            Test::CodePoint(point) => query.tos >> 2 == *point,
            // Not MarkMatch::matches: xt_mark compares the whole value, so bits outside the mask never match.
            Test::Mark(wanted) => self.mark.0 & wanted.mask == wanted.value,
            Test::Icmp { kind, codes } => match query.transport {
                Transport::Icmp { kind: seen, code } => seen == *kind && (codes.0..=codes.1).contains(&code),
                _ => false,
            },
            Test::Opaque(_) => return None,
        };
        Some(answer != one.not)
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
        Ok(Egress { port, oif: leg.oif, source, destination, mark: self.mark, neighbour })
    }
}
