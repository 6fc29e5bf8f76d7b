//! The worker's connections: what the control side tells of them, what time does to them, and packets on their way through them.

use std::sync::Arc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use rtrb::{Consumer, Producer, RingBuffer};
use shunt_policy::config::Conntrack;
use shunt_policy::connection::{Connection, Tuple};
use shunt_policy::{Family, Policy};

use crate::conn::exchange::{FromWorker, Given, ToWorker};
use crate::conn::seen::{Kind, Seen};
use crate::conn::settings::Settings;
use crate::conn::{Connections, Local, Place, Sources};
use crate::packet::Packet;
use crate::replay::{Flows, Replay};
use crate::served::{Served, ServedByWorker};

/// Messages that can wait on the way to a worker, and from it.
const ORDERS: usize = 8192;
const REPORTS: usize = 8192;

/// Messages that a worker takes in a round.
const AT_ONCE: usize = 64;

/// In this time, ns, all entries are looked at once for those that have expired, if packets leave time for it.
const SWEEP: u64 = 1_000_000_000;

/// Entries that are looked at in a round, with and without other work to do. Packets that come meanwhile wait.
const BUSY_SWEEP: u64 = 64;
const IDLE_SWEEP: u64 = 128;

/// The time of all connections, and of the XDP programs that forward packets of them: `CLOCK_MONOTONIC`, ns.
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    // 584 years fit.
    now.as_nanos() as u64
}

/// The control side's ends of the queues to and from a worker.
pub struct Line {
    pub orders: Producer<ToWorker>,
    pub reports: Consumer<FromWorker>,
    /// To be set to the number of reports that the kernel has got, or will never get.
    pub given: Given,
}

/// The worker's end, but for the queue of reports, which its [`Connections`] fill.
pub type Orders = Consumer<ToWorker>;

/// Queues for one worker: the control side's ends, the worker's orders, and the reports for its connections.
fn line() -> (Line, Orders, Producer<FromWorker>) {
    let (orders, taken) = RingBuffer::new(ORDERS);
    let (told, reports) = RingBuffer::new(REPORTS);
    (Line { orders, reports, given: Given::default() }, taken, told)
}

/// What a worker has of connections.
pub struct Tracked {
    pub connections: Connections,
    orders: Orders,
    place: Place,
    /// As of the beginning of the round.
    pub now: u64,
    /// ns by which its clock is ahead of all others': 0 but in the simulator.
    ahead: u64,
    /// Up to which time entries have been looked at as often as [`SWEEP`] says.
    swept: u64,
}

impl Tracked {
    pub fn new(connections: Connections, orders: Orders, place: Place) -> Self {
        Tracked { connections, orders, place, now: now(), ahead: 0, swept: now() }
    }

    /// How much the control side has said that a round deals with.
    pub fn told(&self) -> usize {
        self.orders.slots().min(AT_ONCE)
    }

    /// Begins a round: what time it is, and what the control side has said.
    pub fn begin(&mut self, told: usize, policy: &Policy) {
        self.now = now() + self.ahead;
        let has_pools = Family::BOTH.iter().any(|family| policy.has_source_pools(*family));
        self.connections.share_all(has_pools, self.now);
        for _ in 0..told {
            let Ok(mut message) = self.orders.pop() else { return };
            if let ToWorker::Kernel { record, whole: true } = &mut message
                && record.status & u32::from(Connection::SRC_NAT) != 0
            {
                record.masquerade = policy.masqueraded_behind(&record.reply.destination.address);
            }
            self.connections.tell(message, self.now);
        }
    }

    /// Lets time pass.
    pub(crate) fn advance(&mut self, time: Duration) {
        self.ahead += time.as_nanos() as u64;
    }

    /// Ends it: looks at some of the entries that are to be looked at by now. Says whether there are more.
    pub fn sweep(&mut self, idle: bool) -> bool {
        let all = u64::from(self.connections.used());
        if self.connections.is_empty() {
            self.swept = self.now;
            return false;
        }
        self.swept = self.swept.max(self.now.saturating_sub(SWEEP));
        let due = self.now.saturating_sub(self.swept) * all / SWEEP;
        let entries = due.min(if idle { IDLE_SWEEP } else { BUSY_SWEEP });
        self.connections.sweep(self.now, entries as usize);
        self.swept += entries * SWEEP / all;
        due > entries
    }

