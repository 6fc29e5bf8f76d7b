//! What has come at once, from a queue or from another worker: flows and connections are looked for together, then it is dealt with in order.

use shunt_policy::{Ifindex, PortId, Stop};

use super::tracked::tracks;
use super::{Queue, Worker};
use crate::conn::Sought;
use crate::packet::Packet;
use crate::port::Port;
use crate::punt::Punt;
use crate::replay;
use crate::xsk::Frame;

/// How a frame has come. Small: there is one for each frame of a burst.
#[derive(Clone, Copy)]
pub(super) struct Arrival {
    ingress: PortId,
    iif: Ifindex,
    what: What,
}

#[derive(Clone, Copy)]
enum What {
    /// Likely of a flow that has been decided about.
    Known(replay::Sought),
    /// The place among what was [`Read`].
    Read(u32),
}

/// What stands in a frame.
#[derive(Clone, Copy)]
pub(super) struct Read {
    pub(super) packet: Result<Packet, Stop>,
    /// Where connections are tracked, its connection and the worker that owns that.
    pub(super) sought: Option<(Sought, usize)>,
}

impl<P: Port, K: Punt> Worker<P, K> {
    /// Takes a batch from one queue and sends each frame its way.
    pub(super) fn receive(&mut self, index: usize) -> usize {
        let mut batch = std::mem::take(&mut self.batch);
        let Queue { port, iif, ref mut io } = self.queues[index];
        io.receive(&mut batch, &mut self.pool);
        let received = batch.len();
        if received > 0 {
            self.counters.received.add(received as u64);
            for frame in &batch {
                self.arrive(frame, port, iif);
            }
            let chosen = self.samples.choose(received);
            self.dispatch_burst(&mut batch, chosen);
        }
        self.batch = batch;
        received
    }

    /// The packet path begins: whether its flow is known. Nothing is decided before the whole burst is read, so that flows and connections
    /// come from memory all at once.
    #[inline(always)]
    pub(super) fn arrive(&mut self, frame: &Frame, ingress: PortId, iif: Ifindex) {
        // Either is made where it stays: small as it is, to copy it is what would take most of the time here.
        if let Some(sought) = self.tracked.connections.seek_flow(frame, iif) {
            self.burst.push(Arrival { ingress, iif, what: What::Known(sought) });
        } else {
            let what = self.read(frame);
            self.burst.push(Arrival { ingress, iif, what });
        }
    }

    /// What stands in the frame, and whose connection it is.
    #[inline(never)]
    fn read(&mut self, frame: &Frame) -> What {
        let packet = Packet::parse(frame);
        let mut sought = None;
        if let Ok(packet) = &packet
            && tracks(self.policy.current(), packet.family())
        {
            let connections = &self.tracked.connections;
            let seen = packet.seen(frame, connections.verifies_checksums());
            sought = Some((connections.seek(seen), self.tracked.owner(&seen)));
        }
        self.read.push(Read { packet, sought });
        What::Read(self.read.len() as u32 - 1)
    }

    /// Decides about what was read and acts on it, in the order in which it came. The decision about the frame `chosen` is kept.
    pub(super) fn dispatch_burst(&mut self, batch: &mut Vec<Frame>, chosen: Option<usize>) {
        let mut burst = std::mem::take(&mut self.burst);
        for (frame, Arrival { what, .. }) in batch.iter().zip(&mut burst) {
            if let What::Known(sought) = what
                && !self.tracked.connections.approach_flow(sought)
            {
                *what = self.read(frame);
            }
        }
        for (sought, _) in self.read.iter().filter_map(|read| read.sought.as_ref()) {
            self.tracked.connections.approach(sought);
        }
        for (number, (frame, arrival)) in batch.drain(..).zip(&burst).enumerate() {
            self.sampling = chosen == Some(number);
            self.dispatch(frame, arrival);
        }
        self.sampling = false;
        self.read.clear();
        burst.clear();
        self.burst = burst;
    }

    /// As the decision about its flow says, or one that is to be made.
    #[inline]
    fn dispatch(&mut self, mut frame: Frame, arrival: &Arrival) {
        let Arrival { ingress, iif, what } = arrival;
        // A decision that is to be kept has to be made.
        if let What::Known(sought) = what
            && !self.sampling
            && let Some(port) = self.forward_known(&mut frame, (sought, *iif))
        {
            return self.send(frame, port, self.way(port));
        }
        let what = if let What::Read(_) = what { *what } else { self.read(&frame) };
        if let What::Read(place) = what {
            self.decide(frame, *ingress, *iif, self.read[place as usize]);
        }
    }
}
