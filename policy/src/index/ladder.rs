//! Steps in rising order, and which of them a number has reached.

use std::ops::{Shr, Sub};

/// So many steps are compared at once, without a branch.
const WINDOW: usize = 8;

/// The search is a division into evenly wide buckets, of which each mostly has one or two steps. Where the steps crowd in few buckets it
/// is a binary search.
#[derive(Debug)]
pub(super) struct Ladder<N> {
    lowest: N,
    shift: u32,
    /// For each bucket its first step, and behind the last one the number of steps.
    buckets: Box<[u32]>,
    /// Behind them stands a window of highest numbers.
    steps: Box<[N]>,
}

impl<N> Ladder<N>
where
    N: Copy + Ord + Sub<Output = N> + Shr<u32, Output = N> + Into<u128> + TryFrom<u128> + TryInto<usize>,
{
    /// `highest` is the highest number of the type.
    pub(super) fn of(mut steps: Vec<N>, highest: N) -> Self {
        let bits = |number: N| u128::BITS - number.into().leading_zeros();
        let (Some(&lowest), Some(&last)) = (steps.first(), steps.last()) else {
            return Ladder { lowest: highest, shift: 0, buckets: [0, 0].into(), steps: vec![highest; WINDOW].into() };
        };
        let wanted = (steps.len() / WINDOW).max(1).next_power_of_two().ilog2() + 2;
        let shift = bits(last - lowest).saturating_sub(wanted);
        let bucket = |step: N| ((step - lowest) >> shift).try_into().unwrap_or(usize::MAX);
        let buckets =
            (0..=bucket(last) + 1).map(|at| steps.partition_point(|step| bucket(*step) < at) as u32).collect();
        steps.extend([highest; WINDOW]);
        Ladder { lowest, shift, buckets, steps: steps.into() }
    }

    /// The last step up to the number.
    pub(super) fn reached(&self, number: N) -> Option<usize> {
        if number < self.lowest {
            return None;
        }
        let bucket = ((number - self.lowest) >> self.shift).try_into().unwrap_or(usize::MAX);
        let bucket = bucket.min(self.buckets.len() - 2);
        let (from, to) = (self.buckets[bucket] as usize, self.buckets[bucket + 1] as usize);
        let crossed = match self.steps.get(from..from + WINDOW) {
            // In the window stand steps of later buckets, too: those are higher than the number.
            Some(window) if to - from <= WINDOW => {
                window.iter().map(|step| u32::from(*step <= number)).sum::<u32>() as usize
            }
            _ => self.steps[from..to].partition_point(|step| *step <= number),
        };
        let steps = self.steps.len() - WINDOW;
        (from + crossed).min(steps).checked_sub(1)
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        size_of_val(&*self.buckets) + size_of_val(&*self.steps)
    }
}
