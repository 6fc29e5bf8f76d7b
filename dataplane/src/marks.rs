//! Which neighbours a worker has sent to. The kernel never sees that traffic, so somebody has to tell it.

use std::sync::atomic::{AtomicU8, Ordering};

use shunt_policy::NeighbourSlot;

/// One worker's marks. Set by that worker alone, taken down by the control side about once a second: between these, a packet costs
/// one load of a line that stays in the worker's cache.
pub(crate) struct Marks(Box<[AtomicU8]>);

impl Default for Marks {
    fn default() -> Self {
        Marks((0..NeighbourSlot::COUNT).map(|_| AtomicU8::new(0)).collect())
    }
}

impl Marks {
    /// Relaxed: a mark says nothing of other memory, and if it is seen one look later that is early enough.
    pub(crate) fn set(&self, slot: NeighbourSlot) {
        let mark = &self.0[slot.index()];
        if mark.load(Ordering::Relaxed) == 0 {
            mark.store(1, Ordering::Relaxed);
        }
    }

    fn take_into(&self, used: &mut UsedNeighbours) {
        for (mark, used) in self.0.iter().zip(&mut used.0) {
            // Most are not set, and are not written.
            if mark.load(Ordering::Relaxed) != 0 {
                mark.store(0, Ordering::Relaxed);
                *used = true;
            }
        }
    }
}

/// The neighbours that some worker has sent to since the last look.
pub struct UsedNeighbours(Box<[bool]>);

impl UsedNeighbours {
    pub(crate) fn take<'a>(workers: impl Iterator<Item = &'a Marks>) -> Self {
        let mut used = UsedNeighbours(vec![false; NeighbourSlot::COUNT].into());
        workers.for_each(|marks| marks.take_into(&mut used));
        used
    }

    pub fn contains(&self, slot: NeighbourSlot) -> bool {
        self.0[slot.index()]
    }
}

#[cfg(test)]
mod tests {
    use shunt_policy::Ifindex;

    use super::*;

    #[test]
    fn a_mark_is_seen_once_and_whoever_set_it() {
        let workers = [Marks::default(), Marks::default()];
        let [a, b, c] = [1, 2, 3].map(|host| NeighbourSlot::of(Ifindex(2), [192, 0, 2, host].into()));
        workers[0].set(a);
        workers[1].set(a);
        workers[1].set(b);
        let used = UsedNeighbours::take(workers.iter());
        assert_eq!([a, b, c].map(|slot| used.contains(slot)), [true, true, false]);
        assert!(!UsedNeighbours::take(workers.iter()).contains(a));
    }
}
