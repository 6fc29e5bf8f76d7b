//! `shunt verify`: watches a running daemon compare its decisions with the kernel's.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cli::VerifyArgs;

/// How often the daemon is asked.
const PACE: Duration = Duration::from_millis(100);
/// How long the doubts that are left at the end may take to settle.
const SETTLING: Duration = Duration::from_secs(6);

/// Asks for the daemon's status until enough was compared or the time is over. What comes back has the keys `sampled`, `compared`,
/// `not_comparable`, `unsettled`, `divergences`, and in `found` the last of these in full.
///
/// # Errors
///
/// Those of `status`.
pub fn watch<E>(args: &VerifyArgs, mut status: impl FnMut() -> Result<Value, E>) -> Result<Value, E> {
    let start = Instant::now();
    let before = status()?["verify"].take();
    loop {
        let now = status()?["verify"].take();
        let more = |key: &str| number(&now[key]).saturating_sub(number(&before[key]));
        let patience = Duration::from_secs(args.seconds);
        let over = more("compared") >= args.samples || start.elapsed() >= patience;
        let settled = now["pending"] == 0 || more("divergence_total") > 0 || start.elapsed() >= patience + SETTLING;
        if !over || !settled {
            std::thread::sleep(PACE);
            continue;
        }
        let earlier = number(&before["divergence_total"]);
        let found = now["divergences"].as_array().into_iter().flatten();
        let found: Vec<_> = found.filter(|one| number(&one["number"]) > earlier).collect();
        return Ok(json!({
            "seconds": start.elapsed().as_secs_f64(),
            "sampled": more("sampled"),
            "compared": more("compared"),
            "not_comparable": more("not_comparable"),
            "unsettled": more("unsettled"),
            "divergences": more("divergence_total"),
            "found": found,
        }));
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

/// The same for the terminal.
pub fn text(report: &Value) -> String {
    let mut lines: Vec<_> = report["found"].as_array().into_iter().flatten().map(super::divergence_text).collect();
    lines.push(format!(
        "{} of {} sampled decisions compared with the kernel in {:.1} s, {} not comparable, {} unsettled; divergences {}",
        report["compared"],
        report["sampled"],
        report["seconds"].as_f64().unwrap_or_default(),
        report["not_comparable"],
        report["unsettled"],
        report["divergences"]
    ));
    lines.join("\n")
}
