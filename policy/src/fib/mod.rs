//! Longest-prefix match: one [`Fib`] per route table.
//!
//! A tree bitmap (Eatherton, Varghese, Dittia 2004) of stride 6. A node covers six bits of the address: the 63 prefixes that
//! end inside it are bits of `internal`, its 64 children are bits of `external`, and both index dense arrays by population count.
//! The root covers one bit only, so that the prefixes of the Internet, most of all /24 and /48, end with a node and not in one of
//! their own.
//! Nodes are shared between copies: `clone` is one pointer, and a change copies the path to the changed prefix (at most 6 nodes
//! for IPv4, 22 for IPv6), so the next generation costs what changed and not what exists.
//!
//! A look-up is one node per six bits of the longest branch, no allocation. Of a large table the first answer comes from an index
//! ([`index`]), which takes more memory; small tables stay small.

mod index;

use std::net::IpAddr;
use std::sync::Arc;

use crate::names::{Family, Prefix};
use index::{Change, Index};

const STRIDE: u32 = 6;
/// How many bits of the root's chunk stand before the address and are always 0.
const LEAD: u32 = 5;

/// For each six-bit chunk, the internal prefixes that contain it: bit `2^length + leading bits`. Longer prefixes have higher bits.
const COVERING: [u64; 64] = {
    let mut masks = [0u64; 64];
    let mut chunk = 0;
    while chunk < 64 {
        let mut length = 0;
        while length < STRIDE {
            masks[chunk] |= 1 << ((1 << length) | (chunk >> (STRIDE - length)));
            length += 1;
        }
        chunk += 1;
    }
    masks
};

/// Prefixes from which on a table has an index, and below which it has none any more, by family. That of IPv4 is some 60 MB of real
/// routes, however many they are; that of IPv6 grows with them.
const INDEXED: [(usize, usize); 2] = [(200_000, 100_000), (20_000, 10_000)];

/// What is kept of a prefix: a number below 2^23, for the index to hold (or there is none).
pub trait Value: Copy {
    fn number(self) -> u32;
    fn numbered(number: u32) -> Self;
}

impl Value for u32 {
    fn number(self) -> u32 {
        self
    }

    fn numbered(number: u32) -> Self {
        number
    }
}

/// A map from prefixes of one family to values.
#[derive(Clone, Debug)]
pub struct Fib<T> {
    root: Arc<Node<T>>,
    prefixes: usize,
    index: Option<Index>,
}

#[derive(Clone, Debug)]
struct Node<T> {
    internal: u64,
    external: u64,
    // Boxes, not vectors: nodes are many, and change seldom.
    values: Box<[T]>,
    children: Box<[Arc<Node<T>>]>,
}

impl<T> Node<T> {
    fn empty() -> Self {
        Node { internal: 0, external: 0, values: Box::default(), children: Box::default() }
    }

    fn is_empty(&self) -> bool {
        self.internal == 0 && self.external == 0
    }
}

impl<T> Default for Fib<T> {
    fn default() -> Self {
        Fib { root: Arc::new(Node::empty()), prefixes: 0, index: None }
    }
}

impl<T: Value> Fib<T> {
    /// Number of prefixes that have a value.
    pub fn len(&self) -> usize {
        self.prefixes
    }

    pub fn is_empty(&self) -> bool {
        self.prefixes == 0
    }

    /// The first accepted value on the way from the longest matching prefix to the shortest, as the kernel backtracks when no
    /// route of a prefix suits (`fib_table_lookup`). `address` is left-aligned, see [`aligned`].
    /// `accept` is told the length of the prefix.
    #[inline]
    pub fn lookup<R>(&self, address: u128, mut accept: impl FnMut(u8, T) -> Option<R>) -> Option<R> {
        let (length, value) = match &self.index {
            Some(index) => index.longest(address).map(|(length, number)| (length, T::numbered(number))),
            None => self.longest(address),
        }?;
        accept(length as u8, value).or_else(|| self.lookup_shorter(address, length, accept))
    }

