//! Checksums that the sender left to its hardware (`CHECKSUM_PARTIAL`), told from the bytes alone.

use super::{ETHERNET, checksum, transport};

/// A checksum that is not computed yet: what `skb->csum_start` and `csum_offset` say inside the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offload {
    /// Where the sum starts, in bytes from the start of the frame.
    pub start: u16,
    /// Where the checksum stands, in bytes from `start`.
    pub offset: u16,
}

/// The unfinished checksum of the TCP or UDP packet in `frame`, if it has one. Asks less of the frame than
/// [`Packet::parse`](super::Packet::parse): it is for frames on their way back to the kernel.
pub fn partial(frame: &[u8]) -> Option<Offload> {
    let packet = frame.get(ETHERNET..)?;
    let (protocol, header, length, addresses) = match packet.first()? >> 4 {
        4 => ipv4(packet)?,
        6 => ipv6(packet)?,
        _ => return None,
    };
    let offset = unfinished(protocol, checksum::sum(addresses), packet.get(header..length)?)?;
    Some(Offload { start: (ETHERNET + header) as u16, offset: offset as u16 })
}

/// Where the checksum stands in the transport packet `payload`, if it is only the folded sum of the pseudo-header (RFC
/// 9293 section 3.1, RFC 8200 section 8.1), not inverted. `addresses` is the sum of the two addresses.
pub(super) fn unfinished(protocol: u8, addresses: u64, payload: &[u8]) -> Option<usize> {
    let offset = match protocol {
        transport::TCP => 16,
        transport::UDP => 6,
        _ => return None,
    };
    let field = u16::from_be_bytes(*payload.get(offset..)?.first_chunk()?);
    (field == checksum::fold(addresses + u64::from(protocol) + payload.len() as u64)).then_some(offset)
}

/// Protocol, header length, packet length, the bytes of both addresses.
type Parts<'a> = (u8, usize, usize, &'a [u8]);

fn ipv4(packet: &[u8]) -> Option<Parts<'_>> {
    let header = packet.first_chunk::<20>()?;
    // The sender finishes the checksum before it fragments (ip_fragment).
    if u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0 {
        return None;
    }
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    Some((header[9], usize::from(header[0] & 0x0f) * 4, length, packet.get(12..20)?))
}

fn ipv6(packet: &[u8]) -> Option<Parts<'_>> {
    let header = packet.first_chunk::<40>()?;
    let length = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
    Some((header[6], 40, length, packet.get(8..40)?))
}
