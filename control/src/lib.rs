//! The shell around the packet path: mirrors the kernel, runs the workers, answers the operator.

pub mod bench;
pub mod capabilities;
pub mod cli;
pub mod conntrack;
pub mod explain;
pub mod holdings;
pub mod keepalive;
pub mod metrics;
pub mod mirror;
pub mod ports;
pub mod rules;
pub mod settings;
pub mod socket;
pub mod status;
pub mod supervisor;
pub mod translate;
pub mod verify;
