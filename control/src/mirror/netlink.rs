//! Dumps and events over netlink sockets of our own: interrupted dumps and undecodable messages must be seen, not swallowed.

use std::io;

use netlink_packet_core::{NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{AsyncSocket, AsyncSocketExt, Socket, SocketAddr, TokioSocket};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

use super::attributes::{HEADER, Request};

/// How often an interrupted dump is tried again at once.
const ATTEMPTS: u32 = 20;
/// An answer that has not begun by then is lost. What waits for the RTNL does so in the kernel, whatever is said here.
const PATIENCE: TimeVal = TimeVal::new(1, 0);
/// Receive buffer of the event sockets in bytes, unless the operator wants another: bursts of route changes wait here. Beyond
/// rmem_max only root may go.
pub const EVENT_BUFFER: usize = 64 << 20;
/// No datagram is longer: the kernel fills 32 KiB at most when it dumps.
const LONGEST: usize = 256 << 10;

/// Asks the kernel for all objects of a kind.
#[derive(Debug)]
pub struct Dumper {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Dumper {
    pub fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Without it the kernel ignores filters in the request. Old kernels do not know it.
        let _ = socket.set_netlink_get_strict_chk(true);
        setsockopt(&socket, sockopt::ReceiveTimeout, &PATIENCE)?;
        Ok(Dumper { socket, sequence: 0, buffer: Vec::with_capacity(LONGEST) })
    }

    /// Takes a dump that no change has interrupted, and says how often it took more than one attempt. `take` gets each message
    /// whole. The kernel makes the dump while we read, so this never waits for long.
    pub fn dump<T: Default>(&mut self, request: &Request, mut take: impl FnMut(&mut T, &[u8])) -> io::Result<(T, u64)> {
        for retried in 0..ATTEMPTS {
            let mut answer = T::default();
            if !self.ask(request, &mut |message| take(&mut answer, message))? {
                return Ok((answer, retried.into()));
            }
        }
        Err(io::Error::other(format!("a dump was interrupted by changes {ATTEMPTS} times in a row")))
    }

    /// Sends a request and gives every answering message to `take`, whole. Says whether a dump was interrupted.
    ///
    /// # Errors
    ///
    /// The kernel's, and that no answer came. After a dump that failed the next one wants another socket: the kernel may be at it.
    pub fn ask(&mut self, request: &Request, take: &mut dyn FnMut(&[u8])) -> io::Result<bool> {
        self.sequence += 1;
        let sequence = self.sequence;
        let request = request.clone().finish(sequence);
        // NLM_F_MULTI is on what belongs to a dump; a single answer has none and nothing behind it.
        let is_dump = request.get(6..8).is_some_and(|flags| flags[1] & 0x3 == 0x3);
        self.socket.send(&request, 0)?;
        let mut interrupted = false;
        loop {
            self.buffer.clear();
            // From the kernel alone: the socket is connected (netlink_getsockbyportid).
            self.socket.recv(&mut self.buffer, 0).map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "the kernel does not answer"),
                _ => error,
            })?;
            let mut done = false;
            each_message(&self.buffer, |header, bytes| {
                if header.sequence_number() != sequence {
                    return Ok(());
                }
                interrupted |= header.flags() & NLM_F_DUMP_INTR != 0;
                match header.message_type() {
                    NLMSG_DONE => done = true,
                    NLMSG_ERROR => {
                        done = true;
                        // struct nlmsgerr: a negative errno, 0 is an acknowledgement.
                        let code = bytes.get(HEADER..HEADER + 4).and_then(|code| code.try_into().ok());
                        let code = code.map_or(0, i32::from_ne_bytes);
                        if code != 0 {
                            return Err(io::Error::from_raw_os_error(-code));
                        }
                    }
                    _ => {
                        done |= !is_dump;
                        take(bytes);
                    }
                }
                Ok(())
            })?;
            if done {
                return Ok(interrupted);
            }
        }
    }
}

/// What the library decodes in full: links, qdiscs.
pub fn decoded(message: &[u8]) -> Option<RouteNetlinkMessage> {
    match NetlinkMessage::<RouteNetlinkMessage>::deserialize(message).ok()?.payload {
        NetlinkPayload::InnerMessage(message) => Some(message),
        _ => None,
    }
}

/// Calls `take` with each whole message of a datagram.
///
/// # Errors
///
/// Those of `take`, and that the datagram ends in the middle of a message: something was not told.
pub fn each_message(
    datagram: &[u8],
    mut take: impl FnMut(&NetlinkBuffer<&[u8]>, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut rest = datagram;
    while let Ok(header) = NetlinkBuffer::new_checked(rest) {
        let length = header.length() as usize;
        if length < HEADER {
            break;
        }
        take(&header, &rest[..length])?;
        // Messages start at multiples of four (NLMSG_ALIGN).
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    match rest {
        [] => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a datagram of the kernel's is cut short")),
    }
}

/// A socket that hears of changes.
pub struct Events {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

/// What was heard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heard<'a> {
    /// Messages, see [`each_message`].
    Datagram(&'a [u8]),
    /// The kernel had to throw messages away (ENOBUFS).
    Lost,
    /// Not from the kernel, and not to be believed.
    Stranger,
}

impl Events {
    /// Joins the groups of a protocol. `room` is the size of the receive buffer in bytes.
    pub fn open(protocol: isize, groups: &[u32], room: usize) -> io::Result<Self> {
        let mut socket = <TokioSocket as AsyncSocket>::new(protocol)?;
        socket.socket_mut().bind_auto()?;
        for group in groups {
            socket.socket_mut().add_membership(*group)?;
        }
        let fd = socket.socket_ref();
        if setsockopt(fd, sockopt::RcvBufForce, &room).is_err() {
            let _ = fd.set_rx_buf_sz(u32::try_from(room).unwrap_or(u32::MAX));
        }
        Ok(Events { socket, buffer: Vec::with_capacity(LONGEST) })
    }

    /// Waits for news. Cancel-safe.
    pub async fn heard(&mut self) -> io::Result<Heard<'_>> {
        self.buffer.clear();
        let received = self.socket.recv_from(&mut self.buffer).await;
        heard(received, &self.buffer)
    }

    /// What else has arrived by now.
    pub fn pending(&mut self) -> Option<Heard<'_>> {
        self.buffer.clear();
        let received = self.socket.socket_ref().recv_from(&mut self.buffer, libc::MSG_DONTWAIT);
        heard(received.map(|(_, sender)| sender), &self.buffer).ok()
    }
}

fn heard(received: io::Result<SocketAddr>, buffer: &[u8]) -> io::Result<Heard<'_>> {
    match received {
        // Only the kernel has this number. Whoever has CAP_NET_ADMIN can send to our socket, and to its groups.
        Ok(sender) if sender.port_number() == 0 => Ok(Heard::Datagram(buffer)),
        Ok(_) => Ok(Heard::Stranger),
        Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(Heard::Lost),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::NLM_F_REQUEST;
    use netlink_sys::protocols::NETLINK_ROUTE;

    use super::*;

    #[test]
    fn an_answer_that_does_not_come_is_an_error() {
        let mut dumper = Dumper::open(NETLINK_ROUTE).unwrap();
        // NLMSG_NOOP is taken without a word.
        let error = dumper.ask(&Request::new(1, NLM_F_REQUEST, &[]), &mut |_| {}).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
