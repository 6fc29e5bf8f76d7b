//! Which of many things a packet can meet: the rules of a chain, the elements of a set, the `ip rule`s. The rest is not looked at.
//!
//! Each thing makes [`Demand`]s: of a number of the packet, under a mask, that it lie in one of some aligned blocks, as a prefix has
//! it. The index chooses for each thing the demand that the fewest packets meet. Those whose demands are of the same number under the
//! same mask make a *view*: their blocks are nested or disjoint, so one search finds the innermost that holds the packet's
//! number, and links lead from it to those around it. Of a block that many things have in common a *node* of the same kind is made,
//! over their other demands. What makes no demand of use stands in the node's `rest`, and is always looked at.
//!
//! A packet meets each thing at most once, in one of a few lists that are sorted; [`Candidates`] merges them. What it costs: for each
//! view of the nodes on the way (at most [`MOST_VIEWS`] in one) a search, and for each candidate a comparison with the heads of
//! the lists.
//!
//! Memory is linear: a thing stands in at most [`MOST_PLACES`](build::MOST_PLACES) lists, mostly in one.

mod build;
mod ladder;
#[cfg(test)]
mod tests;

pub(crate) use build::selectivity;
use ladder::Ladder;

/// The most views of a node. What would need others has a second choice, or is always looked at.
const MOST_VIEWS: usize = 16;

/// The most lists that a packet's candidates may come from.
const MOST_LISTS: usize = 32;

/// No block, no list's head.
const NONE: u32 = u32::MAX;

/// Numbers from `first` on whose last `bits` bits are free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Block {
    first: u128,
    bits: u32,
}

/// What a thing asks of a packet: that the number that the axis stands for, under the mask, lie in one of the blocks. They are disjoint,
/// and may hold more than what the thing asks for, never less.
#[derive(Clone, Debug)]
pub(crate) struct Demand<A> {
    axis: A,
    mask: u128,
    blocks: Box<[Block]>,
}

/// A thing's number and its demands, all of which must be met.
pub(crate) type Thing<A> = (u32, Vec<Demand<A>>);

/// Things by what they demand. `A` names the numbers of a packet.
#[derive(Debug)]
pub(crate) struct Index<A> {
    nodes: Box<[Node<A>]>,
    /// One for each group.
    roots: Box<[u32]>,
    /// The things' numbers, list behind list, each in rising order.
    lists: Box<[u32]>,
    /// Who demands the blocks that several things demand.
    shared: Box<[Holders]>,
}

#[derive(Debug)]
struct Node<A> {
    views: Box<[View<A>]>,
    rest: List,
}

#[derive(Clone, Copy, Debug)]
struct List {
    from: u32,
    to: u32,
}

#[derive(Debug)]
struct View<A> {
    axis: A,
    mask: u128,
    steps: Steps,
    /// For each step the innermost block: itself, not its number, so that a packet fetches little memory.
    innermost: Box<[Held]>,
    /// The blocks around others.
    outer: Box<[Held]>,
}

/// Where another block becomes the innermost.
#[derive(Debug)]
enum Steps {
    Narrow(Ladder<u32>),
    Wide(Ladder<u128>),
}

/// A block of a view, and who demands it.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// Which of the outer blocks is the next one around it, or [`NONE`].
    around: u32,
    /// The number of the one thing that demands it; or [`SHARED`] and a place in [`Index::shared`]; or [`NONE`].
    by: u32,
}

/// Things have lower numbers.
const SHARED: u32 = 1 << 31;

/// Several things that demand one block.
#[derive(Clone, Copy, Debug)]
enum Holders {
    List(List),
    Node(u32),
}

/// To look at all things is cheaper than to find out which.
#[derive(Debug)]
pub(crate) struct TooMany;

/// Numbers of the things that a packet can meet, in rising order. No number comes twice.
pub(crate) struct Candidates<'a> {
    /// Of the index.
    lists: &'a [u32],
    /// The first of each list, which is not in `tails`; [`NONE`] if the list is at its end.
    heads: [u32; MOST_LISTS],
    tails: [List; MOST_LISTS],
    count: usize,
}

impl<A: Copy> Demand<A> {
    pub(crate) fn axis(&self) -> A {
        self.axis
    }

    /// No number meets it.
    pub(crate) fn is_never_met(&self) -> bool {
        self.blocks.is_empty()
    }
}

