//! What is kept of a packet when its fate is known.

use shunt_policy::connection::{Connection, Tracking, Tuple};
use shunt_policy::{DropReason, PuntReason, Stop};

use super::connections::{Connections, End};
use super::entry::{Entry, Progress};
use super::replayed::Steady;
use super::seen::Kind;
use super::timeouts::{self, milliseconds};
use super::tracker::{Fresh, Held, Local, Tracker, Update};

/// Seconds for which a connection that began with a punted packet stands as the kernel's, until the kernel has told of it.
const STUB: u32 = 5;

/// Seconds for which a connection that was left to the kernel stands as the kernel's at least: it tells when it ends.
pub(super) const LEFT: u32 = 600;

/// When the kernel may have a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Punted {
    Now,
    /// When the kernel knows what it has just been told: the packet's connection, or that one has ended, or whose tuples are taken.
    Later,
    /// By the worker that owns this tuple, of the answers: else it would take them for a connection of its own.
    By(Tuple),
    /// Never: it does not fit its connection. The kernel has not seen the packets before and would take it for one that does.
    Misfit,
}

impl Tracker<'_> {
    /// Before the packet is rewritten and sent: enters a new connection (`__nf_conntrack_confirm`), brings a known one up to date. Says whether
    /// the next packet like it would change anything.
    ///
    /// # Errors
    ///
    /// The new connection has no room in the table, or another has its tuple.
    pub fn forwarded(mut self) -> Result<Option<Steady>, Stop> {
        self.update_known();
        let Held::New(fresh) = self.held else { return Ok(self.steady()) };
        let connections = self.connections;
        debug_assert!(connections.place.owns(&fresh.reply), "{:?} is another worker's", fresh.reply);
        // The original tuple was looked up by `track`.
        if connections.find(&fresh.reply, self.now).is_some() {
            connections.counts.exhausted += 1;
            if let Some(tuple) = fresh.reply.inverse() {
                connections.counts.exhausted_towards.add(&tuple);
            }
            return Err(Stop::Drop(DropReason::NatExhausted));
        }
        let entry = Entry {
            expires: timeouts::after(self.now, fresh.timeout),
            status: fresh.status | Connection::CONFIRMED,
            mark: self.mark.map_or(0, |mark| mark.0),
            clock: milliseconds(self.now),
            masquerade: fresh.masquerade,
            progress: fresh.progress,
            ..Entry::new(&fresh.original, &fresh.reply)
        };
        let Some(number) = connections.enter(entry, self.now) else {
            return Err(Stop::Drop(DropReason::ConntrackFull));
        };
        connections.counts.created += 1;
        connections.report(number, self.now);
        Ok(None)
    }

    /// Whether answers to a new connection would come to another worker. Then it is to be left to the kernel.
    pub fn is_answered_elsewhere(&self) -> bool {
        matches!(&self.held, Held::New(fresh) if !self.connections.place.owns(&fresh.reply))
    }

    /// By a rule or a route. A new connection is forgotten; a known one has seen the packet nonetheless, at PREROUTING.
    pub fn dropped(mut self) {
        self.update_known();
    }

    /// The kernel is to get the packet: a connection that begins with it is the kernel's, and untranslated as far as anybody knows. Where
    /// the packet ends at this machine rules of INPUT decide whether one begins (`nf_confirm` comes after them), and the kernel will tell:
    /// until then its tuple is free, for the packet from inside that crosses it. None begins with what the kernel answers, and hardly one
    /// with what has come from outside with a source of this machine's own (`fib_validate_source`). Not to be
    /// called for a packet with NOTRACK; if the decision ended before `track`, that is made up for.
    pub fn punted(mut self, reason: PuntReason) -> Punted {
        if matches!(self.held, Held::Unasked) && self.local != Local::Ours {
            // A rule before conntrack is in doubt, and it may say NOTRACK; if not, everything is the kernel's for a while.
            let is_in_doubt = !matches!(reason, PuntReason::Stale | PuntReason::UnknownIngress);
            if is_in_doubt && let Some(number) = self.known_without_asking() {
                return self.connections.leave(number, self.now);
            }
            // How the packet would be stopped is of no interest any more.
            let _ = self.track();
            if let Held::New(fresh) = &mut self.held {
                fresh.progress = Progress::Plain;
            }
        }
        // The kernel's own rules mark it, starting from what was there before this packet; then it tells.
        self.mark = None;
        let left_copy = std::mem::take(&mut self.connections.left_copy);
        let invalid = self.update.is_some() && matches!(self.held, Held::Nothing);
        if let Some((number, update)) = &self.update {
            let entry = self.connections.table.entry(*number);
            if entry.is_untold() && reason == PuntReason::Redirect {
                self.windows = None;
                return self.connections.leave(*number, self.now);
            } else if entry.is_untold() || update.kill {
                let when = self.connections.look_on(*number, update, self.now);
                if let Some(windows) = self.windows.take() {
                    self.connections.return_windows(*number, &windows, self.now);
                }
                return when;
            }
        }
        self.update_known();
        match self.held {
            Held::New(_) if begins_nothing(reason) || self.local == Local::Source => {}
            Held::New(fresh) => {
                let left = if reason == PuntReason::Redirect { Entry::LEFT } else { 0 };
                self.connections.stub(&fresh, left, self.now);
                if !left_copy && !self.connections.place.owns(&fresh.reply) {
                    return Punted::By(fresh.reply);
                }
                if self.connections.may_choose_taken() {
                    return Punted::Later;
                }
            }
            _ if invalid => return Punted::Misfit,
            Held::Known(found) | Held::Related(found, _) => return self.connections.awaits(found.number, self.now),
            Held::Unasked | Held::Nothing => {}
        }
        if left_copy { Punted::Later } else { Punted::Now }
    }

    /// Number of the connection of ours whose the packet would be if it is tracked.
    fn known_without_asking(&mut self) -> Option<u32> {
        if matches!(self.seen.kind, Kind::IcmpError { .. } | Kind::Malformed | Kind::Untracked) {
            return None;
        }
        let found = self.find()?;
        Some(found.number).filter(|number| !self.connections.table.entry(*number).is(Entry::KERNELS))
    }

    fn update_known(&mut self) {
        if let Some((number, update)) = self.update.take() {
            let mark = self.mark.filter(|_| matches!(self.held, Held::Known(_)));
            self.connections.update(number, &update, mark.map(|mark| mark.0), self.now);
            if let Some(windows) = self.windows.take() {
                self.connections.return_windows(number, &windows, self.now);
            }
        } else if let (Held::Related(found, _), Some(mark)) = (&self.held, self.mark) {
            let entry = self.connections.table.entry_mut(found.number);
            if entry.mark != mark.0 {
                entry.mark = mark.0;
                entry.flags |= Entry::CHANGED;
                self.connections.stop_replay(found.number, self.now);
                self.connections.report(found.number, self.now);
            }
        }
    }
}

