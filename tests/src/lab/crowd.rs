//! Very many short connections: how fast a router lets new ones begin.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, connect, listen, socket};

use super::Namespace;

/// How long one connection may take: several SYNs are lost before.
const PATIENCE: Duration = Duration::from_secs(20);
/// A SYN is sent again after a second: who took nearly as long has lost one.
const REPEATED: Duration = Duration::from_millis(900);
/// At once: a closed loop. More would only wait in queues, and what these have no room for would measure TCP's repetitions.
const AT_ONCE: usize = 256;
/// Begun between two looks at those that go on.
const BURST: usize = 64;
const PORTS: std::ops::Range<usize> = 1024..65_000;

/// Connections to begin. Each is of another source address and port, sends a byte, gets its complement, sees the other end close, and
/// closes.
pub struct Crowd {
    /// A second.
    pub rate: u32,
    pub time: Duration,
    /// Addresses of the client, by turns.
    pub sources: Vec<Ipv4Addr>,
    pub targets: Vec<SocketAddrV4>,
}

/// What became of a [`Crowd`].
#[derive(Debug)]
pub struct CrowdReport {
    pub opened: u64,
    /// To the end, with the right answer.
    pub completed: u64,
    /// The others, by what happened.
    pub failed: BTreeMap<String, u64>,
    /// Completed, and a packet was sent again for it.
    pub repeated: u64,
    /// Until the last was over.
    pub took: Duration,
    /// From first to last, sorted.
    times: Vec<Duration>,
}

impl CrowdReport {
    /// Connections a second.
    pub fn rate(&self) -> f64 {
        self.completed as f64 / self.took.as_secs_f64()
    }

    /// The time that this share of the connections did not exceed.
    pub fn quantile(&self, share: f64) -> Duration {
        let rank = (share * self.times.len() as f64).ceil() as usize;
        self.times.get(rank.max(1) - 1).copied().unwrap_or_default()
    }
}

impl fmt::Display for CrowdReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} connections, {:.0} a second, {} with a packet repeated; median {:?}, p99 {:?}, longest {:?}; failed {:?}",
            self.completed,
            self.opened,
            self.rate(),
            self.repeated,
            self.quantile(0.5),
            self.quantile(0.99),
            self.quantile(1.0),
            self.failed
        )
    }
}

/// One connection of the client.
struct Call {
    stream: TcpStream,
    begun: Instant,
    byte: u8,
    asked: bool,
    answered: bool,
}

impl Crowd {
    /// Comes from a namespace, and waits until all is over.
    ///
    /// # Panics
    ///
    /// If a connection cannot even be begun.
    pub fn come_from(&self, client: &Namespace) -> CrowdReport {
        many_files();
        client.enter(|| self.come())
    }

    fn come(&self) -> CrowdReport {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("an epoll");
        let mut report = CrowdReport {
            opened: 0,
            completed: 0,
            failed: BTreeMap::new(),
            repeated: 0,
            took: Duration::ZERO,
            times: Vec::new(),
        };
        // By the number of the descriptor.
        let mut calls: Vec<Option<Call>> = Vec::new();
        let mut going = 0;
        let total = (f64::from(self.rate) * self.time.as_secs_f64()) as u64;
        let start = Instant::now();
        let mut events = vec![EpollEvent::empty(); 256];
        let mut looked = start;
        while report.opened < total || going > 0 {
            let due = ((start.elapsed().as_secs_f64() * f64::from(self.rate)) as u64).min(total);
            for _ in 0..BURST.min(due.saturating_sub(report.opened) as usize).min(AT_ONCE - going) {
                let call = self.begin(&epoll, report.opened as usize);
                report.opened += 1;
                going += 1;
                let at = call.stream.as_raw_fd() as usize;
                calls.resize_with(calls.len().max(at + 1), || None);
                calls[at] = Some(call);
            }
            let patience =
                if report.opened < due && going < AT_ONCE { EpollTimeout::ZERO } else { EpollTimeout::from(1u8) };
            let ready = epoll.wait(&mut events, patience).unwrap_or(0);
            for event in &events[..ready] {
                let place = &mut calls[event.data() as usize];
                let Some(ended) = place.as_mut().and_then(Call::go_on) else { continue };
                let call = place.take().expect("it has just gone on");
                going -= 1;
                report.over(&call, ended);
            }
            if looked.elapsed() > Duration::from_secs(1) {
                looked = Instant::now();
                for place in &mut calls {
                    if let Some(call) = place.take_if(|call| call.begun.elapsed() > PATIENCE) {
                        going -= 1;
                        report.over(&call, Err(format!("nothing more after {PATIENCE:?}")));
                    }
                }
            }
        }
        report.took = start.elapsed();
        report.times.sort();
        report
    }

