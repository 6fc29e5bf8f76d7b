//! What IPv6 prefixes say beyond /24: eight bits by counting bits, as in a poptrie (Asai, Ohara 2015), then sixteen by searching
//! intervals, as DXR does (Zec, Rizzo, Mikuc 2012). That is up to /48; prefixes beyond have steps of their own, which are few in the tables
//! of the Internet and found by a branch that is foretold well.

use std::hint::select_unpredictable;
use std::ops::Range;
use std::sync::Arc;

use super::{Change, Entry, FURTHER, Step, slot};

/// Bits of an address that have been looked at when the first of these is reached.
const FIRST: u32 = 24;
const SLOT: u32 = 8;
const KEY: u32 = 16;
const BITS: u32 = SLOT + KEY;

const SLOTS: usize = 1 << SLOT;
const WORDS: usize = SLOTS / 64;

/// So many intervals to a line.
const LINE: usize = 10;
const GROUPS: usize = 16;

/// Looks at 24 bits.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(in crate::fib) struct Intervals {
    // What look-ups need comes first, in one line.
    /// At which of the slots another list is in force than at the slot before; never the first, whose list is the first.
    begins: [u64; WORDS],
    /// How many of them stand in the words before.
    before: [u8; WORDS],
    lists: Vec<List>,
    /// What is longer, by the 24 bits, in rising order.
    further: Vec<(u32, Arc<Intervals>)>,
    nothing: Arc<[Line]>,
}

/// What is in force in one slot, or in some that are all the same.
#[derive(Clone, Debug)]
#[repr(align(64))]
struct List {
    /// The prefixes that end within the slot's bits.
    best: Entry,
    /// How many lines have one entry of `firsts`.
    group: u32,
    lines: Arc<[Line]>,
    /// The first key of each group of lines; behind the last group, the highest key there is.
    firsts: [u16; GROUPS],
}

/// Intervals: where each begins, and which prefix that ends within the key's bits counts there. Those behind the last are as it is.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Line {
    keys: [u16; LINE],
    entries: [Entry; LINE],
}

impl Default for Intervals {
    fn default() -> Self {
        let nothing: Arc<[Line]> = Arc::new([Line::new(&[(0, Entry::NONE)])]);
        let list = List { best: Entry::NONE, group: 1, lines: nothing.clone(), firsts: [u16::MAX; GROUPS] };
        Intervals { begins: [0; WORDS], before: [0; WORDS], lists: vec![list], further: Vec::new(), nothing }
    }
}

impl Step for Intervals {
    #[inline]
    fn longest(&self, address: u128, best: Entry) -> Entry {
        let list = &self.lists[self.at(slot(address, FIRST, SLOT))];
        let entry = list.find(slot(address, FIRST + SLOT, KEY) as u16);
        let best = list.best.or(best);
        if entry.is_further() {
            return self.longest_further(address, entry, best);
        }
        entry.or(best)
    }

    fn change(&mut self, change: &Change) {
        self.change_behind(FIRST, change);
    }

    fn is_empty(&self) -> bool {
        self.further.is_empty() && matches!(&*self.lists, [one] if self.is_nothing(one))
    }
}

impl Intervals {
    /// The place of a slot's list.
    #[inline]
    fn at(&self, slot: usize) -> usize {
        let begun = self.begins[slot / 64] & (u64::MAX >> (63 - slot % 64));
        usize::from(self.before[slot / 64]) + begun.count_ones() as usize
    }

    /// The same where the first interval that has been found is one of longer prefixes.
    #[cold]
    fn longest_further(&self, address: u128, mut entry: Entry, mut best: Entry) -> Entry {
        let (mut intervals, mut before) = (self, FIRST);
        loop {
            best = entry.without_further().or(best);
            if !entry.is_further() {
                return best;
            }
            let Ok(at) = intervals.place_further(slot(address, before, BITS)) else { return best };
            intervals = &intervals.further[at].1;
            before += BITS;
            let list = &intervals.lists[intervals.at(slot(address, before, SLOT))];
            best = list.best.or(best);
            entry = list.find(slot(address, before + SLOT, KEY) as u16);
        }
    }

    fn place_further(&self, bits: usize) -> Result<usize, usize> {
        self.further.binary_search_by_key(&(bits as u32), |(bits, _)| *bits)
    }

    fn is_nothing(&self, list: &List) -> bool {
        list.best == Entry::NONE && Arc::ptr_eq(&list.lines, &self.nothing)
    }

    fn change_behind(&mut self, before: u32, change: &Change) {
        if change.length <= before + SLOT {
            return self.edit(change.slots(before, SLOT), |list, _| change.overwrite(&mut list.best, before));
        }
        let slot_of = slot(change.address, before, SLOT);
        if change.length <= before + BITS {
            let keys = change.slots(before + SLOT, KEY);
            return self.edit(slot_of..slot_of + 1, |list, nothing| {
                list.edit(keys.clone(), nothing, |entry| change.overwrite(entry, before + SLOT));
            });
        }
        let bits = slot(change.address, before, BITS);
        let key = slot(change.address, before + SLOT, KEY);
        let turn = |intervals: &mut Intervals| {
            intervals.edit(slot_of..slot_of + 1, |list, nothing| {
                list.edit(key..key + 1, nothing, |entry| entry.0 ^= FURTHER);
            });
        };
        let at = self.place_further(bits).unwrap_or_else(|at| {
            self.further.insert(at, (bits as u32, Arc::default()));
            turn(self);
            at
        });
        let next = Arc::make_mut(&mut self.further[at].1);
        next.change_behind(before + BITS, change);
        if next.is_empty() {
            self.further.remove(at);
            turn(self);
        }
    }

