//! Chains and tests as the operator wrote them into the form in which packets meet them.

use std::collections::HashMap;
use std::sync::Arc;

use super::Shared;
use super::chain::{CompiledBase, CompiledChain, CompiledStep, CompiledVerdict, Keyed};
use super::facts::{FieldSet, span};
use super::matching::{CompiledMatch, CompiledTest, Ranges};
use super::set::{CompiledSet, joined, ranges};

use crate::config::{
    Action, BaseChain, ChainRule, Field, Guard, Link, Match, Nat, Set, Side, Step, Test, Value, Verdict,
};
use crate::names::Family;
use crate::outcome::PuntReason;

/// Compiles chains; sets that rules share are compiled once.
pub(crate) struct Compiler<'a> {
    family: Family,
    pub(super) links: &'a [Link],
    pub(super) sets: Shared<CompiledSet<()>>,
    pub(super) marks: Shared<CompiledSet<u32>>,
    /// Chains' numbers differ from base chain to base chain, so these live as long as one.
    pub(super) verdicts: Shared<CompiledSet<CompiledVerdict>>,
}

impl<'a> Compiler<'a> {
    pub(crate) fn new(family: Family, links: &'a [Link]) -> Self {
        Compiler { family, links, sets: HashMap::new(), marks: HashMap::new(), verdicts: HashMap::new() }
    }

    pub(super) fn base(&mut self, chain: &BaseChain, has_rival: bool) -> CompiledBase {
        self.verdicts.clear();
        let numbers = (1..).zip(&chain.user).map(|(at, user)| (user.name.as_str(), at)).collect();
        let mut targets = Targets { numbers, nats: Vec::new() };
        let mut reads = FieldSet::default();
        let varies = chain.all_rules().flat_map(|rule| &rule.steps).find_map(varying);
        let all = std::iter::once(&chain.rules).chain(chain.user.iter().map(|user| &user.rules));
        let chains = all.map(|rules| {
            CompiledChain::compile(rules, chain.family, |rule, steps| self.steps(rule, &mut targets, &mut reads, steps))
        });
        let chains = chains.collect();
        CompiledBase { chains, policy: chain.policy, reads, varies, nats: targets.nats, has_rival }
    }

    fn steps(
        &mut self,
        rule: &ChainRule,
        targets: &mut Targets<'_>,
        reads: &mut FieldSet,
        steps: &mut Vec<CompiledStep>,
    ) {
        steps.extend(rule.steps.iter().filter_map(|step| {
            reads_of(step).for_each(|field| reads.add(field));
            Some(match step {
                Step::Match(one) => CompiledStep::Match(self.one_match(one)),
                Step::Count => CompiledStep::Count(rule.counter),
                Step::Do(Action::Nothing) => return None,
                Step::Do(Action::Untrack) => CompiledStep::Untrack,
                Step::Do(Action::CtMark { clear, flip }) => CompiledStep::CtMark { clear: *clear, flip: *flip },
                Step::Do(Action::SaveMark { clear, take, flip }) => {
                    CompiledStep::SaveMark { clear: *clear, take: *take, flip: *flip }
                }
                Step::Do(Action::RestoreMark { clear, take, flip }) => {
                    CompiledStep::RestoreMark { clear: *clear, take: *take, flip: *flip }
                }
                Step::Do(Action::Mark { clear, flip }) => CompiledStep::Mark { clear: *clear, flip: *flip },
                Step::Do(Action::MarkOf { key, map }) => {
                    let links = self.links;
                    let map = shared(&mut self.marks, map, |map| CompiledSet::compile(map, links));
                    CompiledStep::MarkOf(Box::new(Keyed { key: key.clone(), map }))
                }
                Step::Do(Action::Tos { clear, flip }) => CompiledStep::Tos { clear: *clear, flip: *flip },
                Step::Do(Action::Ttl(change)) => CompiledStep::Ttl(*change),
                Step::Do(Action::Mss(mss)) => CompiledStep::Mss(*mss),
                Step::Do(Action::Connection(_) | Action::Opaque(_)) => CompiledStep::Opaque,
                Step::Verdict(verdict) => CompiledStep::Verdict(targets.verdict(verdict)),
                Step::VerdictOf { key, map } => {
                    let links = self.links;
                    let map = shared(&mut self.verdicts, map, |map| {
                        let elements = map.elements.iter().map(|element| crate::config::Element {
                            key: element.key.clone(),
                            data: targets.verdict(&element.data),
                            uncertain: element.uncertain,
                        });
                        let (name, opaque) = (map.name.clone(), map.opaque.clone());
                        CompiledSet::compile(&Set { name, elements: elements.collect(), opaque }, links)
                    });
                    CompiledStep::VerdictOf(Box::new(Keyed { key: key.clone(), map }))
                }
            })
        }));
    }

    pub(super) fn one_match(&mut self, one: &Match) -> CompiledMatch {
        let test = self.test(&one.test);
        if let CompiledTest::Ranges(Ranges { field, mask, ranges }) = &test
            && let Ok(span) = u32::try_from(span(*field, self.family))
            && let [(first, last)] = ranges[..]
            && let Ok(first) = u32::try_from(first)
        {
            let last = u32::try_from(last).unwrap_or(u32::MAX);
            return CompiledMatch::Range { not: one.not, field: *field, mask: *mask as u32 & span, first, last };
        }
        CompiledMatch::Other(Box::new((one.not, test)))
    }

