//! Base chains and the way through them.

use std::collections::HashMap;
use std::sync::Arc;

use super::facts::{Facts, FieldSet, TCP};
use super::set::{CompiledSet, Found, ranges};
use super::test::{CompiledTest, Holds};
use super::{DEEPEST_JUMP, Shared, Surroundings, Tally, drop_at, opaque_at};
use crate::config::{
    Action, BaseChain, ChainPolicy, ChainRule, CounterSlot, Field, Link, Mss, MssLimit, Set, Step, Test, TtlChange,
    Verdict,
};
use crate::names::{Family, Mark};
use crate::outcome::{PuntReason, Stop};

/// A compiled [`BaseChain`].
#[derive(Debug)]
pub(super) struct CompiledBase {
    /// The base chain itself, then its user chains.
    chains: Vec<CompiledChain>,
    pub(super) policy: ChainPolicy,
    /// All that its rules look at or change.
    pub(super) reads: FieldSet,
}

#[derive(Debug, Default)]
struct CompiledChain {
    rules: Vec<CompiledRule>,
}

#[derive(Debug)]
struct CompiledRule {
    steps: Box<[CompiledStep]>,
    counter: CounterSlot,
}

#[derive(Debug)]
enum CompiledStep {
    Match { not: bool, test: CompiledTest },
    Count,
    Mark { clear: u32, flip: u32 },
    MarkOf { key: Box<[Field]>, map: Arc<CompiledSet<u32>> },
    Tos { clear: u8, flip: u8 },
    Ttl(TtlChange),
    Mss(Mss),
    Verdict(CompiledVerdict),
    VerdictOf { key: Box<[Field]>, map: Arc<CompiledSet<CompiledVerdict>> },
    Opaque,
}

/// A [`Verdict`] with its chains resolved to numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CompiledVerdict {
    Accept,
    Drop,
    Return,
    Continue,
    Jump(usize),
    Goto(usize),
    Punt(PuntReason),
    Opaque,
}

/// How a chain ended.
pub(super) enum Flow {
    /// Its last rule was passed, or RETURN met.
    Return,
    Accept,
}

impl CompiledBase {
    pub(super) fn run(
        &self,
        facts: &mut Facts<'_>,
        surroundings: Surroundings<'_>,
        tally: &mut impl Tally,
    ) -> Result<Flow, Stop> {
        self.walk(0, facts, surroundings, tally, 0)
    }

    fn walk(
        &self,
        chain: usize,
        facts: &mut Facts<'_>,
        surroundings: Surroundings<'_>,
        tally: &mut impl Tally,
        depth: usize,
    ) -> Result<Flow, Stop> {
        for rule in &self.chains[chain].rules {
            match rule.apply(facts, surroundings, tally)? {
                CompiledVerdict::Continue => {}
                CompiledVerdict::Accept => return Ok(Flow::Accept),
                CompiledVerdict::Drop => return Err(drop_at(surroundings.hook)),
                CompiledVerdict::Return => return Ok(Flow::Return),
                CompiledVerdict::Punt(reason) => return Err(Stop::Punt(reason)),
                CompiledVerdict::Opaque => return Err(opaque_at(surroundings.hook)),
                CompiledVerdict::Jump(_) | CompiledVerdict::Goto(_) if depth == DEEPEST_JUMP => {
                    return Err(opaque_at(surroundings.hook));
                }
                CompiledVerdict::Goto(target) => return self.walk(target, facts, surroundings, tally, depth + 1),
                CompiledVerdict::Jump(target) => match self.walk(target, facts, surroundings, tally, depth + 1)? {
                    Flow::Return => {}
                    Flow::Accept => return Ok(Flow::Accept),
                },
            }
        }
        Ok(Flow::Return)
    }
}

impl CompiledRule {
    /// Takes the rule's steps. [`Continue`](CompiledVerdict::Continue) is "on with the next rule".
    fn apply(
        &self,
        facts: &mut Facts<'_>,
        surroundings: Surroundings<'_>,
        tally: &mut impl Tally,
    ) -> Result<CompiledVerdict, Stop> {
        let opaque = Err(opaque_at(surroundings.hook));
        for step in &self.steps {
            match step {
                CompiledStep::Match { not, test } => match test.holds(*not, facts, surroundings) {
                    Holds::Yes => {}
                    Holds::No => return Ok(CompiledVerdict::Continue),
                    Holds::Maybe => return opaque,
                },
                CompiledStep::Count => {
                    facts.counted += 1;
                    tally.count(self.counter);
                }
                CompiledStep::Mark { clear, flip } => {
                    facts.query.mark = Mark((facts.query.mark.0 & !clear) ^ flip);
                    facts.written.add(Field::Mark);
                }
                CompiledStep::MarkOf { key, map } => match map.find(key, facts) {
                    Found::Element(mark) => {
                        facts.query.mark = Mark(*mark);
                        facts.written.add(Field::Mark);
                    }
                    Found::None => return Ok(CompiledVerdict::Continue),
                    Found::Unknown => return opaque,
                },
                CompiledStep::Tos { clear, flip } => {
                    facts.query.tos = (facts.query.tos & !clear) ^ flip;
                    facts.written.add(Field::Tos);
                }
                CompiledStep::Ttl(change) => {
                    facts.query.ttl = change.applied(facts.query.ttl);
                    facts.written.add(Field::Ttl);
                }
                CompiledStep::Mss(mss) => lower_mss(*mss, facts, surroundings)?,
                CompiledStep::Verdict(verdict) => return Ok(*verdict),
                CompiledStep::VerdictOf { key, map } => {
                    return match map.find(key, facts) {
                        Found::Element(verdict) => Ok(*verdict),
                        Found::None => Ok(CompiledVerdict::Continue),
                        Found::Unknown => opaque,
                    };
                }
                CompiledStep::Opaque => return opaque,
            }
        }
        Ok(CompiledVerdict::Continue)
    }
}

