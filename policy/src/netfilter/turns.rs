//! Which rules of a long chain are held against a packet.

use super::chain::{CompiledChain, CompiledStep};
use super::facts::{Changeable, Facts, span};
use super::matching::{CompiledMatch, CompiledTest, Ranges};
use crate::config::Field;
use crate::index::{self, Candidates, Demand, Index, Thing, TooMany};
use crate::names::Family;

/// A chain up to this length is walked rule by rule.
const SHORT: usize = 6;

/// How many times as selective a demand must be of what rules before may change. Each change costs a look-up anew.
const RELUCTANCE: f64 = 4.0;

/// How often candidates are looked up anew before it is cheaper to walk rule by rule.
const MOST_ANEW: u32 = 16;

/// The rules of a long chain by what they demand of a packet in the tests that come first.
#[derive(Debug)]
pub(super) struct RuleIndex {
    index: Index<Field>,
    has_changing: bool,
}

/// The groups of an index: rules that are found by what no rule changes, and those that are found by anything.
const FIXED: usize = 0;
const CHANGING: usize = 1;

/// The rules whose turn it is, in their order.
pub(super) struct Turns<'a> {
    rules: &'a RuleIndex,
    candidates: Candidates<'a>,
    /// How many of the candidates' lists are of the fixed rules.
    fixed: usize,
    /// As it was when the others were looked up.
    seen: Changeable,
    anew: u32,
}

impl RuleIndex {
    /// `None` for a short chain.
    pub(super) fn of(chain: &CompiledChain, family: Family) -> Option<Self> {
        let rules = chain.rules();
        if rules.len() <= SHORT {
            return None;
        }
        let demands = rules.iter().filter_map(|rule| Some((*rule, demands(chain.steps(*rule), family)?)));
        let all: Vec<Thing<Field>> = demands.collect();
        let cost = index::selectivity(&all);
        let best = |demands: &[Demand<Field>], mutable: bool| {
            let such = demands.iter().filter(|demand| demand.axis().is_mutable() == mutable);
            such.map(&cost).fold(rules.len() as f64, f64::min)
        };
        let (changing, mut fixed): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|(_, demands)| best(demands, true) * RELUCTANCE < best(demands, false));
        fixed.iter_mut().for_each(|(_, demands)| demands.retain(|demand| !demand.axis().is_mutable()));
        Some(RuleIndex { index: Index::build([&fixed, &changing]), has_changing: !changing.is_empty() })
    }

    /// The rules that a packet can match; to be begun.
    pub(super) fn turns(&self, facts: &Facts<'_>) -> Turns<'_> {
        Turns { rules: self, candidates: self.index.candidates(), fixed: 0, seen: facts.changeable(), anew: 0 }
    }
}

impl Turns<'_> {
    pub(super) fn begin(&mut self, facts: &Facts<'_>) -> Result<(), TooMany> {
        self.rules.index.gather(FIXED, 0, |field| facts.value(field), &mut self.candidates)?;
        self.fixed = self.candidates.lists();
        self.add_changing(0, facts)
    }

    pub(super) fn next(&mut self) -> Option<u32> {
        self.candidates.next()
    }

    /// A rule that did not match the packet as it came may match it as the rule `at` has left it.
    pub(super) fn follow(&mut self, at: u32, facts: &Facts<'_>) -> Result<(), TooMany> {
        if !self.rules.has_changing || self.seen == facts.changeable() {
            return Ok(());
        }
        self.anew += 1;
        if self.anew > MOST_ANEW {
            return Err(TooMany);
        }
        self.seen = facts.changeable();
        self.candidates.truncate(self.fixed);
        self.add_changing(at + 1, facts)
    }

    fn add_changing(&mut self, from: u32, facts: &Facts<'_>) -> Result<(), TooMany> {
        if !self.rules.has_changing {
            return Ok(());
        }
        self.rules.index.gather(CHANGING, from, |field| facts.value(field), &mut self.candidates)
    }
}

/// What a packet must have for the rule to do anything at all; `None` if none can. Up to the first step that does something, or that
/// may not know: behind it a test that fails comes too late.
fn demands(steps: &[CompiledStep], family: Family) -> Option<Vec<Demand<Field>>> {
    let mut demands = Vec::new();
    let one = |field: Field, mask: u128, ranges: &[(u128, u128)]| {
        Demand::new(field, mask & span(field, family), ranges.iter().copied())
    };
    for step in steps {
        let CompiledStep::Match(one_match) = step else { break };
        match one_match {
            CompiledMatch::Range { not: false, field, mask, first, last } => {
                demands.extend(one(*field, (*mask).into(), &[((*first).into(), (*last).into())]));
            }
            CompiledMatch::Range { .. } => {}
            CompiledMatch::Other(other) => match &**other {
                (_, CompiledTest::Never) => return None,
                (_, CompiledTest::Opaque) => break,
                (false, CompiledTest::Ranges(Ranges { field, mask, ranges })) => {
                    demands.extend(one(*field, *mask, ranges))
                }
                (not, CompiledTest::In { key, set }) => {
                    if !not {
                        let spans = |(at, field): (usize, &Field)| one(*field, u128::MAX, &set.spans(at)?);
                        demands.extend(key.iter().enumerate().filter_map(spans));
                    }
                    if !set.is_certain() {
                        break;
                    }
                }
                (_, CompiledTest::Ranges(_) | CompiledTest::EitherPort(_) | CompiledTest::AddressType { .. }) => {}
            },
        }
    }
    if demands.iter().any(Demand::is_never_met) { None } else { Some(demands) }
}
