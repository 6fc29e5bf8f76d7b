//! What has gone by the entries since the last look: collected from those that have counted anything, a few in each round.
//!
//! Programs mark an entry when they count its first packet, a worker puts on its list what it has forwarded by. A mark is taken down before
//! the count is taken: whoever counts from 0 afterwards marks the entry again, so nothing that is counted stays without a mark.

use std::ops::Range;
use std::sync::atomic::Ordering;

use shunt_policy::config::CounterSlot;
use shunt_policy::{Generation, NeighbourSlot};

use super::shared::Traffic;
use super::{Lives, Own, RULES, Replay, steps};
use crate::xsk::{ENTRY, prefetch};

/// For which a withdrawn entry is kept, in steps of the clock: a program that has it in hand is long done.
const LINGERING: u32 = 20;

/// An entry of no connection that nobody has used for so many steps makes room: 10 s.
const IDLE: u32 = 10 << 10;

/// Entries that are asked memory for before it is their turn.
const AHEAD: usize = 8;

/// Words of marks that are looked at for each entry that may be collected from in a round.
const WORDS: usize = 64;

/// Entries that are looked at in a round for what makes room.
const CLEANED: usize = 128;

/// Which part of all entries is looked at in one collection for what makes room.
const TURNS: usize = 16;

pub(super) struct Collection {
    /// Entries by which the worker has forwarded since the last collection began, and those from before.
    used: Vec<u32>,
    listed: Vec<u32>,
    /// Words of marks that are still to be looked at.
    words: Range<usize>,
    /// Those that are collected from next.
    next: Vec<u32>,
    /// Where among our own the look for what makes room goes on, and at how many more.
    cursor: usize,
    more: usize,
    /// Of the policy for which we have begun to look at all.
    clean: Option<Generation>,
}

/// What has gone by an entry.
pub struct Collected {
    pub traffic: Traffic,
    /// Of these packets, how many a program has forwarded.
    pub replayed: u64,
    pub neighbour: NeighbourSlot,
    /// The number of the connection, and what is known of its end.
    pub connection: Option<(u32, Lives)>,
    count: u8,
    rules: [u32; RULES],
}

impl Collected {
    pub fn rules(&self) -> impl Iterator<Item = CounterSlot> {
        self.rules.iter().take(self.count.into()).map(|slot| CounterSlot(*slot))
    }
}

impl Collection {
    /// Of so many entries at most.
    pub(super) fn new(flows: usize) -> Self {
        let list = || Vec::with_capacity(flows);
        Collection {
            used: list(),
            listed: list(),
            words: 0..0,
            next: Vec::with_capacity(1024),
            cursor: 0,
            more: 0,
            clean: None,
        }
    }

    /// The worker has forwarded the first packet by this entry since it was collected from.
    #[inline]
    pub(super) fn used(&mut self, flow: u32) {
        // There is room but for what has been given back and taken anew several times meanwhile; that is collected when it is given back.
        if self.used.len() < self.used.capacity() {
            self.used.push(flow);
        }
    }
}

impl Replay {
    /// Begins a collection, by the worker that goes by this generation.
    pub fn begin(&mut self, generation: Generation) {
        let own = self.own.len();
        let collection = &mut self.collection;
        collection.words = 0..self.flows.marks().len();
        if collection.listed.is_empty() {
            std::mem::swap(&mut collection.used, &mut collection.listed);
        }
        // Begun before the last one has ended, which is so when all ends.
        collection.listed.append(&mut collection.used);
        collection.more = match collection.clean {
            Some(clean) if clean == generation => own.div_ceil(TURNS),
            _ => own,
        };
        collection.clean = Some(generation);
    }

    /// Whether the collection has come to its end.
    pub fn is_collected(&self) -> bool {
        let Collection { listed, words, next, .. } = &self.collection;
        listed.is_empty() && words.is_empty() && next.is_empty()
    }

    /// Whether there may still be entries that make room.
    pub fn is_cleaning(&self) -> bool {
        self.collection.more > 0
    }

