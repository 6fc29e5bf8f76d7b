//! Case after case, and what to say of one in which the routers differ.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::Value;

use super::command::Command;
use super::packet::Packet;
use super::random::{self, Kind};
use super::{Outcome, Outcomes, Replay, Twin, rules, talk};
use crate::lab::Lab;

/// Packets of each case.
const PACKETS: usize = 96;
/// A difference counts if it shows as often in a row: a machine under load may lose a frame.
pub(super) const TRIES: u32 = 3;
/// The kernel grants each host some errors in a row, then one in this time (`ip_error`, `inet_peer_xrlim_allow`).
const ANOTHER_ERROR: Duration = Duration::from_secs(1);
/// The mirror is equal to the kernel this long after the last change.
const LATE: Duration = Duration::from_secs(1);
/// How long a failure may be made smaller.
pub(super) const SHRINKING: Duration = Duration::from_secs(120);

/// What a number of cases came to.
#[derive(Debug, Default)]
pub struct Report {
    pub cases: u64,
    pub packets: u64,
    /// Packets of which something came out.
    pub answered: u64,
    /// Frames by the workers.
    pub by_workers: u64,
    /// Packets of which one router sent nothing, once: lost in some queue.
    pub unsteady: u64,
    /// Other differences that did not last: the mirror took its time.
    pub late: u64,
    /// Commands that the kernel took.
    pub commands: u64,
    pub refused: u64,
    /// What tools said of rule sets that they did not take: all lines of one tool and case.
    pub refused_rule_sets: Vec<String>,
    /// How the packets ended with shunt, by counter.
    pub ends: BTreeMap<String, u64>,
    /// The first difference, told for somebody who has to mend it.
    pub divergence: Option<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report {
            cases,
            packets,
            answered,
            by_workers,
            unsteady,
            late,
            commands,
            refused,
            refused_rule_sets,
            ends,
            divergence,
        } = self;
        writeln!(
            f,
            "{cases} cases of {commands} commands ({refused} refused), {packets} packets, {answered} answered"
        )?;
        writeln!(
            f,
            "{by_workers} forwarded by the workers, {unsteady} unsteady, {late} late, {} divergences",
            divergence.iter().count()
        )?;
        for (end, count) in ends {
            writeln!(f, "  {count:8}  {end}")?;
        }
        for refused in refused_rule_sets {
            writeln!(f, "{refused}")?;
        }
        divergence.as_ref().map_or(Ok(()), |divergence| f.write_str(divergence))
    }
}

/// One case, as its number makes it.
struct Case {
    kind: Kind,
    seed: u64,
    number: u64,
    replay: Replay,
    commands: Vec<Command>,
    packets: Vec<Packet>,
}

impl Case {
    fn new(kind: Kind, replay: Replay, seed: u64, number: u64) -> Self {
        let mut rng = dice(seed, number);
        let commands = random::commands(&mut rng, kind);
        let mut packets = random::packets(&mut rng, PACKETS);
        if replay == Replay::On {
            // What was decided about the first is what becomes of the second.
            packets.extend_from_within(..);
        }
        Case { kind, seed, number, replay, commands, packets }
    }
}

/// The same for a case in every run.
pub(super) fn dice(seed: u64, number: u64) -> Rng {
    Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number)
}

