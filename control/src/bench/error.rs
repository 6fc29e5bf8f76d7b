//! Why there is no result.

use std::io;
use std::path::PathBuf;

use crate::capabilities::Missing;

/// Each says what to do about it.
#[derive(thiserror::Error, Debug)]
pub enum BenchError {
    #[error("bench makes network namespaces: run it as root")]
    NotRoot,
    #[error(transparent)]
    Capability(#[from] Missing),
    #[error("{tool} is not installed: apt install {package}")]
    Tool { tool: &'static str, package: &'static str },
    #[error("there is no scenario {name}; there are {known}")]
    Scenario { name: String, known: String },
    #[error("one core is not enough: the load takes one, and the router under test another")]
    Cores,
    #[error(
        "ports are measured four at a time: --dev A --dev B are the router's, --load C --load D those that a cable joins to A and to B; \
         without them the bench makes veth pairs"
    )]
    Ports,
    #[error("{port} {why}")]
    Port { port: String, why: String },
    #[error("{0}")]
    Command(#[from] shunt_lab::Failed),
    #[error("{what}: {source}")]
    Kernel { what: String, source: io::Error },
    #[error(
        "{device} has {found} NAPI threads, expected {expected}: has it so many queues, and is the kernel no older than 5.12?"
    )]
    Threads { device: String, found: usize, expected: usize },
    #[error("{name} did not start: {said}")]
    Peer { name: &'static str, said: String },
    #[error("{scenario}: nothing comes through {router}: {state}")]
    Silent { scenario: &'static str, router: String, state: String },
    #[error(
        "{scenario}: {router} forwarded {own} of {all} frames, and {punted} were punted: this would be the number of another path"
    )]
    OtherPath { scenario: &'static str, router: String, own: u64, all: u64, punted: u64 },
    #[error("{scenario}: {router} decides otherwise than the kernel: {told}")]
    Diverged { scenario: &'static str, router: String, told: String },
    #[error("cannot write {path}: {source}; choose another with --json or --html")]
    Write { path: PathBuf, source: io::Error },
}

impl BenchError {
    /// An error of the kernel's, about something that it was asked for.
    pub(super) fn kernel(what: &str) -> impl FnOnce(io::Error) -> BenchError {
        move |source| BenchError::Kernel { what: what.to_owned(), source }
    }
}
