//! What `shunt status` and `shunt check` say, as JSON and as text.

use std::time::Duration;

use serde_json::{Map, Value, json};
use shunt_dataplane::{Counters, PortStatus, WorkerStatus};
use shunt_policy::{DropReason, Generation, PassReason, Policy, PuntReason};

use crate::mirror::MirrorHealth;
use crate::ports::Left;
use crate::translate::{Item, Standing};
use crate::verify::{self, Verifier};

/// Everything that `shunt status` tells.
pub struct Report<'a> {
    pub uptime: Duration,
    pub ports: Vec<PortStatus>,
    pub left: &'a [Left],
    pub workers: Vec<WorkerStatus>,
    /// The oldest policy that a worker still uses.
    pub adopted: Option<Generation>,
    pub policy: &'a Policy,
    pub counters: Counters,
    pub health: MirrorHealth,
    pub stale: bool,
    pub verifier: &'a Verifier,
}

/// The stable, machine-readable form.
pub fn json(report: &Report<'_>) -> Value {
    let summary = report.policy.summary();
    let health = &report.health;
    json!({
        "uptime_s": report.uptime.as_secs(),
        "ports": report.ports.iter().map(|port| json!({
            "name": port.name, "mode": port.mode, "zero_copy": port.zero_copy, "queues": port.queues,
        })).collect::<Vec<_>>(),
        "left": report.left.iter().map(|left| json!({ "name": left.name, "why": left.why })).collect::<Vec<_>>(),
        "workers": report.workers.iter().map(|worker| json!({
            "index": worker.index, "generation": worker.generation.0, "received": worker.received,
            "forwarded": worker.forwarded, "dropped": worker.dropped, "punted": worker.punted,
        })).collect::<Vec<_>>(),
        "policy": {
            "generation": report.policy.generation().0,
            "adopted": report.adopted.map(|generation| generation.0),
            "rules": summary.rules,
            "tables": summary.tables,
            "routes": summary.routes,
            "mangle_rules": summary.mangle_rules,
            "guards": summary.guards,
        },
        "counters": counters(&report.counters),
        "mirror": {
            "stale": report.stale,
            "fault": health.fault,
            "lost_events": health.counts.lost_events,
            "resyncs": health.counts.resyncs,
            "retried_dumps": health.counts.retried_dumps,
            "undecodable": health.undecodable,
        },
        "verify": report.verifier.json(),
    })
}

fn counters(counters: &Counters) -> Value {
    let Counters { forwarded, dropped, punted, passed } = counters;
    json!({
        "forwarded": forwarded,
        "dropped": by_word(DropReason::ALL.map(DropReason::word), dropped),
        "punted": by_word(PuntReason::ALL.map(PuntReason::word), punted),
        "passed": by_word(PassReason::ALL.map(PassReason::word), passed),
    })
}

fn by_word<const N: usize>(words: [&'static str; N], counts: &[u64; N]) -> Value {
    let pairs = words.into_iter().zip(counts).map(|(word, count)| (word.to_owned(), json!(count)));
    Value::Object(pairs.collect::<Map<_, _>>())
}

/// `shunt check --json`.
pub fn check_json(items: &[Item]) -> Value {
    let item = |item: &Item| {
        let reason = match item.standing {
            Standing::Punted(reason) => Some(reason.word()),
            Standing::Exact | Standing::Unsupported => None,
        };
        json!({
            "source": item.origin.source.word(),
            "text": &*item.origin.text,
            "standing": item.standing.word(),
            "reason": reason,
            "why": item.why,
        })
    };
    json!({ "items": items.iter().map(item).collect::<Vec<_>>() })
}

/// `shunt status` for the terminal, from its JSON.
pub fn text(status: &Value) -> String {
    let mut lines = Vec::new();
    for port in array(&status["ports"]) {
        let copy = if port["zero_copy"] == true { "zero-copy" } else { "copy" };
        lines.push(format!(
            "port      {}  {}, {copy}, queues {}",
            word(&port["name"]),
            word(&port["mode"]),
            port["queues"]
        ));
    }
    for left in array(&status["left"]) {
        lines.push(format!("left      {}  {}", word(&left["name"]), word(&left["why"])));
    }
    for worker in array(&status["workers"]) {
        lines.push(format!(
            "worker    {}  forwarded {}, dropped {}, punted {}, generation {}",
            worker["index"], worker["forwarded"], worker["dropped"], worker["punted"], worker["generation"]
        ));
    }
    let policy = &status["policy"];
    lines.push(format!(
        "policy    generation {}: {} rules, {} tables, {} routes, {} mangle rules, {} guards",
        policy["generation"],
        policy["rules"],
        policy["tables"],
        policy["routes"],
        policy["mangle_rules"],
        policy["guards"]
    ));
    let mirror = &status["mirror"];
    match mirror["fault"].as_str() {
        Some(fault) => lines.push(format!("mirror    FAULT: {fault}")),
        None => lines.push(format!(
            "mirror    in step; lost events {}, resyncs {}, undecodable {}",
            mirror["lost_events"], mirror["resyncs"], mirror["undecodable"]
        )),
    }
    lines.extend(verify::text(&status["verify"]));
    let counters = &status["counters"];
    lines.push(format!("forwarded {}", counters["forwarded"]));
    for kind in ["dropped", "punted", "passed"] {
        for (reason, count) in counters[kind].as_object().into_iter().flatten().filter(|(_, count)| **count != json!(0))
        {
            lines.push(format!("{kind:9} {count}  {reason}"));
        }
    }
    lines.join("\n")
}

/// `shunt check` for the terminal, from its JSON.
pub fn check_text(check: &Value) -> String {
    let mut lines = Vec::new();
    let mut counts = [0usize; 3];
    for item in array(&check["items"]) {
        let standing = word(&item["standing"]);
        counts[["exact", "punted", "unsupported"].iter().position(|known| *known == standing).unwrap_or(2)] += 1;
        let mut line = format!("{standing:11} {}: {}", word(&item["source"]), word(&item["text"]));
        match (item["reason"].as_str(), word(&item["why"])) {
            (Some(reason), why) => line += &format!("\n            -> {reason}: {why}"),
            (None, "") => {}
            (None, why) => line += &format!("\n            -> {why}"),
        }
        lines.push(line);
    }
    lines.push(format!("{} exact, {} punted, {} unsupported", counts[0], counts[1], counts[2]));
    lines.join("\n")
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
