//! Entries, and the ways to find them. Knows nothing of time but when an entry expires, and tells nobody of what it does.

use shunt_policy::connection::Endpoint;

use super::entry::{Entry, Key, NAT, NONE, Progress};
use super::index::{Index, Reference, scale};
use super::record::TcpState;
use crate::xsk::{filled, prefetch};

pub(super) struct Table {
    entries: Box<[Entry]>,
    index: Index,
    /// First entry of each hash of a source.
    by_source: Box<[u32]>,
    /// First free entry that was used before; those from `unused` on never were.
    free: u32,
    unused: u32,
    live: usize,
    seed: u64,
}

/// How many entries are looked at for one that may go: what the 8 buckets of `early_drop` come to in a full table; and in how many slots
/// at most, should the operator's limit keep it emptier.
const EVICTION_RANGE: usize = 16;
const EVICTION_SLOTS: usize = 128;

/// How many connections of one source are looked at for one that is mapped like another: a source with many that all differ, as random
/// ports make them, costs no more.
const OF_A_SOURCE: usize = 32;

impl Table {
    /// Memory for so many connections, and never more.
    pub(super) fn new(capacity: usize, seed: u64) -> Self {
        // The number and the direction share 32 bits of a slot.
        let capacity = capacity.clamp(1, 1 << 30);
        Table {
            entries: filled(Entry::FREE, capacity),
            index: Index::new(capacity),
            by_source: filled(NONE, capacity),
            free: NONE,
            unused: 0,
            live: 0,
            seed,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.live
    }

    pub(super) fn capacity(&self) -> usize {
        self.entries.len()
    }

    /// Entries that are or were in use have numbers below this.
    pub(super) fn used(&self) -> u32 {
        self.unused
    }

    /// bytes
    #[cfg(test)]
    pub(super) fn memory(capacity: usize) -> usize {
        capacity * (size_of::<Entry>() + Index::SLOTS * size_of::<u64>() + size_of::<u32>())
    }

    pub(super) fn entry(&self, number: u32) -> &Entry {
        &self.entries[number as usize]
    }

    pub(super) fn entry_mut(&mut self, number: u32) -> &mut Entry {
        &mut self.entries[number as usize]
    }

    pub(super) fn hash(&self, key: &Key) -> u32 {
        key.hash(self.seed)
    }

    /// Begins to fetch where the search for this hash begins.
    pub(super) fn prefetch_slot(&self, hash: u32) {
        self.index.prefetch(hash);
    }

    /// Begins to fetch the entry to which this hash leads, most likely. Says whether there is one.
    pub(super) fn prefetch_entry(&self, hash: u32) -> bool {
        let found = self.index.find(hash, |_| true);
        if let Some(found) = found {
            prefetch(self.entry(found.number));
        }
        found.is_some()
    }

    /// Begins to fetch where the search for what this source was mapped to begins.
    pub(super) fn prefetch_source(&self, key: &Key) {
        prefetch(&self.by_source[self.source_place(key)]);
    }

    /// Expired ones, too. `hash` is that of the key.
    pub(super) fn find(&self, key: &Key, hash: u32) -> Option<Reference> {
        self.index.find(hash, |Reference { number, reply }| key.is_of(&self.entries[number as usize], reply))
    }

    /// Neither tuple may be there yet; the caller has looked. `None` if there is no room.
    pub(super) fn insert(&mut self, entry: Entry) -> Option<u32> {
        let number = self.take_free()?;
        self.live += 1;
        self.entries[number as usize] = entry;
        for reply in [false, true] {
            let hash = self.hash(&entry.key(reply));
            self.index.insert(hash, Reference { number, reply });
        }
        // Others cannot be what `find_appropriate_src` looks for: a source that stayed as it was is not behind the address wanted.
        if entry.status & NAT != 0 && entry.tuple(false).source != entry.mapped() {
            self.link(number);
        }
        Some(number)
    }

    pub(super) fn remove(&mut self, number: u32) {
        let entry = self.entries[number as usize];
        for reply in [false, true] {
            let hash = self.hash(&entry.key(reply));
            self.index.remove(hash, Reference { number, reply });
        }
        if entry.is(Entry::BY_SOURCE) {
            self.unlink(number);
        }
        self.live -= 1;
        self.entries[number as usize] = Entry { next: self.free, ..Entry::FREE };
        self.free = number;
    }

    /// The entry that a new connection with this hash may push out: one of the kernel's, else one that is not assured (`early_drop`); an
    /// expired one before any. Last one of TCP that is closing, which the kernel's collector ends in a table that was found full
    /// (`gc_worker_can_early_drop`): it drops new connections until it comes round.
    pub(super) fn evictable(&self, hash: u32, now: u64) -> Option<u32> {
        let rank = |entry: &Entry| match entry {
            _ if entry.expires <= now => Some(0),
            _ if entry.is(Entry::KERNELS) => Some(1),
            _ if entry.status & shunt_policy::connection::Connection::ASSURED == 0 => Some(2),
            _ if is_closing(entry) => Some(3),
            _ => None,
        };
        let near = self.index.near(hash, EVICTION_SLOTS).take(EVICTION_RANGE);
        near.filter_map(|to| Some((rank(self.entry(to.number))?, to.number))).min().map(|(_, number)| number)
    }

    /// Where sources like this one were mapped to before, latest first, expired ones too (`nf_nat_bysource`).
    pub(super) fn mapped_from(&self, key: &Key) -> impl Iterator<Item = &Entry> {
        let mut next = self.by_source[self.source_place(key)];
        let key = *key;
        std::iter::from_fn(move || {
            let entry = self.entries.get(next as usize)?;
            next = entry.next;
            Some(entry)
        })
        .filter(move |entry| key.is_from(entry))
    }

    /// The source of this entry and its mapping, if no other entry has both. Looks at a few others only.
    pub(super) fn last_of_mapping(&self, number: u32) -> Option<(Key, Endpoint)> {
        let entry = self.entry(number);
        if !entry.is(Entry::BY_SOURCE) {
            return None;
        }
        let (key, mapped) = (entry.key(false), entry.mapped());
        let has_another = |other: &Entry| other.mapped() == mapped && other.reply != entry.reply;
        (!self.mapped_from(&key).take(OF_A_SOURCE).any(has_another)).then_some((key, mapped))
    }

    pub(super) fn live(&self) -> impl Iterator<Item = &Entry> {
        self.entries[..self.unused as usize].iter().filter(|entry| entry.is(Entry::LIVE))
    }

    fn take_free(&mut self) -> Option<u32> {
        let number = self.free;
        if number != NONE {
            self.free = self.entries[number as usize].next;
            // For the next one.
            if let Some(next) = self.entries.get(self.free as usize) {
                prefetch(next);
            }
            return Some(number);
        }
        let number = self.unused;
        if number as usize == self.entries.len() {
            return None;
        }
        self.unused += 1;
        Some(number)
    }

    fn source_place(&self, key: &Key) -> usize {
        scale((key.source_hash(self.seed) >> 32) as u32, self.by_source.len())
    }

    fn link(&mut self, number: u32) {
        let place = self.source_place(&self.entries[number as usize].key(false));
        let next = std::mem::replace(&mut self.by_source[place], number);
        if let Some(next) = self.entries.get_mut(next as usize) {
            next.previous = number;
        }
        let entry = &mut self.entries[number as usize];
        (entry.previous, entry.next) = (NONE, next);
        entry.flags |= Entry::BY_SOURCE;
    }

    fn unlink(&mut self, number: u32) {
        let Entry { previous, next, .. } = self.entries[number as usize];
        if let Some(next) = self.entries.get_mut(next as usize) {
            next.previous = previous;
        }
        match self.entries.get_mut(previous as usize) {
            Some(previous) => previous.next = next,
            None => {
                let place = self.source_place(&self.entries[number as usize].key(false));
                self.by_source[place] = next;
            }
        }
    }
}

/// `tcp_can_early_drop`
fn is_closing(entry: &Entry) -> bool {
    matches!(&entry.progress, Progress::Tcp(tcp) if (TcpState::FinWait..=TcpState::Close).contains(&tcp.state))
}
