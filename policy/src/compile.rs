//! [`Config`] in, [`Policy`] out: the same answers, faster.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::{Config, Conntrack, Field, Hook, Link, RpFilter, Transmit};
use crate::names::{Family, Generation, Ifindex, Mac, PortId};
use crate::netfilter::{Chains, CompiledGuard, Compiler, Masquerade, conntrack_of};
use crate::outcome::PuntReason;
use crate::routes::{CompiledSets, Neighbours};
use crate::rules::Rules;

/// Loopback's number in every network namespace (`LOOPBACK_IFINDEX`).
pub(crate) const LOOPBACK: Ifindex = Ifindex(1);

/// All that decides where packets go, compiled and immutable.
#[derive(Debug)]
pub struct Policy {
    pub(crate) generation: Generation,
    pub(crate) config: Config,
    pub(crate) links: Arc<Links>,
    pub(crate) neighbours: Arc<Neighbours>,
    pub(crate) v4: FamilyPolicy,
    pub(crate) v6: FamilyPolicy,
}

/// How much a policy holds, for `shunt status`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    pub rules: usize,
    pub tables: usize,
    /// Prefixes that have routes.
    pub routes: usize,
    /// Rules of netfilter that are evaluated.
    pub netfilter_rules: usize,
    pub guards: usize,
}

/// Every part is shared with the policy before if what it was made of has not changed.
#[derive(Debug)]
pub(crate) struct FamilyPolicy {
    pub(crate) before: Arc<Vec<CompiledGuard>>,
    pub(crate) chains: Arc<Chains>,
    pub(crate) rules: Arc<Rules>,
    pub(crate) sets: CompiledSets,
    pub(crate) after: Arc<Vec<CompiledGuard>>,
    pub(crate) conntrack: Conntrack,
    /// Rules or guards look at the tuples of connections.
    pub(crate) asks_tuples: bool,
}

/// What a packet meets of its interfaces.
#[derive(Debug, Default)]
pub(crate) struct Links {
    pub(crate) facts: HashMap<Ifindex, LinkFacts, foldhash::fast::RandomState>,
    pub(crate) groups: HashMap<Ifindex, u32, foldhash::fast::RandomState>,
    pub(crate) masquerade: Masquerade,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct LinkFacts {
    forwarding4: bool,
    forwarding6: bool,
    pub(crate) rp_filter: RpFilter,
    pub(crate) src_valid_mark: bool,
    pub(crate) accept_local: bool,
    pub(crate) has_address4: bool,
    redirected4: bool,
    redirected6: bool,
    mtu: u32,
    mtu6: u32,
    pub(crate) takes_redirected: bool,
    pub(crate) egress: Result<(PortId, Mac), PuntReason>,
}

/// Compiles a configuration. It never fails: what cannot be evaluated was made a punt by whoever wrote the [`Config`].
pub fn compile(config: &Config, generation: Generation) -> Policy {
    build(config, generation, None)
}

/// The same, at the cost of what differs from the policy before: a million routes of which one has changed cost one route.
pub fn recompile(config: &Config, generation: Generation, before: &Policy) -> Policy {
    build(config, generation, Some(before))
}

fn build(config: &Config, generation: Generation, before: Option<&Policy>) -> Policy {
    let same = Same::between(config, before);
    let links = reuse(same.links, before, |policy| &policy.links, || Links::compile(&config.links));
    let neighbours = reuse(same.neighbours, before, |policy| &policy.neighbours, || Neighbours::compile(config));
    let family = |family: Family| {
        FamilyPolicy::compile(family, config, &neighbours, &same, before.map(|policy| policy.family(family)))
    };
    Policy { generation, v4: family(Family::V4), v6: family(Family::V6), config: config.clone(), links, neighbours }
}

/// Which parts of a configuration are those of the policy before.
#[derive(Clone, Copy, Default)]
struct Same {
    links: bool,
    neighbours: bool,
    rules: bool,
    nexthops: bool,
    spreading: bool,
    /// The numbers of the tables.
    tables: [bool; 2],
    chains: bool,
    guards: bool,
}

impl Same {
    fn between(config: &Config, before: Option<&Policy>) -> Self {
        let Some(Policy { config: old, .. }) = before else { return Same::default() };
        let tables = |family| Arc::ptr_eq(&config.tables.family(family).numbers, &old.tables.family(family).numbers);
        Same {
            links: Arc::ptr_eq(&config.links, &old.links),
            neighbours: Arc::ptr_eq(&config.neighbours, &old.neighbours),
            rules: Arc::ptr_eq(&config.rules, &old.rules),
            nexthops: Arc::ptr_eq(&config.nexthops, &old.nexthops),
            spreading: config.spreading == old.spreading,
            tables: [tables(Family::V4), tables(Family::V6)],
            chains: Arc::ptr_eq(&config.chains, &old.chains),
            guards: Arc::ptr_eq(&config.guards, &old.guards),
        }
    }
}

fn reuse<B, T>(same: bool, before: Option<&B>, part: impl FnOnce(&B) -> &Arc<T>, make: impl FnOnce() -> T) -> Arc<T> {
    match before {
        Some(before) if same => part(before).clone(),
        _ => Arc::new(make()),
    }
}

impl Policy {
    /// Which publication this is.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// What it was made of.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// So many counters the rules need: all their slots have lower numbers.
    pub fn counter_slots(&self) -> usize {
        self.v4.chains.slots().max(self.v6.chains.slots())
    }

