//! One core's work: adopt the newest policy, receive, forward, act, flush.

mod burst;
pub mod crew;
pub mod doorbell;
pub mod handover;
mod parked;
mod replaying;
pub mod thread;
pub mod tracked;

use std::sync::Arc;
use std::time::Duration;

use crossbeam::utils::CachePadded;
use shunt_policy::connection::{Remembered, Trackless};
use shunt_policy::{DropReason, Egress, Ifindex, Policy, PortId, PuntReason, Query, Stop, Uncounted};

use crate::conn::{Punted, Sought};
use crate::counters::WorkerCounters;
use crate::packet::{Ends, Packet};
use crate::port::Port;
use crate::punt::Punt;
use crate::rule_counters::Hits;
use crate::sample::{Sample, Sampler};
use crate::snapshot::Subscriber;
use crate::xsk::{BATCH, Frame, Pool};
use burst::{Arrival, Read};
use handover::{Exchange, Handed, Task};
use parked::{Lot, Parked};
use replaying::Replaying;
use tracked::{Tracked, local};

/// One queue that the worker owns.
pub struct Queue<P> {
    pub port: PortId,
    /// Interface of the port: what packets received here have as their iif.
    pub iif: Ifindex,
    pub io: P,
}

/// How this worker sends by a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// By its own queue with this place in its list.
    Own(usize),
    /// By handing over to this worker, which owns a queue of the port.
    Give(usize),
    /// Not at all: no such port.
    None,
}

/// What a worker has done in one turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Turn {
    /// So many frames were dealt with.
    pub frames: usize,
    /// Something else is under way, a little of it in each turn so that no frame waits for it: the worker is not to sleep.
    pub more: bool,
}

impl Turn {
    /// 0: there was nothing to do.
    pub fn done(self) -> usize {
        self.frames + usize::from(self.more)
    }
}

/// Everything one worker owns. `P` is the kind of queue, `K` the way back to the kernel.
pub struct Worker<P, K> {
    policy: Subscriber,
    queues: Vec<Queue<P>>,
    /// By the number of the port.
    ways: Vec<Way>,
    exchange: Exchange,
    pool: Pool,
    punt: K,
    counters: Arc<CachePadded<WorkerCounters>>,
    samples: Sampler,
    /// The decision on the packet at hand is to be kept.
    sampling: bool,
    tracked: Tracked,
    parked: Lot,
    /// Received and not yet decided about; kept for its memory.
    batch: Vec<Frame>,
    /// Of each of these frames, how it came; kept for its memory.
    burst: Vec<Arrival>,
    /// What stands in those that are not of known flows; kept for its memory.
    read: Vec<Read>,
    /// The rules that the packet at hand has hit; kept for its memory.
    hits: Hits,
    /// Frames that the last round dealt with.
    frames: usize,
    /// Frames that still waited to be sent after the last flush.
    waiting: usize,
    replaying: Replaying,
}

/// The parts of a [`Worker`].
pub struct Parts<P, K> {
    pub policy: Subscriber,
    pub queues: Vec<Queue<P>>,
    pub ways: Vec<Way>,
    pub exchange: Exchange,
    pub pool: Pool,
    pub punt: K,
    pub counters: Arc<CachePadded<WorkerCounters>>,
    pub samples: Sampler,
    pub tracked: Tracked,
}

impl<P: Port, K: Punt> Worker<P, K> {
    pub fn new(parts: Parts<P, K>) -> Self {
        let Parts { policy, queues, ways, exchange, pool, punt, counters, samples, tracked } = parts;
        counters.adopted(policy.generation());
        let (batch, burst, read) = (Vec::with_capacity(BATCH), Vec::with_capacity(BATCH), Vec::with_capacity(BATCH));
        Worker {
            policy,
            queues,
            ways,
            exchange,
            pool,
            punt,
            counters,
            samples,
            sampling: false,
            tracked,
            parked: Lot::default(),
            batch,
            burst,
            read,
            hits: Hits::default(),
            frames: 0,
            waiting: 0,
            replaying: Replaying::default(),
        }
    }

