//! The only room with unsafe code: memory shared with the kernel, sockets, BPF programs, taps.
//!
//! What it offers is safe. The invariant that everything here leans on: a chunk of the UMEM belongs either to exactly
//! one [`Frame`], or to the kernel, whose descriptors are in a ring. A ring transfer turns one into the other.
#![allow(unsafe_code)]

mod frame;
mod load;
mod mapped;
mod memory;
mod option;
mod pool;
mod port;
mod program;
mod region;
mod socket;
mod tap;
mod tcx;
mod wait;

pub use frame::Frame;
pub use load::{Histogram, Load, Loop, Seen};
pub(crate) use mapped::{ENTRY, MappedArray};
pub(crate) use memory::{Zeroed, filled, prefetch, room};
pub(crate) use option::Meter;
pub use pool::{BATCH, Depot, Pool};
pub use port::XskPort;
pub use program::takes_redirected;
pub(crate) use program::{Attached, PortConfig, Program, ReplayMaps, lacks_zero_copy};
pub use region::{CHUNK, HEADROOM, LONGEST_FRAME, Region};
pub(crate) use socket::{BindMode, Sockets};
pub(crate) use tap::Tap;
pub use tap::Taps;
pub use tcx::has_tcx_programs;
pub(crate) use wait::Wait;
