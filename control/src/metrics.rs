//! `shunt metrics`: what `shunt status` says in numbers, in the text format of Prometheus, say for node_exporter's textfile collector.

use std::fmt::Write;

use serde_json::Value;

/// From the JSON of `shunt status`.
pub fn text(status: &Value) -> String {
    let mut metrics = Metrics(String::new());
    let counters = &status["counters"];
    metrics.family(
        "shunt_forwarded_packets_total",
        "counter",
        "Forwarded by the workers and, as they have decided, by the XDP program.",
    );
    metrics.value("shunt_forwarded_packets_total", "", &counters["forwarded"]);
    metrics.family("shunt_replayed_packets_total", "counter", "Of these, by the XDP program.");
    metrics.value("shunt_replayed_packets_total", "", &counters["replayed"]);
    for (kind, help) in [
        ("dropped", "Dropped by the workers, by reason."),
        ("punted", "Handed to the kernel by the workers, by reason."),
        ("passed", "Left to the kernel by the XDP program, by reason."),
    ] {
        let name = format!("shunt_{kind}_packets_total");
        metrics.family(&name, "counter", help);
        for (reason, count) in counters[kind].as_object().into_iter().flatten() {
            metrics.value(&name, &format!("{{reason=\"{reason}\"}}"), count);
        }
    }
    let mirror = &status["mirror"];
    for (name, kind, help, value) in [
        ("shunt_uptime_seconds", "gauge", "Since the daemon was started.", &status["uptime_s"]),
        ("shunt_policy_generation", "counter", "Of the policy last published.", &status["policy"]["generation"]),
        (
            "shunt_divergences_total",
            "counter",
            "Decisions that were not the kernel's.",
            &status["verify"]["divergence_total"],
        ),
        ("shunt_mirror_age_milliseconds", "gauge", "Since the mirror was last known to be equal.", &mirror["age_ms"]),
        ("shunt_mirror_lost_events_total", "counter", "Events of the kernel's that were lost.", &mirror["lost_events"]),
        (
            "shunt_mirror_undecodable",
            "gauge",
            "Messages of the kernel's that are not understood.",
            &mirror["undecodable"],
        ),
    ] {
        metrics.family(name, kind, help);
        metrics.value(name, "", value);
    }
    let conntrack = &status["conntrack"];
    metrics.family("shunt_connections", "gauge", "In the workers' tables.");
    metrics.value("shunt_connections", "", &conntrack["connections"]);
    for (part, name, help) in [
        ("happened", "shunt_connection_events_total", "What has happened to the workers' connections."),
        ("kernel", "shunt_conntrack_total", "What was done to keep the kernel's connections and the workers' in step."),
    ] {
        metrics.family(name, "counter", help);
        for (what, count) in
            conntrack[part].as_object().into_iter().flatten().filter(|(what, _)| *what != "connections")
        {
            metrics.value(name, &format!("{{what=\"{what}\"}}"), count);
        }
    }
    let name = "shunt_nat_exhausted_packets";
    metrics.family(name, "gauge", "Dropped since no tuple was left, by destination: the last ones of each worker.");
    for towards in conntrack["exhausted_towards"].as_array().into_iter().flatten() {
        let word = |key: &str| towards[key].as_str().unwrap_or_default();
        let port = towards["port"].as_u64().map(|port| format!(",port=\"{port}\"")).unwrap_or_default();
        let labels = format!("{{protocol=\"{}\",destination=\"{}\"{port}}}", word("protocol"), word("address"));
        metrics.value(name, &labels, &towards["packets"]);
    }
    for (name, help, holds) in [
        (
            "shunt_conntrack_fault",
            "Whether the kernel's connections cannot be followed.",
            !conntrack["fault"].is_null(),
        ),
        ("shunt_mirror_in_step", "Whether nothing is heard of that is not read yet.", mirror["in_step"] == true),
        ("shunt_mirror_fault", "Whether something of the kernel's cannot be read.", !mirror["fault"].is_null()),
        ("shunt_mirror_stale", "Whether all packets are the kernel's because of that.", mirror["stale"] == true),
    ] {
        metrics.family(name, "gauge", help);
        metrics.value(name, "", &u8::from(holds).into());
    }
    metrics.0.pop();
    metrics.0
}

struct Metrics(String);

impl Metrics {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// A number that is not there is left out.
    fn value(&mut self, name: &str, labels: &str, value: &Value) {
        if value.is_number() {
            let _ = writeln!(self.0, "{name}{labels} {value}");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_and_faults_as_prometheus_reads_them() {
        let status = json!({
            "uptime_s": 7,
            "counters": { "forwarded": 5, "dropped": {}, "punted": { "local": 3 }, "passed": { "vlan": 0 } },
            "conntrack": { "exhausted_towards": [
                { "protocol": "udp", "address": "198.51.100.20", "port": 53, "packets": 5 },
                { "protocol": "icmp", "address": "198.51.100.20", "port": null, "packets": 4 },
            ] },
            "mirror": { "fault": "cannot run nft", "stale": false, "in_step": false, "age_ms": 12 },
        });
        let text = text(&status);
        for line in [
            "# TYPE shunt_punted_packets_total counter",
            "shunt_forwarded_packets_total 5",
            "shunt_punted_packets_total{reason=\"local\"} 3",
            "shunt_passed_packets_total{reason=\"vlan\"} 0",
            "shunt_nat_exhausted_packets{protocol=\"udp\",destination=\"198.51.100.20\",port=\"53\"} 5",
            "shunt_nat_exhausted_packets{protocol=\"icmp\",destination=\"198.51.100.20\"} 4",
            "shunt_mirror_fault 1",
            "shunt_mirror_stale 0",
            "shunt_mirror_age_milliseconds 12",
        ] {
            assert!(text.lines().any(|own| own == line), "{line} is not in\n{text}");
        }
        assert!(!text.lines().any(|line| line.starts_with("shunt_divergences_total")), "it is not in the status");
        // Each family once, each name with its type.
        let families = text.lines().filter(|line| line.starts_with("# TYPE")).count();
        assert_eq!(families, text.lines().filter(|line| line.starts_with("# HELP")).count());
    }
}
