//! Netfilter: mangle PREROUTING is evaluated, everything else that a forwarded packet passes is guarded.

use shunt_policy::config::{
    BaseChain, ChainPolicy, ChainRule, Guard, Hook, Match, Origin, Source, Target, Test, UserChain,
};
use shunt_policy::{Family, PuntReason};

use super::{Item, Part};
use crate::mirror::netfilter::save::{Chain, Table};
use crate::mirror::netfilter::{Base, Dialect, Netfilter, NftHook};

/// The chains that set the mark; all else becomes guards.
pub(super) fn translate(netfilter: &Netfilter, part: &mut Part) -> Vec<BaseChain> {
    let mut mangle = Vec::new();
    for family in Family::BOTH {
        let dialects: Vec<_> = netfilter.saved.iter().filter(|dialect| dialect.family == family).collect();
        mangle.extend(mangle_prerouting(family, &dialects, part));
        for dialect in dialects {
            other_chains(dialect, part);
        }
        if netfilter.translated.contains(&family) {
            let origin = Origin::new(Source::Nftables, format!("{family} connections that conntrack still translates"));
            part.guard_all(family, PuntReason::Nat, &origin);
            let why = "their rule is gone, they go on: conntrack -L lists them, conntrack -D ends them";
            part.report.push(Item::punted(origin, PuntReason::Nat, why));
        }
    }
    netfilter.nft.iter().for_each(|base| native(base, part));
    mangle
}

/// The chains that set the mark before routing.
fn mangle_prerouting(family: Family, dialects: &[&Dialect], part: &mut Part) -> Option<BaseChain> {
    let chains = dialects.iter().filter_map(|dialect| {
        let table = dialect.saved.table("mangle")?;
        Some((dialect.source, table, table.chain("PREROUTING")?))
    });
    // A chain without rules that accepts says nothing, wherever it stands.
    let mut speaking =
        chains.filter(|(_, _, chain)| !chain.rules.is_empty() || chain.policy == Some(ChainPolicy::Drop));
    let (source, table, chain) = speaking.next()?;
    let evaluated = evaluated(family, source, table, chain, part);
    // Both back ends hook in at the same priority, and which one the kernel asks first we cannot see. A packet that no rule of
    // the second can touch fares the same in either order; the others are the kernel's.
    for (source, _, chain) in speaking {
        let why =
            format!("{source} and another back end both have mangle PREROUTING rules, in an order that is not visible");
        if chain.policy == Some(ChainPolicy::Drop) {
            let origin = Origin::new(source, "mangle PREROUTING policy DROP");
            part.guard_all(family, PuntReason::OpaqueMangle, &origin);
            part.report.push(Item::punted(origin, PuntReason::OpaqueMangle, why.clone()));
        }
        for rule in &chain.rules {
            guard(family, Hook::Prerouting, PuntReason::OpaqueMangle, rule, why.clone(), part);
        }
    }
    Some(evaluated)
}

fn evaluated(family: Family, source: Source, table: &Table, chain: &Chain, part: &mut Part) -> BaseChain {
    let user = table.chains.iter().filter(|chain| chain.policy.is_none() && !is_built_in(&chain.name));
    let user: Vec<UserChain> =
        user.map(|chain| UserChain { name: chain.name.clone(), rules: chain.rules.clone() }).collect();
    let reachable = reachable(chain, &user);
    let rules = chain.rules.iter().chain(user.iter().filter(|u| reachable.contains(&u.name)).flat_map(|u| &u.rules));
    for rule in rules {
        part.report.push(match opaque_part(rule) {
            Some(what) => {
                let why = format!("packets that could match it are the kernel's; not mirrored: {what}");
                Item::punted(rule.origin.clone(), PuntReason::OpaqueMangle, why)
            }
            None => Item::exact(rule.origin.clone()),
        });
    }
    BaseChain {
        family,
        name: format!("{source} mangle PREROUTING"),
        rules: chain.rules.clone(),
        policy: chain.policy.unwrap_or(ChainPolicy::Accept),
        user,
    }
}

/// Names of the user chains that a base chain leads to.
fn reachable(chain: &Chain, user: &[UserChain]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut open: Vec<&ChainRule> = chain.rules.iter().collect();
    while let Some(rule) = open.pop() {
        let (Target::Jump(name) | Target::Goto(name)) = &rule.target else { continue };
        if !found.contains(name) {
            found.push(name.clone());
            open.extend(user.iter().filter(|chain| chain.name == *name).flat_map(|chain| &chain.rules));
        }
    }
    found
}

