//! Rounds: every router in turn, again and again, so that what else the machine does hits all alike.

use std::time::Duration;

use serde_json::{Value, json};
use shunt_dataplane::Histogram;

use super::cores::run_time;
use super::error::BenchError;
use super::network::Network;
use super::router::{Paths, Router, Running, Time};
use super::scenario::Scenario;
use super::{LIGHT, SATURATED};
use crate::cli::BenchArgs;

/// Before anything counts, a router works for so long, and until each flow has come by twice.
const WARM_UP: Duration = Duration::from_millis(300);
const LONGEST_WARM_UP: Duration = Duration::from_secs(20);
const LONGEST_SETTLING: Duration = Duration::from_secs(15);

/// Of all frames this share has to have gone the way that is measured.
const OWN: f64 = 0.99;

/// For so long the router is asked for its count of them.
const COUNTED: Duration = Duration::from_secs(2);

/// Points of a distribution in the results.
const POINTS: usize = 50;

/// What one router did in one round under one load.
#[derive(Clone, Debug)]
struct Measure {
    frames_per_s: f64,
    bits_per_s: f64,
    /// CPU time of the router in ns a frame, of that the parts of its NAPI threads and of the control room, and of its cores the share
    /// in which it ran.
    cpu_ns: f64,
    napi_ns: f64,
    control_ns: f64,
    busy: f64,
    /// The same share of the load.
    load_busy: f64,
    latency: Histogram,
    /// Frames that were lost on their way, and how often the loop had run empty.
    lost: u64,
    restarts: u64,
}

/// All rounds of one router.
struct Rounds<'a> {
    router: &'a Router,
    saturated: Vec<Measure>,
    light: Vec<Measure>,
}

/// Measures a scenario; the result is what stands in the JSON.
pub fn scenario(
    scenario: &Scenario,
    mut network: Network,
    routers: &[&Router],
    args: &BenchArgs,
) -> Result<Value, BenchError> {
    let new = |router| Rounds { router, saturated: Vec::new(), light: Vec::new() };
    let mut all: Vec<Rounds<'_>> = routers.iter().map(|router| new(*router)).collect();
    for round in 1..=args.rounds {
        for rounds in &mut all {
            let (saturated, light) = measure(scenario, &mut network, rounds.router, args.time())?;
            let Measure { frames_per_s, cpu_ns, .. } = saturated;
            let (name, mpps, router) = (scenario.name, frames_per_s / 1e6, rounds.router.name);
            eprintln!("{name:17} round {round}/{}  {router:15} {mpps:7.3} Mpps {cpu_ns:7.0} ns/packet", args.rounds);
            rounds.saturated.push(saturated);
            rounds.light.push(light);
        }
    }
    Ok(json!({
        "name": scenario.name,
        "what": scenario.what,
        "commands": network.commands,
        "flows": scenario.flows,
        "sizes": scenario.sizes,
        "cores": { "load": network.cores.load, "router": network.cores.router, "shared": network.cores.are_shared() },
        "routers": all.iter().map(|rounds| rounds.json(&all[0])).collect::<Vec<_>>(),
    }))
}

/// One router, one round: with many frames on their way, then with few.
fn measure(
    scenario: &Scenario,
    network: &mut Network,
    router: &Router,
    time: Duration,
) -> Result<(Measure, Measure), BenchError> {
    let running = router.start(network)?;
    network.turning.start(SATURATED)?;
    network.turning.warm_up(2 * scenario.flows as u64, WARM_UP, LONGEST_WARM_UP)?;
    running.settle(LONGEST_SETTLING);
    let before = (running.paths(), network.turning.seen()?.frames);
    let saturated = under_load(network, &running, time)?;
    network.turning.start(LIGHT)?;
    network.turning.warm_up(0, WARM_UP / 3, LONGEST_WARM_UP)?;
    let light = under_load(network, &running, time / 2)?;
    let all = network.turning.seen()?.frames - before.1;
    went_its_way(scenario, router, &running, before.0, all)?;
    Ok((saturated, light))
}

/// Measures what is going round, and stops it.
fn under_load(network: &mut Network, running: &Running, time: Duration) -> Result<Measure, BenchError> {
    let times = |network: &Network| {
        let Time { workers, control } = running.time();
        [run_time(&network.router_threads), workers, control, run_time(&network.load_threads)].map(|ns| ns as f64)
    };
    let before = times(network);
    let turned = network.turning.run(time)?;
    let after = times(network);
    let sent = network.turning.window() * (1 + turned.restarts);
    let on_their_way = network.turning.drain(sent)?;
    let (seconds, frames) = (turned.time.as_secs_f64(), turned.seen.frames as f64);
    let [napi, workers, control, load] = std::array::from_fn(|part| (after[part] - before[part]).max(0.0));
    let share = |ns: f64, cores: usize| ns / 1e9 / seconds / cores as f64;
    Ok(Measure {
        frames_per_s: frames / seconds,
        bits_per_s: turned.seen.bytes as f64 * 8.0 / seconds,
        cpu_ns: (napi + workers + control) / frames.max(1.0),
        napi_ns: napi / frames.max(1.0),
        control_ns: control / frames.max(1.0),
        busy: share(napi + workers + control, network.cores.router.len()),
        load_busy: share(load, network.cores.load.len()),
        latency: turned.seen.latency,
        lost: sent.saturating_sub(on_their_way),
        restarts: turned.restarts,
    })
}

