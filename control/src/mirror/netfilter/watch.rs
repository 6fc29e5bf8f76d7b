//! When to read netfilter: at once after an event, and again and again where there are none.

use std::future::pending;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::reader::{self, LegacyTables, Reading};
use super::{Fault, LATE, Netfilter};

/// The first event of a transaction comes when all of it is in force, and is followed at once. One soon after a read may be one of
/// many, as of a script of single commands: then there is so much time between them.
const PAUSE: Duration = Duration::from_millis(20);

/// The reading, which runs beside everything else.
pub struct Watch {
    /// When to read.
    due: Option<Instant>,
    reading: Option<JoinHandle<Result<Reading, Fault>>>,
    /// What was read last.
    known: Option<Reading>,
    /// Nothing of it is to be taken over.
    anew: bool,
    /// When the last reading began, and when it ended.
    began: std::time::Instant,
    ended: Option<Instant>,
    /// An event was heard that no read has followed yet.
    told: bool,
    /// An event asked for the read that is under way.
    asked: bool,
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
            known: None,
            anew: false,
            began: std::time::Instant::now(),
            ended: None,
            told: false,
            asked: false,
            legacy: LegacyTables::read(),
            // Until a reading says otherwise.
            names_sets: true,
            fault: None,
        }
    }

    /// What fails, and since when.
    pub fn fault(&self) -> Option<(String, std::time::Instant)> {
        let late = self.is_late().then_some((&Fault::Late, &self.began));
        let fault = self.fault.as_ref().map(|(fault, since)| (fault, since)).or(late);
        fault.map(|(fault, since)| (fault.to_string(), *since))
    }

    /// A large ruleset may take its time, but what was read before is then no longer what it should be.
    fn is_late(&self) -> bool {
        let may_differ = self.is_in_doubt() || self.legacy.any();
        self.reading.is_some() && may_differ && self.began.elapsed() > LATE
    }

    /// An event was heard.
    pub fn note(&mut self) {
        self.told = true;
        self.due_after_pause();
    }

    /// What was read says nothing any more.
    pub fn doubt(&mut self) {
        self.anew = true;
        self.note();
    }

    /// Whether an event waits for the read that it asks for, or for its end.
    pub fn is_in_doubt(&self) -> bool {
        self.told || self.asked
    }

    /// When the reading began that ended last.
    pub fn began(&self) -> std::time::Instant {
        self.began
    }

    /// Reads all of it though nothing has changed, as far as is known.
    pub fn audit(&mut self) {
        self.anew = true;
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
                self.asked |= std::mem::take(&mut self.told);
                if std::mem::take(&mut self.anew) {
                    self.known = None;
                }
            }
            let reading = self.reading.get_or_insert_with(|| tokio::spawn(reader::read(self.known.clone())));
            let ended = reading.await;
            self.reading = None;
            self.ended = Some(Instant::now());
            let read = ended.unwrap_or_else(|error| {
                Err(Fault::Failed { tool: "the reader of netfilter", problem: error.to_string() })
            });
            match read {
                Ok(read) => {
                    self.fault = None;
                    self.names_sets = read.netfilter.names_sets();
                    let told = std::mem::take(&mut self.asked) || self.told;
                    self.known = Some(read.clone());
                    return (read.netfilter, told);
                }
                Err(fault) => self.fail(fault),
            }
        }
    }

    fn fail(&mut self, fault: Fault) {
        self.told |= std::mem::take(&mut self.asked);
        if fault == Fault::Restless {
            self.due_after_pause();
        }
        // Nothing is known of the time since the read began.
        let since = self.fault.take().map_or(self.began, |(_, since)| since);
        self.fault = Some((fault, since));
    }

    fn due_after_pause(&mut self) {
        let now = Instant::now();
        let busy = self.reading.is_some() || self.ended.is_some_and(|ended| ended.elapsed() < PAUSE);
        self.due.get_or_insert(if busy { now + PAUSE } else { now });
    }
}
