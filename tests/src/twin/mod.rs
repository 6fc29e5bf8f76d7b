//! Two routers with one configuration: the kernel forwards in one, shunt in the other. The same frames go into both, and what
//! comes out is compared to the byte: egress, MACs, ICMP errors, silence.

mod base;
pub mod campaign;
mod command;
mod packet;
mod random;
mod rows;
mod rules;
mod short;
pub(crate) mod talk;

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::lab::{Daemon, Lab, Namespace, Wire, WireSender};

pub use base::{HOSTS, MARKS, PORTS, PROTOCOL, behind4, behind6, net4, net6, second4};
pub use command::{Command, RawRule};
pub use packet::{Body, Packet, Twist, far_mac, router_mac};
pub use random::Kind;
pub use rows::Rows;
pub use rules::{Backend, Line, Tool};
pub use short::in_short;

/// The mirror's bound for sysctls, which it polls because they give no event, and a little more.
const FOLLOWED: Duration = Duration::from_millis(600);
/// Ports that come and go make the workers start anew, at most once a second.
const RETAKEN: Duration = Duration::from_millis(1500);
/// Both routers are done with what they were sent when nothing has come for this long.
const QUIET: Duration = Duration::from_millis(60);
/// The same while something has come from one router of which the other has sent nothing yet: the machine may be busy.
const BEHIND: Duration = Duration::from_millis(500);
/// Frames sent at once; the rings of the cables hold 256.
const BURST: usize = 16;

/// The two routers.
pub struct Twin {
    kernel: Router,
    shunt: Router,
    daemon: Daemon,
    tags: u32,
    /// The case under way has taken links down.
    links_changed: bool,
    rules: Rules,
    /// Those that the workers served when it last settled.
    ports: Vec<String>,
}

/// How netfilter's rules stand, as far as the twin can tell: a shell may have changed them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rules {
    /// As at the start.
    First,
    /// As at the start again, but the mirror may not know it yet.
    TakenBack,
    Loaded,
}

/// One router, and the far ends of its cables.
struct Router {
    namespace: Namespace,
    far: Namespace,
    senders: Vec<WireSender>,
    heard: Receiver<(usize, Vec<u8>)>,
    stop: Arc<AtomicBool>,
}

/// Whether the XDP program forwards what the workers have decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replay {
    On,
    Off,
}

impl Replay {
    pub const BOTH: [Replay; 2] = [Replay::Off, Replay::On];
}

impl fmt::Display for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Replay::On => "on",
            Replay::Off => "off",
        })
    }
}

/// What came out for one packet: ports and frames, in a fixed order. Nothing is silence.
pub type Outcome = Vec<(usize, Vec<u8>)>;

/// What the two routers did with one packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcomes {
    pub kernel: Outcome,
    pub shunt: Outcome,
}

impl Outcomes {
    pub fn agree(&self) -> bool {
        self.kernel == self.shunt
    }

    pub fn one_is_silent(&self) -> bool {
        self.kernel.is_empty() != self.shunt.is_empty()
    }
}

impl Twin {
    /// Both routers in their first state, the daemon running.
    pub fn new() -> Self {
        Self::named("", Replay::Off)
    }

    /// One of several twins.
    pub fn named(name: &str, replay: Replay) -> Self {
        let lab = Lab::new();
        let kernel = Router::new(&lab, &format!("kernel{name}"));
        let shunt = Router::new(&lab, &format!("shunt{name}"));
        let daemon = match replay {
            Replay::Off => shunt.namespace.start_shunt("--replay off"),
            Replay::On => {
                kernel.namespace.prepare_far_ends();
                shunt.namespace.start_shunt_with_replay("")
            }
        };
        let mut twin =
            Twin { kernel, shunt, daemon, tags: 0, links_changed: false, rules: Rules::First, ports: Vec::new() };
        twin.ports = twin.ports();
        twin.reset();
        twin
    }

    /// Back to the first state.
    pub fn reset(&mut self) {
        if self.rules == Rules::Loaded {
            self.apply(&base::reset_rules());
            self.rules = Rules::TakenBack;
        }
        self.apply(&base::reset());
    }

    /// Has the kernel run the chains of iptables-legacy before those of nf_tables where the priority is the same, in this case as in
    /// the next: of two with one priority it runs that first which came last.
    pub fn order_back_ends(&mut self, tables: &[&str]) {
        self.apply(&[base::legacy_tables(tables)]);
        self.rules = Rules::Loaded;
        self.reset();
    }

