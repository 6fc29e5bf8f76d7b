//! A server that says by what address it sees its client: what translation has made of it.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use shunt_lab::Namespace;

const PATIENCE: Duration = Duration::from_secs(5);
const PIECE: usize = 1 << 16;

/// Serves until it is dropped.
///
/// Over UDP the request comes back with the client's address behind it. Over TCP it speaks HTTP: a number as path is a file of so many
/// bytes, every other path one that holds the client's address.
pub struct Witness {
    stop: Arc<AtomicBool>,
}

impl Witness {
    /// Listens to TCP and UDP at these addresses (`198.18.0.25:80`, `[::]:80`). Sockets are bound when this returns.
    pub fn serve(namespace: &Namespace, addresses: &[&str]) -> Witness {
        let stop = Arc::new(AtomicBool::new(false));
        for address in addresses {
            let address: SocketAddr = address.parse().unwrap_or_else(|_| panic!("{address} is no address"));
            let (tcp, udp) = namespace.enter(|| {
                let tcp = TcpListener::bind(address).unwrap_or_else(|error| panic!("tcp {address}: {error}"));
                let udp = UdpSocket::bind(address).unwrap_or_else(|error| panic!("udp {address}: {error}"));
                (tcp, udp)
            });
            let stopped = stop.clone();
            std::thread::spawn(move || listen(&tcp, &stopped));
            let stopped = stop.clone();
            std::thread::spawn(move || echo(&udp, &stopped));
        }
        Witness { stop }
    }

    /// Asks a witness over UDP from a port of this namespace (`0.0.0.0:500`) how it sees us. The address is asked again if a datagram is lost.
    pub fn sees(client: &Namespace, from: &str, to: &str) -> std::io::Result<SocketAddr> {
        client.enter(|| {
            let socket = UdpSocket::bind(from)?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(Duration::from_millis(700)))?;
            let mut last = Ok(0);
            let mut answer = [0; 256];
            for _ in 0..3 {
                socket.send(b"?")?;
                last = socket.recv(&mut answer);
                if let Ok(length) = last {
                    let text = String::from_utf8_lossy(&answer[1..length]);
                    return text.parse().map_err(|_| std::io::ErrorKind::InvalidData.into());
                }
            }
            last.map(|_| unreachable!("an answer is returned"))
        })
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn listen(listener: &TcpListener, stop: &AtomicBool) {
    listener.set_nonblocking(true).expect("a socket of ours");
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            // The client may go at any time.
            Ok((stream, client)) => drop(std::thread::spawn(move || answer(stream, client))),
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn answer(mut stream: TcpStream, client: SocketAddr) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut request = String::new();
    let mut lines = BufReader::new(stream.try_clone()?);
    lines.read_line(&mut request)?;
    let mut header = String::from("more");
    while !header.trim_end().is_empty() {
        header.clear();
        lines.read_line(&mut header)?;
    }
    let path = request.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
    let Ok(mut length) = path.parse::<usize>() else {
        let text = as_seen(client);
        return write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
    };
    write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n")?;
    let piece = [b'x'; PIECE];
    while length > 0 {
        let now = length.min(PIECE);
        stream.write_all(&piece[..now])?;
        length -= now;
    }
    Ok(())
}

fn echo(socket: &UdpSocket, stop: &AtomicBool) {
    socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a socket of ours");
    let mut request = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, client)) = socket.recv_from(&mut request) else { continue };
        let mut answer = request[..length].to_vec();
        answer.extend(as_seen(client).as_bytes());
        let _ = socket.send_to(&answer, client);
    }
}

/// A socket of both families shows IPv4 as a part of IPv6.
fn as_seen(client: SocketAddr) -> String {
    SocketAddr::new(client.ip().to_canonical(), client.port()).to_string()
}
