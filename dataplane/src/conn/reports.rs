//! What the kernel is told of our connections, so that its copies never end before they do.

use shunt_policy::connection::Connection;

use super::connections::Connections;
use super::entry::{Entry, NAT, Progress};
use super::exchange::FromWorker;
use super::record::TcpState;
use super::timeouts::{milliseconds, seconds};

/// Seconds by which the kernel's copy outlives ours at least.
const SPARE: u32 = 10;

/// ms; what is older is worth a message, whatever it is.
const YOUNG: u32 = 1000;

/// So many connections a second are told of before they are worth it: that a packet of theirs is punted, or that the operator looks, is
/// not to need luck. Under a flood the kernel need not know what may never come to anything.
pub(super) const EARLY: u32 = 2048;

impl Connections {
    /// After each packet of a connection of ours.
    pub(super) fn report(&mut self, number: u32, now: u64) {
        let entry = self.table.entry(number);
        if !is_due(entry, now) && !self.has_budget(number, now) {
            return;
        }
        self.tell_of(number, now);
    }

    /// Tells the kernel of a connection now, due or not.
    pub(super) fn tell_of(&mut self, number: u32, now: u64) {
        let entry = self.table.entry(number);
        let mut record = entry.record(now);
        record.timeout = record.timeout.saturating_add(record.timeout / 2).saturating_add(SPARE);
        if !self.tell_kernel(FromWorker::Lives(record)) {
            return;
        }
        let entry = self.table.entry_mut(number);
        entry.flags |= Entry::KNOWN;
        entry.flags &= !(Entry::CHANGED | Entry::HELD);
        entry.clock = seconds(now).saturating_add(record.timeout);
    }

    /// Whether one more of those that have news, but are not due yet, can be told of in this second.
    fn has_budget(&mut self, number: u32, now: u64) -> bool {
        let entry = self.table.entry(number);
        if entry.is(Entry::KNOWN) && !entry.is(Entry::CHANGED) {
            return false;
        }
        if self.early.0 != seconds(now) {
            self.early = (seconds(now), 0);
        }
        self.early.1 += 1;
        self.early.1 <= self.most_early
    }

    /// False if there is no room.
    pub(super) fn tell_kernel(&mut self, report: FromWorker) -> bool {
        let told = self.reports.push(report).is_ok();
        self.said += u64::from(told);
        self.counts.report_overflow += u64::from(!told);
        told
    }
}

fn is_due(entry: &Entry, now: u64) -> bool {
    if entry.is(Entry::KNOWN) {
        // Of a time-out that stays the same, this is after half of it.
        return entry.is(Entry::CHANGED) && !is_passing(entry)
            || seconds(entry.expires).saturating_add(SPARE) >= entry.clock;
    }
    let is_worth_it = entry.status & Connection::ASSURED != 0
        || entry.status & NAT != 0 && entry.status & Connection::SEEN_REPLY != 0 && !is_passing(entry);
    is_worth_it || milliseconds(now).wrapping_sub(entry.clock) >= YOUNG
}

/// What TCP is in for a moment, as a rule: a handshake, and a farewell before its end. Of ten thousand short connections a second each is
/// worth two messages, not six.
fn is_passing(entry: &Entry) -> bool {
    use TcpState::{CloseWait, FinWait, LastAck, SynRecv, SynSent, SynSent2};
    matches!(&entry.progress, Progress::Tcp(tcp) if matches!(tcp.state, SynSent | SynSent2 | SynRecv | FinWait | CloseWait | LastAck))
}