/// The kernel keeps no connection that begins with such a packet, or tells of it by itself: it ends before `nf_confirm`.
fn begins_nothing(reason: PuntReason) -> bool {
    use PuntReason::{
        Local, NoRoute, ProhibitRoute, ProhibitRule, Reject, ReversePath, SourceLocal, TtlExpired, UnreachableRoute,
        UnreachableRule,
    };
    matches!(
        reason,
        Local
            | TtlExpired
            | NoRoute
            | UnreachableRule
            | UnreachableRoute
            | ProhibitRule
            | ProhibitRoute
            | SourceLocal
            | ReversePath
            | Reject
    )
}

impl Connections {
    /// Whether the kernel still has to hear of the connection before it gets a packet of it.
    fn awaits(&mut self, number: u32, now: u64) -> Punted {
        let entry = self.table.entry(number);
        let has_all = entry.is(Entry::HELD) && !entry.is(Entry::CHANGED);
        if !entry.is(Entry::LIVE) || entry.is(Entry::KERNELS) || has_all {
            return Punted::Now;
        }
        if !entry.is(Entry::KNOWN) || entry.is(Entry::CHANGED) || entry.clock == 0 {
            self.tell_of(number, now);
        }
        Punted::Later
    }

    /// The kernel sees this packet, and has seen all before or is told of them: it will say itself what has become of the connection.
    fn look_on(&mut self, number: u32, update: &Update, now: u64) -> Punted {
        let when = self.awaits(number, now);
        if update.kill {
            self.end(number, End::Told, now);
            return when;
        }
        self.stop_replay(number, now);
        let entry = self.table.entry_mut(number);
        (entry.expires, entry.status, entry.progress) = (update.expires, update.status, update.progress);
        when
    }