    /// One turn over all queues and inboxes.
    pub fn round(&mut self) -> Turn {
        // Looked at first: a policy that was published before something was said is adopted before that is done.
        let told = self.tracked.told();
        let adopted = self.policy.adopt();
        self.tracked.begin(told, self.policy.current());
        self.collect_replayed(adopted);
        self.unpark();
        let mut frames = 0;
        for queue in 0..self.queues.len() {
            frames += self.receive(queue);
        }
        for inbox in 0..self.exchange.inboxes() {
            frames += self.collect(inbox);
        }
        self.flush();
        self.exchange.notify();
        let more = self.tracked.sweep(frames == 0);
        self.frames = frames;
        self.account();
        Turn { frames, more: more || self.tracked.is_told() || self.is_collecting() }
    }

    /// Decide, act.
    fn decide(&mut self, frame: Frame, ingress: PortId, iif: Ifindex, read: Read) {
        let Read { packet, sought } = read;
        let packet = match packet {
            Ok(packet) => packet,
            Err(stop) => return self.stop(frame, ingress, stop),
        };
        match sought {
            Some((sought, owner)) if owner == self.exchange.number() => {
                return self.decide_tracked(frame, packet, sought, ingress, iif);
            }
            Some((_, owner)) => {
                return self.give(frame, owner, Task::Decide { ingress, iif }, DropReason::HandoverFull);
            }
            None => {}
        }
        self.hits.clear();
        let query = packet.query(iif);
        let outcome = self.policy.current().decide_counting(&query, &mut Trackless, &mut self.hits);
        if self.sampling {
            self.samples.keep(Sample { query, tracked: None, outcome, generation: self.policy.generation() });
        }
        match outcome {
            Ok(egress) => match self.way(egress.port()) {
                Way::None => self.stop(frame, ingress, Stop::Punt(PuntReason::EgressNotTaken)),
                way => {
                    self.install(&packet, iif, &egress, None);
                    self.forward(frame, packet, &egress, &Ends::default(), way);
                }
            },
            Err(stop) => self.end(frame, packet, ingress, stop),
        }
    }

    /// The same for a packet of a connection, by the worker that owns that.
    fn decide_tracked(&mut self, frame: Frame, packet: Packet, sought: Sought, ingress: PortId, iif: Ifindex) {
        let policy = self.policy.current();
        self.hits.clear();
        let mut tracker = self.tracked.connections.tracker_of(sought, local(&packet, policy), self.tracked.now);
        let query = packet.query(iif);
        let outcome = policy.decide_counting(&query, &mut tracker, &mut self.hits);
        if self.sampling {
            let ends = outcome.map_or((None, None), |egress| (egress.new_source(), egress.new_destination()));
            let tracked = tracker.remembered(ends.0, ends.1);
            self.samples.keep(Sample { query, tracked, outcome, generation: policy.generation() });
        }
        match outcome {
            // Two who track half of a connection each are not one who has seen all of it.
            Ok(egress) if tracker.answer(&query, &egress).is_some_and(|answer| goes_back(policy, answer)) => {
                let when = tracker.punted(PuntReason::Redirect);
                self.punt_tracked(frame, packet, ingress, PuntReason::KernelConnection, when);
            }
            Ok(_) if tracker.is_answered_elsewhere() => {
                let when = tracker.punted(PuntReason::KernelConnection);
                self.punt_tracked(frame, packet, ingress, PuntReason::KernelConnection, when);
            }
            Ok(egress) => {
                let way = self.ways.get(usize::from(egress.port().0)).copied().unwrap_or(Way::None);
                if way == Way::None {
                    let when = tracker.punted(PuntReason::EgressNotTaken);
                    return self.punt_tracked(frame, packet, ingress, PuntReason::EgressNotTaken, when);
                }
                let quoted = tracker.inner().unwrap_or_default();
                match tracker.forwarded() {
                    Ok(steady) => {
                        if steady.is_some() {
                            self.install(&packet, iif, &egress, steady);
                        }
                        self.forward(frame, packet, &egress, &quoted, way);
                    }
                    Err(stop) => self.end(frame, packet, ingress, stop),
                }
            }
            Err(stop @ Stop::Drop(_)) => {
                tracker.dropped();
                self.end(frame, packet, ingress, stop);
            }
            Err(Stop::Punt(reason)) => {
                let when = tracker.punted(reason);
                self.punt_tracked(frame, packet, ingress, reason, when);
            }
        }
    }

