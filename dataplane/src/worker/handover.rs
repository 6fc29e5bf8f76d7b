//! Frames for another worker, which owns their connection or a queue of their egress: a ring of descriptors per pair of workers, never a
//! copy.

use std::io;
use std::sync::Arc;

use rtrb::{Consumer, Producer, PushError, RingBuffer};
use shunt_policy::connection::Tuple;
use shunt_policy::{Ifindex, PortId, PuntReason};

use super::doorbell::Doorbell;
use crate::xsk::Frame;

/// Frames that can wait between two workers.
pub const WAITING: usize = 2048;

/// A frame for another worker.
pub struct Handed {
    pub frame: Frame,
    pub to: Task,
}

/// What is to be done with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Task {
    /// It is ready to leave by this port.
    Send(PortId),
    /// It came by this port, and its connection is the other worker's.
    Decide { ingress: PortId, iif: Ifindex },
    /// It came by this port and is to be punted for this reason: a connection begins in the kernel that the other worker sees answered so.
    Leave { ingress: PortId, reason: PuntReason, reply: Tuple },
}

/// One worker's ends of the rings to and from all others.
pub struct Exchange {
    /// Whose they are.
    number: usize,
    doorbell: Arc<Doorbell>,
    /// By the number of the worker; `None` for itself.
    outboxes: Vec<Option<Outbox>>,
    inboxes: Vec<Consumer<Handed>>,
}

struct Outbox {
    ring: Producer<Handed>,
    doorbell: Arc<Doorbell>,
    /// Something was put in since the bell was last rung.
    pending: bool,
}

impl Exchange {
    /// The ends for `workers` workers.
    pub fn between(workers: usize) -> io::Result<Vec<Exchange>> {
        let doorbells: Vec<_> = (0..workers).map(|_| Doorbell::new().map(Arc::new)).collect::<io::Result<_>>()?;
        let mut ends: Vec<Exchange> = doorbells
            .iter()
            .enumerate()
            .map(|(number, bell)| Exchange {
                number,
                doorbell: Arc::clone(bell),
                outboxes: Vec::new(),
                inboxes: Vec::new(),
            })
            .collect();
        for giver in 0..workers {
            for taker in 0..workers {
                if giver == taker {
                    ends[giver].outboxes.push(None);
                    continue;
                }
                let (ring, inbox) = RingBuffer::new(WAITING);
                ends[taker].inboxes.push(inbox);
                let doorbell = Arc::clone(&doorbells[taker]);
                ends[giver].outboxes.push(Some(Outbox { ring, doorbell, pending: false }));
            }
        }
        Ok(ends)
    }

    /// Which worker this is.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Leaves a frame for worker `taker`.
    ///
    /// # Errors
    ///
    /// The frame, if the ring is full or there is no such other worker.
    pub fn give(&mut self, taker: usize, handed: Handed) -> Result<(), Frame> {
        let Some(Some(outbox)) = self.outboxes.get_mut(taker) else { return Err(handed.frame) };
        outbox.pending = true;
        outbox.ring.push(handed).map_err(|PushError::Full(handed)| handed.frame)
    }

    /// Wakes those who were given something since the last time.
    pub fn notify(&mut self) {
        for outbox in self.outboxes.iter_mut().flatten().filter(|outbox| outbox.pending) {
            outbox.pending = false;
            outbox.doorbell.ring();
        }
    }

    /// The next frame that another worker left, from the inbox numbered `inbox`.
    pub fn take(&mut self, inbox: usize) -> Option<Handed> {
        self.inboxes.get_mut(inbox)?.pop().ok()
    }

    pub fn inboxes(&self) -> usize {
        self.inboxes.len()
    }

    /// Whether no frame waits in any inbox.
    pub fn is_empty(&self) -> bool {
        self.inboxes.iter().all(|inbox| inbox.is_empty())
    }

    /// Number of frames that wait in the inboxes.
    pub fn waiting(&self) -> usize {
        self.inboxes.iter().map(Consumer::slots).sum()
    }

    pub fn doorbell(&self) -> &Arc<Doorbell> {
        &self.doorbell
    }
}
