//! What the control side holds: ports, workers, and the strings to pull.

mod open;

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::utils::CachePadded;
use shunt_policy::config::{Conntrack, CounterSlot, PortRange};
use shunt_policy::{Family, Generation, Ifindex, Mac, Policy, PortId};

use crate::counters::{Counters, WorkerCounters};
use crate::error::OpenError;
use crate::marks::UsedNeighbours;
use crate::port::Port;
use crate::replay::Flows;
use crate::rule_counters::RuleCount;
use crate::sample::{Sample, Samples};
use crate::served::Served;
use crate::snapshot::Publisher;
use crate::status::{PortStatus, StopReport, WorkerStatus};
use crate::worker::doorbell::Doorbell;
use crate::worker::tracked::{Line, TableOptions, Tables};
use crate::worker::{Worker, thread};
use crate::xsk::{Attached, Depot, LONGEST_FRAME, Meter, PortConfig, Program, Region, Taps, XskPort};

/// An interface to take, as the control side knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortSpec {
    pub id: PortId,
    pub name: String,
    pub ifindex: Ifindex,
    pub mac: Mac,
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// Receive queues, at most; all that the interface uses are served.
    pub queues: u32,
}

/// Where the XDP program is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum XdpMode {
    /// Native where the driver can, else generic.
    #[default]
    Auto,
    /// In the driver.
    Native,
    /// In the stack, before everything else (`XDP_FLAGS_SKB_MODE`).
    Generic,
}

/// Whether the driver may read and write our frames itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ZeroCopy {
    /// Where every driver can. All sockets share one UMEM, and the kernel binds them all alike.
    #[default]
    Auto,
    Require,
    Off,
}

/// Whether XDP programs forward flows that workers have decided about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReplayMode {
    /// On ports whose frames are copied to the workers. Where the driver does not copy, the way by a worker is the quicker one.
    #[default]
    Auto,
    /// On all ports that have the program in their driver.
    On,
    Off,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// 0 is one per core that the process may use. Never more than there are queues.
    pub workers: usize,
    pub xdp_mode: XdpMode,
    pub zero_copy: ZeroCopy,
    pub replay: ReplayMode,
    pub tables: TableOptions,
}

/// Ports and workers. Dropping it detaches everything, as does the death of the process: from then on the kernel
/// forwards.
pub struct Dataplane {
    // Dropped in this order: first no new frames come, then the workers end, then sockets and memory go.
    ports: Vec<Taken>,
    xdp_mode: XdpMode,
    crew: Crew,
    publisher: Publisher,
    counters: Vec<Arc<CachePadded<WorkerCounters>>>,
    doorbells: Vec<Arc<Doorbell>>,
    samples: Vec<Samples>,
    local: HashSet<IpAddr>,
    served: Served,
    flows: Flows,
    replay: ReplayMode,
    /// To and from the workers' connections, until they are taken.
    lines: Vec<Line>,
    /// What the XDP programs know of nat, once they do.
    nat: Option<NatPorts>,
    taps: Taps,
    depot: Arc<Depot>,
    region: Arc<Region>,
}

/// Which packets to the machine's own addresses translation may take.
#[derive(Clone, PartialEq, Eq, Debug)]
struct NatPorts {
    /// If connections are translated, ICMP errors may be about one of them; if they are tracked, packets whose TTL is used up may be of
    /// one.
    conntrack: Conntrack,
    /// What destination nat rules may take: by protocol and port, or anything.
    by_rules: Option<Vec<(u8, PortRange)>>,
}

/// A port that is ours.
struct Taken {
    spec: PortSpec,
    program: Program,
    attached: Option<Attached>,
    /// Destination address of punted frames in generic mode.
    punted: Option<Mac>,
    zero_copy: bool,
    meters: Vec<Meter>,
    serving: bool,
    /// The program forwards flows that workers have decided about.
    replays: bool,
    /// What connections are to the policy.
    conntrack: Conntrack,
}

type AnyWorker = Worker<XskPort, Taps>;

