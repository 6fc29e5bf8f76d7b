//! Hands policies to workers and takes the old ones back, without a lock and without freeing anything on a worker.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

use crossbeam::queue::ArrayQueue;
use shunt_policy::{Generation, Policy};

/// Retired policies a worker can have waiting; one per publication, and every publication collects first.
const RETIRED: usize = 4;

/// The two mailboxes between the publisher and one worker.
struct Mailbox {
    /// At most the newest policy. Written by the publisher, taken by the worker.
    next: ArrayQueue<Arc<Policy>>,
    /// What the worker no longer uses. Written by the worker, taken by the publisher.
    retired: ArrayQueue<Arc<Policy>>,
}

/// The control side: publishes to all workers and frees what they retire.
pub struct Publisher {
    mailboxes: Vec<Arc<Mailbox>>,
    newest: Arc<Policy>,
    /// To the thread that frees: a million routes that no other policy shares take a tenth of a second to go, and the next change
    /// is not to wait for that.
    dead: Sender<Arc<Policy>>,
}

/// A worker's side: the policy it works by.
pub struct Subscriber {
    mailbox: Arc<Mailbox>,
    current: Arc<Policy>,
}

/// A publisher and one subscriber per worker, all at `policy`.
pub fn channel(workers: usize, policy: Arc<Policy>) -> (Publisher, Vec<Subscriber>) {
    let mailboxes: Vec<_> = (0..workers)
        .map(|_| Arc::new(Mailbox { next: ArrayQueue::new(1), retired: ArrayQueue::new(RETIRED) }))
        .collect();
    let subscribers = mailboxes
        .iter()
        .map(|mailbox| Subscriber { mailbox: Arc::clone(mailbox), current: Arc::clone(&policy) })
        .collect();
    let (dead, buried) = std::sync::mpsc::channel();
    // Without the thread they are freed where they are found to be dead. It ends with the publisher.
    let _ = std::thread::Builder::new().name("shunt-reaper".to_owned()).spawn(move || free(buried));
    (Publisher { mailboxes, newest: policy, dead }, subscribers)
}

fn free(dead: Receiver<Arc<Policy>>) {
    dead.iter().for_each(drop);
}

impl Publisher {
    /// Leaves `policy` for every worker; one that has not adopted the previous one never will.
    pub fn publish(&mut self, policy: Arc<Policy>) {
        self.collect();
        for mailbox in &self.mailboxes {
            // What is displaced was never adopted.
            let displaced = mailbox.next.force_push(Arc::clone(&policy));
            displaced.into_iter().for_each(|policy| self.release(policy));
        }
        let old = std::mem::replace(&mut self.newest, policy);
        self.release(old);
    }

    /// Frees the policies that workers have retired. Returns how many references came back.
    pub fn collect(&mut self) -> usize {
        let retired = self.mailboxes.iter().flat_map(|mailbox| std::iter::from_fn(|| mailbox.retired.pop()));
        retired.map(|policy| self.release(policy)).count()
    }

    fn release(&self, policy: Arc<Policy>) {
        // Nobody else can take a reference when there is but one.
        if Arc::strong_count(&policy) == 1 {
            let _ = self.dead.send(policy);
        }
    }

    /// The policy last published.
    pub fn newest(&self) -> &Arc<Policy> {
        &self.newest
    }
}

impl Subscriber {
    /// Takes over a newer policy, if there is one. Once per batch: all packets of a batch follow one policy.
    pub fn adopt(&mut self) -> bool {
        // Empty nearly always: one relaxed look at a line that only the publisher writes.
        if self.mailbox.next.is_empty() || self.mailbox.retired.is_full() {
            return false;
        }
        let Some(next) = self.mailbox.next.pop() else { return false };
        let old = std::mem::replace(&mut self.current, next);
        // There is room: only this worker fills the queue, and it was not full a moment ago.
        if let Err(old) = self.mailbox.retired.push(old) {
            self.current = old;
            return false;
        }
        true
    }

    pub fn current(&self) -> &Policy {
        &self.current
    }

    pub fn generation(&self) -> Generation {
        self.current.generation()
    }
}

#[cfg(test)]
mod tests {
    use shunt_policy::compile;
    use shunt_policy::config::Config;

    use super::*;

    fn policy(generation: u64) -> Arc<Policy> {
        Arc::new(compile(&Config::default(), Generation(generation)))
    }

    #[test]
    fn the_newest_wins() {
        let (mut publisher, mut workers) = channel(2, policy(1));
        publisher.publish(policy(2));
        publisher.publish(policy(3));
        for worker in &mut workers {
            assert_eq!(worker.generation(), Generation(1));
            assert!(worker.adopt());
            assert_eq!(worker.generation(), Generation(3));
            assert!(!worker.adopt());
        }
    }

    #[test]
    fn the_publisher_frees_what_workers_retire() {
        let first = policy(1);
        let (mut publisher, mut workers) = channel(2, Arc::clone(&first));
        publisher.publish(policy(2));
        workers.iter_mut().for_each(|worker| assert!(worker.adopt()));
        assert_eq!(Arc::strong_count(&first), 3, "retired, but not freed by a worker");
        assert_eq!(publisher.collect(), 2);
        assert_eq!(Arc::strong_count(&first), 1);
    }

    #[test]
    fn a_policy_nobody_adopted_is_freed_by_the_next_publication() {
        let (mut publisher, workers) = channel(1, policy(1));
        let skipped = policy(2);
        publisher.publish(Arc::clone(&skipped));
        publisher.publish(policy(3));
        assert_eq!(Arc::strong_count(&skipped), 1);
        drop(workers);
    }

    #[test]
    fn what_nobody_uses_any_more_is_freed() {
        let (mut publisher, mut workers) = channel(1, policy(1));
        let first = Arc::downgrade(publisher.newest());
        publisher.publish(policy(2));
        assert!(workers[0].adopt());
        publisher.collect();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while first.strong_count() > 0 {
            assert!(std::time::Instant::now() < end, "the first policy is never freed");
            std::thread::yield_now();
        }
    }

    #[test]
    fn many_publications_without_collecting_in_between_still_arrive() {
        let (mut publisher, mut workers) = channel(1, policy(0));
        for generation in 1..100 {
            publisher.publish(policy(generation));
            assert!(workers[0].adopt());
            assert_eq!(workers[0].generation(), Generation(generation));
        }
    }
}
