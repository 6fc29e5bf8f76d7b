//! The daemon: keeps mirror, policy and workers in step, and answers the control socket.
//!
//! A change in the mirror is translated, compiled and published. Workers never wait for this, and the kernel forwards whatever
//! they do not hold: while ports are opened anew, and for good when the process ends.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shunt_dataplane::{Counters, Dataplane, OpenError, Options, ReplayMode, TableOptions, Tables, takes_redirected};
use shunt_policy::{Family, Generation, Ifindex, Policy, compile, config, recompile};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::capabilities;
use crate::conntrack::{self, Conntrack};
use crate::explain;
use crate::holdings::Holdings;
use crate::keepalive::Keepalive;
use crate::mirror::drivers::Drivers;
use crate::mirror::netfilter;
use crate::mirror::{Changes, Mirror, MirrorError, Part};
use crate::ports::{self, Left, Selection, SelectionError};
use crate::rules::{self, WorkerCounts};
use crate::settings::Settings;
use crate::socket::{Answer, Asked, Question, Server, SocketError};
use crate::status;
use crate::translate::{Translation, translate};
use crate::verify::{self, Verifier};

/// How often retired policies are freed and the slow checks made.
const TICK: Duration = Duration::from_millis(100);
/// Ports are opened anew at most this often: a flapping interface must not keep the workers from working.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);
/// The kernel's connections are waited for no longer than this before workers go by rules that ask for them.
const LOADING: Duration = Duration::from_secs(2);
/// With the mirror faulty for longer, all packets are the kernel's again.
pub const STALENESS_BOUND: Duration = Duration::from_secs(5);

/// Why the daemon does not start, or stops.
#[derive(thiserror::Error, Debug)]
pub enum RunError {
    #[error(transparent)]
    Capability(#[from] capabilities::Missing),
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    #[error(transparent)]
    Selection(#[from] SelectionError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("cannot ask the kernel for routes: {0}")]
    Oracle(io::Error),
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
    #[error("cannot open a netlink socket: {0}")]
    Keepalive(io::Error),
    #[error("cannot follow the kernel's connections: {0}")]
    Conntrack(io::Error),
}

/// Runs until SIGTERM or SIGINT. On an error nothing stays attached.
pub async fn run(settings: Settings) -> Result<(), RunError> {
    capabilities::check()?;
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    let mut server = Server::bind(&settings.socket)?;
    let mut mirror = Mirror::open(settings.event_buffer).await?;
    let mut drivers = Drivers::open();
    let mut supervisor = Supervisor::start(settings, &mirror)?;
    supervisor.announce();

    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            // Where something changes all the time the mirror is always ready, so what is rare goes first.
            _ = tick.tick() => {
                supervisor.catch_up(&mut mirror);
                supervisor.tick(&mut mirror);
            }
            // Until it is noticed every frame that is redirected there is lost.
            () = drivers.changed() => supervisor.follow_drivers(&mirror),
            asked = server.question() => {
                supervisor.catch_up(&mut mirror);
                if let Some(asked) = supervisor.take(asked, &mut mirror) {
                    let answer = supervisor.answer(&asked.question, &mirror);
                    // A client that has left is no loss.
                    let _ = asked.reply.send(answer.map_or_else(Answer::Error, Answer::Ok));
                }
            }
            changed = mirror.changed() => {
                supervisor.follow(&mirror, changed?);
            }
        }
        supervisor.settle_reloads(&mut mirror);
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    supervisor.close();
    Ok(())
}

/// What is in force.
struct Supervisor {
    settings: Settings,
    started: Instant,
    /// `None` while no port is worth taking.
    dataplane: Option<Dataplane>,
    /// The workers' connections while there are no workers.
    tables: Option<Tables>,
    /// Keeps the kernel's connections and the workers' in step.
    conntrack: Conntrack,
    selection: Selection,
    translation: Translation,
    policy: Arc<Policy>,
    /// Those that the XDP programs know.
    local_addresses: Vec<IpAddr>,
    /// Addresses that connections may be masqueraded behind.
    behind: BTreeSet<(Ifindex, IpAddr)>,
    /// What earlier dataplanes counted, so that the totals never fall.
    earlier: Counters,
    opened: Instant,
    /// The ports should be chosen anew.
    reopen: bool,
    /// The mirror is stale and the ports are handed to the kernel.
    stale: bool,
    verifier: Verifier,
    keepalive: Keepalive,
    reloads: Reloads,
    rule_counts: WorkerCounts,
}

/// Operators who wait until everything is read anew.
#[derive(Default)]
struct Reloads {
    waiting: Vec<oneshot::Sender<Answer>>,
    begun: Option<Instant>,
    /// It is read: the generation that workers are to adopt, and what had differed.
    read: Option<(Generation, BTreeSet<Part>)>,
}

impl Supervisor {
    fn start(settings: Settings, mirror: &Mirror) -> Result<Self, RunError> {
        let eligible = ports::select(mirror.view(), &settings.devices, &[])?;
        let mut supervisor = Supervisor {
            settings,
            started: Instant::now(),
            dataplane: None,
            tables: None,
            conntrack: Conntrack::start().map_err(RunError::Conntrack)?,
            translation: translate(mirror.view(), &eligible.numbers()),
            selection: eligible,
            policy: Arc::new(compile(&Default::default(), Generation(0))),
            local_addresses: Vec::new(),
            behind: BTreeSet::new(),
            earlier: Counters::default(),
            opened: Instant::now(),
            reopen: false,
            stale: false,
            verifier: Verifier::open().map_err(RunError::Oracle)?,
            keepalive: Keepalive::open().map_err(RunError::Keepalive)?,
            reloads: Reloads::default(),
            rule_counts: WorkerCounts::default(),
        };
        supervisor.open(mirror)?;
        Ok(supervisor)
    }

