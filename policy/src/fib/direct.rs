//! An index of a large IPv4 table: the longest match in one look at memory that is likely not in the cache, two for prefixes beyond /24.
//!
//! After DIR-24-8 (Gupta, Lin, McKeown 1998), but in steps of 6, 6, 12 and 8 bits, each of which holds what ends within it alone: a
//! change writes at most 4,096 entries of one page, and copies share all pages but those that have changed since. Where a page has
//! nothing, what the steps before have found counts; that is chosen without a branch, which could not be foretold and would wait for memory.

use std::sync::Arc;

/// Bits of an address that have been looked at when a page is reached, and behind it.
const BEFORE_PAGE: u32 = 12;
const BEFORE_BLOCK: u32 = 24;

const PAGE: usize = 1 << (BEFORE_BLOCK - BEFORE_PAGE);
const BLOCK: usize = 1 << (32 - BEFORE_BLOCK);
const FORK: usize = 64;

/// A value and the length of its prefix, plus one; or a block's place; or nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Entry(u32);

const NUMBER: u32 = 25;
const IS_BLOCK: u32 = 1 << 31;

/// Values below this fit into an entry.
pub(super) const VALUES: u32 = 1 << NUMBER;

impl Entry {
    const NONE: Entry = Entry(0);

    fn new(length: u32, value: u32) -> Self {
        Entry((length + 1) << NUMBER | value)
    }

    /// Plus one; not of a block.
    fn length(self) -> u32 {
        self.0 >> NUMBER
    }

    fn block(self) -> Option<usize> {
        (self.0 & IS_BLOCK != 0).then_some((self.0 & (VALUES - 1)) as usize)
    }

    /// Unless it is nothing, this.
    fn or(self, other: Entry) -> Entry {
        std::hint::select_unpredictable(self == Entry::NONE, other, self)
    }

    fn found(self) -> Option<(u32, u32)> {
        (self != Entry::NONE).then(|| (self.length() - 1, self.0 & (VALUES - 1)))
    }
}

#[derive(Clone, Debug)]
pub(super) struct Direct {
    forks: Arc<[Arc<[Branch; FORK]>; FORK]>,
    /// Of a branch without prefixes beyond /12.
    empty: Arc<Page>,
}

/// What begins with twelve bits.
#[derive(Clone, Debug)]
struct Branch {
    /// Of the prefixes up to /12.
    best: Entry,
    page: Arc<Page>,
}

#[derive(Clone, Debug)]
struct Page {
    entries: [Entry; PAGE],
    blocks: Vec<Arc<Block>>,
    /// Prefixes that end in it or in its blocks.
    prefixes: u32,
}

/// Prefixes beyond /24.
#[derive(Clone, Debug)]
struct Block {
    entries: [Entry; BLOCK],
    /// What stood in the page in its place.
    instead: Entry,
    /// Which entry of the page it is.
    at: u16,
    prefixes: u32,
}

impl Default for Direct {
    fn default() -> Self {
        let empty = Arc::new(Page { entries: [Entry::NONE; PAGE], blocks: Vec::new(), prefixes: 0 });
        let branch = |_| Branch { best: Entry::NONE, page: empty.clone() };
        let branches: Arc<[Branch; FORK]> = Arc::new(std::array::from_fn(branch));
        Direct { forks: Arc::new(std::array::from_fn(|_| branches.clone())), empty }
    }
}

/// A change of one prefix.
pub(super) struct Change {
    pub(super) address: u32,
    pub(super) length: u32,
    /// What counts where it is the longest match: its value, or once it is removed the next longer prefix that is left, with its length.
    pub(super) best: Option<(u32, u32)>,
    /// Whether it has been added or removed, or neither.
    pub(super) count: i32,
}

impl Change {
    /// What counts among prefixes that are longer than `before` bits.
    fn entry(&self, before: Option<u32>) -> Entry {
        match self.best {
            Some((length, value)) if before.is_none_or(|before| length > before) => Entry::new(length, value),
            _ => Entry::NONE,
        }
    }
}

impl Direct {
    /// The longest match: its length, and the number of its value.
    pub(super) fn longest(&self, address: u32) -> Option<(u32, u32)> {
        let branch = &self.forks[(address >> 26) as usize][(address >> 20) as usize % FORK];
        let mut entry = branch.page.entries[(address >> 8) as usize % PAGE];
        if let Some(block) = entry.block() {
            let block = &branch.page.blocks[block];
            entry = block.entries[address as usize % BLOCK].or(block.instead);
        }
        entry.or(branch.best).found()
    }

    pub(super) fn change(&mut self, change: &Change) {
        let Change { address, length, .. } = *change;
        let forks = Arc::make_mut(&mut self.forks);
        if length <= BEFORE_PAGE {
            let first = (address >> 20) as usize;
            for at in first..first + (1 << (BEFORE_PAGE - length)) {
                let branch = &mut Arc::make_mut(&mut forks[at / FORK])[at % FORK];
                overwrite(&mut branch.best, length, change.entry(None));
            }
            return;
        }
        let branch = &mut Arc::make_mut(&mut forks[(address >> 26) as usize])[(address >> 20) as usize % FORK];
        let page = Arc::make_mut(&mut branch.page);
        page.change(change);
        if page.prefixes == 0 {
            branch.page = self.empty.clone();
        }
    }
}

/// Puts `new` where a prefix of so many bits is or would be the longest match.
fn overwrite(entry: &mut Entry, length: u32, new: Entry) {
    if entry.length() <= length + 1 {
        *entry = new;
    }
}

impl Page {
    fn change(&mut self, change: &Change) {
        let Change { address, length, count, .. } = *change;
        self.prefixes = self.prefixes.saturating_add_signed(count);
        let first = (address >> 8) as usize % PAGE;
        if length > BEFORE_BLOCK {
            return self.change_block(first, change);
        }
        let new = change.entry(Some(BEFORE_PAGE));
        for at in first..first + (1 << (BEFORE_BLOCK - length)) {
            let entry = match self.entries[at].block() {
                Some(block) => &mut Arc::make_mut(&mut self.blocks[block]).instead,
                None => &mut self.entries[at],
            };
            overwrite(entry, length, new);
        }
    }

    fn change_block(&mut self, at: usize, change: &Change) {
        let number = match self.entries[at].block() {
            Some(block) => block,
            None => {
                let instead = std::mem::replace(&mut self.entries[at], Entry(IS_BLOCK | self.blocks.len() as u32));
                let block = Block { entries: [Entry::NONE; BLOCK], instead, at: at as u16, prefixes: 0 };
                self.blocks.push(Arc::new(block));
                self.blocks.len() - 1
            }
        };
        let block = Arc::make_mut(&mut self.blocks[number]);
        block.prefixes = block.prefixes.saturating_add_signed(change.count);
        let new = change.entry(Some(BEFORE_BLOCK));
        let first = change.address as usize % BLOCK;
        for entry in &mut block.entries[first..first + (1 << (32 - change.length))] {
            overwrite(entry, change.length, new);
        }
        if block.prefixes > 0 {
            return;
        }
        self.entries[at] = block.instead;
        self.blocks.swap_remove(number);
        // The last one stands in its place now.
        if let Some(moved) = self.blocks.get(number) {
            self.entries[usize::from(moved.at)] = Entry(IS_BLOCK | number as u32);
        }
    }
}
