//! The memory that workers and XDP programs share.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use shunt_policy::Generation;

use super::flow::{COUNT, KEY, Key, LAST, VERSION, WORDS, mask};
use super::windows;
use crate::xsk::{ENTRY, MappedArray, prefetch, zeroed};

/// Entries that share one hash.
const WAYS: usize = 4;

/// Entries at most: each is looked at twice a second.
const MOST: usize = 1 << 18;

/// The maps `flows`, `windows` and `replaying` of replay.h. Written by the workers, each what it has [claimed](Flows::claim), and by the control side,
/// which sets the generation; the programs read it, and count.
#[derive(Clone)]
pub struct Flows(Arc<Memory>);

struct Memory {
    flows: Array,
    replaying: Array,
    windows: Array,
    last_bucket: u32,
}

enum Array {
    Map(MappedArray),
    /// Of the simulator: nobody reads it.
    Plain(Box<[AtomicU64]>),
}

impl Array {
    fn words(&self) -> &[AtomicU64] {
        match self {
            Array::Map(map) => map.words(),
            Array::Plain(words) => words,
        }
    }
}

pub(super) type Entry = [AtomicU64; WORDS];

/// What has gone by an entry since it was asked last.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    pub packets: u64,
    /// Of IP packets.
    pub bytes: u64,
}

impl Flows {
    /// Memory that it takes at most, in bytes.
    pub(crate) const BYTES: u64 = (MOST * (WORDS + windows::WORDS) * ENTRY) as u64;

    /// For about so many flows.
    pub(crate) fn create(flows: usize) -> io::Result<Self> {
        let buckets = buckets(flows);
        let map = |name, size, entries| MappedArray::create(name, size, entries).map(Array::Map);
        let windows = map("windows", windows::WORDS * ENTRY, buckets * WAYS as u32)?;
        Ok(Flows::of(map("flows", WAYS * WORDS * ENTRY, buckets)?, map("replaying", ENTRY, 1)?, windows, buckets))
    }

    /// Without any program: there is nobody to share windows with.
    pub fn plain(flows: usize) -> Self {
        let buckets = buckets(flows);
        let words = |count| Array::Plain(zeroed(count));
        Flows::of(words(buckets as usize * WAYS * WORDS), words(1), words(0), buckets)
    }

    fn of(flows: Array, replaying: Array, windows: Array, buckets: u32) -> Self {
        Flows(Arc::new(Memory { flows, replaying, windows, last_bucket: buckets - 1 }))
    }

