//! One frame of memory, owned.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use xsk_rs::Umem;
use xsk_rs::umem::frame::FrameDesc;

/// The only access to one chunk of a [`Region`](super::Region): whoever holds it may read and write the packet, nobody
/// else.
///
/// It cannot be cloned. A frame moves between pool, port and worker; giving it to a ring ends the token, and taking it
/// from a ring makes it anew. In debug builds dropping one is a panic: it would be lost to the rings for ever.
pub struct Frame {
    data: NonNull<u8>,
    length: u32,
    /// Bytes from `data` to the end of the chunk.
    room: u32,
    region: u32,
    /// What the rings know it by; unused in plain memory.
    descriptor: FrameDesc,
}

// SAFETY: a frame is the only way to its bytes, so it may move to another thread like a Box.
unsafe impl Send for Frame {}
// SAFETY: a shared frame only reads.
unsafe impl Sync for Frame {}

impl Frame {
    /// # Safety
    ///
    /// `data` points to `room` initialised bytes that nothing else has access to while the frame lives, and that live
    /// until the region `region` has it back; `length <= room`.
    pub(super) unsafe fn new(data: NonNull<u8>, length: u32, room: u32, region: u32, descriptor: FrameDesc) -> Self {
        debug_assert!(length <= room, "a packet of {length} bytes in a chunk with room for {room}");
        Frame { data, length: length.min(room), room, region, descriptor }
    }

    /// Cuts the packet to `length` bytes; does nothing if it is shorter.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(u32::try_from(length).unwrap_or(u32::MAX));
    }

    /// Puts `packet` into the frame. Returns false, and leaves the frame alone, if it does not fit.
    pub fn write(&mut self, packet: &[u8]) -> bool {
        match u32::try_from(packet.len()) {
            Ok(length) if length <= self.room => self.length = length,
            _ => return false,
        }
        self.copy_from_slice(packet);
        true
    }

    pub(super) fn region(&self) -> u32 {
        self.region
    }

    /// Tells the descriptor how long the packet is now; the transmit ring reads it from there.
    ///
    /// # Safety
    ///
    /// The frame is of `umem`.
    pub(super) unsafe fn describe(&mut self, umem: &Umem) {
        if self.descriptor.lengths().data() != self.length as usize {
            // SAFETY: the descriptor is of this UMEM by contract, and this frame is the only access to it.
            unsafe { umem.data_mut(&mut self.descriptor) }.cursor().set_pos(self.length as usize);
        }
    }

    /// Ends the token; the chunk now belongs to whoever gets the descriptor.
    pub(super) fn discharge(self) -> FrameDesc {
        let descriptor = self.descriptor;
        std::mem::forget(self);
        descriptor
    }
}

impl Deref for Frame {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: by `new` these bytes are readable and, as this frame is borrowed, nobody writes them.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.length as usize) }
    }
}

impl DerefMut for Frame {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: by `new` these bytes are this frame's alone, and the frame is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), self.length as usize) }
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame").field("length", &self.length).field("region", &self.region).finish_non_exhaustive()
    }
}

#[cfg(debug_assertions)]
impl Drop for Frame {
    fn drop(&mut self) {
        // A second panic while unwinding would hide the first.
        if !std::thread::panicking() {
            panic!("a frame was dropped instead of being given back");
        }
    }
}