/// No number is of another path than it is said to be of.
fn went_its_way(
    scenario: &Scenario,
    router: &Router,
    running: &Running,
    before: Paths,
    all: u64,
) -> Result<(), BenchError> {
    let (scenario, router) = (scenario.name, router.name.to_owned());
    if all == 0 {
        return Err(BenchError::Silent { scenario, router, state: running.state() });
    }
    let counted = || {
        let after = running.paths();
        (after.own - before.own, after.punted - before.punted)
    };
    // What programs have counted of many flows takes a while to be collected, and the daemon does not wait for it for long.
    let is_enough = |(own, _): &(u64, u64)| *own as f64 >= OWN * all as f64;
    let (own, punted) = shunt_lab::eventually(COUNTED, || Some(counted()).filter(is_enough)).unwrap_or_else(counted);
    if (own as f64) < OWN * all as f64 || punted as f64 > (1.0 - OWN) * all as f64 {
        return Err(BenchError::OtherPath { scenario, router, own, all, punted });
    }
    match running.divergence() {
        Some(told) => Err(BenchError::Diverged { scenario, router, told }),
        None => Ok(()),
    }
}

impl Rounds<'_> {
    /// What stands in the JSON; `kernel` was measured in the same rounds.
    fn json(&self, kernel: &Rounds<'_>) -> Value {
        let ratios = self.saturated.iter().zip(&kernel.saturated);
        json!({
            "name": self.router.name,
            "of_kernel": spread(ratios.map(|(own, kernel)| own.frames_per_s / kernel.frames_per_s), 100.0),
            "saturated": summary(&self.saturated),
            "light": summary(&self.light),
        })
    }
}

fn summary(rounds: &[Measure]) -> Value {
    let of = |figure: fn(&Measure) -> f64, parts| spread(rounds.iter().map(figure), parts);
    let mut latency = Histogram::default();
    rounds.iter().for_each(|round| latency.add(&round.latency));
    let quantile = |share| spread(rounds.iter().map(|round| round.latency.quantile(share) as f64 / 1000.0), 10.0);
    json!({
        "mpps": of(|round| round.frames_per_s / 1e6, 1e5),
        "gbps": of(|round| round.bits_per_s / 1e9, 1000.0),
        "cpu_ns": of(|round| round.cpu_ns, 1.0),
        "napi_ns": of(|round| round.napi_ns, 1.0),
        "control_ns": of(|round| round.control_ns, 1.0),
        "busy": of(|round| round.busy, 100.0),
        "load_busy": of(|round| round.load_busy, 100.0),
        "latency_us": {
            "p50": quantile(0.5), "p99": quantile(0.99), "p999": quantile(0.999), "max": quantile(1.0),
            "distribution": distribution(&latency),
        },
        "lost": rounds.iter().map(|round| round.lost).sum::<u64>(),
        "restarts": rounds.iter().map(|round| round.restarts).sum::<u64>(),
    })
}

/// Of several rounds the median, with the least and the most, and all in their order.
fn spread(rounds: impl Iterator<Item = f64>, parts: f64) -> Value {
    let rounded = |value: f64| (value * parts).round() / parts;
    let rounds: Vec<f64> = rounds.map(rounded).collect();
    let mut sorted = rounds.clone();
    sorted.sort_by(f64::total_cmp);
    let (Some(min), Some(max)) = (sorted.first(), sorted.last()) else { return Value::Null };
    let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
    json!({ "median": rounded((low + high) / 2.0), "min": min, "max": max, "rounds": rounds })
}

/// Pairs of microseconds and the share of all that took no longer.
fn distribution(latency: &Histogram) -> Vec<[f64; 2]> {
    let steps: Vec<(u64, u64)> = latency.steps().collect();
    let Some((_, total)) = steps.last() else { return Vec::new() };
    let point = |(time, below): &(u64, u64)| [*time as f64 / 1000.0, *below as f64 / *total as f64];
    // The interesting part is at the end, so points are even in the share of what is above, too.
    let mut points: Vec<[f64; 2]> = Vec::new();
    for step in steps.iter().map(point) {
        let is_far = |last: &[f64; 2]| {
            step[1] - last[1] > 1.0 / POINTS as f64 || (1.0 - step[1]) < 0.8 * (1.0 - last[1]) || step[1] == 1.0
        };
        if points.last().is_none_or(is_far) {
            points.push(step.map(|value| (value * 1e6).round() / 1e6));
        }
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_median_and_both_ends() {
        let odd = spread([3.0, 1.0, 2.0].into_iter(), 10.0);
        assert_eq!(odd, json!({ "median": 2.0, "min": 1.0, "max": 3.0, "rounds": [3.0, 1.0, 2.0] }));
        assert_eq!(spread([1.0, 2.0, 4.0, 8.0].into_iter(), 10.0)["median"], 3.0, "between the two in the middle");
        assert_eq!(spread([].into_iter(), 10.0), Value::Null);
    }
}
