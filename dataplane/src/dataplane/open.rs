//! Opening everything, and saying exactly what does not open.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use shunt_policy::config::Conntrack;
use shunt_policy::{Mac, Policy};

use super::{Crew, Dataplane, Options, PortSpec, ReplayMode, Taken, XdpMode, ZeroCopy};
use crate::error::OpenError;
use crate::replay::Flows;
use crate::served::Served;
use crate::worker::crew::{Assembled, assemble};
use crate::worker::tracked::Tables;
use crate::worker::{Queue, thread};
use crate::xsk::{BindMode, CHUNK, Depot, Program, ReplayMaps, Sockets, Tap, Taps, XskPort, lacks_zero_copy};

/// See [`Dataplane::open`].
pub(super) fn open(
    options: &Options,
    ports: &[PortSpec],
    policy: Arc<Policy>,
    before: &mut Option<Tables>,
) -> Result<Dataplane, OpenError> {
    check(ports)?;
    let workers = workers(options, ports);
    let served = match before {
        Some(tables) => tables.served().clone(),
        None => Served::create().map_err(unserved)?,
    };
    let flows = flows(options, &policy)?;
    let maps = flows.maps().map(|_| replay_maps(&flows, ports)).transpose()?;
    // The verifier and the memory of the frames each take a tenth of a second.
    let (taken, opened) = std::thread::scope(|scope| {
        let (served, maps) = (&served, maps.as_ref());
        let taking: Vec<_> = ports.iter().map(|spec| scope.spawn(move || take(spec, served, maps))).collect();
        let opened = sockets(options, ports, workers);
        let joined = taking.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        (joined.collect::<Result<Vec<Taken>, OpenError>>(), opened)
    });
    // What is wrong with a port itself says more.
    let (mut taken, Opened { sockets, depot, queues: opened }) = (taken?, opened?);
    let taps = taps(ports)?;
    for (taken, queues) in taken.iter_mut().zip(&opened) {
        taken.spec.queues = queues.len() as u32;
        taken.zero_copy = queues.iter().all(|queue| queue.is_zero_copy().unwrap_or(false));
        taken.meters = queues.iter().filter_map(|queue| queue.meter().ok()).collect();
        for (number, queue) in queues.iter().enumerate() {
            let stored = taken.program.redirect_to(number as u32, queue.socket());
            stored.map_err(|source| OpenError::Program { interface: taken.spec.name.clone(), source })?;
        }
    }
    let queues = taken.iter().zip(opened).flat_map(|(taken, sockets)| queues_of(&taken.spec, sockets)).collect();
    let (tables, lines) = match before.take() {
        Some(tables) if tables.fit(workers) => tables.relined(),
        before => Tables::new(workers, &options.tables, served.clone(), before),
    };
    let tables = tables.replaying(&flows);
    let assembled = assemble(tables, queues, policy, &depot, &taps).map_err(|source| OpenError::Worker { source })?;
    let Assembled { workers, publisher, counters, doorbells, samples } = assembled;
    let stop = Arc::new(AtomicBool::new(false));
    Ok(Dataplane {
        ports: taken,
        xdp_mode: options.xdp_mode,
        crew: Crew { waiting: workers, threads: Vec::new(), stop, doorbells: doorbells.clone() },
        publisher,
        counters,
        doorbells,
        samples,
        local: HashSet::new(),
        served,
        flows,
        replay: options.replay,
        lines,
        nat: None,
        taps,
        depot,
        region: Arc::clone(sockets.region()),
    })
}

fn queues_of(spec: &PortSpec, sockets: Vec<XskPort>) -> Vec<(u32, Queue<XskPort>)> {
    let queue = |io| Queue { port: spec.id, iif: spec.ifindex, io };
    (0..).zip(sockets.into_iter().map(queue)).collect()
}

/// An error that has the same cause whatever was attempted.
pub(super) fn hopeless(interface: &str, error: &io::Error) -> Option<OpenError> {
    let interface = interface.to_owned();
    match error.raw_os_error()? {
        libc::ENODEV => Some(OpenError::InterfaceGone { interface }),
        libc::EBUSY | libc::EEXIST => Some(OpenError::ProgramAttachedMeanwhile { interface }),
        libc::EPERM | libc::EACCES => Some(OpenError::Capability {
            doing: format!("attaching an XDP program to {interface}"),
            needed: "CAP_NET_ADMIN and CAP_BPF",
        }),
        _ => None,
    }
}

