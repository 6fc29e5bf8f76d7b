//! `make scale`

use std::process::ExitCode;

fn main() -> ExitCode {
    match shunt_tests::scale::run(&mut std::io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scale: {error}");
            ExitCode::FAILURE
        }
    }
}