    /// Changes the lists of these slots and of no others.
    fn edit(&mut self, slots: Range<usize>, edit: impl Fn(&mut List, &Arc<[Line]>)) {
        self.begin(slots.start);
        self.begin(slots.end);
        for at in self.at(slots.start)..=self.at(slots.end - 1) {
            edit(&mut self.lists[at], &self.nothing);
        }
        for slot in slots.start..=slots.end {
            self.unite(slot);
        }
    }

    /// Lets the slot be the first of its list.
    fn begin(&mut self, slot: usize) {
        if (1..SLOTS).contains(&slot) && self.begins[slot / 64] >> (slot % 64) & 1 == 0 {
            let at = self.at(slot);
            self.lists.insert(at, self.lists[at].clone());
            self.turn(slot);
        }
    }

    /// The opposite, if nothing differs before it.
    fn unite(&mut self, slot: usize) {
        if (1..SLOTS).contains(&slot) && self.begins[slot / 64] >> (slot % 64) & 1 == 1 {
            let at = self.at(slot);
            let (one, other) = (&self.lists[at - 1], &self.lists[at]);
            if one.best == other.best && Arc::ptr_eq(&one.lines, &other.lines) {
                self.lists.remove(at);
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

impl List {
    #[inline(always)]
    fn find(&self, key: u16) -> Entry {
        let first = (last_up_to(&self.firsts, key) * self.group as usize).min(self.lines.len() - 1);
        let line = match self.group {
            1 => &self.lines[first],
            _ => self.find_in_group(first, key),
        };
        line.entries[last_up_to(&line.keys, key)]
    }

    /// Of a list that is too long to separate all its lines.
    #[inline]
    fn find_in_group(&self, first: usize, key: u16) -> &Line {
        let end = (first + self.group as usize).min(self.lines.len());
        let behind = self.lines[first..end].partition_point(|line| line.keys[0] <= key);
        &self.lines[first + behind.saturating_sub(1)]
    }

    /// Changes what is in force at these keys and at no others. Reads and writes the lines that have them, and those beside: a network of very
    /// many networks is one list.
    fn edit(&mut self, keys: Range<usize>, nothing: &Arc<[Line]>, edit: impl Fn(&mut Entry)) {
        let line_of =
            |key: usize| self.lines.partition_point(|line| usize::from(line.keys[0]) <= key).saturating_sub(1);
        let first = line_of(keys.start).saturating_sub(1);
        let end = (line_of(keys.end) + 2).min(self.lines.len());
        // What is behind them stays.
        let behind = self.lines.get(end).map_or(1 << KEY, |line| usize::from(line.keys[0]));
        let mut intervals = Vec::with_capacity((end - first) * LINE + 2);
        for line in &self.lines[first..end] {
            intervals.extend(line.keys.iter().copied().map(usize::from).zip(line.entries));
        }
        intervals.dedup_by_key(|(key, _)| *key);
        let mut begin = |key: usize| {
            intervals.binary_search_by_key(&key, |(key, _)| *key).unwrap_or_else(|at| {
                intervals.insert(at, (key, intervals[at - 1].1));
                at
            })
        };
        let (from, to) = (begin(keys.start), begin(keys.end));
        intervals[from..to].iter_mut().for_each(|(_, entry)| edit(entry));
        intervals.retain(|(key, _)| *key < behind);
        intervals.dedup_by_key(|(_, entry)| *entry);
        if end - first == self.lines.len() && matches!(*intervals, [(_, Entry::NONE)]) {
            self.lines = nothing.clone();
        } else {
            self.replace(first..end, &intervals);
        }
        let group = self.lines.len().div_ceil(GROUPS);
        self.group = group as u32;
        for (at, first) in self.firsts.iter_mut().enumerate() {
            *first = self.lines.get(at * group).map_or(u16::MAX, |line| line.keys[0]);
        }
    }

    /// Puts these intervals in the place of some lines, evenly: the next one then has room, nearly always, and no line has to move.
    fn replace(&mut self, lines: Range<usize>, intervals: &[(usize, Entry)]) {
        let count = intervals.len().div_ceil(LINE);
        let new = (0..count)
            .map(|at| Line::new(&intervals[at * intervals.len() / count..(at + 1) * intervals.len() / count]));
        if count == lines.len() {
            Arc::make_mut(&mut self.lines)[lines].iter_mut().zip(new).for_each(|(line, new)| *line = new);
            return;
        }
        let mut all = Vec::with_capacity(self.lines.len() - lines.len() + count);
        all.extend_from_slice(&self.lines[..lines.start]);
        all.extend(new);
        all.extend_from_slice(&self.lines[lines.end..]);
        self.lines = all.into();
    }
}

/// The place of the last key that is not above this one, if the first is not. Without a branch, which could not be foretold.
#[inline]
fn last_up_to<const N: usize>(keys: &[u16; N], key: u16) -> usize {
    let (mut at, mut left) = (0, N);
    while left > 1 {
        let half = left / 2;
        at = select_unpredictable(keys[at + half] <= key, at + half, at);
        left -= half;
    }
    at
}

impl Line {
    /// Of one to ten intervals.
    fn new(intervals: &[(usize, Entry)]) -> Line {
        let of = |at: usize| intervals[at.min(intervals.len() - 1)];
        Line { keys: std::array::from_fn(|at| of(at).0 as u16), entries: std::array::from_fn(|at| of(at).1) }
    }
}
