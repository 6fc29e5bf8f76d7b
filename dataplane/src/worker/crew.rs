//! Deals queues out to workers and makes the workers known to each other.

use std::io;
use std::sync::Arc;

use crossbeam::utils::CachePadded;
use shunt_policy::{Policy, PortId};

use super::doorbell::Doorbell;
use super::handover::Exchange;
use super::tracked::Tables;
use super::{Parts, Queue, Way, Worker};
use crate::counters::WorkerCounters;
use crate::port::Port;
use crate::punt::Punt;
use crate::sample::{self, Samples};
use crate::snapshot::{self, Publisher};
use crate::xsk::{Depot, Pool};

/// Workers ready to run, and what the control side keeps of them.
pub struct Assembled<P, K> {
    pub workers: Vec<Worker<P, K>>,
    pub publisher: Publisher,
    /// By worker.
    pub counters: Vec<Arc<CachePadded<WorkerCounters>>>,
    /// By worker.
    pub doorbells: Vec<Arc<Doorbell>>,
    /// By worker.
    pub samples: Vec<Samples>,
}

/// Makes as many workers as there are `tables`. `queues` are those of all ports, each with its number within its port; frames come
/// from `depot`.
///
/// # Errors
///
/// No more file descriptors for the doorbells.
pub fn assemble<P: Port, K: Punt + Clone>(
    tables: Tables,
    queues: Vec<(u32, Queue<P>)>,
    policy: Arc<Policy>,
    depot: &Arc<Depot>,
    punt: &K,
) -> io::Result<Assembled<P, K>> {
    let tracked = tables.into_parts();
    let workers = tracked.len();
    let counts = counts(queues.iter().map(|(_, queue)| queue.port));
    let mut owned: Vec<Vec<Queue<P>>> = (0..workers).map(|_| Vec::new()).collect();
    for (number, queue) in queues {
        owned[owner(queue.port, number, workers)].push(queue);
    }
    let exchanges = Exchange::between(workers)?;
    let doorbells = exchanges.iter().map(|exchange| Arc::clone(exchange.doorbell())).collect();
    let counters: Vec<Arc<CachePadded<WorkerCounters>>> = (0..workers).map(|_| Arc::default()).collect();
    counters.iter().for_each(|counters| counters.rules.reserve(policy.counter_slots()));
    let (publisher, subscribers) = snapshot::channel(workers, policy);
    let (samplers, samples): (Vec<_>, Vec<_>) = (0..workers).map(|_| sample::channel()).unzip();
    let parts = owned.into_iter().zip(exchanges).zip(subscribers).zip(samplers).zip(tracked);
    let workers = parts.enumerate().map(|(index, parts)| {
        let ((((queues, exchange), policy), samples), tracked) = parts;
        Worker::new(Parts {
            policy,
            ways: ways(index, workers, &counts, &queues),
            queues,
            exchange,
            pool: Pool::new(Arc::clone(depot)),
            punt: punt.clone(),
            counters: Arc::clone(&counters[index]),
            samples,
            tracked,
        })
    });
    Ok(Assembled { workers: workers.collect(), publisher, counters, doorbells, samples })
}

/// Which worker owns queue `queue` of port `port`: neighbouring ports and queues go to different workers.
pub fn owner(port: PortId, queue: u32, workers: usize) -> usize {
    (usize::from(port.0) + queue as usize) % workers.max(1)
}

/// How many queues each port has, by its number.
fn counts(ports: impl Iterator<Item = PortId>) -> Vec<u32> {
    let mut counts = Vec::new();
    for port in ports {
        let number = usize::from(port.0);
        if counts.len() <= number {
            counts.resize(number + 1, 0);
        }
        counts[number] += 1;
    }
    counts
}

/// How worker `worker` sends by each port.
fn ways<P>(worker: usize, workers: usize, counts: &[u32], own: &[Queue<P>]) -> Vec<Way> {
    let way = |(number, &count): (usize, &u32)| {
        let port = PortId(number as u16);
        match own.iter().position(|queue| queue.port == port) {
            Some(index) => Way::Own(index),
            None if count == 0 => Way::None,
            // Always to the same queue, so that the packets of one receive queue stay in order.
            None => Way::Give(owner(port, worker as u32 % count, workers)),
        }
    };
    counts.iter().enumerate().map(way).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_one_queue_ports_use_two_workers() {
        assert_eq!(owner(PortId(0), 0, 2), 0);
        assert_eq!(owner(PortId(1), 0, 2), 1);
    }

    #[test]
    fn whom_a_frame_is_given_to_owns_a_queue_of_the_port() {
        for workers in 1..6 {
            for queues in 1..6 {
                let counts = [queues, queues];
                for worker in 0..workers {
                    for (number, way) in ways::<()>(worker, workers, &counts, &[]).into_iter().enumerate() {
                        let Way::Give(taker) = way else { panic!("{way:?}") };
                        let port = PortId(number as u16);
                        assert!((0..queues).any(|queue| owner(port, queue, workers) == taker));
                    }
                }
            }
        }
    }
}
