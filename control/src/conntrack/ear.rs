//! The socket that hears what the kernel does with connections.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::sys::socket::{setsockopt, sockopt};

use crate::mirror::netlink::EVENT_BUFFER;

/// `NFNLGRP_CONNTRACK_NEW`, `_UPDATE`, `_DESTROY`
const GROUPS: [u32; 3] = [1, 2, 3];
/// An event is one connection.
const LONGEST: usize = 64 << 10;

pub(super) struct Ear {
    socket: Socket,
    buffer: Vec<u8>,
    listens: bool,
}

/// What was heard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Heard<'a> {
    Datagram(&'a [u8]),
    /// The kernel had to throw messages away (ENOBUFS).
    Lost,
    Nothing,
}

impl Ear {
    /// Deaf at first.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        // Beyond rmem_max only with CAP_NET_ADMIN.
        if setsockopt(&socket, sockopt::RcvBufForce, &EVENT_BUFFER).is_err() {
            let _ = socket.set_rx_buf_sz(EVENT_BUFFER as u32);
        }
        Ok(Ear { socket, buffer: Vec::with_capacity(LONGEST), listens: false })
    }

    /// Joins the groups of connections, or leaves them and forgets what has come. In groups without a member the kernel does not make
    /// the messages.
    pub fn listen(&mut self, listens: bool) -> io::Result<()> {
        if listens == self.listens {
            return Ok(());
        }
        for group in GROUPS {
            match listens {
                true => self.socket.add_membership(group)?,
                false => self.socket.drop_membership(group)?,
            }
        }
        self.listens = listens;
        while !listens && self.heard()? != Heard::Nothing {}
        Ok(())
    }

    pub fn heard(&mut self) -> io::Result<Heard<'_>> {
        loop {
            self.buffer.clear();
            return match self.socket.recv_from(&mut self.buffer, libc::MSG_DONTWAIT) {
                Ok((_, sender)) if sender.port_number() == 0 => Ok(Heard::Datagram(&self.buffer)),
                // Who has CAP_NET_ADMIN can send to our groups; the kernel alone has the number 0.
                Ok(_) => continue,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(Heard::Lost),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Heard::Nothing),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
        }
    }
}

impl AsFd for Ear {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