    /// Tells of each address, by its place, the length and the value of its longest matching prefix. That takes a fraction of the time of
    /// look-ups one by one, because memory is asked for all of them at once; 64 are a good number.
    #[inline]
    pub fn longest_of<const N: usize>(&self, addresses: &[u128; N], mut found: impl FnMut(usize, Option<(u8, T)>)) {
        match &self.index {
            Some(index) => index.longest_of(addresses, |at, best| {
                found(at, best.map(|(length, number)| (length as u8, T::numbered(number))));
            }),
            None => addresses.iter().enumerate().for_each(|(at, address)| {
                found(at, self.longest(*address).map(|(length, value)| (length as u8, value)));
            }),
        }
    }

    /// The same among prefixes that are shorter than `limit` bits. Apart, so that the rest is small enough to become part of a loop over
    /// look-ups: what it finds is then chosen without a branch.
    #[cold]
    fn lookup_shorter<R>(
        &self,
        address: u128,
        mut limit: u32,
        mut accept: impl FnMut(u8, T) -> Option<R>,
    ) -> Option<R> {
        loop {
            let (length, value) = self.longest_below(address, limit)?;
            if let Some(found) = accept(length as u8, value) {
                return Some(found);
            }
            limit = length;
        }
    }

    /// The value of the longest matching prefix, and the length of that.
    fn longest(&self, address: u128) -> Option<(u32, T)> {
        let mut node = &*self.root;
        let mut chunk = chunk_at(address, 0);
        let mut rest = address << (STRIDE - LEAD);
        let mut depth = 0;
        let mut best = None;
        loop {
            let covering = node.internal & COVERING[chunk];
            if covering != 0 {
                best = Some((node, 63 - covering.leading_zeros(), depth));
            }
            if node.external >> chunk & 1 == 0 {
                let (node, bit, depth) = best?;
                return Some((length_at(depth, bit), node.values[rank(node.internal, bit)]));
            }
            node = &node.children[rank(node.external, chunk as u32)];
            chunk = (rest >> (128 - STRIDE)) as usize;
            rest <<= STRIDE;
            depth += 1;
        }
    }

    /// The same among prefixes that are shorter than `limit` bits.
    fn longest_below(&self, address: u128, limit: u32) -> Option<(u32, T)> {
        let mut node = &*self.root;
        let mut depth = 0;
        let mut best = None;
        loop {
            let chunk = chunk_at(address, depth);
            let room = limit.saturating_add(LEAD).saturating_sub(depth * STRIDE);
            if room == 0 {
                return best;
            }
            let allowed = if room >= STRIDE { u64::MAX } else { (1 << (1 << room)) - 1 };
            let covering = node.internal & COVERING[chunk] & allowed;
            if covering != 0 {
                let bit = 63 - covering.leading_zeros();
                best = Some((length_at(depth, bit), node.values[rank(node.internal, bit)]));
            }
            if node.external >> chunk & 1 == 0 {
                return best;
            }
            node = &node.children[rank(node.external, chunk as u32)];
            depth += 1;
        }
    }

    /// Sets the value of exactly this prefix and returns the former one.
    pub fn insert(&mut self, prefix: Prefix, value: T) -> Option<T> {
        let old = self.insert_into_tree(prefix, value);
        self.prefixes += usize::from(old.is_none());
        match &mut self.index {
            _ if value.number() >= index::VALUES => self.index = None,
            Some(index) => index.change(&change(
                aligned(prefix),
                prefix.length(),
                Some((prefix.length().into(), value)),
                old.is_none().into(),
            )),
            None if self.prefixes >= INDEXED[prefix.family() as usize].0 => self.index = self.indexed(prefix.family()),
            None => {}
        }
        old
    }

