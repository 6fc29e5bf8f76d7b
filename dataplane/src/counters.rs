//! What a worker has done, counted where only that worker writes.

use std::sync::atomic::{AtomicU64, Ordering};

use shunt_policy::{DropReason, Generation, PassReason, PuntReason, Stop};

use crate::board::Board;
use crate::conn::Counts;
use crate::marks::Marks;
use crate::replay::Collected;
use crate::rule_counters::RuleCounters;
use crate::status::WorkerStatus;

/// One worker's counters. Written by that worker alone, read by the control side; each number is right by itself, but
/// they are not taken at one instant.
#[derive(Default)]
pub struct WorkerCounters {
    pub(crate) received: Counter,
    /// By itself, and by XDP programs as it has decided.
    pub(crate) forwarded: Counter,
    /// By XDP programs.
    pub(crate) replayed: Counter,
    /// Flows that they forward.
    pub(crate) flows: Gauge,
    pub(crate) collections: Collections,
    pub(crate) handed_over: Counter,
    pub(crate) sleeps: Counter,
    dropped: [Counter; DropReason::ALL.len()],
    punted: Reasons,
    /// Generation of the policy in use. Release here, Acquire in [`generation`](Self::generation): who sees it knows
    /// that the older policy is no longer asked.
    generation: AtomicU64,
    /// Free frames in the worker's own pool, at the end of its last round.
    pub(crate) free: Gauge,
    /// Frames in the rings of the worker's queues, at the end of its last round.
    pub(crate) held: Gauge,
    /// Connections in the worker's table, at the end of its last round.
    connections: Gauge,
    /// What has happened to them, by [`Counts::WORDS`].
    connection_counts: [Gauge; Counts::WORDS.len()],
    /// Exhaustions that the board tells of.
    exhausted: Gauge,
    exhausted_towards: Board,
    /// Of netfilter rules.
    pub(crate) rules: RuleCounters,
    /// The neighbours it sends to. The one thing here that the control side writes, too.
    pub(crate) neighbours: Marks,
}

/// The control side asks, the worker makes one: of what XDP programs have counted. Numbers only grow.
#[derive(Default)]
pub(crate) struct Collections {
    pub(crate) asked: AtomicU64,
    /// The last one that was asked for and has been made.
    pub(crate) made: AtomicU64,
}

/// [`Default`] stops at 32 elements.
struct Reasons([Counter; PuntReason::ALL.len()]);

impl Default for Reasons {
    fn default() -> Self {
        Reasons(std::array::from_fn(|_| Counter::default()))
    }
}

impl WorkerCounters {
    pub(crate) fn stop(&self, stop: Stop) {
        match stop {
            Stop::Drop(reason) => self.dropped[reason.index()].add(1),
            Stop::Punt(reason) => self.punted.0[reason.index()].add(1),
        }
    }

    /// What packets of a known flow count: the worker's own have been counted as forwarded.
    pub(crate) fn hear(&self, collected: &Collected) {
        self.replayed.add(collected.replayed);
        self.forwarded.add(collected.replayed);
        self.neighbours.set(collected.neighbour);
        for slot in collected.rules() {
            self.rules.add(slot, collected.traffic.packets, collected.traffic.bytes);
        }
    }

    pub(crate) fn adopted(&self, generation: Generation) {
        self.generation.store(generation.0, Ordering::Release);
    }

    pub(crate) fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::Acquire))
    }

    pub(crate) fn connections(&self, there_are: usize, counts: &Counts) {
        self.connections.set(there_are);
        for (gauge, count) in self.connection_counts.iter().zip(counts.values()) {
            gauge.set(count as usize);
        }
        if self.exhausted.value() != counts.exhausted {
            self.exhausted_towards.write(&counts.exhausted_towards);
            self.exhausted.set(counts.exhausted as usize);
        }
    }

    pub(crate) fn status(&self, index: usize) -> WorkerStatus {
        WorkerStatus {
            index,
            generation: self.generation(),
            received: self.received.value(),
            forwarded: self.forwarded.value(),
            replayed: self.replayed.value(),
            flows: self.flows.value(),
            handed_over: self.handed_over.value(),
            dropped: self.dropped.iter().map(Counter::value).sum(),
            punted: self.punted.0.iter().map(Counter::value).sum(),
            sleeps: self.sleeps.value(),
            free: self.free.value(),
            held: self.held.value(),
            connections: self.connections.value(),
            connection_counts: std::array::from_fn(|at| self.connection_counts[at].value()),
            exhausted_towards: self.exhausted_towards.read(),
        }
    }

    /// Adds this worker's numbers to `sum`.
    pub(crate) fn add_to(&self, sum: &mut Counters) {
        sum.forwarded += self.forwarded.value();
        sum.replayed += self.replayed.value();
        for reason in DropReason::ALL {
            sum.dropped[reason.index()] += self.dropped[reason.index()].value();
        }
        for reason in PuntReason::ALL {
            sum.punted[reason.index()] += self.punted.0[reason.index()].value();
        }
    }
}

/// A number that one thread writes and others read.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// By the one writer only: a plain load and store, no locked instruction.
    pub(crate) fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A level that one thread writes and others read.
#[derive(Default)]
pub(crate) struct Gauge(AtomicU64);

impl Gauge {
    pub(crate) fn set(&self, level: usize) {
        self.0.store(level as u64, Ordering::Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// All workers and XDP programs together, in frames since the start. Arrays are indexed by the reasons' `index()`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Counters {
    pub forwarded: u64,
    /// Of these, by the XDP programs as a worker had decided.
    pub replayed: u64,
    pub dropped: [u64; DropReason::ALL.len()],
    pub punted: [u64; PuntReason::ALL.len()],
    /// Left to the kernel before a worker saw them.
    pub passed: [u64; PassReason::ALL.len()],
}

impl Default for Counters {
    fn default() -> Self {
        Counters {
            forwarded: 0,
            replayed: 0,
            dropped: [0; DropReason::ALL.len()],
            punted: [0; PuntReason::ALL.len()],
            passed: [0; PassReason::ALL.len()],
        }
    }
}

impl Counters {
    pub fn of_drop(&self, reason: DropReason) -> u64 {
        self.dropped[reason.index()]
    }

    pub fn of_punt(&self, reason: PuntReason) -> u64 {
        self.punted[reason.index()]
    }

    pub fn of_pass(&self, reason: PassReason) -> u64 {
        self.passed[reason.index()]
    }
}
