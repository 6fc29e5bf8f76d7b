//! What `shunt status` and `shunt check` say, as JSON and as text.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use shunt_dataplane::conn as connections;
use shunt_dataplane::{Counters, PortStatus, WorkerStatus};
use shunt_policy::{DropReason, Generation, PassReason, Policy, PuntReason};

use crate::conntrack::Conntrack;
use crate::mirror::{AUDIT_PAUSE, MirrorHealth, Part};
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
    /// How often the kernel was told that a neighbour is in use.
    pub kept_fresh: u64,
    pub conntrack: &'a Conntrack,
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
            "netfilter_rules": summary.netfilter_rules,
            "guards": summary.guards,
        },
        "counters": counters(&report.counters),
        "conntrack": conntrack(report),
        "neighbours": { "kept_fresh": report.kept_fresh },
        "mirror": mirror(health, report.stale),
        "verify": report.verifier.json(),
    })
}

/// Connections: what the workers have, and how they are kept in step with the kernel's.
fn conntrack(report: &Report<'_>) -> Value {
    let sum = |of: &dyn Fn(&WorkerStatus) -> u64| report.workers.iter().map(of).sum::<u64>();
    let happened = connections::Counts::WORDS.iter().enumerate();
    let happened = happened.map(|(at, word)| ((*word).to_owned(), json!(sum(&|worker| worker.connection_counts[at]))));
    let kernel = report.conntrack.counts();
    json!({
        "connections": sum(&|worker| worker.connections),
        "happened": Value::Object(happened.collect::<Map<_, _>>()),
        "fault": report.conntrack.fault(),
        "kernel": {
            "connections": kernel.connections,
            "imported": kernel.imported,
            "exported": kernel.exported,
            "export_failed": kernel.export_failed.values().sum::<u64>(),
            "export_late": kernel.export_late,
            "ended": kernel.ended,
            "deleted": kernel.deleted,
            "events": kernel.events,
            "undecoded": kernel.undecoded,
            "lost": kernel.lost,
            "dumps": kernel.dumps,
            "resyncs": kernel.resyncs,
        },
    })
}

/// The mirror as a service: ages and bounds in milliseconds.
fn mirror(health: &MirrorHealth, stale: bool) -> Value {
    let age = |since: Instant| since.elapsed().as_millis() as u64;
    let differing = |part| match part {
        Part::Routes => health.route_audit.differing,
        part => health.audit.differing[part as usize],
    };
    let source = |part: Part| {
        json!({
            "source": part.word(),
            "followed": if part.is_told() { "told" } else { "polled" },
            "age_ms": age(health.last_read.of(part)),
            "staleness_bound_ms": health.staleness_bound(part).as_millis() as u64,
            "differing": differing(part),
        })
    };
    json!({
        "stale": stale,
        "fault": health.fault,
        "in_step": health.in_step,
        "age_ms": age(health.equal),
        "lost_events": health.counts.lost_events,
        "resyncs": health.counts.resyncs,
        "retried_dumps": health.counts.retried_dumps,
        "undecodable": health.undecodable,
        "strangers": health.counts.strangers,
        "audit": {
            "period_ms": AUDIT_PAUSE.as_millis() as u64,
            "age_ms": age(health.route_audit.last.min(health.audit.last)),
            "count": health.route_audit.count + health.audit.count,
            "differing": Part::ALL.map(differing).iter().sum::<u64>(),
        },
        "sources": Part::ALL.map(source),
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
        "policy    generation {}: {} rules, {} tables, {} routes, {} netfilter rules, {} guards",
        policy["generation"],
        policy["rules"],
        policy["tables"],
        policy["routes"],
        policy["netfilter_rules"],
        policy["guards"]
    ));
    let mirror = &status["mirror"];
    match mirror["fault"].as_str() {
        Some(fault) => lines.push(format!("mirror    FAULT: {fault}")),
        None => lines.push(format!(
            "mirror    {}, {} ms old; lost events {}, resyncs {}, retried dumps {}, undecodable {}, not the kernel's {}",
            if mirror["in_step"] == true { "in step" } else { "IN DOUBT" },
            mirror["age_ms"],
            mirror["lost_events"],
            mirror["resyncs"],
            mirror["retried_dumps"],
            mirror["undecodable"],
            mirror["strangers"],
        )),
    }
    lines.extend(verify::text(&status["verify"]));
    let audit = &mirror["audit"];
    lines.push(format!(
        "audit     {} ago: {} in all, {} differing",
        ms(audit, "age_ms"),
        audit["count"],
        audit["differing"]
    ));
    for source in array(&mirror["sources"]) {
        lines.push(format!(
            "source    {:15} {:6} read {} ago, at most {} behind",
            word(&source["source"]),
            word(&source["followed"]),
            ms(source, "age_ms"),
            ms(source, "staleness_bound_ms"),
        ));
    }
    lines.extend(conntrack_text(&status["conntrack"]));
    lines.push(format!("neighbour kept fresh {} times", status["neighbours"]["kept_fresh"]));
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

fn conntrack_text(conntrack: &Value) -> Vec<String> {
    let (happened, kernel) = (&conntrack["happened"], &conntrack["kernel"]);
    let mut lines = vec![
        format!(
            "conntrack {} connections; created {}, expired {}, evicted {}, full {}, exhausted {}",
            conntrack["connections"],
            happened["created"],
            happened["expired"],
            happened["evicted"],
            happened["full"],
            happened["exhausted"],
        ),
        format!(
            "          in step with the kernel's {}: imported {}, exported {}, refused {}, late {}, resyncs {}",
            kernel["connections"],
            kernel["imported"],
            kernel["exported"],
            kernel["export_failed"],
            kernel["export_late"],
            kernel["resyncs"],
        ),
    ];
    if let Some(fault) = conntrack["fault"].as_str() {
        lines.push(format!("          FAULT: {fault}"));
    }
    lines
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

/// `shunt reload` for the terminal, from its JSON.
pub fn reload_text(reload: &Value) -> String {
    let differed: Vec<&str> = array(&reload["differed"]).iter().map(word).collect();
    match differed[..] {
        [] => format!("everything was in step; generation {}", reload["generation"]),
        _ => format!("had differed: {}; generation {}", differed.join(", "), reload["generation"]),
    }
}

fn ms(value: &Value, key: &str) -> String {
    format!("{} ms", value[key])
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
