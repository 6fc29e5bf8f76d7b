//! What runs on the end hosts: servers that say who they are, and clients that count.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::namespace::Namespace;

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// A host that answers with its name, on every address it has, until it is dropped.
pub struct Host {
    stop: Arc<AtomicBool>,
    /// Requests served, by TCP connections and UDP datagrams.
    served: Arc<AtomicU64>,
}

/// Who answered.
pub type Answer = Result<String, std::io::Error>;

impl Host {
    /// Serves TCP and UDP on these ports in a namespace. Sockets are bound when this returns.
    pub fn serve(namespace: &Namespace, name: &str, ports: &[u16]) -> Host {
        let stop = Arc::new(AtomicBool::new(false));
        let served = Arc::new(AtomicU64::new(0));
        for port in ports {
            // One socket for both families.
            let address: SocketAddr = SocketAddr::new("::".parse().expect("an address"), *port);
            let (tcp, udp) = namespace.enter(|| {
                let tcp = TcpListener::bind(address).unwrap_or_else(|error| panic!("tcp port {port}: {error}"));
                let udp = UdpSocket::bind(address).unwrap_or_else(|error| panic!("udp port {port}: {error}"));
                (tcp, udp)
            });
            let shared = (stop.clone(), served.clone(), name.to_owned());
            std::thread::spawn(move || serve_tcp(&tcp, &shared.0, &shared.1, &shared.2));
            let shared = (stop.clone(), served.clone(), name.to_owned());
            std::thread::spawn(move || serve_udp(&udp, &shared.0, &shared.1, &shared.2));
        }
        Host { stop, served }
    }

    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn serve_tcp(listener: &TcpListener, stop: &AtomicBool, served: &AtomicU64, name: &str) {
    listener.set_nonblocking(true).expect("a socket of ours");
    while !stop.load(Ordering::Relaxed) {
        let Ok((mut stream, _)) = listener.accept() else {
            std::thread::sleep(Duration::from_millis(2));
            continue;
        };
        served.fetch_add(1, Ordering::Relaxed);
        // The client may go at any time.
        let _ = stream.set_nonblocking(false);
        let _ = stream.set_read_timeout(Some(PATIENCE));
        let mut request = [0; 1024];
        let _ = stream.read(&mut request);
        let _ = stream.write_all(name.as_bytes());
    }
}

fn serve_udp(socket: &UdpSocket, stop: &AtomicBool, served: &AtomicU64, name: &str) {
    socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a socket of ours");
    let mut request = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, client)) = socket.recv_from(&mut request) else { continue };
        served.fetch_add(1, Ordering::Relaxed);
        // The request comes back with the name behind it.
        let mut answer = request[..length].to_vec();
        answer.extend(name.as_bytes());
        let _ = socket.send_to(&answer, client);
    }
}

impl Namespace {
    /// Asks a [`Host`] over TCP who it is.
    pub fn ask_tcp(&self, to: &str, port: u16) -> Answer {
        let to = SocketAddr::new(to.parse::<IpAddr>().expect("an address"), port);
        self.enter(|| {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(b"who?")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })
    }

    /// Asks a [`Host`] over UDP who it is, waiting for `patience`.
    pub fn ask_udp(&self, to: &str, port: u16, patience: Duration) -> Answer {
        let to = SocketAddr::new(to.parse::<IpAddr>().expect("an address"), port);
        self.enter(|| {
            let socket = udp_socket(to)?;
            socket.set_read_timeout(Some(patience))?;
            socket.send(b"?")?;
            let mut answer = [0; 256];
            let length = socket.recv(&mut answer)?;
            Ok(String::from_utf8_lossy(&answer[1..length]).into_owned())
        })
    }
}

fn udp_socket(to: SocketAddr) -> std::io::Result<UdpSocket> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    Ok(socket)
}

/// Numbered datagrams at a steady pace, and their echoes.
pub struct Stream {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    seen: Arc<Mutex<Vec<Seen>>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

struct Seen {
    number: u64,
    at: Instant,
    by: String,
}

/// What became of a [`Stream`].
#[derive(Debug)]
pub struct StreamReport {
    pub sent: u64,
    pub received: u64,
    /// Longest time between two echoes.
    pub longest_gap: Duration,
    /// Who answered, and how often.
    pub answers: std::collections::BTreeMap<String, u64>,
    /// Datagrams that came back more than once.
    pub duplicates: u64,
}

impl StreamReport {
    pub fn lost(&self) -> u64 {
        self.sent - self.received
    }
}

impl Stream {
    /// Starts sending from a namespace, one datagram each `pace`.
    pub fn start(from: &Namespace, to: &str, port: u16, pace: Duration) -> Stream {
        let to = SocketAddr::new(to.parse::<IpAddr>().expect("an address"), port);
        let socket = from.enter(|| udp_socket(to)).unwrap_or_else(|error| panic!("udp to {to}: {error}"));
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a socket of ours");
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let seen = Arc::new(Mutex::new(Vec::new()));

        let sender = socket.try_clone().expect("a second handle");
        let (stopped, counted) = (stop.clone(), sent.clone());
        let send = std::thread::spawn(move || {
            let mut due = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                let number = counted.load(Ordering::Relaxed);
                // An ICMP error of an earlier datagram shows here; the count of what came back tells.
                let _ = sender.send(&number.to_be_bytes());
                counted.store(number + 1, Ordering::Relaxed);
                due += pace;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
        });
        let (stopped, collected) = (stop.clone(), seen.clone());
        let receive = std::thread::spawn(move || {
            let mut answer = [0; 256];
            let mut grace = None;
            loop {
                if let Ok(length) = socket.recv(&mut answer)
                    && let Some((number, name)) = answer[..length].split_first_chunk::<8>()
                {
                    let by = String::from_utf8_lossy(name).into_owned();
                    let number = u64::from_be_bytes(*number);
                    collected.lock().expect("no panic there").push(Seen { number, at: Instant::now(), by });
                }
                // The last echoes are still on their way when the sender stops.
                if stopped.load(Ordering::Relaxed) {
                    let end = *grace.get_or_insert_with(|| Instant::now() + Duration::from_millis(300));
                    if Instant::now() > end {
                        return;
                    }
                }
            }
        });
        Stream { stop, sent, seen, threads: vec![send, receive] }
    }

    /// Who answered last.
    pub fn last_answer(&self) -> Option<String> {
        self.seen.lock().expect("no panic there").last().map(|seen| seen.by.clone())
    }

    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub fn received(&self) -> u64 {
        self.seen.lock().expect("no panic there").len() as u64
    }

    /// Stops and sums up.
    pub fn finish(self) -> StreamReport {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a thread of ours");
        }
        let seen = self.seen.lock().expect("no panic there");
        let mut report = StreamReport {
            sent: self.sent.load(Ordering::Relaxed),
            received: 0,
            longest_gap: Duration::ZERO,
            answers: Default::default(),
            duplicates: 0,
        };
        let mut numbers = std::collections::HashSet::new();
        for one in seen.iter() {
            if numbers.insert(one.number) {
                report.received += 1;
                *report.answers.entry(one.by.clone()).or_default() += 1;
            } else {
                report.duplicates += 1;
            }
        }
        let gaps = seen.windows(2).map(|pair| pair[1].at - pair[0].at);
        report.longest_gap = gaps.max().unwrap_or_default();
        report
    }
}
