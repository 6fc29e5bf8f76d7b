//! Punted packets of connections that the kernel does not know yet, or still knows: it is told, and gets them then.

use std::collections::VecDeque;

use shunt_policy::{PortId, PuntReason};

use super::tracked::Tracked;
use crate::xsk::Frame;

/// At most so many; what comes on top goes at once.
const ROOM: usize = 256;

/// ns; then the kernel gets them, whatever it knows. What it is told reaches it in a few milliseconds.
const LONGEST: u64 = 50_000_000;

/// A packet that waits.
pub(super) struct Parked {
    pub(super) frame: Frame,
    pub(super) ingress: PortId,
    pub(super) reason: PuntReason,
    /// Messages of the worker that the kernel has to have taken.
    pub(super) said: u64,
    /// ns
    pub(super) since: u64,
}

/// In the order in which they came.
pub(super) struct Lot(VecDeque<Parked>);

impl Default for Lot {
    fn default() -> Self {
        Lot(VecDeque::with_capacity(ROOM))
    }
}

impl Lot {
    /// # Errors
    ///
    /// The packet, if there is no room.
    pub(super) fn put(&mut self, parked: Parked) -> Result<(), Parked> {
        if self.0.len() == ROOM {
            return Err(parked);
        }
        self.0.push_back(parked);
        Ok(())
    }

    /// The first one, if its time has come. Others wait behind it, for a few milliseconds.
    pub(super) fn next(&mut self, tracked: &Tracked) -> Option<Parked> {
        let Parked { said, since, .. } = self.0.front()?;
        let goes = tracked.connections.is_given(*said) || tracked.now.saturating_sub(*since) >= LONGEST;
        if goes { self.0.pop_front() } else { None }
    }

    /// The first one, whether or not its time has come.
    pub(super) fn take(&mut self) -> Option<Parked> {
        self.0.pop_front()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
