//! Connections whose packets go by an XDP program: which may, and what is made of it that they did.

use shunt_policy::connection::Connection;
use shunt_policy::{Generation, Ifindex, NeighbourSlot};

use super::connections::Connections;
use super::entry::{Entry, FIXED_TIMEOUT, Progress};
use super::tracker::{Held, Tracker};
use crate::replay::{
    Action, Checks, Collected, Held as HeldWindows, Key, Life, Lives, Member, Replay, Replayed, Sought,
};
use crate::rule_counters::Hits;
use crate::xsk::prefetch;

/// A known connection on which another packet like the one just forwarded would change nothing but how long it lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Steady {
    number: u32,
    reply: bool,
}

impl Tracker<'_> {
    /// Of a packet that is forwarded, when its connection has been brought up to date: whether rules would be told the same of the next one.
    pub(super) fn steady(&self) -> Option<Steady> {
        let Held::Known(found) = &self.held else { return None };
        let entry = self.connections.table.entry(found.number);
        let told = self.found?;
        let same = entry.is(Entry::LIVE) && told.status == entry.status && told.mark.0 == entry.mark;
        let seen_reply = entry.status & Connection::SEEN_REPLY != 0;
        let settled = match entry.progress {
            // When it becomes a stream, a packet tells.
            Progress::Udp { .. } => !seen_reply || entry.status & Connection::ASSURED != 0,
            Progress::Tcp(tcp) => seen_reply && entry.status & Connection::ASSURED != 0 && tcp.has_windows(),
            Progress::Plain => false,
        };
        (same && settled && entry.status & FIXED_TIMEOUT == 0)
            .then_some(Steady { number: found.number, reply: found.reply })
    }
}

impl Connections {
    /// Lets XDP programs forward packets of its connections, by entries of `replay`.
    pub fn set_replay(&mut self, replay: Option<Replay>) {
        (0..self.table.used()).for_each(|number| drop(self.look_at_windows(number)));
        self.replay = replay;
    }

    /// Brings the entry's windows up to date, if programs have moved them; they do not any more while what is returned lives.
    pub(super) fn look_at_windows(&mut self, number: u32) -> Option<HeldWindows> {
        let held = self.replay.as_ref()?.hold_windows(number)?;
        if let Progress::Tcp(tcp) = &mut self.table.entry_mut(number).progress {
            tcp.set_windows(&held.read());
        }
        Some(held)
    }

    /// What has become of windows that were looked at.
    pub(super) fn return_windows(&mut self, number: u32, held: &HeldWindows, now: u64) {
        if let (Some(replay), Progress::Tcp(tcp)) = (&mut self.replay, &self.table.entry(number).progress) {
            replay.return_windows(number, held, &tcp.windows(), now);
        }
    }

    /// For so many connections at most.
    pub fn capacity(&self) -> usize {
        self.table.capacity()
    }

    pub fn replays(&self) -> bool {
        self.replay.is_some()
    }

    /// Packets like this one, of this connection or of none, need not come any more.
    pub(crate) fn install(
        &mut self,
        key: &Key,
        action: impl FnOnce(Checks) -> Option<Action>,
        steady: Option<Steady>,
        of: (NeighbourSlot, &Hits, Generation),
        unsent: bool,
        now: u64,
    ) {
        let Some(replay) = &mut self.replay else { return };
        let member = steady.map(|Steady { number, reply }| {
            let entry = self.table.entry(number);
            let life = match &entry.progress {
                Progress::Tcp(tcp) => Life::Windows {
                    record: tcp.windows(),
                    usual: self.settings.tcp.established,
                    unacknowledged: self.settings.tcp.unacknowledged,
                    retransmitted: self.settings.tcp.max_retrans,
                    most_retransmissions: self.settings.tcp_max_retrans,
                },
                _ => Life::Idle(entry.expires.saturating_sub(now)),
            };
            Member { number, reply, life }
        });
        let checks = Checks { tracked: steady.is_some(), verified: self.settings.checksum, unsent };
        replay.install(key, || action(checks), member, of, now);
    }

    /// The connection changes or ends: its next packets are to come here.
    pub(super) fn stop_replay(&mut self, number: u32, now: u64) {
        if let Some(replay) = &mut self.replay {
            replay.forget(number, now);
        }
    }

    /// No entry holds any more.
    pub fn stop_all_replay(&mut self, now: u64) {
        if let Some(replay) = &mut self.replay {
            replay.forget_all(now);
        }
    }

    /// Whether a connection lives, when all is known that programs have forwarded of it.
    pub(super) fn lives_on(&mut self, number: u32, now: u64) -> bool {
        if let Some(lives) = self.replay.as_ref().and_then(|replay| replay.lives(number, now)) {
            self.live(number, lives);
        }
        self.table.entry(number).expires > now
    }

    fn live(&mut self, number: u32, lives: Lives) {
        let entry = self.table.entry_mut(number);
        entry.expires = match lives {
            Lives::Until(until) => until,
            Lives::AtLeastUntil(until) => entry.expires.max(until),
        };
    }

    /// See [`Replay::seek`].
    #[inline(always)]
    pub(crate) fn seek_flow(&self, frame: &[u8], iif: Ifindex) -> Option<Sought> {
        self.replay.as_ref().filter(|replay| !replay.is_empty())?.seek(frame, iif)
    }

    /// See [`Replay::approach`].
    #[inline]
    pub(crate) fn approach_flow(&self, sought: &mut Sought) -> bool {
        self.replay.as_ref().is_some_and(|replay| replay.approach(sought))
    }

    /// See [`Replay::forward`].
    #[inline]
    pub(crate) fn forward_known(
        &mut self,
        frame: &mut [u8],
        sought: (&Sought, Ifindex),
        generation: Generation,
        now: u64,
    ) -> Option<Replayed> {
        self.replay.as_mut()?.forward(frame, sought, generation, now)
    }

    /// Begins to collect what has gone by known flows.
    pub fn begin_collection(&mut self, generation: Generation) {
        if let Some(replay) = &mut self.replay {
            replay.begin(generation);
        }
    }

    pub fn is_collected(&self) -> bool {
        self.replay.as_ref().is_none_or(Replay::is_collected)
    }

    /// Whether entries are looked for that make room.
    pub fn is_cleaning(&self) -> bool {
        self.replay.as_ref().is_some_and(Replay::is_cleaning)
    }

    /// Number of entries by which packets are forwarded.
    pub fn replayed(&self) -> usize {
        self.replay.as_ref().map_or(0, Replay::len)
    }

    /// Collects from so many more entries at most, and tells `hear` of each.
    pub(crate) fn collect(
        &mut self,
        entries: usize,
        generation: Generation,
        now: u64,
        mut hear: impl FnMut(&Collected),
    ) {
        let Some(replay) = &mut self.replay else { return };
        replay.clean(generation, now);
        replay.gather(entries).for_each(|number| prefetch(self.table.entry(number)));
        // As many may be given back as are collected from.
        for _ in 0..2 * entries {
            let Some(collected) = self.replay.as_mut().and_then(|replay| replay.next(now)) else { return };
            if collected.traffic.packets > 0 {
                hear(&collected);
            }
            if let Some((number, lives)) = collected.connection {
                self.live(number, lives);
                self.report(number, now);
            }
        }
    }
}