/// A random address that no station has: locally administered, unicast.
pub(super) fn stand_in() -> Mac {
    // The standard library's only source of randomness: the keys of its hash maps.
    let [a, b, c, d, e, f, ..] = RandomState::new().hash_one(std::process::id()).to_ne_bytes();
    Mac([(a & 0xfc) | 0x02, b, c, d, e, f])
}

fn check(ports: &[PortSpec]) -> Result<(), OpenError> {
    if ports.is_empty() {
        return Err(OpenError::NoPorts);
    }
    let mut seen = HashSet::new();
    for spec in ports {
        if !seen.insert(spec.id) {
            return Err(OpenError::DuplicatePort { interface: spec.name.clone(), number: spec.id.0 });
        }
    }
    Ok(())
}

fn queues(spec: &PortSpec) -> u32 {
    spec.queues.max(1)
}

fn workers(options: &Options, ports: &[PortSpec]) -> usize {
    let wanted = if options.workers == 0 { thread::allowed().len() } else { options.workers };
    let sockets: u32 = ports.iter().map(queues).sum();
    wanted.clamp(1, sockets as usize)
}

fn unserved(source: io::Error) -> OpenError {
    match source.kind() {
        io::ErrorKind::PermissionDenied => {
            OpenError::Capability { doing: "making a BPF map".to_owned(), needed: "CAP_BPF" }
        }
        _ => OpenError::Memory { bytes: Served::BYTES, source },
    }
}

/// The memory of known flows; shared with the programs if they are to forward.
fn flows(options: &Options, policy: &Policy) -> Result<Flows, OpenError> {
    // The order in which the program reads is that of this processor (replay.h).
    if options.replay == ReplayMode::Off || cfg!(not(target_arch = "x86_64")) {
        return Ok(Flows::plain(options.tables.capacity));
    }
    let flows =
        Flows::create(options.tables.capacity).map_err(|source| OpenError::Memory { bytes: Flows::BYTES, source })?;
    flows.set_generation(policy.generation());
    Ok(flows)
}

fn replay_maps(flows: &Flows, ports: &[PortSpec]) -> Result<ReplayMaps, OpenError> {
    let interface = ports.first().map_or("", |spec| &spec.name).to_owned();
    ReplayMaps::create(flows.clone(), numbers(ports) as u32).map_err(|source| OpenError::Program { interface, source })
}

/// Loads the program of a port, if the interface is there and free.
fn take(spec: &PortSpec, served: &Served, replay: Option<&ReplayMaps>) -> Result<Taken, OpenError> {
    let interface = || spec.name.clone();
    match Program::present(spec.ifindex) {
        Ok(None) => {}
        Ok(Some(id)) => return Err(OpenError::ProgramAttached { interface: interface(), id }),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {
            return Err(OpenError::InterfaceGone { interface: interface() });
        }
        // Not every error is the end: attaching says whether it is.
        Err(_) => {}
    }
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::PermissionDenied => OpenError::Capability {
            doing: format!("loading the XDP program of {}", spec.name),
            needed: "CAP_BPF and CAP_NET_ADMIN",
        },
        _ => OpenError::Program { interface: spec.name.clone(), source },
    };
    let Some(map) = served.map() else { return Err(failed(io::Error::other("no map of served ports"))) };
    let program = Program::load(queues(spec), map, replay).map_err(failed)?;
    let taken = Taken {
        spec: spec.clone(),
        program,
        attached: None,
        punted: None,
        zero_copy: false,
        meters: Vec::new(),
        serving: true,
        replays: false,
        conntrack: Conntrack::Off,
    };
    taken.program.configure(taken.config()).map_err(failed)?;
    if let Some(replay) = replay {
        replay.lead_to(spec.id, spec.ifindex).map_err(failed)?;
    }
    Ok(taken)
}

/// One tap per port, by the number of the port.
fn taps(ports: &[PortSpec]) -> Result<Taps, OpenError> {
    let mut taps: Vec<Option<Tap>> = (0..numbers(ports)).map(|_| None).collect();
    for spec in ports {
        let tap = Tap::create(spec.id, spec.ifindex).map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => OpenError::Capability {
                doing: format!("making the punt tap of {}", spec.name),
                needed: "CAP_NET_ADMIN (and access to /dev/net/tun)",
            },
            _ => OpenError::Tap { interface: spec.name.clone(), source },
        })?;
        taps[usize::from(spec.id.0)] = Some(tap);
    }
    Ok(Taps::new(taps))
}

