//! What `shunt status` and `shunt check` say, as JSON and as text.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use shunt_dataplane::conn as connections;
use shunt_dataplane::{Counters, PortStatus, WorkerStatus};
use shunt_policy::config::Field;
use shunt_policy::connection::Endpoint;
use shunt_policy::{DropReason, Family, Generation, PassReason, Policy, PuntReason};

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
            "replays": port.replays,
        })).collect::<Vec<_>>(),
        "left": report.left.iter().map(|left| json!({ "name": left.name, "why": left.why })).collect::<Vec<_>>(),
        "workers": report.workers.iter().map(|worker| json!({
            "index": worker.index, "generation": worker.generation.0, "received": worker.received,
            "forwarded": worker.forwarded, "replayed": worker.replayed, "flows": worker.flows, "dropped": worker.dropped, "punted": worker.punted,
        })).collect::<Vec<_>>(),
        "policy": {
            "generation": report.policy.generation().0,
            "adopted": report.adopted.map(|generation| generation.0),
            "rules": summary.rules,
            "tables": summary.tables,
            "routes": summary.routes,
            "netfilter_rules": summary.netfilter_rules,
            "guards": summary.guards,
            "decided_anew": decided_anew(report.policy),
        },
        "counters": counters(&report.counters),
        "conntrack": conntrack(report),
        "neighbours": { "kept_fresh": report.kept_fresh },
        "mirror": mirror(health, report.stale),
        "verify": report.verifier.json(),
    })
}

/// By family, what rules look at so that nothing is kept for the next packet of a flow.
fn decided_anew(policy: &Policy) -> Value {
    let families = Family::BOTH.into_iter().filter_map(|family| {
        let looked_at = match policy.varies(family)? {
            Field::Ttl => "the TTL",
            Field::Length => "the length",
            Field::TcpFlags => "flags of TCP",
            Field::SourceMac => "the source of frames",
            _ => "the packet",
        };
        Some((family.to_string(), json!(looked_at)))
    });
    Value::Object(families.collect())
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
        "exhausted_towards": exhausted_towards(&report.workers),
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

/// The destinations to which nat rules had no tuple left of late, those first that cost most packets.
fn exhausted_towards(workers: &[WorkerStatus]) -> Value {
    let mut packets = HashMap::new();
    for exhausted in workers.iter().flat_map(|worker| &worker.exhausted_towards) {
        *packets.entry((exhausted.destination, exhausted.protocol)).or_default() += exhausted.packets;
    }
    let mut all: Vec<(_, u64)> = packets.into_iter().collect();
    all.sort_by_key(|((end, protocol), packets)| (Reverse(*packets), end.address, end.port, *protocol));
    let one = |((end, protocol), packets): ((Endpoint, u8), u64)| {
        let protocol = match protocol {
            1 => "icmp".to_owned(),
            6 => "tcp".to_owned(),
            17 => "udp".to_owned(),
            58 => "icmpv6".to_owned(),
            other => other.to_string(),
        };
        // Of ICMP there is a type and code in its place.
        let port = (!protocol.starts_with("icmp")).then_some(end.port);
        json!({ "protocol": protocol, "address": end.address, "port": port, "packets": packets })
    };
    all.into_iter().map(one).collect()
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
    let Counters { forwarded, replayed, dropped, punted, passed } = counters;
    json!({
        "forwarded": forwarded,
        "replayed": replayed,
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
            "port      {}  {}, {copy}, queues {}{}",
            word(&port["name"]),
            word(&port["mode"]),
            port["queues"],
            if port["replays"] == true { ", replay" } else { "" }
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
    for (family, looked_at) in policy["decided_anew"].as_object().into_iter().flatten() {
        lines.push(format!(
            "flows     {family}: every packet is decided about anew, since rules look at {}",
            word(looked_at)
        ));
    }
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
    lines.push(format!("forwarded {}, of these by the XDP programs {}", counters["forwarded"], counters["replayed"]));
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
    for towards in array(&conntrack["exhausted_towards"]) {
        let (protocol, address, port) = (word(&towards["protocol"]), word(&towards["address"]), &towards["port"]);
        let port = if port.is_null() { String::new() } else { format!(" port {port}") };
        lines.push(format!("          exhausted towards {protocol} {address}{port}: {} packets", towards["packets"]));
    }
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

#[cfg(test)]
mod tests {
    use shunt_dataplane::conn::Exhausted;

    use super::*;

    fn worker(exhausted: &[(u8, &str, u16, u64)]) -> WorkerStatus {
        let towards = exhausted.iter().map(|(protocol, address, port, packets)| Exhausted {
            protocol: *protocol,
            destination: Endpoint { address: address.parse().unwrap(), port: *port },
            packets: *packets,
        });
        WorkerStatus {
            index: 0,
            generation: Generation(1),
            received: 0,
            forwarded: 0,
            replayed: 0,
            flows: 0,
            handed_over: 0,
            dropped: 0,
            punted: 0,
            sleeps: 0,
            free: 0,
            held: 0,
            connections: 0,
            connection_counts: Default::default(),
            exhausted_towards: towards.collect(),
        }
    }

    #[test]
    fn who_fills_a_range_is_told_of_all_workers_together() {
        let (server, server6) = ("198.51.100.20", "2001:db8::20");
        let workers = [
            worker(&[(17, server, 53, 2), (1, server, 0x800, 4)]),
            worker(&[(6, server6, 443, 1), (17, server, 53, 3)]),
        ];
        let conntrack = json!({ "exhausted_towards": exhausted_towards(&workers), "happened": {}, "kernel": {} });
        let lines = conntrack_text(&conntrack);
        assert_eq!(
            lines[2..],
            [
                "          exhausted towards udp 198.51.100.20 port 53: 5 packets",
                "          exhausted towards icmp 198.51.100.20: 4 packets",
                "          exhausted towards tcp 2001:db8::20 port 443: 1 packets",
            ]
        );
    }
}
