//! Which neighbours are in use: what a worker can say of it without a lock.

use std::hash::BuildHasher;
use std::net::IpAddr;

use crate::names::Ifindex;

/// A neighbour's place in a table of [`COUNT`](Self::COUNT) marks. Two neighbours may share one: then both seem to be in use when
/// one of them is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NeighbourSlot(u16);

impl NeighbourSlot {
    pub const COUNT: usize = 1 << 16;

    pub fn of(ifindex: Ifindex, address: IpAddr) -> Self {
        NeighbourSlot(foldhash::fast::FixedState::default().hash_one((ifindex, address)) as u16)
    }

    /// Below [`COUNT`](Self::COUNT).
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}