/// Runs cases on `twins` pairs of routers beside each other, until the time is over or two routers differ. `told` hears of each
/// finished case.
pub fn run(
    kind: Kind,
    replay: Replay,
    twins: usize,
    seed: u64,
    cases: Range<u64>,
    time: Duration,
    told: impl Fn(&Report) + Sync,
) -> Report {
    // Its mount namespace is for the threads below, too.
    let _lab = Lab::new();
    let campaign = Campaign {
        kind,
        replay,
        seed,
        end: Instant::now() + time,
        next: AtomicU64::new(cases.start),
        last: cases.end,
        report: Mutex::default(),
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..twins)
            .map(|number| {
                scope.spawn({
                    let (campaign, told) = (&campaign, &told);
                    move || campaign.work(&mut Twin::named(&number.to_string(), replay), told)
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    campaign.report.into_inner().expect("no thread has panicked")
}

struct Campaign {
    kind: Kind,
    replay: Replay,
    seed: u64,
    end: Instant,
    next: AtomicU64,
    last: u64,
    report: Mutex<Report>,
}

impl Campaign {
    fn work(&self, twin: &mut Twin, told: &impl Fn(&Report)) {
        match self.kind {
            Kind::Routing => {}
            Kind::Netfilter => twin.order_back_ends(&["raw", "mangle", "filter"]),
            Kind::Nat => twin.order_back_ends(&["raw", "mangle", "nat", "filter"]),
        }
        let before = ends(&twin.daemon().status());
        while Instant::now() < self.end && self.report().divergence.is_none() {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.last {
                break;
            }
            let mut of_case = Report::default();
            match self.kind {
                Kind::Nat => talk::case(twin, self.seed, number, &mut of_case),
                _ => one(twin, &Case::new(self.kind, self.replay, self.seed, number), &mut of_case),
            }
            let mut report = self.report();
            report.add(of_case);
            told(&report);
        }
        let mut report = self.report();
        for (end, count) in ends(&twin.daemon().status()) {
            *report.ends.entry(end.clone()).or_default() += count - before.get(&end).copied().unwrap_or(0);
        }
        report.ends.retain(|_, count| *count > 0);
        report.by_workers = report.ends.get("forwarded").copied().unwrap_or(0);
    }

    fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().expect("no thread has panicked")
    }
}

impl Report {
    /// One more case, and what the tools said to its commands.
    pub(super) fn configured(&mut self, case: u64, commands: &[Command], refused: &str) {
        self.cases += 1;
        self.commands += commands.len() as u64;
        // What `ip` says of each, and what the kernel says of a sysctl or a rule of ours.
        let of_command = |line: &&str| line.starts_with("Command failed") || !line.contains("rror:");
        self.refused += refused.lines().filter(of_command).count() as u64;
        let sets = refused.lines().filter(|line| line.starts_with(rules::REFUSED));
        self.refused_rule_sets.extend(sets.map(|line| format!("case {case}: {line}")));
    }

    fn add(&mut self, other: Report) {
        let Report {
            cases,
            packets,
            answered,
            by_workers: _,
            unsteady,
            late,
            commands,
            refused,
            refused_rule_sets,
            ends: _,
            divergence,
        } = other;
        self.cases += cases;
        self.packets += packets;
        self.answered += answered;
        self.unsteady += unsteady;
        self.late += late;
        self.commands += commands;
        self.refused += refused;
        self.refused_rule_sets.extend(refused_rule_sets);
        self.divergence = self.divergence.take().or(divergence);
    }
}

fn one(twin: &mut Twin, case: &Case, report: &mut Report) {
    let refused = prepare(twin, &case.commands);
    report.configured(case.number, &case.commands, &refused);
    report.packets += case.packets.len() as u64;
    let outcomes = twin.exchange(&case.packets);
    report.answered += outcomes.iter().filter(|outcomes| !outcomes.kernel.is_empty()).count() as u64;
    let differing = case.packets.iter().zip(outcomes).filter(|(_, outcomes)| !outcomes.agree());
    let (silent, otherwise): (Vec<_>, Vec<_>) = differing.partition(|(_, outcomes)| outcomes.one_is_silent());
    let packets =
        |these: Vec<(&Packet, Outcomes)>| these.into_iter().map(|(packet, _)| packet.clone()).collect::<Vec<_>>();
    let (silent, otherwise) = (packets(silent), packets(otherwise));
    let (lost, late) = (silent.len(), otherwise.len());
    let silent = persistent(twin, &silent, TRIES);
    let otherwise = persistent(twin, &otherwise, TRIES);
    report.unsteady += (lost - silent.len()) as u64;
    report.late += (late - otherwise.len()) as u64;
    let steady = [silent, otherwise].concat();
    if steady.is_empty() {
        return;
    }
    std::thread::sleep(LATE);
    let for_good = persistent(twin, &steady, TRIES);
    report.late += (steady.len() - for_good.len()) as u64;
    report.divergence = for_good.first().map(|packet| tell(twin, case, packet));
    // At once: the end of the daemon may have its own word on it.
    println!("{}", report.divergence.as_deref().unwrap_or_default());
}

/// Configures both routers anew and waits until the mirror has followed. Returns what the kernel refused.
pub(super) fn prepare(twin: &mut Twin, commands: &[Command]) -> String {
    twin.reset();
    let refused = twin.apply(commands);
    let links = commands.iter().any(|command| command.to_string().ends_with(" down"));
    // Those that the case before had down came up.
    if std::mem::replace(&mut twin.links_changed, links) || links {
        twin.settle_ports();
    } else {
        twin.settle();
    }
    refused
}

/// Those of the packets over which the routers differ time after time.
fn persistent(twin: &mut Twin, packets: &[Packet], tries: u32) -> Vec<Packet> {
    let mut left = packets.to_vec();
    for _ in 0..tries {
        if left.is_empty() {
            break;
        }
        std::thread::sleep(ANOTHER_ERROR);
        let outcomes = twin.exchange(&left);
        left = left
            .into_iter()
            .zip(outcomes)
            .filter(|(_, outcomes)| !outcomes.agree())
            .map(|(packet, _)| packet)
            .collect();
    }
    left
}

/// Leaves out commands as long as the difference stays.
fn shrink(twin: &mut Twin, case: &Case, packet: &Packet) -> Vec<Command> {
    let start = Instant::now();
    let mut commands = case.commands.clone();
    let mut size = commands.len() / 2;
    while size > 0 {
        let mut at = 0;
        while at < commands.len() && start.elapsed() < SHRINKING {
            let mut fewer = commands.clone();
            fewer.drain(at..(at + size).min(commands.len()));
            prepare(twin, &fewer);
            match persistent(twin, std::slice::from_ref(packet), 1)[..] {
                [_] => commands = fewer,
                _ => at += size,
            }
        }
        size /= 2;
    }
    commands
}

fn tell(twin: &mut Twin, case: &Case, packet: &Packet) -> String {
    let seen = twin.exchange(std::slice::from_ref(packet)).remove(0);
    let mut commands = shrink(twin, case, packet);
    prepare(twin, &commands);
    if persistent(twin, std::slice::from_ref(packet), 1).is_empty() {
        // Smaller by chance only: the whole case stands.
        commands.clone_from(&case.commands);
        prepare(twin, &commands);
    }
    std::thread::sleep(ANOTHER_ERROR);
    let outcomes = twin.exchange(std::slice::from_ref(packet)).remove(0);
    let Case { kind, seed, number, replay, .. } = case;
    let mut text = format!("the routers differ: make twin KIND={kind} REPLAY={replay} SEED={seed} CASE={number}\n");
    for command in &commands {
        let _ = writeln!(text, "  {command}");
    }
    let _ = writeln!(text, "packet {packet}");
    let both =
        |outcomes: &Outcomes| format!("kernel {}\nshunt  {}", outcome(&outcomes.kernel), outcome(&outcomes.shunt));
    let _ = writeln!(text, "{}", both(&outcomes));
    if outcomes.agree() {
        let _ = writeln!(text, "not any more; it was\n{}", both(&seen));
    }
    let _ = writeln!(text, "{}", explained(twin, packet));
    let _ = writeln!(text, "{}", twin.daemon().status()["mirror"]);
    text
}

pub(super) fn outcome(outcome: &Outcome) -> String {
    if outcome.is_empty() {
        return "silence".to_owned();
    }
    let frame = |(port, frame): &(usize, Vec<u8>)| {
        let bytes: String = frame.iter().take(110).map(|byte| format!("{byte:02x}")).collect();
        format!("by p{port}, {} bytes: {bytes}", frame.len())
    };
    outcome.iter().map(frame).collect::<Vec<_>>().join("\n       ")
}

/// What shunt says of such a packet; the mark is that of PREROUTING's rules.
fn explained(twin: &Twin, packet: &Packet) -> String {
    let (protocol, (sport, dport)) = (packet.protocol(), packet.ports());
    let Packet { port, source, destination, tos, .. } = packet;
    twin.daemon().explain_text(&format!(
        "--iif p{port} --src {source} --dst {destination} --proto {protocol} --sport {sport} --dport {dport} --tos {tos}"
    ))
}

fn ends(status: &Value) -> BTreeMap<String, u64> {
    let counters = &status["counters"];
    let count = |key: &str| (key.to_owned(), counters[key].as_u64().unwrap_or(0));
    let mut ends = BTreeMap::from(["forwarded", "replayed"].map(count));
    for kind in ["dropped", "punted", "passed"] {
        for (reason, count) in counters[kind].as_object().into_iter().flatten() {
            ends.insert(format!("{kind} {reason}"), count.as_u64().unwrap_or(0));
        }
    }
    ends
}