    /// None if a value does not fit into it.
    fn indexed(&self, family: Family) -> Option<Index> {
        let mut index = Index::new(family);
        for (address, length, value) in self.iter() {
            if value.number() >= index::VALUES {
                return None;
            }
            index.change(&change(address, length, Some((length.into(), *value)), 1));
        }
        Some(index)
    }

    fn insert_into_tree(&mut self, prefix: Prefix, value: T) -> Option<T> {
        let address = aligned(prefix);
        let (steps, bit) = place(prefix);
        let mut node = Arc::make_mut(&mut self.root);
        for depth in 0..steps {
            let chunk = chunk_at(address, depth);
            let at = rank(node.external, chunk as u32);
            if node.external >> chunk & 1 == 0 {
                node.external |= 1 << chunk;
                insert_at(&mut node.children, at, Arc::new(Node::empty()));
            }
            node = Arc::make_mut(&mut node.children[at]);
        }
        let at = rank(node.internal, bit);
        if node.internal >> bit & 1 == 1 {
            return Some(std::mem::replace(&mut node.values[at], value));
        }
        node.internal |= 1 << bit;
        insert_at(&mut node.values, at, value);
        None
    }

    /// Removes exactly this prefix and the nodes that it leaves empty.
    pub fn remove(&mut self, prefix: Prefix) -> Option<T> {
        // Looked for first, so that removing what is not there copies nothing.
        self.get(prefix)?;
        let (steps, bit) = place(prefix);
        let removed = remove_below(Arc::make_mut(&mut self.root), aligned(prefix), 0, steps, bit);
        self.prefixes -= usize::from(removed.is_some());
        if self.prefixes < INDEXED[prefix.family() as usize].1 {
            self.index = None;
        }
        let next = self.longest_below(aligned(prefix), prefix.length().into());
        if let Some(index) = &mut self.index {
            index.change(&change(aligned(prefix), prefix.length(), next, -1));
        }
        removed
    }

    /// The value of exactly this prefix.
    pub fn get(&self, prefix: Prefix) -> Option<&T> {
        let address = aligned(prefix);
        let (steps, bit) = place(prefix);
        let mut node = &*self.root;
        for depth in 0..steps {
            let chunk = chunk_at(address, depth);
            if node.external >> chunk & 1 == 0 {
                return None;
            }
            node = &node.children[rank(node.external, chunk as u32)];
        }
        (node.internal >> bit & 1 == 1).then(|| &node.values[rank(node.internal, bit)])
    }

    /// Every prefix as its left-aligned address and its length, with its value; see [`prefix`].
    pub fn iter(&self) -> impl Iterator<Item = (u128, u8, &T)> {
        let mut open = vec![(&*self.root, 0u128, 0u32)];
        let mut ready = Vec::new();
        std::iter::from_fn(move || {
            while ready.is_empty() {
                let (node, address, depth) = open.pop()?;
                let mut bits = node.internal;
                for value in &node.values {
                    let bit = bits.trailing_zeros();
                    bits &= bits - 1;
                    let inside = 31 - bit.leading_zeros();
                    let chunk = (bit ^ (1 << inside)) << (STRIDE - inside);
                    ready.push((address | chunk_bits(chunk, depth), length_at(depth, bit) as u8, value));
                }
                let mut bits = node.external;
                for child in &node.children {
                    let chunk = bits.trailing_zeros();
                    bits &= bits - 1;
                    open.push((child, address | chunk_bits(chunk, depth), depth + 1));
                }
            }
            ready.pop()
        })
    }
}

/// Of a prefix, after which `best` is the longest match where it was.
fn change<T: Value>(address: u128, length: u8, best: Option<(u32, T)>, count: i32) -> Change {
    Change { address, length: length.into(), best: best.map(|(length, value)| (length, value.number())), count }
}

fn insert_at<T>(list: &mut Box<[T]>, at: usize, value: T) {
    let mut vector = std::mem::take(list).into_vec();
    vector.reserve_exact(1);
    vector.insert(at, value);
    *list = vector.into_boxed_slice();
}

