//! Replay in the driver: what a worker has decided about a flow is written into a map, by which the XDP program (`bpf/replay.h`) forwards
//! the next packets of that flow itself. On devices where a frame has to be copied to reach a worker this is several times as fast.
//!
//! - [`flow`]: what an entry says. [`shared`]: the memory, and the order in which it is written. [`Replay`]: one worker's entries, which it
//!   finds by [`places`].
//! - Only what is the same for every packet of a flow is installed: see [`Policy::varies`](shunt_policy::Policy::varies) and
//!   [`Steady`](crate::conn::Steady). The first packet that changes its connection comes to a worker, which withdraws the entries before it
//!   sends that packet on.
//! - An entry holds for one generation of the policy. The control side sets a new generation before it hands the policy out, so the very
//!   next packet comes to a worker.
//! - A worker collects twice a second, and when it is asked to, what its entries have counted ([`collect`]): for counters of rules,
//!   neighbours in use, connections' time-outs and what the kernel is told of them. An entry that is withdrawn is given back a moment later,
//!   when no program can still count in it.

mod collect;
mod flow;
mod forward;
mod places;
mod shared;
mod windows;

use std::collections::VecDeque;
use std::sync::Arc;

use shunt_policy::{Generation, Ifindex, NeighbourSlot};

pub use collect::Collected;
pub use flow::{Action, Checks, Key};
pub(crate) use forward::{Replayed, Sought};
pub use shared::{Flows, Traffic};
pub use windows::{Held, Record};

use collect::Collection;
use flow::Until;
use places::{Home, Places};
use windows::Lifetimes;

use crate::rule_counters::Hits;
use crate::xsk;

/// Rules that the packets of a flow hit, at most; flows that hit more are not installed.
const RULES: usize = 12;

/// ns in a step of the programs' clock.
const STEP_BITS: u32 = 20;

/// The longest time that the clock can tell, in its steps: 26 days.
const NEVER: u32 = i32::MAX as u32;

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
    places: Places,
    /// Of those that are ours, by their places.
    own: Vec<Own>,
    /// With so many of ours most others find no place, and to look for one is in vain: that is not free.
    full: usize,
    /// By the number of a connection.
    of_connections: Box<[OfConnection]>,
    /// Place of the first connection's windows among those of all workers.
    first_windows: u32,
    /// Entries that do not hold any more, and since when in steps of the clock; the oldest first.
    withdrawn: VecDeque<(u32, u32)>,
    collection: Collection,
}

#[derive(Clone, Copy, Default)]
struct OfConnection {
    /// Entries of both directions, plus one; 0 is none.
    flows: [u32; 2],
    /// Its windows are those that are shared, and not those in the worker's table.
    has_windows: bool,
}

/// What the worker has of an entry beside what stands in that; packets of known flows do not touch it.
#[derive(Clone, Copy)]
struct Own {
    flow: u32,
    /// Plus one; 0 is none.
    connection: u32,
    until: Until,
    generation: u32,
    neighbour: NeighbourSlot,
    reply: bool,
    /// It does not hold any more.
    withdrawn: bool,
    count: u8,
    rules: [u32; RULES],
}

