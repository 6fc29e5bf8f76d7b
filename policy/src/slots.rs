//! A numbered list that is cheap to copy and cheap to change: copies share all but what has changed since.

use std::sync::Arc;

/// How many values are copied for the sake of one.
const CHUNK: usize = 64;

/// Values by number, dense from 0.
#[derive(Clone, Debug)]
pub(crate) struct Slots<T>(Arc<[Chunk<T>]>);

/// Values of consecutive numbers, the same in all copies that have not changed one of them.
pub(crate) type Chunk<T> = Arc<[T]>;

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Slots(Arc::new([]))
    }
}

/// The chunk in which a number stands, and its place there.
pub(crate) fn place(number: usize) -> (usize, usize) {
    (number / CHUNK, number % CHUNK)
}

impl<T> Slots<T> {
    pub(crate) fn get(&self, number: usize) -> &T {
        let (chunk, at) = place(number);
        &self.0[chunk][at]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flat_map(|chunk| chunk.iter())
    }

    pub(crate) fn chunks(&self) -> &[Chunk<T>] {
        &self.0
    }

    pub(crate) fn len(&self) -> usize {
        self.0.last().map_or(0, |last| (self.0.len() - 1) * CHUNK + last.len())
    }

    /// Whether both are copies of which none has changed.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T: Clone> Slots<T> {
    pub(crate) fn get_mut(&mut self, number: usize) -> &mut T {
        let (chunk, at) = place(number);
        &mut Arc::make_mut(&mut Arc::make_mut(&mut self.0)[chunk])[at]
    }

    /// Adds a value and says its number.
    pub(crate) fn push(&mut self, value: T) -> usize {
        let number = self.len();
        match place(number) {
            (_, 0) => self.0 = self.0.iter().cloned().chain([Arc::from([value])]).collect(),
            (chunk, _) => {
                let chunk = &mut Arc::make_mut(&mut self.0)[chunk];
                *chunk = chunk.iter().cloned().chain([value]).collect();
            }
        }
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_shares_what_was_not_changed() {
        let mut slots = Slots::default();
        (0..1000).for_each(|value| assert_eq!(slots.push(value), value));
        let before = slots.clone();
        assert!(before.is_same(&slots));
        *slots.get_mut(500) = 7;
        assert_eq!(slots.push(1000), 1000);
        assert!(!before.is_same(&slots));
        assert!(before.iter().copied().eq(0..1000));
        assert_eq!((*slots.get(500), *slots.get(1000), slots.len()), (7, 1000, 1001));
        let shared = before.chunks().iter().zip(slots.chunks()).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert_eq!(shared, before.chunks().len() - 2);
    }
}
