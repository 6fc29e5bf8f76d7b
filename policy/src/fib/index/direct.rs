//! An index of a large IPv4 table: the longest match in one look at memory that is likely not in the cache, two for prefixes beyond /24.
//!
//! After DIR-24-8 (Gupta, Lin, McKeown 1998), but in steps of 6, 6, 12 and 8 bits, each of which holds what ends within it alone: a
//! change writes at most 4,096 entries of one page, and copies share all pages but those that have changed since. Where a page has
//! nothing, what the steps before have found counts; that is chosen without a branch, which could not be foretold and would wait for memory.

use std::sync::Arc;

use super::{Change, Entry, FURTHER, VALUES, slot};

/// Bits of an address that have been looked at when a page is reached, and behind it.
const BEFORE_PAGE: u32 = 12;
const BEFORE_BLOCK: u32 = 24;

const PAGE: usize = 1 << (BEFORE_BLOCK - BEFORE_PAGE);
const BLOCK: usize = 1 << (32 - BEFORE_BLOCK);
const FORK: usize = 64;

/// What an entry says of a page in which there is more: the block's place, and nothing of prefixes.
impl Entry {
    fn of_block(place: usize) -> Self {
        Entry(FURTHER | place as u32)
    }

    fn block(self) -> Option<usize> {
        self.is_further().then_some((self.0 & (VALUES - 1)) as usize)
    }
}

#[derive(Clone, Debug)]
pub(in crate::fib) struct Direct {
    forks: Arc<[Arc<[Branch; FORK]>; FORK]>,
    /// Of a branch without prefixes beyond /12.
    empty: Arc<Page>,
}

/// What begins with twelve bits.
#[derive(Clone, Debug)]
pub(super) struct Branch {
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

impl Direct {
    #[inline]
    pub(super) fn branch(&self, address: u128) -> &Branch {
        let at = slot(address, 0, BEFORE_PAGE);
        &self.forks[at / FORK][at % FORK]
    }

    pub(super) fn change(&mut self, change: &Change) {
        let forks = Arc::make_mut(&mut self.forks);
        if change.length <= BEFORE_PAGE {
            for at in change.slots(0, BEFORE_PAGE) {
                change.overwrite(&mut Arc::make_mut(&mut forks[at / FORK])[at % FORK].best, 0);
            }
            return;
        }
        let at = slot(change.address, 0, BEFORE_PAGE);
        let branch = &mut Arc::make_mut(&mut forks[at / FORK])[at % FORK];
        let page = Arc::make_mut(&mut branch.page);
        page.change(change);
        if page.prefixes == 0 {
            branch.page = self.empty.clone();
        }
    }
}

impl Branch {
    /// What the page says of an address: the look at memory that is waited for.
    #[inline]
    pub(super) fn entry(&self, address: u128) -> Entry {
        self.page.entries[slot(address, BEFORE_PAGE, BEFORE_BLOCK - BEFORE_PAGE)]
    }

    /// The longest match, from what [`Branch::entry`] says.
    #[inline]
    pub(super) fn longest(&self, address: u128, mut entry: Entry) -> Entry {
        if let Some(block) = entry.block() {
            let block = &self.page.blocks[block];
            entry = block.entries[slot(address, BEFORE_BLOCK, 32 - BEFORE_BLOCK)].or(block.instead);
        }
        entry.or(self.best)
    }
}

impl Page {
    fn change(&mut self, change: &Change) {
        self.prefixes = self.prefixes.saturating_add_signed(change.count);
        let bits = BEFORE_BLOCK - BEFORE_PAGE;
        if change.length > BEFORE_BLOCK {
            return self.change_block(slot(change.address, BEFORE_PAGE, bits), change);
        }
        for at in change.slots(BEFORE_PAGE, bits) {
            let entry = match self.entries[at].block() {
                Some(block) => &mut Arc::make_mut(&mut self.blocks[block]).instead,
                None => &mut self.entries[at],
            };
            change.overwrite(entry, BEFORE_PAGE);
        }
    }

    fn change_block(&mut self, at: usize, change: &Change) {
        let number = match self.entries[at].block() {
            Some(block) => block,
            None => {
                let instead = std::mem::replace(&mut self.entries[at], Entry::of_block(self.blocks.len()));
                let block = Block { entries: [Entry::NONE; BLOCK], instead, at: at as u16, prefixes: 0 };
                self.blocks.push(Arc::new(block));
                self.blocks.len() - 1
            }
        };
        let block = Arc::make_mut(&mut self.blocks[number]);
        block.prefixes = block.prefixes.saturating_add_signed(change.count);
        for entry in &mut block.entries[change.slots(BEFORE_BLOCK, 32 - BEFORE_BLOCK)] {
            change.overwrite(entry, BEFORE_BLOCK);
        }
        if block.prefixes > 0 {
            return;
        }
        self.entries[at] = block.instead;
        self.blocks.swap_remove(number);
        // The last one stands in its place now.
        if let Some(moved) = self.blocks.get(number) {
            self.entries[usize::from(moved.at)] = Entry::of_block(number);
        }
    }
}
