//! Replay in the driver: what a worker has decided about a flow is written into a map, by which the XDP program (`bpf/replay.h`) forwards
//! the next packets of that flow itself. On devices where a frame has to be copied to reach a worker this is several times as fast.
//!
//! - [`flow`]: what an entry says. [`shared`]: the memory, and the order in which it is written. [`Replay`]: one worker's entries.
//! - Only what is the same for every packet of a flow is installed: see [`Policy::varies`](shunt_policy::Policy::varies) and
//!   [`Steady`](crate::conn::Steady). The first packet that changes its connection comes to a worker, which withdraws the entries before it
//!   sends that packet on.
//! - An entry holds for one generation of the policy. The control side sets a new generation before it hands the policy out, so the very
//!   next packet comes to a worker.
//! - A worker collects what its entries have counted twice a second, and when it is asked to: for counters of rules, neighbours in use,
//!   connections' time-outs and what the kernel is told of them. An entry that is withdrawn is given back a moment later, when no program
//!   can still count in it.

mod flow;
mod forward;
mod shared;
mod windows;

use std::sync::Arc;

use shunt_policy::config::CounterSlot;
use shunt_policy::{Generation, NeighbourSlot};

pub use flow::{Action, Checks, Key};
pub(crate) use forward::{Replayed, Sought};
pub use shared::{Flows, Traffic};
pub use windows::{Held, Record};

use flow::Until;
use windows::Lifetimes;

use crate::rule_counters::Hits;
use crate::xsk::prefetch;

/// Rules that the packets of a flow hit, at most; flows that hit more are not installed.
const RULES: usize = 12;

/// ns in a step of the programs' clock.
const STEP_BITS: u32 = 20;

/// For which a withdrawn entry is kept, in steps of the clock: a program that has it in hand is long done.
const LINGERING: u32 = 20;

/// Entries that a collection asks memory for before it comes to them.
const AHEAD: usize = 8;

/// The longest time that the clock can tell, in its steps: 26 days.
const NEVER: u32 = i32::MAX as u32;

/// An entry of no connection that nobody has used for so many steps makes room: 10 s.
const IDLE: u32 = 10 << 10;

/// A direction of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    /// Number of the connection.
    pub number: u32,
    pub reply: bool,
    pub life: Life,
}

/// What ends a connection whose packets stay away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Life {
    /// So many ns without any.
    Idle(u64),
    /// Of TCP it depends on the windows. Time-outs in seconds.
    Windows { record: Record, usual: u32, unacknowledged: u32, retransmitted: u32, most_retransmissions: u8 },
}

/// One worker's entries.
pub struct Replay {
    /// By an `Arc` of this worker's own: whoever holds windows takes another, and no other worker is to feel that.
    flows: Arc<Flows>,
    /// By the number of the entry.
    installed: Box<[Installed]>,
    /// Numbers of those that are ours.
    own: Vec<u32>,
    /// With so many of ours most others find no place, and to look for one is in vain: that is not free.
    full: usize,
    /// By the number of a connection.
    of_connections: Box<[OfConnection]>,
    /// Place of the first connection's windows among those of all workers.
    first_windows: u32,
    /// Where the collection goes on, and how far it goes.
    cursor: usize,
}

#[derive(Clone, Copy, Default)]
struct OfConnection {
    /// Entries of both directions, plus one; 0 is none.
    flows: [u32; 2],
    /// Its windows are those that are shared, and not those in the worker's table.
    has_windows: bool,
}

#[derive(Clone, Copy, Default)]
struct Installed {
    /// In `own`, plus one; 0: not ours.
    place: u32,
    /// Plus one; 0 is none.
    connection: u32,
    reply: bool,
    /// It does not hold any more, since then.
    withdrawn: Option<u32>,
    generation: u32,
    /// In steps of the clock; of no meaning with shared windows.
    idle: u32,
    neighbour: Option<NeighbourSlot>,
    /// The worker itself has forwarded by it since the last collection.
    used: bool,
    count: u8,
    rules: [u32; RULES],
}

