//! The memory that frames live in: the process's UMEM, or plain memory for the simulator.

use std::io;
use std::mem::ManuallyDrop;
use std::num::NonZeroU32;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use xsk_rs::config::{FrameSize, QueueSize, UmemConfig};
use xsk_rs::umem::frame::FrameDesc;
use xsk_rs::{Umem, umem::UmemCreateError};

use super::frame::Frame;

/// Size of a frame's chunk of memory in bytes, the kernel's headroom included.
pub const CHUNK: u32 = 4096;

/// What the kernel keeps free in front of a received packet (`XDP_PACKET_HEADROOM`).
pub const HEADROOM: u32 = 256;

/// Longest frame in bytes that fits, Ethernet header included.
pub const LONGEST_FRAME: u32 = CHUNK - HEADROOM;

/// Owner of the memory behind a fixed number of [`Frame`]s.
///
/// Every frame is handed out once, at creation, and comes home once, when its last holder (a pool, a depot, a port) is
/// dropped. Memory is released only if all of them are home. A frame that is kept beyond that keeps the memory alive
/// for good: leaking is safe, a dangling frame would not be.
pub struct Region {
    memory: Memory,
    id: u32,
    total: u32,
    /// Written by whoever drops a holder of frames, read after the last of them is gone.
    home: AtomicU32,
}

enum Memory {
    Umem { umem: ManuallyDrop<Umem>, base: NonNull<u8> },
    Plain { base: NonNull<u8>, length: usize },
}

// SAFETY: the pointers are only handed on inside frames, each to a part of the memory that no other frame covers.
unsafe impl Send for Region {}
// SAFETY: as above; the counter is atomic and `Umem` is itself `Sync`.
unsafe impl Sync for Region {}

/// Tells regions apart, so that a frame cannot be given to a port of another region.
static NEXT_ID: AtomicU32 = AtomicU32::new(0);

impl Region {
    /// Maps and registers a UMEM of `total` frames whose fill and completion rings have `ring` entries each (a power
    /// of two).
    pub(super) fn umem(total: NonZeroU32, ring: QueueSize) -> io::Result<(Arc<Self>, Vec<Frame>)> {
        let size = FrameSize::new(CHUNK).map_err(io::Error::other)?;
        let config = UmemConfig::builder()
            .frame_size(size)
            .fill_queue_size(ring)
            .comp_queue_size(ring)
            .build()
            .map_err(io::Error::other)?;
        // No huge pages: none are reserved on an ordinary machine.
        let (umem, mut descriptors) = Umem::new(config, total, false).map_err(cause)?;
        let base = base_of(&umem, &mut descriptors)?;
        let region = Arc::new(Region {
            memory: Memory::Umem { umem: ManuallyDrop::new(umem), base },
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            total: total.get(),
            home: AtomicU32::new(0),
        });
        // SAFETY: `Umem::new` returns each chunk's descriptor exactly once, and the kernel has been given none of them.
        let frames = descriptors.into_iter().map(|descriptor| unsafe { region.adopt(descriptor) }).collect();
        Ok((region, frames))
    }

    /// Plain memory for `total` frames; no privileges, no kernel.
    pub(crate) fn plain(total: NonZeroU32) -> (Arc<Self>, Vec<Frame>) {
        let length = total.get() as usize * CHUNK as usize;
        let memory = Box::into_raw(vec![0u8; length].into_boxed_slice());
        // SAFETY: a Box's pointer is never null.
        let base = unsafe { NonNull::new_unchecked(memory.cast::<u8>()) };
        let region = Arc::new(Region {
            memory: Memory::Plain { base, length },
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            total: total.get(),
            home: AtomicU32::new(0),
        });
        let frames = (0..total.get())
            .map(|index| {
                let offset = (index * CHUNK + HEADROOM) as usize;
                // SAFETY: offset < length, so the pointer stays inside the allocation; each chunk is used once.
                unsafe { Frame::new(base.add(offset), 0, LONGEST_FRAME, region.id, FrameDesc::default()) }
            })
            .collect();
        (region, frames)
    }

