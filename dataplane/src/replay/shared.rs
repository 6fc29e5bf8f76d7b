//! The memory that workers and XDP programs share.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use shunt_policy::Generation;

use super::flow::{COUNT, KEY, Key, LAST, PACKETS, VERSION, WORDS, mask};
use super::windows;
use crate::xsk::{ENTRY, MappedArray, Zeroed, prefetch};

/// Entries that share one hash.
pub(super) const WAYS: usize = 4;

/// Entries at most: in maps, whose memory is taken at once, and in memory that is taken when it is written.
const MOST_IN_MAPS: usize = 1 << 21;
const MOST: usize = 1 << 22;

/// The maps `flows`, `marks`, `windows` and `replaying` of replay.h. Written by the workers, each what it has [claimed](Flows::claim), and by the
/// control side, which sets the generation; the programs read it, and count.
#[derive(Clone)]
pub struct Flows(Arc<Memory>);

struct Memory {
    flows: Array,
    marks: Array,
    replaying: Array,
    windows: Array,
    last_bucket: u32,
}

enum Array {
    Map(MappedArray),
    /// Where there is no program.
    Plain(Zeroed),
}

impl Array {
    #[inline]
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

impl Traffic {
    /// As it stands in an entry.
    pub(super) fn of(count: u64) -> Self {
        Traffic { packets: count >> PACKETS, bytes: count & ((1 << PACKETS) - 1) }
    }
}

impl Flows {
    /// Memory that it takes at most, in bytes.
    pub(crate) const BYTES: u64 =
        (MOST_IN_MAPS * (WORDS * ENTRY + 1) + MOST_IN_MAPS / 2 * windows::WORDS * ENTRY) as u64;

    /// For the flows of so many connections, that is two of each.
    pub(crate) fn create(connections: usize) -> io::Result<Self> {
        let buckets = buckets(2 * connections, MOST_IN_MAPS);
        let entries = buckets * WAYS as u32;
        let windows = connections.clamp(1, MOST_IN_MAPS / 2) as u32;
        let map = |name, size, entries| MappedArray::create(name, size, entries).map(Array::Map);
        Ok(Flows(Arc::new(Memory {
            flows: map("flows", WAYS * WORDS * ENTRY, buckets)?,
            marks: map("marks", ENTRY, entries / ENTRY as u32)?,
            replaying: map("replaying", ENTRY, 1)?,
            windows: map("windows", windows::WORDS * ENTRY, windows)?,
            last_bucket: buckets - 1,
        })))
    }

    /// Without any program: there is nobody to share windows with. As half of the entries stay free, hardly a flow finds its place taken.
    pub fn plain(connections: usize) -> Self {
        let buckets = buckets(4 * connections, MOST);
        let entries = buckets as usize * WAYS;
        let plain = |words| Array::Plain(Zeroed::huge(words));
        Flows(Arc::new(Memory {
            flows: plain(entries * WORDS),
            marks: plain(0),
            replaying: plain(1),
            windows: plain(0),
            last_bucket: buckets - 1,
        }))
    }

    /// The maps, if it is in any, for programs to share.
    pub(crate) fn maps(&self) -> Option<[(&'static str, &MappedArray); 4]> {
        let Memory { flows, marks, replaying, windows, .. } = &*self.0;
        match (flows, marks, replaying, windows) {
            (Array::Map(flows), Array::Map(marks), Array::Map(replaying), Array::Map(windows)) => {
                Some([("flows", flows), ("marks", marks), ("replaying", replaying), ("windows", windows)])
            }
            _ => None,
        }
    }

    /// A byte for each entry, in which programs have counted; none without them.
    pub(super) fn marks(&self) -> &[AtomicU64] {
        self.0.marks.words()
    }

    /// For windows of so many connections there is room.
    pub(super) fn windows(&self) -> usize {
        self.0.windows.words().len() / windows::WORDS
    }

    pub(super) fn window_word(&self, number: u32, at: usize) -> &AtomicU64 {
        &self.0.windows.words()[number as usize * windows::WORDS + at]
    }

    #[inline]
    pub(crate) fn last_bucket(&self) -> u32 {
        self.0.last_bucket
    }

    /// Number of entries.
    pub(super) fn len(&self) -> usize {
        (self.last_bucket() as usize + 1) * WAYS
    }

    /// From now on only entries of this generation hold. To be called before a worker can go by the policy.
    pub fn set_generation(&self, generation: Generation) {
        self.0.replaying.words()[0].store(u64::from(stamp(generation)), Ordering::SeqCst);
    }

    #[inline]
    pub(super) fn entry(&self, flow: u32) -> &Entry {
        &self.0.flows.words().as_chunks().0[flow as usize]
    }

    fn word(&self, flow: u32, at: usize) -> &AtomicU64 {
        &self.entry(flow)[at]
    }

    /// Begins to fetch an entry.
    #[inline]
    pub(super) fn prefetch(&self, flow: u32) {
        prefetch(self.entry(flow));
    }

    /// Takes a free one of these entries; `None` if there is none.
    pub(super) fn claim(&self, mut ways: impl Iterator<Item = u32>) -> Option<u32> {
        ways.find(|flow| {
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
        Traffic::of(count.swap(0, Ordering::Relaxed))
    }

    /// By its owner, before what it has counted is [taken](Self::take): this is over before anything that follows begins. It pairs with the
    /// program's counting, by a locked instruction before it marks.
    pub(super) fn unmark(&self, flow: u32) {
        let mark = 0xff << (8 * (flow % ENTRY as u32));
        self.marks()[flow as usize / ENTRY].fetch_and(!mark, Ordering::SeqCst);
    }

    /// When its last packet came, in steps of the program's clock.
    pub(super) fn last(&self, flow: u32) -> u32 {
        (self.word(flow, LAST).load(Ordering::Relaxed) >> 32) as u32
    }
}

/// Whether the entry is about this flow.
#[inline]
pub(super) fn is_of(entry: &Entry, key: &Key) -> bool {
    let differ = |at: usize, word: u64| entry[at].load(Ordering::Relaxed) & mask(at) ^ word;
    KEY.iter().zip(key.words()).fold(0, |all, (at, word)| all | differ(*at, *word)) == 0
}

/// Never 0, which is what a free entry has.
pub(super) fn stamp(generation: Generation) -> u32 {
    generation.0 as u32 | 1 << 31
}

/// A power of two, and two at least: each has one beside it.
fn buckets(flows: usize, most: usize) -> u32 {
    (flows.clamp(2 * WAYS, most) / WAYS).next_power_of_two() as u32
}
