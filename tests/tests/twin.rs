//! Random cases in the twin, for a fixed time; `make twin` goes on for as long as one likes.

use std::time::Duration;

use shunt_tests::twin::{Kind, campaign};

/// The cases are the same in every run, as many of them as there is time for.
const SEED: u64 = 1;
const TIME: Duration = Duration::from_secs(110);
const TIME_FOR_RULE_SETS: Duration = Duration::from_secs(90);
const TIME_FOR_TRANSLATIONS: Duration = Duration::from_secs(40);
/// Those of the first cases that are known to be alike. `make twin KIND=nat` goes beyond, and finds what is not: see the README.
const CASES_OF_TRANSLATIONS: std::ops::Range<u64> = 3..12;

#[test]
fn privileged_random_cases_do_not_diverge() {
    let report = campaign::run(Kind::Routing, 3, SEED, 0..u64::MAX, TIME, |_| {});
    println!("{report}");
    assert!(report.divergence.is_none(), "{report}");
    // Worth nothing if it hardly ran, or if the workers hardly forward.
    assert!(report.cases >= 60, "few cases: {report}");
    assert!(report.by_workers * 5 > report.answered, "few by the workers: {report}");
    assert_eq!(report.late, 0, "the mirror does not keep its bounds: {report}");
    assert!(report.unsteady * 200 < report.packets, "frames are lost: {report}");
}

#[test]
fn privileged_random_rule_sets_do_not_diverge() {
    let report = campaign::run(Kind::Netfilter, 3, SEED, 0..u64::MAX, TIME_FOR_RULE_SETS, |_| {});
    println!("{report}");
    assert!(report.divergence.is_none(), "{report}");
    assert!(report.packets >= 4000, "few packets: {report}");
    assert!(report.answered * 2 > report.packets, "rules stop most packets: {report}");
    assert!(report.by_workers * 5 > report.answered, "few by the workers: {report}");
    // Or else rules are not there that were to be tested.
    assert!(report.refused_rule_sets.len() as u64 * 50 < report.cases, "the tools refuse rule sets: {report}");
    assert_eq!(report.late, 0, "the mirror does not keep its bounds: {report}");
    assert!(report.unsteady * 200 < report.packets, "frames are lost: {report}");
}

#[test]
fn privileged_random_translations_do_not_diverge() {
    let report = campaign::run(Kind::Nat, 3, SEED, CASES_OF_TRANSLATIONS, TIME_FOR_TRANSLATIONS, |_| {});
    println!("{report}");
    assert!(report.divergence.is_none(), "{report}");
    assert!(report.packets >= 1000, "few packets: {report}");
    assert!(report.answered * 2 > report.packets, "rules stop most packets: {report}");
    assert!(report.by_workers * 3 > report.answered, "few by the workers: {report}");
    assert!(report.refused_rule_sets.len() as u64 * 20 < report.cases, "the tools refuse rule sets: {report}");
    assert!(report.late * 500 < report.packets, "the mirror does not keep its bounds: {report}");
    assert!(report.unsteady * 200 < report.packets, "frames are lost: {report}");
}