    /// Of a packet that the kernel is to get, it must know the connection.
    fn punt_tracked(&mut self, frame: Frame, packet: Packet, ingress: PortId, reason: PuntReason, when: Punted) {
        if when == Punted::Misfit {
            return self.end(frame, packet, ingress, Stop::Drop(DropReason::Misfit));
        }
        self.punt_when(frame, ingress, reason, when);
    }

    fn punt_when(&mut self, frame: Frame, ingress: PortId, reason: PuntReason, when: Punted) {
        match when {
            Punted::Now if self.parked.len() == 0 => self.stop(frame, ingress, Stop::Punt(reason)),
            // Behind those that wait: it may be of the same connection.
            Punted::Now => self.park(frame, ingress, reason, 0),
            Punted::Later => self.park(frame, ingress, reason, self.tracked.connections.said()),
            Punted::By(reply) => {
                let owner = self.tracked.owner_of(&reply);
                self.give(frame, owner, Task::Leave { ingress, reason, reply }, DropReason::HandoverFull);
            }
            Punted::Misfit => self.stop(frame, ingress, Stop::Drop(DropReason::Misfit)),
        }
    }

    fn park(&mut self, frame: Frame, ingress: PortId, reason: PuntReason, said: u64) {
        let parked = Parked { frame, ingress, reason, said, since: self.tracked.now };
        if let Err(Parked { frame, .. }) = self.parked.put(parked) {
            self.stop(frame, ingress, Stop::Punt(reason));
        }
    }

    /// Hands to the kernel what waited until it knew enough.
    fn unpark(&mut self) {
        while let Some(Parked { frame, ingress, reason, .. }) = self.parked.next(&self.tracked) {
            self.stop(frame, ingress, Stop::Punt(reason));
        }
    }

    /// Until here the frame is as it came.
    fn forward(&mut self, mut frame: Frame, packet: Packet, egress: &Egress, quoted: &Ends, way: Way) {
        self.count_rules(&packet);
        let length = packet.rewrite(&mut frame, egress, quoted);
        frame.truncate(length);
        self.counters.neighbours.set(egress.neighbour());
        self.send(frame, egress.port(), way);
    }

    fn end(&mut self, frame: Frame, packet: Packet, ingress: PortId, stop: Stop) {
        if matches!(stop, Stop::Drop(_)) {
            self.count_rules(&packet);
        }
        self.stop(frame, ingress, stop);
    }

    /// The kernel counts what it is given; of the rest it knows nothing.
    fn count_rules(&self, packet: &Packet) {
        if self.hits.any() {
            self.counters.rules.settle(&self.hits, packet.length as u32);
        }
    }

    #[inline]
    fn way(&self, port: PortId) -> Way {
        self.ways.get(usize::from(port.0)).copied().unwrap_or(Way::None)
    }

    #[inline]
    fn send(&mut self, frame: Frame, egress: PortId, way: Way) {
        match way {
            Way::Own(queue) => self.transmit(frame, queue),
            Way::Give(worker) => self.give(frame, worker, Task::Send(egress), DropReason::TransmitFull),
            Way::None => self.discard(frame, DropReason::TransmitFull),
        }
    }

    fn give(&mut self, frame: Frame, worker: usize, to: Task, or: DropReason) {
        match self.exchange.give(worker, Handed { frame, to }) {
            Ok(()) => {
                self.pool.departed();
                self.counters.handed_over.add(1);
            }
            Err(frame) => self.discard(frame, or),
        }
    }

    /// Deals with what another worker left in one inbox, at most a batch.
    fn collect(&mut self, inbox: usize) -> usize {
        let mut batch = std::mem::take(&mut self.batch);
        let mut taken = 0;
        while taken < BATCH
            && let Some(Handed { frame, to }) = self.exchange.take(inbox)
        {
            taken += 1;
            self.pool.arrived();
            match to {
                Task::Decide { ingress, iif } => {
                    self.arrive(&frame, ingress, iif);
                    batch.push(frame);
                }
                Task::Leave { ingress, reason, reply } => {
                    let when = self.tracked.connections.expect(&reply, self.tracked.now);
                    self.punt_when(frame, ingress, reason, when);
                }
                Task::Send(egress) => match self.way(egress) {
                    Way::Own(queue) => self.transmit(frame, queue),
                    // The giver's table of ways and ours come from one place.
                    Way::Give(_) | Way::None => self.discard(frame, DropReason::TransmitFull),
                },
            }
        }
        self.dispatch_burst(&mut batch, None);
        self.batch = batch;
        taken
    }

