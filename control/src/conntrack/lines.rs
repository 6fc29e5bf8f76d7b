//! The queues to and from the workers.

use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use rtrb::{Consumer, Producer, PushError};
use shunt_dataplane::conn::exchange::{FromWorker, Given, ToWorker};
use shunt_dataplane::worker::doorbell::Doorbell;

/// How often a worker whose queue is full is rung and waited for, a millisecond each time, before what it should hear is lost.
const PATIENCE: u32 = 100;

/// To and from one worker, in the order of their numbers.
pub struct Line {
    pub to: Producer<ToWorker>,
    pub from: Consumer<FromWorker>,
    /// How much of that the kernel has got, for the worker to see.
    pub given: Given,
    /// Wakes the worker if it sleeps.
    pub doorbell: Box<dyn Fn() + Send>,
}

impl From<(shunt_dataplane::Line, Arc<Doorbell>)> for Line {
    fn from((line, doorbell): (shunt_dataplane::Line, Arc<Doorbell>)) -> Self {
        Line { to: line.orders, from: line.reports, given: line.given, doorbell: Box::new(move || doorbell.ring()) }
    }
}

#[derive(Default)]
pub(super) struct Lines(Vec<End>);

struct End {
    line: Line,
    /// How many messages have been heard.
    heard: u64,
    /// It has been told something since the bell was last rung.
    silent: bool,
    /// Something could not be told: nothing more is until what is missing is told again.
    lost: bool,
}

impl Lines {
    pub fn new(lines: Vec<Line>) -> Self {
        Lines(lines.into_iter().map(|line| End { line, heard: 0, silent: false, lost: false }).collect())
    }

    pub fn workers(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Says whether it will be heard.
    pub fn tell(&mut self, worker: usize, message: ToWorker) -> bool {
        self.0.get_mut(worker).is_some_and(|end| end.tell(message))
    }

    /// What does no harm if it is not heard: nobody waits for room.
    pub fn hint(&mut self, worker: usize, message: ToWorker) {
        if let Some(end) = self.0.get_mut(worker) {
            end.silent |= end.line.to.push(message).is_ok();
        }
    }

    /// The same to all.
    pub fn tell_all(&mut self, message: &ToWorker) {
        for end in &mut self.0 {
            end.tell(message.clone());
        }
    }

    /// Wakes those that were told something.
    pub fn ring(&mut self) {
        for end in self.0.iter_mut().filter(|end| end.silent) {
            end.ring();
        }
    }

    pub fn any_lost(&self) -> bool {
        self.0.iter().any(|end| end.lost)
    }

    /// What could not be told is about to be told again.
    pub fn heal(&mut self) {
        self.0.iter_mut().for_each(|end| end.lost = false);
    }

    /// The next thing that a worker has said.
    pub fn heard(&mut self, worker: usize) -> Option<FromWorker> {
        let end = self.0.get_mut(worker)?;
        let message = end.line.from.pop().ok()?;
        end.heard += 1;
        Some(message)
    }

    /// All that was heard has been dealt with: who waits for that goes on.
    pub fn given(&mut self) {
        for end in self.0.iter_mut().filter(|end| end.line.given.so_far() != end.heard) {
            end.line.given.set(end.heard);
            end.silent = true;
        }
    }

    /// How many have no room to say more: they may have lost something.
    pub fn crammed(&self) -> u64 {
        self.0.iter().filter(|end| end.line.from.slots() == end.line.from.buffer().capacity()).count() as u64
    }
}

impl End {
    fn tell(&mut self, mut message: ToWorker) -> bool {
        if self.lost {
            return false;
        }
        for _ in 0..PATIENCE {
            match self.line.to.push(message) {
                Ok(()) => {
                    self.silent = true;
                    return true;
                }
                Err(PushError::Full(back)) => message = back,
            }
            if self.line.to.is_abandoned() {
                break;
            }
            self.ring();
            sleep(Duration::from_millis(1));
        }
        self.lost = true;
        false
    }

    fn ring(&mut self) {
        self.silent = false;
        (self.line.doorbell)();
    }
}
