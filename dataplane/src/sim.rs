//! The workers on plain memory: no privileges, no kernel, no threads. For tests, benches and fuzzing.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shunt_policy::config::CounterSlot;
use shunt_policy::{Generation, Ifindex, Policy, PortId};

use crate::conn::exchange::{FromWorker, ToWorker};
use crate::counters::Counters;
use crate::port::Port;
use crate::punt::Punt;
use crate::replay::Flows;
use crate::rule_counters::RuleCount;
use crate::sample::Sample;
use crate::served::Served;
use crate::status::WorkerStatus;
use crate::worker::Queue;
use crate::worker::Worker;
use crate::worker::crew::{Assembled, assemble, owner};
use crate::worker::tracked::{Line, TableOptions, Tables};
use crate::xsk::{BATCH, Depot, Frame, LONGEST_FRAME, Pool, Region};

/// Frames each queue takes to receive into, and the most that can wait to be sent.
const RING: usize = 256;

/// A queue whose wire is two lists.
pub struct SimPort {
    region: Arc<Region>,
    fill: Vec<Frame>,
    /// Frames in memory that have arrived: a device writes them while the worker does something else.
    arrived: VecDeque<Frame>,
    /// What found no frame to go to yet.
    arriving: VecDeque<Vec<u8>>,
    outgoing: Vec<Frame>,
    sent: Vec<Vec<u8>>,
    sent_frames: u64,
    missed: u64,
    /// Whether what is sent is kept. Off, so that a bench or a count of allocations sees only the packet path.
    recording: bool,
    /// Whether the device sends nothing at the moment.
    stuck: bool,
    /// Emptied buffers of frames that have arrived, for the next ones.
    spare: Vec<Vec<u8>>,
}

impl SimPort {
    fn new(region: Arc<Region>) -> Self {
        SimPort {
            region,
            fill: Vec::with_capacity(RING),
            arrived: VecDeque::with_capacity(RING),
            arriving: VecDeque::new(),
            outgoing: Vec::with_capacity(RING),
            sent: Vec::new(),
            sent_frames: 0,
            missed: 0,
            recording: true,
            stuck: false,
            spare: Vec::new(),
        }
    }

    /// Puts a frame on the wire towards us.
    pub fn inject(&mut self, frame: &[u8]) {
        if self.arriving.is_empty() && self.arrive(frame) {
            return;
        }
        let mut buffer = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(LONGEST_FRAME as usize));
        buffer.clear();
        buffer.extend_from_slice(frame);
        self.arriving.push_back(buffer);
    }

    /// False if there is no frame to write it to.
    fn arrive(&mut self, bytes: &[u8]) -> bool {
        let Some(mut frame) = self.fill.pop() else { return false };
        if frame.write(bytes) {
            self.arrived.push_back(frame);
        } else {
            self.missed += 1;
            self.fill.push(frame);
        }
        true
    }

    /// Takes the frames that were sent since the last time.
    pub fn take_sent(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.sent)
    }

    /// Number of frames that were sent since the start.
    pub fn sent(&self) -> u64 {
        self.sent_frames
    }

    /// Number of frames that were longer than a frame of memory.
    pub fn missed(&self) -> u64 {
        self.missed
    }
}

impl Port for SimPort {
    fn receive(&mut self, into: &mut Vec<Frame>, pool: &mut Pool) {
        while self.fill.len() + self.arrived.len() < RING {
            let Some(frame) = pool.take() else { break };
            self.fill.push(frame);
        }
        let room = into.capacity().min(BATCH) - into.len();
        while self.arrived.len() < room
            && let Some(bytes) = self.arriving.pop_front()
        {
            if !self.arrive(&bytes) {
                self.arriving.push_front(bytes);
                break;
            }
            self.spare.push(bytes);
        }
        into.extend(self.arrived.drain(..room.min(self.arrived.len())));
    }

    #[inline]
    fn transmit(&mut self, frame: Frame) -> Result<(), Frame> {
        if self.outgoing.len() == RING {
            return Err(frame);
        }
        self.outgoing.push(frame);
        Ok(())
    }

