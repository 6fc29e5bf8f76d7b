//! How long a change takes to show in forwarded packets.

use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::lab::{Namespace, TwoWays};

const PORT: u16 = 6000;
/// Between two packets, and what the kernel adds to every sleep. It is part of what is measured.
const PACE: Duration = Duration::from_micros(50);
const PATIENCE: Duration = Duration::from_secs(20);

/// A steady stream to an address that both hosts have, and word of the first packet that takes another way.
pub struct Probe {
    stop: Arc<AtomicBool>,
    /// One per host: tell when something arrives.
    armed: [Arc<AtomicBool>; 2],
    arrivals: Receiver<Instant>,
    threads: Vec<JoinHandle<()>>,
}

impl Probe {
    /// Starts a stream to `to`.
    pub fn start(net: &TwoWays, to: &str) -> Probe {
        let to = SocketAddr::new(to.parse().expect("an address"), PORT);
        let any = SocketAddr::new(if to.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() }, 0);
        let stop = Arc::new(AtomicBool::new(false));
        let (tell, arrivals) = channel();
        let mut threads = Vec::new();
        let armed = [&net.fast, &net.slow].map(|host| {
            let armed = Arc::new(AtomicBool::new(false));
            let socket = host.enter(|| UdpSocket::bind(to)).expect("the host has the address");
            let shared = (stop.clone(), armed.clone(), tell.clone());
            threads.push(std::thread::spawn(move || watch(&socket, &shared.0, &shared.1, &shared.2)));
            armed
        });
        let socket = net.client.enter(|| UdpSocket::bind(any)).expect("a socket");
        let stopped = stop.clone();
        threads.push(std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let _ = socket.send_to(&[0; 32], to);
                std::thread::sleep(PACE);
            }
        }));
        Probe { stop, armed, arrivals, threads }
    }

    /// Makes a change and says how long after its first step a packet arrived at a host (0 fast, 1 slow).
    ///
    /// # Panics
    ///
    /// If none arrives.
    pub fn until(&self, host: usize, change: impl FnOnce()) -> Duration {
        // What is still on its way belongs to the last change.
        std::thread::sleep(Duration::from_millis(5));
        while self.arrivals.try_recv().is_ok() {}
        self.armed[host].store(true, Ordering::Relaxed);
        let start = Instant::now();
        change();
        let arrived = self.arrivals.recv_timeout(PATIENCE).expect("the change shows");
        arrived.saturating_duration_since(start)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn watch(socket: &UdpSocket, stop: &AtomicBool, armed: &AtomicBool, tell: &Sender<Instant>) {
    socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a socket of ours");
    let mut packet = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        if socket.recv(&mut packet).is_ok() && armed.swap(false, Ordering::Relaxed) {
            let _ = tell.send(Instant::now());
        }
    }
}

/// An `ip -batch` that is fed line by line.
pub struct Ip(Child);

impl Ip {
    pub fn start(namespace: &Namespace) -> Ip {
        let mut command = namespace.command(&["ip", "-batch", "-"]);
        Ip(command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("ip runs"))
    }

    /// Hands over one command, and does not wait for it.
    pub fn say(&mut self, command: &str) {
        let stdin = self.0.stdin.as_mut().expect("stdin is piped");
        stdin.write_all(format!("{command}\n").as_bytes()).expect("ip listens");
    }

    /// Lets it do all that it was told.
    ///
    /// # Panics
    ///
    /// If something of that failed.
    pub fn finish(mut self) {
        drop(self.0.stdin.take());
        let status = self.0.wait().expect("a child of ours");
        assert!(status.success(), "ip -batch: {status}");
    }
}

impl Drop for Ip {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
