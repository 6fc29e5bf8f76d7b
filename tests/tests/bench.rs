//! `shunt bench` measures what it says, and is gone afterwards.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;
use shunt_tests::lab::{Lab, eventually, shunt_binary};

/// A bench in a process group of its own, and a place for its files.
struct Bench {
    child: Child,
    folder: PathBuf,
}

impl Bench {
    fn start(name: &str, arguments: &str) -> Bench {
        let folder = std::env::temp_dir().join(format!("shunt-bench-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for the results");
        let mut command = Command::new(shunt_binary());
        command.arg("bench").args(arguments.split(' ')).current_dir(&folder).process_group(0);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Bench { child: child.expect("shunt starts"), folder }
    }

    fn group(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// Nobody of the group is left once its leader was waited for.
    fn is_gone(&self) -> bool {
        eventually(Duration::from_secs(5), || killpg(self.group(), None::<Signal>).is_err().then_some(())).is_some()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // Where the test has failed there may be something left.
        let _ = killpg(self.group(), Signal::SIGKILL);
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn privileged_a_short_bench_measures_the_kernel_and_shunt_and_leaves_nothing() {
    let namespaces = || std::fs::read_dir("/run/netns").map_or(0, Iterator::count);
    let before = namespaces();
    let mut bench = Bench::start("short", "--scenario plain --rounds 1 --seconds 0.3 --json b.json --html b.html");
    let (mut table, mut told) = (String::new(), String::new());
    bench.child.stdout.take().expect("it is piped").read_to_string(&mut table).expect("text");
    bench.child.stderr.take().expect("it is piped").read_to_string(&mut told).expect("text");
    assert_eq!(bench.child.wait().expect("a child of ours").code(), Some(0), "{told}");
    assert!(bench.is_gone() && namespaces() == before, "something is left");

    let text = std::fs::read_to_string(bench.folder.join("b.json")).expect("it was written");
    let results: Value = serde_json::from_str(&text).expect("JSON");
    let routers = results["scenarios"][0]["routers"].as_array().expect("routers");
    let names: Vec<&str> = routers.iter().filter_map(|router| router["name"].as_str()).collect();
    assert!(names.starts_with(&["kernel", "shunt, workers"]), "{names:?}");
    // A peer is measured or named.
    let skipped = results["skipped"].as_array().expect("a list");
    let is_skipped = skipped.iter().any(|item| item["name"] == "dpdk-testpmd");
    assert_ne!(names.contains(&"dpdk-testpmd"), is_skipped, "{names:?}, {skipped:?}");
    for router in routers {
        for load in ["saturated", "light"] {
            for figure in [&router[load]["mpps"]["median"], &router[load]["latency_us"]["p99"]["median"]] {
                assert!(figure.as_f64() > Some(0.0), "{load}: {router:#}");
            }
        }
        assert!(router["saturated"]["cpu_ns"]["median"].as_f64() > Some(0.0), "{router:#}");
    }
    assert!(table.contains("| one route | kernel |"), "{table}");
    let page = std::fs::read_to_string(bench.folder.join("b.html")).expect("it was written");
    assert!(page.contains("<svg") && page.contains("shunt, workers"));
}

/// Four ports of a machine, two cables: `load0 --- lan`, `wan --- load1`.
#[test]
fn privileged_ports_of_the_machine_are_measured_and_given_back() {
    let lab = Lab::new();
    let machine = lab.namespace("machine");
    lab.veth((&machine, "load0"), (&machine, "lan"));
    lab.veth((&machine, "wan"), (&machine, "load1"));
    for port in ["load0", "lan", "wan", "load1"] {
        // As ports of hardware have it.
        machine.run(&format!("ethtool -K {port} gro on"));
    }
    let bench =
        |arguments: &str| machine.shunt(&format!("bench --scenario howto --rounds 1 --seconds 0.2 {arguments}"));
    let folder = std::env::temp_dir().join(format!("shunt-bench-ports-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder for the results");
    let files = format!("--json {0}/b.json --html {0}/b.html", folder.display());
    let ports = "--dev lan --dev wan --load load0 --load load1";
    let links = || machine.run("ip -br link | sort");
    let before = links();

    let output = bench(&format!("{files} {ports}"));
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(output.stdout.contains("ports load0 (virtual), lan (virtual), wan (virtual), load1"), "{}", output.stdout);
    for router in ["kernel", "shunt, workers", "shunt, replay"] {
        assert!(output.stdout.contains(&format!("| {router} | ")), "{}", output.stdout);
    }
    assert_eq!(links(), before, "the ports are back, up, under their names");
    let text = std::fs::read_to_string(folder.join("b.json")).expect("it was written");
    std::fs::remove_dir_all(&folder).expect("it is there");
    let results: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        results["scenarios"][0]["routers"].as_array().map(Vec::len),
        Some(3),
        "the HOWTO has no peers: {results:#}"
    );

    machine.run("ip addr add 192.0.2.99/24 dev wan");
    for (arguments, told) in [
        (ports, "wan has addresses"),
        ("--dev lan --dev wan", "four at a time"),
        ("--dev lan --dev load0 --load load0 --load load1", "load0 is named twice"),
        ("--dev lan --dev eth9 --load load0 --load load1", "eth9 does not exist"),
    ] {
        let output = bench(arguments);
        assert!(output.code == 2 && output.stderr.contains(told), "{arguments}: {}", output.stderr);
    }
    machine.run("ip addr del 192.0.2.99/24 dev wan");
    assert_eq!(links(), before, "nothing was touched");
}

#[test]
fn privileged_an_interrupted_bench_leaves_nothing() {
    let mut bench = Bench::start("interrupted", "--scenario plain --rounds 1000 --seconds 0.1");
    let mut lines = BufReader::new(bench.child.stderr.take().expect("it is piped")).lines().map_while(Result::ok);
    let daemon_has_run = lines.any(|line| line.contains("round 1/1000") && line.contains("shunt, workers"));
    assert!(daemon_has_run, "it ended before");
    killpg(bench.group(), Signal::SIGINT).expect("it runs");
    bench.child.wait().expect("a child of ours");
    assert!(bench.is_gone(), "something is left");
}

#[test]
fn privileged_what_is_missing_is_named_and_nothing_done() {
    let without = Command::new("setpriv")
        .args(["--bounding-set", "-net_admin"])
        .arg(shunt_binary())
        .arg("bench")
        .output()
        .expect("setpriv runs");
    assert_eq!(without.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&without.stderr).contains("CAP_NET_ADMIN"), "{without:?}");
}

#[test]
fn an_unknown_scenario_is_answered_with_those_that_there_are() {
    let output = Command::new(shunt_binary()).args(["bench", "--scenario", "nonsense"]).output().expect("shunt runs");
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("nonsense") && told.contains("marks-10000"), "{told}");
    let list = Command::new(shunt_binary()).args(["bench", "--list"]).output().expect("shunt runs");
    assert!(String::from_utf8_lossy(&list.stdout).contains("routes-1m"), "{list:?}");
}
