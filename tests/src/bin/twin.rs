//! The differential test for as long as one likes: `twin [--seconds N] [--seed S] [--from N] [--case N]`.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use shunt_tests::twin::{Twin, campaign};

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let (mut seconds, mut seed, mut from, mut case) = (60, None, 0, None);
    while let Some(word) = words.next() {
        let value = words.next().and_then(|value| value.parse::<u64>().ok());
        match (word.as_str(), value) {
            ("--seconds", Some(value)) => seconds = value,
            ("--seed", Some(value)) => seed = Some(value),
            ("--from", Some(value)) => from = value,
            ("--case", Some(value)) => case = Some(value),
            _ => {
                eprintln!("twin: {word}: expected --seconds N, --seed N, --from N or --case N");
                return ExitCode::from(2);
            }
        }
    }
    let seed = seed.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs()));
    println!("seed {seed}, {seconds} s");
    let mut twin = Twin::new();
    let numbers = case.map_or(from..u64::MAX, |case| case..case + 1);
    let report = campaign::run(&mut twin, seed, numbers, Duration::from_secs(seconds), |report| {
        if report.cases % 50 == 0 {
            println!(
                "{} cases, {} packets, {} unsteady, {} late",
                report.cases, report.packets, report.unsteady, report.late
            );
        }
    });
    println!("{}", report);
    if report.divergence.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
