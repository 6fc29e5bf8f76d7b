//! A few of the workers' decisions, kept for whoever holds them against the kernel's.
//!
//! At most one packet of a burst, and none while nobody has taken the last ones: under load this costs a burst one look at a line
//! that the control side writes ten times a second.

use rtrb::{Consumer, Producer, RingBuffer};
use shunt_policy::{Egress, Generation, Ifindex, Policy, Query, Stop};

use crate::forward::forward;
use crate::packet::Packet;
use crate::xsk::Frame;

/// Decisions of one worker that wait to be taken.
const RING: usize = 64;

/// One packet and what became of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    pub query: Query,
    pub outcome: Result<Egress, Stop>,
    /// The policy that said so.
    pub generation: Generation,
}

/// A worker's end.
pub struct Sampler {
    ring: Producer<Sample>,
    /// Grows with each burst, so that not always the first packet is chosen.
    turn: usize,
}

/// The control side's end.
pub struct Samples(Consumer<Sample>);

/// Both ends for one worker.
pub fn channel() -> (Sampler, Samples) {
    let (producer, consumer) = RingBuffer::new(RING);
    (Sampler { ring: producer, turn: 0 }, Samples(consumer))
}

impl Sampler {
    /// Keeps the decision on one frame of a burst, if there is room. It is decided a second time: that costs one packet in many,
    /// where looking out for the chosen one would cost every packet.
    #[inline]
    pub fn offer(&mut self, burst: &[Frame], iif: Ifindex, policy: &Policy) {
        if !self.ring.is_full() {
            self.keep(burst, iif, policy);
        }
    }

    #[cold]
    fn keep(&mut self, burst: &[Frame], iif: Ifindex, policy: &Policy) {
        self.turn = self.turn.wrapping_add(1);
        let Some(frame) = burst.get(self.turn % burst.len().max(1)) else { return };
        // Of what cannot be read there is nothing to ask the kernel.
        let Ok(packet) = Packet::parse(frame) else { return };
        let outcome = forward(frame, iif, policy).map(|onward| onward.egress);
        let sample = Sample { query: packet.query(iif), outcome, generation: policy.generation() };
        // There is room: only this worker fills the ring.
        let _ = self.ring.push(sample);
    }
}

impl Samples {
    /// Takes what is there, at most `most`, oldest first.
    pub fn take(&mut self, most: usize) -> impl Iterator<Item = Sample> {
        std::iter::from_fn(|| self.0.pop().ok()).take(most.min(RING))
    }
}