impl<A: Copy> Index<A> {
    /// No candidates yet.
    pub(crate) fn candidates(&self) -> Candidates<'_> {
        let nothing = List { from: 0, to: 0 };
        Candidates { lists: &self.lists, heads: [NONE; MOST_LISTS], tails: [nothing; MOST_LISTS], count: 0 }
    }

    /// Adds the things of a group, from the number `from` on, that a packet can meet; `value` says a packet's numbers, `None` is what it
    /// has not.
    pub(crate) fn gather(
        &self,
        group: usize,
        from: u32,
        value: impl Fn(A) -> Option<u128>,
        candidates: &mut Candidates<'_>,
    ) -> Result<(), TooMany> {
        self.descend(self.roots[group], from, &value, candidates)
    }

    fn descend(
        &self,
        node: u32,
        from: u32,
        value: &impl Fn(A) -> Option<u128>,
        candidates: &mut Candidates<'_>,
    ) -> Result<(), TooMany> {
        let Node { views, rest } = &self.nodes[node as usize];
        candidates.add(*rest, from)?;
        for View { axis, mask, steps, innermost, outer } in views {
            let Some(seen) = value(*axis) else { continue };
            let Some(step) = steps.reached(seen & mask) else { continue };
            let mut block = innermost.get(step);
            while let Some(Held { around, by }) = block {
                match self.shared.get((by ^ SHARED) as usize) {
                    None if *by < SHARED => candidates.add_one(*by, from)?,
                    None => {}
                    Some(Holders::List(list)) => candidates.add(*list, from)?,
                    Some(Holders::Node(node)) => self.descend(*node, from, value, candidates)?,
                }
                block = outer.get(*around as usize);
            }
        }
        Ok(())
    }

    /// What the index holds, in bytes.
    #[cfg(test)]
    fn size(&self) -> usize {
        let view = |view: &View<A>| {
            let steps = match &view.steps {
                Steps::Narrow(ladder) => ladder.size(),
                Steps::Wide(ladder) => ladder.size(),
            };
            size_of::<View<A>>() + steps + size_of_val(&*view.innermost) + size_of_val(&*view.outer)
        };
        let node = |node: &Node<A>| size_of::<Node<A>>() + node.views.iter().map(view).sum::<usize>();
        self.nodes.iter().map(node).sum::<usize>() + size_of_val(&*self.lists) + size_of_val(&*self.shared)
    }
}

impl Steps {
    fn reached(&self, number: u128) -> Option<usize> {
        match self {
            // Narrow are those of a mask that lets no more bits through.
            Steps::Narrow(ladder) => ladder.reached(number as u32),
            Steps::Wide(ladder) => ladder.reached(number),
        }
    }
}

impl Candidates<'_> {
    /// How many lists they come from.
    pub(crate) fn lists(&self) -> usize {
        self.count
    }

    /// Forgets all lists but the first so many.
    pub(crate) fn truncate(&mut self, lists: usize) {
        self.count = lists;
    }

    fn add(&mut self, mut list: List, from: u32) -> Result<(), TooMany> {
        if from > 0 {
            let numbers = &self.lists[list.from as usize..list.to as usize];
            list.from += numbers.partition_point(|number| *number < from) as u32;
        }
        if list.from == list.to {
            return Ok(());
        }
        self.push(self.lists[list.from as usize], List { from: list.from + 1, ..list })
    }

    fn add_one(&mut self, number: u32, from: u32) -> Result<(), TooMany> {
        if number < from { Ok(()) } else { self.push(number, List { from: 0, to: 0 }) }
    }

    fn push(&mut self, head: u32, tail: List) -> Result<(), TooMany> {
        let at = self.count;
        *self.heads.get_mut(at).ok_or(TooMany)? = head;
        *self.tails.get_mut(at).ok_or(TooMany)? = tail;
        self.count += 1;
        Ok(())
    }
}

impl Iterator for Candidates<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let (mut lowest, mut at) = (NONE, 0);
        for (list, head) in self.heads[..self.count].iter().enumerate() {
            if *head < lowest {
                (lowest, at) = (*head, list);
            }
        }
        if lowest == NONE {
            return None;
        }
        let tail = &mut self.tails[at];
        self.heads[at] = if tail.from < tail.to { self.lists[tail.from as usize] } else { NONE };
        tail.from += 1;
        Some(lowest)
    }
}
