//! Ethernet II, untagged.

use shunt_policy::{Family, Mac, PuntReason, Stop};

use super::{TRUNCATED, punt};

pub(super) const LENGTH: usize = 14;

const IPV4: [u8; 2] = 0x0800u16.to_be_bytes();
const IPV6: [u8; 2] = 0x86ddu16.to_be_bytes();

/// Which family the frame carries, who sent it, and its packet.
pub(super) fn parse(frame: &[u8]) -> Result<(Family, Mac, &[u8]), Stop> {
    let Some((header, packet)) = frame.split_first_chunk::<LENGTH>() else { return Err(TRUNCATED) };
    // The kernel forwards PACKET_HOST only (ip_forward, ip6_forward). Whether a unicast address is ours, the XDP
    // program saw.
    if header[0] & 1 != 0 {
        return Err(punt(PuntReason::NotUnicast));
    }
    let [_, _, _, _, _, _, source @ .., a, b] = header;
    match [*a, *b] {
        IPV4 => Ok((Family::V4, Mac(*source), packet)),
        IPV6 => Ok((Family::V6, Mac(*source), packet)),
        _ => Err(punt(PuntReason::NotIp)),
    }
}

/// Writes the addresses of the next hop's link.
pub(super) fn address(frame: &mut [u8], source: Mac, destination: Mac) {
    if let Some(header) = frame.first_chunk_mut::<LENGTH>() {
        header[..6].copy_from_slice(&destination.0);
        header[6..12].copy_from_slice(&source.0);
    }
}
