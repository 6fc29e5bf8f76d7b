//! The `ip rule` walk: which table is asked, in which order, and how it ends.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::ops::Range;

use crate::compile::LOOPBACK;
use crate::config::{
    DscpMatch, FlowLabelMatch, Link, MarkMatch, PortMatch, Rule, RuleAction, RuleSelector, Spreading, Suppress, Value,
};
use crate::index::{Candidates, Demand, Index};
use crate::multipath;
use crate::names::{Dscp, Family, Ifindex, Prefix, TableId};
use crate::outcome::{DropReason, PuntReason, Stop};
use crate::query::Query;
use crate::routes::{CompiledSets, Fate, Hop, WayId};
use crate::tables::FamilyTables;

/// So many rules are walked one by one.
const SHORT: usize = 6;

/// One family's rules.
#[derive(Debug)]
pub(crate) struct Rules {
    family: Family,
    rules: Vec<CompiledRule>,
    /// Of many rules only.
    index: Option<Index<Asked>>,
    /// A rule looks at protocol or ports (`fib_rules_early_flow_dissect`).
    pub(crate) dissects: bool,
}

/// How a walk ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    Onward(WayId),
    /// A local, broadcast or such route, and its interface.
    Own(Stop, Option<Ifindex>),
    /// The kernel's look-up fails, too.
    Failed(Stop),
    /// We cannot say.
    Unclear(Stop),
}

/// What a walk looks into.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ground<'a> {
    pub(crate) rules: &'a Rules,
    pub(crate) tables: &'a FamilyTables,
    pub(crate) sets: &'a CompiledSets,
    pub(crate) spreading: &'a Spreading,
    /// Group of each interface, for `suppress_ifgroup`.
    pub(crate) groups: &'a HashMap<Ifindex, u32, foldhash::fast::RandomState>,
}

#[derive(Debug)]
struct CompiledRule {
    not: bool,
    from: Option<Prefix>,
    to: Option<Prefix>,
    iif: IifSelector,
    fwmark: Option<MarkMatch>,
    tos: Option<Dscp>,
    dscp: Option<DscpMatch>,
    protocol: Option<u8>,
    source_port: Option<PortMatch>,
    destination_port: Option<PortMatch>,
    flow_label: Option<FlowLabelMatch>,
    /// A selector that no packet which is to be forwarded meets.
    never: bool,
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
    /// Number of the table.
    Lookup(usize, Suppress),
    /// Place of the rule to go on with.
    Goto(u32),
    Next,
    Failed(Stop),
    Opaque,
}

impl Rules {
    /// `tables` numbers those that exist; a rule that looks up another finds nothing.
    pub(crate) fn compile(family: Family, rules: &[Rule], tables: &BTreeMap<TableId, usize>, links: &[Link]) -> Self {
        let rules: Vec<&Rule> = rules.iter().filter(|rule| rule.family == family).collect();
        let interfaces: HashMap<&str, Ifindex> = links.iter().map(|link| (link.name.as_str(), link.ifindex)).collect();
        let action = |(at, rule): (usize, &&Rule)| match &rule.action {
            RuleAction::Lookup(table, suppress) => match tables.get(table) {
                Some(number) => Action::Lookup(*number, *suppress),
                None => Action::Next,
            },
            // The first of that priority (`fib_nl_newrule`); the kernel allows only what lies ahead.
            RuleAction::Goto(priority) => match rules.iter().position(|rule| rule.priority == *priority) {
                Some(target) if target > at => Action::Goto(target as u32),
                _ => Action::Next,
            },
            RuleAction::Nop => Action::Next,
            RuleAction::Blackhole => Action::Failed(Stop::Drop(DropReason::BlackholeRule)),
            RuleAction::Unreachable => Action::Failed(Stop::Punt(PuntReason::UnreachableRule)),
            RuleAction::Prohibit => Action::Failed(Stop::Punt(PuntReason::ProhibitRule)),
            RuleAction::Opaque(_) => Action::Opaque,
        };
        let actions: Vec<Action> = rules.iter().enumerate().map(action).collect();
        let compiled = rules.iter().zip(actions);
        let compiled: Vec<_> =
            compiled.map(|(rule, action)| CompiledRule::compile(rule, action, &interfaces)).collect();
        // `fib_rule_requires_fldissect`: rules of the machine's own traffic do not count.
        let dissects = rules.iter().any(|rule| {
            let RuleSelector { iif, protocol, source_port, destination_port, .. } = &rule.selector;
            iif.as_deref() != Some("lo") && (protocol.is_some() || source_port.is_some() || destination_port.is_some())
        });
        let index = (compiled.len() > SHORT).then(|| {
            let demands = |(at, rule): (u32, &CompiledRule)| Some((at, rule.demands()?));
            let demands: Vec<_> = (0..).zip(&compiled).filter_map(demands).collect();
            Index::build([&demands])
        });
        Rules { family, rules: compiled, index, dissects }
    }

