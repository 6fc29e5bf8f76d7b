//! Netfilter: what the chains on PREROUTING, FORWARD and POSTROUTING do to a packet, and guards for what is not evaluated.
//!
//! Rules work on the [`Query`](crate::Query) itself, as the kernel's work on the packet: a mark, a TOS or a TTL that one has set is what the next
//! one sees. Nothing else is changed, so a walk that ends in a punt leaves no trace.
//!
//! Conntrack and nat have their own places among the chains: a [`Stretch`] is what lies between them. Translation changes addresses and
//! ports, so it never happens inside of a chain.
//!
//! A long chain is not walked rule by rule. An [index](crate::index) over the tests with which its rules begin tells which rules a packet
//! can match; those are applied in their order, as the walk would, and the others would have done nothing. Rules that are found by
//! the mark, the TOS, the TTL or the MSS only are looked up anew when a rule has changed one of these. Sets of ranges over several
//! fields and the `ip rule`s are asked by the same index.
//!
//! - A packet costs a search in each view (a field under a mask), and the rules that match it or share its rarest number: not their
//!   length.
//! - Worst case: rules that all match, that begin with the same tests, or that begin with nothing the index knows (negations, sets of more
//!   than 16 elements, `--ports`, address types, opaque tests, more than 16 masks of one field) are each looked at once, as in the kernel:
//!   never more often than in a walk. Chains in which packets change again and again what rules are found by, or in which more than 32
//!   nested prefixes hold a packet, are walked.
//! - Compiling is `n log n`, memory is linear: a rule stands in at most 16 lists, mostly in one.

mod chain;
mod compiler;
mod connection;
mod facts;
mod guard;
mod masquerade;
mod matching;
mod nat;
mod set;
mod turns;

use std::collections::HashMap;
use std::sync::Arc;

use crate::compile::Policy;
use crate::config::{BaseChain, ChainPolicy, Conntrack, CounterSlot, Field, Hook, Link, NatTo};
use crate::connection::Manip;
use crate::names::Family;
use crate::outcome::{DropReason, PuntReason, Stop};
use crate::query::Query;
use crate::translated::nat_of;
use chain::{CompiledBase, Flow};
pub(crate) use compiler::Compiler;
pub(crate) use facts::{Facts, FieldSet};
pub(crate) use guard::CompiledGuard;
pub(crate) use masquerade::Masquerade;

/// Chains nested deeper are punted. The kernel's own bound for nftables is 16 (`NFT_JUMP_STACK_SIZE`).
pub(crate) const DEEPEST_JUMP: usize = 64;

/// Hears which rules have matched a packet, in their order.
pub trait Tally {
    fn count(&mut self, slot: CounterSlot);

    /// A rule is held against the packet: how many are is what the packet costs.
    fn held(&mut self) {}

    /// The packet as PREROUTING has left it: that is what `ip rule` and the tables are asked about.
    fn routed(&mut self, _: &Query) {}
}

/// Nobody wants to know.
pub struct Uncounted;

impl Tally for Uncounted {
    fn count(&mut self, _: CounterSlot) {}
}

/// The chains of one family.
#[derive(Debug, Default)]
pub(crate) struct Chains {
    /// By [`Stretch`], in the kernel's order.
    stretches: [Vec<Group>; Stretch::ALL.len()],
    /// Those of type nat, by [`Manip`].
    nat: [Vec<Group>; 2],
    /// All counters have lower numbers.
    slots: usize,
    /// All that their rules look at or change.
    reads: FieldSet,
    /// One of these that differs between packets of one flow, if there is any.
    varies: Option<Field>,
    has_source_pools: bool,
}

/// A part of a packet's way on which nobody but rules changes anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stretch {
    /// PREROUTING before conntrack.
    Untracked,
    /// PREROUTING between conntrack and the translation of the destination.
    Tracked,
    /// PREROUTING behind it.
    Destined,
    Forward,
    /// POSTROUTING before the translation of the source.
    Leaving,
    /// POSTROUTING behind it.
    Left,
}

/// Places of conntrack and nat on their hooks (`NF_IP_PRI_*`, `NF_IP6_PRI_*`).
const CONNTRACK: i32 = -200;
const NAT_DST: i32 = -100;
const NAT_SRC: i32 = 100;