impl Replay {
    /// For the worker of this number among those that share `flows`, and whose connections have numbers below `connections`.
    pub fn new(flows: Flows, worker: usize, connections: usize) -> Self {
        let of_connections = vec![OfConnection::default(); connections].into_boxed_slice();
        let first_windows = u32::try_from(worker * connections).unwrap_or(u32::MAX);
        let room = flows.len();
        Replay {
            flows: Arc::new(flows),
            places: Places::new(room),
            // An entry is ours, and withdrawn, at most once. What nobody writes takes no memory.
            own: xsk::room(room),
            full: room / 16 * 15,
            of_connections,
            first_windows,
            withdrawn: VecDeque::with_capacity(room),
            collection: Collection::new(room),
        }
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
        let home = Home::of(key, self.flows.last_bucket());
        let present = match member {
            Some(Member { number, reply, .. }) => {
                self.of_connections[number as usize].flows[usize::from(reply)].checked_sub(1)
            }
            None => home.ways().find(|flow| self.is_holding(*flow) && shared::is_of(self.flows.entry(*flow), key)),
        };
        if let Some(flow) = present {
            let holds = self.of(flow).is_some_and(|own| own.generation == generation.0 as u32 && own.until == until);
            if holds && shared::is_of(self.flows.entry(flow), key) {
                return;
            }
            self.withdraw(flow, clock);
        }
        if self.own.len() > self.full {
            return;
        }
        let Some(rules) = hits.few::<RULES>() else { return };
        let Some(action) = action() else { return };
        let Some(flow) = self.flows.claim(home.ways()) else { return };
        self.places.enter(flow, self.own.len(), home);
        self.own.push(Own {
            flow,
            connection: member.map_or(0, |member| member.number + 1),
            until,
            generation: generation.0 as u32,
            neighbour,
            reply: member.is_some_and(|member| member.reply),
            withdrawn: false,
            count: hits.len() as u8,
            rules,
        });
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

    fn of(&self, flow: u32) -> Option<&Own> {
        self.own.get(self.places.place(flow)?)
    }

    fn is_holding(&self, flow: u32) -> bool {
        self.of(flow).is_some_and(|own| !own.withdrawn)
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
        for place in 0..self.own.len() {
            if !self.own[place].withdrawn {
                self.withdraw(self.own[place].flow, steps(now));
            }
        }
    }

    fn withdraw(&mut self, flow: u32, clock: u32) {
        let Some(own) = self.places.place(flow).and_then(|place| self.own.get_mut(place)) else { return };
        self.flows.withdraw(flow);
        self.places.hide(flow);
        own.withdrawn = true;
        if let Some(number) = std::mem::take(&mut own.connection).checked_sub(1) {
            self.of_connections[number as usize].flows[usize::from(own.reply)] = 0;
        }
        self.withdrawn.push_back((flow, clock));
    }

    /// Until when a connection lives by the packets that have gone by its entries.
    pub fn lives(&self, number: u32, now: u64) -> Option<Lives> {
        let OfConnection { flows, has_windows } = self.of_connections[number as usize];
        if has_windows {
            return Some(self.lives_by_windows(self.place_of_windows(number)?, now));
        }
        let flows = flows.into_iter().filter_map(|flow| flow.checked_sub(1));
        flows.filter_map(|flow| self.lives_by(self.of(flow)?, now)).max_by_key(|lives| lives.at_least())
    }

    /// The same by one of its entries.
    fn lives_by(&self, own: &Own, now: u64) -> Option<Lives> {
        match own.until {
            _ if own.connection == 0 => None,
            Until::Idle(steps) => Some(Lives::AtLeastUntil(later(last(self.flows.last(own.flow), now), steps))),
            Until::Windows { number, .. } => Some(self.lives_by_windows(number, now)),
        }
    }

    fn lives_by_windows(&self, place: u32, now: u64) -> Lives {
        let (clock, steps) = windows::life(&self.flows, place);
        Lives::Until(later(last(clock, now), steps))
    }

    /// Begins to look for the packet's flow, without waiting for memory. `None` if it has to be decided about anyhow. Of a burst, seek all,
    /// then [`approach`](Self::approach) all, then [`forward`](Self::forward) each: so they wait together, and not one after the other.
    #[inline(always)]
    pub(crate) fn seek(&self, frame: &[u8], iif: Ifindex) -> Option<Sought> {
        let sought = Sought::read(frame, iif, self.flows.last_bucket())?;
        self.places.prefetch(sought.home.first);
        Some(sought)
    }

    /// The second step: whether one of our entries is of its flow.
    #[inline]
    pub(crate) fn approach(&self, sought: &mut Sought) -> bool {
        // What others have decided, they count.
        let Some(flow) = self.places.find(sought.home) else { return false };
        sought.flow = flow;
        self.flows.prefetch(flow);
        true
    }

    /// Makes a packet ready to leave as the entry of its flow says. `None`, and the frame is as it came, if that does not hold for it.
    #[inline]
    pub(crate) fn forward(
        &mut self,
        frame: &mut [u8],
        (sought, iif): (&Sought, Ifindex),
        generation: Generation,
        now: u64,
    ) -> Option<Replayed> {
        let entry = self.flows.entry(sought.flow);
        let replayed = forward::replay(entry, frame, (sought, iif), generation, now)?;
        if self.places.count(sought.flow, replayed.bytes()) {
            self.collection.used(sought.flow);
        }
        Some(replayed)
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

impl Lives {
    fn at_least(self) -> u64 {
        let (Lives::Until(until) | Lives::AtLeastUntil(until)) = self;
        until
    }
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
