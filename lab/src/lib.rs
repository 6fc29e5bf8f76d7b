//! Network namespaces that vanish with the process, however it ends.
//!
//! A lab lives in a mount namespace of its own with a private `/run` and `/etc/iproute2`: names of namespaces, the lock of
//! iptables and `rt_tables` are nobody else's. When the last process of the lab is gone, so are the namespaces.

mod daemon;
mod datagram;
mod host;
mod machine;
mod namespace;
mod topology;

use std::path::Path;
use std::sync::OnceLock;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

pub use daemon::{Daemon, Finished, shunt_binary};
pub use datagram::{ipv4_udp, ipv6_udp};
pub use host::{Answer, Host, Stream, StreamReport};
pub use machine::machine;
pub use namespace::{Failed, Namespace, Output, Process, run_here};
pub use topology::TwoWays;

/// A private place for namespaces. One per process: a second call shares the first.
pub struct Lab(());

impl Lab {
    /// Moves this thread, and all that it starts, into a private mount namespace.
    ///
    /// # Panics
    ///
    /// Without root: a test that needs the lab fails then, it is not skipped.
    #[expect(clippy::new_without_default, reason = "making a lab is not a default")]
    pub fn new() -> Lab {
        assert!(nix::unistd::geteuid().is_root(), "the lab needs root: network namespaces are made here");
        Lab::open().unwrap_or_else(|error| panic!("no private mount namespace: {error}"))
    }

    /// The same for those who can go on without.
    ///
    /// # Errors
    ///
    /// The kernel's, without root `EPERM`.
    pub fn open() -> std::io::Result<Lab> {
        static MADE: OnceLock<Result<(), std::io::ErrorKind>> = OnceLock::new();
        MADE.get_or_init(|| private_mounts().map_err(|error| error.kind())).map(|()| Lab(())).map_err(Into::into)
    }

    /// A new namespace with loopback up and no IPv6 waiting times.
    pub fn namespace(&self, name: &str) -> Namespace {
        self.try_namespace(name).unwrap_or_else(|failed| panic!("{failed}"))
    }

    /// The same for those who can go on without.
    ///
    /// # Errors
    ///
    /// The command that failed, and what it said: where there is no `ip`, say.
    pub fn try_namespace(&self, name: &str) -> Result<Namespace, Failed> {
        Namespace::create(name)
    }

    /// A veth pair between two namespaces, both ends up, one queue each.
    pub fn veth(&self, a: (&Namespace, &str), b: (&Namespace, &str)) {
        self.veth_with_queues(a, b, 1);
    }

    /// The same with several queues.
    pub fn veth_with_queues(&self, a: (&Namespace, &str), b: (&Namespace, &str), queues: u32) {
        self.try_veth(a, b, queues).unwrap_or_else(|failed| panic!("{failed}"));
    }

    /// The same for those who can go on without.
    ///
    /// # Errors
    ///
    /// The command that failed, and what it said.
    pub fn try_veth(&self, a: (&Namespace, &str), b: (&Namespace, &str), queues: u32) -> Result<(), Failed> {
        let queues = format!("numrxqueues {queues} numtxqueues {queues}");
        let (near, far) = (a.0.name(), b.0.name());
        namespace::run_here(&format!(
            "ip link add {} netns {near} {queues} type veth peer name {} netns {far} {queues}",
            a.1, b.1
        ))?;
        for (namespace, device) in [a, b] {
            namespace.attempt(&format!("ip link set {device} up"))?;
        }
        a.0.is_wired_to(b);
        b.0.is_wired_to(a);
        Ok(())
    }
}

fn private_mounts() -> std::io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    let tables = files(Path::new("/etc/iproute2"))?;
    for folder in ["/run", "/etc/iproute2"] {
        std::fs::create_dir_all(folder)?;
        mount(Some("shunt-lab"), folder, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
    }
    for (name, content) in tables {
        std::fs::write(Path::new("/etc/iproute2").join(name), content)?;
    }
    std::fs::create_dir("/run/netns")
}

/// The plain files of a folder; none if there is no such folder.
fn files(folder: &Path) -> std::io::Result<Vec<(std::ffi::OsString, Vec<u8>)>> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(Vec::new()) };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            files.push((entry.file_name(), std::fs::read(entry.path())?));
        }
    }
    Ok(files)
}

/// Asks `what` again and again until it answers or `patience` is over.
pub fn eventually<T>(patience: std::time::Duration, mut what: impl FnMut() -> Option<T>) -> Option<T> {
    let end = std::time::Instant::now() + patience;
    loop {
        if let Some(answer) = what() {
            return Some(answer);
        }
        if std::time::Instant::now() > end {
            return None;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}