    /// Chooses the ports and starts the workers on them.
    fn open(&mut self, mirror: &Mirror) -> Result<(), RunError> {
        self.close();
        self.opened = Instant::now();
        self.reopen = false;
        // The mirror may still see the programs that were detached just now.
        self.selection = self.choose(mirror, &self.taken());
        self.translate_and_compile(mirror);
        if self.selection.taken.is_empty() {
            return Ok(());
        }
        let Settings { workers, xdp_mode, zero_copy, replay, .. } = self.settings;
        let options = Options { workers, xdp_mode, zero_copy, replay, tables: self.table_options() };
        let mut dataplane = Dataplane::open(&options, &self.selection.specs(), self.policy.clone(), &mut self.tables)?;
        self.local_addresses.clone_from(&self.translation.local_addresses);
        dataplane.set_local_addresses(&self.local_addresses);
        self.conntrack.local_addresses(self.local_addresses.clone());
        self.conntrack.connect(dataplane.take_lines().into_iter().map(conntrack::Line::from).collect());
        self.unmasquerade(mirror);
        self.follow_connections();
        dataplane.start()?;
        self.dataplane = Some(dataplane);
        self.follow_drivers(mirror);
        Ok(())
    }

    fn table_options(&self) -> TableOptions {
        let settings = conntrack::settings();
        let capacity = self.settings.connections.unwrap_or(settings.max as usize);
        // The standard library's only source of randomness: the keys of its hash maps.
        let seed = RandomState::new().hash_one(std::process::id());
        TableOptions { capacity, settings: Arc::new(settings), seed }
    }

