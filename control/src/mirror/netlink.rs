//! Dumps and events over netlink sockets of our own: interrupted dumps and undecodable messages must be seen, not swallowed.

use std::io;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{AsyncSocket, AsyncSocketExt, Socket, SocketAddr, TokioSocket};

/// How often an interrupted dump is tried again at once.
const ATTEMPTS: u32 = 20;
/// Receive buffer of the event socket in bytes: bursts of route changes wait here (the kernel caps it at rmem_max).
const EVENT_BUFFER: usize = 8 << 20;
const HEADER: usize = 16;

/// The answer to a dump.
#[derive(Debug, Default)]
pub struct Dump {
    pub messages: Vec<RouteNetlinkMessage>,
    /// What could not be decoded, for the operator.
    pub undecodable: Vec<String>,
    /// How often the dump was interrupted by a change and taken again.
    pub retried: u64,
}

/// Asks the kernel for all objects of a kind.
#[derive(Debug)]
pub struct Dumper {
    socket: Socket,
    sequence: u32,
}

impl Dumper {
    pub fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Without it the kernel ignores filters in the request. Old kernels do not know it.
        let _ = socket.set_netlink_get_strict_chk(true);
        Ok(Dumper { socket, sequence: 0 })
    }

    /// Takes a dump that no change has interrupted. The kernel makes it while we read, so this never waits for long.
    pub fn dump(&mut self, request: RouteNetlinkMessage) -> io::Result<Dump> {
        let mut dump = Dump::default();
        for _ in 0..ATTEMPTS {
            let mut answer = Dump { retried: dump.retried, ..Dump::default() };
            let interrupted =
                self.ask(serialized(request.clone()), &mut |kind, bytes| {
                    match NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes).map(|message| message.payload) {
                        Ok(NetlinkPayload::InnerMessage(message)) => answer.messages.push(message),
                        Ok(_) => {}
                        Err(error) => answer.undecodable.push(format!("netlink message of type {kind}: {error}")),
                    }
                })?;
            if !interrupted {
                return Ok(answer);
            }
            dump.retried += 1;
        }
        Err(io::Error::other(format!("a dump was interrupted by changes {ATTEMPTS} times in a row")))
    }

    /// Sends a finished request and gives every answering message to `take`, whole. Says whether the dump was interrupted.
    pub fn ask(&mut self, mut request: Vec<u8>, take: &mut dyn FnMut(u16, &[u8])) -> io::Result<bool> {
        self.sequence += 1;
        let sequence = self.sequence;
        request[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.socket.send(&request, 0)?;
        let mut interrupted = false;
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut done = false;
            each_message(&datagram, |header, bytes| {
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
                    kind => take(kind, bytes),
                }
                Ok(())
            })?;
            if done {
                return Ok(interrupted);
            }
        }
    }
}

fn serialized(request: RouteNetlinkMessage) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Calls `take` with each whole message of a datagram; what is cut short ends it.
fn each_message(
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
    Ok(())
}

/// A socket that hears of changes.
pub struct Events {
    socket: TokioSocket,
}

/// What was heard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    /// Types of the messages (`RTM_*`, or subsystem and type of nfnetlink).
    Types(Vec<u16>),
    /// The kernel had to throw messages away (ENOBUFS).
    Lost,
}

impl Events {
    /// Joins the groups of a protocol.
    pub fn open(protocol: isize, groups: &[u32]) -> io::Result<Self> {
        let mut socket = <TokioSocket as AsyncSocket>::new(protocol)?;
        socket.socket_mut().bind_auto()?;
        for group in groups {
            socket.socket_mut().add_membership(*group)?;
        }
        let _ = socket.socket_ref().set_rx_buf_sz(EVENT_BUFFER as u32);
        Ok(Events { socket })
    }

    /// Waits for news. Cancel-safe.
    pub async fn heard(&mut self) -> io::Result<Heard> {
        heard(self.socket.recv_from_full().await)
    }

    /// What else has arrived by now.
    pub fn pending(&self) -> Option<Heard> {
        heard(self.socket.socket_ref().recv_from_full()).ok()
    }
}

fn heard(received: io::Result<(Vec<u8>, SocketAddr)>) -> io::Result<Heard> {
    let datagram = match received {
        Ok((datagram, _)) => datagram,
        Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(Heard::Lost),
        Err(error) => return Err(error),
    };
    let mut types = Vec::new();
    each_message(&datagram, |header, _| {
        types.push(header.message_type());
        Ok(())
    })?;
    Ok(Heard::Types(types))
}