    #[inline]
    fn transmit(&mut self, frame: Frame, queue: usize) {
        let io = &mut self.queues[queue].io;
        let Err(frame) = io.transmit(frame) else { return self.counters.forwarded.add(1) };
        // Full of frames that were sent long ago, perhaps.
        io.flush(&mut self.pool);
        match io.transmit(frame) {
            Ok(()) => self.counters.forwarded.add(1),
            Err(frame) => self.discard(frame, DropReason::TransmitFull),
        }
    }

    /// Ends a frame that does not go on by our hands.
    fn stop(&mut self, frame: Frame, ingress: PortId, stop: Stop) {
        let end = match stop {
            Stop::Punt(_) if !self.punt.punt(ingress, &frame) => Stop::Drop(DropReason::PuntFull),
            end => end,
        };
        self.counters.stop(end);
        self.pool.put(frame);
    }

    fn discard(&mut self, frame: Frame, reason: DropReason) {
        self.counters.stop(Stop::Drop(reason));
        self.pool.put(frame);
    }

    /// After every batch, however small: a lone packet does not wait for company.
    fn flush(&mut self) {
        self.waiting = 0;
        for queue in &mut self.queues {
            self.waiting += queue.io.flush(&mut self.pool);
        }
    }

    /// Every frame this worker answers for is free or in a ring of its own.
    fn account(&self) {
        let held = self.held();
        self.counters.free.set(self.pool.free());
        self.counters.held.set(held);
        let connections = &self.tracked.connections;
        self.counters.connections(connections.len(), connections.counts());
        debug_assert_eq!(self.pool.free() + held, self.pool.balance(), "free + held == owned");
    }

    /// Frames in the rings of its queues, and those that wait until the kernel may have them.
    pub fn held(&self) -> usize {
        self.queues.iter().map(|queue| queue.io.held()).sum::<usize>() + self.parked.len()
    }

    /// Whether packets wait until the kernel may have them.
    pub(crate) fn is_parking(&self) -> bool {
        self.parked.len() > 0
    }

    /// Whether nothing is under way: no frame in an inbox, none given to a ring to send.
    pub fn is_quiet(&self) -> bool {
        self.exchange.is_empty() && self.parked.len() == 0 && self.queues.iter().all(|queue| queue.io.in_flight() == 0)
    }

    /// Drops what other workers left and nobody will send any more. To be called when all workers have stopped.
    pub fn abandon(&mut self) -> usize {
        let mut abandoned = 0;
        while let Some(Parked { frame, .. }) = self.parked.take() {
            self.discard(frame, DropReason::PuntFull);
            abandoned += 1;
        }
        for inbox in 0..self.exchange.inboxes() {
            while let Some(Handed { frame, .. }) = self.exchange.take(inbox) {
                self.pool.arrived();
                self.discard(frame, DropReason::TransmitFull);
                abandoned += 1;
            }
        }
        self.account();
        abandoned
    }

    pub fn queues(&self) -> &[Queue<P>] {
        &self.queues
    }

    pub fn queues_mut(&mut self) -> &mut [Queue<P>] {
        &mut self.queues
    }

    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    pub fn punt(&self) -> &K {
        &self.punt
    }

    pub fn punt_mut(&mut self) -> &mut K {
        &mut self.punt
    }

    /// Number of frames that other workers left and this one has not taken yet.
    pub fn inbox(&self) -> usize {
        self.exchange.waiting()
    }

    /// Lets time pass for its connections.
    pub(crate) fn advance(&mut self, time: Duration) {
        self.tracked.advance(time);
    }

    /// Its connections, for the next worker in its place.
    pub fn into_tracked(self) -> Tracked {
        self.tracked
    }

    pub(crate) fn exchange(&self) -> &Exchange {
        &self.exchange
    }
}

/// Whether an answer would be the kernel's since it leaves by the interface it came in.
fn goes_back(policy: &Policy, (query, known): (Query, Remembered)) -> bool {
    policy.decide_counting(&query, &mut Some(known), &mut Uncounted) == Err(Stop::Punt(PuntReason::Redirect))
}
