//! Numbers for the counters of rules, which a rule keeps as long as it is there.

use std::collections::HashMap;

use shunt_policy::config::{BaseChain, ChainRule, CounterSlot};

/// Which rule counts where.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// By base table, chain and text of a rule, and how many alike stand before it.
    known: HashMap<Key, Numbered>,
    /// Numbers that no rule has any more.
    free: Vec<CounterSlot>,
    next: u32,
    round: u64,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Key {
    chain: String,
    rule: String,
    twin: u32,
}

#[derive(Clone, Copy, Debug)]
struct Numbered {
    slot: CounterSlot,
    /// When it was last seen.
    round: u64,
}

impl Counters {
    /// Gives each rule of a base chain its number.
    pub(super) fn assign(&mut self, base: &mut BaseChain) {
        let mut twins = HashMap::new();
        let BaseChain { name, rules, user, .. } = base;
        let in_chain = |chain: String, rules: &mut Vec<ChainRule>, this: &mut Self, twins: &mut HashMap<_, u32>| {
            for rule in rules {
                let mut key = Key { chain: chain.clone(), rule: rule.origin.to_string(), twin: 0 };
                let twin = twins.entry(key.clone()).or_default();
                key.twin = *twin;
                *twin += 1;
                rule.counter = this.slot(key);
            }
        };
        in_chain(name.clone(), rules, self, &mut twins);
        for chain in user {
            // A user chain that two base chains reach has one set of counters.
            let table = name.rsplit_once(' ').map_or("", |(table, _)| table);
            in_chain(format!("{table} {}", chain.name), &mut chain.rules, self, &mut twins);
        }
    }

    fn slot(&mut self, key: Key) -> CounterSlot {
        let Counters { known, free, next, round } = self;
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

    /// To be called when all rules have their numbers: those of rules that are gone become free.
    pub(super) fn sweep(&mut self) {
        let Counters { known, free, round, .. } = self;
        known.retain(|_, numbered| {
            let lives = numbered.round == *round;
            if !lives {
                free.push(numbered.slot);
            }
            lives
        });
        *round += 1;
    }
}
