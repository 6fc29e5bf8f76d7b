//! What stands behind the IP header: ports and ICMP types, and checksums that the sender left to its hardware.

use shunt_policy::{PuntReason, Stop, Transport};

use super::seen::address_sum;
use super::{Packet, checksum, offload, punt, sctp};

pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const DCCP: u8 = 33;
const ESP: u8 = 50;
const AH: u8 = 51;
pub(super) const ICMPV6: u8 = 58;
pub(super) const SCTP: u8 = 132;
pub(super) const UDP_LITE: u8 = 136;

/// Reads the part that rules may look at. `icmp` is the protocol number of the family's own ICMP.
///
/// # Errors
///
/// A header that is cut short is punted: the kernel forwards it if no rule looks, and if one does, drops it (`hotdrop` in
/// xt_tcp and its kin).
pub(super) fn parse(protocol: u8, icmp: u8, payload: &[u8]) -> Result<Transport, Stop> {
    let shortest = match protocol {
        TCP => 20,
        UDP | UDP_LITE => 8,
        SCTP | DCCP | AH => 12,
        ESP => 8,
        _ if protocol == icmp => 8,
        _ => return Ok(Transport::Other),
    };
    let start = if protocol == AH { 4 } else { 0 };
    let [a, b, c, d] = match payload.get(start..).and_then(<[u8]>::first_chunk::<4>) {
        Some(word) if payload.len() >= shortest => *word,
        _ => return Err(punt(PuntReason::TransportCut)),
    };
    if matches!(protocol, ESP | AH) {
        return Ok(Transport::Spi(u32::from_be_bytes([a, b, c, d])));
    }
    if protocol == icmp {
        return Ok(Transport::Icmp { kind: a, code: b });
    }
    Ok(Transport::Ports { source: u16::from_be_bytes([a, b]), destination: u16::from_be_bytes([c, d]) })
}

/// Computes the checksum of a TCP or UDP packet if it is only the folded sum of the pseudo-header, which is how a veth
/// or virtio peer hands over what it expects hardware to complete: it stands at `unfinished`. Leaves all others alone, right or
/// wrong, as a router does.
///
/// A finished checksum equals that sum once in 65535 packets. No harm: to complete it again yields the same value.
pub(super) fn complete(packet: &Packet, payload: &mut [u8], unfinished: Option<usize>) {
    if packet.protocol == SCTP {
        return sctp::complete(payload);
    }
    let Some(offset) = unfinished else { return };
    // The field holds the pseudo-header's sum, so the sum over the bytes as they are includes it (skb_checksum_help).
    let sum = !checksum::fold(checksum::sum(payload));
    // RFC 768: an all-zero checksum means "none", so zero is sent as its other representation.
    let sum = if sum == 0 && packet.protocol == UDP { 0xffff } else { sum };
    if let Some(field) = payload.get_mut(offset..offset + 2) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
}

/// Where the checksum stands in `payload`, if it is only the pseudo-header's sum.
pub(super) fn unfinished(packet: &Packet, payload: &[u8]) -> Option<usize> {
    let addresses = address_sum(packet.source) + address_sum(packet.destination);
    offload::unfinished(packet.protocol, addresses, payload)
}
