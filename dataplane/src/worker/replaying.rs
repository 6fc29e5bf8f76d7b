//! What the worker leaves to the XDP programs, and hears of it.

use std::sync::atomic::Ordering;

use shunt_policy::{Egress, Family, Generation, Ifindex, PortId};

use super::Worker;
use crate::conn::Steady;
use crate::packet::Packet;
use crate::port::Port;
use crate::punt::Punt;
use crate::replay::{Action, Key, Sought};
use crate::xsk::Frame;

/// ns from one collection to the next.
const PERIOD: u64 = 500_000_000;

/// Entries from which is collected in a round: now and then, and when somebody waits for it. Packets wait meanwhile, so where few come at once
/// it is half as many.
const AT_ONCE: usize = 32;
const WANTED: usize = 512;

#[derive(Default)]
pub(super) struct Replaying {
    /// By family: rules look at nothing that differs between packets of one flow.
    allowed: [bool; 2],
    /// Generation for which that has been found out.
    of: Option<Generation>,
    /// When the last collection began; monotonic, ns.
    begun: u64,
    /// The control side asked for a collection so many times before it.
    asked: u64,
    /// What is to be said when it is complete: it goes by this generation.
    announced: Option<Generation>,
}

impl<P: Port, K: Punt> Worker<P, K> {
    /// Collects what programs have forwarded, now and then, and before it says that it has `adopted` a policy: what was counted for the
    /// rules of the one before is then where it belongs.
    pub(super) fn collect_replayed(&mut self, adopted: bool) {
        let generation = self.policy.generation();
        let connections = &mut self.tracked.connections;
        if !connections.replays() {
            if adopted {
                self.counters.adopted(generation);
            }
            return;
        }
        if self.replaying.of != Some(generation) {
            let policy = self.policy.current();
            self.replaying.allowed = Family::BOTH.map(|family| policy.varies(family).is_none());
            self.replaying.of = Some(generation);
        }
        let asked = self.counters.collections.asked.load(Ordering::Acquire);
        let is_wanted = self.counters.generation() != generation || asked != self.replaying.asked;
        let is_due = self.tracked.now.saturating_sub(self.replaying.begun) >= PERIOD;
        // One that is under way is not begun anew: where policies come faster than it ends, it would never end.
        if self.replaying.announced.is_none() && (is_wanted || is_due) {
            connections.begin_collection(generation);
            self.replaying.begun = self.tracked.now;
            self.replaying.asked = asked;
            self.replaying.announced = Some(generation);
        }
        let counters = &self.counters;
        let at_once = match self.frames {
            _ if is_wanted => WANTED,
            0 => AT_ONCE,
            frames => (frames / 2).clamp(1, AT_ONCE),
        };
        connections.collect(at_once, generation, self.tracked.now, |collected| counters.hear(collected));
        if connections.is_collected()
            && let Some(generation) = self.replaying.announced.take()
        {
            counters.flows.set(connections.replayed());
            counters.adopted(generation);
            counters.collections.made.store(self.replaying.asked, Ordering::Release);
        }
    }

    /// Whether a collection is under way, or has to follow at once.
    pub(super) fn is_collecting(&self) -> bool {
        self.replaying.announced.is_some()
            || self.counters.generation() != self.policy.generation()
            || self.tracked.connections.is_cleaning()
    }

    /// Whether it has to wake up for what programs forward.
    pub(super) fn is_replaying(&self) -> bool {
        self.tracked.connections.replayed() > 0
    }

    /// Collects all, at once: nothing is forwarded any more.
    pub(crate) fn finish_replay(&mut self) {
        self.tracked.connections.stop_all_replay(self.tracked.now);
        self.tracked.connections.begin_collection(self.policy.generation());
        while !self.tracked.connections.is_collected() {
            self.collect_replayed(false);
        }
    }

    /// Makes a packet ready to leave as the decision about its flow says, if that holds, and says by which port. Else the frame is as it came.
    #[inline]
    pub(super) fn forward_known(&mut self, frame: &mut Frame, sought: (&Sought, Ifindex)) -> Option<PortId> {
        let (generation, now) = (self.policy.generation(), self.tracked.now);
        let replayed = self.tracked.connections.forward_known(frame, sought, generation, now)?;
        frame.truncate(replayed.length);
        Some(replayed.port)
    }

    /// Leaves the next packets like this one to the programs, if they can and may.
    pub(super) fn install(&mut self, packet: &Packet, iif: Ifindex, egress: &Egress, steady: Option<Steady>) {
        if !self.replaying.allowed[packet.family() as usize] {
            return;
        }
        let Some(key) = Key::of(packet, iif) else { return };
        let of = (egress.neighbour(), &self.hits, self.policy.generation());
        let action = |checks| Action::of(packet, egress, checks);
        self.tracked.connections.install(&key, action, steady, of, !egress.takes_redirected(), self.tracked.now);
    }
}
