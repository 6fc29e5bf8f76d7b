//! What IPv6 prefixes say beyond /24: eight bits by counting bits, as in a poptrie (Asai, Ohara 2015), then sixteen by a bucket. That is up
//! to /48; prefixes beyond have steps of their own, which are few in the tables of the Internet and found by a branch that is foretold well.

use std::ops::Range;
use std::sync::Arc;

use super::bucket::{Bucket, KEY};
use super::{Change, Entry, Step, slot};

/// Bits of an address that have been looked at when the first of these is reached.
const FIRST: u32 = 24;
const SLOT: u32 = 8;
const BITS: u32 = SLOT + KEY;

const SLOTS: usize = 1 << SLOT;
const WORDS: usize = SLOTS / 64;

/// Looks at 24 bits. One line, which stands in the array of the step before.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(in crate::fib) struct Slots {
    /// At which of the slots another bucket is in force than at the slot before; never the first, whose bucket is the first.
    begins: [u64; WORDS],
    buckets: Arc<[Bucket]>,
    /// What is longer, by the 24 bits, in rising order.
    further: Option<Arc<Vec<Further>>>,
    /// How many of `begins` stand in the words before.
    before: [u8; WORDS],
}

type Further = (u32, Arc<Slots>);

impl Default for Slots {
    fn default() -> Self {
        Slots { begins: [0; WORDS], buckets: Arc::new([Bucket::default()]), further: None, before: [0; WORDS] }
    }
}

impl Step for Slots {
    #[inline(always)]
    fn reach(&self, _: u128, best: Entry) -> (&Slots, Entry) {
        (self, best)
    }

    fn change(&mut self, change: &Change) {
        self.change_behind(FIRST, change);
    }

    fn is(&self, empty: &Self) -> bool {
        Arc::ptr_eq(&self.buckets, &empty.buckets) && self.further.is_none() || self.is_empty()
    }
}

#[inline(always)]
pub(super) fn key(address: u128) -> u16 {
    slot(address, FIRST + SLOT, KEY) as u16
}

impl Slots {
    #[inline(always)]
    pub(super) fn bucket(&self, address: u128) -> &Bucket {
        &self.buckets[self.at(slot(address, FIRST, SLOT))]
    }

    /// The longest match, from what stands before; or else `best`.
    #[inline(always)]
    pub(super) fn longest(&self, address: u128, bucket: &Bucket, far: Entry, best: Entry) -> Entry {
        let entry = bucket.with_far(far, key(address));
        if entry.is_further() {
            return self.longest_further(address, best);
        }
        entry.or(best)
    }

    fn is_empty(&self) -> bool {
        self.further.is_none() && matches!(&*self.buckets, [one] if *one == Bucket::default())
    }

    /// The place of a slot's bucket.
    #[inline(always)]
    fn at(&self, slot: usize) -> usize {
        let begun = self.begins[slot / 64] & (u64::MAX >> (63 - slot % 64));
        usize::from(self.before[slot / 64]) + begun.count_ones() as usize
    }

    /// As [`Slots::longest`], where there are many prefixes, or longer ones.
    #[cold]
    fn longest_further(&self, address: u128, mut best: Entry) -> Entry {
        let (mut slots, mut before) = (self, FIRST);
        loop {
            let bucket = &slots.buckets[slots.at(slot(address, before, SLOT))];
            let further;
            (best, further) = bucket.longest(slot(address, before + SLOT, KEY) as u16, best);
            let Some(list) = slots.further.as_ref().filter(|_| further) else { return best };
            let Ok(at) = place(list, slot(address, before, BITS)) else { return best };
            slots = &list[at].1;
            before += BITS;
        }
    }

    fn change_behind(&mut self, before: u32, change: &Change) {
        if change.length <= before + SLOT {
            return self.edit(change.slots(before, SLOT), |bucket| change.overwrite(bucket.best_mut(), before));
        }
        let slot_of = slot(change.address, before, SLOT);
        if change.length <= before + BITS {
            return self.edit(slot_of..slot_of + 1, |bucket| bucket.change(before + SLOT, change));
        }
        let bits = slot(change.address, before, BITS);
        let key = slot(change.address, before + SLOT, KEY) as u16;
        let further = Arc::make_mut(self.further.get_or_insert_default());
        let (at, added) = match place(further, bits) {
            Ok(at) => (at, false),
            Err(at) => {
                further.insert(at, (bits as u32, Arc::default()));
                (at, true)
            }
        };
        let next = Arc::make_mut(&mut further[at].1);
        next.change_behind(before + BITS, change);
        let removed = next.is_empty();
        if removed {
            further.remove(at);
        }
        if further.is_empty() {
            self.further = None;
        }
        if added != removed {
            self.edit(slot_of..slot_of + 1, |bucket| bucket.turn_further(key));
        }
    }

    /// Changes the buckets of these slots and of no others.
    fn edit(&mut self, slots: Range<usize>, edit: impl Fn(&mut Bucket)) {
        self.begin(slots.start);
        self.begin(slots.end);
        let places = self.at(slots.start)..=self.at(slots.end - 1);
        Arc::make_mut(&mut self.buckets)[places].iter_mut().for_each(edit);
        for slot in slots.start..=slots.end {
            self.unite(slot);
        }
    }

    /// Lets the slot be the first of its bucket.
    fn begin(&mut self, slot: usize) {
        if (1..SLOTS).contains(&slot) && self.begins[slot / 64] >> (slot % 64) & 1 == 0 {
            let at = self.at(slot);
            self.buckets = self.buckets[..=at].iter().chain(&self.buckets[at..]).cloned().collect();
            self.turn(slot);
        }
    }

    /// The opposite, if nothing differs before it.
    fn unite(&mut self, slot: usize) {
        if (1..SLOTS).contains(&slot) && self.begins[slot / 64] >> (slot % 64) & 1 == 1 {
            let at = self.at(slot);
            if self.buckets[at - 1] == self.buckets[at] {
                self.buckets = self.buckets[..at].iter().chain(&self.buckets[at + 1..]).cloned().collect();
                self.turn(slot);
            }
        }
    }

    fn turn(&mut self, slot: usize) {
        self.begins[slot / 64] ^= 1 << (slot % 64);
        for word in 1..WORDS {
            self.before[word] = self.before[word - 1] + self.begins[word - 1].count_ones() as u8;
        }
    }
}

/// Among what is longer.
fn place(further: &[Further], bits: usize) -> Result<usize, usize> {
    further.binary_search_by_key(&(bits as u32), |(bits, _)| *bits)
}