/// `tcpmss_mangle_packet` of xt_TCPMSS, `nft_exthdr_tcp_set_eval`.
fn lower_mss(mss: Mss, facts: &mut Facts<'_>, surroundings: Surroundings<'_>) -> Result<(), Stop> {
    if facts.query.protocol != TCP {
        return Ok(());
    }
    let Some(old) = facts.query.mss else {
        return if mss.adds { Err(Stop::Punt(PuntReason::MssOption)) } else { Ok(()) };
    };
    let new = match mss.to {
        MssLimit::Bytes(bytes) => bytes,
        MssLimit::PathMtu => {
            let headers = if surroundings.family == Family::V4 { 40 } else { 60 };
            let back = surroundings.policy.mtu_back(&facts.query)?;
            let mtu = facts.mtu.min(back);
            // Without an egress there is no path, and nonsense is the kernel's to judge.
            match mtu.checked_sub(headers).and_then(|mss| u16::try_from(mss).ok()) {
                Some(mss) if facts.oif.is_some() && mss > 0 => mss,
                _ => return Err(opaque_at(surroundings.hook)),
            }
        }
    };
    facts.query.mss = Some(old.min(new));
    facts.written.add(Field::TcpMss);
    Ok(())
}

impl TtlChange {
    pub(crate) fn applied(self, ttl: u8) -> u8 {
        match self {
            TtlChange::Set(ttl) => ttl,
            TtlChange::Raise(by) => ttl.saturating_add(by),
            TtlChange::Lower(by) => ttl.saturating_sub(by),
        }
    }
}

/// Compiles chains; sets that rules share are compiled once.
pub(crate) struct Compiler<'a> {
    pub(super) links: &'a [Link],
    pub(super) sets: Shared<CompiledSet<()>>,
    pub(super) marks: Shared<CompiledSet<u32>>,
    /// Chains' numbers differ from base chain to base chain, so these live as long as one.
    pub(super) verdicts: Shared<CompiledSet<CompiledVerdict>>,
}

impl<'a> Compiler<'a> {
    pub(crate) fn new(links: &'a [Link]) -> Self {
        Compiler { links, sets: HashMap::new(), marks: HashMap::new(), verdicts: HashMap::new() }
    }

    pub(super) fn base(&mut self, chain: &BaseChain) -> CompiledBase {
        self.verdicts.clear();
        let numbers: HashMap<&str, usize> =
            chain.user.iter().enumerate().map(|(at, user)| (user.name.as_str(), at + 1)).collect();
        let mut reads = FieldSet::default();
        let all = std::iter::once(&chain.rules).chain(chain.user.iter().map(|user| &user.rules));
        let chains = all.map(|rules| {
            let rules = rules.iter().map(|rule| self.rule(rule, &numbers, &mut reads));
            CompiledChain { rules: rules.collect() }
        });
        CompiledBase { chains: chains.collect(), policy: chain.policy, reads }
    }

    fn rule(&mut self, rule: &ChainRule, numbers: &HashMap<&str, usize>, reads: &mut FieldSet) -> CompiledRule {
        let steps = rule.steps.iter().filter_map(|step| {
            reads_of(step).for_each(|field| reads.add(field));
            Some(match step {
                Step::Match(one) => CompiledStep::Match { not: one.not, test: self.test(&one.test) },
                Step::Count => CompiledStep::Count,
                Step::Do(Action::Nothing) => return None,
                Step::Do(Action::Mark { clear, flip }) => CompiledStep::Mark { clear: *clear, flip: *flip },
                Step::Do(Action::MarkOf { key, map }) => {
                    let links = self.links;
                    let map = shared(&mut self.marks, map, |map| CompiledSet::compile(map, links));
                    CompiledStep::MarkOf { key: key.as_slice().into(), map }
                }
                Step::Do(Action::Tos { clear, flip }) => CompiledStep::Tos { clear: *clear, flip: *flip },
                Step::Do(Action::Ttl(change)) => CompiledStep::Ttl(*change),
                Step::Do(Action::Mss(mss)) => CompiledStep::Mss(*mss),
                Step::Do(Action::Connection(_) | Action::Opaque(_)) => CompiledStep::Opaque,
                Step::Verdict(verdict) => CompiledStep::Verdict(CompiledVerdict::of(verdict, numbers)),
                Step::VerdictOf { key, map } => {
                    let links = self.links;
                    let map = shared(&mut self.verdicts, map, |map| {
                        let elements = map.elements.iter().map(|element| crate::config::Element {
                            key: element.key.clone(),
                            data: CompiledVerdict::of(&element.data, numbers),
                            uncertain: element.uncertain,
                        });
                        let (name, opaque) = (map.name.clone(), map.opaque.clone());
                        CompiledSet::compile(&Set { name, elements: elements.collect(), opaque }, links)
                    });
                    CompiledStep::VerdictOf { key: key.as_slice().into(), map }
                }
            })
        });
        CompiledRule { steps: steps.collect(), counter: rule.counter }
    }

