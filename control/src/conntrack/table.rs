//! What becomes of the kernel's news: which workers are told what.

use shunt_dataplane::conn::Place;
use shunt_dataplane::conn::exchange::ToWorker;
use shunt_dataplane::conn::record::Record;
use shunt_policy::connection::Tuple;

use super::counts::Counts;
use super::decode::{Gone, Told};
use super::known::{Entry, Key, Known};
use super::lines::Lines;
use super::place::{Local, owners};

#[derive(Default)]
pub(super) struct Table {
    pub known: Known,
    pub lines: Lines,
    pub local: Local,
    pub counts: Counts,
    /// Port of the socket by which we ask for changes.
    pub own: u32,
    /// Seconds since our start.
    pub now: u32,
    /// Number of the dump that is being read, or was read last.
    dump: u32,
}

/// How something was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum By {
    Event,
    Dump,
}

impl Table {
    /// Other workers, which know nothing yet.
    pub fn connect(&mut self, lines: Lines) {
        self.lines = lines;
        self.known.values_mut().for_each(|entry| entry.told = false);
    }

    pub fn place(&self) -> Place {
        Place { worker: 0, workers: self.lines.workers() }
    }

    pub fn lives(&mut self, told: Told, by: By) {
        let Told { mut record, zone, port } = told;
        if by == By::Event && port == self.own {
            self.counts.own += 1;
            return;
        }
        let key = (zone, record.original);
        // The worker's tables know no zones: the one without comes first.
        if zone != 0 && self.known.contains_key(&(0, record.original)) {
            return;
        }
        let mut entry = match self.known.remove(&key) {
            Some(entry) if entry.reply == record.reply => entry,
            // Another connection with the same packets: the end of the first was not heard.
            Some(entry) => {
                self.end(record.original, &entry);
                Entry::new(&record, self.dump)
            }
            None => Entry::new(&record, self.dump),
        };
        entry.hide(&mut record);
        if by == By::Event {
            entry.complete(&mut record);
            entry.heard = true;
        }
        let whole = self.local.is_whole(self.place(), &record);
        let new = entry.take(&record, whole);
        entry.seen = self.dump;
        entry.expires = self.now.saturating_add(record.timeout);
        if new || !entry.told || by == By::Event {
            entry.told = self.tell(&record, whole);
        }
        self.known.insert(key, entry);
    }

    pub fn ended(&mut self, gone: &Gone) {
        // It was taken out when the kernel granted that, and another may be in its place already.
        if gone.port != 0 && gone.port == self.own {
            self.counts.own += 1;
            return;
        }
        let key = (gone.zone, gone.original);
        let Some(entry) = self.known.get(&key) else { return };
        // Of one before it with the same packets.
        if entry.reply != gone.reply {
            return;
        }
        let run_out = gone.run_out && gone.port == 0 && entry.is_workers();
        if let Some(entry) = self.known.remove(&key)
            && !run_out
        {
            self.end_or_owe(key, entry);
        }
    }

    /// A dump begins: all that is known has to be in it.
    pub fn begin(&mut self) {
        self.dump = self.dump.wrapping_add(1);
        self.lines.heal();
    }

    /// A dump is over: what was not in it has ended.
    pub fn sweep(&mut self) {
        let (dump, now) = (self.dump, self.now);
        let gone: Vec<_> = self.known.extract_if(|_, entry| entry.seen != dump).collect();
        for (key, entry) in gone {
            let run_out = entry.is_workers() && entry.expires <= now + 1;
            // Who was not told of it as it was last may still know it as it was before.
            if !run_out {
                self.end_or_owe(key, entry);
            }
        }
        self.counts.dumps += 1;
        self.count();
    }

    /// The kernel has what a worker gave it.
    pub fn exported(&mut self, record: &Record, heard: bool) {
        let entry = self.known.entry((0, record.original)).or_insert_with(|| Entry::new(record, self.dump));
        entry.export(record, self.now.saturating_add(record.timeout));
        entry.seen = self.dump;
        entry.heard |= heard;
        self.counts.exported += 1;
        let owner = self.place().owner(&record.original);
        // Without it, packets that wait for it wait some milliseconds more.
        self.lines.hint(owner, ToWorker::Exported { original: record.original });
    }

    pub fn count(&mut self) {
        self.counts.connections = self.known.len() as u64;
        self.counts.unheard = self.known.values().filter(|entry| !entry.heard).count() as u64;
    }

    fn tell(&mut self, record: &Record, whole: bool) -> bool {
        let message = |record| ToWorker::Kernel { record, whole };
        let told = self.tell_owners(&record.original, &record.reply, &message(*record));
        self.counts.imported += u64::from(told);
        told
    }

    /// What cannot be told stays known, and is told after the next dump: it is not in it.
    fn end_or_owe(&mut self, key: Key, entry: Entry) {
        // That of another zone is not to end with it.
        let other = key.0 != 0 && self.known.contains_key(&(0, key.1));
        if !other && !self.end(key.1, &entry) && !self.lines.is_empty() {
            self.known.insert(key, entry);
        }
    }

    /// Says whether it could be told.
    fn end(&mut self, original: Tuple, entry: &Entry) -> bool {
        let reply = entry.reply;
        let told = self.tell_owners(&original, &reply, &ToWorker::Ended { original, reply });
        self.counts.ended += u64::from(told);
        told
    }

    fn tell_owners(&mut self, original: &Tuple, reply: &Tuple, message: &ToWorker) -> bool {
        if self.lines.is_empty() {
            return false;
        }
        let (first, second) = owners(self.place(), original, reply);
        let mut told = true;
        for worker in [Some(first), second].into_iter().flatten() {
            if !self.lines.tell(worker, message.clone()) {
                self.counts.lost += 1;
                told = false;
            }
        }
        told
    }
}
