//! A daemon that cannot keep up with the kernel: its ears are held shut until messages are lost.

use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde_json::{Value, json};
use shunt_policy::Prefix;

use super::figures::{Memory, mib, rounded};
use crate::lab::{Daemon, Stream, TwoWays, eventually};

/// So many messages do not fit into the daemon's receive buffer.
const CHANGES: usize = 250_000;
const GATEWAY: &str = "198.51.100.250";
const PATIENCE: Duration = Duration::from_secs(60);

/// Stops the thread that listens, and no worker, while routes change; how long until all changes are known, and what happens to
/// packets meanwhile.
pub fn resync(net: &TwoWays, shunt: &Daemon, prefixes: &[Prefix], batch: impl Fn(&str) -> Duration) -> Value {
    // The last change is seen by asking for an address to which no other prefix of the table is closer.
    let last = (0..CHANGES).rev().find(|at| !prefixes[*at].contains(prefixes[at + 1].address()));
    let changed = &prefixes[..=last.expect("not every prefix holds the next")];
    let lines: String =
        changed.iter().map(|prefix| format!("route replace {prefix} via {GATEWAY} dev eth1\n")).collect();
    let kernel = net.router.kernel_forwarded();
    let stream = Stream::start(&net.client, TwoWays::SERVER, TwoWays::PORTS[3], Duration::from_millis(1));

    let listener = Pid::from_raw(shunt.id() as i32);
    ptrace::attach(listener).expect("a process of ours");
    waitpid(listener, Some(WaitPidFlag::__WALL)).expect("it stops");
    let changing = batch(&lines);
    let start = Instant::now();
    ptrace::detach(listener, None).expect("it is stopped");
    let asked = changed[changed.len() - 1].address();
    let in_step = eventually(PATIENCE, || {
        let answer = shunt.explain(&format!("--iif eth0 --src 192.0.2.10 --dst {asked} --proto 17 --dport 9"));
        answer["steps"].to_string().contains(&format!("via {GATEWAY} ")).then(|| start.elapsed())
    });
    let in_step = in_step.expect("the daemon gets in step again");
    let report = stream.finish();
    let mirror = &shunt.status()["mirror"];
    assert!(mirror["lost_events"].as_u64() > Some(0), "no message was lost: {mirror:#}");
    json!({
        "changes": changed.len(),
        "changing_s": rounded(changing.as_secs_f64(), 10.0),
        "in_step_s": rounded(in_step.as_secs_f64(), 1000.0),
        "lost_events": mirror["lost_events"],
        "packets": { "sent": report.sent, "lost": report.lost(),
                     "by_the_kernel": net.router.kernel_forwarded() - kernel },
        "peak_mib": mib(Memory::of(shunt.id()).peak),
    })
}