/// What has gone by an entry.
pub struct Collected<'a> {
    pub traffic: Traffic,
    pub neighbour: Option<NeighbourSlot>,
    rules: &'a [u32],
    /// The number of the connection.
    pub connection: Option<u32>,
    /// Whether the worker has forwarded by it meanwhile.
    pub used: bool,
}

impl Collected<'_> {
    pub fn rules(&self) -> impl Iterator<Item = CounterSlot> {
        self.rules.iter().map(|slot| CounterSlot(*slot))
    }
}

impl Replay {
    /// For the worker of this number among those that share `flows`, and whose connections have numbers below `connections`.
    pub fn new(flows: Flows, worker: usize, connections: usize) -> Self {
        let installed = vec![Installed::default(); flows.len()].into_boxed_slice();
        let of_connections = vec![OfConnection::default(); connections].into_boxed_slice();
        let first_windows = u32::try_from(worker * connections).unwrap_or(u32::MAX);
        // An entry is ours at most once.
        let own = Vec::with_capacity(flows.len());
        let full = flows.len() / 16 * 15;
        Replay { flows: Arc::new(flows), installed, own, full, of_connections, first_windows, cursor: 0 }
    }

    pub(crate) fn flows(&self) -> &Flows {
        &self.flows
    }

    /// Number of entries, those that are to be given back included.
    pub fn len(&self) -> usize {
        self.own.len()
    }

    pub fn is_empty(&self) -> bool {
        self.own.is_empty()
    }

    /// Writes an entry, if there is room and it is not there yet; what it does is asked for only then. `now` is monotonic, ns.
    pub(crate) fn install(
        &mut self,
        key: &Key,
        action: impl FnOnce() -> Option<Action>,
        member: Option<Member>,
        (neighbour, hits, generation): (NeighbourSlot, &Hits, Generation),
        now: u64,
    ) {
        let clock = steps(now);
        let until = match member {
            None => Until::Idle(NEVER),
            Some(Member { life: Life::Idle(time), .. }) => Until::Idle(in_steps(time)),
            Some(Member { number, reply, life: Life::Windows { .. } }) => match self.place_of_windows(number) {
                Some(number) => Until::Windows { number, reply },
                None => return,
            },
        };
        let idle = if let Until::Idle(steps) = until { steps } else { 0 };
        let words = key.words();
        let present = match member {
            Some(Member { number, reply, .. }) => {
                self.of_connections[number as usize].flows[usize::from(reply)].checked_sub(1)
            }
            None => self
                .flows
                .places(key)
                .find(|flow| self.is_holding(*flow) && shared::is_of(self.flows.entry(*flow), &words)),
        };
        if let Some(flow) = present {
            let installed = &self.installed[flow as usize];
            if installed.generation == generation.0 as u32
                && installed.idle == idle
                && shared::is_of(self.flows.entry(flow), &words)
            {
                return;
            }
            self.withdraw(flow, clock);
        }
        if self.own.len() > self.full {
            return;
        }
        let Some(rules) = hits.few::<RULES>() else { return };
        let Some(action) = action() else { return };
        let Some(flow) = self.flows.claim(key) else { return };
        self.own.push(flow);
        self.installed[flow as usize] = Installed {
            place: self.own.len() as u32,
            connection: member.map_or(0, |member| member.number + 1),
            reply: member.is_some_and(|member| member.reply),
            withdrawn: None,
            generation: generation.0 as u32,
            idle,
            neighbour: Some(neighbour),
            used: false,
            count: hits.len() as u8,
            rules,
        };
        if let Some(Member { number, reply, life }) = member {
            self.share_windows(number, &life, clock);
            self.of_connections[number as usize].flows[usize::from(reply)] = flow + 1;
        }
        self.flows.write(flow, &flow::encode(key, &action, clock, until), generation);
    }

