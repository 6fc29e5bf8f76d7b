//! Towards whom every tuple was taken.

use shunt_policy::connection::{Endpoint, Tuple};

/// A destination to which a nat rule had no tuple left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exhausted {
    pub protocol: u8,
    /// Behind a destination nat, if there is one.
    pub destination: Endpoint,
    /// Packets that were dropped for it since it has been among the last ones.
    pub packets: u64,
}

/// Destinations that are kept.
pub const LAST: usize = 8;

/// The last ones, each once, the latest first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LastExhausted(pub [Option<Exhausted>; LAST]);

impl LastExhausted {
    /// A packet on its way there is dropped.
    pub(super) fn add(&mut self, tuple: &Tuple) {
        let (protocol, destination) = (tuple.protocol, tuple.destination);
        let is_same = |kept: &Exhausted| (kept.protocol, kept.destination) == (protocol, destination);
        let known = self.0.iter().position(|kept| kept.as_ref().is_some_and(is_same));
        let packets = known.and_then(|at| self.0[at]).map_or(0, |kept| kept.packets) + 1;
        self.0[..=known.unwrap_or(LAST - 1)].rotate_right(1);
        self.0[0] = Some(Exhausted { protocol, destination, packets });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn towards(port: u16) -> Tuple {
        let end = |port| Endpoint { address: [192, 0, 2, 1].into(), port };
        Tuple { source: end(1), destination: end(port), protocol: 17 }
    }

    #[test]
    fn each_destination_once_and_the_latest_first() {
        let mut last = LastExhausted::default();
        for port in [1, 2, 1, 3, 1] {
            last.add(&towards(port));
        }
        let kept: Vec<_> = last.0.iter().flatten().map(|kept| (kept.destination.port, kept.packets)).collect();
        assert_eq!(kept, [(1, 3), (3, 1), (2, 1)]);
        for port in 10..10 + LAST as u16 {
            last.add(&towards(port));
        }
        assert_eq!(last.0.iter().flatten().map(|kept| kept.packets).collect::<Vec<_>>(), [1; LAST]);
        last.add(&Tuple { protocol: 6, ..towards(17) });
        assert_eq!(last.0[..2].iter().flatten().map(|kept| kept.protocol).collect::<Vec<_>>(), [6, 17]);
    }
}
