//! What is kept of a packet when its fate is known.

use shunt_policy::connection::{Connection, Tracking, Tuple};
use shunt_policy::{DropReason, PuntReason, Stop};

use super::connections::{Connections, End};
use super::entry::{Entry, Progress};
use super::timeouts::{self, milliseconds};
use super::tracker::{Fresh, Held, Local, Tracker, Update};

/// Seconds for which a connection that began with a punted packet stands as the kernel's, until the kernel has told of it.
const STUB: u32 = 5;

/// When the kernel may have a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Punted {
    Now,
    /// When the kernel knows its connection, of which this is the original tuple: it has just been told.
    Later(Tuple),
    /// When the kernel has let go of its copy of a connection that has ended here: it has just been told.
    Afterwards,
    /// Never: it does not fit its connection. The kernel has not seen the packets before and would take it for one that does.
    Misfit,
}

impl Tracker<'_> {
    /// Before the packet is rewritten and sent: enters a new connection (`__nf_conntrack_confirm`), brings a known one up to date.
    ///
    /// # Errors
    ///
    /// The new connection has no room in the table, or another has its tuple. If it is the kernel's, it has been entered as such.
    pub fn forwarded(mut self) -> Result<(), Stop> {
        self.update_known();
        let Held::New(fresh) = self.held else { return Ok(()) };
        let connections = self.connections;
        if !connections.place.owns(&fresh.reply) {
            connections.stub(&fresh, self.now);
            return Err(Stop::Punt(PuntReason::KernelConnection));
        }
        // The original tuple was looked up by `track`.
        if connections.find(&fresh.reply, self.now).is_some() {
            connections.counts.exhausted += 1;
            connections.counts.exhausted_towards = Some(fresh.reply.source);
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
        Ok(())
    }

    /// By a rule or a route. A new connection is forgotten; a known one has seen the packet nonetheless, at PREROUTING.
    pub fn dropped(mut self) {
        self.update_known();
    }

    /// The kernel is to get the packet: a connection that begins with it is the kernel's, and untranslated as far as anybody knows. Where the
    /// packet ends at this machine rules of INPUT decide whether one begins (`nf_confirm` comes after them), and the kernel will tell:
    /// until then its tuple is free, for the packet from inside that crosses it. None begins with what the kernel answers. Not to be called for a packet with NOTRACK; if the
    /// decision ended before `track`, that is made up for.
    pub fn punted(mut self, reason: PuntReason) -> Punted {
        if matches!(self.held, Held::Unasked) && self.local != Local::Ours {
            // How the packet would be stopped is of no interest any more.
            let _ = self.track();
        }
        let left_copy = std::mem::take(&mut self.connections.left_copy);
        let invalid = self.update.is_some() && matches!(self.held, Held::Nothing);
        self.update_known();
        match self.held {
            Held::New(_) if begins_nothing(reason) => {}
            Held::New(fresh) => self.connections.stub(&fresh, self.now),
            _ if invalid => return Punted::Misfit,
            Held::Known(found) | Held::Related(found, _) => return self.connections.awaits(found.number, self.now),
            Held::Unasked | Held::Nothing => {}
        }
        if left_copy {
            return Punted::Afterwards;
        }
        Punted::Now
    }

    fn update_known(&mut self) {
        if let Some((number, update)) = self.update.take() {
            let mark = self.mark.filter(|_| matches!(self.held, Held::Known(_)));
            self.connections.update(number, &update, mark.map(|mark| mark.0), self.now);
        } else if let (Held::Related(found, _), Some(mark)) = (&self.held, self.mark) {
            let entry = self.connections.table.entry_mut(found.number);
            if entry.mark != mark.0 {
                entry.mark = mark.0;
                entry.flags |= Entry::CHANGED;
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
        if !entry.is(Entry::LIVE) || entry.is(Entry::KERNELS) || entry.is(Entry::HELD) {
            return Punted::Now;
        }
        let original = entry.tuple(false);
        if !entry.is(Entry::KNOWN) {
            self.tell_of(number, now);
        }
        Punted::Later(original)
    }

    /// Whether the kernel has the connection with this original tuple, or it has ended.
    pub fn is_held(&mut self, original: &Tuple, now: u64) -> bool {
        self.find(original, now).is_none_or(|found| self.table.entry(found.number).is(Entry::HELD))
    }

    fn update(&mut self, number: u32, update: &Update, mark: Option<u32>, now: u64) {
        if update.kill {
            self.end(number, End::Killed);
            return;
        }
        let entry = self.table.entry_mut(number);
        let mark = mark.unwrap_or(entry.mark);
        let is_new_state = match (&entry.progress, &update.progress) {
            (Progress::Tcp(old), Progress::Tcp(new)) => old.state != new.state,
            _ => false,
        };
        if is_new_state || entry.status != update.status || entry.mark != mark {
            entry.flags |= Entry::CHANGED;
        }
        entry.expires = update.expires;
        entry.status = update.status;
        entry.progress = update.progress;
        entry.mark = mark;
        self.report(number, now);
    }

    /// As if untranslated, unless one of its tuples is there already.
    fn stub(&mut self, fresh: &Fresh, now: u64) {
        let Some(reply) = fresh.original.inverse() else { return };
        if self.find(&fresh.original, now).is_some() || self.find(&reply, now).is_some() {
            return;
        }
        let entry = Entry::new(&fresh.original, &reply);
        let entry = Entry {
            expires: timeouts::after(now, STUB),
            status: Connection::CONFIRMED,
            flags: entry.flags | Entry::KERNELS,
            ..entry
        };
        if self.enter(entry, now).is_some() {
            self.counts.kernels += 1;
        }
    }
}
