//! What the kernel is told of our connections, so that its copies never end before they do.

use shunt_policy::connection::Connection;

use super::connections::Connections;
use super::entry::{Entry, NAT};
use super::exchange::FromWorker;
use super::timeouts::{milliseconds, seconds};

/// Seconds by which the kernel's copy outlives ours at least.
const SPARE: u32 = 10;

/// ms; shorter ones that nobody would miss are not worth a message.
const YOUNG: u32 = 1000;

impl Connections {
    /// After each packet of a connection of ours.
    pub(super) fn report(&mut self, number: u32, now: u64) {
        let entry = self.table.entry(number);
        if !is_due(entry, now) {
            return;
        }
        let mut record = entry.record(now);
        record.timeout = record.timeout.saturating_add(record.timeout / 2).saturating_add(SPARE);
        if !self.tell_kernel(FromWorker::Lives(record)) {
            return;
        }
        let entry = self.table.entry_mut(number);
        entry.flags |= Entry::KNOWN;
        entry.flags &= !Entry::CHANGED;
        entry.clock = seconds(now).saturating_add(record.timeout);
    }

    /// False if there is no room.
    pub(super) fn tell_kernel(&mut self, report: FromWorker) -> bool {
        let told = self.reports.push(report).is_ok();
        self.counts.report_overflow += u64::from(!told);
        told
    }
}

fn is_due(entry: &Entry, now: u64) -> bool {
    if entry.is(Entry::KNOWN) {
        // Of a time-out that stays the same, this is after half of it.
        return entry.is(Entry::CHANGED) || seconds(entry.expires).saturating_add(SPARE) >= entry.clock;
    }
    let is_worth_it = entry.status & Connection::ASSURED != 0
        || entry.status & NAT != 0 && entry.status & Connection::SEEN_REPLY != 0;
    is_worth_it || milliseconds(now).wrapping_sub(entry.clock) >= YOUNG
}