    /// The maps, if it is in any, for programs to share.
    pub(crate) fn maps(&self) -> Option<[(&'static str, &MappedArray); 3]> {
        let Memory { flows, replaying, windows, .. } = &*self.0;
        match (flows, replaying, windows) {
            (Array::Map(flows), Array::Map(replaying), Array::Map(windows)) => {
                Some([("flows", flows), ("replaying", replaying), ("windows", windows)])
            }
            _ => None,
        }
    }

    /// For windows of so many connections there is room.
    pub(super) fn windows(&self) -> usize {
        self.0.windows.words().len() / windows::WORDS
    }

    pub(super) fn window_word(&self, number: u32, at: usize) -> &AtomicU64 {
        &self.0.windows.words()[number as usize * windows::WORDS + at]
    }

    pub(crate) fn last_bucket(&self) -> u32 {
        self.0.last_bucket
    }

    /// Number of entries.
    pub(super) fn len(&self) -> usize {
        (self.0.last_bucket as usize + 1) * WAYS
    }

    /// From now on only entries of this generation hold. To be called before a worker can go by the policy.
    pub fn set_generation(&self, generation: Generation) {
        self.0.replaying.words()[0].store(u64::from(stamp(generation)), Ordering::SeqCst);
    }

    pub(super) fn entry(&self, flow: u32) -> &Entry {
        &self.0.flows.words().as_chunks().0[flow as usize]
    }

    fn word(&self, flow: u32, at: usize) -> &AtomicU64 {
        &self.entry(flow)[at]
    }

    /// The first of the entries in which a flow can be.
    pub(super) fn first_place(&self, key: &Key) -> u32 {
        (key.hash() & self.0.last_bucket) * WAYS as u32
    }

    /// All of them: those of its bucket, then those of the one beside that.
    fn both(first: u32) -> impl Iterator<Item = u32> + use<> {
        let beside = first ^ WAYS as u32;
        (first..first + WAYS as u32).chain(beside..beside + WAYS as u32)
    }

    pub(super) fn places(&self, key: &Key) -> impl Iterator<Item = u32> + use<> {
        Flows::both(self.first_place(key))
    }

    /// The entries in which a flow can be that has this one as its first.
    pub(super) fn ways(&self, first: u32) -> impl Iterator<Item = (u32, &Entry)> {
        Flows::both(first).map(|flow| (flow, self.entry(flow)))
    }

    /// Begins to fetch the first of them.
    pub(super) fn prefetch(&self, first: u32) {
        prefetch(self.entry(first));
    }

    /// Takes a free entry for this flow; `None` if there is none.
    pub(super) fn claim(&self, key: &Key) -> Option<u32> {
        self.places(key).find(|flow| {
            let word = self.word(*flow, VERSION);
            let now = word.load(Ordering::Relaxed);
            // Even and of no generation: nobody's.
            now >> 32 == 0
                && now & 1 == 0
                && word.compare_exchange(now, now | 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
        })
    }

    /// Writes an entry that was claimed; from now on it holds.
    pub(super) fn write(&self, flow: u32, words: &[u64; WORDS], generation: Generation) {
        for (at, word) in words.iter().enumerate().skip(1) {
            self.word(flow, at).store(*word, Ordering::Relaxed);
        }
        let version = self.word(flow, VERSION).load(Ordering::Relaxed) as u32;
        let first = u64::from(version.wrapping_add(1)) | u64::from(stamp(generation)) << 32;
        self.word(flow, VERSION).store(first, Ordering::Release);
    }

    /// From now on it does not hold; packets that a program has in hand may still be counted in it. It stays claimed.
    pub(super) fn withdraw(&self, flow: u32) {
        let word = self.word(flow, VERSION);
        let version = word.load(Ordering::Relaxed) as u32;
        word.store(u64::from(version.wrapping_add(1)), Ordering::Relaxed);
        // Nothing that follows is to be seen before.
        fence(Ordering::SeqCst);
    }

    /// Gives back one that was withdrawn.
    pub(super) fn release(&self, flow: u32) {
        let word = self.word(flow, VERSION);
        let version = word.load(Ordering::Relaxed) as u32;
        word.store(u64::from(version.wrapping_add(1)), Ordering::Release);
    }

    /// What has gone by since this was asked last.
    pub(super) fn take(&self, flow: u32) -> Traffic {
        let count = self.word(flow, COUNT);
        if count.load(Ordering::Relaxed) == 0 {
            return Traffic::default();
        }
        let count = count.swap(0, Ordering::Relaxed);
        Traffic { packets: count >> super::flow::PACKETS, bytes: count & ((1 << super::flow::PACKETS) - 1) }
    }

    /// When its last packet came, in steps of the program's clock.
    pub(super) fn last(&self, flow: u32) -> u32 {
        (self.word(flow, LAST).load(Ordering::Relaxed) >> 32) as u32
    }
}

/// Whether the entry is about the flow with these words of a key.
pub(super) fn is_of(entry: &Entry, key: &[u64; KEY.len()]) -> bool {
    KEY.iter().zip(key).all(|(at, word)| entry[*at].load(Ordering::Relaxed) & mask(*at) == *word)
}

/// Never 0, which is what a free entry has.
pub(super) fn stamp(generation: Generation) -> u32 {
    generation.0 as u32 | 1 << 31
}

/// A power of two, and two at least: each has one beside it.
fn buckets(flows: usize) -> u32 {
    (flows.clamp(2 * WAYS, MOST) / WAYS).next_power_of_two() as u32
}
