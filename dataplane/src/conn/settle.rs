//! What is kept of a packet when its fate is known.

use shunt_policy::connection::Connection;
use shunt_policy::connection::Tracking;
use shunt_policy::{DropReason, PuntReason, Stop};

use super::connections::{Connections, End};
use super::entry::{Entry, Progress};
use super::timeouts::{self, milliseconds};
use super::tracker::{Fresh, Held, Local, Tracker, Update};

/// Seconds for which a connection that began with a punted packet stands as the kernel's, until the kernel has told of it.
const STUB: u32 = 5;

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
        if connections.enter(entry, self.now).is_none() {
            return Err(Stop::Drop(DropReason::ConntrackFull));
        }
        connections.counts.created += 1;
        Ok(())
    }

    /// By a rule or a route. A new connection is forgotten; a known one has seen the packet nonetheless, at PREROUTING.
    pub fn dropped(mut self) {
        self.update_known();
    }

    /// The packet ends at this machine. Whether a connection begins with it, rules of INPUT decide (`nf_confirm` comes after them), and the
    /// kernel will tell: until then its tuple is free, for the packet from inside that crosses it.
    pub fn delivered(mut self) {
        self.update_known();
    }

    /// The kernel gets the packet: a connection that begins with it is the kernel's, and untranslated as far as anybody knows. Not to be
    /// called for a packet with NOTRACK; if the decision ended before `track`, that is made up for.
    pub fn punted(mut self) {
        if matches!(self.held, Held::Unasked) && self.local != Local::Ours {
            // How the packet would be stopped is of no interest any more.
            let _ = self.track();
        }
        self.update_known();
        if let Held::New(fresh) = &self.held {
            self.connections.stub(fresh, self.now);
        }
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

impl Connections {
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