    /// Configures both routers. Returns what the kernel refused; that it refused the same twice is asserted.
    pub fn apply(&mut self, commands: &[Command]) -> String {
        if commands.iter().any(|command| matches!(command, Command::Load(_) | Command::Shell(_))) {
            self.rules = Rules::Loaded;
        }
        let Twin { kernel, shunt, .. } = self;
        let [one, other] = std::thread::scope(|scope| {
            [(&kernel.namespace, &kernel.far), (&shunt.namespace, &shunt.far)]
                .map(|(router, far)| scope.spawn(move || command::apply(commands, router, far)))
                .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        assert_eq!(one, other, "the two kernels do not take the same configuration");
        one
    }

    /// Waits until the mirror has followed.
    pub fn settle(&mut self) {
        let rules = self.reload_rules();
        std::thread::sleep(FOLLOWED);
        // Rules that leave nothing to the workers have the ports left, others have them taken again.
        if rules && self.ports() != self.ports {
            std::thread::sleep(RETAKEN);
            self.ports = self.ports();
        }
    }

    /// The same after links went down or came up: ports are taken anew.
    pub fn settle_ports(&mut self) {
        self.reload_rules();
        std::thread::sleep(FOLLOWED + RETAKEN);
        self.ports = self.ports();
    }

    /// What iptables-legacy and ipset load gives no event: the mirror need not wait until it asks by itself. Says whether there are
    /// rules, or were.
    fn reload_rules(&mut self) -> bool {
        if self.rules == Rules::First {
            return false;
        }
        self.daemon.reload();
        if self.rules == Rules::TakenBack {
            self.rules = Rules::First;
        }
        true
    }

    /// Names of the ports that the workers serve.
    fn ports(&self) -> Vec<String> {
        let status = self.daemon.status();
        let ports = status["ports"].as_array().into_iter().flatten();
        ports.filter_map(|port| port["name"].as_str()).map(str::to_owned).collect()
    }

    /// Sends the packets into both routers, and returns what came out for each.
    pub fn exchange(&mut self, packets: &[Packet]) -> Vec<Outcomes> {
        self.exchange_for(packets, QUIET)
    }

    /// The same with another bound to the silence that ends it.
    pub fn exchange_for(&mut self, packets: &[Packet], quiet: Duration) -> Vec<Outcomes> {
        let tags = self.next_tags(packets.len());
        let first = tags.start;
        let frames = packets.iter().zip(tags.clone()).map(|(packet, tag)| {
            let frame = packet.frame(tag);
            [Some((packet.port, frame.clone())), Some((packet.port, frame))]
        });
        let [mut kernel, mut shunt] = self.pass(frames, Duration::ZERO, quiet, |_, frame| {
            let reset = || packet::is_reset_of(frame, packets).map(|number| first + number as u32);
            packet::tag(frame).or_else(reset)
        });
        let take = |outcomes: &mut HashMap<u32, Outcome>, tag| {
            let mut outcome = outcomes.remove(&tag).unwrap_or_default();
            outcome.sort();
            outcome
        };
        tags.map(|tag| Outcomes { kernel: take(&mut kernel, tag), shunt: take(&mut shunt, tag) }).collect()
    }

    /// Tags that no packet had before.
    fn next_tags(&mut self, count: usize) -> Range<u32> {
        let first = self.tags;
        self.tags += count as u32;
        first..self.tags
    }

    /// Sends frames by ports into the kernel's router and into shunt's, with a pause after each, and returns what came out of each, by the
    /// tag that `tag_of` says of a frame of the first (0) or second (1) router, until nothing has come for `quiet`.
    fn pass(
        &mut self,
        frames: impl Iterator<Item = [Option<(usize, Vec<u8>)>; 2]>,
        pause: Duration,
        quiet: Duration,
        tag_of: impl Fn(usize, &[u8]) -> Option<u32>,
    ) -> [HashMap<u32, Outcome>; 2] {
        for router in [&self.kernel, &self.shunt] {
            while router.heard.try_recv().is_ok() {}
        }
        for (number, [kernel, shunt]) in frames.enumerate() {
            for (router, frame) in [(&mut self.kernel, kernel), (&mut self.shunt, shunt)] {
                if let Some((port, frame)) = frame {
                    router.senders[port].send(&frame);
                }
            }
            if number % BURST == BURST - 1 {
                std::thread::sleep(Duration::from_micros(500));
            }
            std::thread::sleep(pause);
        }
        let mut both = [HashMap::<u32, Outcome>::new(), HashMap::new()];
        let mut last = Instant::now();
        let level = |[one, other]: &[HashMap<u32, Outcome>; 2]| {
            one.len() == other.len() && one.keys().all(|tag| other.contains_key(tag))
        };
        while last.elapsed() < quiet || last.elapsed() < BEHIND && !level(&both) {
            let mut any = false;
            for (number, router) in [&self.kernel, &self.shunt].into_iter().enumerate() {
                while let Ok((port, frame)) = router.heard.try_recv() {
                    let Some(tag) = tag_of(number, &frame) else { continue };
                    let Some(frame) = packet::comparable(frame) else { continue };
                    both[number].entry(tag).or_default().push((port, frame));
                    any = true;
                }
            }
            if any {
                last = Instant::now();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        both
    }

    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// The namespace of the router in which shunt forwards.
    pub fn shunt(&self) -> &Namespace {
        &self.shunt.namespace
    }

    /// The namespace of the router in which the kernel forwards.
    pub fn kernel(&self) -> &Namespace {
        &self.kernel.namespace
    }
}

impl Default for Twin {
    fn default() -> Self {
        Self::new()
    }
}

impl Router {
    fn new(lab: &Lab, name: &str) -> Self {
        let namespace = lab.namespace(name);
        let far = lab.namespace(&format!("{name}-far"));
        far.run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
        for port in 0..PORTS {
            lab.veth((&namespace, &format!("p{port}")), (&far, &format!("w{port}")));
        }
        namespace.run(&base::set_up());
        command::apply(&base::reset(), &namespace, &far);
        let (sender, heard) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let senders = (0..PORTS).map(|port| {
            let (wire, mut ear) = Wire::open(&far, &format!("w{port}")).split();
            let (sender, stop) = (sender.clone(), stop.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    if let Some(frame) = ear.hear()
                        && sender.send((port, frame)).is_err()
                    {
                        return;
                    }
                }
            });
            wire
        });
        let senders = senders.collect();
        Router { namespace, far, senders, heard, stop }
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
