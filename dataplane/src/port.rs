//! What a worker needs of one queue of an interface.

use std::os::fd::RawFd;

use crate::xsk::{Frame, Pool};

/// One receive and transmit queue pair.
///
/// Frames are owned throughout: what goes in by [`transmit`](Port::transmit) or is taken from the pool to receive into
/// is [`held`](Port::held) until it comes out again.
pub trait Port {
    /// Appends received frames to `into`, never beyond its capacity, and offers free frames of `pool` to receive into.
    fn receive(&mut self, into: &mut Vec<Frame>, pool: &mut Pool);

    /// Queues a frame for sending at the next [`flush`](Port::flush).
    ///
    /// # Errors
    ///
    /// The frame itself, if the queue is full.
    fn transmit(&mut self, frame: Frame) -> Result<(), Frame>;

    /// Sends what is queued and puts frames that have been sent into `pool`. Returns how many frames still wait to be
    /// sent.
    fn flush(&mut self, pool: &mut Pool) -> usize;

    /// Number of frames inside: to receive into, received, to be sent, sent and not yet given back.
    fn held(&self) -> usize;

    /// Number of frames given to [`transmit`](Port::transmit) that have not come back yet.
    fn in_flight(&self) -> usize;

    /// What poll(2) can wait on for received frames, if there is such a thing.
    fn descriptor(&self) -> Option<RawFd>;
}