    /// `None` for a connection without a place.
    fn place_of_windows(&self, number: u32) -> Option<u32> {
        let place = self.first_windows.checked_add(number)?;
        ((place as usize) < self.flows.windows()).then_some(place)
    }

    fn share_windows(&mut self, number: u32, life: &Life, clock: u32) {
        let Life::Windows { record, usual, unacknowledged, retransmitted, most_retransmissions } = *life else {
            return;
        };
        let Some(place) = self.place_of_windows(number) else { return };
        let connection = &mut self.of_connections[number as usize];
        if std::mem::replace(&mut connection.has_windows, true) {
            return;
        }
        let [usual, unacknowledged, retransmitted] =
            [usual, unacknowledged, retransmitted].map(|seconds| in_steps(u64::from(seconds) * 1_000_000_000));
        let held = Held::take(&self.flows, place);
        held.set_lifetimes(&Lifetimes { usual, unacknowledged, retransmitted, most_retransmissions });
        held.write(&record, clock);
    }

    /// The windows of the connection, if they are shared; no program moves them while they are held.
    pub fn hold_windows(&self, number: u32) -> Option<Held> {
        let place = self.place_of_windows(number)?;
        self.of_connections[number as usize].has_windows.then(|| Held::take(&self.flows, place))
    }

    /// What a packet has made of windows that are held. They are the worker's alone again if no program can forward by them.
    pub fn return_windows(&mut self, number: u32, held: &Held, record: &Record, now: u64) {
        let connection = &mut self.of_connections[number as usize];
        match connection.flows {
            [0, 0] => connection.has_windows = false,
            _ => held.write(record, steps(now)),
        }
    }

    /// The connection is gone.
    pub fn end(&mut self, number: u32, now: u64) {
        self.forget(number, now);
        self.of_connections[number as usize].has_windows = false;
    }

    fn is_holding(&self, flow: u32) -> bool {
        let installed = &self.installed[flow as usize];
        installed.place != 0 && installed.withdrawn.is_none()
    }

    /// The connection has changed or ended: from now on its packets come to the worker.
    pub fn forget(&mut self, number: u32, now: u64) {
        for flow in self.of_connections[number as usize].flows {
            if let Some(flow) = flow.checked_sub(1) {
                self.withdraw(flow, steps(now));
            }
        }
    }

    /// The same of all.
    pub fn forget_all(&mut self, now: u64) {
        for at in 0..self.own.len() {
            let flow = self.own[at];
            if self.is_holding(flow) {
                self.withdraw(flow, steps(now));
            }
        }
    }

    fn withdraw(&mut self, flow: u32, clock: u32) {
        self.flows.withdraw(flow);
        let installed = &mut self.installed[flow as usize];
        installed.withdrawn = Some(clock);
        if let Some(number) = std::mem::take(&mut installed.connection).checked_sub(1) {
            self.of_connections[number as usize].flows[usize::from(installed.reply)] = 0;
        }
    }

    /// Until when a connection lives by the packets that have gone by its entries.
    pub fn lives(&self, number: u32, now: u64) -> Option<Lives> {
        let OfConnection { flows, has_windows } = self.of_connections[number as usize];
        if has_windows {
            let (clock, steps) = windows::life(&self.flows, self.place_of_windows(number)?);
            return Some(Lives::Until(later(last(clock, now), steps)));
        }
        let flows = flows.into_iter().filter_map(|flow| flow.checked_sub(1));
        let until = |flow: u32| later(last(self.flows.last(flow), now), self.installed[flow as usize].idle);
        flows.map(until).max().map(Lives::AtLeastUntil)
    }

