//! The thread that stands between the kernel's connections and the workers'.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shunt_dataplane::conn::exchange::ToWorker;
use shunt_dataplane::conn::settings::Settings;

use super::decode::{News, news};
use super::ear::{Ear, Heard};
use super::encode;
use super::export::{Export, words};
use super::lines::Lines;
use super::settings::{Events, events, settings};
use super::table::{By, Table};
use super::{Command, Shared};
use crate::mirror::netlink::{Dumper, each_message};

/// How long a worker may have something to say before it is heard. Its queue has no bell: ringing costs a system call.
const EXPORT: Duration = Duration::from_millis(5);
const IDLE: Duration = Duration::from_millis(250);
/// Sysctls are read as often.
const SETTINGS: Duration = Duration::from_secs(1);
/// Events, and things that workers say, between two looks at the other.
const ROUND: usize = 2048;
/// All is read from the kernel as often: where there are no events; while some connections may never give one; else.
const WITHOUT_EVENTS: Duration = Duration::from_secs(2);
const UNHEARD: Duration = Duration::from_secs(10);
const AUDIT: Duration = Duration::from_secs(60);
/// After something was lost, or a dump has failed.
const AGAIN: Duration = Duration::from_millis(200);
/// Reading all takes no more than one part in this many of the time; where something is missing, half of it.
const SHARE: u32 = 20;

pub(super) struct Thread {
    pub ear: Ear,
    pub export: Export,
    pub commands: Receiver<Command>,
    pub bell: UnixStream,
    pub shared: Arc<Shared>,
    pub state: State,
}

pub(super) struct State {
    table: Table,
    started: Instant,
    active: bool,
    settings: Arc<Settings>,
    events: Events,
    read_settings: Instant,
    /// Workers, or what they may go on with, are others than in the last dump.
    stale: bool,
    /// Something was lost.
    resync: bool,
    last_dump: Instant,
    took: Duration,
    said: Option<String>,
}

impl State {
    pub fn new() -> Self {
        let now = Instant::now();
        State {
            table: Table::default(),
            started: now,
            active: false,
            settings: Arc::new(settings()),
            events: events(),
            read_settings: now,
            stale: true,
            resync: false,
            last_dump: now,
            took: Duration::ZERO,
            said: None,
        }
    }
}

impl Thread {
    pub fn run(mut self) {
        self.state.table.own = self.export.port();
        loop {
            if !self.obey() {
                return;
            }
            let state = &mut self.state;
            state.table.now = state.started.elapsed().as_secs() as u32;
            let mut busy = false;
            if state.active {
                busy |= self.hear();
                busy |= self.give();
                self.follow_settings();
                if self.dump_is_due() {
                    self.dump();
                }
            } else {
                self.discard();
            }
            self.state.table.lines.ring();
            self.publish();
            if !busy {
                self.wait();
            }
        }
    }

