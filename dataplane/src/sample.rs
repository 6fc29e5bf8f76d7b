//! A few of the workers' decisions, kept for whoever holds them against the kernel's.
//!
//! At most one packet of a burst, and none while nobody has taken the last ones: under load this costs a burst one look at a line
//! that the control side writes ten times a second.

use std::ops::Deref;

use rtrb::{Consumer, Producer, RingBuffer};
use shunt_policy::{Egress, Generation, Ifindex, Policy, Query, Stop};

use crate::packet::Packet;

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
    pub fn offer<F: Deref<Target = [u8]>>(&mut self, burst: &[F], iif: Ifindex, policy: &Policy) {
        if !self.ring.is_full() {
            self.keep(burst, iif, policy);
        }
    }

    #[cold]
    fn keep<F: Deref<Target = [u8]>>(&mut self, burst: &[F], iif: Ifindex, policy: &Policy) {
        self.turn = self.turn.wrapping_add(1);
        let Some(frame) = burst.get(self.turn % burst.len().max(1)) else { return };
        // Of what cannot be read there is nothing to ask the kernel.
        let Ok(packet) = Packet::parse(frame) else { return };
        let query = packet.query(iif);
        let sample = Sample { query, outcome: policy.decide(&query), generation: policy.generation() };
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

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use shunt_policy::config::Config;
    use shunt_policy::{Mark, PuntReason, compile};

    use super::*;

    /// An IPv4 packet without payload from 192.0.2.`host`, of a protocol that needs no header.
    fn frame(host: u8) -> Vec<u8> {
        let mut frame =
            [&[2; 12][..], &[8, 0, 0x45, 0, 0, 20, 0, 0, 0, 0, 64, 253, 0, 0, 192, 0, 2, host, 192, 0, 2, 1]].concat();
        let sum: u32 = frame[14..].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        frame[24..26].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
        frame
    }

    #[test]
    fn one_of_a_burst_and_none_without_room() {
        let policy = compile(&Config::default(), Generation(7));
        let (mut sampler, mut samples) = channel();
        let burst: Vec<_> = (10..13).map(frame).collect();
        for _ in 0..RING + 5 {
            sampler.offer(&burst, Ifindex(3), &policy);
        }
        sampler.offer::<Vec<u8>>(&[], Ifindex(3), &policy);
        let taken: Vec<_> = samples.take(usize::MAX).collect();
        assert_eq!(taken.len(), RING);
        let Sample { query, outcome, generation } = taken[0];
        assert_eq!((query.iif, query.protocol, query.mark, query.length), (Ifindex(3), 253, Mark(0), 20));
        assert_eq!((outcome, generation), (Err(Stop::Punt(PuntReason::UnknownIngress)), Generation(7)));
        let of_host =
            |host: u8| taken.iter().filter(|sample| sample.query.source == IpAddr::from([192, 0, 2, host])).count();
        assert_eq!([10, 11, 12].map(of_host), [21, 22, 21], "each place in the burst has its turn");
        assert_eq!(samples.take(usize::MAX).count(), 0);

        sampler.offer(&[vec![0; 60]], Ifindex(3), &policy);
        assert_eq!(samples.take(usize::MAX).count(), 0, "there is nothing to ask of a frame that is no packet");
    }
}
