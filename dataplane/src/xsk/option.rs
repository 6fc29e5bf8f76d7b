//! What a socket says of itself (getsockopt at level SOL_XDP).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// Whether the kernel bound the socket in zero-copy mode (`XDP_OPTIONS`).
pub(super) fn is_zero_copy(socket: RawFd) -> io::Result<bool> {
    let options: libc::xdp_options = option(socket, libc::XDP_OPTIONS)?;
    Ok(options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
}

/// Asks one socket how many frames the kernel had to drop.
pub(crate) struct Meter {
    pub(super) socket: OwnedFd,
}

impl Meter {
    /// Frames that were meant for us and that the kernel dropped, since the socket was opened: no free frame to
    /// receive into, a full receive ring, or too long for a frame (`XDP_STATISTICS`).
    pub(crate) fn missed(&self) -> u64 {
        option::<libc::xdp_statistics>(self.socket.as_raw_fd(), libc::XDP_STATISTICS)
            .map_or(0, |statistics| statistics.rx_dropped + statistics.rx_ring_full)
    }
}

/// Plain C structs that the kernel may fill with any bytes.
trait Plain: Copy {
    const ZERO: Self;
}

impl Plain for libc::xdp_options {
    const ZERO: Self = libc::xdp_options { flags: 0 };
}

impl Plain for libc::xdp_statistics {
    const ZERO: Self = libc::xdp_statistics {
        rx_dropped: 0,
        rx_invalid_descs: 0,
        tx_invalid_descs: 0,
        rx_ring_full: 0,
        rx_fill_ring_empty_descs: 0,
        tx_ring_empty_descs: 0,
    };
}

/// getsockopt(2) at level SOL_XDP.
fn option<T: Plain>(socket: RawFd, name: libc::c_int) -> io::Result<T> {
    let mut value = T::ZERO;
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to a plain value of that size, which outlives the call.
    let result = unsafe { libc::getsockopt(socket, libc::SOL_XDP, name, (&raw mut value).cast(), &raw mut length) };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}