/// How many places a table by port number needs.
fn numbers(ports: &[PortSpec]) -> usize {
    ports.iter().map(|spec| usize::from(spec.id.0) + 1).max().unwrap_or(0)
}

/// Memory and sockets.
struct Opened {
    sockets: Sockets,
    depot: Arc<Depot>,
    /// By port, in the order given, and by queue.
    queues: Vec<Vec<XskPort>>,
}

/// Sockets of all ports, by port and queue, in zero-copy mode if all can.
fn sockets(options: &Options, ports: &[PortSpec], workers: usize) -> Result<Opened, OpenError> {
    // The generic program runs in the stack, where a zero-copy socket gets nothing from the driver.
    let zero_copy = match options.zero_copy {
        ZeroCopy::Auto if options.xdp_mode == XdpMode::Generic => ZeroCopy::Off,
        // Not tried in vain: memory for all frames is made for each try.
        ZeroCopy::Auto if ports.iter().any(|spec| lacks_zero_copy(spec.ifindex)) => ZeroCopy::Off,
        zero_copy => zero_copy,
    };
    match zero_copy {
        ZeroCopy::Off => sockets_bound(ports, workers, BindMode::Copy),
        ZeroCopy::Require => sockets_bound(ports, workers, BindMode::ZeroCopy),
        // The sockets of one UMEM are all bound like the first (xsk_bind): if one cannot, all start over.
        ZeroCopy::Auto => match sockets_bound(ports, workers, BindMode::ZeroCopy) {
            Err(OpenError::NoZeroCopy { .. }) => sockets_bound(ports, workers, BindMode::Copy),
            result => result,
        },
    }
}

fn sockets_bound(ports: &[PortSpec], workers: usize, mode: BindMode) -> Result<Opened, OpenError> {
    let total: u32 = ports.iter().map(queues).sum();
    let (sockets, depot) =
        Sockets::new(total, workers as u32, mode).map_err(|(bytes, source)| match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                OpenError::Capability { doing: "opening an AF_XDP socket".to_owned(), needed: "CAP_NET_RAW" }
            }
            _ => OpenError::Memory { bytes, source },
        })?;
    let mut opened = Vec::with_capacity(ports.len());
    for spec in ports {
        opened.push(sockets_of(spec, &sockets, mode)?);
    }
    Ok(Opened { sockets, depot, queues: opened })
}

/// One socket per queue. An interface may have been made with more queues than it uses (`real_num_rx_queues`), as veth is; the
/// kernel refuses those behind the last used one as invalid (`xsk_reg_pool_at_qid`).
fn sockets_of(spec: &PortSpec, sockets: &Sockets, mode: BindMode) -> Result<Vec<XskPort>, OpenError> {
    let mut opened = Vec::new();
    for queue in 0..queues(spec) {
        match sockets.open(&spec.name, queue) {
            Ok(socket) => opened.push(socket),
            Err(error) if queue > 0 && error.raw_os_error() == Some(libc::EINVAL) => break,
            Err(error) => return Err(unbound(spec, queue, mode, error)),
        }
    }
    Ok(opened)
}

fn unbound(spec: &PortSpec, queue: u32, mode: BindMode, source: io::Error) -> OpenError {
    let interface = spec.name.clone();
    match source.raw_os_error() {
        Some(libc::ENODEV) => OpenError::InterfaceGone { interface },
        Some(libc::EBUSY) => OpenError::QueueBusy { interface, queue },
        Some(libc::EPERM | libc::EACCES) => OpenError::Capability {
            doing: format!("opening an AF_XDP socket on {interface}"),
            needed: "CAP_NET_RAW and CAP_NET_ADMIN",
        },
        Some(libc::ENOMEM | libc::ENOBUFS) => OpenError::Memory { bytes: u64::from(CHUNK), source },
        _ if mode == BindMode::ZeroCopy => OpenError::NoZeroCopy { interface, queue, source },
        _ => OpenError::Socket { interface, queue, source },
    }
}
