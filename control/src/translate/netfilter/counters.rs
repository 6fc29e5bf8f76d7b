//! Numbers for the counters of rules, which a rule keeps as long as it is there.

use std::collections::HashMap;

use shunt_policy::Family;
use shunt_policy::config::{BaseChain, ChainRule, CounterSlot};

/// Which rule counts where.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    known: HashMap<RuleKey, Numbered>,
    /// Of rules that are gone, and not yet [`taken`](Self::take_vacant).
    vacant: Vec<CounterSlot>,
    /// Those that may be given to other rules.
    free: Vec<CounterSlot>,
    next: u32,
    round: u64,
}

/// What tells a rule from all others, as long as it stays: rules of one chain that read the same are told apart by their order.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct RuleKey {
    /// `None` for nftables' family inet, whose rules count packets of both.
    pub family: Option<Family>,
    /// `iptables-nft mangle PREROUTING`, `table inet fw chain forward`
    pub chain: String,
    pub rule: String,
    /// How many alike stand before it.
    pub twin: u32,
}

/// Tells rules that read the same apart.
#[derive(Default)]
pub struct Twins(HashMap<RuleKey, u32>);

#[derive(Clone, Copy, Debug)]
struct Numbered {
    slot: CounterSlot,
    /// When it was last seen.
    round: u64,
}

impl Twins {
    /// The key of the next rule of a chain.
    pub fn key(&mut self, family: Family, chain: &str, rule: &str) -> RuleKey {
        let family = (!chain.starts_with("table inet ")).then_some(family);
        let mut key = RuleKey { family, chain: chain.to_owned(), rule: rule.to_owned(), twin: 0 };
        let twin = self.0.entry(key.clone()).or_default();
        key.twin = *twin;
        *twin += 1;
        key
    }
}

/// The rules of a base chain and of its user chains, each with its key. A user chain that two base chains reach has one set of keys.
pub fn keyed(base: &BaseChain) -> impl Iterator<Item = (RuleKey, &ChainRule)> {
    let BaseChain { family, name, rules, user, .. } = base;
    let table = name.rsplit_once(' ').map_or("", |(table, _)| table).to_owned();
    let mut twins = Twins::default();
    let own = rules.iter().map(|rule| (name.clone(), rule));
    let of_users = user.iter().flat_map(move |chain| {
        let name = format!("{table} {}", chain.name);
        chain.rules.iter().map(move |rule| (name.clone(), rule))
    });
    own.chain(of_users).map(move |(chain, rule)| (twins.key(*family, &chain, &rule.origin.text), rule))
}

impl Counters {
    /// Gives each rule of a base chain its number.
    pub(super) fn assign(&mut self, base: &mut BaseChain) {
        let slots: Vec<CounterSlot> = keyed(base).map(|(key, _)| self.slot(key)).collect();
        base.all_rules_mut().zip(slots).for_each(|(rule, slot)| rule.counter = slot);
    }

    fn slot(&mut self, key: RuleKey) -> CounterSlot {
        let Counters { known, free, next, round, .. } = self;
        let mut fresh = || {
            free.pop().unwrap_or_else(|| {
                *next += 1;
                CounterSlot(*next - 1)
            })
        };
        let numbered = known.entry(key).or_insert_with(|| Numbered { slot: fresh(), round: 0 });
        numbered.round = *round;
        numbered.slot
    }

    /// To be called when all rules have their numbers: those of rules that are gone become vacant.
    pub(super) fn sweep(&mut self) {
        let Counters { known, vacant, round, .. } = self;
        known.retain(|_, numbered| {
            let lives = numbered.round == *round;
            if !lives {
                vacant.push(numbered.slot);
            }
            lives
        });
        *round += 1;
    }

    /// Numbers that have become vacant since the last call. Workers may still count there until they have adopted a newer policy.
    pub fn take_vacant(&mut self) -> Vec<CounterSlot> {
        std::mem::take(&mut self.vacant)
    }

    /// Nobody counts there any more.
    pub fn release(&mut self, slots: Vec<CounterSlot>) {
        self.free.extend(slots);
    }

    /// All numbers given so far are lower.
    pub fn bound(&self) -> u32 {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use shunt_policy::config::{ChainPolicy, Hook, Origin, Source};

    use super::*;

    fn chain(rules: &[&str]) -> BaseChain {
        let rule = |text: &&str| ChainRule {
            steps: Vec::new(),
            counter: CounterSlot::default(),
            origin: Origin::new(Source::IptablesNft, *text),
        };
        BaseChain {
            family: Family::V4,
            hook: Hook::Forward,
            priority: 0,
            unordered: false,
            nat: false,
            name: "iptables-nft filter FORWARD".to_owned(),
            rules: rules.iter().map(rule).collect(),
            policy: ChainPolicy::Accept,
            user: Vec::new(),
        }
    }

    fn slots(counters: &mut Counters, rules: &[&str]) -> Vec<u32> {
        let mut chain = chain(rules);
        counters.assign(&mut chain);
        counters.sweep();
        chain.rules.iter().map(|rule| rule.counter.0).collect()
    }

    #[test]
    fn a_rule_keeps_its_number_and_a_number_waits_until_nobody_counts_there() {
        let mut counters = Counters::default();
        assert_eq!(slots(&mut counters, &["a", "b", "a"]), [0, 1, 2]);
        assert_eq!(slots(&mut counters, &["new", "a", "a"]), [3, 0, 2]);
        let vacant = counters.take_vacant();
        assert_eq!(vacant, [CounterSlot(1)]);
        assert_eq!(slots(&mut counters, &["other", "new"])[0], 4, "not the one that was taken and not released");
        counters.release(vacant);
        assert_eq!(slots(&mut counters, &["yet another"]), [1]);
        assert_eq!(counters.bound(), 5);
    }

    #[test]
    fn both_copies_of_an_inet_chain_count_together() {
        let mut counters = Counters::default();
        let number = |counters: &mut Counters, family, name: &str| {
            let mut chain = BaseChain { family, name: name.to_owned(), ..chain(&["a"]) };
            counters.assign(&mut chain);
            chain.rules[0].counter
        };
        let inet = Family::BOTH.map(|family| number(&mut counters, family, "table inet fw chain forward"));
        assert_eq!(inet[0], inet[1]);
        let own = Family::BOTH.map(|family| number(&mut counters, family, "iptables-nft filter FORWARD"));
        assert_ne!(own[0], own[1]);
    }
}
