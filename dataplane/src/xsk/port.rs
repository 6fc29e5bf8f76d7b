//! One AF_XDP socket as a [`Port`].

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;

use nix::sys::socket::{setsockopt, sockopt};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, TxQueue};

use super::frame::Frame;
use super::option::{self, Meter};
use super::pool::{BATCH, Pool};
use super::region::Region;
use crate::port::Port;

/// Memory for frames that the kernel is still sending in copy mode, in bytes: enough for a full ring.
const SEND_BUFFER: usize = 8 << 20;

/// The rings of a socket.
pub(super) struct Rings {
    pub(super) rx: RxQueue,
    pub(super) tx: TxQueue,
    pub(super) fill: FillQueue,
    pub(super) completion: CompQueue,
}

/// One queue of an interface.
pub struct XskPort {
    region: Arc<Region>,
    rings: Rings,
    /// Entries of each of the four rings.
    ring: u32,
    /// Frames given to the fill ring and not received yet.
    receiving: usize,
    /// Frames given to the transmit ring and not completed yet.
    sending: usize,
    /// Frames in `outgoing`, not in the ring yet.
    queued: usize,
    /// The interface is down or gone: the kernel refused to send what waits in the ring, and nothing is added to it.
    down: bool,
    scratch: [FrameDesc; BATCH],
    outgoing: [FrameDesc; BATCH],
}

impl XskPort {
    /// `rings` are those of a socket on `region`'s UMEM, with `entries` entries each.
    pub(super) fn new(region: Arc<Region>, rings: Rings, entries: u32) -> Self {
        let port = XskPort {
            region,
            rings,
            ring: entries,
            receiving: 0,
            sending: 0,
            queued: 0,
            down: false,
            scratch: [FrameDesc::default(); BATCH],
            outgoing: [FrameDesc::default(); BATCH],
        };
        port.enlarge_send_buffer();
        port
    }

    /// Whether the kernel bound the socket in zero-copy mode, as the socket itself says.
    pub(crate) fn is_zero_copy(&self) -> io::Result<bool> {
        option::is_zero_copy(self.socket())
    }

    /// The socket, for the XSKMAP and for poll(2).
    pub(crate) fn socket(&self) -> RawFd {
        self.rings.rx.fd().as_raw_fd()
    }

    /// A handle to ask the socket for its statistics from another thread.
    pub(crate) fn meter(&self) -> io::Result<Meter> {
        // SAFETY: the descriptor is that of the socket, which this port keeps open.
        let socket = unsafe { BorrowedFd::borrow_raw(self.socket()) };
        socket.try_clone_to_owned().map(|socket| Meter { socket })
    }

    /// In copy mode each frame on its way is charged to the socket's send buffer (`sock_alloc_send_skb`), and the
    /// default holds fewer than a hundred.
    fn enlarge_send_buffer(&self) {
        // SAFETY: the descriptor is that of the socket, which this port keeps open.
        let socket = unsafe { BorrowedFd::borrow_raw(self.socket()) };
        if setsockopt(&socket, sockopt::SndBufForce, &SEND_BUFFER).is_err() {
            // Without CAP_NET_ADMIN as much as net.core.wmem_max allows; it only costs more system calls.
            let _ = setsockopt(&socket, sockopt::SndBuf, &SEND_BUFFER);
        }
    }

    /// Gives the kernel free frames to receive into, as many as the fill ring takes.
    fn refill(&mut self, pool: &mut Pool) {
        while self.ring as usize - self.receiving >= BATCH {
            let mut count = 0;
            while count < BATCH {
                let Some(frame) = pool.take() else { break };
                self.scratch[count] = self.enter(frame);
                count += 1;
            }
            // SAFETY: `enter` ended these frames' tokens and they are of this region's UMEM, which is the socket's.
            let taken = unsafe { self.rings.fill.produce(&self.scratch[..count]) };
            self.receiving += taken;
            for descriptor in &self.scratch[taken..count] {
                // SAFETY: the ring did not take it, so its chunk is still only ours.
                pool.put(unsafe { self.region.adopt(*descriptor) });
            }
            if taken < BATCH {
                break;
            }
        }
        if self.rings.fill.needs_wakeup() {
            // Only a hint to the driver; if it fails, the next poll(2) is one too.
            let _ = self.rings.fill.wakeup(self.rings.rx.fd_mut(), 0);
        }
    }

