//! Counters of netfilter rules, for the packets that the kernel does not see.

use std::array;
use std::sync::OnceLock;

use shunt_policy::Tally;
use shunt_policy::config::CounterSlot;

use crate::counters::Counter;

/// Counters in one piece of memory.
const PIECE: usize = 1024;
/// Pieces at most: rules beyond a million are evaluated, but not counted.
const PIECES: usize = 1024;
/// Rules that a packet can hit without more memory being asked for.
const HITS: usize = 256;

/// One worker's counters of rules, by their slots. Written by that worker alone, but for new pieces, which the control side adds
/// before it publishes a policy that needs them ([`OnceLock`]'s Release and Acquire).
pub(crate) struct RuleCounters {
    pieces: [OnceLock<Box<[RuleCounter; PIECE]>>; PIECES],
}

#[derive(Default)]
struct RuleCounter {
    packets: Counter,
    /// Of IP packets, headers included.
    bytes: Counter,
}

/// What a rule has counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RuleCount {
    pub packets: u64,
    pub bytes: u64,
}

impl Default for RuleCounters {
    fn default() -> Self {
        RuleCounters { pieces: array::from_fn(|_| OnceLock::new()) }
    }
}

impl RuleCounters {
    /// Makes room for so many slots. By the control side.
    pub(crate) fn reserve(&self, slots: usize) {
        for piece in self.pieces.iter().take(slots.div_ceil(PIECE)) {
            piece.get_or_init(|| Box::new(array::from_fn(|_| RuleCounter::default())));
        }
    }

    fn counter(&self, slot: CounterSlot) -> Option<&RuleCounter> {
        let slot = slot.0 as usize;
        self.pieces.get(slot / PIECE)?.get()?.get(slot % PIECE)
    }

    /// By the worker.
    pub(crate) fn add(&self, slot: CounterSlot, packets: u64, bytes: u64) {
        if let Some(counter) = self.counter(slot) {
            counter.packets.add(packets);
            counter.bytes.add(bytes);
        }
    }

    pub(crate) fn value(&self, slot: CounterSlot) -> RuleCount {
        let of = |counter: &RuleCounter| RuleCount { packets: counter.packets.value(), bytes: counter.bytes.value() };
        self.counter(slot).map_or(RuleCount::default(), of)
    }

    /// Counts for the rules that a packet of this many bytes has hit, now that it is certain that the kernel will not.
    pub(crate) fn settle(&self, hits: &Hits, bytes: u32) {
        hits.0.iter().for_each(|slot| self.add(*slot, 1, bytes.into()));
    }
}

/// The rules that one packet has hit so far. Has room for the most that a packet has ever hit.
pub(crate) struct Hits(Vec<CounterSlot>);

impl Default for Hits {
    fn default() -> Self {
        Hits(Vec::with_capacity(HITS))
    }
}

impl Hits {
    /// Before the next packet.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn any(&self) -> bool {
        !self.0.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Their slots, if they are no more than this; what is not used is 0.
    pub(crate) fn few<const MOST: usize>(&self) -> Option<[u32; MOST]> {
        (self.len() <= MOST).then(|| array::from_fn(|at| self.0.get(at).map_or(0, |slot| slot.0)))
    }
}

impl Tally for Hits {
    fn count(&mut self, slot: CounterSlot) {
        self.0.push(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_room_is_not_counted_and_harms_nobody() {
        let counters = RuleCounters::default();
        counters.reserve(1500);
        for slot in [0, 1500, 2047, 2048, u32::MAX] {
            counters.add(CounterSlot(slot), 1, 60);
            counters.add(CounterSlot(slot), 1, 40);
        }
        let two = RuleCount { packets: 2, bytes: 100 };
        assert_eq!(
            [0, 1, 1500, 2047].map(|slot| counters.value(CounterSlot(slot))),
            [two, RuleCount::default(), two, two]
        );
        assert_eq!(counters.value(CounterSlot(2048)), RuleCount::default());
        counters.reserve(usize::MAX);
        assert_eq!(counters.value(CounterSlot(u32::MAX)), RuleCount::default());
    }
}
