//! Giving a frame back to the kernel, exactly as it came.

use shunt_policy::PortId;

/// The way back into the kernel.
pub trait Punt {
    /// Enters `frame` into the stack as if it had arrived on the interface of `ingress`. False if the kernel takes no
    /// more.
    fn punt(&mut self, ingress: PortId, frame: &[u8]) -> bool;
}

pub use crate::xsk::Taps;
