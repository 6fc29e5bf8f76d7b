//! `shunt bench`: the kernel and shunt forward the same load by the same rules, round by round, in network namespaces: between veth
//! pairs, or between ports of the machine that are cabled to each other.

mod cores;
mod error;
mod flows;
mod internet;
mod measure;
mod network;
mod ports;
pub mod report;
mod router;
mod scenario;
mod turning;

use std::path::Path;

use serde_json::{Value, json};
use shunt_lab::{Lab, machine};

use crate::capabilities;
use crate::cli::BenchArgs;
pub use error::BenchError;
use network::Network;
use ports::Cables;
use router::Router;
use scenario::Scenario;

/// Frames that go round: many keep the router busy, few leave it idle in between.
const SATURATED: u32 = 128;
const LIGHT: u32 = 8;

/// What has to be installed, and the Debian package that has it.
const TOOLS: [(&str, &str); 5] = [
    ("ip", "iproute2"),
    ("setpriv", "util-linux"),
    ("taskset", "util-linux"),
    ("ethtool", "ethtool"),
    ("sysctl", "procps"),
];

/// Measures, prints the table and writes the files.
///
/// # Errors
///
/// Says what to do: become root, install a tool, name a scenario that there is. Nothing is left behind.
pub fn run(args: &BenchArgs) -> Result<(), BenchError> {
    let scenarios = scenario::chosen(&args.scenario)?;
    if args.list {
        scenarios.iter().for_each(|scenario| println!("{:18} {}", scenario.name, scenario.what));
        return Ok(());
    }
    allowed()?;
    let cables = Cables::of(&args.dev, &args.load)?;
    let alone = cores::alone()?;
    let results = measure_all(&scenarios, args, cables.as_ref())?;
    drop(alone);
    write(&args.json, &format!("{results:#}\n"))?;
    write(&args.html, &report::html::page(&results))?;
    println!("{}", report::table::markdown(&results));
    println!("written to {} and {}", args.json.display(), args.html.display());
    Ok(())
}

fn allowed() -> Result<(), BenchError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(BenchError::NotRoot);
    }
    capabilities::check()?;
    match TOOLS.iter().find(|(tool, _)| !router::is_installed(tool)) {
        Some((tool, package)) => Err(BenchError::Tool { tool, package }),
        None => Ok(()),
    }
}

fn measure_all(scenarios: &[Scenario], args: &BenchArgs, cables: Option<&Cables>) -> Result<Value, BenchError> {
    let mut machine = machine();
    machine["iptables"] = router::version("iptables").into();
    if let Some(cables) = cables {
        machine["ports"] =
            cables.ports().each_ref().map(|port| format!("{} ({})", port.name, port.driver)).join(", ").into();
    }
    let lab = Lab::open().map_err(|source| BenchError::Kernel { what: "a private mount namespace".into(), source })?;
    let (routers, mut skipped) = router::all();
    for (router, why) in &skipped {
        eprintln!("skipped   {router}: {why}");
    }
    let mut measured = Vec::new();
    for scenario in scenarios {
        eprintln!("scenario  {}: {}", scenario.name, scenario.what);
        if let Some(missing) = scenario.missing() {
            eprintln!("skipped   {}: {missing}", scenario.name);
            skipped.push((scenario.name.to_owned(), missing));
            continue;
        }
        let routers: Vec<&Router> = routers.iter().filter(|router| router.takes_part(scenario)).collect();
        let network = match Network::build(&lab, scenario, cables) {
            // A port has the queues that it has.
            Err(error @ BenchError::Threads { .. }) if cables.is_some() => {
                eprintln!("skipped   {}: {error}", scenario.name);
                skipped.push((scenario.name.to_owned(), error.to_string()));
                continue;
            }
            network => network?,
        };
        measured.push(measure::scenario(scenario, network, &routers, args)?);
    }
    Ok(json!({
        "machine": machine,
        "settings": {
            "rounds": args.rounds, "seconds": args.seconds, "saturated": SATURATED, "light": LIGHT,
        },
        "skipped": skipped.iter().map(|(name, why)| json!({ "name": name, "why": why })).collect::<Vec<_>>(),
        "scenarios": measured,
    }))
}

fn write(path: &Path, text: &str) -> Result<(), BenchError> {
    std::fs::write(path, text).map_err(|source| BenchError::Write { path: path.to_owned(), source })
}
