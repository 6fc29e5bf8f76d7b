//! Netfilter: what the chains on PREROUTING, FORWARD and POSTROUTING do to a packet, and guards for what is not evaluated.
//!
//! Rules work on the [`Query`](crate::Query) itself, as the kernel's work on the packet: a mark, a TOS or a TTL that one has set is what the next
//! one sees. Nothing else is changed, so a walk that ends in a punt leaves no trace.
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
mod facts;
mod guard;
mod matching;
mod nat;
mod nat_ports;
mod set;
mod turns;

use std::collections::HashMap;
use std::sync::Arc;

use crate::compile::Policy;
use crate::config::{BaseChain, ChainPolicy, Conntrack, CounterSlot, Hook, Link};
use crate::connection::{Manip, Tracking};
use crate::names::Family;
use crate::outcome::{DropReason, PuntReason, Stop};
use chain::{CompiledBase, Flow};
pub(crate) use compiler::Compiler;
pub(crate) use facts::{Facts, FieldSet};
pub(crate) use guard::CompiledGuard;

/// Chains nested deeper are punted. The kernel's own bound for nftables is 16 (`NFT_JUMP_STACK_SIZE`).
pub(crate) const DEEPEST_JUMP: usize = 64;

/// Hears which rules have matched a packet, in their order.
pub trait Tally {
    fn count(&mut self, slot: CounterSlot);

    /// A rule is held against the packet: how many are is what the packet costs.
    fn held(&mut self) {}
}

/// Nobody wants to know.
pub struct Uncounted;

impl Tally for Uncounted {
    fn count(&mut self, _: CounterSlot) {}
}

/// The chains of one family.
#[derive(Debug, Default)]
pub(crate) struct Chains {
    /// By [`Hook`], in the kernel's order.
    hooks: [Vec<Station>; Hook::ALL.len()],
    /// Chains of type nat, by hook.
    nat: [Vec<CompiledBase>; Hook::ALL.len()],
    /// Some rule asks for the tuples of connections.
    asks_tuples: bool,
    /// All counters have lower numbers.
    slots: usize,
}

/// What stands on a hook.
#[derive(Debug)]
enum Station {
    Chains(Group),
    /// `ipv4_conntrack_in`
    Track,
    /// `nf_nat_ipv4_pre_routing`, `nf_nat_ipv4_out`
    Nat(Manip),
    /// A chain of the same priority as one of the two above, of which nobody knows which comes first.
    Unknown,
}

/// Chains of one priority; several only if their order is not known.
#[derive(Debug)]
struct Group(Vec<CompiledBase>);

/// `NF_IP_PRI_CONNTRACK`, `NF_IP_PRI_NAT_DST`, `NF_IP_PRI_NAT_SRC`; IPv6 has the same.
const CONNTRACK: i32 = -200;
const NAT_DST: i32 = -100;
const NAT_SRC: i32 = 100;

/// What a rule may ask besides the packet.
#[derive(Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) family: Family,
    pub(crate) hook: Hook,
}

impl Chains {
    pub(crate) fn compile(family: Family, chains: &[BaseChain], links: &[Link], conntrack: Conntrack) -> Self {
        let mut compiler = Compiler::new(family, links);
        let mut compiled = Chains::default();
        let mut ours = own_stations(conntrack);
        for chain in chains.iter().filter(|chain| chain.family == family) {
            compiled.slots =
                chain.all_rules().fold(compiled.slots, |slots, rule| slots.max(rule.counter.0 as usize + 1));
            let base = compiler.base(chain);
            compiled.asks_tuples |= base.reads.meets(FieldSet::tuples());
            if chain.nat {
                compiled.nat[chain.hook as usize].push(base);
                continue;
            }
            let stations = &mut compiled.hooks[chain.hook as usize];
            let ours = &mut ours[chain.hook as usize];
            while let Some((_, station)) = ours.pop_if(|(priority, _)| *priority < chain.priority) {
                stations.push(station);
            }
            if ours.last().is_some_and(|(priority, _)| *priority == chain.priority) {
                stations.push(Station::Unknown);
                continue;
            }
            match stations.last_mut() {
                Some(Station::Chains(group)) if chain.unordered => group.0.push(base),
                _ => stations.push(Station::Chains(Group(vec![base]))),
            }
        }
        for (stations, ours) in compiled.hooks.iter_mut().zip(ours) {
            stations.extend(ours.into_iter().rev().map(|(_, station)| station));
        }
        compiled
    }

    pub(crate) fn slots(&self) -> usize {
        self.slots
    }

    /// Passes the packet through one hook. Each base chain sees what the one before has left; ACCEPT ends only its own.
    ///
    /// # Errors
    ///
    /// How the packet ends here.
    pub(crate) fn pass(
        &self,
        hook: Hook,
        facts: &mut Facts<'_>,
        policy: &Policy,
        tracking: &mut impl Tracking,
        tally: &mut impl Tally,
    ) -> Result<(), Stop> {
        let surroundings = Surroundings { policy, family: facts.query.family(), hook };
        for station in &self.hooks[hook as usize] {
            match station {
                Station::Chains(Group(chains)) => match &chains[..] {
                    [chain] => chain.pass(facts, surroundings, tally)?,
                    chains => pass_unordered(chains, facts, surroundings, tally)?,
                },
                Station::Track => self.track(facts, tracking)?,
                Station::Nat(manip) => self.translate(*manip, facts, surroundings, tracking, tally)?,
                Station::Unknown => return Err(Stop::Punt(PuntReason::ChainOrder)),
            }
        }
        Ok(())
    }
}

/// Where conntrack and nat stand on each hook: the last one comes first.
fn own_stations(conntrack: Conntrack) -> [Vec<(i32, Station)>; Hook::ALL.len()] {
    let (tracks, translates) = (conntrack != Conntrack::Off, conntrack == Conntrack::Translates);
    Hook::ALL.map(|hook| {
        let all = match hook {
            Hook::Prerouting => {
                vec![
                    (translates, NAT_DST, Station::Nat(Manip::Destination)),
                    (tracks, CONNTRACK, Station::Track),
                ]
            }
            Hook::Forward => Vec::new(),
            Hook::Postrouting => vec![(translates, NAT_SRC, Station::Nat(Manip::Source))],
        };
        all.into_iter().filter(|(there, ..)| *there).map(|(_, priority, station)| (priority, station)).collect()
    })
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
    let (mut drops, mut traces, mut drop, mut clash) = (0, 0, None, false);
    for (number, chain) in chains.iter().enumerate() {
        let mut own = came;
        match chain.pass(&mut own, surroundings, tally) {
            Ok(()) if own.written.is_empty() => {}
            Ok(()) => {
                clash |= writer.is_some();
                writer = Some((number, own));
            }
            Err(stop @ Stop::Drop(_)) => (drops, drop) = (drops + 1, Some((stop, own.counted > 0))),
            Err(punt) => return Err(punt),
        }
        traces += u32::from(own.counted > 0);
    }
    match drop {
        _ if clash => return unknown,
        // Who comes before the one that drops counts, who comes behind it does not.
        Some((stop, counted)) if traces == u32::from(counted && drops == 1) => return Err(stop),
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
        match self.run(facts, surroundings, tally)? {
            // Only in chains of type nat.
            Flow::Accept | Flow::Nat(_) => Ok(()),
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
