//! What the control side says: mostly what the kernel's own table holds.

use std::net::IpAddr;

use shunt_policy::Ifindex;
use shunt_policy::connection::{Connection, Tuple};

use super::connections::{Connections, End};
use super::entry::{Entry, NAT, Progress};
use super::exchange::ToWorker;
use super::record::{Record, TcpRecord, TcpState};
use super::settle::LEFT;
use super::tcp::Tcp;
use super::timeouts::{self, TCP, UDP, milliseconds, seconds};

impl Connections {
    pub fn tell(&mut self, message: ToWorker, now: u64) {
        match message {
            ToWorker::Kernel { record, whole } => self.hear(&record, whole && !record.kernels, now),
            ToWorker::Ended { original, reply } => self.hear_of_end(&original, &reply, now),
            ToWorker::Exported { original } => self.hear_of_copy(&original, now),
            ToWorker::Settings(settings) => {
                self.settings = settings;
                self.stop_all_replay(now);
            }
            ToWorker::Unmasquerade { oif, address } => self.unmasquerade(oif, address, now),
        }
    }

    /// From a worker that is no more: what the kernel has of it may be less, or nothing.
    pub fn inherit(&mut self, record: &Record, now: u64) {
        self.hear(record, !record.kernels, now);
        if let Some(found) = self.find(&record.original, now) {
            self.table.entry_mut(found.number).flags &= !Entry::HELD;
        }
    }

    fn hear(&mut self, record: &Record, whole: bool, now: u64) {
        let Record { original, reply, .. } = record;
        let owned = [original, reply].map(|tuple| self.place.owns(tuple));
        if owned == [false; 2] {
            return;
        }
        // Packets of one direction would come to another worker.
        let mut whole = whole && owned == [true; 2];
        let mut left = 0;
        let mut looked_on = None;
        if let Some(found) = self.find(original, now) {
            let entry = self.table.entry(found.number);
            let same = !found.reply && entry.tuple(true) == *reply;
            left = entry.flags & Entry::LEFT;
            whole &= left == 0;
            match (entry.is(Entry::KERNELS), same) {
                (true, true) if !whole => {
                    self.table.entry_mut(found.number).expires = timeouts::after(now, record.timeout.max(LEFT));
                    return;
                }
                (true, _) => {
                    looked_on = Some(entry.progress);
                    self.remove(found.number);
                }
                (false, true) => return self.catch_up(found.number, record, whole, now),
                (false, false) => {
                    self.counts.contradictions += 1;
                    return;
                }
            }
        }
        if let Some(found) = self.find(reply, now) {
            if !self.table.entry(found.number).is(Entry::KERNELS) {
                self.counts.contradictions += 1;
                return;
            }
            self.remove(found.number);
        }
        let mut entry = from_record(record, whole, now);
        entry.flags |= left;
        // Its windows, if no packet of it has gone by the kernel alone; since when it streams.
        match (looked_on, &entry.progress) {
            (Some(Progress::Tcp(seen)), Progress::Tcp(told)) if told.state != seen.state => {}
            (Some(progress @ (Progress::Tcp(_) | Progress::Udp { .. })), _) => entry.progress = progress,
            (Some(Progress::Plain) | None, _) => {}
        }
        if self.enter(entry, now).is_some() {
            *if whole { &mut self.counts.imported } else { &mut self.counts.kernels } += 1;
        }
    }

    /// Ours, and the kernel's copy of it: whatever is further on counts, but for a TCP state that its copy, which knows no windows, may have
    /// come to by what did not fit. Before we have told the kernel of it, what it says may still be of
    /// an earlier connection with these tuples.
    fn catch_up(&mut self, number: u32, record: &Record, whole: bool, now: u64) {
        if !self.table.entry(number).is(Entry::KNOWN) {
            return;
        }
        let windows = self.look_at_windows(number);
        let entry = self.table.entry_mut(number);
        let state = |entry: &Entry| match &entry.progress {
            Progress::Tcp(tcp) => Some(tcp.state),
            _ => None,
        };
        let before = (entry.status, entry.mark, state(entry));
        entry.status |= record.status as u16 & (Connection::SEEN_REPLY | Connection::ASSURED);
        if let (Progress::Tcp(tcp), Some(theirs)) = (&mut entry.progress, &record.tcp)
            && whole
            && rank(theirs.state) > rank(tcp.state)
        {
            tcp.state = theirs.state;
        }
        // Else what we have not said yet is newer.
        if !entry.is(Entry::CHANGED) {
            entry.mark = record.mark.0;
        }
        if entry.clock != 0 {
            entry.clock = seconds(now).saturating_add(record.timeout);
        }
        if (entry.status, entry.mark, state(entry)) != before {
            self.stop_replay(number, now);
            if let Some(windows) = windows {
                self.return_windows(number, &windows, now);
            }
        }
    }

