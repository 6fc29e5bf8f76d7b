//! Connections: one worker's table, what TCP does to them, which tuple a translation may take, when they end. Pure: time and randomness
//! are arguments. `nf_conntrack_core.c`, `nf_conntrack_proto_*.c` and `nf_nat_core.c` are the authority.
//!
//! [`Connections`] is the table of one worker, [`Tracker`] its answer about one packet, [`Place`] says which worker a packet belongs to.

mod connections;
mod entry;
pub mod exchange;
mod exhausted;
mod index;
mod nat;
mod place;
mod random;
pub mod record;
mod replayed;
mod reports;
pub mod seen;
pub mod settings;
mod settle;
mod sources;
mod table;
mod tcp;
mod tell;
#[cfg(test)]
mod tests;
mod timeouts;
mod tracker;

pub use connections::{Connections, Counts, Sought};
pub use exhausted::{Exhausted, LAST, LastExhausted};
pub use place::Place;
pub use replayed::Steady;
pub use settle::Punted;
pub use sources::Sources;
pub use tracker::{Local, Tracker};
