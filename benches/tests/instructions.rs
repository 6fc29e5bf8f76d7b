//! How many instructions things take on the packet path, counted by callgrind: `results/instructions.json`. What has come to take more than
//! 5 % more is a mistake, or is to be recorded on purpose: `SHUNT_WRITE_INSTRUCTIONS=1 cargo test -p shunt-benches --test instructions`.
//!
//! Counted is what the release build does: `cargo build --release -p shunt-benches --example instructions`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

const SCENARIOS: [&str; 6] = [
    "parse",
    "decide-without-rules",
    "decide-10000-mixed-rules",
    "forward-known-flow",
    "forward-known-connection",
    "forward-first-packet",
];

/// What stands between two counts is the cost of so many times.
const TIMES: [u64; 2] = [1024, 1024 + (1 << 14)];

/// Per cent.
const TOLERATED: u64 = 5;

fn program() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the folder of what is built");
    let program = target.join("release/examples/instructions");
    assert!(program.exists(), "{program:?} is missing: cargo build --release -p shunt-benches --example instructions");
    program
}

fn collected(scenario: &str, times: u64) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program())
        .args([scenario, &times.to_string()])
        .output()
        .expect("valgrind, which `make packages` installs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{scenario}: {said}");
    let count = said.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    count.unwrap_or_else(|| panic!("{scenario}: {said}"))
}

#[test]
fn nothing_takes_more_instructions_than_is_recorded() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("results/instructions.json");
    let counted: BTreeMap<&str, u64> = SCENARIOS
        .into_iter()
        .map(|scenario| {
            let [few, many] = TIMES.map(|times| collected(scenario, times));
            (scenario, (many - few) / (TIMES[1] - TIMES[0]))
        })
        .collect();
    println!("{counted:#?}");
    if std::env::var_os("SHUNT_WRITE_INSTRUCTIONS").is_some() {
        let text = serde_json::to_string_pretty(&counted).expect("a map is JSON") + "\n";
        return std::fs::write(&path, text).expect("the record can be written");
    }
    let text = std::fs::read_to_string(&path).expect("the record");
    let recorded: BTreeMap<String, u64> = serde_json::from_str(&text).expect("a number for each scenario");
    for (scenario, count) in counted {
        let record = *recorded.get(scenario).unwrap_or_else(|| panic!("{scenario} is not recorded"));
        let most = record * (100 + TOLERATED) / 100;
        assert!(count <= most, "{scenario}: {count} instructions, recorded are {record}");
    }
}
