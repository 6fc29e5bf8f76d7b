//! The table of one worker.

use std::sync::Arc;

use shunt_policy::connection::{Endpoint, Tuple};

use super::entry::{Entry, Key, NAT};
use super::exchange::{FromWorker, Given};
use super::exhausted::LastExhausted;
use super::index::Reference;
use super::place::Place;
use super::random::Random;
use super::record::Record;
use super::reports::EARLY;
use super::seen::Seen;
use super::settings::Settings;
use super::sources::Sources;
use super::table::Table;
use super::tracker::{Local, Tracker};
use crate::replay::Replay;
use crate::served::ServedByWorker;
use crate::xsk::prefetch;

/// Entries that a sweep asks memory for before it comes to them.
const AHEAD: u32 = 16;

/// All connections of one worker. Memory is taken once, by [`Connections::new`]; nothing here allocates, waits or reads a clock.
///
/// `now` is always monotonic, ns.
pub struct Connections {
    pub(super) table: Table,
    pub(super) place: Place,
    pub(super) settings: Arc<Settings>,
    pub(super) reports: rtrb::Producer<FromWorker>,
    /// Messages that went into that queue, and how many of them have come through.
    pub(super) said: u64,
    given: Given,
    served: Option<ServedByWorker>,
    /// What the workers tell each other of mapped sources, if there are several.
    sources: Option<Sources>,
    /// Also of sources that have kept their ports: there are several addresses to choose from.
    shares_all: bool,
    pub(super) random: Random,
    pub(super) counts: Counts,
    /// Where [`Connections::sweep`] goes on.
    swept: u32,
    /// Connections told of early in a second, and how many may be.
    pub(super) early: (u32, u32),
    pub(super) most_early: u32,
    /// The packet at hand has met an entry that had expired, and of which the kernel still has a copy.
    pub(super) left_copy: bool,
    /// A connection with another tuple of its answers than its own has been entered: the kernel may want one that is taken.
    pub(super) has_translated: bool,
    /// By which XDP programs forward packets of connections.
    pub(super) replay: Option<Replay>,
}

/// What has happened since the table was made. Written by the worker alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Begun by a packet that was forwarded.
    pub created: u64,
    pub expired: u64,
    /// Pushed out of a full table, none of them assured.
    pub evicted: u64,
    /// Ended by a packet: a RST as the only answer, a SYN on a closed one, another egress.
    pub killed: u64,
    /// Taken over from the kernel, to go on with them.
    pub imported: u64,
    /// Entered as the kernel's.
    pub kernels: u64,
    /// Ended because the kernel's copy ended.
    pub ended: u64,
    /// Not entered: the table was full, and nothing near could go.
    pub full: u64,
    /// Told by the kernel, but not entered, since it contradicts what is here.
    pub contradictions: u64,
    /// Not begun, since the tuple of its answers was taken.
    pub exhausted: u64,
    /// Towards which destinations.
    pub exhausted_towards: LastExhausted,
    /// Reports that the queue had no room for; all but ends are tried again.
    pub report_overflow: u64,
    /// Mappings of sources that other workers do not know, since what the workers share is full.
    pub mapping_unshared: u64,
}

impl Counts {
    /// The names of [`values`](Self::values), for status and metrics.
    pub const WORDS: [&'static str; 12] = [
        "created",
        "expired",
        "evicted",
        "killed",
        "imported",
        "kernels",
        "ended",
        "full",
        "contradictions",
        "exhausted",
        "report_overflow",
        "mapping_unshared",
    ];

    pub fn values(&self) -> [u64; Self::WORDS.len()] {
        let Counts {
            created,
            expired,
            evicted,
            killed,
            imported,
            kernels,
            ended,
            full,
            contradictions,
            exhausted,
            exhausted_towards: _,
            report_overflow,
            mapping_unshared,
        } = *self;
        [
            created,
            expired,
            evicted,
            killed,
            imported,
            kernels,
            ended,
            full,
            contradictions,
            exhausted,
            report_overflow,
            mapping_unshared,
        ]
    }
}

/// A packet whose connection is being looked for.
#[derive(Clone, Copy, Debug)]
pub struct Sought {
    pub seen: Seen,
    /// Of the tuple that is [wanted](Seen::wanted).
    pub(super) hash: u32,
}

/// Why an entry goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    Expired,
    Evicted,
    Killed,
    /// The kernel said so: it need not be told.
    Told,
}