    /// Number of frames there are.
    pub fn total(&self) -> u32 {
        self.total
    }

    /// Number of frames that have come home for good.
    pub fn home(&self) -> u32 {
        // Acquire pairs with the Release in `come_home`.
        self.home.load(Ordering::Acquire)
    }

    /// Ends the life of a frame: its holder is being dropped.
    pub(crate) fn retire(&self, frame: Frame) {
        assert!(self.owns(&frame), "a frame comes home to the region it is from");
        frame.discharge();
        self.come_home(1);
    }

    /// The same for frames of which only the kernel holds the descriptors, after it has let go of them.
    pub(super) fn come_home(&self, count: u32) {
        self.home.fetch_add(count, Ordering::Release);
    }

    pub(super) fn owns(&self, frame: &Frame) -> bool {
        frame.region() == self.id
    }

    /// Tells the frame's descriptor how long the packet is now.
    pub(super) fn describe(&self, frame: &mut Frame) {
        assert!(self.owns(frame), "a frame can only be described by its own region");
        if let Some(umem) = self.as_umem() {
            // SAFETY: all frames of this region are of its UMEM, and this one is.
            unsafe { frame.describe(umem) };
        }
    }

    /// The UMEM to open sockets on; `None` for plain memory.
    pub(super) fn as_umem(&self) -> Option<&Umem> {
        match &self.memory {
            Memory::Umem { umem, .. } => Some(umem),
            Memory::Plain { .. } => None,
        }
    }

    /// Makes the owned token for a descriptor that a ring (or the creation of the UMEM) has just handed out.
    ///
    /// # Safety
    ///
    /// `descriptor` belongs to this region's UMEM, and neither the kernel nor another frame has access to its chunk.
    pub(super) unsafe fn adopt(&self, descriptor: FrameDesc) -> Frame {
        let (Memory::Umem { base, .. } | Memory::Plain { base, .. }) = &self.memory;
        let offset = descriptor.addr();
        let room = CHUNK - (offset as u32 & (CHUNK - 1));
        // SAFETY: the caller vouches that the offset lies inside the UMEM and that the chunk is nobody else's.
        unsafe { Frame::new(base.add(offset), descriptor.lengths().data() as u32, room, self.id, descriptor) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if self.home() != self.total {
            return;
        }
        match &mut self.memory {
            // SAFETY: dropped once, here, and not used afterwards. All frames are home, so no pointer into it is left.
            Memory::Umem { umem, .. } => unsafe { ManuallyDrop::drop(umem) },
            Memory::Plain { base, length } => {
                let memory = std::ptr::slice_from_raw_parts_mut(base.as_ptr(), *length);
                // SAFETY: made by Box::into_raw with this length; all frames are home, so no pointer into it is left.
                drop(unsafe { Box::from_raw(memory) });
            }
        }
    }
}

/// Where the UMEM starts. xsk-rs does not tell, but where its first frame starts, and how far that is from the
/// beginning.
fn base_of(umem: &Umem, descriptors: &mut [FrameDesc]) -> io::Result<NonNull<u8>> {
    let first = descriptors.first_mut().ok_or_else(|| io::Error::other("a UMEM without frames"))?;
    let offset = first.addr();
    // SAFETY: `first` is a frame of this UMEM that nobody else uses yet.
    let mut data = unsafe { umem.data_mut(first) };
    let start = data.contents_mut().as_mut_ptr();
    // SAFETY: the frame lies `offset` bytes inside the mapping, so the difference is the mapping's start.
    NonNull::new(unsafe { start.sub(offset) }).ok_or_else(|| io::Error::other("a UMEM at address zero"))
}

/// The errno behind xsk-rs' error.
fn cause(error: UmemCreateError) -> io::Error {
    use std::error::Error as _;
    match error.source().and_then(|source| source.downcast_ref::<io::Error>()).and_then(io::Error::raw_os_error) {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::other(error),
    }
}
