//! Netfilter: the chains that a forwarded packet passes, in the kernel's order, and guards for what is not evaluated.

mod conntrack;
mod counters;
mod guards;
mod ipset;
mod nft;
mod xt;

use std::collections::HashSet;

use shunt_policy::config::{
    Action, BaseChain, ChainPolicy, ChainRule, Conntrack, Hook, Match, NatTo, Origin, Set, Source, Step, Test, Verdict,
};
use shunt_policy::{Family, PuntReason};

use super::{Item, Part, Standing};
use crate::mirror::netfilter::Netfilter;
pub use counters::{Counters, RuleKey, Twins, keyed};

/// `NF_IP_PRI_NAT_DST`, `NF_IP_PRI_NAT_SRC`
const NAT_DST: i32 = -100;
const NAT_SRC: i32 = 100;

/// A base chain of one of the dialects.
pub(super) struct Lowered {
    /// With the user chains that it leads to, and no others.
    pub(super) chain: BaseChain,
    /// In which table of which dialect: chains of one table run in the order in which they are listed.
    pub(super) table: String,
}

/// What is evaluated.
pub(super) struct Evaluated {
    pub(super) chains: Vec<BaseChain>,
    /// By family.
    pub(super) conntrack: [Conntrack; 2],
}

/// What is evaluated; all else becomes guards.
pub(super) fn translate(netfilter: &Netfilter, counters: &mut Counters, part: &mut Part) -> Evaluated {
    let conntrack = conntrack::conntrack(netfilter);
    let nft::Native { chains: native, unevaluated } = nft::chains(&netfilter.nft);
    let mut sets = ipset::Sets::new(netfilter);
    let saved = netfilter.saved.iter().flat_map(|dialect| xt::chains(dialect, &mut sets));
    let mut all: Vec<Lowered> = saved.chain(native).collect();
    // A chain without rules that accepts says nothing, wherever it stands.
    all.retain(|Lowered { chain, .. }| !chain.rules.is_empty() || chain.policy == ChainPolicy::Drop);
    all.sort_by_key(|Lowered { chain, .. }| place(chain));
    unevaluated.iter().for_each(|left| guards::unevaluated(left, part));
    set_order(&mut all);
    let mut reported = HashSet::new();
    for Lowered { chain, .. } in &mut all {
        counters.assign(chain);
        guards::connections(chain, conntrack[chain.family as usize] == Conntrack::Translates, part);
        report(chain, &mut reported, part);
    }
    counters.sweep();
    Evaluated { chains: all.into_iter().map(|lowered| lowered.chain).collect(), conntrack }
}

/// Which of two chains of one priority the kernel asks first depends on which was registered first, and that shows within a table
/// only, by the order in which it lists them: the younger one runs first (`nf_hook_entries_grow`).
fn set_order(all: &mut [Lowered]) {
    let same = |a: &Lowered, b: &Lowered| place(&a.chain) == place(&b.chain);
    for group in all.chunk_by_mut(same) {
        let one_table = group.windows(2).all(|pair| pair[0].table == pair[1].table);
        if one_table {
            group.reverse();
        }
        for lowered in group.iter_mut().skip(1) {
            lowered.chain.unordered = !one_table;
        }
    }
    // Nat hangs on the hook since the first of its chains was there, which may be one of another hook.
    for at in 1..all.len() {
        let (before, one) = (&all[at - 1].chain, &all[at].chain);
        let (family, hook, priority, nat, _) = place(one);
        if nat && !before.nat && (before.family, before.hook, before.priority) == (family, hook, priority) {
            all[at].chain.unordered = true;
        }
    }
}

/// Where the kernel runs a chain. Those of type nat are called by a hook of nat's own, in the order of their priorities
/// (`nf_nat_ipv4_ops`).
fn place(chain: &BaseChain) -> (Family, Hook, i32, bool, i32) {
    let BaseChain { family, hook, priority, nat, .. } = *chain;
    let on_hook = match hook {
        _ if !nat => priority,
        Hook::Prerouting => NAT_DST,
        Hook::Forward | Hook::Postrouting => NAT_SRC,
    };
    (family, hook, on_hook, nat, priority)
}

/// What becomes of each rule, for `shunt check`. `reported` holds what was said before: a chain of family inet stands here twice, and a
/// user chain as often as there are ways to it.
fn report(chain: &BaseChain, reported: &mut HashSet<(Origin, Standing)>, part: &mut Part) {
    if chain.policy == ChainPolicy::Drop {
        part.report.push(Item::exact(Origin::new(source(chain), format!("{} policy drop", chain.name))));
    }
    for rule in chain.all_rules() {
        let item = match left_to_kernel(rule, chain.hook) {
            None => Item::exact(rule.origin.clone()),
            Some((reason, what)) => {
                let why = format!("packets that come to it are the kernel's; not mirrored: {what}");
                Item { origin: rule.origin.clone(), standing: Standing::Punted(reason), why }
            }
        };
        if reported.insert((item.origin.clone(), item.standing)) {
            part.report.push(item);
        }
    }
}

fn source(chain: &BaseChain) -> Source {
    chain.rules.first().map_or(Source::Nftables, |rule| rule.origin.source)
}

/// The chains to which a step leads.
fn targets(step: &Step) -> Vec<&String> {
    let of = |verdict| match verdict {
        &Verdict::Jump(ref name) | &Verdict::Goto(ref name) => Some(name),
        _ => None,
    };
    match step {
        Step::Verdict(verdict) => of(verdict).into_iter().collect(),
        Step::VerdictOf { map, .. } => map.elements.iter().filter_map(|element| of(&element.data)).collect(),
        _ => Vec::new(),
    }
}

/// Why packets may be punted that come to this rule, and by what.
fn left_to_kernel(rule: &ChainRule, hook: Hook) -> Option<(PuntReason, String)> {
    let opaque = PuntReason::opaque_at(hook);
    rule.steps.iter().find_map(|step| match step {
        Step::Match(Match { test: Test::Opaque(what), .. }) | Step::Do(Action::Opaque(what)) => {
            Some((opaque, what.clone()))
        }
        Step::Match(Match { test: Test::Connection(what), .. }) | Step::Do(Action::Connection(what)) => {
            Some((PuntReason::Conntrack, what.clone()))
        }
        Step::Match(Match { test: Test::In { set, .. }, .. }) => uncertain(set).map(|what| (opaque, what)),
        Step::Do(Action::MarkOf { map, .. }) => uncertain(map).map(|what| (opaque, what)),
        Step::VerdictOf { map, .. } => match uncertain(map) {
            Some(what) => Some((opaque, what)),
            None => map.elements.iter().any(|element| redirects(&element.data)).then(redirected),
        },
        Step::Verdict(Verdict::Opaque(what)) => Some((opaque, what.clone())),
        Step::Verdict(verdict) if redirects(verdict) => Some(redirected()),
        Step::Verdict(Verdict::Reject) => Some((PuntReason::Reject, "the kernel answers what is rejected".to_owned())),
        _ => None,
    })
}

fn redirects(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Nat(nat) if nat.to == NatTo::Redirect)
}

fn redirected() -> (PuntReason, String) {
    (PuntReason::Local, "what it redirects ends at this machine".to_owned())
}

fn uncertain<T>(set: &Set<T>) -> Option<String> {
    match &set.opaque {
        Some(why) => Some(format!("{}: {why}", set.name)),
        None => {
            let uncertain = set.elements.iter().filter(|element| element.uncertain).count();
            (uncertain > 0).then(|| format!("{uncertain} elements of {} that may end or that count", set.name))
        }
    }
}

#[cfg(test)]
mod tests;