impl Connections {
    /// For at most so many connections at once, the kernel's included; `settings.max` may set a lower limit. `seed` seeds the hash and
    /// the choice of ports.
    pub fn new(
        capacity: usize,
        place: Place,
        settings: Arc<Settings>,
        reports: rtrb::Producer<FromWorker>,
        seed: u64,
    ) -> Self {
        let mut random = Random::new(seed);
        Connections {
            table: Table::new(capacity, random.next()),
            place,
            settings,
            reports,
            said: 0,
            given: Given::default(),
            served: None,
            sources: None,
            shares_all: false,
            random,
            counts: Counts::default(),
            swept: 0,
            early: (0, 0),
            most_early: EARLY,
            left_copy: false,
            has_translated: false,
            replay: None,
        }
    }

    /// Tells the XDP programs which packets to addresses of the machine belong to translated connections.
    pub fn serving(self, served: ServedByWorker) -> Self {
        Connections { served: Some(served), ..self }
    }

    /// Learns there to what sources are mapped by other workers, and tells them.
    pub fn sharing(self, sources: Sources) -> Self {
        Connections { sources: Some(sources), ..self }
    }

    /// Learns there how much of what it tells has come through; without it, nothing ever does.
    pub fn following(self, given: Given) -> Self {
        Connections { given, ..self }
    }

    /// What is told from now on goes there; `given` says how much of it has come through.
    pub fn report_to(&mut self, reports: rtrb::Producer<FromWorker>, given: Given) {
        (self.reports, self.said, self.given) = (reports, 0, given);
    }

    /// How much has been told by now.
    pub fn said(&self) -> u64 {
        self.said
    }

    /// Whether the kernel knows all that had been told when [`said`](Self::said) was this.
    pub fn is_given(&self, said: u64) -> bool {
        self.given.so_far() >= said
    }

    /// Begins to look for the packet's connection, without waiting for what it takes from memory. Of a burst, seek all, then
    /// [`approach`](Self::approach) all, then decide about each: so they wait together, and not one after the other.
    pub fn seek(&self, seen: Seen) -> Sought {
        let hash = seen.wanted().map_or(0, |tuple| self.table.hash(&Key::from(&tuple)));
        self.table.prefetch_slot(hash);
        Sought { seen, hash }
    }

    /// The second step.
    pub fn approach(&self, sought: &Sought) {
        let is_known = self.table.prefetch_entry(sought.hash);
        if !is_known
            && self.has_translated
            && let Some(tuple) = sought.seen.wanted()
        {
            self.table.prefetch_source(&Key::from(&tuple));
        }
    }

