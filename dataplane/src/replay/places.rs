//! What a worker needs to know of an entry before it looks into it: for all entries of a bucket in one cache line of its own.

use std::sync::atomic::{AtomicU64, Ordering};

use super::flow::{Key, PACKETS};
use super::shared::{Traffic, WAYS};
use crate::xsk::{Zeroed, prefetch};

/// By the number of the entry. Nobody else has them: atomics are only what [`Zeroed`] offers, and cost nothing.
pub(super) struct Places(Zeroed);

/// Of each entry of a bucket what the worker has forwarded by it since that was taken, as [`COUNT`](super::flow::COUNT), then where the worker
/// has more of it (plus one; 0: not ours), and the tag of its flow.
type Bucket = [AtomicU64; 2 * WAYS];

/// Where a flow would stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Home {
    /// The first entry.
    pub(super) first: u32,
    /// By which it is told from others there, nearly always.
    tag: u32,
}

impl Home {
    #[inline(always)]
    pub(super) fn of(key: &Key, last_bucket: u32) -> Self {
        let hash = key.hash();
        Home { first: ((hash >> 32) as u32 & last_bucket) * WAYS as u32, tag: hash as u32 }
    }

    /// The entries in which it can stand: those of its bucket, then those of the one beside that.
    pub(super) fn ways(self) -> impl Iterator<Item = u32> {
        let beside = self.first ^ WAYS as u32;
        (self.first..self.first + WAYS as u32).chain(beside..beside + WAYS as u32)
    }
}

impl Places {
    pub(super) fn new(flows: usize) -> Self {
        Places(Zeroed::huge(2 * flows))
    }

    #[inline]
    fn bucket(&self, flow: u32) -> &Bucket {
        &self.0.as_chunks().0[flow as usize / WAYS]
    }

    /// Begins to fetch what is here of this entry.
    #[inline]
    pub(super) fn prefetch(&self, flow: u32) {
        prefetch(self.bucket(flow));
    }

    /// The entry of ours that most likely is of this flow.
    #[inline]
    pub(super) fn find(&self, home: Home) -> Option<u32> {
        [home.first, home.first ^ WAYS as u32].into_iter().find_map(|first| {
            let tags = &self.bucket(first)[WAYS..];
            let is = |word: &AtomicU64| {
                let word = word.load(Ordering::Relaxed);
                word as u32 == home.tag && word >> 32 != 0
            };
            tags.iter().position(is).map(|way| first + way as u32)
        })
    }

    fn word(&self, flow: u32) -> &AtomicU64 {
        &self.bucket(flow)[WAYS + flow as usize % WAYS]
    }

    /// Where the worker has more of this entry; `None` if it is not ours.
    pub(super) fn place(&self, flow: u32) -> Option<usize> {
        ((self.word(flow).load(Ordering::Relaxed) >> 32) as usize).checked_sub(1)
    }

    /// The entry is ours from now on.
    pub(super) fn enter(&self, flow: u32, place: usize, home: Home) {
        self.word(flow).store((place as u64 + 1) << 32 | u64::from(home.tag), Ordering::Relaxed);
    }

    /// It is not found any more, but stays ours.
    pub(super) fn hide(&self, flow: u32) {
        let word = self.word(flow);
        word.store(word.load(Ordering::Relaxed) ^ u64::from(u32::MAX), Ordering::Relaxed);
    }

    pub(super) fn moved(&self, flow: u32, place: usize) {
        let word = self.word(flow);
        word.store((place as u64 + 1) << 32 | word.load(Ordering::Relaxed) & 0xffff_ffff, Ordering::Relaxed);
    }

    /// It is nobody's any more.
    pub(super) fn leave(&self, flow: u32) {
        self.word(flow).store(0, Ordering::Relaxed);
    }

    /// Counts a packet of so many bytes. Says whether it is the first since that was taken.
    #[inline]
    pub(super) fn count(&self, flow: u32, bytes: u64) -> bool {
        let count = &self.bucket(flow)[flow as usize % WAYS];
        let before = count.load(Ordering::Relaxed);
        count.store(before + (1 << PACKETS) + bytes, Ordering::Relaxed);
        before == 0
    }

    /// What was counted since this was asked last.
    pub(super) fn take(&self, flow: u32) -> Traffic {
        let count = &self.bucket(flow)[flow as usize % WAYS];
        let taken = count.load(Ordering::Relaxed);
        count.store(0, Ordering::Relaxed);
        Traffic::of(taken)
    }
}
