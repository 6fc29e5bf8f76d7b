//! An index of a large table: the longest match in few looks at memory that is likely not in the cache.
//!
//! What look-ups wait for is memory, so what counts is how many cache lines one touches, and that those of the next look-ups are fetched
//! meanwhile. IPv4 has DIR-24-8 in pages ([`direct`]). For that the prefixes of IPv6 are too far apart: behind arrays of 64 ([`Level`])
//! that stay in the cache, slots that are found by counting bits ([`slots`]) have buckets of a few prefixes that are compared all at once
//! ([`bucket`]), or lists of intervals where prefixes are many ([`intervals`]).
//!
//! Many addresses are looked up in stages, each of which touches one of these for all of them by a loop of few instructions: the fewer
//! there are between two loads, the more loads the processor has under way.
//!
//! Each step holds what ends within it alone, so a change rewrites no more than that, and copies share all but what has changed since.
//! Where a step has nothing, what the steps before have found counts; that is chosen without a branch, which could not be foretold and
//! would wait for memory.

mod bucket;
mod direct;
mod intervals;
mod slots;

use std::array::from_fn;
use std::hint::select_unpredictable;
use std::ops::Range;
use std::sync::Arc;

use crate::names::Family;
use direct::Direct;
use slots::Slots;

/// The value of the longest match and the length of its prefix, plus one; or nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Entry(u32);

const NUMBER: u32 = 23;
/// Whatever else it says, a step that has no place for more says so by this.
const FURTHER: u32 = 1 << 31;

/// Values below this fit into an entry.
pub(super) const VALUES: u32 = 1 << NUMBER;

impl Entry {
    const NONE: Entry = Entry(0);

    fn new(length: u32, value: u32) -> Self {
        Entry((length + 1) << NUMBER | value)
    }

    /// Plus one.
    fn length(self) -> u32 {
        (self.0 & !FURTHER) >> NUMBER
    }

    fn is_further(self) -> bool {
        self.0 & FURTHER != 0
    }

    fn without_further(self) -> Entry {
        Entry(self.0 & !FURTHER)
    }

    /// Unless it is nothing, this.
    #[inline]
    fn or(self, other: Entry) -> Entry {
        select_unpredictable(self == Entry::NONE, other, self)
    }

    /// The length and the number of the value.
    fn found(self) -> Option<(u32, u32)> {
        (self != Entry::NONE).then(|| (self.length() - 1, self.0 & (VALUES - 1)))
    }
}

/// A change of one prefix.
pub(super) struct Change {
    /// Its first bit is bit 127.
    pub(super) address: u128,
    pub(super) length: u32,
    /// What counts where it is the longest match: its value, or once it is removed the next shorter prefix that is left, with its length.
    pub(super) best: Option<(u32, u32)>,
    /// Whether it has been added or removed, or neither.
    pub(super) count: i32,
}

impl Change {
    /// Puts what counts now where the prefix is or would be the longest match, if that is longer than `before` bits.
    fn overwrite(&self, entry: &mut Entry, before: u32) {
        if entry.length() > self.length + 1 {
            return;
        }
        let new = match self.best {
            Some((length, value)) if length > before || before == 0 => Entry::new(length, value),
            _ => Entry::NONE,
        };
        entry.0 = entry.0 & FURTHER | new.0;
    }

    /// Puts the prefix itself, or nothing if it is removed.
    fn put(&self, entry: &mut Entry) {
        let new = match self.best {
            Some((length, value)) if length == self.length => Entry::new(length, value),
            _ => Entry::NONE,
        };
        entry.0 = entry.0 & FURTHER | new.0;
    }

    /// Its part of the slots for which the next `bits` bits behind `before` stand; not of a longer prefix.
    fn slots(&self, before: u32, bits: u32) -> Range<usize> {
        let first = slot(self.address, before, bits);
        first..first + (1 << (before + bits - self.length))
    }
}

/// The `bits` bits of an address behind the first `before` ones; those behind its last bit are zeros.
#[inline]
fn slot(address: u128, before: u32, bits: u32) -> usize {
    (address.unbounded_shl(before) >> (128 - bits)) as usize
}

/// Looks at some bits behind others that have been looked at.
trait Step: Clone + Default {
    /// The last step of the address's way, and the longest match of those that end before, or else `best`.
    fn reach(&self, address: u128, best: Entry) -> (&Slots, Entry);
    fn change(&mut self, change: &Change);
    /// Whether it says what `empty` does, which has nothing.
    fn is(&self, empty: &Self) -> bool;
}

