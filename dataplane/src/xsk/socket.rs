//! AF_XDP sockets: one per queue of a port, all on one UMEM.

use std::error::Error as _;
use std::ffi::CString;
use std::io;
use std::num::NonZeroU32;
use std::sync::Arc;

use xsk_rs::Socket;
use xsk_rs::config::{BindFlags, Interface, LibxdpFlags, QueueSize, SocketConfig};
use xsk_rs::socket::SocketCreateError;

use super::pool::{BATCH, Depot};
use super::port::{Rings, XskPort};
use super::region::{CHUNK, Region};
use crate::worker::handover::WAITING;

/// How a socket is bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BindMode {
    ZeroCopy,
    Copy,
}

/// The UMEM and what is needed to open sockets on it.
pub(crate) struct Sockets {
    region: Arc<Region>,
    ring: QueueSize,
    mode: BindMode,
}

impl Sockets {
    /// Makes the UMEM, for `sockets` sockets and `workers` workers. On error also says how many bytes it would have
    /// had.
    pub(crate) fn new(sockets: u32, workers: u32, mode: BindMode) -> Result<(Self, Arc<Depot>), (u64, io::Error)> {
        let total = frames(sockets, workers);
        let failed = |error| (u64::from(total) * u64::from(CHUNK), error);
        let count = NonZeroU32::new(total).ok_or_else(|| failed(io::Error::other("a UMEM without frames")))?;
        let ring = QueueSize::new(ring(sockets)).map_err(|error| failed(io::Error::other(error)))?;
        let (region, frames) = Region::umem(count, ring).map_err(failed)?;
        let depot = Depot::new(Arc::clone(&region), frames);
        Ok((Sockets { region, ring, mode }, depot))
    }

    pub(crate) fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Opens and binds a socket. It receives nothing until it stands in an XSKMAP and is given frames.
    pub(crate) fn open(&self, interface: &str, queue: u32) -> io::Result<XskPort> {
        let umem = self.region.as_umem().ok_or_else(|| io::Error::other("no UMEM"))?;
        let name = CString::new(interface).map_err(io::Error::other)?;
        let mode = match self.mode {
            BindMode::ZeroCopy => BindFlags::XDP_ZEROCOPY,
            BindMode::Copy => BindFlags::XDP_COPY,
        };
        let config = SocketConfig::builder()
            .rx_queue_size(self.ring)
            .tx_queue_size(self.ring)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(mode | BindFlags::XDP_USE_NEED_WAKEUP)
            .build();
        // SAFETY: programs are inhibited, which is what the contract asks for a shared UMEM.
        let (tx, rx, rings) = unsafe { Socket::new(config, umem, &Interface::new(name), queue) }.map_err(cause)?;
        let (fill, completion) = rings.ok_or_else(|| io::Error::other("the queue is already bound on this UMEM"))?;
        Ok(XskPort::new(Arc::clone(&self.region), Rings { rx, tx, fill, completion }, self.ring.get()))
    }
}

/// Ceiling of the UMEM, in frames of 4096 bytes: 256 MiB, however many queues there are.
const MOST_FRAMES: u32 = 65536;

/// Entries per ring: fewer when there are many sockets, so that the UMEM stays below its ceiling.
fn ring(sockets: u32) -> u32 {
    match sockets {
        0..=4 => 2048,
        5..=12 => 1024,
        13..=32 => 512,
        _ => 256,
    }
}

/// Frames that `sockets` sockets and `workers` workers need to run full: a fill and a transmit ring per socket, what
/// pools keep for themselves, and one full hand-over ring per worker.
fn frames(sockets: u32, workers: u32) -> u32 {
    let rings = sockets.saturating_mul(2 * ring(sockets));
    let pools = workers.saturating_mul(16 * BATCH as u32);
    let between = if workers > 1 { workers.saturating_mul(WAITING as u32) } else { 0 };
    rings.saturating_add(pools).saturating_add(between).min(MOST_FRAMES).next_multiple_of(BATCH as u32)
}

/// The errno behind xsk-rs' error.
fn cause(error: SocketCreateError) -> io::Error {
    match error.source().and_then(|source| source.downcast_ref::<io::Error>()).and_then(io::Error::raw_os_error) {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::other(error),
    }
}