fn remove_at<T>(list: &mut Box<[T]>, at: usize) -> T {
    let mut vector = std::mem::take(list).into_vec();
    let removed = vector.remove(at);
    *list = vector.into_boxed_slice();
    removed
}

fn remove_below<T: Clone>(node: &mut Node<T>, address: u128, depth: u32, steps: u32, bit: u32) -> Option<T> {
    if depth == steps {
        let at = rank(node.internal, bit);
        node.internal &= !(1 << bit);
        return Some(remove_at(&mut node.values, at));
    }
    let chunk = chunk_at(address, depth);
    let at = rank(node.external, chunk as u32);
    let child = node.children.get_mut(at)?;
    let removed = remove_below(Arc::make_mut(child), address, depth + 1, steps, bit);
    if child.is_empty() {
        node.external &= !(1 << chunk);
        remove_at(&mut node.children, at);
    }
    removed
}

/// The prefix's address with its first bit at bit 127, whatever the family.
pub fn aligned(prefix: Prefix) -> u128 {
    aligned_address(prefix.address())
}

/// An address with its first bit at bit 127, whatever the family.
pub fn aligned_address(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(a.to_bits()) << 96,
        IpAddr::V6(a) => a.to_bits(),
    }
}

/// The prefix of a left-aligned address. Longer than the family's addresses it is cut.
pub fn prefix(family: Family, address: u128, length: u8) -> Prefix {
    let address = match family {
        Family::V4 => IpAddr::V4(((address >> 96) as u32).into()),
        Family::V6 => IpAddr::V6(address.into()),
    };
    Prefix::new(address, length).unwrap_or(Prefix::host(address))
}

/// How many nodes down a prefix ends, and its bit in `internal` there.
fn place(prefix: Prefix) -> (u32, u32) {
    let length = u32::from(prefix.length()) + LEAD;
    let (steps, inside) = (length / STRIDE, length % STRIDE);
    let leading = chunk_at(aligned(prefix), steps) as u32 >> (STRIDE - inside);
    (steps, (1 << inside) | leading)
}

/// The six bits that the node at `depth` looks at; behind the last bit of the address are zeros.
fn chunk_at(address: u128, depth: u32) -> usize {
    match depth {
        0 => (address >> (128 - STRIDE + LEAD)) as usize,
        _ => ((address << (depth * STRIDE - LEAD)) >> (128 - STRIDE)) as usize,
    }
}

/// The length of the prefix that is this bit of `internal`.
fn length_at(depth: u32, bit: u32) -> u32 {
    depth * STRIDE + (31 - bit.leading_zeros()) - LEAD
}

/// The inverse of [`chunk_at`].
fn chunk_bits(chunk: u32, depth: u32) -> u128 {
    match depth {
        0 => u128::from(chunk) << (128 - STRIDE + LEAD),
        _ => u128::from(chunk) << (128 - STRIDE) >> (depth * STRIDE - LEAD),
    }
}