    /// The kernel's connections are followed while rules ask for connections, and before the first worker does: one that goes on must
    /// not look new.
    fn follow_connections(&mut self) {
        let tracks = self.tracks();
        self.conntrack.set_active(tracks);
        let begun = Instant::now();
        while tracks && !self.conntrack.is_loaded() && begun.elapsed() < LOADING {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn tracks(&self) -> bool {
        Family::BOTH.iter().any(|family| self.policy.conntrack(*family) != config::Conntrack::Off)
    }

    /// The interfaces that suit and of which at least some traffic would be ours.
    fn choose(&self, mirror: &Mirror, ours: &[Ifindex]) -> Selection {
        let mut selection = ports::sort(mirror.view(), &self.settings.devices, ours);
        // Of which ports it is does not matter here.
        let config = &self.translation.config;
        let Selection { taken, left } = &mut selection;
        taken.retain(|port| match ports::worth_taking(config, port.ifindex) {
            Ok(()) => true,
            Err(why) => {
                left.push(Left { name: port.name.clone(), why });
                false
            }
        });
        selection
    }

    /// Everything anew, say because other ports were chosen.
    fn translate_and_compile(&mut self, mirror: &Mirror) {
        self.update_policy(mirror, Changes::ALL);
    }

    /// Costs what has changed, not what there is.
    fn update_policy(&mut self, mirror: &Mirror, changes: Changes) {
        self.translation.update(mirror.view(), &self.selection.numbers(), changes);
        let next = Generation(self.policy.generation().0 + 1);
        self.policy = Arc::new(recompile(&self.translation.config, next, &self.policy));
        self.rule_counts.published(&mut self.translation, next);
    }

    /// Follows what has been told by now: whoever changes something and asks then is answered by what he changed.
    fn catch_up(&mut self, mirror: &mut Mirror) {
        if let Some(changes) = mirror.caught_up() {
            self.follow(mirror, changes);
        }
    }

    /// The mirror has changed: publish, and see whether the ports are still the right ones.
    fn follow(&mut self, mirror: &Mirror, changes: Changes) {
        self.update_policy(mirror, changes);
        self.follow_connections();
        if let Some(dataplane) = &mut self.dataplane {
            dataplane.publish(self.policy.clone());
            if changes.routes && self.local_addresses != self.translation.local_addresses {
                self.local_addresses.clone_from(&self.translation.local_addresses);
                dataplane.set_local_addresses(&self.local_addresses);
                self.conntrack.local_addresses(self.local_addresses.clone());
            }
        }
        // Else the next workers are told.
        if changes.links && self.dataplane.is_some() {
            self.unmasquerade(mirror);
        }
        // Which ports are worth it depends on links and guards alone.
        if changes.links || changes.netfilter || changes.rules {
            self.review_ports(mirror);
        }
    }

    /// Connections masqueraded behind an address end with it, and with its interface (`masq_inet_event`, `masq_device_event`). The workers
    /// have the policy without it by then: what begins anew does not begin behind it.
    fn unmasquerade(&mut self, mirror: &Mirror) {
        let view = mirror.view();
        let up = |ifindex| view.link(ifindex).is_some_and(|link| link.up);
        let addresses = view.addresses.iter().filter(|address| up(address.ifindex));
        let now = addresses.map(|address| (address.ifindex, address.local)).collect();
        let before = std::mem::replace(&mut self.behind, now);
        for (ifindex, address) in before.difference(&self.behind) {
            self.conntrack.address_gone(*ifindex, Some(*address));
        }
    }

    fn review_ports(&mut self, mirror: &Mirror) {
        let chosen = self.choose(mirror, &self.taken());
        // An interface that came, or came back, or became worth it: the workers start anew on all.
        let news = chosen.taken.iter().any(|port| !self.taken().contains(&port.ifindex));
        let gone = self.selection.taken.iter().any(|port| mirror.view().link(port.ifindex).is_none());
        self.reopen |= news || gone;
        self.selection.left = chosen.left.clone();
        let Some(dataplane) = &mut self.dataplane else { return };
        for (spec, port) in self.selection.specs().iter().zip(&mut self.selection.taken) {
            if let Some(now) = mirror.view().link(port.ifindex)
                && let Some(mac) = now.mac
                && (mac, now.mtu) != (port.mac, port.mtu)
            {
                (port.mac, port.mtu) = (mac, now.mtu);
                dataplane.update_port(spec.id, mac, now.mtu);
            }
            // Not worth it any more: the XDP program passes all, the sockets stay.
            let serving = chosen.taken.iter().any(|other| other.ifindex == port.ifindex);
            dataplane.serve(spec.id, serving && !self.stale);
        }
    }

    /// Which drivers take frames that others redirect to them: some only while a program is attached to the interface, or to its peer.
    /// [`Drivers`] tells when to look; should it have gone deaf, twice a second is looked anyhow.
    fn follow_drivers(&mut self, mirror: &Mirror) {
        if self.settings.replay == ReplayMode::Off {
            return;
        }
        let mut changed = false;
        for port in &mut self.selection.taken {
            let takes_redirected = takes_redirected(port.ifindex);
            changed |= std::mem::replace(&mut port.takes_redirected, takes_redirected) != takes_redirected;
        }
        if changed {
            self.follow(mirror, Changes::LINKS);
        }
    }

    fn taken(&self) -> Vec<Ifindex> {
        self.selection.taken.iter().map(|port| port.ifindex).collect()
    }

    fn tick(&mut self, mirror: &mut Mirror) {
        let is_slow = self.keepalive.is_due();
        if let Some(dataplane) = &mut self.dataplane {
            dataplane.collect();
            if is_slow {
                mirror.hear_pending();
                self.keepalive.refresh(&dataplane.used_neighbours(), mirror.neighbours());
            }
        }
        if is_slow {
            self.follow_drivers(mirror);
        }
        self.rule_counts.settle(&mut self.translation, self.dataplane.as_ref());
        self.verify(mirror);
        let mirror_is_stale = mirror.health().faulty_since.is_some_and(|since| since.elapsed() > STALENESS_BOUND);
        // Connections of the kernel's that nobody can tell of must not look new to the workers.
        let unknown = self.conntrack.fault().filter(|_| self.tracks());
        let stale = mirror_is_stale || unknown.is_some();
        if stale != self.stale {
            self.stale = stale;
            match mirror.health().fault.or(unknown) {
                Some(fault) if stale => eprintln!("the mirror is stale, all packets are the kernel's: {fault}"),
                _ => eprintln!("the mirror is fresh again"),
            }
            self.review_ports(mirror);
        }
        if self.reopen && self.opened.elapsed() > REOPEN_PAUSE {
            if let Err(error) = self.open(mirror) {
                // Likely a race with an interface that goes; the kernel forwards, and the next tick tries again.
                eprintln!("cannot take the ports now: {error}");
                self.reopen = true;
            }
            self.announce();
        }
    }

    /// Holds what the workers have decided lately against the kernel.
    fn verify(&mut self, mirror: &mut Mirror) {
        let samples = self.dataplane.as_mut().map(|dataplane| dataplane.take_samples(verify::AT_ONCE));
        let samples = samples.unwrap_or_default();
        let mut in_step = || {
            mirror.hear_pending();
            mirror.health().in_step
        };
        self.verifier.turn(samples, &self.policy, &mut in_step, Instant::now());
    }

    /// Takes on what is answered later or elsewhere; the others come back.
    fn take(&mut self, asked: Asked, mirror: &mut Mirror) -> Option<Asked> {
        match asked.question {
            Question::Reload => {
                mirror.reload();
                self.reloads.read = None;
                self.reloads.begun = Some(Instant::now());
                self.reloads.waiting.push(asked.reply);
            }
            Question::Mirror(excerpt) => {
                let holdings = Holdings::of(mirror, &self.translation.config.links);
                tokio::task::spawn_blocking(move || {
                    let _ = asked.reply.send(holdings.print(&excerpt).map_or_else(Answer::Error, Answer::Text));
                });
            }
            Question::Rules => {
                self.collect_replayed();
                let list = rules::listed(&self.translation, &self.rule_counts, self.dataplane.as_ref());
                tokio::spawn(async move {
                    let counts = netfilter::counts().await;
                    let answer = counts.map(|kernel| rules::json(&list, &kernel)).map_err(|fault| fault.to_string());
                    let _ = asked.reply.send(answer.map_or_else(Answer::Error, Answer::Ok));
                });
            }
            _ => return Some(asked),
        }
        None
    }

    /// Answers those who wait when the workers go by what was read.
    fn settle_reloads(&mut self, mirror: &mut Mirror) {
        let Some(begun) = self.reloads.begun else { return };
        if let Some(differed) = mirror.reloaded() {
            self.reloads.read = Some((self.policy.generation(), differed));
        }
        let adopted = self.dataplane.as_ref().map(Dataplane::adopted);
        let answer = match (&self.reloads.read, mirror.health().fault) {
            (Some((generation, differed)), _) if adopted.is_none_or(|adopted| adopted >= *generation) => {
                let differed: Vec<_> = differed.iter().map(|part| part.word()).collect();
                Answer::Ok(json!({ "generation": generation.0, "differed": differed }))
            }
            (None, Some(fault)) if begun.elapsed() > STALENESS_BOUND => Answer::Error(fault),
            _ => return,
        };
        for reply in std::mem::take(&mut self.reloads).waiting {
            let _ = reply.send(answer.clone());
        }
    }

    fn answer(&mut self, question: &Question, mirror: &Mirror) -> Result<Value, String> {
        match question {
            Question::Status => {
                self.collect_replayed();
                Ok(status::json(&self.report(mirror)))
            }
            Question::Check => Ok(status::check_json(&self.translation.report(mirror.view()))),
            Question::Explain(packet) => {
                explain::explain(packet, &self.policy, &mirror.view().table_names, self.verifier.oracle())
            }
            // Those that `take` keeps.
            Question::Mirror(_) | Question::Reload | Question::Rules => Ok(Value::Null),
        }
    }

    /// What XDP programs have forwarded until now is to be in what is told.
    fn collect_replayed(&self) {
        if let Some(dataplane) = &self.dataplane {
            dataplane.collect_replayed();
        }
    }

    fn report<'a>(&'a self, mirror: &'a Mirror) -> status::Report<'a> {
        let mut counters = self.earlier.clone();
        if let Some(dataplane) = &self.dataplane {
            add(&mut counters, &dataplane.counters());
        }
        status::Report {
            uptime: self.started.elapsed(),
            ports: self.dataplane.as_ref().map(Dataplane::ports).unwrap_or_default(),
            left: &self.selection.left,
            workers: self.dataplane.as_ref().map(Dataplane::workers).unwrap_or_default(),
            adopted: self.dataplane.as_ref().map(Dataplane::adopted),
            policy: &self.policy,
            counters,
            health: mirror.health(),
            stale: self.stale,
            verifier: &self.verifier,
            kept_fresh: self.keepalive.kept(),
            conntrack: &self.conntrack,
        }
    }

    /// One line for whoever started us, and the word to systemd.
    fn announce(&self) {
        let ports = self.dataplane.as_ref().map(Dataplane::ports).unwrap_or_default();
        for port in &ports {
            let copy = if port.zero_copy { "zero-copy" } else { "copy" };
            println!("port {}: {}, {copy}, {} queues", port.name, port.mode, port.queues);
        }
        for left in &self.selection.left {
            println!("left {}: {}", left.name, left.why);
        }
        let workers = self.dataplane.as_ref().map_or(0, |dataplane| dataplane.workers().len());
        println!("ready: {} ports, {workers} workers, generation {}", ports.len(), self.policy.generation().0);
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    }

    /// Drains and detaches; the kernel goes on.
    fn close(&mut self) {
        let Some(dataplane) = self.dataplane.take() else { return };
        dataplane.collect_replayed();
        add(&mut self.earlier, &dataplane.counters());
        self.rule_counts.keep(&mut self.translation, &dataplane);
        let (report, tables) = dataplane.stop();
        self.conntrack.disconnect();
        self.tables = Some(tables);
        if report.lost != 0 {
            eprintln!("{} frames were lost on the way out: this is a defect of shunt, please report it", report.lost);
        }
    }
}

fn add(sum: &mut Counters, more: &Counters) {
    let Counters { forwarded, replayed, dropped, punted, passed } = more;
    sum.forwarded += forwarded;
    sum.replayed += replayed;
    let pairs = sum.dropped.iter_mut().zip(dropped).chain(sum.punted.iter_mut().zip(punted));
    for (sum, more) in pairs.chain(sum.passed.iter_mut().zip(passed)) {
        *sum += more;
    }
}
