//! Giving workers' connections to the kernel, many in one system call.

use std::collections::{BTreeMap, HashSet};
use std::io;

use netlink_packet_core::NLMSG_ERROR;
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use shunt_dataplane::conn::exchange::FromWorker;
use shunt_dataplane::conn::record::Record;
use shunt_policy::connection::Tuple;

use super::encode;
use super::table::Table;
use crate::mirror::attributes::HEADER;
use crate::mirror::netlink::each_message;

/// Requests in one system call, of at most 400 bytes each: below the send buffer that a socket has (wmem_default).
const BATCH: usize = 256;
/// Room for the answers to a batch.
const ANSWERS: usize = 4 << 20;

pub(super) struct Export {
    socket: Socket,
    port: u32,
    sequence: u32,
    batch: Vec<u8>,
    answers: Vec<u8>,
    asked: Vec<Asked>,
    /// What the batch is about: it has no two requests for one connection, the second may depend on what becomes of the first.
    about: HashSet<Tuple>,
    /// The operator was told of these.
    said: HashSet<i32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asked {
    Create(Record),
    /// With the bits of the status that the kernel has already; without the status the second time.
    Update(Record, Option<u32>),
    Delete {
        original: Tuple,
    },
}

impl Export {
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        let port = socket.bind_auto()?.port_number();
        socket.connect(&SocketAddr::new(0, 0))?;
        // An error brings the header of the request back, not all of it.
        socket.set_cap_ack(true)?;
        if setsockopt(&socket, sockopt::RcvBufForce, &ANSWERS).is_err() {
            let _ = socket.set_rx_buf_sz(ANSWERS as u32);
        }
        Ok(Export {
            socket,
            port,
            sequence: 0,
            batch: Vec::new(),
            answers: Vec::with_capacity(64 << 10),
            asked: Vec::with_capacity(BATCH),
            about: HashSet::new(),
            said: HashSet::new(),
        })
    }

    /// Events that we have brought about carry this number (`nlmsg_pid`).
    pub fn port(&self) -> u32 {
        self.port
    }

    /// `heard` says that the kernel tells of what we give it from then on.
    pub fn take(&mut self, table: &mut Table, message: FromWorker, heard: bool) {
        let original = match message {
            FromWorker::Lives(record) => record.original,
            FromWorker::Ended { original, .. } => original,
        };
        if self.asked.len() == BATCH || self.about.contains(&original) {
            self.flush(table, heard);
        }
        let entry = table.known.get(&(0, original));
        let asked = match message {
            FromWorker::Lives(record) => match entry {
                None => Asked::Create(record),
                Some(entry) if entry.reply == record.reply => Asked::Update(record, Some(record.status | entry.status)),
                Some(_) => return self.refused(table, libc::EEXIST),
            },
            // Another one has come in its place.
            FromWorker::Ended { reply, .. } if entry.is_some_and(|entry| entry.reply != reply) => return,
            FromWorker::Ended { .. } => Asked::Delete { original },
        };
        self.about.insert(original);
        self.ask(asked);
    }

    /// Sends what was taken. The kernel answers before the call is over, and only what it refuses.
    pub fn flush(&mut self, table: &mut Table, heard: bool) {
        // What is refused may be asked once more in another way, and that twice at most: update, create, update.
        for _ in 0..3 {
            if self.asked.is_empty() {
                return;
            }
            let first = self.sequence.wrapping_sub(self.asked.len() as u32);
            let asked = std::mem::take(&mut self.asked);
            let refusals = match self.socket.send(&self.batch, 0) {
                Ok(_) => self.refusals(table, first),
                Err(error) => {
                    let code = error.raw_os_error().unwrap_or(libc::EIO);
                    (0..asked.len()).map(|at| (at, code)).collect()
                }
            };
            self.batch.clear();
            self.about.clear();
            for (at, asked) in asked.into_iter().enumerate() {
                match refusals.get(&at) {
                    None => Self::granted(table, asked, heard),
                    Some(code) => self.again(table, asked, *code),
                }
            }
        }
    }