    /// Makes a packet ready to leave as one of our entries says. `None`, and the frame is as it came, if none holds for it. What it counts is
    /// not yet counted.
    pub(crate) fn forward(
        &mut self,
        frame: &mut [u8],
        sought: &Sought,
        generation: Generation,
        now: u64,
    ) -> Option<(Replayed, Collected<'_>)> {
        // What others have decided, they count.
        let is_ours = |flow: u32| self.is_holding(flow);
        let replayed = self.flows.replay(frame, sought, generation, now, is_ours)?;
        let installed = &mut self.installed[replayed.flow as usize];
        installed.used = true;
        let Installed { neighbour, ref rules, count, .. } = *installed;
        let traffic = Traffic { packets: 1, bytes: replayed.bytes() };
        Some((
            replayed,
            Collected { traffic, neighbour, rules: &rules[..usize::from(count)], connection: None, used: true },
        ))
    }

    /// Begins a collection: [`next`](Self::next) goes through all entries.
    pub fn begin(&mut self) {
        self.cursor = self.own.len();
    }

    /// Whether the collection has come to its end.
    pub fn is_collected(&self) -> bool {
        self.cursor == 0
    }

    /// What has gone by one more entry. Withdraws those of other generations than this, and gives back those that were withdrawn.
    pub fn next(&mut self, generation: Generation, now: u64) -> Option<Collected<'_>> {
        self.cursor = self.cursor.min(self.own.len()).checked_sub(1)?;
        let flow = self.own[self.cursor];
        if let Some(later) = self.cursor.checked_sub(AHEAD) {
            let later = self.own[later];
            self.flows.prefetch(later);
            prefetch(&self.installed[later as usize]);
        }
        let clock = steps(now);
        let mut traffic = self.flows.take(flow);
        let used = std::mem::take(&mut self.installed[flow as usize].used);
        let Installed { withdrawn, connection, neighbour, count, rules, generation: of, .. } =
            self.installed[flow as usize];
        let connection = connection.checked_sub(1);
        match withdrawn {
            Some(since) if clock.wrapping_sub(since) > LINGERING => self.give_back(flow),
            Some(_) => {}
            None => {
                let unused = clock.wrapping_sub(self.flows.last(flow)) as i32 > IDLE as i32;
                if of != generation.0 as u32 || connection.is_none() && unused {
                    self.withdraw(flow, clock);
                    let more = self.flows.take(flow);
                    traffic = Traffic { packets: traffic.packets + more.packets, bytes: traffic.bytes + more.bytes };
                }
            }
        }
        // What it said stays until the entry is taken anew, which nobody does before this is looked at.
        let installed = &mut self.installed[flow as usize];
        (installed.rules, installed.count) = (rules, count);
        Some(Collected { traffic, neighbour, rules: &installed.rules[..usize::from(count)], connection, used })
    }

    fn give_back(&mut self, flow: u32) {
        let place = self.installed[flow as usize].place as usize - 1;
        self.own.swap_remove(place);
        if let Some(moved) = self.own.get(place) {
            self.installed[*moved as usize].place = place as u32 + 1;
        }
        self.installed[flow as usize] = Installed::default();
        self.flows.release(flow);
    }
}

/// What the entries of a connection say of its end. Monotonic, ns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lives {
    /// They know of all its packets.
    Until(u64),
    /// The worker may have seen later ones.
    AtLeastUntil(u64),
}

/// So many steps of the clock after a moment in ns.
fn later(moment: u64, steps: u32) -> u64 {
    moment.saturating_add(u64::from(steps) << STEP_BITS)
}

fn in_steps(time: u64) -> u32 {
    u32::try_from(time >> STEP_BITS).unwrap_or(NEVER).min(NEVER)
}

/// The programs' clock.
fn steps(now: u64) -> u32 {
    (now >> STEP_BITS) as u32
}

/// When it showed `clock`, not long ago; monotonic, ns.
fn last(clock: u32, now: u64) -> u64 {
    // The programs' clock is coarse, ours may be a moment behind.
    let age = steps(now).wrapping_sub(clock) as i32;
    now.saturating_sub((age.max(0) as u64) << STEP_BITS)
}
