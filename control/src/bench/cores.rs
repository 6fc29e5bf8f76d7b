//! Which core does what, and what it takes.

use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::unistd::Pid;
use shunt_dataplane::worker::thread::{allowed, pin};

use super::error::BenchError;

/// Which cores the load has, and which the router. With less than four they share two if there are two queues.
#[derive(Clone, Debug)]
pub struct Cores {
    pub load: Vec<usize>,
    pub router: Vec<usize>,
}

impl Cores {
    /// One core a queue for each side. A core sends to the queue that is its number modulo the queues (`veth_select_rxq`).
    pub fn of(queues: u32) -> Result<Cores, BenchError> {
        let queues = queues as usize;
        let allowed = allowed();
        if allowed.len() < 2 {
            return Err(BenchError::Cores);
        }
        let from = if allowed.len() >= 2 * queues { queues } else { 0 };
        Ok(Cores { load: allowed[..queues].to_vec(), router: allowed[from..from + queues].to_vec() })
    }

    /// Whether load and router get into each other's way.
    pub fn are_shared(&self) -> bool {
        self.load == self.router
    }
}

/// Two at once would measure each other. Waits until this is the only one on the machine; dropping the result lets the next one go.
pub fn alone() -> Result<UnixDatagram, BenchError> {
    let told = || BenchError::kernel("the name of the bench among the abstract sockets");
    let name = SocketAddr::from_abstract_name("shunt-bench").map_err(told())?;
    let mut waiting = false;
    loop {
        match UnixDatagram::bind_addr(&name) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                if !waiting {
                    eprintln!("waiting for another shunt bench to end");
                }
                waiting = true;
                std::thread::sleep(Duration::from_millis(500));
            }
            result => return result.map_err(told()),
        }
    }
}

/// The NAPI threads of all interfaces of this name, whatever their namespace.
pub fn napi_threads(device: &str) -> Vec<i32> {
    let prefix = format!("napi/{device}-");
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let named = numbers.filter(|pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with(&prefix))
    });
    let mut threads: Vec<i32> = named.collect();
    threads.sort_unstable();
    threads
}

/// Puts a thread on a core.
pub fn put(thread: i32, core: usize) -> Result<(), BenchError> {
    pin(Pid::from_raw(thread), core).map_err(io::Error::from).map_err(BenchError::kernel("the affinity of a thread"))
}

/// The threads of a daemon: its workers, and the others.
pub fn threads_of(process: u32) -> (Vec<i32>, Vec<i32>) {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let numbers = tasks.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.partition(|thread: &i32| {
        fs::read_to_string(format!("/proc/{process}/task/{thread}/comm"))
            .is_ok_and(|name| name.starts_with("shunt-worker"))
    })
}

/// How long the programs have run that a process has started (`nft`, `iptables-save`), in ns; of those that have ended in steps of 10 ms.
pub fn children_time(process: u32) -> u64 {
    // cutime and cstime of proc_pid_stat(5), fields 16 and 17, behind the name in brackets; USER_HZ is 100.
    let ended = || -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        Some(fields.get(13)?.parse::<u64>().ok()? + fields.get(14)?.parse::<u64>().ok()?)
    };
    let (workers, others) = threads_of(process);
    let children = workers.iter().chain(&others).flat_map(|thread| {
        let text = fs::read_to_string(format!("/proc/{process}/task/{thread}/children")).unwrap_or_default();
        text.split_whitespace().filter_map(|child| child.parse().ok()).collect::<Vec<i32>>()
    });
    ended().unwrap_or(0) * 10_000_000 + run_time(&children.collect::<Vec<_>>())
}

/// How long these threads have run, in ns. One that has ended counts nothing.
pub fn run_time(threads: &[i32]) -> u64 {
    let ran = |thread: &i32| {
        let text = fs::read_to_string(format!("/proc/{thread}/schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    };
    threads.iter().filter_map(ran).sum()
}