impl Stretch {
    const ALL: [Stretch; 6] =
        [Stretch::Untracked, Stretch::Tracked, Stretch::Destined, Stretch::Forward, Stretch::Leaving, Stretch::Left];

    fn of(chain: &BaseChain) -> Self {
        match chain.hook {
            Hook::Prerouting if chain.priority <= CONNTRACK => Stretch::Untracked,
            Hook::Prerouting if chain.priority <= NAT_DST => Stretch::Tracked,
            Hook::Prerouting => Stretch::Destined,
            Hook::Forward => Stretch::Forward,
            Hook::Postrouting if chain.priority <= NAT_SRC => Stretch::Leaving,
            Hook::Postrouting => Stretch::Left,
        }
    }

    fn hook(self) -> Hook {
        match self {
            Stretch::Untracked | Stretch::Tracked | Stretch::Destined => Hook::Prerouting,
            Stretch::Forward => Hook::Forward,
            Stretch::Leaving | Stretch::Left => Hook::Postrouting,
        }
    }
}

/// Whether conntrack or nat stands on the hook with the same priority: which one the kernel runs first cannot be seen.
fn has_rival(chain: &BaseChain, conntrack: Conntrack) -> bool {
    match (chain.hook, chain.priority) {
        (Hook::Prerouting, CONNTRACK) => conntrack != Conntrack::Off,
        (Hook::Prerouting, NAT_DST) | (Hook::Postrouting, NAT_SRC) => conntrack == Conntrack::Translates,
        _ => false,
    }
}

/// What the kernel does about connections. The first chain of type nat begins to translate, whatever is said of it.
pub(crate) fn conntrack_of(family: Family, chains: &[BaseChain], conntrack: [Conntrack; 2]) -> Conntrack {
    let translates = chains.iter().any(|chain| chain.family == family && chain.nat && chain.hook != Hook::Forward);
    if translates { Conntrack::Translates } else { conntrack[family as usize] }
}

/// Whether one of several addresses may be taken.
fn has_pools(chain: &BaseChain) -> bool {
    let nats = chain.all_rules().flat_map(|rule| &rule.steps).flat_map(nat_of);
    nats.into_iter().any(|nat| matches!(nat.to, NatTo::Addresses(Some((first, last))) if first != last))
}

/// Chains of one priority; several only if their order is not known.
#[derive(Debug)]
struct Group(Vec<CompiledBase>);

/// What a rule may ask besides the packet.
#[derive(Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) family: Family,
    pub(crate) hook: Hook,
}

impl Chains {
    pub(crate) fn compile(family: Family, chains: &[BaseChain], conntrack: Conntrack, links: &[Link]) -> Self {
        let mut compiler = Compiler::new(family, links);
        let mut compiled = Chains::default();
        for chain in chains.iter().filter(|chain| chain.family == family) {
            compiled.slots =
                chain.all_rules().fold(compiled.slots, |slots, rule| slots.max(rule.counter.0 as usize + 1));
            let nat = chain.nat && chain.hook != Hook::Forward;
            let groups = match chain.hook {
                Hook::Postrouting if nat => &mut compiled.nat[Manip::Source as usize],
                _ if nat => &mut compiled.nat[Manip::Destination as usize],
                _ => &mut compiled.stretches[Stretch::of(chain) as usize],
            };
            let base = compiler.base(chain, !nat && has_rival(chain, conntrack));
            compiled.reads = compiled.reads.with(base.reads);
            compiled.has_source_pools |= nat && chain.hook == Hook::Postrouting && has_pools(chain);
            // Nat is asked for the first packet of a connection only.
            compiled.varies = compiled.varies.or(base.varies.filter(|_| !nat));
            match groups.last_mut() {
                Some(group) if chain.unordered => group.0.push(base),
                _ => groups.push(Group(vec![base])),
            }
        }
        compiled
    }

    pub(crate) fn slots(&self) -> usize {
        self.slots
    }

    /// See [`Policy::varies`].
    pub(crate) fn varies(&self) -> Option<Field> {
        self.varies
    }

