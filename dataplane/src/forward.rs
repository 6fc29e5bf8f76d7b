//! The packet path: reads, asks, decides. Nothing here edits the frame but [`Onward::rewrite`], the last step.

use shunt_policy::{Egress, Ifindex, Policy, Stop};

use crate::packet::Packet;
use crate::xsk::Frame;

/// A packet that may go on, and the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Onward {
    pub egress: Egress,
    pub packet: Packet,
}

/// Decides one frame that came in by `iif`. Only reads: on `Err` the frame is as it came.
///
/// # Errors
///
/// The way a frame ends that does not go on by our hands.
pub fn forward(frame: &[u8], iif: Ifindex, policy: &Policy) -> Result<Onward, Stop> {
    let packet = Packet::parse(frame)?;
    let egress = policy.decide(&packet.query(iif))?;
    Ok(Onward { egress, packet })
}

impl Onward {
    /// Makes the frame that was decided on ready to leave.
    pub fn rewrite(&self, frame: &mut Frame) {
        let length = self.packet.rewrite(frame, &self.egress);
        frame.truncate(length);
    }
}