    fn test(&mut self, test: &Test) -> CompiledTest {
        match test {
            Test::Field { field, mask, values } => {
                let ranges = joined(values.iter().flat_map(|value| ranges(value, self.links)).collect());
                CompiledTest::Ranges(Ranges { field: *field, mask: *mask, ranges })
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

/// What the verdicts of a base chain speak of, by numbers.
struct Targets<'a> {
    numbers: HashMap<&'a str, u32>,
    nats: Vec<Arc<Nat>>,
}

impl Targets<'_> {
    fn verdict(&mut self, verdict: &Verdict) -> CompiledVerdict {
        let chain = |name: &str, verdict: fn(u32) -> CompiledVerdict| {
            self.numbers.get(name).map_or(CompiledVerdict::Opaque, |number| verdict(*number))
        };
        match verdict {
            Verdict::Accept => CompiledVerdict::Accept,
            Verdict::Drop => CompiledVerdict::Drop,
            Verdict::Return => CompiledVerdict::Return,
            Verdict::Continue => CompiledVerdict::Continue,
            Verdict::Jump(name) => chain(name, CompiledVerdict::Jump),
            Verdict::Goto(name) => chain(name, CompiledVerdict::Goto),
            Verdict::Reject => CompiledVerdict::Punt(PuntReason::Reject),
            Verdict::Nat(nat) => {
                self.nats.push(nat.clone());
                CompiledVerdict::Nat(self.nats.len() as u32 - 1)
            }
            Verdict::Opaque(_) => CompiledVerdict::Opaque,
        }
    }
}

/// The fields that a step looks at or changes.
fn reads_of(step: &Step) -> impl Iterator<Item = Field> {
    let (one, key): (Option<Field>, &[Field]) = match step {
        Step::Match(one) => asked_by(&one.test),
        Step::VerdictOf { key, .. } => (None, key),
        Step::Do(Action::MarkOf { key, .. }) => (Some(Field::Mark), key),
        Step::Do(Action::Mark { .. }) => (Some(Field::Mark), &[]),
        Step::Do(Action::Tos { .. }) => (Some(Field::Tos), &[]),
        Step::Do(Action::Ttl(_)) => (Some(Field::Ttl), &[]),
        Step::Do(Action::Mss(_)) => (Some(Field::TcpMss), &[]),
        Step::Do(Action::CtMark { .. }) => (Some(Field::CtMark), &[]),
        Step::Do(Action::SaveMark { .. }) => (Some(Field::CtMark), &[Field::Mark]),
        Step::Do(Action::RestoreMark { .. }) => (Some(Field::Mark), &[Field::CtMark]),
        Step::Do(Action::Untrack) => (Some(Field::CtState), &[]),
        Step::Do(Action::Nothing | Action::Connection(_) | Action::Opaque(_)) | Step::Count | Step::Verdict(_) => {
            (None, &[])
        }
    };
    one.into_iter().chain(key.iter().copied())
}

fn asked_by(test: &Test) -> (Option<Field>, &[Field]) {
    match test {
        Test::Field { field, .. } => (Some(*field), &[]),
        Test::EitherPort(_) => (None, &[Field::SourcePort, Field::DestinationPort]),
        Test::In { key, .. } => (None, key),
        Test::AddressType { of: Side::Source, .. } => (Some(Field::Source), &[]),
        Test::AddressType { of: Side::Destination, .. } => (Some(Field::Destination), &[]),
        Test::Never | Test::Connection(_) | Test::Opaque(_) => (None, &[]),
    }
}

/// Of what a step looks at or changes, something that differs between packets of one flow (see [`Policy::varies`]).
///
/// [`Policy::varies`]: crate::Policy::varies
fn varying(step: &Step) -> Option<Field> {
    match step {
        Step::Match(one) => varying_in(&one.test),
        step => reads_of(step).find(|field| field.varies()),
    }
}

pub(super) fn varying_in(test: &Test) -> Option<Field> {
    if let Test::Field { field: Field::TcpFlags, mask, values } = test {
        // Without SYN, FIN and RST, whatever the other flags are.
        let holds = |flags: u8| {
            let flags = u128::from(flags) & mask;
            values
                .iter()
                .any(|value| matches!(value, Value::Range { first, last } if (*first..=*last).contains(&flags)))
        };
        let first = holds(0);
        return (0..=u8::MAX)
            .filter(|flags| flags & 0x07 == 0)
            .any(|flags| holds(flags) != first)
            .then_some(Field::TcpFlags);
    }
    let (field, key) = asked_by(test);
    field.into_iter().chain(key.iter().copied()).find(|field| field.varies())
}

/// The fields that a guard looks at.
pub(super) fn reads_of_guard(guard: &Guard) -> FieldSet {
    let mut reads = FieldSet::default();
    for one in &guard.matches {
        let (field, key) = asked_by(&one.test);
        field.into_iter().chain(key.iter().copied()).for_each(|field| reads.add(field));
    }
    reads
}

/// What was made of the same thing before, or what is made of it now.
fn shared<S, T>(known: &mut Shared<T>, source: &Arc<S>, make: impl FnOnce(&S) -> T) -> Arc<T> {
    known.entry(Arc::as_ptr(source).cast()).or_insert_with(|| Arc::new(make(source))).clone()
}