    pub(super) fn test(&mut self, test: &Test) -> CompiledTest {
        match test {
            Test::Field { field, mask, values } => {
                let mut all: Vec<_> = values.iter().flat_map(|value| ranges(value, self.links)).collect();
                all.sort_unstable();
                // Those that overlap or touch become one.
                all.dedup_by(|next, kept| {
                    let joined = next.0 <= kept.1.saturating_add(1);
                    if joined {
                        kept.1 = kept.1.max(next.1);
                    }
                    joined
                });
                match all[..] {
                    [(first, last)] => CompiledTest::Range { field: *field, mask: *mask, first, last },
                    _ => CompiledTest::Ranges { field: *field, mask: *mask, ranges: all.into() },
                }
            }
            Test::EitherPort(ranges) => CompiledTest::EitherPort(ranges.as_slice().into()),
            Test::In { key, set } => {
                let links = self.links;
                let set = shared(&mut self.sets, set, |set| CompiledSet::compile(set, links));
                CompiledTest::In { key: key.as_slice().into(), set }
            }
            Test::AddressType { of, types } => CompiledTest::AddressType { of: *of, types: *types },
            Test::Never => CompiledTest::Never,
            Test::Connection(_) | Test::Opaque(_) => CompiledTest::Opaque,
        }
    }
}

impl CompiledVerdict {
    fn of(verdict: &Verdict, numbers: &HashMap<&str, usize>) -> Self {
        let chain = |name: &str, verdict: fn(usize) -> Self| {
            numbers.get(name).map_or(CompiledVerdict::Opaque, |number| verdict(*number))
        };
        match verdict {
            Verdict::Accept => CompiledVerdict::Accept,
            Verdict::Drop => CompiledVerdict::Drop,
            Verdict::Return => CompiledVerdict::Return,
            Verdict::Continue => CompiledVerdict::Continue,
            Verdict::Jump(name) => chain(name, CompiledVerdict::Jump),
            Verdict::Goto(name) => chain(name, CompiledVerdict::Goto),
            Verdict::Reject => CompiledVerdict::Punt(PuntReason::Reject),
            Verdict::Nat { .. } => CompiledVerdict::Punt(PuntReason::Nat),
            Verdict::Opaque(_) => CompiledVerdict::Opaque,
        }
    }
}

/// The fields that a step looks at or changes.
fn reads_of(step: &Step) -> impl Iterator<Item = Field> {
    let (one, key): (Option<Field>, &[Field]) = match step {
        Step::Match(one) => match &one.test {
            Test::Field { field, .. } => (Some(*field), &[]),
            Test::EitherPort(_) => (None, &[Field::SourcePort, Field::DestinationPort]),
            Test::In { key, .. } => (None, key),
            Test::AddressType { .. } | Test::Never | Test::Connection(_) | Test::Opaque(_) => (None, &[]),
        },
        Step::VerdictOf { key, .. } => (None, key),
        Step::Do(Action::MarkOf { key, .. }) => (Some(Field::Mark), key),
        Step::Do(Action::Mark { .. }) => (Some(Field::Mark), &[]),
        Step::Do(Action::Tos { .. }) => (Some(Field::Tos), &[]),
        Step::Do(Action::Ttl(_)) => (Some(Field::Ttl), &[]),
        Step::Do(Action::Mss(_)) => (Some(Field::TcpMss), &[]),
        Step::Do(Action::Nothing | Action::Connection(_) | Action::Opaque(_)) | Step::Count | Step::Verdict(_) => {
            (None, &[])
        }
    };
    one.into_iter().chain(key.iter().copied())
}

/// What was made of the same thing before, or what is made of it now.
fn shared<S, T>(known: &mut Shared<T>, source: &Arc<S>, make: impl FnOnce(&S) -> T) -> Arc<T> {
    known.entry(Arc::as_ptr(source).cast()).or_insert_with(|| Arc::new(make(source))).clone()
}