fn opaque_part(rule: &ChainRule) -> Option<&str> {
    let test = rule.matches.iter().find_map(|one| match &one.test {
        Test::Opaque(text) => Some(text.as_str()),
        _ => None,
    });
    test.or(match &rule.target {
        Target::Opaque(text) => Some(text),
        _ => None,
    })
}

fn is_built_in(name: &str) -> bool {
    matches!(name, "PREROUTING" | "INPUT" | "FORWARD" | "OUTPUT" | "POSTROUTING")
}

/// Every chain but mangle PREROUTING that a forwarded packet passes.
fn other_chains(dialect: &Dialect, part: &mut Part) {
    for table in &dialect.saved.tables {
        for chain in &table.chains {
            let (hook, reason) = match (table.name.as_str(), chain.name.as_str()) {
                ("mangle", "PREROUTING") => continue,
                ("nat", "PREROUTING" | "POSTROUTING") => {
                    nat(dialect.family, chain, part);
                    continue;
                }
                (_, "PREROUTING") => (Hook::Prerouting, PuntReason::Raw),
                (_, "FORWARD") => (Hook::Forward, PuntReason::ForwardFilter),
                (_, "POSTROUTING") => (Hook::Forward, PuntReason::Postrouting),
                _ => continue,
            };
            if chain.policy == Some(ChainPolicy::Drop) {
                let origin = Origin::new(dialect.source, format!("-t {} -P {} DROP", table.name, chain.name));
                let guard = Guard { family: dialect.family, hook, matches: Vec::new(), reason, origin: origin.clone() };
                part.guards.push(guard);
                let why = "what no rule accepts is dropped: all is left to the kernel";
                part.report.push(Item::punted(origin, reason, why));
            }
            // Where nothing but acceptance can happen, it does not matter which rule grants it.
            let harmless = chain.policy != Some(ChainPolicy::Drop)
                && chain.rules.iter().all(|rule| {
                    matches!(rule.target, Target::Accept | Target::Return | Target::Continue)
                        && opaque_part(rule).is_none()
                });
            for rule in &chain.rules {
                if harmless {
                    part.report.push(Item::exact(rule.origin.clone()));
                } else {
                    let why = "packets that could match it are the kernel's";
                    guard(dialect.family, hook, reason, rule, why.to_owned(), part);
                }
            }
        }
    }
}

/// Masquerading touches what leaves by it, and the answers come back to an address of ours. Any other translation is seen in
/// packets that look like all others, so the family is the kernel's.
fn nat(family: Family, chain: &Chain, part: &mut Part) {
    for rule in &chain.rules {
        let masquerade = matches!(&rule.target, Target::Opaque(target) if target.starts_with("MASQUERADE"));
        if masquerade && chain.name == "POSTROUTING" {
            let why = "new connections that could match it are the kernel's, as are the answers to them";
            guard(family, Hook::Forward, PuntReason::Nat, rule, why.to_owned(), part);
        } else {
            part.guard_all(family, PuntReason::Nat, &rule.origin);
            let why =
                format!("answers of translated connections look like any packet: all of {family} is the kernel's");
            part.report.push(Item::punted(rule.origin.clone(), PuntReason::Nat, why));
        }
    }
}

fn guard(family: Family, hook: Hook, reason: PuntReason, rule: &ChainRule, why: String, part: &mut Part) {
    let mut matches = rule.matches.clone();
    // A mark that an earlier hook may have changed, and an egress that is not known yet, decide nothing.
    let undecided = |one: &Match| {
        matches!(one.test, Test::Mark(_)) || (hook == Hook::Prerouting && matches!(one.test, Test::Out(_)))
    };
    matches.retain(|one| !undecided(one));
    let origin = rule.origin.clone();
    part.report.push(Item::punted(origin.clone(), reason, why));
    part.guards.push(Guard { family, hook, matches, reason, origin });
}

/// A base chain of a native table.
fn native(base: &Base, part: &mut Part) {
    if base.rules.is_empty() && !base.drops {
        return;
    }
    let place = format!("table {} {} chain {}", base.table.family, base.table.name, base.chain);
    let why = match base.hook {
        NftHook::Flowtable => "a flowtable forwards by itself",
        _ => "native nftables chains are not mirrored yet: all that passes them is the kernel's",
    };
    if base.drops {
        let origin = Origin::new(Source::Nftables, format!("{place} policy drop"));
        part.report.push(Item::punted(origin, PuntReason::Nftables, why));
    }
    for rule in &base.rules {
        let origin = Origin::new(Source::Nftables, format!("{place} {rule}"));
        part.report.push(Item::punted(origin, PuntReason::Nftables, why));
    }
    for family in &base.families {
        part.guard_all(*family, PuntReason::Nftables, &Origin::new(Source::Nftables, place.clone()));
    }
}
