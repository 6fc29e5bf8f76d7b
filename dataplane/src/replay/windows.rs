//! Windows of TCP that workers and XDP programs follow together: `struct windows` of replay.h.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::shared::Flows;

/// A record in words of 8 bytes.
pub(super) const WORDS: usize = 10;
/// Of these what conntrack knows of a connection: [`Record`].
const RECORD: std::ops::Range<usize> = 1..8;

/// How often the lock is tried: some 10 µs. A program has it for much less, unless its processor was taken from it; then what it still writes
/// is of a packet that came before.
const PATIENCE: u32 = 2_000;

/// Ends of both sides, the last packet, flags: words 1 to 7, in the layout of replay.h.
pub type Record = [u64; RECORD.end - RECORD.start];

/// When a connection ends, from its last packet on; in steps of the programs' clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Lifetimes {
    pub(super) usual: u32,
    pub(super) unacknowledged: u32,
    pub(super) retransmitted: u32,
    pub(super) most_retransmissions: u8,
}

const DATA_UNACKNOWLEDGED: u64 = 0x10;

/// A record that no program changes while this lives.
pub struct Held {
    flows: Arc<Flows>,
    number: u32,
}

impl Held {
    pub(super) fn take(flows: &Arc<Flows>, number: u32) -> Self {
        let held = Held { flows: Arc::clone(flows), number };
        for _ in 0..PATIENCE {
            let word = held.word(0);
            let now = word.load(Ordering::Relaxed);
            if now as u32 == 0 && word.compare_exchange_weak(now, now | 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                break;
            }
            std::hint::spin_loop();
        }
        held
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        self.flows.window_word(self.number, at)
    }

    pub fn read(&self) -> Record {
        std::array::from_fn(|at| self.word(RECORD.start + at).load(Ordering::Relaxed))
    }

    /// Writes what a packet has changed, which came at `clock`.
    pub(super) fn write(&self, record: &Record, clock: u32) {
        let most = self.word(RECORD.end - 1).load(Ordering::Relaxed) & MOST;
        for (at, word) in RECORD.zip(record) {
            self.word(at).store(*word, Ordering::Relaxed);
        }
        let last = self.word(RECORD.end - 1);
        last.store(last.load(Ordering::Relaxed) & !MOST | most, Ordering::Relaxed);
        self.word(0).store(u64::from(clock) << 32 | 1, Ordering::Relaxed);
    }

    pub(super) fn set_lifetimes(&self, lifetimes: &Lifetimes) {
        let Lifetimes { usual, unacknowledged, retransmitted, most_retransmissions } = *lifetimes;
        let last = self.word(RECORD.end - 1);
        last.store(last.load(Ordering::Relaxed) & !MOST | u64::from(most_retransmissions) << 32, Ordering::Relaxed);
        self.word(8).store(u64::from(usual) | u64::from(unacknowledged) << 32, Ordering::Relaxed);
        self.word(9).store(retransmitted.into(), Ordering::Relaxed);
    }
}

/// The upper half of the last word: how many retransmissions shorten its life, and room.
const MOST: u64 = 0xffff_ffff << 32;

impl Drop for Held {
    fn drop(&mut self) {
        let word = self.word(0);
        word.store(word.load(Ordering::Relaxed) & !0xffff_ffff, Ordering::Release);
    }
}

/// When its last packet came and how long it lives from then on, in steps of the clock; of what may be changing meanwhile.
pub(super) fn life(flows: &Flows, number: u32) -> (u32, u32) {
    let word = |at| flows.window_word(number, at).load(Ordering::Relaxed);
    let (flags, last_window) = (word(7), word(6) >> 32 & 0xffff);
    let (retransmissions, most) = (flags >> 24 & 0xff, flags >> 32 & 0xff);
    let (usual, unacknowledged, retransmitted) = (word(8) as u32, (word(8) >> 32) as u32, word(9) as u32);
    let is_unacknowledged = (flags | flags >> 8) & DATA_UNACKNOWLEDGED != 0;
    let lives = if retransmissions >= most && usual > retransmitted {
        retransmitted
    } else if is_unacknowledged && usual > unacknowledged {
        unacknowledged
    } else if last_window == 0 && usual > retransmitted {
        retransmitted
    } else {
        usual
    };
    ((word(0) >> 32) as u32, lives)
}
