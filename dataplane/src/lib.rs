//! The hot path: frames from AF_XDP, a decision of `shunt-policy` for each, and out again.
//!
//! [`Dataplane`] is what the control side holds. Inside, one [`worker`] per core owns queues of ports ([`port`]), asks
//! the policy it last adopted ([`snapshot`]) about each [`packet`], and acts on the answer: rewrite and transmit,
//! [`punt`] to the kernel, or drop. What a worker never sees, the XDP program (`bpf/redirect.bpf.c`) leaves to the kernel. A few decisions are kept as a [`sample`]. [`sim`] runs the same workers on plain memory, without
//! privileges or a kernel. What workers have decided about flows is [`replay`]ed by the XDP program.

mod board;
pub mod conn;
pub mod counters;
mod dataplane;
mod error;
mod marks;
pub mod packet;
pub mod port;
pub mod punt;
pub mod replay;
mod rule_counters;
pub mod sample;
pub mod served;
pub mod sim;
pub mod snapshot;
mod status;
pub mod worker;
pub mod xsk;

pub use counters::Counters;
pub use dataplane::{Dataplane, Options, PortSpec, ReplayMode, XdpMode, ZeroCopy};
pub use error::OpenError;
pub use marks::UsedNeighbours;
pub use rule_counters::RuleCount;
pub use sample::Sample;
pub use status::{PortStatus, StopReport, WorkerStatus};
pub use worker::tracked::{Line, TableOptions, Tables};
pub use xsk::{Histogram, Load, Loop, Seen, has_tcx_programs, takes_redirected};
