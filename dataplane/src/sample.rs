//! A few of the workers' decisions, kept for whoever holds them against the kernel's.
//!
//! At most one packet of a burst, and none while nobody has taken the last ones: under load this costs a burst one look at a line
//! that the control side writes ten times a second.

use rtrb::{Consumer, Producer, RingBuffer};
use shunt_policy::connection::Remembered;
use shunt_policy::{Egress, Generation, Query, Stop};

/// Decisions of one worker that wait to be taken.
const RING: usize = 64;

/// One packet and what became of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    pub query: Query,
    /// What was known of its connection, if connections are tracked.
    pub tracked: Option<Remembered>,
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
    /// Which frame of a burst is to be kept, if there is room for one.
    #[inline]
    pub fn choose(&mut self, burst: usize) -> Option<usize> {
        if self.ring.is_full() || burst == 0 {
            return None;
        }
        self.turn = self.turn.wrapping_add(1);
        Some(self.turn % burst)
    }

    #[cold]
    pub fn keep(&mut self, sample: Sample) {
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
    use shunt_policy::{Ifindex, Mac, Mark, PuntReason, Transport};

    use super::*;

    #[test]
    fn one_of_a_burst_and_none_without_room() {
        let (mut sampler, mut samples) = channel();
        let query = Query {
            iif: Ifindex(3),
            source: [192, 0, 2, 1].into(),
            destination: [192, 0, 2, 2].into(),
            protocol: 253,
            transport: Transport::Other,
            tos: 0,
            flow_label: 0,
            mark: Mark(0),
            length: 20,
            ttl: 64,
            tcp_flags: 0,
            mss: None,
            source_mac: Mac([2; 6]),
        };
        let outcome = Err(Stop::Punt(PuntReason::UnknownIngress));
        let mut chosen = [0; 3];
        for _ in 0..RING {
            chosen[sampler.choose(3).expect("room")] += 1;
            sampler.keep(Sample { query, tracked: None, outcome, generation: Generation(7) });
        }
        assert_eq!(sampler.choose(3), None, "no room");
        assert_eq!(chosen, [21, 22, 21], "each place in the burst has its turn");
        let taken: Vec<_> = samples.take(usize::MAX).collect();
        assert_eq!(taken.len(), RING);
        assert_eq!((taken[0].query, taken[0].outcome, taken[0].generation), (query, outcome, Generation(7)));
        assert_eq!(sampler.choose(0), None, "nothing came");
    }
}
