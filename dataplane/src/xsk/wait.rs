//! Sleeping until a socket has something to read.

use std::os::fd::RawFd;
use std::time::Duration;

/// The descriptors one worker sleeps on.
pub(crate) struct Wait {
    entries: Vec<libc::pollfd>,
}

impl Wait {
    pub(crate) fn new(descriptors: impl Iterator<Item = RawFd>) -> Self {
        let entries = descriptors.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }).collect();
        Wait { entries }
    }

    /// Returns when something can be read, when `longest` is over, or early for no reason.
    ///
    /// For an AF_XDP socket in need of a wake-up the poll itself is one (`xsk_poll`).
    pub(crate) fn sleep(&mut self, longest: Duration) {
        let milliseconds = i32::try_from(longest.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the pointer and the number of entries are those of one vector that is borrowed exclusively.
        let ready = unsafe { libc::poll(self.entries.as_mut_ptr(), self.entries.len() as libc::nfds_t, milliseconds) };
        if ready <= 0 {
            return;
        }
        for entry in &mut self.entries {
            // A socket whose interface is gone would be ready for ever: poll(2) ignores negative descriptors.
            if entry.revents & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0 {
                entry.fd = -1;
            }
        }
    }
}
