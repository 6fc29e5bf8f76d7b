//! Why ports cannot be taken.

use std::io;

/// Names the interface and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("no ports given: name at least one interface")]
    NoPorts,
    #[error("{interface}: port number {number} is given twice")]
    DuplicatePort { interface: String, number: u16 },
    #[error("{interface}: the interface is gone: has it been renamed, deleted or moved to another network namespace?")]
    InterfaceGone { interface: String },
    #[error(
        "{interface}: another XDP program (id {id}) is attached: see `bpftool prog show id {id}`, and remove it or leave the interface out"
    )]
    ProgramAttached { interface: String, id: u32 },
    #[error(
        "{interface}: another XDP program is attached: see `ip link show dev {interface}`, and remove it or leave the interface out"
    )]
    ProgramAttachedMeanwhile { interface: String },
    #[error(
        "{interface}: its driver takes no native XDP program ({source}): use the mode auto or generic, or lower its MTU if that is above 3500"
    )]
    NoNativeXdp { interface: String, source: io::Error },
    #[error("{interface}: the kernel takes no generic XDP program on it: {source}")]
    NoGenericXdp { interface: String, source: io::Error },
    #[error(
        "{interface}: no zero-copy socket on queue {queue} ({source}): do not require zero-copy, or leave the interface out"
    )]
    NoZeroCopy { interface: String, queue: u32, source: io::Error },
    #[error("{interface}: queue {queue} is in use by another AF_XDP socket: stop the program that has it")]
    QueueBusy { interface: String, queue: u32 },
    #[error("{interface}: queue {queue} cannot be opened: {source}")]
    Socket { interface: String, queue: u32, source: io::Error },
    #[error("{doing} is not permitted: run as root, or with {needed}")]
    Capability { doing: String, needed: &'static str },
    #[error(
        "no memory for {bytes} bytes of frame buffers ({source}): give the process more memory, or CAP_IPC_LOCK so that they may be locked"
    )]
    Memory { bytes: u64, source: io::Error },
    #[error("{interface}: the kernel does not load the XDP program: {source}")]
    Program { interface: String, source: io::Error },
    #[error(
        "{interface}: its punt tap cannot be made ({source}): is /dev/net/tun there, and are the kernel's tun, sch_ingress and cls_bpf?"
    )]
    Tap { interface: String, source: io::Error },
    #[error("a worker cannot be started: {source}")]
    Worker { source: io::Error },
}
