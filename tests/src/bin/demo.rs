//! `make demo`

use std::process::ExitCode;

fn main() -> ExitCode {
    let report = match shunt_tests::demo::run(&mut std::io::stdout()) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("demo: {error}");
            return ExitCode::FAILURE;
        }
    };
    let disappointments = report.disappointments();
    if disappointments.is_empty() {
        println!("\nAll as the chapter says.");
        return ExitCode::SUCCESS;
    }
    for line in disappointments {
        eprintln!("NOT AS EXPECTED: {line}");
    }
    ExitCode::FAILURE
}
