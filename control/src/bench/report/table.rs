//! The table of the terminal and of the README.

use serde_json::Value;

use super::{array, machine, number, short, word};

const HEAD: &str = "\
| scenario | router | Mpps, median (least to most) | of the kernel's | CPU ns/packet | latency µs, p50 / p99 / p99.9 | the same, light load |
|---|---|---|---|---|---|---|
";

/// The results in Markdown, with machine and date below.
pub fn markdown(results: &Value) -> String {
    let rows = array(&results["scenarios"]).iter().flat_map(|scenario| {
        array(&scenario["routers"]).iter().enumerate().map(|(place, router)| row(scenario, router, place == 0))
    });
    format!("{HEAD}{}\n{}.\n", rows.collect::<String>(), machine(results))
}

fn row(scenario: &Value, router: &Value, is_first: bool) -> String {
    let (saturated, light) = (&router["saturated"], &router["light"]);
    let what = if is_first { word(&scenario["what"]) } else { "" };
    let mpps = &saturated["mpps"];
    format!(
        "| {what} | {} | {} ({} to {}) | {} | {} | {} | {} |\n",
        word(&router["name"]),
        short(number(&mpps["median"])),
        short(number(&mpps["min"])),
        short(number(&mpps["max"])),
        if is_first { String::new() } else { short(number(&router["of_kernel"]["median"])) },
        number(&saturated["cpu_ns"]["median"]),
        latency(saturated),
        latency(light),
    )
}

fn latency(load: &Value) -> String {
    ["p50", "p99", "p999"].map(|share| short(number(&load["latency_us"][share]["median"]))).join(" / ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::example;

    #[test]
    fn a_row_for_each_router_and_the_scenario_once() {
        let table = markdown(&example());
        let rows: Vec<&str> = table.lines().skip(2).collect();
        assert_eq!(
            rows[0],
            "| one route | kernel | 0.70 (0.60 to 0.80) |  | 1250 | 180 / 250 / 400 | 12.0 / 20.0 / 31.5 |"
        );
        assert_eq!(
            rows[1],
            "|  | shunt, workers | 0.35 (0.30 to 0.40) | 0.50 | 2500 | 180 / 250 / 400 | 12.0 / 20.0 / 31.5 |"
        );
        assert_eq!(rows[3], "2 cores of an example, Linux 6.18, iptables v1, load 0.5, 2026-01-01; 3 rounds of 1.0 s.");
    }
}
