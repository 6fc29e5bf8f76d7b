//! Native tables of nftables: from nft's words to the common form, with the kernel's meaning (`net/netfilter/nft_*.c`).
//!
//! nft does not print what a rule asks first because of what it asks then (`tcp dport 22`: is it TCP?), so that is added again here.
//! A field that a packet does not have ends the rule, whatever the relation (`NFT_BREAK`).

mod looked;
mod lowering;
mod matching;
mod nat;
mod sets;
mod value;

use shunt_policy::Family;
use shunt_policy::config::{BaseChain, ChainPolicy, ChainRule, CounterSlot, Hook, Origin, Source, UserChain};

use super::targets;
use crate::mirror::netfilter::nft::{self, Rule, Ruleset, TableFamily};
use lowering::Lowering;
use sets::Sets;

/// A ruleset in the common form.
pub(super) struct Native {
    pub(super) chains: Vec<super::Lowered>,
    pub(super) unevaluated: Vec<Unevaluated>,
}

/// Something that packets could pass and that is not in the common form.
pub(super) struct Unevaluated {
    pub(super) families: Vec<Family>,
    /// At these interfaces; empty is "at any".
    pub(super) devices: Vec<String>,
    pub(super) direction: Direction,
    pub(super) place: Origin,
    /// Its rules, or what else it consists of.
    pub(super) parts: Vec<Origin>,
    /// For the operator.
    pub(super) why: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Direction {
    /// Asks packets that come in there.
    In,
    /// Asks packets that leave there.
    Out,
}

pub(super) fn chains(ruleset: &Ruleset) -> Native {
    let mut native = Native { chains: Vec::new(), unevaluated: Vec::new() };
    for table in &ruleset.tables {
        let families: &[Family] = match table.family {
            TableFamily::Ip => &[Family::V4],
            TableFamily::Ip6 => &[Family::V6],
            TableFamily::Inet | TableFamily::Netdev => &Family::BOTH,
            // Routed packets pass neither.
            TableFamily::Bridge | TableFamily::Arp => continue,
        };
        for object in &table.unknown {
            native.leave(families, table, object, &[], Direction::In, "what it does is not known");
        }
        for flowtable in &table.flowtables {
            let text = format!("flowtable {}", flowtable.name);
            native.leave(families, table, &text, &flowtable.devices, Direction::In, "a flowtable forwards by itself");
        }
        for family in families {
            let mut sets = Sets::new(table, &ruleset.names);
            for chain in &table.chains {
                let Some(base) = &chain.base else { continue };
                let Some(hook) = evaluated(base) else { continue };
                let chain = base_chain(*family, hook, table, chain, base, &mut sets);
                let table = format!("nftables {table}");
                native.chains.push(super::Lowered { chain, table });
            }
        }
        for chain in &table.chains {
            let Some(base) = &chain.base else { continue };
            let (direction, why) = match &base.hook {
                _ if evaluated(base).is_some() => continue,
                // Forwarded packets do not pass them.
                nft::Hook::Input | nft::Hook::Output => continue,
                nft::Hook::Egress => (Direction::Out, "chains at the egress of a device are not mirrored"),
                nft::Hook::Ingress => (Direction::In, "chains at the ingress of a device are not mirrored"),
                _ => (Direction::In, "a hook or a type of chain that is not known"),
            };
            if chain.rules.is_empty() && !base.drops {
                continue;
            }
            native.leave(families, table, &format!("chain {}", chain.name), &base.devices, direction, why);
            if let Some(left) = native.unevaluated.last_mut() {
                let place = &left.place.text;
                left.parts = chain.rules.iter().map(|rule| origin(place, rule)).collect();
                if base.drops {
                    left.parts.push(Origin::new(Source::Nftables, format!("{place} policy drop")));
                }
            }
        }
    }
    native
}

impl Native {
    fn leave(
        &mut self,
        families: &[Family],
        table: &nft::Table,
        what: &str,
        devices: &[String],
        direction: Direction,
        why: &'static str,
    ) {
        let place = Origin::new(Source::Nftables, format!("{table} {what}"));
        let (families, devices) = (families.to_vec(), devices.to_vec());
        self.unevaluated.push(Unevaluated { families, devices, direction, parts: vec![place.clone()], place, why });
    }
}

/// The chain, and the user chains that it leads to.
fn base_chain(
    family: Family,
    hook: Hook,
    table: &nft::Table,
    chain: &nft::Chain,
    base: &nft::Base,
    sets: &mut Sets<'_>,
) -> BaseChain {
    let nat = base.kind == "nat";
    let mut lower = |chain: &nft::Chain| -> Vec<ChainRule> {
        let place = format!("{table} chain {}", chain.name);
        let rules = chain.rules.iter().map(|rule| ChainRule {
            steps: Lowering::of(family, hook, nat, sets).rule(rule),
            counter: CounterSlot::default(),
            origin: origin(&place, rule),
        });
        rules.collect()
    };
    let rules = lower(chain);
    let mut user: Vec<UserChain> = Vec::new();
    let mut open = leads_to(&rules);
    while let Some(name) = open.pop() {
        if user.iter().any(|chain| chain.name == name) {
            continue;
        }
        let Some(chain) = table.chain(&name) else { continue };
        let rules = lower(chain);
        open.extend(leads_to(&rules));
        user.push(UserChain { name, rules });
    }
    let policy = if base.drops { ChainPolicy::Drop } else { ChainPolicy::Accept };
    let name = format!("{table} chain {}", chain.name);
    let priority = base.priority;
    BaseChain { family, hook, priority, unordered: false, name, nat, rules, policy, user }
}

fn leads_to(rules: &[ChainRule]) -> Vec<String> {
    rules.iter().flat_map(|rule| &rule.steps).flat_map(targets).cloned().collect()
}

fn origin(place: &str, rule: &Rule) -> Origin {
    Origin::new(Source::Nftables, format!("{place}: {rule}"))
}

/// Where it stands in the way of forwarded packets. `None` if it does not, or if we do not know what it does there.
fn evaluated(base: &nft::Base) -> Option<Hook> {
    let known = base.kind == "filter" || base.kind == "nat";
    match base.hook {
        nft::Hook::Prerouting if known => Some(Hook::Prerouting),
        nft::Hook::Forward if known => Some(Hook::Forward),
        nft::Hook::Postrouting if known => Some(Hook::Postrouting),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
