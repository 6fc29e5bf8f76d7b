//! The packet path: reads, asks, decides. Nothing here edits the frame but [`Onward::rewrite`], the last step.

use shunt_policy::{Egress, Ifindex, Policy, Stop, Tally};

use crate::packet::Packet;
use crate::xsk::Frame;

/// A packet that may go on, and the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Onward {
    pub egress: Egress,
    pub packet: Packet,
}

/// Decides one packet that came in by `iif`. Only reads. `tally` hears which rules count the packet, unless it is punted.
///
/// # Errors
///
/// The way a frame ends that does not go on by our hands.
pub fn forward(packet: &Packet, iif: Ifindex, policy: &Policy, tally: &mut impl Tally) -> Result<Onward, Stop> {
    let egress = policy.decide_counting(&packet.query(iif), tally)?;
    Ok(Onward { egress, packet: *packet })
}

impl Onward {
    /// Makes the frame that was decided on ready to leave.
    pub fn rewrite(&self, frame: &mut Frame) {
        let length = self.packet.rewrite(frame, &self.egress);
        frame.truncate(length);
    }
}
