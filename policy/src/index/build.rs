//! How an [`Index`] comes to be.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::{Block, Demand, Held, Holders, Index, Ladder, List, MOST_VIEWS, NONE, Node, SHARED, Steps, Thing, View};

/// In how many lists a thing may stand. A demand of more blocks is no use.
pub(super) const MOST_PLACES: usize = 16;

/// A list up to this length is read faster than divided.
const SHORT: usize = 4;

/// A view of fewer things costs a packet more than looking at them.
const FEWEST: usize = 2;

/// To how many bits of its length a range's ends are rounded, from the finest on: each bit less means fewer blocks.
const ROUNDINGS: [u32; 4] = [4, 3, 2, 1];

/// How the blocks of a view are sorted.
type Order = (u128, Reverse<u32>);

impl<A> Demand<A> {
    /// That the number under the mask lie in one of the ranges: inclusive, disjoint, in rising order. `None` if it is of no use: nearly
    /// all numbers do, or the ranges are too many.
    pub(crate) fn new(axis: A, mask: u128, ranges: impl IntoIterator<Item = (u128, u128)>) -> Option<Self> {
        // What lies above the mask is never met.
        let met = |(first, last): (u128, u128)| (first, last.min(mask));
        let ranges = ranges.into_iter().map(met).filter(|(first, last)| first <= last);
        let ranges: Vec<_> = ranges.collect();
        let blocks = ROUNDINGS.iter().map(|bits| blocks(&ranges, *bits)).find(|blocks| blocks.len() <= MOST_PLACES)?;
        let all = blocks.iter().any(|block| block.first == 0 && block.last() >= mask);
        (!all).then_some(Demand { axis, mask, blocks: blocks.into() })
    }
}

/// Aligned blocks that hold the ranges.
fn blocks(ranges: &[(u128, u128)], rounding: u32) -> Vec<Block> {
    let mut rounded: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        let length = u128::BITS - (last - first).leading_zeros();
        let grain = low_bits(length.saturating_sub(rounding));
        let (first, last) = (first & !grain, last | grain);
        match rounded.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => rounded.push((first, last)),
        }
    }
    let mut blocks = Vec::with_capacity(rounded.len());
    for (mut first, last) in rounded {
        loop {
            let fits = (last - first).checked_add(1).map_or(u128::BITS, u128::ilog2);
            let block = Block { first, bits: first.trailing_zeros().min(fits) };
            blocks.push(block);
            if block.last() >= last {
                break;
            }
            first = block.last() + 1;
        }
    }
    blocks
}

fn low_bits(bits: u32) -> u128 {
    1u128.checked_shl(bits).map_or(u128::MAX, |bit| bit - 1)
}

impl Block {
    fn last(self) -> u128 {
        self.first | low_bits(self.bits)
    }

    /// Larger blocks stand before those that they hold.
    fn order(self) -> Order {
        (self.first, Reverse(self.bits))
    }
}

impl<A: Copy + Ord> Index<A> {
    /// Of groups of things, each in rising order of their numbers.
    pub(crate) fn build<const GROUPS: usize>(groups: [&[Thing<A>]; GROUPS]) -> Self {
        let (mut nodes, mut lists, mut shared) = (Vec::new(), Vec::new(), Vec::new());
        let roots = groups.map(|things| {
            let all: Vec<_> = (0..things.len() as u32).map(|thing| Entry { thing, places: 1 }).collect();
            let mut builder = Builder { things, nodes: &mut nodes, lists: &mut lists, shared: &mut shared };
            builder.node(&all, &mut Vec::new()).unwrap_or_else(|| {
                let rest = builder.list(&all);
                builder.push(Node { views: Box::default(), rest })
            })
        });
        Index { nodes: nodes.into(), roots: roots.into(), lists: lists.into(), shared: shared.into() }
    }
}

/// The share of packets that each thing's best demand lets through, in things: one that only one thing in a thousand speaks of is 1.
/// Packets are taken to be what the things speak of, and a little of all else.
pub(crate) fn selectivity<A: Copy + Ord>(things: &[Thing<A>]) -> impl Fn(&Demand<A>) -> f64 + use<A> {
    let spoken = Spoken::of(things.iter().flat_map(|(_, demands)| demands));
    let things = things.len();
    move |demand| spoken.cost(demand, things)
}