    /// For one packet. Settle it by [`Tracker::forwarded`], [`Tracker::dropped`], [`Tracker::delivered`] or [`Tracker::punted`];
    /// letting it go does nothing.
    pub fn tracker(&mut self, seen: Seen, local: Local, now: u64) -> Tracker<'_> {
        let sought = self.seek(seen);
        self.tracker_of(sought, local, now)
    }

    /// The same for one that was sought before.
    pub fn tracker_of(&mut self, sought: Sought, local: Local, now: u64) -> Tracker<'_> {
        Tracker::new(self, sought, local, now)
    }

    /// Looks at so many entries and removes those that have expired. They are not found anyhow; this makes room, and tells the kernel.
    pub fn sweep(&mut self, now: u64, slots: usize) {
        let used = self.table.used();
        for _ in 0..slots.min(used as usize) {
            self.swept = if self.swept + 1 < used { self.swept + 1 } else { 0 };
            if self.swept + AHEAD < used {
                prefetch(&self.table.entry(self.swept + AHEAD).expires);
            }
            let entry = self.table.entry(self.swept);
            // In this order one look at memory is enough for nearly all.
            if entry.expires <= now && entry.is(Entry::LIVE) && !self.lives_on(self.swept, now) {
                let entry = self.table.entry(self.swept);
                // What the kernel has to hear can wait here for room in the queue.
                if entry.is(Entry::KNOWN) && self.reports.is_full() {
                    self.counts.report_overflow += 1;
                    continue;
                }
                self.end(self.swept, End::Expired, now);
            }
        }
    }

    /// How many entries a sweep of all looks at.
    pub fn used(&self) -> u32 {
        self.table.used()
    }

    /// How many there are, expired ones included until they are swept.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `nf_conntrack_checksum`
    pub fn verifies_checksums(&self) -> bool {
        self.settings.checksum
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// All that live, for another table: [`ToWorker::Kernel`](super::exchange::ToWorker::Kernel), `whole` unless they are the kernel's.
    pub fn records(&self, now: u64) -> impl Iterator<Item = Record> + '_ {
        self.table.live().filter(move |entry| entry.expires > now).map(move |entry| entry.record(now))
    }

    /// The entry with this tuple, if it has not expired.
    pub(super) fn find(&mut self, tuple: &Tuple, now: u64) -> Option<Reference> {
        let key = Key::from(tuple);
        self.find_hashed(&key, self.table.hash(&key), now)
    }

    pub(super) fn find_hashed(&mut self, key: &Key, hash: u32, now: u64) -> Option<Reference> {
        let found = self.table.find(key, hash)?;
        if self.lives_on(found.number, now) {
            return Some(found);
        }
        // `nf_ct_gc_expired`
        self.left_copy |= self.table.entry(found.number).is(Entry::KNOWN);
        self.end(found.number, End::Expired, now);
        None
    }

    /// From now on rules have addresses to choose from for sources, or not any more. Else a source that has kept its port gets the same
    /// mapping again without anybody having to know of it.
    pub fn share_all(&mut self, shares_all: bool, now: u64) {
        let more = shares_all && !self.shares_all;
        self.shares_all = shares_all;
        if more && self.sources.is_some() {
            (0..self.table.used()).for_each(|number| self.share(number, now));
        }
    }

    /// Tells the other workers how the entry's source is mapped.
    fn share(&mut self, number: u32, now: u64) {
        let entry = self.table.entry(number);
        let Some(sources) = self.sources.as_ref().filter(|_| entry.is(Entry::BY_SOURCE)) else { return };
        let (source, mapped) = (entry.key(false), entry.mapped());
        let is_wanted = self.shares_all || mapped.port != entry.tuple(false).source.port;
        if is_wanted && !sources.publish(&source, &mapped, self.place.worker, now) {
            self.counts.mapping_unshared += 1;
        }
    }

    /// What the source of this tuple was mapped to before, latest first, if it fits (`find_appropriate_src`).
    pub(super) fn mapped_before(&self, tuple: &Tuple, now: u64, fits: impl Fn(&Endpoint) -> bool) -> Option<Endpoint> {
        let key = Key::from(tuple);
        let of_another =
            self.sources.as_ref().and_then(|sources| sources.of_another(&key, self.place.worker, now, &fits));
        of_another.or_else(|| {
            let mut own = self.table.mapped_from(&key).filter(|entry| entry.expires > now);
            own.find_map(|entry| Some(entry.mapped()).filter(&fits))
        })
    }

    /// Enters one of whose tuples none is there (the caller has looked), if need be in the place of another.
    pub(super) fn enter(&mut self, entry: Entry, now: u64) -> Option<u32> {
        if self.table.len() >= self.limit() {
            let hash = self.table.hash(&entry.key(false));
            let Some(other) = self.table.evictable(hash, now) else {
                self.counts.full += 1;
                return None;
            };
            let why = if self.table.entry(other).expires <= now { End::Expired } else { End::Evicted };
            self.end(other, why, now);
        }
        let number = self.table.insert(entry)?;
        self.share(number, now);
        self.has_translated |= entry.status & NAT != 0;
        if let Some(served) = &mut self.served {
            entry.served().into_iter().flatten().for_each(|tuple| served.add(&tuple));
        }
        Some(number)
    }

    /// Removes an entry and tells the kernel, if it knows of it.
    pub(super) fn end(&mut self, number: u32, why: End, now: u64) {
        if let Some(replay) = &mut self.replay {
            replay.end(number, now);
        }
        let entry = self.table.entry(number);
        if entry.is(Entry::KNOWN) && why != End::Told {
            let ended = FromWorker::Ended { original: entry.tuple(false), reply: entry.tuple(true) };
            self.tell_kernel(ended);
        }
        if let Some(served) = &mut self.served {
            self.table.entry(number).served().into_iter().flatten().for_each(|tuple| served.remove(&tuple));
        }
        self.remove(number);
        *match why {
            End::Expired => &mut self.counts.expired,
            End::Evicted => &mut self.counts.evicted,
            End::Killed => &mut self.counts.killed,
            End::Told => &mut self.counts.ended,
        } += 1;
    }

    /// Takes an entry out of the table, and what other workers know of it.
    pub(super) fn remove(&mut self, number: u32) {
        if let Some(sources) = &self.sources
            && let Some((source, mapped)) = self.table.last_of_mapping(number)
        {
            sources.withdraw(&source, &mapped, self.place.worker);
        }
        self.table.remove(number);
    }

    /// `nf_conntrack_max`, of which each worker has its share; 0 is no limit.
    fn limit(&self) -> usize {
        match self.settings.max as usize / self.place.workers.max(1) {
            0 if self.settings.max == 0 => self.table.capacity(),
            share => share.clamp(1, self.table.capacity()),
        }
    }
}