    fn flush(&mut self, pool: &mut Pool) -> usize {
        if self.stuck {
            return self.outgoing.len();
        }
        for frame in self.outgoing.drain(..) {
            self.sent_frames += 1;
            if self.recording {
                self.sent.push(frame.to_vec());
            }
            pool.put(frame);
        }
        0
    }

    fn held(&self) -> usize {
        self.fill.len() + self.arrived.len() + self.outgoing.len()
    }

    fn in_flight(&self) -> usize {
        self.outgoing.len()
    }

    fn descriptor(&self) -> Option<RawFd> {
        None
    }
}

impl Drop for SimPort {
    fn drop(&mut self) {
        self.fill
            .drain(..)
            .chain(self.arrived.drain(..))
            .chain(self.outgoing.drain(..))
            .for_each(|frame| self.region.retire(frame));
    }
}

/// A queue whose frames are sent as they came: what is in every measurement of a worker on such queues beside the worker.
pub struct Echo {
    port: SimPort,
    pool: Pool,
    batch: Vec<Frame>,
}

impl Default for Echo {
    fn default() -> Self {
        let total = NonZeroU32::new((2 * RING + 16 * BATCH) as u32).unwrap_or(NonZeroU32::MIN);
        let (region, frames) = Region::plain(total);
        let mut port = SimPort::new(Arc::clone(&region));
        port.recording = false;
        Echo { port, pool: Pool::new(Depot::new(region, frames)), batch: Vec::with_capacity(BATCH) }
    }
}

impl Echo {
    /// Puts a frame on the wire towards us.
    pub fn inject(&mut self, frame: &[u8]) {
        self.port.inject(frame);
    }

    /// A worker's round without a worker. Returns how many frames were sent.
    pub fn round(&mut self) -> usize {
        self.port.receive(&mut self.batch, &mut self.pool);
        let received = self.batch.len();
        let refused = self.batch.drain(..).filter_map(|frame| self.port.transmit(frame).err());
        refused.for_each(|frame| self.pool.put(frame));
        self.port.flush(&mut self.pool);
        received
    }
}

/// A kernel that remembers what it was given. All clones are one.
#[derive(Clone)]
pub struct SimPunt {
    kernel: Arc<Mutex<Kernel>>,
}

struct Kernel {
    punted: Vec<(PortId, Vec<u8>)>,
    /// How many more frames it takes.
    room: usize,
    recording: bool,
}

impl Punt for SimPunt {
    fn punt(&mut self, ingress: PortId, frame: &[u8]) -> bool {
        let mut kernel = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
        if kernel.room == 0 {
            return false;
        }
        kernel.room -= 1;
        if kernel.recording {
            kernel.punted.push((ingress, frame.to_vec()));
        }
        true
    }
}

/// A port of a [`Router`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SimSpec {
    pub id: PortId,
    pub ifindex: Ifindex,
    pub queues: u32,
}

/// A whole dataplane in memory, turned by hand: the same workers, one round at a time, one after the other.
///
/// After every round each frame of memory must be found exactly once, or the round panics.
pub struct Router {
    assembled: Assembled<SimPort, SimPunt>,
    lines: Vec<Line>,
    told: Vec<FromWorker>,
    punt: SimPunt,
    depot: Arc<Depot>,
    region: Arc<Region>,
}

impl Router {
    /// A router with `workers` workers (at least one). Panics if the process has no file descriptor left.
    pub fn new(workers: usize, ports: &[SimSpec], policy: Arc<Policy>) -> Self {
        Router::with_connections(workers, ports, policy, 1 << 16)
    }

    /// The same with room for so many connections.
    pub fn with_connections(workers: usize, ports: &[SimSpec], policy: Arc<Policy>, connections: usize) -> Self {
        Router::build(workers, ports, policy, connections, Some(&Flows::plain(connections)))
    }

    /// The same whose workers decide about every packet anew.
    pub fn without_flows(workers: usize, ports: &[SimSpec], policy: Arc<Policy>) -> Self {
        Router::build(workers, ports, policy, 1 << 16, None)
    }

    /// The same whose workers write into `flows` what XDP programs may forward.
    pub fn with_flows(workers: usize, ports: &[SimSpec], policy: Arc<Policy>, flows: &Flows) -> Self {
        flows.set_generation(policy.generation());
        Router::build(workers, ports, policy, 1 << 16, Some(flows))
    }