    /// Whether anything was said that is not dealt with yet.
    pub fn is_told(&self) -> bool {
        !self.orders.is_empty()
    }

    /// The worker that has to decide about the packet.
    pub fn owner(&self, seen: &Seen) -> usize {
        self.owner_of(&home(seen))
    }

    pub fn owner_of(&self, tuple: &Tuple) -> usize {
        self.place.owner(tuple)
    }
}

/// The tuple by which a packet's owner is found: an ICMP error comes to where the packet is known that it quotes.
fn home(seen: &Seen) -> Tuple {
    match seen.kind {
        Kind::IcmpError { about, .. } => about,
        _ => seen.tuple,
    }
}

/// Whether the packet ends at this machine or begins there, as far as its addresses say.
pub fn local(packet: &Packet, policy: &Policy) -> Local {
    if !policy.is_own(&packet.destination) {
        if policy.is_own(&packet.source) { Local::Source } else { Local::No }
    } else if policy.has_destination_nat(packet.family()) {
        Local::MayBeTranslated
    } else {
        Local::Ours
    }
}

pub fn tracks(policy: &Policy, family: Family) -> bool {
    policy.conntrack(family) != Conntrack::Off
}

/// The connections of all workers, from one dataplane to the next.
pub struct Tables {
    tracked: Vec<Tracked>,
    served: Served,
}

/// How many connections there may be, and what the operator has set for them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TableOptions {
    /// Of all workers together.
    pub capacity: usize,
    pub settings: Arc<Settings>,
    pub seed: u64,
}

impl Tables {
    /// Those of `workers` workers, with what was in `before`, and the control side's ends of their queues. Connections that come to
    /// another worker than before have lost their TCP windows, as those that are taken over from the kernel.
    pub fn new(workers: usize, options: &TableOptions, served: Served, before: Option<Tables>) -> (Self, Vec<Line>) {
        let capacity = options.capacity / workers.max(1);
        let sources = (workers > 1).then(|| Sources::new(options.capacity, options.seed));
        let (mut tracked, lines): (Vec<Tracked>, Vec<Line>) = (0..workers)
            .map(|worker| {
                let (line, orders, reports) = line();
                let place = Place { worker, workers };
                let seed = options.seed.wrapping_add(worker as u64);
                let served = ServedByWorker::new(served.clone());
                let settings = Arc::clone(&options.settings);
                let connections = Connections::new(capacity, place, settings, reports, seed);
                let connections = connections.serving(served).following(line.given.clone());
                let connections = match &sources {
                    Some(sources) => connections.sharing(sources.clone()),
                    None => connections,
                };
                (Tracked::new(connections, orders, place), line)
            })
            .unzip();
        let now = now();
        for record in before.iter().flat_map(|tables| &tables.tracked).flat_map(|old| old.connections.records(now)) {
            let owner = Place { worker: 0, workers }.owner(&record.original);
            if let Some(tracked) = tracked.get_mut(owner) {
                tracked.connections.inherit(&record, now);
            }
        }
        (Tables { tracked, served }, lines)
    }

    /// With new queues to and from the control side. What waited in the old ones is lost, and said again when all is told anew.
    pub fn relined(mut self) -> (Self, Vec<Line>) {
        let lines = self.tracked.iter_mut().map(|tracked| {
            let (line, orders, reports) = line();
            tracked.orders = orders;
            tracked.connections.report_to(reports, line.given.clone());
            line
        });
        let lines = lines.collect();
        (self, lines)
    }

    /// The flows of all that the workers forward are known by these.
    pub fn replaying(mut self, flows: &Flows) -> Self {
        for (worker, tracked) in self.tracked.iter_mut().enumerate() {
            let connections = &mut tracked.connections;
            let replay = Replay::new(flows.clone(), worker, connections.capacity());
            connections.set_replay(Some(replay));
        }
        self
    }

    /// Whether workers of this number can go on with them as they are.
    pub fn fit(&self, workers: usize) -> bool {
        self.tracked.len() == workers
    }

    pub fn served(&self) -> &Served {
        &self.served
    }

    pub(super) fn into_parts(self) -> Vec<Tracked> {
        self.tracked
    }

    pub(crate) fn of(tracked: Vec<Tracked>, served: Served) -> Self {
        Tables { tracked, served }
    }
}