/// The workers: waiting to be started, or on their threads.
struct Crew {
    waiting: Vec<AnyWorker>,
    threads: Vec<JoinHandle<AnyWorker>>,
    /// Written by [`Crew::halt`] (Release), read by the workers (Acquire).
    stop: Arc<AtomicBool>,
    doorbells: Vec<Arc<Doorbell>>,
}

impl Dataplane {
    /// Opens memory, sockets, BPF objects and punt taps for the ports. Attaches nothing: no packet takes another way
    /// yet. The workers go on with the connections of a dataplane `before`.
    ///
    /// # Errors
    ///
    /// Names the interface and what to do. What was opened until then is closed again.
    pub fn open(
        options: &Options,
        ports: &[PortSpec],
        policy: Arc<Policy>,
        before: &mut Option<Tables>,
    ) -> Result<Dataplane, OpenError> {
        let mut dataplane = open::open(options, ports, Arc::clone(&policy), before)?;
        dataplane.serve_nat(&policy);
        Ok(dataplane)
    }

    /// Starts the workers, then attaches the XDP programs by links, which end with the process.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open); no program stays attached.
    pub fn start(&mut self) -> Result<(), OpenError> {
        self.crew.start().map_err(|source| OpenError::Worker { source })?;
        for index in 0..self.ports.len() {
            if let Err(error) = self.ports[index].attach(self.xdp_mode, &self.taps) {
                self.ports.iter_mut().for_each(Taken::detach);
                return Err(error);
            }
        }
        self.start_replay();
        Ok(())
    }

    /// Lets the programs that are in their drivers forward flows.
    fn start_replay(&mut self) {
        let mode = self.replay;
        let shared = self.flows.maps().is_some();
        for taken in &mut self.ports {
            let wanted = shared && (mode == ReplayMode::On || !taken.zero_copy);
            taken.replays = wanted && taken.attached == Some(Attached::Native);
            taken.configure();
        }
    }