    pub fn summary(&self) -> Summary {
        let Config { rules, tables, chains, guards, .. } = &self.config;
        let netfilter_rules = chains.iter().map(|chain| chain.all_rules().count()).sum();
        Summary {
            rules: rules.len(),
            tables: Family::BOTH.iter().map(|family| tables.sizes(*family).count()).sum(),
            routes: tables.len(),
            netfilter_rules,
            guards: guards.len(),
        }
    }

    /// Something that rules or guards of the family look at and that differs between packets of one flow: from the decision about one of
    /// them nothing follows for the next. `None` if there is nothing of the kind. See [`Field::varies`].
    pub fn varies(&self, family: Family) -> Option<Field> {
        let FamilyPolicy { before, chains, after, .. } = self.family(family);
        chains.varies().or_else(|| before.iter().chain(after.iter()).find_map(CompiledGuard::varies))
    }

    pub(crate) fn family(&self, family: Family) -> &FamilyPolicy {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

impl FamilyPolicy {
    fn compile(
        family: Family,
        config: &Config,
        neighbours: &Neighbours,
        same: &Same,
        before: Option<&FamilyPolicy>,
    ) -> Self {
        let guards = |hook: Hook| {
            let of_hook = config.guards.iter().filter(move |guard| guard.family == family && guard.hook == hook);
            let mut compiler = Compiler::new(family, &config.links);
            of_hook.map(|guard| CompiledGuard::compile(guard, &mut compiler)).collect()
        };
        let same_guards = same.guards && same.links;
        let tables = config.tables.family(family);
        let same_ways = same.links && same.neighbours && same.nexthops && same.spreading;
        let sets_before = before.map(|policy| &policy.sets).filter(|_| same_ways);
        let conntrack = conntrack_of(family, &config.chains, config.conntrack);
        let same_conntrack = before.is_some_and(|policy| policy.conntrack == conntrack);
        let chains = reuse(
            same.chains && same.links && same_conntrack,
            before,
            |policy| &policy.chains,
            || Chains::compile(family, &config.chains, conntrack, &config.links),
        );
        let after = reuse(same_guards, before, |policy| &policy.after, || guards(Hook::Forward));
        FamilyPolicy {
            before: reuse(same_guards, before, |policy| &policy.before, || guards(Hook::Prerouting)),
            conntrack,
            asks_tuples: chains.asks_tuples() || after.iter().any(CompiledGuard::asks_tuples),
            chains,
            rules: reuse(
                same.rules && same.links && same.tables[family as usize],
                before,
                |policy| &policy.rules,
                || Rules::compile(family, &config.rules, &tables.numbers, &config.links),
            ),
            sets: CompiledSets::compile(family, config, neighbours, sets_before),
            after,
        }
    }
}

impl Links {
    fn compile(links: &[Link]) -> Self {
        Links {
            facts: links.iter().map(|link| (link.ifindex, LinkFacts::of(link))).collect(),
            groups: links.iter().map(|link| (link.ifindex, link.group)).collect(),
            masquerade: Masquerade::compile(links),
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
            rp_filter: link.rp_filter,
            src_valid_mark: link.src_valid_mark,
            accept_local: link.accept_local,
            has_address4: link.has_address4,
            redirected4: link.redirected4,
            redirected6: link.redirected6,
            mtu: link.mtu,
            mtu6: link.mtu6,
            takes_redirected: link.takes_redirected,
            egress,
        }
    }

    pub(crate) fn forwards(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.forwarding4,
            Family::V6 => self.forwarding6,
        }
    }

    pub(crate) fn is_redirected(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.redirected4,
            Family::V6 => self.redirected6,
        }
    }

    pub(crate) fn mtu(&self, family: Family) -> u32 {
        match family {
            Family::V4 => self.mtu,
            Family::V6 => self.mtu6,
        }
    }
}