struct Builder<'a, A> {
    things: &'a [Thing<A>],
    nodes: &'a mut Vec<Node<A>>,
    lists: &'a mut Vec<u32>,
    shared: &'a mut Vec<Holders>,
}

/// A thing that is to be placed below a node.
#[derive(Clone, Copy)]
struct Entry {
    /// Its place in the builder's things.
    thing: u32,
    /// In how many places it is.
    places: usize,
}

/// The blocks that things demand, by what they are demanded of.
struct Spoken<A>(BTreeMap<(A, u128), Vec<Order>>);

impl<A: Copy + Ord> Spoken<A> {
    fn of<'a>(demands: impl Iterator<Item = &'a Demand<A>>) -> Self
    where
        A: 'a,
    {
        let mut spoken: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for demand in demands {
            let blocks = demand.blocks.iter().map(|block| block.order());
            spoken.entry((demand.axis, demand.mask)).or_default().extend(blocks);
        }
        spoken.values_mut().for_each(|blocks| blocks.sort_unstable());
        Spoken(spoken)
    }

    /// How many of the things are spoken of inside of the blocks, and how many would be if they were spread evenly.
    fn cost(&self, demand: &Demand<A>, things: usize) -> f64 {
        let Some(spoken) = self.0.get(&(demand.axis, demand.mask)) else { return f64::MAX };
        let cost = |block: &Block| {
            let from = spoken.partition_point(|other| *other < block.order());
            let inside = spoken[from..].partition_point(|(first, _)| *first <= block.last());
            let fixed = demand.mask.count_ones() - (demand.mask & low_bits(block.bits)).count_ones();
            inside as f64 + things as f64 * (-f64::from(fixed)).exp2()
        };
        demand.blocks.iter().map(cost).sum()
    }
}