    /// The rules that a packet can meet, from the place `from` on.
    fn candidates(&self, from: u32, query: &Query, tos: Dscp) -> Option<Candidates<'_>> {
        let index = self.index.as_ref()?;
        let mut candidates = index.candidates();
        let (source_port, destination_port) = query.dissected_ports();
        let number = |address: IpAddr| match address {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        };
        let value = |asked| {
            Some(match asked {
                Asked::From => number(query.source),
                Asked::To => number(query.destination),
                Asked::Iif => query.iif.0.into(),
                Asked::Fwmark => query.mark.0.into(),
                Asked::Tos => tos.bits().into(),
                Asked::Dscp => query.tos.into(),
                Asked::Protocol => query.protocol.into(),
                Asked::SourcePort => source_port.into(),
                Asked::DestinationPort => destination_port.into(),
                Asked::FlowLabel => query.flow_label.into(),
            })
        };
        index.gather(0, from, value, &mut candidates).ok().map(|()| candidates)
    }
}

/// What rules can be found by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Asked {
    From,
    To,
    Iif,
    Fwmark,
    Tos,
    Dscp,
    Protocol,
    SourcePort,
    DestinationPort,
    FlowLabel,
}

/// The places of the rules whose turn it is, in rising order.
struct Turns<'a> {
    candidates: Option<Candidates<'a>>,
    /// Without candidates it is everybody's.
    all: Range<u32>,
}

impl Turns<'_> {
    fn next(&mut self) -> Option<u32> {
        match &mut self.candidates {
            Some(candidates) => candidates.next(),
            None => self.all.next(),
        }
    }
}

