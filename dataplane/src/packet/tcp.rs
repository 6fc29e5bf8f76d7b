//! TCP (RFC 9293): what rules ask of its header, and the one option that they change.

use shunt_policy::{PuntReason, Stop};

use super::{Packet, checksum, punt, transport};

const HEADER: usize = 20;
const CHECKSUM: usize = 16;
const FLAGS: usize = 13;

const MSS: u8 = 2;
const MSS_LENGTH: u8 = 4;
/// End of options, no operation: one byte each.
const NOP: u8 = 1;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcpFacts {
    /// From FIN (0x01) to CWR (0x80).
    pub flags: u8,
    /// Value of the MSS option in bytes, if there is one.
    pub mss: Option<u16>,
}

impl TcpFacts {
    /// Reads the header at the start of `segment`, which is at least 20 bytes long.
    ///
    /// # Errors
    ///
    /// A punt where header or MSS option contradict themselves: iptables and nftables read those in ways of their own.
    pub(super) fn of(segment: &[u8]) -> Result<Self, Stop> {
        let options = options(segment).ok_or(punt(PuntReason::TransportCut))?;
        let flags = segment.get(FLAGS).copied().unwrap_or_default();
        let mss = match mss_option(options) {
            None => None,
            Some(at) => match options.get(at..at + usize::from(MSS_LENGTH)) {
                Some([_, MSS_LENGTH, high, low]) => Some(u16::from_be_bytes([*high, *low])),
                _ => return Err(punt(PuntReason::TransportCut)),
            },
        };
        Ok(TcpFacts { flags, mss })
    }
}

fn options(segment: &[u8]) -> Option<&[u8]> {
    let length = usize::from(segment.get(12)? >> 4) * 4;
    segment.get(HEADER..length)
}

/// Where the MSS option stands. Steps as the kernel does (`optlen` of xt_TCPMSS and nft_exthdr), which does not stop at the end of
/// options.
fn mss_option(options: &[u8]) -> Option<usize> {
    // Timestamps and nothing else: a segment of a connection under way.
    if let [NOP, NOP, 8, 10, ..] = options
        && options.len() == 12
    {
        return None;
    }
    let mut at = 0;
    while let [kind, length, ..] = options.get(at..)? {
        if *kind == MSS {
            return Some(at);
        }
        at += if *kind <= NOP || *length == 0 { 1 } else { usize::from(*length) };
    }
    None
}

/// Writes another MSS, and amends the checksum as the kernel does: as if the option stood at an even place
/// (`inet_proto_csum_replace2`). One that is yet to be computed is left alone.
pub(super) fn lower_mss(packet: &Packet, segment: &mut [u8], old: u16, new: u16) {
    let unfinished = transport::unfinished(packet, segment).is_some();
    let Some(at) = options(segment).and_then(mss_option) else { return };
    let at = HEADER + at + 2;
    if let Some(value) = segment.get_mut(at..at + 2) {
        value.copy_from_slice(&new.to_be_bytes());
    }
    if let Some(field) = segment.get_mut(CHECKSUM..CHECKSUM + 2).filter(|_| !unfinished) {
        let sum = checksum::amended(u16::from_be_bytes([field[0], field[1]]), old.to_be_bytes(), new.to_be_bytes());
        field.copy_from_slice(&sum.to_be_bytes());
    }
}
