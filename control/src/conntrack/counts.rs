//! What has been done, for `shunt status` and the metrics.

use std::collections::BTreeMap;

/// Since the start, except where another thing is said.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Connections that the kernel has now, as far as is known.
    pub connections: u64,
    /// Of these, those of which the kernel has not told anything by itself yet: it may never do, so they are looked up now and then.
    pub unheard: u64,
    /// The kernel's connections that workers were told of, at first or with something new.
    pub imported: u64,
    /// Connections that workers were told to have ended.
    pub ended: u64,
    /// Connections of workers that the kernel was given, or that were brought up to date there.
    pub exported: u64,
    /// Connections of workers that the kernel was told to have ended.
    pub deleted: u64,
    /// What the kernel refused, by errno.
    pub export_failed: BTreeMap<i32, u64>,
    /// How often a worker's queue to us was found full: it may have had more to say.
    pub export_late: u64,
    /// Events of the kernel's, and of these those that we had brought about.
    pub events: u64,
    pub own: u64,
    /// Messages that could not be decoded.
    pub undecoded: u64,
    /// How often the kernel had to throw events away (ENOBUFS).
    pub overflows: u64,
    /// What could not be told, because the queue of a worker was full.
    pub lost: u64,
    /// How often all connections were read from the kernel, and how often because something had been lost.
    pub dumps: u64,
    pub resyncs: u64,
}
