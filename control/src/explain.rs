//! `shunt explain`: the way of one packet, told by the literal reference and checked against the compiled policy.

mod fresh;

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shunt_policy::config::Config;
use shunt_policy::config::CounterSlot;
use shunt_policy::reference::{self, Step};
use shunt_policy::{Family, Mac, Mark, Policy, Query, Tally, Transport};

use crate::cli::ExplainArgs;
use crate::mirror::TableNames;
use crate::mirror::oracle::Oracle;
use crate::verify;
use fresh::Fresh;

const TCP: u8 = 6;
/// A flag of a TCP packet.
const SYN: u8 = 0x02;

/// The packet of which the operator asks.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Packet {
    pub iif: String,
    pub src: IpAddr,
    pub dst: IpAddr,
    pub proto: u8,
    pub sport: u16,
    pub dport: u16,
    pub tos: u8,
    pub mark: u32,
    pub ttl: u8,
    pub length: u32,
    pub icmp: (u8, u8),
    pub tcp_flags: u8,
    pub mac: [u8; 6],
}

impl From<&ExplainArgs> for Packet {
    fn from(args: &ExplainArgs) -> Self {
        let ExplainArgs { iif, src, dst, proto, sport, dport, tos, mark, ttl, length, .. } = args;
        let ExplainArgs { icmp_type, icmp_code, tcp_flags, mac, .. } = args;
        let echo = if *proto == 58 { 128 } else { 8 };
        Packet {
            iif: iif.clone(),
            src: *src,
            dst: *dst,
            proto: *proto,
            sport: *sport,
            dport: *dport,
            tos: *tos,
            mark: *mark,
            ttl: *ttl,
            length: *length,
            icmp: (icmp_type.unwrap_or(echo), *icmp_code),
            tcp_flags: if *proto == TCP { *tcp_flags } else { 0 },
            mac: mac.0,
        }
    }
}

impl Packet {
    /// The packet of a decision.
    pub fn of(query: &Query, config: &Config) -> Self {
        let (sport, dport) = query.dissected_ports();
        let iif = config.links.iter().find(|link| link.ifindex == query.iif);
        Packet {
            iif: iif.map_or_else(|| format!("if{}", query.iif.0), |link| link.name.clone()),
            src: query.source,
            dst: query.destination,
            proto: query.protocol,
            sport,
            dport,
            tos: query.tos,
            mark: query.mark.0,
            ttl: query.ttl,
            length: query.length,
            icmp: match query.transport {
                Transport::Icmp { kind, code } => (kind, code),
                _ => (0, 0),
            },
            tcp_flags: query.tcp_flags,
            mac: query.source_mac.0,
        }
    }

    /// A short packet of this kind. Errors are for the operator.
    fn query(&self, config: &Config) -> Result<Query, String> {
        let Some(link) = config.links.iter().find(|link| link.name == self.iif) else {
            let names: Vec<_> = config.links.iter().map(|link| link.name.as_str()).collect();
            return Err(format!("--iif {}: no such interface; there are: {}", self.iif, names.join(", ")));
        };
        if Family::of(self.src) != Family::of(self.dst) {
            return Err(format!("--src {} and --dst {} are of two address families", self.src, self.dst));
        }
        let transport = match self.proto {
            // TCP, UDP, DCCP, SCTP, UDP-Lite
            6 | 17 | 33 | 132 | 136 => Transport::Ports { source: self.sport, destination: self.dport },
            1 | 58 => Transport::Icmp { kind: self.icmp.0, code: self.icmp.1 },
            _ => Transport::Other,
        };
        Ok(Query {
            iif: link.ifindex,
            source: self.src,
            destination: self.dst,
            protocol: self.proto,
            transport,
            tos: self.tos,
            flow_label: 0,
            mark: Mark(self.mark),
            length: self.length,
            ttl: self.ttl,
            tcp_flags: self.tcp_flags,
            // As Linux sends it.
            mss: (self.tcp_flags & SYN != 0).then_some(1460),
            source_mac: Mac(self.mac),
        })
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Packet { iif, src, dst, proto, sport, dport, tos, mark, .. } = self;
        write!(f, "iif {iif} {src} -> {dst} proto {proto} sport {sport} dport {dport} tos {tos:#04x} mark {mark:#x}")
    }
}