    /// Waits for what the programs have counted until now, for a moment at most.
    pub fn collect_replayed(&self) {
        const LONGEST: Duration = Duration::from_millis(50);
        let collections = || self.counters.iter().map(|counters| &counters.collections);
        let wanted: Vec<u64> = collections().map(|one| one.asked.fetch_add(1, Ordering::AcqRel) + 1).collect();
        self.doorbells.iter().for_each(|doorbell| doorbell.ring());
        let begun = Instant::now();
        let are_made = || collections().zip(&wanted).all(|(one, wanted)| one.made.load(Ordering::Acquire) >= *wanted);
        while !are_made() && begun.elapsed() < LONGEST {
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    /// Gives the workers a newer policy. Does not wait; the newest wins.
    pub fn publish(&mut self, policy: Arc<Policy>) {
        self.counters.iter().for_each(|counters| counters.rules.reserve(policy.counter_slots()));
        self.serve_nat(&policy);
        self.flows.set_generation(policy.generation());
        self.publisher.publish(policy);
        // A sleeper adopts as well: `adopted` follows, and the old policy comes back.
        self.doorbells.iter().for_each(|doorbell| doorbell.ring());
    }

    /// Frees the policies that no worker uses any more.
    pub fn collect(&mut self) {
        self.publisher.collect();
    }

    /// Decisions that the workers have made lately: about `most` in all, of each worker at least one.
    pub fn take_samples(&mut self, most: usize) -> Vec<Sample> {
        let each = (most / self.samples.len().max(1)).max(1);
        self.samples.iter_mut().flat_map(|samples| samples.take(each)).collect()
    }

    /// The oldest generation that a worker still uses.
    pub fn adopted(&self) -> Generation {
        let oldest = self.counters.iter().map(|counters| counters.generation()).min();
        oldest.unwrap_or_else(|| self.publisher.newest().generation())
    }

    /// Serves a port or leaves all of it to the kernel. Frames already on their way are finished.
    pub fn serve(&mut self, port: PortId, on: bool) {
        if let Some(taken) = self.port_mut(port) {
            taken.serving = on;
            taken.configure();
        }
    }

    /// The machine's own addresses: packets to them stay with the kernel. Only what differs from the last call is
    /// written.
    ///
    /// There is room for 16384. What does not fit comes to a worker, whose policy knows it as local and punts it.
    pub fn set_local_addresses(&mut self, addresses: &[IpAddr]) {
        let wanted: HashSet<IpAddr> = addresses.iter().copied().collect();
        for taken in &self.ports {
            for address in wanted.difference(&self.local) {
                let _ = taken.program.add_local(*address);
            }
            for address in self.local.difference(&wanted) {
                let _ = taken.program.remove_local(*address);
            }
        }
        self.local = wanted;
    }

    /// Follows a change of the interface's address or MTU (bytes).
    pub fn update_port(&mut self, id: PortId, mac: Mac, mtu: u32) {
        if let Some(taken) = self.port_mut(id) {
            taken.spec.mac = mac;
            taken.spec.mtu = mtu;
            taken.configure();
        }
    }

    pub fn ports(&self) -> Vec<PortStatus> {
        self.ports.iter().map(|taken| taken.status(&self.taps)).collect()
    }

    pub fn workers(&self) -> Vec<WorkerStatus> {
        self.counters.iter().enumerate().map(|(index, counters)| counters.status(index)).collect()
    }

    /// The neighbours that packets were sent to since the last call.
    pub fn used_neighbours(&self) -> UsedNeighbours {
        UsedNeighbours::take(self.counters.iter().map(|counters| &counters.neighbours))
    }

    /// What the rule with this counter has counted since the start.
    pub fn rule_count(&self, slot: CounterSlot) -> RuleCount {
        let counts = self.counters.iter().map(|counters| counters.rules.value(slot));
        counts.fold(RuleCount::default(), |sum, count| RuleCount {
            packets: sum.packets + count.packets,
            bytes: sum.bytes + count.bytes,
        })
    }

    /// Everything that was counted since the start.
    pub fn counters(&self) -> Counters {
        let mut sum = Counters::default();
        self.counters.iter().for_each(|counters| counters.add_to(&mut sum));
        for taken in &self.ports {
            for (total, count) in sum.passed.iter_mut().zip(taken.program.passed()) {
                *total += count;
            }
        }
        sum
    }

    /// Tells the XDP programs what of the packets to own addresses translation may take.
    fn serve_nat(&mut self, policy: &Policy) {
        let conntrack = Family::BOTH.map(|family| policy.conntrack(family)).into_iter().max().unwrap_or_default();
        let ports = Family::BOTH.map(|family| policy.destination_nat_ports(family));
        let by_rules = ports.into_iter().collect::<Option<Vec<_>>>().map(|ports| ports.concat());
        let nat = NatPorts { conntrack, by_rules };
        let before = self.nat.as_ref();
        if before.is_none_or(|before| before.by_rules != nat.by_rules) {
            self.served.rules(|protocol, port| match &nat.by_rules {
                None => true,
                Some(ports) => ports.iter().any(|(of, range)| *of == protocol && range.contains(port)),
            });
        }
        if before.is_none_or(|before| before.conntrack != conntrack) {
            for taken in &mut self.ports {
                taken.conntrack = conntrack;
                taken.configure();
            }
        }
        self.nat = Some(nat);
    }

    /// The ends of the queues to and from the workers' connections, each with what wakes the worker, for whoever keeps these in step
    /// with the kernel; once.
    pub fn take_lines(&mut self) -> Vec<(Line, Arc<Doorbell>)> {
        std::mem::take(&mut self.lines).into_iter().zip(self.doorbells.iter().cloned()).collect()
    }

    /// Detaches, sends what is under way (for half a second at most), ends the workers and closes everything but the tables of
    /// connections.
    pub fn stop(mut self) -> (StopReport, Tables) {
        self.ports.iter_mut().for_each(Taken::detach);
        let mut workers = self.crew.halt();
        let mut report = StopReport { frames: self.region.total(), ..StopReport::default() };
        for worker in &mut workers {
            worker.finish_replay();
            report.abandoned += worker.abandon();
            report.unsent += worker.queues().iter().map(|queue| queue.io.in_flight()).sum::<usize>();
        }
        let tracked = workers.into_iter().map(Worker::into_tracked).collect();
        report.counters = self.counters();
        let Dataplane { region, depot, served, .. } = self;
        drop(depot);
        report.lost = report.frames - region.home();
        (report, Tables::of(tracked, served))
    }

    fn port_mut(&mut self, id: PortId) -> Option<&mut Taken> {
        self.ports.iter_mut().find(|taken| taken.spec.id == id)
    }
}

impl Taken {
    /// Native where wanted and possible, else generic.
    fn attach(&mut self, mode: XdpMode, taps: &Taps) -> Result<(), OpenError> {
        let attached = match mode {
            XdpMode::Native => self.attach_as(Attached::Native, taps),
            XdpMode::Generic => self.attach_as(Attached::Generic, taps),
            XdpMode::Auto => self.attach_as(Attached::Native, taps).or_else(|error| match error {
                OpenError::NoNativeXdp { .. } => self.attach_as(Attached::Generic, taps),
                other => Err(other),
            }),
        };
        attached.inspect_err(|_| self.detach())
    }

    fn attach_as(&mut self, how: Attached, taps: &Taps) -> Result<(), OpenError> {
        if how == Attached::Generic {
            let address = open::stand_in();
            taps.mark(self.spec.id, address);
            self.punted = Some(address);
            self.configure();
        }
        self.program.attach(self.spec.ifindex, how).map_err(|source| {
            let interface = self.spec.name.clone();
            open::hopeless(&interface, &source).unwrap_or(match how {
                Attached::Native => OpenError::NoNativeXdp { interface, source },
                Attached::Generic => OpenError::NoGenericXdp { interface, source },
            })
        })?;
        self.attached = Some(how);
        Ok(())
    }

    fn detach(&mut self) {
        self.program.detach();
        self.attached = None;
    }

    /// What the XDP program has to know of the port.
    fn config(&self) -> PortConfig {
        let Taken { spec, punted, serving, replays, conntrack, .. } = self;
        let (tracks, translates) = (*conntrack != Conntrack::Off, *conntrack == Conntrack::Translates);
        let longest = spec.mtu.saturating_add(crate::packet::ETHERNET as u32).min(LONGEST_FRAME);
        PortConfig { mac: spec.mac, punted: *punted, serving: *serving, translates, tracks, longest, replays: *replays }
    }

    fn configure(&self) {
        // Cannot fail: the one element of an array map of ours.
        let _ = self.program.configure(self.config());
    }

    fn status(&self, taps: &Taps) -> PortStatus {
        PortStatus {
            id: self.spec.id,
            name: self.spec.name.clone(),
            mode: match self.attached {
                Some(Attached::Native) => "native",
                Some(Attached::Generic) => "generic",
                None => "none",
            },
            zero_copy: self.zero_copy,
            queues: self.spec.queues,
            serving: self.serving,
            replays: self.replays,
            tap: taps.name(self.spec.id).unwrap_or_default().to_owned(),
            missed: self.meters.iter().map(Meter::missed).sum(),
        }
    }
}

impl Crew {
    fn start(&mut self) -> io::Result<()> {
        let cores = thread::cores(self.waiting.len());
        for (index, mut worker) in self.waiting.drain(..).enumerate() {
            // Offers free frames to the kernel before the first packet looks for one.
            worker.round();
            self.threads.push(thread::spawn(index, worker, cores[index], Arc::clone(&self.stop))?);
        }
        Ok(())
    }

    /// Ends the threads. A worker that panicked has ended the process already.
    fn halt(&mut self) -> Vec<AnyWorker> {
        self.stop.store(true, Ordering::Release);
        self.doorbells.iter().for_each(|doorbell| doorbell.ring());
        let ended = self.threads.drain(..).filter_map(|thread| thread.join().ok());
        ended.chain(self.waiting.drain(..)).collect()
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for mut worker in self.halt() {
            worker.abandon();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dataplane_can_move_to_another_thread() {
        fn send<T: Send>() {}
        send::<Dataplane>();
    }
}
