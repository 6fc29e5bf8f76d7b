//! Network namespaces that vanish with the process, however it ends.
//!
//! A lab lives in a mount namespace of its own with a private `/run` and `/etc/iproute2`: names of namespaces, the lock of
//! iptables and `rt_tables` are nobody else's. When the last process of the lab is gone, so are the namespaces.

mod daemon;
mod drift;
mod frames;
mod host;
mod namespace;
mod topology;
mod witness;

use std::path::Path;
use std::sync::Once;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

pub use daemon::{Daemon, Finished, shunt_binary};
pub use drift::Holdings;
pub use frames::{Wire, WireEar, WireSender, ipv4_udp, ipv6_udp};
pub use host::{Answer, Host, Stream, StreamReport};
pub use namespace::{Namespace, Output, Process};
pub use topology::TwoWays;
pub use witness::Witness;

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
        static ONCE: Once = Once::new();
        assert!(nix::unistd::geteuid().is_root(), "the lab needs root: network namespaces are made here");
        ONCE.call_once(|| private_mounts().unwrap_or_else(|error| panic!("no private mount namespace: {error}")));
        Lab(())
    }

    /// A new namespace with loopback up and no IPv6 waiting times.
    pub fn namespace(&self, name: &str) -> Namespace {
        Namespace::create(name)
    }

    /// A veth pair between two namespaces, both ends up, one queue each.
    pub fn veth(&self, a: (&Namespace, &str), b: (&Namespace, &str)) {
        self.veth_with_queues(a, b, 1);
    }

    /// The same with several queues.
    pub fn veth_with_queues(&self, a: (&Namespace, &str), b: (&Namespace, &str), queues: u32) {
        let queues = format!("numrxqueues {queues} numtxqueues {queues}");
        run_here(&format!(
            "ip link add {} netns {} {queues} type veth peer name {} netns {} {queues}",
            a.1,
            a.0.name(),
            b.1,
            b.0.name()
        ));
        for (namespace, device) in [a, b] {
            namespace.run(&format!("ip link set {device} up"));
        }
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

/// Runs a command in the lab but in no namespace of it.
fn run_here(command: &str) {
    let output = std::process::Command::new("sh").args(["-c", command]).output();
    let output = output.unwrap_or_else(|error| panic!("sh: {error}"));
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
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