    /// Says whether to go on.
    fn obey(&mut self) -> bool {
        loop {
            let state = &mut self.state;
            match self.commands.try_recv() {
                Ok(Command::Connect(lines)) => {
                    state.table.connect(Lines::new(lines));
                    state.table.lines.tell_all(&ToWorker::Settings(state.settings.clone()));
                    self.stale();
                }
                Ok(Command::Disconnect(done)) => {
                    while self.state.active && self.give() {}
                    self.state.table.connect(Lines::default());
                    self.stale();
                    self.publish();
                    // Who asked may be gone.
                    let _ = done.send(());
                }
                Ok(Command::Local(addresses)) => state.resync |= state.table.local.set(addresses),
                Ok(Command::Active(active)) if active != state.active => {
                    state.active = active;
                    let listened = self.ear.listen(active);
                    self.stale();
                    if let Err(error) = listened {
                        self.fault(&error);
                    }
                }
                Ok(Command::Active(_)) => {}
                Ok(Command::Gone(oif, address)) => {
                    state.table.lines.tell_all(&ToWorker::Unmasquerade { oif, address });
                }
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    fn stale(&mut self) {
        self.state.stale = true;
        self.shared.loaded.store(false, Ordering::Release);
    }

    /// Takes events, and says whether there may be more.
    fn hear(&mut self) -> bool {
        for _ in 0..ROUND {
            let table = &mut self.state.table;
            match self.ear.heard() {
                Ok(Heard::Datagram(datagram)) => {
                    let read = each_message(datagram, |_, message| {
                        table.counts.events += 1;
                        match news(message) {
                            Some(News::Lives { told, new: _ }) => table.lives(told, By::Event),
                            Some(News::Ended(gone)) => table.ended(&gone),
                            None => table.counts.undecoded += 1,
                        }
                        Ok(())
                    });
                    table.counts.undecoded += u64::from(read.is_err());
                }
                Ok(Heard::Lost) => {
                    table.counts.overflows += 1;
                    self.state.resync = true;
                }
                Ok(Heard::Nothing) => return false,
                Err(error) => {
                    self.fault(&error);
                    return false;
                }
            }
        }
        true
    }

    /// Gives the kernel what workers have said, and says whether there may be more.
    fn give(&mut self) -> bool {
        let State { table, events, .. } = &mut self.state;
        let heard = *events != Events::Off;
        table.counts.export_late += table.lines.crammed();
        let mut busy = false;
        for worker in 0..table.lines.workers() {
            for at in 0..ROUND {
                let Some(message) = table.lines.heard(worker) else { break };
                self.export.take(table, message, heard);
                busy |= at + 1 == ROUND;
            }
        }
        self.export.flush(table, heard);
        table.lines.given();
        busy
    }

    fn discard(&mut self) {
        let lines = &mut self.state.table.lines;
        for worker in 0..lines.workers() {
            while lines.heard(worker).is_some() {}
        }
        lines.given();
    }

    fn follow_settings(&mut self) {
        let state = &mut self.state;
        if state.read_settings.elapsed() < SETTINGS {
            return;
        }
        state.read_settings = Instant::now();
        let now = settings();
        if now != *state.settings {
            state.settings = Arc::new(now);
            state.table.lines.tell_all(&ToWorker::Settings(state.settings.clone()));
        }
        let now = events();
        if now == Events::Off && state.events != Events::Off {
            eprintln!(
                "net.netfilter.nf_conntrack_events is 0: the kernel does not tell of its connections, they are read every {} s",
                WITHOUT_EVENTS.as_secs()
            );
        }
        state.events = now;
    }

    fn dump_is_due(&self) -> bool {
        let state = &self.state;
        let since = state.last_dump.elapsed();
        if state.table.lines.is_empty() {
            return false;
        }
        if state.stale && state.said.is_none() {
            return true;
        }
        let missing = state.stale || state.resync || state.table.lines.any_lost();
        let pause = match state.events {
            _ if missing => return since >= AGAIN.max(state.took),
            Events::Off => WITHOUT_EVENTS,
            _ if state.table.counts.unheard > 0 => UNHEARD,
            _ => AUDIT,
        };
        since >= pause.max(state.took * SHARE)
    }

    /// Reads all connections of the kernel. Events that come meanwhile are taken afterwards: the last word is theirs.
    fn dump(&mut self) {
        let state = &mut self.state;
        let start = Instant::now();
        state.table.counts.resyncs += u64::from(!state.stale && (state.resync || state.table.lines.any_lost()));
        (state.stale, state.resync) = (false, false);
        state.table.begin();
        let table = &mut state.table;
        let asked = Dumper::open(NETLINK_NETFILTER).and_then(|mut dumper| {
            dumper.ask(&encode::dump(), &mut |message| match news(message) {
                Some(News::Lives { told, .. }) => table.lives(told, By::Dump),
                _ => table.counts.undecoded += 1,
            })
        });
        match asked {
            Ok(false) => {
                state.table.sweep();
                state.said = None;
                *self.shared.fault.lock().unwrap_or_else(PoisonError::into_inner) = None;
                self.shared.loaded.store(!state.table.lines.any_lost(), Ordering::Release);
            }
            // Something may be missing in it.
            Ok(true) => state.stale = true,
            Err(error) => {
                state.stale = true;
                self.fault(&error);
            }
        }
        self.state.took = start.elapsed();
        self.state.last_dump = Instant::now();
    }

    fn fault(&mut self, error: &io::Error) {
        let fault = format!("the kernel's connections cannot be followed: {}", words(error));
        if self.state.said.as_ref() != Some(&fault) {
            eprintln!("{fault}");
            *self.shared.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault.clone());
            self.state.said = Some(fault);
        }
    }

    fn publish(&mut self) {
        self.state.table.counts.connections = self.state.table.known.len() as u64;
        *self.shared.counts.lock().unwrap_or_else(PoisonError::into_inner) = self.state.table.counts.clone();
    }

    fn wait(&mut self) {
        let state = &self.state;
        let patience = if state.active && !state.table.lines.is_empty() { EXPORT } else { IDLE };
        let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::ZERO);
        let mut ends =
            [PollFd::new(self.bell.as_fd(), PollFlags::POLLIN), PollFd::new(self.ear.as_fd(), PollFlags::POLLIN)];
        // A signal is as good as an event.
        let _ = poll(&mut ends, patience);
        let mut rung = [0; 64];
        while self.bell.read(&mut rung).is_ok_and(|length| length == rung.len()) {}
    }
}