/// How many of `bits` stand below `bit`.
fn rank(bits: u64, bit: u32) -> usize {
    (bits & ((1 << bit) - 1)).count_ones() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    use super::prefix as prefix_of;

    fn prefix(text: &str) -> Prefix {
        let (address, length) = text.split_once('/').unwrap();
        Prefix::new(address.parse().unwrap(), length.parse().unwrap()).unwrap()
    }

    fn find(fib: &Fib<u32>, address: &str) -> Option<u32> {
        fib.lookup(aligned_address(address.parse().unwrap()), |_, value| Some(value))
    }

    #[test]
    fn longest_prefix_wins_at_every_length() {
        let mut fib = Fib::default();
        for length in 0..=32u8 {
            fib.insert(Prefix::new("203.0.113.85".parse().unwrap(), length).unwrap(), u32::from(length));
        }
        assert_eq!(find(&fib, "203.0.113.85"), Some(32));
        assert_eq!(find(&fib, "203.0.113.84"), Some(31));
        assert_eq!(find(&fib, "203.0.113.87"), Some(30));
        assert_eq!(find(&fib, "75.0.113.85"), Some(0));
        let mut six = Fib::default();
        for length in 0..=128u8 {
            six.insert(Prefix::new("2001:db8::55".parse().unwrap(), length).unwrap(), u32::from(length));
        }
        assert_eq!(find(&six, "2001:db8::55"), Some(128));
        assert_eq!(find(&six, "2001:db8::54"), Some(127));
        assert_eq!(find(&six, "8000::"), Some(0));
    }

    #[test]
    fn what_was_put_in_comes_out_again() {
        for (family, address) in [(Family::V4, "203.0.113.85"), (Family::V6, "2001:db8:55aa::5555")] {
            let mut fib = Fib::default();
            let all: Vec<_> =
                (0..=family.bits()).map(|length| Prefix::new(address.parse().unwrap(), length).unwrap()).collect();
            all.iter().for_each(|one| assert_eq!(fib.insert(*one, u32::from(one.length())), None));
            let mut listed: Vec<_> =
                fib.iter().map(|(address, length, value)| (prefix_of(family, address, length), *value)).collect();
            listed.sort_by_key(|(prefix, _)| prefix.length());
            assert_eq!(listed, all.iter().map(|one| (*one, u32::from(one.length()))).collect::<Vec<_>>());
        }
    }

    #[test]
    fn refused_values_lead_to_shorter_prefixes() {
        let mut fib = Fib::default();
        for (text, value) in [("0.0.0.0/0", 0), ("198.18.0.0/15", 1), ("198.18.0.0/16", 2), ("198.18.5.0/24", 3)] {
            fib.insert(prefix(text), value);
        }
        let address = aligned_address("198.18.5.9".parse().unwrap());
        for most in (0..=3).rev() {
            assert_eq!(fib.lookup(address, |_, value| (value <= most).then_some(value)), Some(most));
        }
        assert_eq!(fib.lookup(address, |_, _| None::<u32>), None);
    }

    /// A large table, and changes of all lengths in and around prefixes that are there: the index says what the tree says.
    fn answers_as_the_tree_does(family: Family, routes: usize, usual: &[u8]) {
        let bits = family.bits();
        let mut random = fastrand::Rng::with_seed(1);
        let mut fib = Fib::default();
        let mut all = vec![prefix_of(family, 0, 0)];
        // Anywhere in one eighth of all, in a network with many, or near to what there is.
        let address = |random: &mut fastrand::Rng, all: &[Prefix]| {
            let near = random.u128(..) >> random.u32(1..u32::from(bits));
            match random.u8(..8) {
                0..3 => random.u128(..) >> 3 | 0x2000 << 112,
                3 if family == Family::V4 => 0xc633_6400 << 96 | random.u128(..) >> 24,
                3 => 0xc633_6400 << 96 | random.u128(..1000) << 80 | random.u128(..) >> 48,
                _ => aligned(all[random.usize(..all.len())]) ^ near,
            }
        };
        let mut before = None;
        let mut compared = 0;
        for step in 0..routes * 2 {
            if step < routes * 5 / 4 || random.bool() {
                let length = if random.bool() { usual[random.usize(..usual.len())] } else { random.u8(..=bits) };
                let one = prefix_of(family, address(&mut random, &all), length);
                fib.insert(one, random.u32(..1000));
                all.push(one);
            } else {
                let at = random.usize(..all.len());
                fib.remove(all.swap_remove(at));
            }
            if step == routes * 3 / 2 {
                let listed: Vec<_> = fib.iter().map(|(address, length, value)| (address, length, *value)).collect();
                before = Some((fib.clone(), listed));
            }
            if step % 4 == 0 && fib.index.is_some() {
                let at = aligned_address(prefix_of(family, address(&mut random, &all), bits).address());
                let found = fib.lookup(at, |length, value| Some((u32::from(length), value)));
                assert_eq!(found, fib.longest_below(at, u32::MAX), "step {step}, {:?}", prefix_of(family, at, bits));
                compared += 1;
            }
            // With and without an index.
            if step % 256 == 0 {
                let addresses: [u128; 64] = std::array::from_fn(|_| address(&mut random, &all));
                fib.longest_of(&addresses, |at, found| {
                    let found = found.map(|(length, value)| (u32::from(length), value));
                    assert_eq!(found, fib.longest_below(addresses[at], u32::MAX));
                });
            }
        }
        assert!(compared > routes / 5, "{compared}");
        let (before, listed) = before.unwrap();
        for (address, length, _) in listed.iter().step_by(7) {
            let found = before.lookup(*address, |length, value| Some((u32::from(length), value)));
            assert!(found >= Some((u32::from(*length), 0)));
            assert_eq!(found, before.longest_below(*address, u32::MAX), "of a copy");
        }
        while let Some(one) = all.pop() {
            fib.remove(one);
        }
        assert!(fib.is_empty() && fib.index.is_none());
    }

    #[test]
    fn a_large_ipv4_table_answers_as_the_tree_does() {
        answers_as_the_tree_does(Family::V4, 450_000, &[8, 12, 13, 16, 20, 22, 23, 24, 24, 24, 24, 25, 28, 32]);
    }

    #[test]
    fn a_large_ipv6_table_answers_as_the_tree_does() {
        answers_as_the_tree_does(
            Family::V6,
            80_000,
            &[16, 20, 24, 29, 32, 32, 36, 40, 44, 48, 48, 48, 49, 56, 64, 128],
        );
    }

    /// As a provider has it that gives each customer a /48 of its own.
    #[test]
    fn one_network_of_many_is_changed_in_time() {
        let mut fib = Fib::default();
        let customer = |number: u32| prefix_of(Family::V6, 0x2001_0db8 << 96 | u128::from(number) << 80, 48);
        for number in 0..=0xffff_u32 {
            fib.insert(customer(number.wrapping_mul(0x9e37) & 0xffff), number % 7);
        }
        assert!(fib.index.is_some());
        let begun = std::time::Instant::now();
        for number in 0..1000 {
            let before = fib.clone();
            fib.insert(customer(number * 61), 9);
            assert_ne!(before.get(customer(number * 61)), fib.get(customer(number * 61)));
        }
        // 21 µs each by a release build; it was 256 when all of the network was written anew, and 25 s until it was filled.
        assert!(begun.elapsed() < std::time::Duration::from_secs(2), "{:?}", begun.elapsed());
        for number in (0..=0xffff).step_by(3) {
            let address = aligned(customer(number));
            let found = fib.lookup(address, |length, value| Some((u32::from(length), value)));
            assert_eq!(found, fib.longest_below(address, u32::MAX), "{number}");
        }
    }

    #[test]
    fn a_copy_does_not_see_later_changes() {
        let mut fib = Fib::default();
        fib.insert(prefix("198.51.100.0/24"), 1);
        let before = fib.clone();
        fib.insert(prefix("198.51.100.128/25"), 2);
        assert_eq!(fib.remove(prefix("198.51.100.0/24")), Some(1));
        assert_eq!(fib.remove(prefix("198.51.100.0/24")), None);
        assert_eq!((before.len(), fib.len()), (1, 1));
        assert_eq!(find(&before, "198.51.100.200"), Some(1));
        assert_eq!(find(&fib, "198.51.100.200"), Some(2));
        assert_eq!(find(&fib, "198.51.100.1"), None);
        fib.remove(prefix("198.51.100.128/25"));
        assert!(fib.is_empty() && fib.root.is_empty());
    }
}