    /// Ends a frame's token on its way into a ring of this socket.
    fn enter(&self, frame: Frame) -> FrameDesc {
        assert!(self.region.owns(&frame), "a frame can only enter a socket of its own UMEM");
        frame.discharge()
    }

    /// Puts what `transmit` has gathered into the ring.
    fn submit(&mut self) {
        if self.queued == 0 {
            return;
        }
        // SAFETY: `transmit` ended these frames' tokens and they are of this region's UMEM, which is the socket's.
        let taken = unsafe { self.rings.tx.produce(&self.outgoing[..self.queued]) };
        // `transmit` keeps `sending + queued` within the ring, so there is room for all or (never) for none.
        if taken == self.queued {
            self.sending += taken;
            self.queued = 0;
        }
    }

    /// Frames in the transmit ring that the kernel has not taken yet.
    fn waiting(&mut self) -> u32 {
        self.ring - self.rings.tx.nb_free_exact()
    }

    /// Makes the kernel send. In copy mode a call sends a limited number (`TX_BATCH_SIZE`), so it is repeated while
    /// that helps. Returns how many frames still wait; the next flush tries again.
    fn kick(&mut self) -> u32 {
        let mut waiting = self.waiting();
        if waiting == 0 {
            // Also if it was poll(2) that sent (xsk_poll), after the interface came up again.
            self.down = false;
        }
        while waiting > 0 && self.rings.tx.needs_wakeup() {
            // xsk_check_common: ENETDOWN is an interface that is down, ENXIO one that is gone. EAGAIN, EBUSY, ENOBUFS:
            // later.
            self.down = matches!(
                wake(self.socket()).map_err(|error| error.raw_os_error()),
                Err(Some(libc::ENETDOWN | libc::ENXIO))
            );
            let now = self.waiting();
            if now >= waiting {
                break;
            }
            waiting = now;
        }
        waiting
    }

    /// Takes frames back that have been sent.
    fn reap(&mut self, pool: &mut Pool) {
        while self.sending > 0 {
            // SAFETY: the ring is that of this region's UMEM.
            let count = unsafe { self.rings.completion.consume(&mut self.scratch) };
            self.sending -= count;
            for descriptor in &self.scratch[..count] {
                // SAFETY: the kernel has completed the frame and lets go of it.
                pool.put(unsafe { self.region.adopt(*descriptor) });
            }
            if count < BATCH {
                return;
            }
        }
    }
}

impl Port for XskPort {
    fn receive(&mut self, into: &mut Vec<Frame>, pool: &mut Pool) {
        let room = (into.capacity() - into.len()).min(BATCH);
        // SAFETY: the ring is that of this region's UMEM.
        let count = unsafe { self.rings.rx.consume(&mut self.scratch[..room]) };
        self.receiving -= count;
        for descriptor in &self.scratch[..count] {
            // SAFETY: the kernel has handed the frame over and lets go of it.
            into.push(unsafe { self.region.adopt(*descriptor) });
        }
        self.refill(pool);
    }

    #[inline]
    fn transmit(&mut self, mut frame: Frame) -> Result<(), Frame> {
        if self.queued == BATCH {
            self.submit();
        }
        if self.down || self.queued == BATCH || self.sending + self.queued >= self.ring as usize {
            return Err(frame);
        }
        self.region.describe(&mut frame);
        self.outgoing[self.queued] = self.enter(frame);
        self.queued += 1;
        Ok(())
    }

    fn flush(&mut self, pool: &mut Pool) -> usize {
        self.submit();
        if self.sending == 0 {
            return 0;
        }
        let waiting = self.kick() as usize;
        self.reap(pool);
        waiting
    }

    fn held(&self) -> usize {
        self.receiving + self.sending + self.queued
    }

    fn in_flight(&self) -> usize {
        self.sending + self.queued
    }

    fn descriptor(&self) -> Option<RawFd> {
        Some(self.socket())
    }
}

impl Drop for XskPort {
    fn drop(&mut self) {
        // No frame is made from these descriptors any more. The kernel may still write to them: it has its own hold on
        // the pages, and our mapping stays until the last socket is deleted, because each of the rings holds the UMEM.
        self.region.come_home(self.held() as u32);
    }
}

/// Tells the kernel that there is something to send. xsk-rs' own hides the errors.
fn wake(socket: RawFd) -> io::Result<()> {
    // SAFETY: no memory is involved: the message is empty and there is no address.
    let result = unsafe { libc::sendto(socket, std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