    fn begin(&self, epoll: &Epoll, number: usize) -> Call {
        let fd = stream_socket();
        let source = self.sources[number % self.sources.len()];
        let port = PORTS.start + number / self.sources.len() % PORTS.len();
        bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(source, port as u16))).expect("a port that is free");
        let begun = Instant::now();
        match connect(fd.as_raw_fd(), &SockaddrIn::from(self.targets[number % self.targets.len()])) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(error) => panic!("{source}:{port}: {error}"),
        }
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        epoll.add(&fd, EpollEvent::new(flags, fd.as_raw_fd() as u64)).expect("a new descriptor");
        Call { stream: fd.into(), begun, byte: number as u8, asked: false, answered: false }
    }
}

impl CrowdReport {
    fn over(&mut self, call: &Call, ended: Result<(), String>) {
        let time = call.begun.elapsed();
        match ended {
            Ok(()) => {
                self.completed += 1;
                self.repeated += u64::from(time > REPEATED);
                self.times.push(time);
            }
            Err(what) => *self.failed.entry(what).or_default() += 1,
        }
    }
}

impl Call {
    /// How it has ended, if it has.
    fn go_on(&mut self) -> Option<Result<(), String>> {
        let pending = |error: &std::io::Error| {
            matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::NotConnected)
        };
        if !self.asked {
            match self.stream.write(&[self.byte]) {
                Ok(_) => self.asked = true,
                Err(error) if pending(&error) => return None,
                Err(error) => return Some(Err(format!("opening: {error}"))),
            }
        }
        loop {
            let mut answer = [0; 4];
            match self.stream.read(&mut answer) {
                Ok(0) if self.answered => return Some(Ok(())),
                Ok(1) if answer[0] == !self.byte && !self.answered => self.answered = true,
                Ok(length) => return Some(Err(format!("a wrong answer of {length} bytes"))),
                Err(error) if pending(&error) => return None,
                Err(error) => return Some(Err(format!("waiting: {error}"))),
            }
        }
    }
}

/// The other end of a [`Crowd`]: answers a byte with its complement and closes. Serves until it is dropped.
pub struct CrowdServer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl CrowdServer {
    /// Listens when this returns, on all addresses.
    pub fn serve(namespace: &Namespace, port: u16) -> CrowdServer {
        many_files();
        let listener = namespace.enter(|| {
            let fd = stream_socket();
            bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)))
                .expect("a free port");
            listen(&fd, Backlog::new(4096).expect("a backlog")).expect("a listener");
            TcpListener::from(fd)
        });
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || serve(&listener, &stopped));
        CrowdServer { stop, thread: Some(thread) }
    }
}

impl Drop for CrowdServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(listener: &TcpListener, stop: &AtomicBool) {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("an epoll");
    let of_listener = listener.as_raw_fd() as u64;
    epoll.add(listener.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, of_listener)).expect("a new descriptor");
    let mut streams: Vec<Option<TcpStream>> = Vec::new();
    let mut events = vec![EpollEvent::empty(); 256];
    while !stop.load(Ordering::Relaxed) {
        let ready = epoll.wait(&mut events, EpollTimeout::from(50u8)).unwrap_or(0);
        for event in &events[..ready] {
            if event.data() != of_listener {
                let place = &mut streams[event.data() as usize];
                // Closed by going.
                place.take_if(answer);
                continue;
            }
            while let Ok((mut stream, _)) = listener.accept() {
                let _ = stream.set_nonblocking(true);
                if answer(&mut stream) {
                    continue;
                }
                let at = stream.as_raw_fd() as usize;
                let waits = EpollEvent::new(EpollFlags::EPOLLIN, at as u64);
                epoll.add(stream.as_fd(), waits).expect("a new descriptor");
                streams.resize_with(streams.len().max(at + 1), || None);
                streams[at] = Some(stream);
            }
        }
    }
}

/// Says whether the connection is over.
fn answer(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    match stream.read(&mut byte) {
        Ok(1) => {
            // The client sees whether it has come.
            let _ = stream.write(&[!byte[0]]);
            true
        }
        Ok(_) => true,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

fn stream_socket() -> OwnedFd {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    socket(AddressFamily::Inet, SockType::Stream, flags, None).expect("a socket")
}

/// As many descriptors as the process may have.
fn many_files() {
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}
