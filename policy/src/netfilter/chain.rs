//! Base chains and the way through them.

use std::sync::Arc;

use super::facts::{Facts, FieldSet, TCP};
use super::matching::{CompiledMatch, Holds};
use super::set::{CompiledSet, Found};
use super::turns::RuleIndex;
use super::{DEEPEST_JUMP, Surroundings, Tally, drop_at, opaque_at};
use crate::config::{ChainPolicy, ChainRule, CounterSlot, Field, Mss, MssLimit, Nat, TtlChange};
use crate::names::{Family, Mark};
use crate::outcome::{PuntReason, Stop};

/// A compiled [`BaseChain`].
#[derive(Debug)]
pub(super) struct CompiledBase {
    /// The base chain itself, then its user chains.
    pub(super) chains: Vec<CompiledChain>,
    pub(super) policy: ChainPolicy,
    /// All that its rules look at or change.
    pub(super) reads: FieldSet,
    /// One of these that differs between packets of one flow, if there is any.
    pub(super) varies: Option<Field>,
    /// What its verdicts want, by their numbers.
    pub(super) nats: Vec<Arc<Nat>>,
    /// Conntrack or nat may come before or behind it.
    pub(super) has_rival: bool,
}

/// The steps of all rules stand in a row, so that a packet fetches little memory for each rule.
#[derive(Debug)]
pub(super) struct CompiledChain {
    /// For each rule the place of its first step. A rule's number is this place, not its rank.
    rules: Box<[u32]>,
    steps: Box<[CompiledStep]>,
    index: Option<RuleIndex>,
}

#[derive(Debug)]
pub(super) enum CompiledStep {
    Match(CompiledMatch),
    Count(CounterSlot),
    Mark {
        clear: u32,
        flip: u32,
    },
    MarkOf(Box<Keyed<u32>>),
    Tos {
        clear: u8,
        flip: u8,
    },
    Ttl(TtlChange),
    Mss(Mss),
    Untrack,
    CtMark {
        clear: u32,
        flip: u32,
    },
    SaveMark {
        clear: u32,
        take: u32,
        flip: u32,
    },
    RestoreMark {
        clear: u32,
        take: u32,
        flip: u32,
    },
    Verdict(CompiledVerdict),
    VerdictOf(Box<Keyed<CompiledVerdict>>),
    Opaque,
    /// Behind the last step of a rule.
    End,
}

const _: () = assert!(size_of::<CompiledStep>() == 16);

/// A map, and what is looked up in it.
#[derive(Debug)]
pub(super) struct Keyed<T> {
    pub(super) key: Vec<Field>,
    pub(super) map: Arc<CompiledSet<T>>,
}

/// A [`Verdict`] with its chains resolved to numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CompiledVerdict {
    Accept,
    Drop,
    Return,
    Continue,
    Jump(u32),
    Goto(u32),
    Punt(PuntReason),
    /// Number of what is wanted.
    Nat(u32),
    Opaque,
}

/// How a chain ended.
pub(super) enum Flow {
    /// Its last rule was passed, or RETURN met.
    Return,
    Accept,
    /// With the number of what is wanted.
    Nat(u32),
}

impl CompiledBase {
    /// It does nothing to any packet.
    pub(super) fn is_empty(&self) -> bool {
        self.policy == ChainPolicy::Accept && self.chains[0].rules.is_empty()
    }

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
        chain: u32,
        facts: &mut Facts<'_>,
        surroundings: Surroundings<'_>,
        tally: &mut impl Tally,
        depth: usize,
    ) -> Result<Flow, Stop> {
        let chain = &self.chains[chain as usize];
        let Some(index) = &chain.index else {
            return self.walk_all(chain, &chain.rules, facts, surroundings, tally, depth);
        };
        let mut turns = index.turns(facts);
        if turns.begin(facts).is_err() {
            return self.walk_all(chain, &chain.rules, facts, surroundings, tally, depth);
        }
        while let Some(at) = turns.next() {
            if let Some(flow) = self.step(chain, at, facts, surroundings, tally, depth)? {
                return Ok(flow);
            }
            if turns.follow(at, facts).is_err() {
                let behind = chain.rules.partition_point(|rule| *rule <= at);
                return self.walk_all(chain, &chain.rules[behind..], facts, surroundings, tally, depth);
            }
        }
        Ok(Flow::Return)
    }

    /// One rule after the other.
    fn walk_all(
        &self,
        chain: &CompiledChain,
        rules: &[u32],
        facts: &mut Facts<'_>,
        surroundings: Surroundings<'_>,
        tally: &mut impl Tally,
        depth: usize,
    ) -> Result<Flow, Stop> {
        for rule in rules {
            if let Some(flow) = self.step(chain, *rule, facts, surroundings, tally, depth)? {
                return Ok(flow);
            }
        }
        Ok(Flow::Return)
    }

    /// One rule, and the chain that it sends the packet to; `None` is "on with the next one".
    fn step(
        &self,
        chain: &CompiledChain,
        at: u32,
        facts: &mut Facts<'_>,
        surroundings: Surroundings<'_>,
        tally: &mut impl Tally,
        depth: usize,
    ) -> Result<Option<Flow>, Stop> {
        tally.held();
        let (target, returns) = match chain.apply(at, facts, surroundings, tally)? {
            CompiledVerdict::Continue => return Ok(None),
            CompiledVerdict::Accept => return Ok(Some(Flow::Accept)),
            CompiledVerdict::Drop => return Err(drop_at(surroundings.hook)),
            CompiledVerdict::Return => return Ok(Some(Flow::Return)),
            CompiledVerdict::Punt(reason) => return Err(Stop::Punt(reason)),
            CompiledVerdict::Nat(number) => return Ok(Some(Flow::Nat(number))),
            CompiledVerdict::Opaque => return Err(opaque_at(surroundings.hook)),
            CompiledVerdict::Jump(target) => (target, true),
            CompiledVerdict::Goto(target) => (target, false),
        };
        if depth == DEEPEST_JUMP {
            return Err(opaque_at(surroundings.hook));
        }
        match self.walk(target, facts, surroundings, tally, depth + 1)? {
            Flow::Return if returns => Ok(None),
            flow => Ok(Some(flow)),
        }
    }
}