/// The answer as JSON: `steps`, `mark_in`, `mark_out`, `kernel`, `end`, `oif`, `agreed`.
pub fn explain(packet: &Packet, policy: &Policy, names: &TableNames, oracle: &mut Oracle) -> Result<Value, String> {
    let config = policy.config();
    let query = packet.query(config)?;
    let trace = reference::trace_tracking(config, &query, &mut Fresh::of(&query));
    let mut routed = Routed(None);
    let compiled = policy.decide_counting(&query, &mut Fresh::of(&query), &mut routed);
    let oif = trace.end.ok().and_then(|egress| config.links.iter().find(|link| link.ifindex == egress.oif()));
    let (end, meaning) = match trace.end {
        Ok(_) => ("forward".to_owned(), String::new()),
        Err(stop) => (stop.to_string(), meaning(stop).to_owned()),
    };
    // A guard's packet does not come so far, but the kernel can be asked.
    let routed =
        routed.0.or_else(|| policy.routing(&query, &mut shunt_policy::Trackless).ok().map(|routing| routing.query));
    let checked = verify::check_routed(policy, routed.as_ref(), trace.end, oracle);
    Ok(json!({
        "steps": trace.steps.iter().map(|step| said(step, names)).collect::<Vec<_>>(),
        "mark_in": packet.mark,
        "mark_out": trace.mark.0,
        "kernel": {
            "answer": checked.kernel_in_words(config),
            // Null where one does not say what the other should be.
            "same": checked.same,
        },
        "end": end,
        "meaning": meaning,
        "oif": oif.map(|link| link.name.as_str()),
        // The workers use the compiled form; were it ever to differ, the operator must not be told otherwise.
        "agreed": compiled == trace.end,
        "generation": policy.generation().0,
    }))
}

/// The packet as PREROUTING has left it, if it did.
struct Routed(Option<Query>);

impl Tally for Routed {
    fn count(&mut self, _: CounterSlot) {}

    fn routed(&mut self, query: &Query) {
        self.0 = Some(*query);
    }
}

fn meaning(stop: shunt_policy::Stop) -> &'static str {
    match stop {
        shunt_policy::Stop::Drop(reason) => reason.meaning(),
        shunt_policy::Stop::Punt(reason) => reason.meaning(),
    }
}

/// A step with the table's name as the operator knows it.
fn said(step: &Step, names: &TableNames) -> String {
    match step {
        Step::Miss { table } => format!("table {}: no route", names.name(*table)),
        Step::Route { table, route } => format!("table {}: {route}", names.name(*table)),
        Step::Suppressed { table, route } => format!("table {}: {route} (suppressed by the rule)", names.name(*table)),
        other => other.to_string(),
    }
}

/// The answer as text for the terminal.
pub fn text(packet: &Packet, answer: &Value) -> String {
    let mut lines = vec![format!("packet  {packet}")];
    for step in answer["steps"].as_array().into_iter().flatten() {
        lines.push(format!("        {}", step.as_str().unwrap_or_default()));
    }
    lines.push(format!("mark    {:#x} -> {:#x}", packet.mark, answer["mark_out"].as_u64().unwrap_or_default()));
    let kernel = &answer["kernel"];
    let same = match kernel["same"].as_bool() {
        Some(true) => " (same)",
        Some(false) => " (differs)",
        None => "",
    };
    lines.push(format!("kernel  {}{same}", kernel["answer"].as_str().unwrap_or_default()));
    let mut end = format!("end     {}", answer["end"].as_str().unwrap_or_default());
    if let Some(oif) = answer["oif"].as_str() {
        end += &format!(" by {oif}");
    }
    match answer["meaning"].as_str() {
        Some(meaning) if !meaning.is_empty() => end += &format!(" ({meaning})"),
        _ => {}
    }
    lines.push(end);
    if answer["agreed"] == false {
        lines.push(
            "WARNING the workers' compiled policy decides otherwise: this is a defect of shunt, please report it"
                .into(),
        );
    }
    if kernel["same"] == false {
        lines.push(
            "WARNING the kernel decides otherwise: unless a rule or route has changed this very moment, this is a defect of \
             shunt, please report it"
                .into(),
        );
    }
    lines.join("\n")
}
