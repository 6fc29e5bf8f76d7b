//! A case of conversations, and what to say of one in which the routers differ.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::{Difference, Talk, Told, hold, tables};
use crate::twin::Twin;
use crate::twin::campaign::{Report, SHRINKING, TRIES, dice, prepare};
use crate::twin::command::Command;
use crate::twin::random::{self, Kind};

/// With this in the environment, both routers stay for so many seconds as they are when a difference has been made smaller.
const HOLD: &str = "TWIN_HOLD";

/// Conversations of each case.
const TALKS: usize = 48;

/// One case, as its number makes it.
pub(in crate::twin) fn case(twin: &mut Twin, seed: u64, number: u64, report: &mut Report) {
    let mut rng = dice(seed, number);
    let commands = random::commands(&mut rng, Kind::Nat);
    let talks = random::talks(&mut rng, TALKS);
    let refused = prepare(twin, &commands);
    report.configured(number, &commands, &refused);
    let Told { packets, answered, mut differences, misfits: _ } = play(twin, &commands, &talks);
    report.packets += packets;
    report.answered += answered;
    let silences = differences.iter().filter(|difference| difference.silence).count() as u64;
    let others = differences.len() as u64 - silences;
    let Some(first) = differences.first().cloned() else { return };
    // A machine under load may lose a frame: what counts is what happens each time.
    for _ in 0..TRIES {
        if differences.is_empty() {
            break;
        }
        prepare(twin, &commands);
        let again = play(twin, &commands, &talks).differences;
        differences = again.into_iter().filter(|one| is_among(one, &differences)).collect();
    }
    if differences.is_empty() {
        println!("case {number}, not again: {}", first.told);
        report.unsteady += silences;
        report.late += others;
        return;
    }
    println!("case {number}, each time: {}", differences[0].told);
    let text = tell(twin, seed, number, &commands, &talks, &differences[0]);
    // At once: the end of the daemon may have its own word on it.
    println!("{text}");
    report.divergence = Some(text);
}

/// The conversations, and what the routers say of them afterwards.
fn play(twin: &mut Twin, commands: &[Command], talks: &[Talk]) -> Told {
    let before = tables::Before::of(twin);
    let mut told = hold(twin, talks);
    if told.differences.is_empty() {
        // The kernel's rules have counted what the workers dropped.
        let difference = if told.misfits == 0 { before.compare(twin, talks, commands) } else { None };
        told.differences.extend(difference);
    }
    told
}

fn is_among(one: &Difference, others: &[Difference]) -> bool {
    others.iter().any(|other| other.talk == one.talk)
}

/// Leaves out conversations and commands as long as the routers differ.
fn shrink(twin: &mut Twin, commands: &[Command], talks: &[Talk], difference: &Difference) -> (Vec<Command>, Vec<Talk>) {
    let start = Instant::now();
    let (mut commands, mut talks) = (commands.to_vec(), talks.to_vec());
    let mut differ = |commands: &[Command], talks: &[Talk]| {
        prepare(twin, commands);
        !play(twin, commands, talks).differences.is_empty()
    };
    if let Some(alone) = difference.talk.map(|number| vec![talks[number].clone()])
        && differ(&commands, &alone)
    {
        talks = alone;
    } else {
        fewer(&mut talks, start, |talks| differ(&commands, talks));
    }
    fewer(&mut commands, start, |commands| differ(commands, &talks));
    if let [talk] = &mut talks[..] {
        let whole = talk.clone();
        fewer(&mut talk.steps, start, |steps| differ(&commands, &[Talk { steps: steps.to_vec(), ..whole.clone() }]));
    }
    (commands, talks)
}

fn fewer<T: Clone>(list: &mut Vec<T>, start: Instant, mut differ: impl FnMut(&[T]) -> bool) {
    let mut size = list.len() / 2;
    while size > 0 {
        let mut at = 0;
        while at < list.len() && start.elapsed() < SHRINKING {
            let mut fewer = list.clone();
            fewer.drain(at..(at + size).min(fewer.len()));
            if differ(&fewer) {
                *list = fewer;
            } else {
                at += size;
            }
        }
        size /= 2;
    }
}

fn tell(
    twin: &mut Twin,
    seed: u64,
    number: u64,
    commands: &[Command],
    talks: &[Talk],
    difference: &Difference,
) -> String {
    let (fewer, some) = shrink(twin, commands, talks, difference);
    prepare(twin, &fewer);
    let told = play(twin, &fewer, &some);
    let mut text = format!("the routers differ: make twin KIND={} SEED={seed} CASE={number}\n", Kind::Nat);
    for command in &fewer {
        let _ = writeln!(text, "  {command}");
    }
    match told.differences.first() {
        Some(last) => {
            let _ = writeln!(text, "{} conversations\n{}", some.len(), last.told);
        }
        None => {
            let _ = writeln!(text, "not any more; in the whole case it was\n{}", difference.told);
        }
    }
    let [kernel, shunt] = [twin.kernel(), twin.shunt()].map(|router| router.try_run("conntrack -L").stdout);
    let _ = writeln!(text, "conntrack of the kernel's router\n{kernel}of shunt's\n{shunt}");
    let _ = writeln!(text, "{}", twin.daemon().status()["counters"]);
    if let Some(seconds) = std::env::var(HOLD).ok().and_then(|seconds| seconds.parse().ok()) {
        println!("{text}holding for {seconds} s");
        std::thread::sleep(Duration::from_secs(seconds));
    }
    text
}