    fn build(
        workers: usize,
        ports: &[SimSpec],
        policy: Arc<Policy>,
        connections: usize,
        flows: Option<&Flows>,
    ) -> Self {
        let workers = workers.max(1);
        let queues: usize = ports.iter().map(|port| port.queues as usize).sum();
        let frames = queues * 2 * RING + workers * 16 * BATCH;
        let total = NonZeroU32::new(frames as u32).unwrap_or(NonZeroU32::MIN);
        let (region, frames) = Region::plain(total);
        let depot = Depot::new(Arc::clone(&region), frames);
        let kernel = Kernel { punted: Vec::new(), room: usize::MAX, recording: true };
        let punt = SimPunt { kernel: Arc::new(Mutex::new(kernel)) };
        let queue = |port: &SimSpec, number| {
            (number, Queue { port: port.id, iif: port.ifindex, io: SimPort::new(Arc::clone(&region)) })
        };
        let queues = ports.iter().flat_map(|port| (0..port.queues).map(move |number| queue(port, number))).collect();
        let options = TableOptions { capacity: connections, settings: Arc::default(), seed: 1 };
        let (tables, lines) = Tables::new(workers, &options, Served::plain(), None);
        let tables = match flows {
            Some(flows) => tables.replaying(flows),
            None => tables,
        };
        let assembled = assemble(tables, queues, policy, &depot, &punt).expect("file descriptors for the doorbells");
        Router { assembled, lines, told: Vec::new(), punt, depot, region }
    }

    /// Puts a frame on the wire to a queue. Panics if there is no such queue.
    pub fn inject(&mut self, port: PortId, queue: u32, frame: &[u8]) {
        self.queue_mut(port, queue).inject(frame);
    }

    /// Turns every worker once. Returns how many frames they dealt with, and other things that they had to do.
    pub fn round(&mut self) -> usize {
        let done: usize = self.assembled.workers.iter_mut().map(|worker| worker.round().done()).sum();
        self.account();
        done + self.hear()
    }

    /// The kernel takes every connection that the workers tell of, and says so.
    fn hear(&mut self) -> usize {
        let mut heard = 0;
        for line in &mut self.lines {
            while let Ok(report) = line.reports.pop() {
                if let FromWorker::Lives(record) = report {
                    heard += usize::from(line.orders.push(ToWorker::Exported { original: record.original }).is_ok());
                }
                self.told.push(report);
                line.given.set(line.given.so_far() + 1);
            }
        }
        heard
    }

    /// Takes what the workers have told of their connections since the last time.
    pub fn take_told(&mut self) -> Vec<FromWorker> {
        std::mem::take(&mut self.told)
    }

    /// Turns the workers until none has anything to do. Returns how many frames they dealt with.
    pub fn settle(&mut self) -> usize {
        let mut total = 0;
        loop {
            match self.round() {
                // What waits for the kernel waits for it no longer.
                0 if self.assembled.workers.iter().any(Worker::is_parking) => self.advance(Duration::from_millis(50)),
                0 => return total,
                done => total += done,
            }
        }
    }

    /// Lets time pass for the connections of all workers, beside that which passes anyway.
    pub fn advance(&mut self, time: Duration) {
        self.assembled.workers.iter_mut().for_each(|worker| worker.advance(time));
    }

    /// Takes the frames that left by a port since the last time, of all its queues.
    pub fn take_sent(&mut self, port: PortId) -> Vec<Vec<u8>> {
        self.queues_mut().filter(|queue| queue.port == port).flat_map(|queue| queue.io.take_sent()).collect()
    }

    /// Takes the frames that the kernel was given since the last time, with the ports they came in by.
    pub fn take_punted(&mut self) -> Vec<(PortId, Vec<u8>)> {
        std::mem::take(&mut self.kernel().punted)
    }

    /// How many more frames the kernel takes.
    pub fn limit_punts(&mut self, room: usize) {
        self.kernel().room = room;
    }

