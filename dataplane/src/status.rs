//! What the dataplane tells of itself.

use shunt_policy::{Generation, PortId};

use crate::conn::{Counts, Exhausted};
use crate::counters::Counters;

/// A port as it really is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortStatus {
    pub id: PortId,
    pub name: String,
    /// How the XDP program is attached: `native`, `generic`, or `none`.
    pub mode: &'static str,
    /// Whether all sockets of the port are bound in zero-copy mode.
    pub zero_copy: bool,
    pub queues: u32,
    pub serving: bool,
    /// Its XDP program forwards flows that workers have decided about.
    pub replays: bool,
    /// Name of the tap device through which its punted frames go.
    pub tap: String,
    /// Frames since the start that the kernel dropped because the port's worker was too slow to take them.
    pub missed: u64,
}

/// A worker, as of the end of one of its last rounds. Frames since the start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WorkerStatus {
    pub index: usize,
    /// The policy it works by.
    pub generation: Generation,
    /// Taken from its queues.
    pub received: u64,
    /// Put into a transmit queue, its own frames and those handed over to it.
    pub forwarded: u64,
    /// By XDP programs as it has decided; in `forwarded` as well.
    pub replayed: u64,
    /// Flows that XDP programs forward, now.
    pub flows: u64,
    /// Given to another worker to send.
    pub handed_over: u64,
    pub dropped: u64,
    pub punted: u64,
    /// How often it had nothing to do and slept.
    pub sleeps: u64,
    /// Frames free in its own pool, now.
    pub free: u64,
    /// Frames in the rings of its queues, now.
    pub held: u64,
    /// In its table of connections, now.
    pub connections: u64,
    /// What has happened to them, by [`Counts::WORDS`].
    pub connection_counts: [u64; Counts::WORDS.len()],
    /// Destinations to which a nat rule had no tuple left, the latest first.
    pub exhausted_towards: Vec<Exhausted>,
}

/// The end of a dataplane.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StopReport {
    /// Everything that was counted, the draining included.
    pub counters: Counters,
    /// Frames of memory there were.
    pub frames: u32,
    /// Frames of memory that did not come home. Anything but 0 is a defect.
    pub lost: u32,
    /// Packets that a device had not sent when the time to drain was over.
    pub unsent: usize,
    /// Packets that one worker had left for another when the time to drain was over.
    pub abandoned: usize,
}