    /// See [`Policy::has_source_pools`].
    pub(crate) fn has_source_pools(&self) -> bool {
        self.has_source_pools
    }

    /// Whether rules look at the tuples of connections.
    pub(crate) fn asks_tuples(&self) -> bool {
        self.reads.meets(FieldSet::TUPLES)
    }

    /// Passes the packet through one stretch of its way. Each base chain sees what the one before has left; ACCEPT ends only its own.
    ///
    /// # Errors
    ///
    /// How the packet ends here.
    pub(crate) fn pass(
        &self,
        stretch: Stretch,
        facts: &mut Facts<'_>,
        policy: &Policy,
        tally: &mut impl Tally,
    ) -> Result<(), Stop> {
        let surroundings = Surroundings { policy, family: facts.query.family(), hook: stretch.hook() };
        for group in &self.stretches[stretch as usize] {
            match &group.0[..] {
                [chain] => chain.pass(facts, surroundings, tally)?,
                chains => pass_unordered(chains, facts, surroundings, tally)?,
            }
        }
        Ok(())
    }
}

/// Runs each of the chains on the packet as it comes to them. What they come to stands if it is the same in any order; a packet for
/// which it is not is the kernel's.
fn pass_unordered(
    chains: &[CompiledBase],
    facts: &mut Facts<'_>,
    surroundings: Surroundings<'_>,
    tally: &mut impl Tally,
) -> Result<(), Stop> {
    let unknown = Err(Stop::Punt(PuntReason::ChainOrder));
    let came = Facts { written: FieldSet::default(), counted: 0, ..*facts };
    let mut writer: Option<(usize, Facts<'_>)> = None;
    // A packet that is dropped leaves the counters of rules and its connection's mark.
    let leaves = |facts: &Facts<'_>| facts.counted > 0 || facts.written.meets(FieldSet::of(&[Field::CtMark]));
    let (mut drops, mut traces, mut drop, mut clash) = (0, 0, None, false);
    for (number, chain) in chains.iter().enumerate() {
        let mut own = came;
        match chain.pass(&mut own, surroundings, tally) {
            Ok(()) if own.written.is_empty() => {}
            Ok(()) => {
                clash |= writer.is_some();
                writer = Some((number, own));
            }
            Err(stop @ Stop::Drop(_)) => (drops, drop) = (drops + 1, Some((stop, own))),
            Err(punt) => return Err(punt),
        }
        traces += u32::from(leaves(&own));
    }
    match drop {
        _ if clash => return unknown,
        // Who comes before the one that drops counts, who comes behind it does not.
        Some((stop, own)) if traces == u32::from(leaves(&own) && drops == 1) => {
            facts.tracked = own.tracked;
            return Err(stop);
        }
        Some(_) => return unknown,
        None => {}
    }
    if let Some((writer, own)) = writer {
        let reads = |(number, chain): (usize, &CompiledBase)| number != writer && chain.reads.meets(own.written);
        if chains.iter().enumerate().any(reads) {
            return unknown;
        }
        *facts = Facts { written: facts.written.with(own.written), counted: facts.counted, ..own };
    }
    Ok(())
}

impl CompiledBase {
    fn pass(&self, facts: &mut Facts<'_>, surroundings: Surroundings<'_>, tally: &mut impl Tally) -> Result<(), Stop> {
        if self.has_rival && !self.is_empty() {
            return Err(Stop::Punt(PuntReason::ChainOrder));
        }
        match self.run(facts, surroundings, tally)? {
            // Nothing but a chain of type nat has such a verdict.
            Flow::Nat(_) => Err(opaque_at(surroundings.hook)),
            Flow::Accept => Ok(()),
            Flow::Return if self.policy == ChainPolicy::Accept => Ok(()),
            Flow::Return => Err(drop_at(surroundings.hook)),
        }
    }
}

fn drop_at(hook: Hook) -> Stop {
    Stop::Drop(DropReason::at(hook))
}

fn opaque_at(hook: Hook) -> Stop {
    Stop::Punt(PuntReason::opaque_at(hook))
}

/// What is compiled once for all that share it: by the address of what it is made of.
type Shared<T> = HashMap<*const (), Arc<T>>;