    fn ask(&mut self, asked: Asked) {
        match &asked {
            Asked::Create(record) => encode::create(&mut self.batch, self.sequence, record),
            Asked::Update(record, status) => encode::update(&mut self.batch, self.sequence, record, *status),
            Asked::Delete { original } => encode::delete(&mut self.batch, self.sequence, original),
        }
        self.asked.push(asked);
        self.sequence = self.sequence.wrapping_add(1);
    }

    /// Which requests of the batch the kernel has refused, and why.
    fn refusals(&mut self, table: &mut Table, first: u32) -> BTreeMap<usize, i32> {
        let mut refusals = BTreeMap::new();
        loop {
            self.answers.clear();
            match self.socket.recv(&mut self.answers, libc::MSG_DONTWAIT) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.refused(table, libc::ENOBUFS);
                    continue;
                }
                Err(_) => return refusals,
            }
            let read = each_message(&self.answers, |header, bytes| {
                // struct nlmsgerr: a negative errno; 0 is an acknowledgement.
                let code = bytes.get(HEADER..HEADER + 4).and_then(|code| code.try_into().ok()).map(i32::from_ne_bytes);
                if let (NLMSG_ERROR, Some(code)) = (header.message_type(), code)
                    && code != 0
                {
                    refusals.insert(header.sequence_number().wrapping_sub(first) as usize, code.saturating_neg());
                }
                Ok(())
            });
            table.counts.undecoded += u64::from(read.is_err());
        }
    }

    fn granted(table: &mut Table, asked: Asked, heard: bool) {
        match asked {
            Asked::Create(record) => table.exported(&record, heard),
            Asked::Update(record, _) => table.exported(&record, false),
            Asked::Delete { original } => {
                table.known.remove(&(0, original));
                table.counts.deleted += 1;
            }
        }
    }

    /// What was refused is asked in another way, if there is one.
    fn again(&mut self, table: &mut Table, asked: Asked, code: i32) {
        match (asked, code) {
            // It has ended there meanwhile, its time-out was over.
            (Asked::Update(record, _), libc::ENOENT) => {
                table.known.remove(&(0, record.original));
                self.ask(Asked::Create(record));
            }
            // The kernel has set a bit since that we have not (nf_ct_change_status_common).
            (Asked::Update(record, Some(_)), libc::EBUSY) => self.ask(Asked::Update(record, None)),
            (Asked::Delete { original }, libc::ENOENT) => {
                table.known.remove(&(0, original));
            }
            _ => self.refused(table, code),
        }
    }

    fn refused(&mut self, table: &mut Table, code: i32) {
        *table.counts.export_failed.entry(code).or_default() += 1;
        if self.said.insert(code) {
            let error = io::Error::from_raw_os_error(code);
            eprintln!(
                "the kernel does not take a connection of ours (said once, see `shunt status`): {}",
                words(&error)
            );
        }
    }
}

/// What an operator can do about it.
pub(super) fn words(error: &io::Error) -> String {
    let cause = match error.raw_os_error() {
        Some(libc::EEXIST) => "another of its connections has these addresses and ports",
        Some(libc::ENOMEM) => "its table is full, net.netfilter.nf_conntrack_max is the limit",
        Some(libc::ENOSPC) => "a row of its table is full, net.netfilter.nf_conntrack_buckets is too small",
        Some(libc::EBUSY) => {
            "it keeps the connection as it is: a flow table forwards it, or its status cannot be taken back"
        }
        Some(libc::EPERM) => "CAP_NET_ADMIN is needed, and a connection must not have a fixed time-out",
        Some(libc::EINVAL | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT) => {
            "it has no support for this: load the modules nf_conntrack_netlink and nf_nat"
        }
        Some(libc::ENOBUFS) => "it had no room for its answers",
        _ => return error.to_string(),
    };
    format!("{cause} ({error})")
}
