//! The thread around a worker: its core, its sleep, its end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::{Turn, Worker};
use crate::port::Port;
use crate::punt::Punt;
use crate::xsk::Wait;

/// Rounds without work before a worker goes to sleep: some 20 µs. After each whoever else waits for its core may have it: where that is the
/// thread that polls the device (threaded NAPI), it brings the next packets, and the scheduler would let it wait until the worker sleeps.
const SPINS: u32 = 64;

/// A draining worker ends when it has had nothing to do for this long.
const QUIET: Duration = Duration::from_millis(10);

/// A draining worker ends at last, even if a device does not complete what it was given.
const DRAIN: Duration = Duration::from_millis(500);

/// The longest sleep. Nothing depends on it; it bounds what a lost wake-up could cost.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// The longest sleep while XDP programs forward: what they have counted is to be collected.
const COLLECTION: Duration = Duration::from_millis(500);

/// First and longest pause before a device that takes no more frames is asked again.
const RETRY: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(64));

/// Starts `worker` on a thread of its own, pinned to `core` if there is one. It works until `stop` is set and the
/// doorbell rung, then drains and is returned.
pub fn spawn<P, K>(
    index: usize,
    worker: Worker<P, K>,
    core: Option<usize>,
    stop: Arc<AtomicBool>,
) -> io::Result<JoinHandle<Worker<P, K>>>
where
    P: Port + Send + 'static,
    K: Punt + Send + 'static,
{
    thread::Builder::new().name(format!("shunt-worker-{index}")).spawn(move || {
        let _loud = AbortOnPanic;
        if let Some(core) = core {
            // A worker that cannot be pinned still works.
            let _ = pin(Pid::from_raw(0), core);
        }
        let mut worker = worker;
        run(&mut worker, &stop);
        worker
    })
}

/// The cores that the process may use; none if the kernel does not say.
pub fn allowed() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else { return Vec::new() };
    (0..CpuSet::count()).filter(|core| set.is_set(*core).unwrap_or(false)).collect()
}

/// The cores to pin `workers` workers to; none unless there are enough for each to have its own.
pub fn cores(workers: usize) -> Vec<Option<usize>> {
    let allowed = allowed();
    (0..workers).map(|worker| allowed.get(worker).copied().filter(|_| allowed.len() >= workers)).collect()
}

/// Keeps a thread (0: the calling one) on one core.
///
/// # Errors
///
/// The kernel's: `ESRCH` where there is no such thread, `EINVAL` for a core that may not be used.
pub fn pin(thread: Pid, core: usize) -> nix::Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    sched_setaffinity(thread, &set)
}

fn run<P: Port, K: Punt>(worker: &mut Worker<P, K>, stop: &AtomicBool) {
    let doorbell = Arc::clone(worker.exchange().doorbell());
    let descriptors = worker.queues().iter().filter_map(|queue| queue.io.descriptor());
    let mut wait = Wait::new(std::iter::once(doorbell.descriptor()).chain(descriptors));
    let mut idle = 0;
    let mut retry = RETRY.0;
    // Acquire pairs with the Release of the one who stops us; the doorbell is rung after it.
    while !stop.load(Ordering::Acquire) {
        let Turn { frames, more } = worker.round();
        if frames > 0 {
            idle = 0;
            retry = RETRY.0;
            continue;
        }
        idle = if more { 0 } else { idle + 1 };
        if idle < SPINS {
            thread::yield_now();
            continue;
        }
        idle = 0;
        doorbell.lie_down();
        // The last look, behind the fence: what came until now is seen here, what comes later rings.
        if worker.round().done() == 0 && !stop.load(Ordering::Acquire) {
            let longest = match worker.waiting {
                // The control side rings when the kernel knows of them; if it does not, they go by the clock.
                _ if worker.is_parking() => RETRY.0,
                0 if worker.is_replaying() => COLLECTION,
                0 => LONGEST_SLEEP,
                _ => retry,
            };
            retry = (retry * 2).min(RETRY.1);
            worker.counters.sleeps.add(1);
            wait.sleep(longest);
        }
        doorbell.get_up();
    }
    drain(worker);
}

/// The XDP programs are off: what is in the rings is all there is. Works on until that is done.
fn drain<P: Port, K: Punt>(worker: &mut Worker<P, K>) {
    let deadline = Instant::now() + DRAIN;
    let mut quiet_since = Instant::now();
    loop {
        // Connections that have expired are not waited for, however many are still to be looked at.
        let Turn { frames, .. } = worker.round();
        let now = Instant::now();
        if frames > 0 || worker.tracked.is_told() || !worker.is_quiet() {
            quiet_since = now;
        }
        if now >= deadline || now - quiet_since >= QUIET {
            return;
        }
        thread::sleep(Duration::from_micros(100));
    }
}

/// A router that has lost a worker must not go on as if nothing had happened: the process ends, its XDP programs go
/// with it, and the kernel forwards.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!(
                "shunt: {} panicked; ending the process, the kernel forwards",
                thread::current().name().unwrap_or("a worker")
            );
            std::process::abort();
        }
    }
}
