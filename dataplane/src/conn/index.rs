//! From a hash to an entry: open addressing with linear probing. A slot has the whole hash beside the entry's number, so that a miss
//! hardly ever touches an entry, and deletion moves slots back without asking one.

use crate::xsk::{filled, prefetch};

/// An entry, by one of its tuples.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reference {
    pub(super) number: u32,
    pub(super) reply: bool,
}

pub(super) struct Index {
    /// `hash << 32 | (number + 1) << 1 | reply`; 0 is free. Never full: see [`Index::SLOTS`].
    slots: Box<[u64]>,
}

impl Index {
    /// For each connection, which takes two.
    pub(super) const SLOTS: usize = 3;

    pub(super) fn new(connections: usize) -> Self {
        Index { slots: filled(0, connections * Self::SLOTS + 1) }
    }

    pub(super) fn find(&self, hash: u32, mut is: impl FnMut(Reference) -> bool) -> Option<Reference> {
        let mut place = self.home(hash);
        loop {
            let slot = self.slots[place];
            if slot == 0 {
                return None;
            }
            if (slot >> 32) as u32 == hash && is(reference(slot)) {
                return Some(reference(slot));
            }
            place = self.after(place);
        }
    }

    /// Begins to fetch the slot where the search for this hash begins.
    pub(super) fn prefetch(&self, hash: u32) {
        prefetch(&self.slots[self.home(hash)]);
    }

    pub(super) fn insert(&mut self, hash: u32, to: Reference) {
        let mut place = self.home(hash);
        while self.slots[place] != 0 {
            place = self.after(place);
        }
        self.slots[place] = slot(hash, to);
    }

    pub(super) fn remove(&mut self, hash: u32, to: Reference) {
        let wanted = slot(hash, to);
        let mut hole = self.home(hash);
        while self.slots[hole] != wanted {
            if self.slots[hole] == 0 {
                return;
            }
            hole = self.after(hole);
        }
        let mut place = self.after(hole);
        while self.slots[place] != 0 {
            let home = self.home((self.slots[place] >> 32) as u32);
            if self.distance(home, place) >= self.distance(hole, place) {
                self.slots[hole] = self.slots[place];
                hole = place;
            }
            place = self.after(place);
        }
        self.slots[hole] = 0;
    }

    /// Entries that stand at or behind the place of this hash, at most as many slots further on.
    pub(super) fn near(&self, hash: u32, slots: usize) -> impl Iterator<Item = Reference> + '_ {
        let home = self.home(hash);
        let (before, behind) = self.slots.split_at(home);
        behind.iter().chain(before).take(slots).filter(|slot| **slot != 0).map(|slot| reference(*slot))
    }

    fn home(&self, hash: u32) -> usize {
        scale(hash, self.slots.len())
    }

    fn after(&self, place: usize) -> usize {
        if place + 1 == self.slots.len() { 0 } else { place + 1 }
    }

    fn distance(&self, from: usize, to: usize) -> usize {
        if to >= from { to - from } else { to + self.slots.len() - from }
    }
}

/// `reciprocal_scale`: as even as a remainder, without a division.
pub(super) fn scale(hash: u32, below: usize) -> usize {
    ((u64::from(hash) * below as u64) >> 32) as usize
}

fn slot(hash: u32, to: Reference) -> u64 {
    u64::from(hash) << 32 | (u64::from(to.number) + 1) << 1 | u64::from(to.reply)
}

fn reference(slot: u64) -> Reference {
    Reference { number: (slot as u32 >> 1) - 1, reply: slot & 1 != 0 }
}
