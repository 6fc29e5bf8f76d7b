//! When to read netfilter: some time after an event, and again and again where there are none.

use std::future::pending;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::reader::{self, LegacyTables};
use super::{Fault, Netfilter};

/// A transaction of nftables is many events; the reading starts when they have passed.
const PAUSE: Duration = Duration::from_millis(20);
/// A read during which something changed is thrown away so often; then it is taken, and another one follows.
const MIXTURES: u32 = 3;

/// The reading, which runs beside everything else.
pub struct Watch {
    /// When to read.
    due: Option<Instant>,
    reading: Option<JoinHandle<Result<Netfilter, Fault>>>,
    /// When the last reading began.
    began: std::time::Instant,
    /// An event was heard that no read has followed yet.
    told: bool,
    /// Something changed while a read was under way: its result may be a mixture.
    changed_meanwhile: bool,
    mixtures: u32,
    legacy: LegacyTables,
    /// Rules name ipsets.
    names_sets: bool,
    fault: Option<(Fault, std::time::Instant)>,
}

impl Watch {
    pub fn start() -> Self {
        Watch {
            due: None,
            reading: None,
            began: std::time::Instant::now(),
            told: false,
            changed_meanwhile: false,
            mixtures: 0,
            legacy: LegacyTables::read(),
            // Until a reading says otherwise.
            names_sets: true,
            fault: None,
        }
    }

    /// What fails, and since when.
    pub fn fault(&self) -> Option<(String, std::time::Instant)> {
        self.fault.as_ref().map(|(fault, since)| (fault.to_string(), *since))
    }

    /// An event was heard.
    pub fn note(&mut self) {
        self.told = true;
        self.changed_meanwhile |= self.reading.is_some();
        self.due.get_or_insert_with(|| Instant::now() + PAUSE);
    }

    /// Whether an event waits for the read that it asks for.
    pub fn is_in_doubt(&self) -> bool {
        self.told
    }

    /// When the reading began that ended last.
    pub fn began(&self) -> std::time::Instant {
        self.began
    }

    /// Reads though nothing has changed, as far as is known.
    pub fn audit(&mut self) {
        self.due.get_or_insert_with(Instant::now);
    }

    /// To be called now and then: iptables-legacy and ipset give no event, and a tool that failed may work again. Says whether there
    /// is nothing that they could have changed.
    pub fn look_around(&mut self) -> bool {
        let legacy = LegacyTables::read();
        let none = legacy == self.legacy && !legacy.any() && !self.names_sets;
        if !none || self.fault.is_some() {
            self.due.get_or_insert_with(Instant::now);
        }
        self.legacy = legacy;
        none
    }

    /// Reads when it is time to, and says whether an event had asked for it. Cancel-safe: a read that was begun goes on.
    pub async fn read(&mut self) -> (Netfilter, bool) {
        loop {
            if self.reading.is_none() {
                match self.due {
                    Some(due) => sleep_until(due).await,
                    None => pending().await,
                }
                self.due = None;
                self.began = std::time::Instant::now();
            }
            let reading = self.reading.get_or_insert_with(|| tokio::spawn(reader::read()));
            let ended = reading.await;
            self.reading = None;
            let read = ended.unwrap_or_else(|error| {
                Err(Fault::Failed { tool: "the reader of netfilter", problem: error.to_string() })
            });
            let told = self.told;
            if let Some(netfilter) = self.judge(read) {
                return (netfilter, told);
            }
        }
    }

    /// What of a read is to be believed.
    fn judge(&mut self, read: Result<Netfilter, Fault>) -> Option<Netfilter> {
        let mixture = std::mem::take(&mut self.changed_meanwhile);
        if mixture {
            self.due.get_or_insert_with(Instant::now);
            self.mixtures += 1;
            if self.mixtures <= MIXTURES {
                return None;
            }
        }
        self.mixtures = 0;
        match read {
            Ok(netfilter) => {
                // A mixture that was taken is followed by another read.
                self.told = mixture;
                self.fault = None;
                self.names_sets = netfilter.names_sets();
                Some(netfilter)
            }
            Err(fault) => {
                let since = self.fault.take().map_or_else(std::time::Instant::now, |(_, since)| since);
                self.fault = Some((fault, since));
                None
            }
        }
    }
}