    /// Whether the devices of a port send nothing.
    pub fn stick(&mut self, port: PortId, stuck: bool) {
        self.queues_mut().filter(|queue| queue.port == port).for_each(|queue| queue.io.stuck = stuck);
    }

    /// Whether what is sent and punted is kept for [`take_sent`](Self::take_sent) and
    /// [`take_punted`](Self::take_punted).
    pub fn record(&mut self, on: bool) {
        self.queues_mut().for_each(|queue| queue.io.recording = on);
        self.kernel().recording = on;
    }

    /// Leaves a newer policy for the workers.
    pub fn publish(&mut self, policy: Arc<Policy>) {
        self.assembled.publisher.publish(policy);
    }

    /// Tells all workers something of connections, as the control side does.
    pub fn tell(&mut self, message: &ToWorker) {
        for line in &mut self.lines {
            // Of the few messages of a test there is room.
            let _ = line.orders.push(message.clone());
        }
    }

    /// Takes the decisions that all workers have kept.
    pub fn take_samples(&mut self) -> Vec<Sample> {
        self.assembled.samples.iter_mut().flat_map(|samples| samples.take(usize::MAX)).collect()
    }

    /// Frees the policies that workers have retired. Returns how many references came back.
    pub fn collect(&mut self) -> usize {
        self.assembled.publisher.collect()
    }

    /// The oldest generation that a worker still uses.
    pub fn adopted(&self) -> Generation {
        self.assembled.counters.iter().map(|counters| counters.generation()).min().unwrap_or_default()
    }

    pub fn counters(&self) -> Counters {
        let mut sum = Counters::default();
        self.assembled.counters.iter().for_each(|counters| counters.add_to(&mut sum));
        sum
    }

    /// What the rule with this counter has counted, by all workers.
    pub fn rule_count(&self, slot: CounterSlot) -> RuleCount {
        let counts = self.assembled.counters.iter().map(|counters| counters.rules.value(slot));
        counts.fold(RuleCount::default(), |sum, count| RuleCount {
            packets: sum.packets + count.packets,
            bytes: sum.bytes + count.bytes,
        })
    }

    pub fn workers(&self) -> Vec<WorkerStatus> {
        self.assembled.counters.iter().enumerate().map(|(index, counters)| counters.status(index)).collect()
    }

    /// Number of frames of memory.
    pub fn frames(&self) -> usize {
        self.region.total() as usize
    }

    /// Ends the router. Returns how many frames of memory did not come home, which must be none.
    pub fn finish(mut self) -> u32 {
        self.assembled.workers.iter_mut().for_each(|worker| {
            worker.abandon();
        });
        let Router { assembled, depot, region, .. } = &mut self;
        assembled.workers.clear();
        let region = Arc::clone(region);
        let waiting = depot.free() as u32;
        region.total() - region.home() - waiting
    }

    /// free + receiving + sending + handed over == total.
    fn account(&self) {
        let workers = &self.assembled.workers;
        let free: usize = workers.iter().map(|worker| worker.pool().free()).sum();
        let held: usize = workers.iter().map(Worker::held).sum();
        let between: usize = workers.iter().map(Worker::inbox).sum();
        assert_eq!(
            free + held + between + self.depot.free(),
            self.frames(),
            "every frame is somewhere, and only there"
        );
    }

    fn kernel(&self) -> std::sync::MutexGuard<'_, Kernel> {
        self.punt.kernel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queues_mut(&mut self) -> impl Iterator<Item = &mut Queue<SimPort>> {
        self.assembled.workers.iter_mut().flat_map(|worker| worker.queues_mut().iter_mut())
    }

    fn queue_mut(&mut self, port: PortId, queue: u32) -> &mut SimPort {
        let workers = self.assembled.workers.len();
        let owned = self.assembled.workers[owner(port, queue, workers)].queues_mut();
        // A worker has its queues of one port in ascending order, every `workers`-th of them.
        let nth = queue as usize / workers;
        let found = owned.iter_mut().filter(|owned| owned.port == port).nth(nth);
        &mut found.expect("the queue is one of the router's").io
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        // What lies between workers belongs to nobody else any more.
        for worker in &mut self.assembled.workers {
            worker.abandon();
        }
    }
}
