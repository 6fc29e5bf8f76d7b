//! The lab, and what only tests look at in it.

mod crowd;
mod drift;
mod frames;
mod witness;

pub use crowd::{Crowd, CrowdReport, CrowdServer};
pub use drift::Holdings;
pub use frames::{Wire, WireEar, WireSender};
pub use shunt_lab::*;
pub use witness::Witness;
