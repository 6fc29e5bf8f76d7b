//! The XDP program of one port, with its maps.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use libbpf_rs::{ErrorKind, MapCore, MapFlags, MapHandle, MapType, Object, ObjectBuilder, OpenMapMut, libbpf_sys};
use nix::fcntl::{FcntlArg, fcntl};
use shunt_policy::{Ifindex, Mac, PassReason, PortId};

use super::mapped::MappedArray;
use crate::replay::Flows;

/// libbpf reads the object in place and wants it aligned.
#[repr(align(8))]
pub(super) struct Aligned<T: ?Sized>(pub(super) T);

static REDIRECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/redirect.bpf.o")));
static PUNT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/punt.bpf.o")));

/// `XDP_FLAGS_SKB_MODE` and `XDP_FLAGS_DRV_MODE` of linux/if_link.h.
const SKB_MODE: u32 = 1 << 1;
const DRV_MODE: u32 = 1 << 2;

/// What the program compares with; goes into `struct port` of redirect.bpf.c.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PortConfig {
    pub(crate) mac: Mac,
    /// Stands in for `mac` in punted frames, if the program is attached in generic mode.
    pub(crate) punted: Option<Mac>,
    pub(crate) serving: bool,
    /// ICMP errors to the machine's own addresses are for the workers.
    pub(crate) translates: bool,
    /// Packets whose TTL is used up are for the workers.
    pub(crate) tracks: bool,
    /// Longest frame in bytes that a worker takes, Ethernet header included.
    pub(crate) longest: u32,
    /// Flows that a worker has decided about are forwarded by the program.
    pub(crate) replays: bool,
}

impl PortConfig {
    /// Byte for byte `struct port` of redirect.bpf.c.
    fn bytes(&self) -> [u8; 24] {
        let PortConfig { mac, punted, serving, translates, tracks, longest, replays } = self;
        let mut bytes = [0; 24];
        bytes[..6].copy_from_slice(&mac.0);
        if let Some(punted) = punted {
            bytes[6..12].copy_from_slice(&punted.0);
            bytes[12] = 1;
        }
        bytes[13] = u8::from(*serving);
        bytes[14] = u8::from(*translates);
        bytes[15] = u8::from(*tracks);
        bytes[16..20].copy_from_slice(&longest.to_ne_bytes());
        bytes[20] = u8::from(*replays);
        bytes
    }
}

/// What the programs of all ports need to forward flows that workers have decided about.
pub(crate) struct ReplayMaps {
    flows: Flows,
    /// By the number of the port.
    egress: MapHandle,
}

impl ReplayMaps {
    /// With room for so many ports.
    pub(crate) fn create(flows: Flows, ports: u32) -> io::Result<Self> {
        libbpf_rs::set_print(None);
        let options = libbpf_sys::bpf_map_create_opts {
            sz: size_of::<libbpf_sys::bpf_map_create_opts>() as libbpf_sys::size_t,
            ..Default::default()
        };
        let egress = MapHandle::create(MapType::Devmap, Some("egress"), 4, 4, ports, &options).map_err(cause)?;
        Ok(ReplayMaps { flows, egress })
    }

    /// What the entries mean by this number.
    pub(crate) fn lead_to(&self, port: PortId, ifindex: Ifindex) -> io::Result<()> {
        let (key, value) = (u32::from(port.0).to_ne_bytes(), ifindex.0.to_ne_bytes());
        self.egress.update(&key, &value, MapFlags::ANY).map_err(cause)
    }

    fn share(&self, map: &mut OpenMapMut<'_>) -> io::Result<()> {
        let name = map.name().to_string_lossy().into_owned();
        for (shared, memory) in self.flows.maps().into_iter().flatten() {
            if name == shared {
                map.reuse_fd(memory.descriptor()).map_err(cause)?;
            }
        }
        match name.as_str() {
            "egress" => map.reuse_fd(self.egress.as_fd()).map_err(cause),
            name if name.ends_with(".rodata") => {
                map.set_initial_value(&self.flows.last_bucket().to_ne_bytes()).map_err(cause)
            }
            _ => Ok(()),
        }
    }
}

/// How a program is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Attached {
    Native,
    Generic,
}

/// A loaded program. Dropping it detaches it.
pub(crate) struct Program {
    /// The program that is attached. It calls the other one out of the map `alive`.
    program: OwnedFd,
    /// The only descriptor of the map `alive`: when it is closed the kernel has every frame.
    _alive: OwnedFd,
    port: MapHandle,
    local: MapHandle,
    passed: MapHandle,
    xsks: MapHandle,
    link: Option<OwnedFd>,
}