impl<A: Copy + Ord> Builder<'_, A> {
    /// Divides the entries by demands that are not of the views used above; `None` if that is no use.
    fn node(&mut self, entries: &[Entry], used: &mut Vec<(A, u128)>) -> Option<u32> {
        if entries.len() <= SHORT {
            return None;
        }
        let things = self.things;
        let usable = |entry: &Entry| {
            let places = entry.places;
            let (_, demands) = &things[entry.thing as usize];
            demands.iter().filter(move |demand| places * demand.blocks.len() <= MOST_PLACES)
        };
        let fresh = |demand: &&Demand<A>| !used.contains(&(demand.axis, demand.mask));
        let spoken = Spoken::of(entries.iter().flat_map(|entry| usable(entry).filter(fresh)));
        let options = entries.iter().map(|entry| {
            let options = usable(entry).filter(fresh).map(|demand| (demand, spoken.cost(demand, entries.len())));
            options.collect::<Vec<_>>()
        });
        let options: Vec<Vec<(&Demand<A>, f64)>> = options.collect();

        let mut first_choices: BTreeMap<(A, u128), usize> = BTreeMap::new();
        for options in &options {
            if let Some((demand, _)) = options.iter().min_by(|(_, one), (_, other)| one.total_cmp(other)) {
                *first_choices.entry((demand.axis, demand.mask)).or_default() += 1;
            }
        }
        let mut kept: Vec<((A, u128), usize)> = first_choices.into_iter().filter(|(_, by)| *by >= FEWEST).collect();
        kept.sort_by_key(|(_, by)| Reverse(*by));
        kept.truncate(MOST_VIEWS);

        let mut views: Vec<Vec<(Block, Entry)>> = vec![Vec::new(); kept.len()];
        let mut rest = Vec::new();
        for (entry, options) in entries.iter().zip(options) {
            let options = options.iter().filter_map(|(demand, cost)| {
                let view = kept.iter().position(|(view, _)| *view == (demand.axis, demand.mask))?;
                Some((view, *demand, *cost))
            });
            let options: Vec<_> = options.collect();
            let best = options.iter().map(|(.., cost)| *cost).fold(f64::MAX, f64::min);
            // Nearly as good in a view of many is better: few views are what makes a packet fast.
            match options.iter().filter(|(.., cost)| *cost <= 2.0 * best).min_by_key(|(view, ..)| *view) {
                Some((view, demand, _)) => {
                    let entry = Entry { places: entry.places * demand.blocks.len(), ..*entry };
                    views[*view].extend(demand.blocks.iter().map(|block| (*block, entry)));
                }
                None => rest.push(*entry),
            }
        }
        if rest.len() == entries.len() {
            return None;
        }
        let rest = self.list(&rest);
        let views = kept.into_iter().zip(views).filter(|(_, entries)| !entries.is_empty());
        let views: Box<[_]> = views.map(|((view, _), entries)| self.view(view, entries, used)).collect();
        Some(self.push(Node { views, rest }))
    }

    fn view(
        &mut self,
        (axis, mask): (A, u128),
        mut entries: Vec<(Block, Entry)>,
        used: &mut Vec<(A, u128)>,
    ) -> View<A> {
        used.push((axis, mask));
        entries.sort_unstable_by_key(|(block, entry)| (block.order(), entry.thing));
        let (mut steps, mut innermost): (Vec<u128>, Vec<u32>) = (Vec::new(), Vec::new());
        // Of two steps at one place the second stands.
        let mut step = |at: u128, block: u32| {
            if steps.last() == Some(&at) {
                innermost.pop();
            } else {
                steps.push(at);
            }
            innermost.push(block);
        };
        let mut blocks: Vec<Held> = Vec::new();
        let mut open: Vec<(Block, u32)> = Vec::new();
        for same in entries.chunk_by(|(one, _), (other, _)| one == other) {
            let block = same[0].0;
            while let Some((ended, _)) = open.pop_if(|(before, _)| before.last() < block.first) {
                step(ended.last() + 1, open.last().map_or(NONE, |(_, number)| *number));
            }
            let number = blocks.len() as u32;
            step(block.first, number);
            let holders: Vec<Entry> = same.iter().map(|(_, entry)| *entry).collect();
            let by = match holders[..] {
                [one] => self.number(one),
                _ => {
                    let node = self.node(&holders, used).map(Holders::Node);
                    let holders = node.unwrap_or_else(|| Holders::List(self.list(&holders)));
                    self.shared.push(holders);
                    SHARED + self.shared.len() as u32 - 1
                }
            };
            blocks.push(Held { around: open.last().map_or(NONE, |(_, number)| *number), by });
            open.push((block, number));
        }
        while let Some((ended, _)) = open.pop() {
            // The last number of all has none behind it.
            if let Some(behind) = ended.last().checked_add(1) {
                step(behind, open.last().map_or(NONE, |(_, number)| *number));
            }
        }
        used.pop();
        let narrow = u32::try_from(mask).is_ok();
        // What lies above the mask is never asked for.
        let steps = if narrow {
            Steps::Narrow(Ladder::of(steps.into_iter().map_while(|step| u32::try_from(step).ok()).collect(), u32::MAX))
        } else {
            Steps::Wide(Ladder::of(steps, u128::MAX))
        };
        let (innermost, outer) = inside_out(&innermost, &blocks);
        View { axis, mask, steps, innermost, outer }
    }

    fn number(&self, entry: Entry) -> u32 {
        self.things[entry.thing as usize].0
    }

    fn list(&mut self, entries: &[Entry]) -> List {
        let from = self.lists.len() as u32;
        self.lists.extend(entries.iter().map(|entry| self.things[entry.thing as usize].0));
        List { from, to: self.lists.len() as u32 }
    }

    fn push(&mut self, node: Node<A>) -> u32 {
        self.nodes.push(node);
        self.nodes.len() as u32 - 1
    }
}

/// From the numbers of the blocks at each step, and of the blocks around them, the blocks themselves, and those around others.
fn inside_out(innermost: &[u32], blocks: &[Held]) -> (Box<[Held]>, Box<[Held]>) {
    let mut places = vec![NONE; blocks.len()];
    let mut outer = Vec::new();
    for Held { around, .. } in blocks {
        if let Some(place) = places.get_mut(*around as usize).filter(|place| **place == NONE) {
            *place = outer.len() as u32;
            outer.push(*around);
        }
    }
    let block = |number: &u32| {
        let Some(Held { around, by }) = blocks.get(*number as usize) else { return Held { around: NONE, by: NONE } };
        Held { around: places.get(*around as usize).copied().unwrap_or(NONE), by: *by }
    };
    (innermost.iter().map(block).collect(), outer.iter().map(block).collect())
}
