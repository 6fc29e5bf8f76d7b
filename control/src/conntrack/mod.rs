//! Keeps the kernel's connections and the workers' in step, by ctnetlink.
//!
//! Workers hear of every connection that the kernel has, so that no tuple is given twice, and may go on with those that are forwarded.
//! The kernel hears of theirs, so that it can go on with them when a packet is punted or when we are gone.
//!
//! Whatever is lost on the way is found in the next dump: when the kernel had to throw events away, when the queue of a worker was
//! full, and now and then without cause (connections that began before anybody listened give no events).

mod attributes;
mod counts;
mod decode;
mod ear;
mod encode;
mod export;
mod known;
mod lines;
mod place;
mod settings;
mod table;
#[cfg(test)]
mod tests;
mod thread;

use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use shunt_policy::Ifindex;

pub use counts::Counts;
pub use lines::Line;
pub use settings::settings;

use ear::Ear;
use export::Export;
use thread::{State, Thread};

/// How long workers' last words may take to reach the kernel.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The thread that does it ends with this.
pub struct Conntrack {
    commands: Sender<Command>,
    bell: UnixStream,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

enum Command {
    Connect(Vec<Line>),
    Disconnect(SyncSender<()>),
    Local(Vec<IpAddr>),
    Active(bool),
    Gone(Ifindex, Option<IpAddr>),
    Stop,
}

/// Written by the thread, read by whoever asks.
#[derive(Default)]
struct Shared {
    /// Released when all was handed to the workers.
    loaded: AtomicBool,
    counts: Mutex<Counts>,
    fault: Mutex<Option<String>>,
}

impl Conntrack {
    /// In the network namespace of the calling thread; not active at first.
    ///
    /// # Errors
    ///
    /// The kernel has no netfilter netlink, or no thread for us.
    pub fn start() -> io::Result<Self> {
        let (ear, export) = (Ear::open()?, Export::open()?);
        let (bell, rung) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        rung.set_nonblocking(true)?;
        let (commands, obeyed) = mpsc::channel();
        let shared = Arc::new(Shared::default());
        let thread = Thread { ear, export, commands: obeyed, bell: rung, shared: shared.clone(), state: State::new() };
        let thread = std::thread::Builder::new().name("conntrack".to_owned()).spawn(|| thread.run())?;
        Ok(Conntrack { commands, bell, shared, thread: Some(thread) })
    }

    /// Workers have begun, which know of no connection: one line each, in the order of their numbers. They are told the settings and all
    /// that the kernel has.
    pub fn connect(&self, lines: Vec<Line>) {
        self.shared.loaded.store(false, Ordering::Release);
        self.command(Command::Connect(lines));
    }

    /// Workers have stopped: what they have said by now reaches the kernel before this returns, or is lost after a second.
    pub fn disconnect(&self) {
        let (done, finished) = sync_channel(1);
        self.command(Command::Disconnect(done));
        let _ = finished.recv_timeout(LAST_WORDS);
    }

    /// All addresses of the router. Until they are known no worker may go on with a connection of the kernel's.
    pub fn local_addresses(&self, addresses: Vec<IpAddr>) {
        self.command(Command::Local(addresses));
    }

    /// Whether there is anything that needs connections. If not, nobody is told anything, and the kernel does not even make the events.
    pub fn set_active(&self, active: bool) {
        if !active {
            self.shared.loaded.store(false, Ordering::Release);
        }
        self.command(Command::Active(active));
    }

    /// An interface is down or gone, or has lost this address: connections that are masqueraded behind it end.
    pub fn address_gone(&self, oif: Ifindex, address: Option<IpAddr>) {
        self.command(Command::Gone(oif, address));
    }

    /// The workers have been told of all connections that the kernel had when they began, or when this became active.
    pub fn is_loaded(&self) -> bool {
        self.shared.loaded.load(Ordering::Acquire)
    }

    pub fn counts(&self) -> Counts {
        self.shared.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why the kernel's connections cannot be followed, if they cannot.
    pub fn fault(&self) -> Option<String> {
        self.shared.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn command(&self, command: Command) {
        // Without the thread there is nobody to obey; a full bell rings already.
        let _ = self.commands.send(command);
        let _ = (&self.bell).write(&[0]);
    }
}

impl Drop for Conntrack {
    fn drop(&mut self) {
        self.command(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