    /// The connection is the kernel's from now on, which is told how far it is if it cannot know.
    fn leave(&mut self, number: u32, now: u64) -> Punted {
        drop(self.look_at_windows(number));
        let is_untold = self.table.entry(number).is_untold();
        if !is_untold {
            self.tell_of(number, now);
        }
        let entry = *self.table.entry(number);
        self.end(number, End::Told, now);
        let flags = entry.flags & Entry::V6 | Entry::LIVE | Entry::KERNELS | Entry::LEFT;
        let expires = entry.expires.max(timeouts::after(now, LEFT));
        if self.enter(Entry { flags, expires, progress: Progress::Plain, ..entry }, now).is_some() {
            self.counts.kernels += 1;
        }
        if is_untold { Punted::Now } else { Punted::Later }
    }

    fn update(&mut self, number: u32, update: &Update, mark: Option<u32>, now: u64) {
        if update.kill {
            self.end(number, End::Killed, now);
            return;
        }
        let entry = self.table.entry_mut(number);
        let mark = mark.unwrap_or(entry.mark);
        let is_new_state = match (&entry.progress, &update.progress) {
            (Progress::Tcp(old), Progress::Tcp(new)) => old.state != new.state,
            _ => false,
        };
        let changes = is_new_state || entry.status != update.status || entry.mark != mark;
        if changes {
            entry.flags |= Entry::CHANGED;
        }
        entry.expires = update.expires;
        entry.status = update.status;
        entry.progress = update.progress;
        entry.mark = mark;
        if changes {
            self.stop_replay(number, now);
        }
        self.report(number, now);
    }

    /// The kernel is to get the first packet of a connection, whose answers will have this tuple, of this worker's.
    pub fn expect(&mut self, reply: &Tuple, now: u64) -> Punted {
        if let Some(original) = reply.inverse() {
            self.enter_stub(&original, reply, Progress::Plain, 0, now);
        }
        if self.may_choose_taken() { Punted::Later } else { Punted::Now }
    }

    /// What a connection of the kernel's is translated to is its own choice, among what it does not know that we have given away.
    fn may_choose_taken(&self) -> bool {
        self.has_translated && !self.is_given(self.said)
    }

    /// As if untranslated. `left` is `LEFT` or nothing.
    fn stub(&mut self, fresh: &Fresh, left: u8, now: u64) {
        let Some(reply) = fresh.original.inverse() else { return };
        self.enter_stub(&fresh.original, &reply, fresh.progress, left, now);
    }

    /// Unless one of its tuples is there already.
    fn enter_stub(&mut self, original: &Tuple, reply: &Tuple, progress: Progress, left: u8, now: u64) {
        if self.find(original, now).is_some() || self.find(reply, now).is_some() {
            return;
        }
        let entry = Entry::new(original, reply);
        let entry = Entry {
            expires: timeouts::after(now, STUB),
            status: Connection::CONFIRMED,
            flags: entry.flags | Entry::KERNELS | left,
            progress,
            ..entry
        };
        if self.enter(entry, now).is_some() {
            self.counts.kernels += 1;
        }
    }
}