    /// Finds about so many entries that are to be collected from, and tells the connections of those.
    pub(crate) fn gather(&mut self, entries: usize) -> impl Iterator<Item = u32> {
        if self.collection.next.is_empty() {
            let Collection { listed, next, .. } = &mut self.collection;
            next.extend(listed.drain(listed.len().saturating_sub(entries)..));
            next.iter().for_each(|flow| self.places.prefetch(*flow));
            self.find_marked(entries);
            for flow in &self.collection.next {
                self.flows.prefetch(*flow);
                if let Some(own) = self.of(*flow) {
                    prefetch(own);
                }
            }
        }
        let own = self.collection.next.iter().filter_map(|flow| self.of(*flow));
        own.filter_map(|own| own.connection.checked_sub(1))
    }

    fn find_marked(&mut self, entries: usize) {
        let Collection { words, next, .. } = &mut self.collection;
        let marks = self.flows.marks();
        for number in words.by_ref().take(entries * WORDS) {
            let mut word = marks[number].load(Ordering::Relaxed);
            while word != 0 {
                let byte = word.trailing_zeros() / 8;
                word &= !(0xff << (8 * byte));
                let flow = (number * ENTRY) as u32 + byte;
                // Those of others are not ours to take down.
                if self.places.place(flow).is_some() {
                    self.flows.unmark(flow);
                    next.push(flow);
                }
            }
            if next.len() >= entries {
                return;
            }
        }
    }

    /// What has gone by one more entry. Gives back those that were withdrawn.
    pub fn next(&mut self, now: u64) -> Option<Collected> {
        if let Some((flow, since)) = self.withdrawn.front().copied()
            && steps(now).wrapping_sub(since) > LINGERING
        {
            self.withdrawn.pop_front();
            if let Some((later, _)) = self.withdrawn.get(AHEAD) {
                self.flows.prefetch(*later);
            }
            let collected = self.take(flow, now);
            self.give_back(flow);
            return collected;
        }
        loop {
            let flow = self.collection.next.pop()?;
            // It may have been given back meanwhile.
            if let Some(collected) = self.take(flow, now) {
                return Some(collected);
            }
        }
    }

    fn take(&self, flow: u32, now: u64) -> Option<Collected> {
        let own = self.of(flow)?;
        let (by_programs, by_us) = (self.flows.take(flow), self.places.take(flow));
        let Own { connection, neighbour, count, rules, .. } = *own;
        let connection = connection.checked_sub(1).and_then(|number| Some((number, self.lives_by(own, now)?)));
        let traffic = Traffic { packets: by_programs.packets + by_us.packets, bytes: by_programs.bytes + by_us.bytes };
        Some(Collected { traffic, replayed: by_programs.packets, neighbour, connection, count, rules })
    }

    fn give_back(&mut self, flow: u32) {
        let Some(place) = self.places.place(flow) else { return };
        self.own.swap_remove(place);
        if let Some(moved) = self.own.get(place) {
            self.places.moved(moved.flow, place);
        }
        self.places.leave(flow);
        self.flows.release(flow);
    }

    /// Looks at some more of our entries, and withdraws those of other generations than this and those that nobody uses.
    pub(crate) fn clean(&mut self, generation: Generation, now: u64) {
        let clock = steps(now);
        for _ in 0..CLEANED.min(self.collection.more) {
            self.collection.more -= 1;
            let cursor = match self.collection.cursor.min(self.own.len()) {
                0 => self.own.len(),
                cursor => cursor,
            };
            let Some(place) = cursor.checked_sub(1) else { return self.collection.more = 0 };
            self.collection.cursor = place;
            let is_stale = |own: &Own| own.generation != generation.0 as u32;
            if let Some(later) = place.checked_sub(AHEAD).map(|place| &self.own[place])
                && (is_stale(later) || later.connection == 0)
            {
                self.flows.prefetch(later.flow);
                self.places.prefetch(later.flow);
            }
            let own = &self.own[place];
            let is_unused = || clock.wrapping_sub(self.flows.last(own.flow)) as i32 > IDLE as i32;
            if !own.withdrawn && (is_stale(own) || own.connection == 0 && is_unused()) {
                self.withdraw(own.flow, clock);
            }
        }
    }
}
