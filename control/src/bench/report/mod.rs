//! What was measured, for people: as a table, and as a page with plots. Both are made from the JSON alone.

pub mod html;
mod svg;
pub mod table;

use serde_json::Value;

/// Where and when it was measured, in one line.
fn machine(results: &Value) -> String {
    let (machine, settings) = (&results["machine"], &results["settings"]);
    let ports = machine["ports"].as_str().map(|ports| format!("ports {ports}, ")).unwrap_or_default();
    format!(
        "{} cores of {}, Linux {}, {}, {ports}load {}, {}; {} rounds of {} s",
        machine["cores"],
        word(&machine["cpu"]),
        word(&machine["kernel"]),
        word(&machine["iptables"]),
        machine["load"],
        word(&machine["date"]),
        settings["rounds"],
        settings["seconds"],
    )
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

/// In two or three digits that count.
fn short(value: f64) -> String {
    let decimals = match value {
        value if value >= 100.0 => 0,
        value if value >= 10.0 => 1,
        value if value >= 0.1 || value == 0.0 => 2,
        value if value >= 0.01 => 3,
        _ => 4,
    };
    format!("{value:.decimals$}")
}

/// Results as [`measure`](super::measure) makes them.
#[cfg(test)]
fn example() -> Value {
    use serde_json::json;
    let all = |value: f64| json!({ "median": value, "min": value, "max": value, "rounds": [value] });
    let load = |mpps: [f64; 3], cpu: u32, us: [f64; 3]| {
        json!({
            "mpps": { "median": mpps[1], "min": mpps[0], "max": mpps[2], "rounds": mpps },
            "cpu_ns": { "median": cpu, "min": cpu, "max": cpu, "rounds": [cpu] },
            "busy": all(0.99), "load_busy": all(0.2),
            "latency_us": {
                "p50": all(us[0]), "p99": all(us[1]), "p999": all(us[2]), "max": all(us[2]),
                "distribution": [[us[0], 0.5], [us[1], 0.99], [us[2], 1.0]],
            },
            "lost": 0, "restarts": 0,
        })
    };
    let router = |name: &str, mpps: [f64; 3], cpu: u32, of_kernel: f64| {
        json!({
            "name": name, "of_kernel": all(of_kernel),
            "saturated": load(mpps, cpu, [180.0, 250.0, 400.0]), "light": load(mpps, cpu, [12.0, 20.0, 31.5]),
        })
    };
    json!({
        "machine": { "cores": 2, "cpu": "an example", "kernel": "6.18", "iptables": "iptables v1", "load": 0.5, "date": "2026-01-01" },
        "settings": { "rounds": 3, "seconds": 1.0, "saturated": 128, "light": 8 },
        "skipped": [{ "name": "a router", "why": "not installed <here>" }],
        "scenarios": [{
            "name": "plain", "what": "one route", "commands": ["ip route add default via 198.51.100.10 dev r1"],
            "flows": 100, "sizes": [[64, 1]], "cores": { "load": [0], "router": [1], "shared": false },
            "routers": [
                router("kernel", [0.6, 0.7, 0.8], 1250, 1.0), router("shunt, workers", [0.3, 0.35, 0.4], 2500, 0.5),
            ],
        }],
    })
}