impl CompiledChain {
    pub(super) fn compile(
        rules: &[ChainRule],
        family: Family,
        mut steps_of: impl FnMut(&ChainRule, &mut Vec<CompiledStep>),
    ) -> Self {
        let mut steps = Vec::new();
        let compiled = rules.iter().map(|rule| {
            let begin = steps.len() as u32;
            steps_of(rule, &mut steps);
            steps.push(CompiledStep::End);
            begin
        });
        let mut chain = CompiledChain { rules: compiled.collect(), steps: Box::default(), index: None };
        chain.steps = steps.into();
        chain.index = RuleIndex::of(&chain, family);
        chain
    }

    pub(super) fn rules(&self) -> &[u32] {
        &self.rules
    }

    /// The steps of a rule, and of those behind it.
    pub(super) fn steps(&self, rule: u32) -> &[CompiledStep] {
        &self.steps[rule as usize..]
    }

    /// Takes the rule's steps. [`Continue`](CompiledVerdict::Continue) is "on with the next rule".
    fn apply(
        &self,
        rule: u32,
        facts: &mut Facts<'_>,
        surroundings: Surroundings<'_>,
        tally: &mut impl Tally,
    ) -> Result<CompiledVerdict, Stop> {
        let opaque = Err(opaque_at(surroundings.hook));
        for step in self.steps(rule) {
            match step {
                CompiledStep::Match(one) => match one.holds(facts, surroundings) {
                    Holds::Yes => {}
                    Holds::No => return Ok(CompiledVerdict::Continue),
                    Holds::Maybe => return opaque,
                },
                CompiledStep::Count(counter) => {
                    facts.counted += 1;
                    tally.count(*counter);
                }
                CompiledStep::Mark { clear, flip } => {
                    facts.query.mark = Mark((facts.query.mark.0 & !clear) ^ flip);
                    facts.written.add(Field::Mark);
                }
                CompiledStep::MarkOf(of) => match of.map.find(&of.key, facts) {
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
                CompiledStep::Untrack => {
                    if facts.tracked.untrack() {
                        facts.written.add(Field::CtState);
                    }
                }
                CompiledStep::CtMark { clear, flip } => {
                    if let Some(mark) = facts.tracked.mark() {
                        facts.tracked.set_mark(Mark((mark.0 & !clear) ^ flip));
                        facts.written.add(Field::CtMark);
                    }
                }
                CompiledStep::SaveMark { clear, take, flip } => {
                    if let Some(mark) = facts.tracked.mark() {
                        let saved = (mark.0 & !clear) ^ (facts.query.mark.0 & take) ^ flip;
                        facts.tracked.set_mark(Mark(saved));
                        facts.written.add(Field::CtMark);
                    }
                }
                CompiledStep::RestoreMark { clear, take, flip } => {
                    if let Some(mark) = facts.tracked.mark() {
                        facts.query.mark = Mark((facts.query.mark.0 & !clear) ^ (mark.0 & take) ^ flip);
                        facts.written.add(Field::Mark);
                    }
                }
                CompiledStep::Verdict(verdict) => return Ok(*verdict),
                CompiledStep::VerdictOf(of) => {
                    return match of.map.find(&of.key, facts) {
                        Found::Element(verdict) => Ok(*verdict),
                        Found::None => Ok(CompiledVerdict::Continue),
                        Found::Unknown => opaque,
                    };
                }
                CompiledStep::Opaque => return opaque,
                CompiledStep::End => break,
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
