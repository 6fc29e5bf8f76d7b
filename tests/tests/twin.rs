//! Random cases in the twin, for a fixed time; `make twin` goes on for as long as one likes.

use std::ops::Range;
use std::time::Duration;

use shunt_tests::twin::campaign::{self, Report};
use shunt_tests::twin::{Kind, Replay};

/// The cases are the same in every run, as many of them as there is time for.
const SEED: u64 = 1;
const TIME: Duration = Duration::from_secs(40);
const TIME_FOR_RULE_SETS: Duration = Duration::from_secs(35);
const TIME_FOR_TRANSLATIONS: Duration = Duration::from_secs(40);
/// With replay each packet is sent twice; so many cases there is time for everywhere.
const CASES_WITH_REPLAY: u64 = 35;
/// Those of rule sets and replay from this one on: a packet of case 9 ends in an ICMPv6 error, and of two such the kernel sends one.
const FIRST_RULE_SETS_WITH_REPLAY: u64 = 10;
/// Of routing without replay: beyond, `verify` sometimes finds a next hop whose neighbour is unknown to one side for a moment.
const CASES: u64 = 50;
/// Those of the first cases that are known to be alike. `make twin KIND=nat` goes beyond, and finds what is not: see the README.
const CASES_OF_TRANSLATIONS: Range<u64> = 0..25;

#[test]
fn privileged_random_cases_do_not_diverge() {
    cases(Replay::Off);
}

#[test]
fn privileged_random_cases_do_not_diverge_with_replay() {
    let report = cases(Replay::On);
    few_at_least(&report, 50);
}

fn cases(replay: Replay) -> Report {
    let report = campaign::run(Kind::Routing, replay, 3, SEED, cases_of(replay, 0..CASES, 0), TIME, |_| {});
    println!("{report}");
    assert!(report.divergence.is_none(), "{report}");
    // Worth nothing if it hardly ran, or if the workers hardly forward.
    assert!(report.cases >= 25, "few cases: {report}");
    assert!(report.by_workers * 5 > report.answered, "few by the workers: {report}");
    assert_eq!(report.late, 0, "the mirror does not keep its bounds: {report}");
    assert!(report.unsteady * 200 < report.packets, "frames are lost: {report}");
    report
}

#[test]
fn privileged_random_rule_sets_do_not_diverge() {
    rule_sets(Replay::Off);
}

#[test]
fn privileged_random_rule_sets_do_not_diverge_with_replay() {
    let report = rule_sets(Replay::On);
    few_at_least(&report, 50);
}

fn rule_sets(replay: Replay) -> Report {
    let report = campaign::run(
        Kind::Netfilter,
        replay,
        3,
        SEED,
        cases_of(replay, 0..u64::MAX, FIRST_RULE_SETS_WITH_REPLAY),
        TIME_FOR_RULE_SETS,
        |_| {},
    );
    println!("{report}");
    assert!(report.divergence.is_none(), "{report}");
    assert!(report.packets >= 2500, "few packets: {report}");
    assert!(report.answered * 2 > report.packets, "rules stop most packets: {report}");
    assert!(report.by_workers * 5 > report.answered, "few by the workers: {report}");
    // Or else rules are not there that were to be tested.
    assert!(report.refused_rule_sets.len() as u64 * 50 < report.cases, "the tools refuse rule sets: {report}");
    assert_eq!(report.late, 0, "the mirror does not keep its bounds: {report}");
    assert!(report.unsteady * 200 < report.packets, "frames are lost: {report}");
    report
}

#[test]
fn privileged_random_translations_do_not_diverge() {
    translations(Replay::Off);
}

#[test]
fn privileged_random_translations_do_not_diverge_with_replay() {
    let report = translations(Replay::On);
    // Every packet of a conversation has another TOS, and most conversations end soon.
    few_at_least(&report, 1000);
}

fn translations(replay: Replay) -> Report {
    let report = campaign::run(Kind::Nat, replay, 3, SEED, CASES_OF_TRANSLATIONS, TIME_FOR_TRANSLATIONS, |_| {});
    println!("{report}");
    assert!(report.divergence.is_none(), "{report}");
    assert!(report.packets >= 1000, "few packets: {report}");
    assert!(report.answered * 2 > report.packets, "rules stop most packets: {report}");
    assert!(report.by_workers * 3 > report.answered, "few by the workers: {report}");
    assert!(report.refused_rule_sets.len() as u64 * 20 < report.cases, "the tools refuse rule sets: {report}");
    assert!(report.late * 500 < report.packets, "the mirror does not keep its bounds: {report}");
    assert!(report.unsteady * 200 < report.packets, "frames are lost: {report}");
    report
}

/// One packet of so many at least was forwarded by the program.
fn few_at_least(report: &Report, of: u64) {
    let replayed = report.ends.get("replayed").copied().unwrap_or(0);
    assert!(replayed * of > report.packets, "few by the program: {report}");
}

fn cases_of(replay: Replay, without: Range<u64>, first: u64) -> Range<u64> {
    match replay {
        Replay::Off => without,
        Replay::On => first..CASES_WITH_REPLAY,
    }
}
