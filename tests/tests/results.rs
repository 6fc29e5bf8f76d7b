//! What the READMEs say is what was measured, and it is within the bounds.
//!
//! `SHUNT_WRITE_README=1 cargo test -p shunt-tests --test results` rewrites the tables.

use std::path::PathBuf;

use serde_json::Value;
use shunt_control::bench::report::table::markdown;

const ROUTE_CHANGES: [&str; 6] = ["ipv4_add", "ipv4_del", "ipv4_replace", "ipv6_add", "ipv6_del", "ipv6_replace"];

fn benches(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../benches").join(file)
}

fn results(file: &str) -> Value {
    let text = std::fs::read_to_string(benches("results").join(file)).expect("it was measured");
    serde_json::from_str(&text).expect("JSON")
}

fn scale() -> Value {
    results("scale.json")
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("no number: {value}"))
}

/// The worst of a figure over all kinds of changes of one route, in milliseconds.
fn worst_ms(changes: &Value, figure: &str) -> f64 {
    ROUTE_CHANGES.iter().map(|kind| number(&changes[kind][figure])).fold(0.0, f64::max) / 1000.0
}

fn table(scale: &Value) -> String {
    let Value::Object(_) = scale else { panic!("not an object") };
    let (routes, start, resync, ruled) = (&scale["routes"], &scale["start_s"], &scale["resync"], &scale["with_rules"]);
    let machine = &scale["machine"];
    let change = |of: &Value| format!("{:.2} / {:.1}", worst_ms(of, "median"), worst_ms(of, "p99"));
    let rule = |of: &Value| {
        let ms = |figure| number(&of["rule"][figure]) / 1000.0;
        format!("{:.1} / {:.1}", ms("median"), ms("p99"))
    };
    let rows = [
        ("routes: IPv4 + IPv6, of these real", format!("{} + {}, {}", routes["ipv4"], routes["ipv6"], routes["real"])),
        ("start of the process to forwarding, s", start["full"]["median"].to_string()),
        ("the same with empty tables, s", start["empty"]["median"].to_string()),
        ("the kernel's own dump of its routes, s", start["kernel_dump"]["median"].to_string()),
        ("resident memory per route, bytes", scale["bytes_per_route"]["resident"].to_string()),
        ("one route changed, median / p99, ms", change(&scale["change_us"])),
        ("the same, the kernel alone, ms", change(&scale["kernel_change_us"])),
        ("changes lost by a stalled daemon", resync["changes"].to_string()),
        ("in step again after, s", resync["in_step_s"].to_string()),
        ("packets lost meanwhile, of", format!("{}, {}", resync["packets"]["lost"], resync["packets"]["sent"])),
        ("peak memory then, MiB", resync["peak_mib"].to_string()),
        ("rules and tables besides", format!("{}, {}", ruled["rules"], ruled["tables"])),
        ("one route changed, median / p99, ms", change(&ruled["change_us"])),
        ("the same, the kernel alone, ms", change(&ruled["kernel_change_us"])),
        ("one rule changed, median / p99, ms", rule(&ruled["change_us"])),
        ("the same, the kernel alone, ms", rule(&ruled["kernel_change_us"])),
        (
            "one decision behind no and all rules, ns",
            format!("{}, {}", ruled["decision_ns"]["without"], ruled["decision_ns"]["with"]),
        ),
    ];
    let head = format!(
        "| {} cores of {}, Linux {}, load {}, {} | |\n|---|---|\n",
        machine["cores"],
        machine["cpu"].as_str().expect("a name"),
        machine["kernel"].as_str().expect("a release"),
        machine["load"],
        machine["date"].as_str().expect("a date")
    );
    head + &rows.map(|(what, figure)| format!("| {what} | {figure} |\n")).concat()
}

/// What stands between `<!-- name -->` and `<!-- /name -->` is `table`, or is made so.
fn stands_in(readme: &str, name: &str, table: &str) {
    let path = benches(readme);
    let text = std::fs::read_to_string(&path).expect("the README is there");
    let (open, close) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let (before, rest) = text.split_once(&open).expect("the table's begin");
    let (old, after) = rest.split_once(&close).expect("the table's end");
    if std::env::var_os("SHUNT_WRITE_README").is_some() {
        std::fs::write(&path, format!("{before}{open}{table}{close}{after}")).expect("it can be written");
        return;
    }
    assert_eq!(old, table, "rewrite it as the head of this file says");
}

#[test]
fn the_table_of_scale_says_what_was_measured() {
    stands_in("README.md", "scale", &table(&scale()));
}

#[test]
fn the_table_of_the_bench_says_what_was_measured() {
    stands_in("../README.md", "bench", &markdown(&results("bench.json")));
}

#[test]
fn the_bench_was_whole() {
    let bench = results("bench.json");
    let names = |key: &str| -> Vec<String> {
        let all = bench[key].as_array().expect("a list").iter();
        all.map(|one| one["name"].as_str().expect("a name").to_owned()).collect()
    };
    let list = std::process::Command::new(shunt_tests::lab::shunt_binary()).args(["bench", "--list"]).output();
    let list = String::from_utf8(list.expect("shunt runs").stdout).expect("text");
    let known: Vec<&str> = list.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names("scenarios"), known, "skipped: {:?}", names("skipped"));
    assert!(bench["settings"]["rounds"].as_u64() >= Some(5), "{}", bench["settings"]);
}

#[test]
fn the_bounds_of_scale_are_kept() {
    let scale = scale();
    assert!(number(&scale["routes"]["ipv4"]) >= 1e6 && number(&scale["routes"]["ipv6"]) >= 2e5);
    assert!(number(&scale["start_s"]["full"]["max"]) <= 5.0);
    assert!(number(&scale["bytes_per_route"]["resident"]) <= 100.0);
    assert!(worst_ms(&scale["change_us"], "median") <= 1.0);
    assert_eq!(scale["resync"]["packets"]["lost"], 0);
}
