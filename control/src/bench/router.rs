//! What forwards: the kernel, shunt by one path or the other, and others that are installed.

mod testpmd;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use shunt_lab::{Daemon, Namespace};

use super::cores::{children_time, run_time, threads_of};
use super::error::BenchError;
use super::network::Network;
use super::ports::Names;
use super::scenario::Scenario;
use testpmd::Testpmd;

/// A daemon has settled when in this time the control room has taken less than that.
const SETTLED: (Duration, Duration) = (Duration::from_millis(200), Duration::from_millis(20));

/// Something that forwards between `r0` and `r1`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Router {
    pub name: &'static str,
    kind: Kind,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Kind {
    Kernel,
    /// With these arguments besides.
    Shunt(&'static str),
    Testpmd,
}

/// A router at work. Dropping it ends it; the kernel forwards on.
pub struct Running {
    namespace: Namespace,
    what: What,
}

enum What {
    Kernel,
    Shunt(Daemon),
    Testpmd(Testpmd),
}

/// CPU time in ns.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Time {
    pub workers: u64,
    /// Everything of a daemon but its workers, the programs that it has run and that have ended included.
    pub control: u64,
}

/// Packets by their path, since the router was started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Paths {
    /// By the router itself.
    pub own: u64,
    /// Handed to the kernel by it.
    pub punted: u64,
}

/// Those that can be measured, the kernel first, and those that cannot, with the reason.
pub fn all() -> (Vec<Router>, Vec<(String, String)>) {
    let mut routers = vec![
        Router { name: "kernel", kind: Kind::Kernel },
        Router { name: "shunt, workers", kind: Kind::Shunt("--replay off") },
        Router { name: "shunt, replay", kind: Kind::Shunt("--replay on") },
    ];
    let mut skipped = Vec::new();
    match testpmd::missing() {
        Some(missing) => skipped.push((testpmd::NAME.to_owned(), missing)),
        None => routers.push(Router { name: testpmd::NAME, kind: Kind::Testpmd }),
    }
    (routers, skipped)
}

/// Whether there is such a program.
pub fn is_installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Where a PATH without them does not look, though `ip netns exec` may.
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.into_iter().any(|folder| folder.join(tool).is_file())
}

/// What it says of itself; nothing if it is not installed.
pub fn version(tool: &str) -> String {
    let output = std::process::Command::new(tool).arg("--version").output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

impl Router {
    pub fn takes_part(&self, scenario: &Scenario) -> bool {
        self.kind != Kind::Testpmd || testpmd::SCENARIOS.contains(&scenario.name)
    }

    /// Starts it on its cores.
    pub fn start(&self, network: &Network) -> Result<Running, BenchError> {
        let namespace = network.namespaces.router.clone();
        let what = match &self.kind {
            Kind::Kernel => What::Kernel,
            Kind::Shunt(arguments) => What::Shunt(start_shunt(network, arguments)?),
            Kind::Testpmd => What::Testpmd(Testpmd::start(network)?),
        };
        Ok(Running { namespace, what })
    }
}

fn start_shunt(network: &Network, arguments: &str) -> Result<Daemon, BenchError> {
    let binary = std::env::current_exe().map_err(BenchError::kernel("the path of this program"))?;
    let cores = network.cores.router.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let Names { ingress, egress, .. } = &network.namespaces.names;
    let arguments = format!("--dev {ingress} --dev {egress} --workers {} {arguments}", network.cores.router.len());
    Ok(network.namespaces.router.try_start_shunt(&["taskset", "-c", &cores], &binary, &arguments)?)
}

impl Running {
    pub fn paths(&self) -> Paths {
        match &self.what {
            What::Kernel => Paths { own: self.namespace.kernel_forwarded(), punted: 0 },
            What::Shunt(daemon) => paths(&daemon.status()["counters"]),
            What::Testpmd(testpmd) => Paths { own: testpmd.sent(), punted: self.namespace.kernel_forwarded() },
        }
    }

    /// How long it has run until now.
    pub fn time(&self) -> Time {
        let (workers, others, children) = match &self.what {
            What::Kernel => return Time::default(),
            What::Shunt(daemon) => {
                let (workers, others) = threads_of(daemon.id());
                (workers, others, children_time(daemon.id()))
            }
            What::Testpmd(testpmd) => (threads_of(testpmd.id()).1, Vec::new(), 0),
        };
        Time { workers: run_time(&workers), control: run_time(&others) + children }
    }

    /// Waits until what is done once after a start is done: reading all once more, telling the kernel of connections.
    pub fn settle(&self, patience: Duration) {
        let end = Instant::now() + patience;
        loop {
            let before = self.time().control;
            std::thread::sleep(SETTLED.0);
            let control = Duration::from_nanos(self.time().control.saturating_sub(before));
            if control < SETTLED.1 && self.is_in_step() || Instant::now() > end {
                return;
            }
        }
    }

    /// Whether what it was told while it started is read. Flows are decided about anew then.
    fn is_in_step(&self) -> bool {
        let What::Shunt(daemon) = &self.what else { return true };
        daemon.status()["mirror"]["in_step"] == true
    }

    /// What `shunt verify` would hold against it.
    pub fn divergence(&self) -> Option<String> {
        let What::Shunt(daemon) = &self.what else { return None };
        let verify = daemon.status()["verify"].clone();
        (verify["divergence_total"] != 0).then(|| verify.to_string())
    }

    /// All that it says of itself.
    pub fn state(&self) -> String {
        match &self.what {
            What::Kernel => "the kernel's counters of /proc/net/snmp do not move".to_owned(),
            What::Shunt(daemon) => daemon.status()["counters"].to_string(),
            What::Testpmd(testpmd) => testpmd.said(),
        }
    }
}

fn paths(counters: &Value) -> Paths {
    let punted = counters["punted"].as_object();
    Paths {
        own: counters["forwarded"].as_u64().unwrap_or(0),
        punted: punted.into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum(),
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let What::Shunt(daemon) = std::mem::replace(&mut self.what, What::Kernel) {
            daemon.signal(Signal::SIGTERM);
            daemon.finish();
        }
    }
}
