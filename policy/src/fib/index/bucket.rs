//! A few prefixes of up to sixteen bits, all compared at once: by far the most IPv6 networks of 32 bits have so few within them. All of one is
//! in one cache line, or two. Where there are more, [`Intervals`] have them.

use std::hint::select_unpredictable;
use std::sync::Arc;

use super::intervals::Intervals;
use super::{Change, Entry, FURTHER, slot};

pub(super) const KEY: u32 = 16;

/// So many are compared by one instruction. The second line has room for fewer entries, because of what stands behind them.
const LANES: usize = 8;
const FAR: usize = 6;

#[derive(Clone, Debug, Default, PartialEq)]
#[repr(C, align(64))]
pub(super) struct Bucket {
    /// Its first lane is of the prefixes that end before the key, and says whether there is more than fits.
    near: Few<LANES>,
    /// What is longer than all of these.
    far: Few<FAR>,
    /// Instead of all that end within the key. It stays until the last of them goes.
    many: Option<Arc<Intervals>>,
}

/// Prefixes in order of length, none in the first lane.
#[derive(Clone, Debug, PartialEq)]
#[repr(C)]
pub(super) struct Few<const N: usize> {
    bits: [u16; LANES],
    masks: [u16; LANES],
    entries: [Entry; N],
}

/// A prefix within the key: its mask, its bits and what is said of it.
type Inside = (u16, u16, Entry);

impl<const N: usize> Few<N> {
    /// The first lane matches always, the others never.
    const NOTHING: Self = Few { bits: [0, 1, 1, 1, 1, 1, 1, 1], masks: [0; LANES], entries: [Entry::NONE; N] };

    #[inline(always)]
    pub(super) fn longest(&self, key: u16) -> Entry {
        // Said by arithmetic, it becomes few instructions for all lanes, and no branch.
        let mut hits = 0u16;
        for lane in 0..LANES {
            let all = u16::from(key & self.masks[lane] == self.bits[lane]).wrapping_neg();
            hits |= all & 2 << lane;
        }
        let last = 14 - hits.leading_zeros();
        self.entries.get(last as usize).copied().unwrap_or(Entry::NONE)
    }

    fn fill(&mut self, prefixes: &[Inside]) {
        for (lane, (mask, bits, entry)) in (1..).zip(prefixes) {
            (self.masks[lane], self.bits[lane], self.entries[lane]) = (*mask, *bits, *entry);
        }
    }

    fn prefixes(&self) -> impl Iterator<Item = Inside> {
        let lanes = self.masks.iter().zip(&self.bits).zip(&self.entries).skip(1);
        lanes.map(|((mask, bits), entry)| (*mask, *bits, *entry)).take_while(|(_, _, entry)| *entry != Entry::NONE)
    }
}

impl<const N: usize> Default for Few<N> {
    fn default() -> Self {
        Self::NOTHING
    }
}

impl Bucket {
    /// Where the longer prefixes are. It is the second line, which is not touched if it is empty.
    #[inline(always)]
    pub(super) fn far(&self) -> &Few<FAR> {
        const NONE: &Few<FAR> = &Few::NOTHING;
        select_unpredictable(self.near.entries[LANES - 1] == Entry::NONE, NONE, &self.far)
    }

    /// The longest match, from what [`Bucket::far`] has. If it says that there is more, [`Bucket::longest`] has the answer.
    #[inline(always)]
    pub(super) fn with_far(&self, far: Entry, key: u16) -> Entry {
        far.or(self.near.longest(key))
    }

    /// The longest match, or else `best`; and whether there are prefixes behind the key.
    pub(super) fn longest(&self, key: u16, best: Entry) -> (Entry, bool) {
        let best = self.near.entries[0].without_further().or(best);
        if let Some(many) = &self.many {
            let entry = many.find(key);
            return (entry.without_further().or(best), entry.is_further());
        }
        self.prefixes()
            .filter(|(mask, bits, _)| key & mask == *bits)
            .fold((best, false), |(best, _), (_, _, entry)| (entry.without_further().or(best), entry.is_further()))
    }

    /// Of the prefixes that end before the key.
    pub(super) fn best_mut(&mut self) -> &mut Entry {
        &mut self.near.entries[0]
    }

    /// A change of a prefix that ends within the key, which begins at the bit `before`.
    pub(super) fn change(&mut self, before: u32, change: &Change) {
        let bits = slot(change.address, before, KEY) as u16;
        let mask = u16::MAX << (before + KEY - change.length);
        self.edit(mask, bits, |entry| change.put(entry), |entry| change.overwrite(entry, before));
    }

    /// That there are prefixes behind this key, or no more.
    pub(super) fn turn_further(&mut self, key: u16) {
        let turn = |entry: &mut Entry| entry.0 ^= FURTHER;
        self.edit(u16::MAX, key, turn, turn);
    }

    /// Changes what is said of one prefix, or of all keys within it where there are many.
    fn edit(&mut self, mask: u16, bits: u16, one: impl Fn(&mut Entry), within: impl Fn(&mut Entry)) {
        if let Some(many) = &mut self.many {
            let intervals = Arc::make_mut(many);
            intervals.edit(usize::from(bits)..usize::from(bits | !mask) + 1, within);
            if intervals.is_empty() {
                self.many = None;
                self.near.entries[0] = self.near.entries[0].without_further();
            }
            return;
        }
        let mut prefixes: Vec<Inside> = self.prefixes().collect();
        let at = prefixes.partition_point(|(other, there, _)| (*other, *there) < (mask, bits));
        if prefixes.get(at).is_none_or(|(other, there, _)| (*other, *there) != (mask, bits)) {
            prefixes.insert(at, (mask, bits, Entry::NONE));
        }
        one(&mut prefixes[at].2);
        if prefixes[at].2 == Entry::NONE {
            prefixes.remove(at);
        }
        self.fill(&prefixes);
    }

    fn prefixes(&self) -> impl Iterator<Item = Inside> {
        self.near.prefixes().chain(self.far.prefixes())
    }

    /// With the prefixes that end within the key, in order of length.
    fn fill(&mut self, prefixes: &[Inside]) {
        let best = self.near.entries[0];
        *self = Bucket::default();
        if prefixes.len() > LANES - 1 + FAR - 1 {
            let mut many = Intervals::default();
            for (mask, bits, entry) in prefixes {
                many.edit(usize::from(*bits)..usize::from(bits | !mask) + 1, |longest| {
                    longest.0 = entry.without_further().or(*longest).0 | entry.0 & FURTHER;
                });
            }
            self.many = Some(Arc::new(many));
            self.near.entries[0] = Entry(best.0 | FURTHER);
            return;
        }
        let (near, far) = prefixes.split_at(prefixes.len().min(LANES - 1));
        self.near.fill(near);
        self.far.fill(far);
        self.near.entries[0] = best;
    }
}
