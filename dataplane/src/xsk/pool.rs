//! Free frames: a stack per worker, and a depot through which workers exchange them by the batch.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use super::frame::Frame;
use super::region::Region;

/// Frames that change hands between a pool and the depot at once, and the most a worker handles in one go.
pub const BATCH: usize = 64;

/// A pool that holds more gives batches back, so that a worker that only sends does not starve one that only receives.
const PLENTY: usize = 8 * BATCH;

/// Where free frames wait that no worker holds. Lock-free; touched once per batch, not per packet.
pub struct Depot {
    region: Arc<Region>,
    /// Vectors of exactly [`BATCH`] frames.
    full: ArrayQueue<Vec<Frame>>,
    /// The same vectors after they were emptied: kept, so that nothing is allocated later.
    empty: ArrayQueue<Vec<Frame>>,
}

impl Depot {
    /// `frames` are all frames of `region`; their number is a multiple of [`BATCH`].
    pub(crate) fn new(region: Arc<Region>, frames: Vec<Frame>) -> Arc<Self> {
        let batches = frames.len().div_ceil(BATCH).max(1);
        let depot = Depot { region, full: ArrayQueue::new(batches), empty: ArrayQueue::new(batches) };
        let mut frames = frames.into_iter();
        loop {
            let batch: Vec<Frame> = frames.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                return Arc::new(depot);
            }
            assert_eq!(batch.len(), BATCH, "the number of frames is a multiple of the batch");
            assert!(depot.full.push(batch).is_ok(), "the depot has room for all frames");
        }
    }

    /// Number of frames here.
    pub fn free(&self) -> usize {
        self.full.len() * BATCH
    }
}

impl Drop for Depot {
    fn drop(&mut self) {
        while let Some(batch) = self.full.pop() {
            batch.into_iter().for_each(|frame| self.region.retire(frame));
        }
    }
}

/// A worker's own free frames.
pub struct Pool {
    depot: Arc<Depot>,
    free: Vec<Frame>,
    /// Frames that this worker has to answer for: free here, in the rings of its ports, in its hands.
    balance: usize,
}

impl Pool {
    pub(crate) fn new(depot: Arc<Depot>) -> Self {
        // Room for all there are, so that a push never allocates.
        let free = Vec::with_capacity(depot.region.total() as usize);
        Pool { depot, free, balance: 0 }
    }

    /// A free frame, if there is one left anywhere.
    pub fn take(&mut self) -> Option<Frame> {
        if self.free.is_empty() {
            self.fetch();
        }
        self.free.pop()
    }

    /// Gives a frame back.
    pub fn put(&mut self, frame: Frame) {
        self.free.push(frame);
        if self.free.len() > PLENTY {
            self.share();
        }
    }

    /// Number of free frames here.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Number of frames that must be found here, in the worker's ports and in its hands.
    pub fn balance(&self) -> usize {
        self.balance
    }

    /// A frame came from another worker.
    pub(crate) fn arrived(&mut self) {
        self.balance += 1;
    }

    /// A frame went to another worker.
    pub(crate) fn departed(&mut self) {
        self.balance -= 1;
    }

    #[cold]
    fn fetch(&mut self) {
        let Some(mut batch) = self.depot.full.pop() else { return };
        self.balance += batch.len();
        self.free.append(&mut batch);
        // There are as many vectors as places for them.
        let _ = self.depot.empty.push(batch);
    }

    #[cold]
    fn share(&mut self) {
        // Vectors and batches are equal in number and this worker holds more than a batch, so one is empty; if not,
        // keep the frames.
        let Some(mut batch) = self.depot.empty.pop() else { return };
        batch.extend(self.free.drain(self.free.len() - BATCH..));
        self.balance -= BATCH;
        if let Err(batch) = self.depot.full.push(batch) {
            self.balance += batch.len();
            self.free.extend(batch);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.free.drain(..).for_each(|frame| self.depot.region.retire(frame));
    }
}
