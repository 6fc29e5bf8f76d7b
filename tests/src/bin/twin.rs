//! The differential test for as long as one likes: `twin [--kind routing|netfilter|nat] [--replay on|off] [--seconds N] [--seed S] [--from N] [--case N]
//! [--twins N]`.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use shunt_tests::twin::{Kind, Replay, campaign};

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let (mut seconds, mut seed, mut from, mut case, mut twins) = (60, None, 0, None, 3);
    let mut kinds = Kind::ALL.to_vec();
    let mut replays = Replay::BOTH.to_vec();
    while let Some(word) = words.next() {
        let value = words.next();
        if word == "--kind" {
            kinds.retain(|kind| Some(kind.to_string()) == value);
            if kinds.is_empty() {
                eprintln!("twin: --kind: expected routing, netfilter or nat");
                return ExitCode::from(2);
            }
            continue;
        }
        if word == "--replay" {
            replays.retain(|replay| Some(replay.to_string()) == value);
            if replays.is_empty() {
                eprintln!("twin: --replay: expected on or off");
                return ExitCode::from(2);
            }
            continue;
        }
        match (word.as_str(), value.and_then(|value| value.parse::<u64>().ok())) {
            ("--seconds", Some(value)) => seconds = value,
            ("--seed", Some(value)) => seed = Some(value),
            ("--from", Some(value)) => from = value,
            ("--case", Some(value)) => case = Some(value),
            ("--twins", Some(value @ 1..=16)) => twins = value as usize,
            _ => {
                eprintln!(
                    "twin: {word}: expected --seconds, --seed, --from, --case or --twins (1 to 16), each with a number"
                );
                return ExitCode::from(2);
            }
        }
    }
    let seed = seed.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs()));
    let cases = case.map_or(from..u64::MAX, |case| case..case + 1);
    let twins = if case.is_some() { 1 } else { twins };
    let time = Duration::from_secs(seconds) / (kinds.len() * replays.len()) as u32;
    let runs = kinds.iter().flat_map(|kind| replays.iter().map(move |replay| (*kind, *replay)));
    for (kind, replay) in runs {
        println!("{kind}, replay {replay}, seed {seed}, {time:?}");
        let report = campaign::run(kind, replay, twins, seed, cases.clone(), time, |report| {
            if report.cases % 50 == 0 {
                println!(
                    "{} cases, {} packets, {} unsteady, {} late",
                    report.cases, report.packets, report.unsteady, report.late
                );
            }
        });
        println!("{report}");
        if report.divergence.is_some() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
