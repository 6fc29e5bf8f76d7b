//! What the clients do all the while: mail, web, interactive sessions over TCP, a stream of UDP.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::lab::{Namespace, Stream};

use super::network::{MAIL, Network, WEB};

const PACE: Duration = Duration::from_millis(30);

pub(super) struct Traffic {
    stop: Arc<AtomicBool>,
    errors: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
    stream: Stream,
}

impl Traffic {
    pub(super) fn start(network: &Network) -> Self {
        let mut traffic = Traffic {
            stop: Arc::default(),
            errors: Arc::default(),
            threads: Vec::new(),
            stream: Stream::start(&network.ben, WEB, 5000, Duration::from_millis(10)),
        };
        traffic.again_and_again(&network.anna, |anna| anna.ask_tcp(MAIL, 25).is_ok_and(|answer| answer == "mail"));
        traffic.again_and_again(&network.ben, |ben| ben.ask_tcp(MAIL, 25).is_ok_and(|answer| answer == "mail"));
        traffic.again_and_again(&network.anna, |anna| anna.ask_tcp(WEB, 80).is_ok_and(|answer| answer == "web"));
        // As an interactive client marks its packets: IPTOS_LOWDELAY.
        traffic.again_and_again(&network.ben, |ben| {
            ben.try_run(&format!("echo ls | nc -T lowdelay -N -w 2 {WEB} 22")).stdout == "web"
        });
        traffic
    }

    fn again_and_again(&mut self, who: &Namespace, what: impl Fn(&Namespace) -> bool + Send + 'static) {
        let (who, stop, errors) = (who.clone(), self.stop.clone(), self.errors.clone());
        self.threads.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                if !what(&who) {
                    errors.fetch_add(1, Ordering::Relaxed);
                }
                std::thread::sleep(PACE);
            }
        }));
    }

    /// How many exchanges did not come to their end until now.
    pub(super) fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    pub(super) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a thread of ours");
        }
        self.stream.finish();
    }
}
