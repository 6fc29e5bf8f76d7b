//! The kernel's policy routing as a pure function: packet marks, `ip rule`, route tables, next hops.
//!
//! No I/O, no threads, no clock, no unsafe. [`config::Config`] says what the operator wrote, [`compile`](compile::compile) turns it
//! into an immutable [`Policy`], and [`Policy::decide`] answers one packet's [`Query`] with the [`Egress`] or with the [`Stop`]
//! that ended it. [`reference`] answers the same question slowly and literally: it is the oracle of the tests and the voice of
//! `shunt explain`.
#![forbid(unsafe_code)]

pub mod compile;
pub mod config;
pub mod connection;
mod decide;
pub mod fib;
mod index;
mod multipath;
pub mod names;
mod neighbour;
mod netfilter;
pub mod outcome;
pub mod query;
pub mod reference;
mod routes;
mod routing;
mod rules;
mod slots;
pub mod tables;
mod translated;

pub use compile::{Policy, compile, recompile};
pub use connection::{Tracking, Trackless};
pub use names::{Dscp, Family, Generation, Ifindex, Mac, Mark, PortId, Prefix, Priority, TableId};
pub use neighbour::NeighbourSlot;
pub use netfilter::{Tally, Uncounted};
pub use outcome::{DropReason, Egress, PassReason, PuntReason, Stop};
pub use query::{Query, Transport};
pub use routing::{NextHop, Routing};
pub use tables::{Rib, Tables};