type Levels6 = Level<Arc<Level<Arc<Level<Arc<Level<Slots, 18>>, 12>>, 6>>, 0>;

#[derive(Clone, Debug)]
pub(super) enum Index {
    V4(Direct),
    V6(Arc<Levels6>),
}

impl Index {
    pub(super) fn new(family: Family) -> Self {
        match family {
            Family::V4 => Index::V4(Direct::default()),
            Family::V6 => Index::V6(Arc::default()),
        }
    }

    /// The longest match: its length, and the number of its value.
    #[inline]
    pub(super) fn longest(&self, address: u128) -> Option<(u32, u32)> {
        match self {
            Index::V4(direct) => {
                let branch = direct.branch(address);
                branch.longest(address, branch.entry(address))
            }
            Index::V6(levels) => longest6(levels, address),
        }
        .found()
    }

    /// The same of many addresses, in stages: each asks memory for what the next one needs of all the addresses, instead of waiting
    /// for one of them.
    #[inline]
    pub(super) fn longest_of<const N: usize>(
        &self,
        addresses: &[u128; N],
        mut found: impl FnMut(usize, Option<(u32, u32)>),
    ) {
        match self {
            Index::V4(direct) => {
                let branches: [_; N] = from_fn(|at| direct.branch(addresses[at]));
                let entries: [_; N] = from_fn(|at| branches[at].entry(addresses[at]));
                for (at, branch) in branches.into_iter().enumerate() {
                    found(at, branch.longest(addresses[at], entries[at]).found());
                }
            }
            Index::V6(levels) => {
                let ends: [_; N] = from_fn(|at| levels.reach(addresses[at], Entry::NONE));
                let buckets: [_; N] = from_fn(|at| ends[at].0.bucket(addresses[at]));
                let far: [_; N] = from_fn(|at| buckets[at].far());
                let far: [_; N] = from_fn(|at| far[at].longest(slots::key(addresses[at])));
                for (at, (slots, best)) in ends.into_iter().enumerate() {
                    found(at, slots.longest(addresses[at], buckets[at], far[at], best).found());
                }
            }
        }
    }

    pub(super) fn change(&mut self, change: &Change) {
        match self {
            Index::V4(direct) => direct.change(change),
            Index::V6(levels) => levels.change(change),
        }
    }
}

/// Apart, so that IPv4 need not save the registers that this takes.
#[inline(never)]
fn longest6(levels: &Levels6, address: u128) -> Entry {
    let (slots, best) = levels.reach(address, Entry::NONE);
    let bucket = slots.bucket(address);
    slots.longest(address, bucket, bucket.far().longest(slots::key(address)), best)
}

const FORK: usize = 64;

/// Looks at six bits.
#[derive(Clone, Debug)]
pub(super) struct Level<T, const BEFORE: u32> {
    /// Of the prefixes that end within the six bits.
    entries: [Entry; FORK],
    /// What comes behind.
    next: [T; FORK],
    /// What comes where nothing does.
    empty: T,
}

impl<T: Default + Clone, const BEFORE: u32> Default for Level<T, BEFORE> {
    fn default() -> Self {
        let empty = T::default();
        Level { entries: [Entry::NONE; FORK], next: from_fn(|_| empty.clone()), empty }
    }
}

impl<T: Step, const BEFORE: u32> Step for Level<T, BEFORE> {
    #[inline(always)]
    fn reach(&self, address: u128, best: Entry) -> (&Slots, Entry) {
        let at = slot(address, BEFORE, 6);
        self.next[at].reach(address, self.entries[at].or(best))
    }

    fn change(&mut self, change: &Change) {
        if change.length <= BEFORE + 6 {
            for entry in &mut self.entries[change.slots(BEFORE, 6)] {
                change.overwrite(entry, BEFORE);
            }
            return;
        }
        let next = &mut self.next[slot(change.address, BEFORE, 6)];
        next.change(change);
        if next.is(&self.empty) {
            *next = self.empty.clone();
        }
    }

    fn is(&self, _: &Self) -> bool {
        self.entries == [Entry::NONE; FORK] && self.next.iter().all(|next| next.is(&self.empty))
    }
}

/// Copies share it until it changes.
impl<T: Step> Step for Arc<T> {
    #[inline(always)]
    fn reach(&self, address: u128, best: Entry) -> (&Slots, Entry) {
        (**self).reach(address, best)
    }

    fn change(&mut self, change: &Change) {
        Arc::make_mut(self).change(change);
    }

    fn is(&self, empty: &Self) -> bool {
        Arc::ptr_eq(self, empty) || (**self).is(empty)
    }
}
