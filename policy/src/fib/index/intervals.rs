//! Many prefixes of up to sixteen bits, by searching intervals, as DXR does (Zec, Rizzo, Mikuc 2012): within two lines, or a few more if
//! they are very many.

use std::hint::select_unpredictable;
use std::ops::Range;
use std::sync::Arc;

use super::Entry;

const KEYS: usize = 1 << 16;

/// So many intervals to a line.
const LINE: usize = 10;
const GROUPS: usize = 16;

#[derive(Clone, Debug, PartialEq)]
#[repr(align(64))]
pub(super) struct Intervals {
    /// How many lines have one entry of `firsts`.
    group: u32,
    lines: Arc<[Line]>,
    /// The first key of each group of lines; behind the last group, the highest key there is.
    firsts: [u16; GROUPS],
}

/// Intervals: where each begins, and which prefix that ends within the key's bits counts there. Those behind the last are as it is.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(align(64))]
struct Line {
    keys: [u16; LINE],
    entries: [Entry; LINE],
}

impl Default for Intervals {
    fn default() -> Self {
        Intervals { group: 1, lines: Arc::new([Line::new(&[(0, Entry::NONE)])]), firsts: [u16::MAX; GROUPS] }
    }
}

impl Intervals {
    pub(super) fn find(&self, key: u16) -> Entry {
        let first = (last_up_to(&self.firsts, key) * self.group as usize).min(self.lines.len() - 1);
        let line = match self.group {
            1 => &self.lines[first],
            _ => self.find_in_group(first, key),
        };
        line.entries[last_up_to(&line.keys, key)]
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(&*self.lines, [line] if line.entries == [Entry::NONE; LINE])
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
    pub(super) fn edit(&mut self, keys: Range<usize>, edit: impl Fn(&mut Entry)) {
        let line_of =
            |key: usize| self.lines.partition_point(|line| usize::from(line.keys[0]) <= key).saturating_sub(1);
        let first = line_of(keys.start).saturating_sub(1);
        let end = (line_of(keys.end) + 2).min(self.lines.len());
        // What is behind them stays.
        let behind = self.lines.get(end).map_or(KEYS, |line| usize::from(line.keys[0]));
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
        self.replace(first..end, &intervals);
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