    fn hear_of_copy(&mut self, original: &Tuple, now: u64) {
        if let Some(found) = self.find(original, now).filter(|found| !found.reply) {
            let entry = self.table.entry_mut(found.number);
            if entry.is(Entry::KNOWN) {
                entry.flags |= Entry::HELD;
            }
        }
    }

    fn hear_of_end(&mut self, original: &Tuple, reply: &Tuple, now: u64) {
        let Some(found) = self.find(original, now) else { return };
        let entry = self.table.entry(found.number);
        if !found.reply && entry.tuple(true) == *reply && entry.is(Entry::KERNELS | Entry::KNOWN) {
            self.end(found.number, End::Told, now);
        }
    }

    /// As rare as an address that goes: the whole table is walked at once.
    fn unmasquerade(&mut self, oif: Ifindex, address: Option<IpAddr>, now: u64) {
        for number in 0..self.table.used() {
            let entry = self.table.entry(number);
            let is_behind = entry.is(Entry::LIVE) && entry.masquerade == oif.0 && oif.0 != 0;
            // `inet_cmp`: the answers go to that address.
            if is_behind && address.is_none_or(|address| entry.tuple(true).destination.address == address) {
                self.end(number, End::Killed, now);
            }
        }
    }
}

fn from_record(record: &Record, whole: bool, now: u64) -> Entry {
    let status = record.status as u16 | Connection::CONFIRMED;
    let entry = Entry {
        expires: timeouts::after(now, record.timeout),
        status,
        mark: record.mark.0,
        masquerade: record.masquerade.map_or(0, |oif| oif.0),
        ..Entry::new(&record.original, &record.reply)
    };
    if !whole {
        // What it forwards prolongs it, and is not told.
        let expires = timeouts::after(now, record.timeout.max(LEFT));
        return Entry { flags: entry.flags | Entry::KERNELS, status: status | translated(record), expires, ..entry };
    }
    let progress = match (record.original.protocol, &record.tcp) {
        (TCP, Some(tcp)) => Progress::Tcp(Tcp::from_record(tcp)),
        // A connection of unknown state: the middle of one.
        (TCP, None) => {
            Progress::Tcp(Tcp::from_record(&TcpRecord { state: TcpState::Established, scale: [0; 2], flags: [0; 2] }))
        }
        // Older than anybody asks.
        (UDP, _) => Progress::Udp { stream: milliseconds(now).wrapping_sub(1) },
        _ => Progress::Plain,
    };
    Entry {
        // Its copy checks windows that it will not see move: with the first packet that it does not see it is told that there are none.
        flags: entry.flags | Entry::KNOWN | Entry::HELD,
        clock: 0,
        status: status | translated(record),
        progress,
        ..entry
    }
}

/// `IPS_SRC_NAT` and `IPS_DST_NAT` as the tuples show them, should the status lack them.
fn translated(record: &Record) -> u16 {
    let Some(mapped) = record.reply.inverse() else { return record.status as u16 & NAT };
    let source = if mapped.source != record.original.source { Connection::SRC_NAT } else { 0 };
    let destination = if mapped.destination != record.original.destination { Connection::DST_NAT } else { 0 };
    source | destination
}

/// Which state is further on.
fn rank(state: TcpState) -> u8 {
    match state {
        // Between SYN_SENT and SYN_RECV.
        TcpState::SynSent2 => 3,
        _ => state as u8 * 2,
    }
}
