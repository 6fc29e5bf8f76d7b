//! Workers that do nothing but remember what they are told.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rtrb::{Consumer, Producer, RingBuffer};
use shunt_control::conntrack::{Conntrack, Line};
use shunt_dataplane::conn::exchange::{FromWorker, Given, ToWorker};
use shunt_dataplane::conn::record::Record;
use shunt_policy::connection::{Endpoint, Tuple};

const PATIENCE: Duration = Duration::from_secs(5);

pub struct Workers {
    ends: Vec<(Consumer<ToWorker>, Producer<FromWorker>)>,
    rung: Arc<AtomicU64>,
}

impl Workers {
    /// `room` is what each queue holds.
    pub fn connect(conntrack: &Conntrack, workers: usize, room: usize) -> Self {
        let rung = Arc::new(AtomicU64::new(0));
        let (mut ends, mut lines) = (Vec::new(), Vec::new());
        for _ in 0..workers {
            let (to, heard) = RingBuffer::new(room);
            let (say, from) = RingBuffer::new(room);
            let bell = rung.clone();
            let doorbell = Box::new(move || {
                bell.fetch_add(1, Ordering::Relaxed);
            });
            lines.push(Line { to, from, given: Given::default(), doorbell });
            ends.push((heard, say));
        }
        conntrack.connect(lines);
        Workers { ends, rung }
    }

    pub fn rung(&self) -> u64 {
        self.rung.load(Ordering::Relaxed)
    }

    /// By the first worker; waits for room.
    pub fn say(&mut self, message: FromWorker) {
        while self.ends[0].1.is_full() {
            std::thread::yield_now();
        }
        self.ends[0].1.push(message).expect("as the test needs it");
    }

    /// What was told by now, except settings.
    pub fn drain(&mut self) -> Vec<ToWorker> {
        let mut all = Vec::new();
        for (heard, _) in &mut self.ends {
            while let Ok(message) = heard.pop() {
                if !matches!(message, ToWorker::Settings(_)) {
                    all.push(message);
                }
            }
        }
        all
    }

    /// The first message that is looked for, of any worker; what comes before it is forgotten.
    pub fn wait<T>(&mut self, looked_for: impl Fn(&ToWorker) -> Option<T>) -> Option<T> {
        self.until(looked_for, |_| true).pop()
    }

    /// The same of one worker.
    pub fn wait_at<T>(&mut self, worker: usize, looked_for: impl Fn(&ToWorker) -> Option<T>) -> Option<T> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            while let Ok(message) = self.ends[worker].0.pop() {
                if let Some(found) = looked_for(&message) {
                    return Some(found);
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        None
    }

    /// All that is looked for, up to the last.
    pub fn until<T>(&mut self, looked_for: impl Fn(&ToWorker) -> Option<T>, last: impl Fn(&T) -> bool) -> Vec<T> {
        let end = Instant::now() + PATIENCE;
        let mut all = Vec::new();
        while Instant::now() < end {
            for (heard, _) in &mut self.ends {
                while let Ok(message) = heard.pop() {
                    let Some(found) = looked_for(&message) else { continue };
                    let done = last(&found);
                    all.push(found);
                    if done {
                        return all;
                    }
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        all
    }

    /// Listens until all has been told, and says which of the kernel's connections were.
    pub fn originals_until_loaded(&mut self, conntrack: &Conntrack) -> HashSet<Tuple> {
        let end = Instant::now() + PATIENCE * 4;
        let mut told = HashSet::new();
        loop {
            let loaded = conntrack.is_loaded();
            for message in self.drain() {
                if let ToWorker::Kernel { record, .. } = message {
                    told.insert(record.original);
                }
            }
            if loaded {
                return told;
            }
            assert!(Instant::now() < end, "all is not told: {:?}", conntrack.counts());
            std::thread::yield_now();
        }
    }

    /// What is told of the kernel's connection, and whether it is whole.
    pub fn kernel(&mut self, original: &Tuple) -> Option<(Record, bool)> {
        self.wait(|message| match message {
            ToWorker::Kernel { record, whole } if record.original == *original => Some((*record, *whole)),
            _ => None,
        })
    }

    pub fn ended(&mut self, original: &Tuple) -> bool {
        let ended = |message: &ToWorker| match message {
            ToWorker::Ended { original: ended, .. } if ended == original => Some(()),
            _ => None,
        };
        self.wait(ended).is_some()
    }
}

/// From two addresses with ports, as `std` writes them.
pub fn tuple(protocol: u8, source: &str, destination: &str) -> Tuple {
    let end = |text: &str| {
        let address: std::net::SocketAddr = text.parse().expect("as the test needs it");
        Endpoint { address: address.ip(), port: address.port() }
    };
    Tuple { source: end(source), destination: end(destination), protocol }
}
