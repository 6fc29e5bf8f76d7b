//! Punt taps: what is written to one enters the stack as if it had arrived on the port it belongs to.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, OnceLock};

use shunt_policy::{Ifindex, Mac, PortId};

use super::program::attach_punt;
use crate::packet::{Offload, partial};
use crate::punt::Punt;

/// The taps of all ports, shared by all workers.
#[derive(Clone)]
pub struct Taps {
    /// By the number of the port.
    taps: Arc<[Option<Tap>]>,
}

impl Taps {
    pub(crate) fn new(taps: Vec<Option<Tap>>) -> Self {
        Taps { taps: taps.into() }
    }

    /// Name of the tap of `port`.
    pub(crate) fn name(&self, port: PortId) -> Option<&str> {
        self.taps.get(usize::from(port.0))?.as_ref().map(|tap| tap.name.as_str())
    }

    /// From now on frames punted on `port` bear `address` as destination. To be said before the first frame comes.
    pub(crate) fn mark(&self, port: PortId, address: Mac) {
        if let Some(Some(tap)) = self.taps.get(usize::from(port.0)) {
            // Only the first call has an effect; there is only one.
            let _ = tap.marked.set(address);
        }
    }
}

impl Punt for Taps {
    fn punt(&mut self, ingress: PortId, frame: &[u8]) -> bool {
        let tap = self.taps.get(usize::from(ingress.0)).and_then(Option::as_ref);
        tap.is_some_and(|tap| tap.write(frame).is_ok())
    }
}

/// A tap device of ours; it goes with the process.
pub(crate) struct Tap {
    file: File,
    name: String,
    /// Written instead of the port's own address where the XDP program would else take a punted frame for a new one
    /// (see redirect.bpf.c, `punted`); the program puts the port's address back. Written by control, read by workers.
    marked: OnceLock<Mac>,
}

/// `struct virtio_net_hdr`: in front of every frame, so that an unfinished checksum is told and not lost.
const VNET_HEADER: usize = 10;
const VIRTIO_NET_HDR_F_NEEDS_CSUM: u8 = 1;

impl Tap {
    /// Makes the tap of port `port`, whose frames arrive on `ifindex`. In the network namespace of the calling thread.
    pub(crate) fn create(port: PortId, ifindex: Ifindex) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")?;
        let mut request = match register(&file, &format!("shunt-p{}", port.0)) {
            // The name belongs to another tap, or to something that is not a tap.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EINVAL | libc::EEXIST)) => {
                register(&file, "shunt%d")?
            }
            result => result?,
        };
        let name = name(&request);
        quiet(&name);
        let index = control(&mut request, libc::SIOCGIFINDEX)?;
        // SAFETY: SIOCGIFINDEX has filled this member.
        let index = unsafe { index.ifr_ifru.ifru_ifindex } as u32;
        attach_punt(index, ifindex)?;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_NOARP) as libc::c_short;
        control(&mut request, libc::SIOCSIFFLAGS)?;
        Ok(Tap { file, name, marked: OnceLock::new() })
    }

    /// Hands a frame over. Does not block: `WouldBlock` if the kernel takes no more.
    fn write(&self, frame: &[u8]) -> io::Result<()> {
        let header = vnet_header(partial(frame));
        let (destination, rest) = frame.split_at_checked(6).ok_or(io::ErrorKind::InvalidInput)?;
        let destination = self.marked.get().map_or(destination, |address| &address.0);
        (&self.file).write_vectored(&[&header, destination, rest].map(IoSlice::new)).map(|_| ())
    }
}

fn vnet_header(offload: Option<Offload>) -> [u8; VNET_HEADER] {
    let mut header = [0; VNET_HEADER];
    if let Some(Offload { start, offset }) = offload {
        // Host order: a tun device is "legacy" unless told otherwise (tun_is_little_endian).
        header[0] = VIRTIO_NET_HDR_F_NEEDS_CSUM;
        header[6..8].copy_from_slice(&start.to_ne_bytes());
        header[8..10].copy_from_slice(&offset.to_ne_bytes());
    }
    header
}

/// TUNSETIFF: makes the device. The answer holds its real name.
fn register(file: &File, name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: all-zero is a valid value of this plain C struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags =
        (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_TUN_EXCL) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which outlives the call.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(request)
}

/// One interface ioctl that reads or fills `request`.
fn control(request: &mut libc::ifreq, operation: libc::Ioctl) -> io::Result<libc::ifreq> {
    // SAFETY: no pointers involved.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that has just been made and that nobody else knows.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let mut answer = *request;
    // SAFETY: both operations used here read and write one ifreq, which outlives the call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), operation, &raw mut answer) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(answer)
}

fn name(request: &libc::ifreq) -> String {
    request.ifr_name.iter().take_while(|byte| **byte != 0).map(|byte| char::from(*byte as u8)).collect()
}

/// No addresses and no chatter of the tap's own. A read-only /proc/sys is no reason not to work: the tap has no peer
/// to hear it.
fn quiet(name: &str) {
    let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
}