impl Program {
    /// Loads the program, with room for the sockets of `queues` queues. `served` and `replay` are shared by the programs of all ports.
    pub(crate) fn load(queues: u32, served: &MappedArray, replay: Option<&ReplayMaps>) -> io::Result<Self> {
        // What goes wrong is in the error that we return; libbpf would print it as well.
        libbpf_rs::set_print(None);
        let mut open = ObjectBuilder::default().open_memory(&REDIRECT.0).map_err(cause)?;
        for mut map in open.maps_mut() {
            if map.name() == "xsks" {
                map.set_max_entries(queues).map_err(cause)?;
            }
            if map.name() == "served" {
                map.reuse_fd(served.descriptor()).map_err(cause)?;
            }
            if let Some(replay) = replay {
                replay.share(&mut map)?;
            }
        }
        let object = open.load().map_err(cause)?;
        let map = |name: &str| -> io::Result<MapHandle> {
            let map = object.maps().find(|map| map.name() == name);
            let map = map.ok_or_else(|| io::Error::other(format!("the BPF object has no map {name}")))?;
            MapHandle::try_from(&map).map_err(cause)
        };
        let program = |name: &str| -> io::Result<OwnedFd> {
            let program = object.progs().find(|program| program.name() == name);
            let program = program.ok_or_else(|| io::Error::other(format!("the BPF object has no program {name}")))?;
            program.as_fd().try_clone_to_owned()
        };
        let redirect = program("redirect")?;
        let alive = object.maps().find(|map| map.name() == "alive");
        let alive = alive.ok_or_else(|| io::Error::other("the BPF object has no map alive"))?;
        let (first, called) = (0u32.to_ne_bytes(), redirect.as_raw_fd().to_ne_bytes());
        alive.update(&first, &called, MapFlags::ANY).map_err(cause)?;
        Ok(Program {
            program: program("entry")?,
            _alive: closed_first(alive.as_fd())?,
            port: map("port")?,
            local: map("local")?,
            passed: map("passed")?,
            xsks: map("xsks")?,
            link: None,
        })
    }

    /// Where frames of receive queue `queue` go.
    pub(crate) fn redirect_to(&self, queue: u32, socket: RawFd) -> io::Result<()> {
        self.xsks.update(&queue.to_ne_bytes(), &socket.to_ne_bytes(), MapFlags::ANY).map_err(cause)
    }

    pub(crate) fn configure(&self, config: PortConfig) -> io::Result<()> {
        self.port.update(&0u32.to_ne_bytes(), &config.bytes(), MapFlags::ANY).map_err(cause)
    }

    /// Leaves packets to `address` to the kernel from now on.
    pub(crate) fn add_local(&self, address: IpAddr) -> io::Result<()> {
        self.local.update(&key(address), &[1], MapFlags::ANY).map_err(cause)
    }

    pub(crate) fn remove_local(&self, address: IpAddr) -> io::Result<()> {
        self.local.delete(&key(address)).map_err(cause)
    }

    /// Frames left to the kernel since the program was loaded, by [`PassReason::index`].
    pub(crate) fn passed(&self) -> [u64; PassReason::ALL.len()] {
        PassReason::ALL.map(|reason| {
            let key = (reason.index() as u32).to_ne_bytes();
            let Ok(Some(per_cpu)) = self.passed.lookup_percpu(&key, MapFlags::ANY) else { return 0 };
            per_cpu.iter().filter_map(|count| count.first_chunk::<8>()).map(|count| u64::from_ne_bytes(*count)).sum()
        })
    }

    /// Attaches the program by a link, so that it goes with the process. Fails with `EBUSY` if there is one already.
    pub(crate) fn attach(&mut self, ifindex: Ifindex, how: Attached) -> io::Result<()> {
        let flags = match how {
            Attached::Native => DRV_MODE,
            Attached::Generic => SKB_MODE,
        };
        // SAFETY: all-zero is a valid value of this plain C struct.
        let mut options: libbpf_sys::bpf_link_create_opts = unsafe { std::mem::zeroed() };
        options.sz = size_of::<libbpf_sys::bpf_link_create_opts>() as libbpf_sys::size_t;
        options.flags = flags;
        // SAFETY: the program's descriptor is open, and the options are valid and outlive the call.
        let link = unsafe {
            libbpf_sys::bpf_link_create(
                self.program.as_raw_fd(),
                ifindex.0 as i32,
                libbpf_sys::BPF_XDP,
                &raw const options,
            )
        };
        if link < 0 {
            return Err(io::Error::from_raw_os_error(-link));
        }
        // SAFETY: a descriptor that has just been made and that nobody else knows.
        self.link = Some(unsafe { OwnedFd::from_raw_fd(link) });
        Ok(())
    }

