//! Which tuple a translation takes (`nf_nat_core.c`), and how packets change by it.

mod address;
mod allocate;
mod manip;
mod room;

pub(super) use manip::{inner, outer, packet};
pub(super) use room::set_up;