impl Ground<'_> {
    /// `fib_rules_lookup`.
    pub(crate) fn walk(&self, query: &Query, destination: u128) -> Answer {
        let Rules { family, rules, .. } = self.rules;
        let tos = matching_tos(*family, query.tos);
        let turns =
            |from: u32| Turns { candidates: self.rules.candidates(from, query, tos), all: from..rules.len() as u32 };
        let mut turn = turns(0);
        while let Some(at) = turn.next() {
            let rule = &rules[at as usize];
            match (rule.known_selectors_match(query, tos), rule.opaque) {
                (true, true) => return Answer::Unclear(Stop::Punt(PuntReason::OpaqueRule)),
                // `not` inverts the whole (`fib_rule_match`).
                (known, _) if known == rule.not => continue,
                _ => {}
            }
            let (table, suppress) = match rule.action {
                Action::Lookup(table, suppress) => (self.tables.fib(table), suppress),
                Action::Goto(target) => {
                    turn = turns(target);
                    continue;
                }
                Action::Next => continue,
                Action::Failed(stop) => return Answer::Failed(stop),
                Action::Opaque => return Answer::Unclear(Stop::Punt(PuntReason::OpaqueRule)),
            };
            let found = table.lookup(destination, |length, set| {
                let found = self.sets.set(set).iter().find(|candidate| candidate.suits(tos, query.iif))?;
                Some((length, found.fate))
            });
            let Some((length, fate)) = found else { continue };
            let suppressed = |oif: Option<Ifindex>| {
                suppress.prefix_length.is_some_and(|limit| length <= limit)
                    || (suppress.group.is_some()
                        && oif.is_some_and(|oif| self.groups.get(&oif).copied() == suppress.group))
            };
            match fate {
                Fate::Onward(way) => {
                    // Only a rule with a suppressor looks at the way's legs here.
                    if suppress != Suppress::default() {
                        match self.egress_of(way, query) {
                            Ok(oif) if suppressed(Some(oif)) => continue,
                            Ok(_) => {}
                            Err(stop) => return Answer::Unclear(stop),
                        }
                    }
                    return Answer::Onward(way);
                }
                // IPv6 keeps local routes on loopback.
                Fate::Own(..) if suppressed(Some(LOOPBACK)) && *family == Family::V6 => continue,
                Fate::Own(_, oif) if suppressed(oif) && *family == Family::V4 => continue,
                Fate::Own(stop, oif) => return Answer::Own(stop, oif),
                Fate::Stop(stop @ Stop::Punt(PuntReason::OpaqueRoute)) => return Answer::Unclear(stop),
                Fate::Stop(stop) => return Answer::Failed(stop),
                Fate::Throw => continue,
            }
        }
        Answer::Failed(Stop::Punt(PuntReason::NoRoute))
    }

    /// The interface that `suppress_ifgroup` looks at: IPv4 that of the first leg (`fib4_rule_suppress`), IPv6 that of the leg
    /// which the packet takes (`fib6_rule_suppress`).
    fn egress_of(&self, way: WayId, query: &Query) -> Result<Ifindex, Stop> {
        match self.rules.family {
            Family::V4 => Ok(self.sets.way(way).first_oif()),
            Family::V6 => Ok(self.leg(way, query)?.oif),
        }
    }

    /// The leg that the packet takes.
    pub(crate) fn leg(&self, way: WayId, query: &Query) -> Result<&Hop, Stop> {
        self.sets.way(way).leg(|| multipath::hash(query, self.spreading, self.rules.dissects))
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

impl CompiledRule {
    fn compile(rule: &Rule, action: Action, interfaces: &HashMap<&str, Ifindex>) -> Self {
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
        let iif = match iif {
            None => IifSelector::Any,
            Some(name) => {
                interfaces.get(name.as_str()).map_or(IifSelector::Detached, |ifindex| IifSelector::Is(*ifindex))
            }
        };
        // Forwarded packets are looked up without egress, as user 0, and ours came out of no tunnel and no VRF.
        let never = oif.is_some() || *l3mdev || tunnel.is_some() || uid_range.is_some_and(|(first, _)| first > 0);
        CompiledRule {
            not: *not,
            from: *from,
            to: *to,
            iif,
            fwmark: *fwmark,
            tos: *tos,
            dscp: *dscp,
            protocol: *protocol,
            source_port: *source_port,
            destination_port: *destination_port,
            flow_label: *flow_label,
            never,
            opaque: opaque.is_some(),
            action,
        }
    }

    /// What a packet must have to meet the rule; `None` if none does.
    fn demands(&self) -> Option<Vec<Demand<Asked>>> {
        if self.not {
            // It meets all but a few.
            return Some(Vec::new());
        }
        if self.never || matches!(self.iif, IifSelector::Detached) {
            return None;
        }
        let masked = |asked, value: u128, mask: u128| Demand::new(asked, mask, [(value & mask, value & mask)]);
        let prefix = |asked, prefix: Prefix| {
            let Value::Range { first, last } = Value::prefix(prefix) else { return None };
            Demand::new(asked, u128::MAX >> (128 - prefix.family().bits()), [(first, last)])
        };
        let port = |asked, port: PortMatch| match port {
            PortMatch::Range(range) => Demand::new(asked, u16::MAX.into(), [(range.first.into(), range.last.into())]),
            PortMatch::Masked { value, mask } => masked(asked, value.into(), mask.into()),
        };
        let iif = match self.iif {
            IifSelector::Is(iif) => masked(Asked::Iif, iif.0.into(), u32::MAX.into()),
            IifSelector::Any | IifSelector::Detached => None,
        };
        let demands = [
            self.from.and_then(|from| prefix(Asked::From, from)),
            self.to.and_then(|to| prefix(Asked::To, to)),
            iif,
            self.fwmark.and_then(|fwmark| masked(Asked::Fwmark, fwmark.value.into(), fwmark.mask.into())),
            self.tos.and_then(|tos| masked(Asked::Tos, tos.bits().into(), u8::MAX.into())),
            self.dscp.and_then(|dscp| masked(Asked::Dscp, dscp.value.bits().into(), dscp.mask.bits().into())),
            self.protocol.and_then(|protocol| masked(Asked::Protocol, protocol.into(), u8::MAX.into())),
            self.source_port.and_then(|one| port(Asked::SourcePort, one)),
            self.destination_port.and_then(|one| port(Asked::DestinationPort, one)),
            self.flow_label.and_then(|label| masked(Asked::FlowLabel, label.value.into(), label.mask.into())),
        ];
        Some(demands.into_iter().flatten().collect())
    }

    fn known_selectors_match(&self, query: &Query, tos: Dscp) -> bool {
        let iif = match self.iif {
            IifSelector::Any => true,
            IifSelector::Is(iif) => iif == query.iif,
            IifSelector::Detached => false,
        };
        let (source_port, destination_port) = query.dissected_ports();
        iif && !self.never
            && self.fwmark.is_none_or(|fwmark| fwmark.matches(query.mark))
            && self.tos.is_none_or(|wanted| wanted == tos)
            && self.dscp.is_none_or(|dscp| dscp.matches(query.tos))
            && self.from.is_none_or(|from| from.contains(query.source))
            && self.to.is_none_or(|to| to.contains(query.destination))
            && self.protocol.is_none_or(|protocol| protocol == query.protocol)
            && self.source_port.is_none_or(|port| port.matches(source_port))
            && self.destination_port.is_none_or(|port| port.matches(destination_port))
            && self.flow_label.is_none_or(|label| label.matches(query.flow_label))
    }
}
