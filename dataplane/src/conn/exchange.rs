//! What the control side and a worker tell each other of connections, over bounded queues.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;
use shunt_policy::Ifindex;
use shunt_policy::connection::Tuple;

use super::record::Record;
use super::settings::Settings;

/// To a worker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ToWorker {
    /// The kernel has this connection, or has changed it. `whole` says that a worker may go on with it; else its packets are the
    /// kernel's, and its tuples are taken.
    Kernel {
        record: Record,
        whole: bool,
    },
    /// The kernel has it no longer, and not because a worker said so: deleted by the operator, or run out while it was the kernel's.
    Ended {
        original: Tuple,
        reply: Tuple,
    },
    /// The kernel has this connection now, as a worker has told it.
    Exported {
        original: Tuple,
    },
    Settings(Arc<Settings>),
    /// `masq_device_event`, `masq_inet_event`: connections masqueraded behind this interface (and address) end.
    Unmasquerade {
        oif: Ifindex,
        address: Option<IpAddr>,
    },
}

/// How many of a worker's messages have reached the kernel, or never will. Written by the control side when the kernel has answered, read
/// by the worker while packets wait for that; what was written to the kernel before is seen after (release, acquire).
#[derive(Clone, Debug, Default)]
pub struct Given(Arc<CachePadded<AtomicU64>>);

impl Given {
    pub fn set(&self, messages: u64) {
        self.0.store(messages, Ordering::Release);
    }

    pub fn so_far(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// From a worker, for the kernel's table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FromWorker {
    /// Create it, or bring it up to date.
    Lives(Record),
    /// It has ended; only of what the kernel was told of.
    Ended { original: Tuple, reply: Tuple },
}
