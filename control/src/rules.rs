//! `shunt rules`: every mirrored rule with what it has counted, by the workers and by the kernel together.

use std::collections::{HashMap, HashSet, VecDeque};

use serde_json::{Value, json};
use shunt_dataplane::{Dataplane, RuleCount};
use shunt_policy::Generation;
use shunt_policy::config::{CounterSlot, Step};

use crate::translate::{RuleKey, Translation, keyed};

/// What the kernel has counted, by rule.
pub type KernelCounts = HashMap<RuleKey, RuleCount>;

/// What the workers have counted.
#[derive(Default)]
pub struct WorkerCounts {
    /// By slot: counted by dataplanes that are closed.
    earlier: Vec<RuleCount>,
    /// By slot: what stood there when it was given to its present rule.
    base: Vec<RuleCount>,
    /// Slots whose rules are gone, and the first policy without them.
    retiring: VecDeque<(Generation, Vec<CounterSlot>)>,
}

impl WorkerCounts {
    /// What the rule with this slot has counted.
    fn of(&self, slot: CounterSlot, dataplane: Option<&Dataplane>) -> RuleCount {
        let base = self.base.get(slot.0 as usize).copied().unwrap_or_default();
        let all = self.all(slot, dataplane);
        RuleCount { packets: all.packets - base.packets, bytes: all.bytes - base.bytes }
    }

    fn all(&self, slot: CounterSlot, dataplane: Option<&Dataplane>) -> RuleCount {
        let now = dataplane.map(|dataplane| dataplane.rule_count(slot)).unwrap_or_default();
        let earlier = self.earlier.get(slot.0 as usize).copied().unwrap_or_default();
        RuleCount { packets: earlier.packets + now.packets, bytes: earlier.bytes + now.bytes }
    }

    /// A policy is published that lacks some rules.
    pub fn published(&mut self, translation: &mut Translation, generation: Generation) {
        let vacant = translation.counters_mut().take_vacant();
        if !vacant.is_empty() {
            self.retiring.push_back((generation, vacant));
        }
    }

    /// Gives slots free where no worker counts any more.
    pub fn settle(&mut self, translation: &mut Translation, dataplane: Option<&Dataplane>) {
        while let Some((generation, _)) = self.retiring.front() {
            if dataplane.is_some_and(|dataplane| dataplane.adopted() < *generation) {
                return;
            }
            let Some((_, slots)) = self.retiring.pop_front() else { return };
            for slot in &slots {
                let all = self.all(*slot, dataplane);
                *place(&mut self.base, *slot) = all;
            }
            translation.counters_mut().release(slots);
        }
    }

    /// The dataplane is about to be closed.
    pub fn keep(&mut self, translation: &mut Translation, dataplane: &Dataplane) {
        for slot in (0..translation.counters_mut().bound()).map(CounterSlot) {
            let all = self.all(slot, Some(dataplane));
            *place(&mut self.earlier, slot) = all;
        }
    }
}

fn place(counts: &mut Vec<RuleCount>, slot: CounterSlot) -> &mut RuleCount {
    let at = slot.0 as usize;
    if counts.len() <= at {
        counts.resize(at + 1, RuleCount::default());
    }
    &mut counts[at]
}

/// A rule as it is listed.
pub struct Listed {
    key: RuleKey,
    /// Whether it counts at all: in nftables only those with `counter` do.
    counts: bool,
    workers: RuleCount,
}

/// The rules in the kernel's order, each once, with what the workers have counted.
pub fn listed(translation: &Translation, counts: &WorkerCounts, dataplane: Option<&Dataplane>) -> Vec<Listed> {
    let mut seen = HashSet::new();
    let mut list = Vec::new();
    for chain in translation.config.chains.iter() {
        for (key, rule) in keyed(chain) {
            if seen.insert(key.clone()) {
                let counts_at_all = rule.steps.contains(&Step::Count);
                let workers = counts.of(rule.counter, dataplane);
                list.push(Listed { key, counts: counts_at_all, workers });
            }
        }
    }
    list
}

/// `shunt rules --json`.
pub fn json(list: &[Listed], kernel: &KernelCounts) -> Value {
    let rule = |listed: &Listed| {
        let Listed { key, counts, workers } = listed;
        let kernel = kernel.get(key).copied().unwrap_or_default();
        let count = |count: RuleCount| json!({ "packets": count.packets, "bytes": count.bytes });
        let mut rule = json!({
            "family": key.family.map_or("inet".to_owned(), |family| family.to_string()),
            "chain": key.chain,
            "rule": key.rule,
        });
        if *counts {
            rule["packets"] = json!(workers.packets + kernel.packets);
            rule["bytes"] = json!(workers.bytes + kernel.bytes);
            rule["workers"] = count(*workers);
            rule["kernel"] = count(kernel);
        }
        rule
    };
    json!({ "rules": list.iter().map(rule).collect::<Vec<_>>() })
}

/// The same for the terminal, from its JSON.
pub fn text(rules: &Value) -> String {
    let mut lines = Vec::new();
    let mut chain = String::new();
    for rule in rules["rules"].as_array().into_iter().flatten() {
        let word = |key: &str| rule[key].as_str().unwrap_or_default();
        let place = format!("{} ({})", word("chain"), word("family"));
        if place != chain {
            lines.push(format!("{place}\n      pkts      bytes   by workers  rule"));
            chain = place;
        }
        lines.push(match rule["packets"].as_u64() {
            Some(packets) => {
                format!("{packets:10} {:10} {:12}  {}", rule["bytes"], rule["workers"]["packets"], word("rule"))
            }
            None => format!("{:>10} {:>10} {:>12}  {}", "-", "-", "-", word("rule")),
        });
    }
    lines.join("\n")
}