    /// Detaches the program; the kernel has every frame from now on.
    pub(crate) fn detach(&mut self) {
        self.link = None;
    }

    /// Id of the XDP program that is attached to the interface now, by whomever.
    pub(crate) fn present(ifindex: Ifindex) -> io::Result<Option<u32>> {
        let options = query(ifindex)?;
        let ids = [options.prog_id, options.drv_prog_id, options.skb_prog_id, options.hw_prog_id];
        Ok(ids.into_iter().find(|id| *id != 0))
    }
}

/// Whether the interface's driver takes frames now that others redirect to it (`NETDEV_XDP_ACT_NDO_XMIT` of the generic netlink family
/// netdev). Kernels before 6.3 do not tell, and it does not.
pub fn takes_redirected(ifindex: Ifindex) -> bool {
    const NDO_XMIT: u64 = 1 << 2;
    query(ifindex).is_ok_and(|options| options.feature_flags & NDO_XMIT != 0)
}

/// Whether the kernel says of the interface's driver what it can, and that zero-copy sockets are not in it (`NETDEV_XDP_ACT_XSK_ZEROCOPY`).
pub(crate) fn lacks_zero_copy(ifindex: Ifindex) -> bool {
    const XSK_ZEROCOPY: u64 = 1 << 3;
    query(ifindex).is_ok_and(|options| options.feature_flags != 0 && options.feature_flags & XSK_ZEROCOPY == 0)
}

fn query(ifindex: Ifindex) -> io::Result<libbpf_sys::bpf_xdp_query_opts> {
    // SAFETY: all-zero is a valid value of this plain C struct.
    let mut options: libbpf_sys::bpf_xdp_query_opts = unsafe { std::mem::zeroed() };
    options.sz = size_of::<libbpf_sys::bpf_xdp_query_opts>() as libbpf_sys::size_t;
    // SAFETY: the options are valid and outlive the call.
    let result = unsafe { libbpf_sys::bpf_xdp_query(ifindex.0 as i32, 0, &raw mut options) };
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(options) }
}

/// A dying process has its files released from the highest descriptor down (`exit_files` queues them as task work, which runs last
/// in, first out), and this one should come before sockets and links.
fn closed_first(file: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const HIGH: i32 = 512;
    let high = fcntl(file, FcntlArg::F_DUPFD_CLOEXEC(HIGH));
    // A low limit on open files costs the haste, not the function.
    let number = high.or_else(|_| fcntl(file, FcntlArg::F_DUPFD_CLOEXEC(0)))?;
    // SAFETY: a descriptor that has just been made and that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// libbpf's error with all it says; of the errno only the kind can be had.
pub(super) fn cause(error: libbpf_rs::Error) -> io::Error {
    let kind = match error.kind() {
        ErrorKind::PermissionDenied => io::ErrorKind::PermissionDenied,
        ErrorKind::OutOfMemory => io::ErrorKind::OutOfMemory,
        ErrorKind::NotFound => io::ErrorKind::NotFound,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, format!("{error:#}"))
}

/// 16 bytes, IPv4 mapped into IPv6.
fn key(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// Loads the program that a punt tap needs and puts it to the tap's ingress. It lives as long as the tap.
pub(super) fn attach_punt(tap: u32, port: Ifindex) -> io::Result<()> {
    let object = punt_object(port)?;
    let program = object.progs().find(|program| program.name() == "punt");
    let program = program.ok_or_else(|| io::Error::other("the BPF object has no program punt"))?;
    let mut hook = libbpf_rs::TcHookBuilder::new(program.as_fd())
        .ifindex(tap as i32)
        .replace(false)
        .handle(1)
        .priority(1)
        .hook(libbpf_rs::TC_INGRESS);
    hook.create().map_err(cause)?;
    hook.attach().map_err(cause)?;
    Ok(())
}

/// The program that redirects to the ingress of `port`, loaded.
pub(super) fn punt_object(port: Ifindex) -> io::Result<Object> {
    libbpf_rs::set_print(None);
    let mut open = ObjectBuilder::default().open_memory(&PUNT.0).map_err(cause)?;
    for mut map in open.maps_mut() {
        if map.name().to_string_lossy().ends_with(".rodata") {
            map.set_initial_value(&port.0.to_ne_bytes()).map_err(cause)?;
        }
    }
    open.load().map_err(cause)
}

#[cfg(test)]
mod replay_tests;
#[cfg(test)]
mod tests;
