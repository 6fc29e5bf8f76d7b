//! What is known of the kernel's connections, and what workers have been told of them.
//!
//! About 150 bytes for each connection that the kernel has: 40 MB when its table is full at the default of 262,144.

use std::collections::HashMap;

use shunt_dataplane::conn::record::{Record, TcpRecord};
use shunt_policy::Mark;
use shunt_policy::connection::Tuple;

use super::encode::BE_LIBERAL;

/// The zone and the tuple of the original direction.
pub(super) type Key = (u16, Tuple);

pub(super) type Known = HashMap<Key, Entry>;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub reply: Tuple,
    pub status: u32,
    pub mark: Mark,
    pub tcp: Option<TcpRecord>,
    pub kernels: bool,
    /// A worker was told that it may go on with it.
    pub whole: bool,
    /// A worker gave it to the kernel, or brought it up to date there.
    pub exported: bool,
    /// The flags of each direction that were given to the kernel and are none of the worker's.
    pub hidden: [u8; 2],
    /// Workers know of it as it is here.
    pub told: bool,
    /// The kernel has told of it by itself.
    pub heard: bool,
    /// The last dump that had it.
    pub seen: u32,
    /// When it will have run out if nothing comes: seconds since our start.
    pub expires: u32,
}

impl Entry {
    pub fn new(record: &Record, seen: u32) -> Self {
        Entry {
            reply: record.reply,
            status: record.status,
            mark: record.mark,
            tcp: record.tcp,
            kernels: record.kernels,
            whole: false,
            exported: false,
            hidden: [0; 2],
            told: false,
            heard: false,
            seen,
            expires: 0,
        }
    }

    /// Events leave away what has not changed: the TCP state, sequence adjustments, the master.
    pub fn complete(&self, record: &mut Record) {
        if record.tcp.is_none() {
            record.tcp = self.tcp;
        }
        record.kernels |= self.kernels;
    }

    /// What a worker has not set is not shown to it.
    pub fn hide(&self, record: &mut Record) {
        if let Some(tcp) = &mut record.tcp {
            for (flags, hidden) in tcp.flags.iter_mut().zip(self.hidden) {
                *flags &= !hidden;
            }
        }
    }

    /// Takes over what the record says, and says whether it is something new.
    pub fn take(&mut self, record: &Record, whole: bool) -> bool {
        let Record { original: _, reply, status, mark, timeout: _, tcp, kernels, masquerade: _ } = record;
        let new = (&self.reply, &self.status, &self.mark, &self.tcp, &self.kernels, self.whole)
            != (reply, status, mark, tcp, kernels, whole);
        (self.reply, self.status, self.mark, self.tcp, self.kernels, self.whole) =
            (*reply, *status, *mark, *tcp, *kernels, whole);
        new
    }

    /// The kernel has what the worker says, and says of it that it is liberal.
    pub fn export(&mut self, record: &Record, expires: u32) {
        self.status |= record.status;
        self.mark = record.mark;
        if let Some(tcp) = record.tcp {
            self.hidden = tcp.flags.map(|flags| BE_LIBERAL & !flags);
            self.tcp = Some(tcp);
        }
        self.exported = true;
        self.told = true;
        self.expires = expires;
    }

    /// It ends by the worker's clock: that it has run out in the kernel, which does not see its packets, is no end.
    pub fn is_workers(&self) -> bool {
        self.exported || self.whole
    }
}
