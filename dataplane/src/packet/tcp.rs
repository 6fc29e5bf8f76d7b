//! TCP (RFC 9293): what rules ask of its header, and the one option that they change.

use shunt_policy::{PuntReason, Stop};

use super::{checksum, punt};
use crate::conn::seen::Segment;

const HEADER: usize = 20;
const CHECKSUM: usize = 16;
const FLAGS: usize = 13;

const MSS: u8 = 2;
const MSS_LENGTH: u8 = 4;
/// One byte each.
const END: u8 = 0;
const NOP: u8 = 1;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;

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

/// What connection tracking looks at (`tcp_error`, `tcp_options`, `tcp_sack`). `None` if the header is longer than the segment.
pub(super) fn segment(segment: &[u8]) -> Option<Segment> {
    let header = segment.first_chunk::<HEADER>()?;
    let length = usize::from(header[12] >> 4) * 4;
    let options = segment.get(HEADER..length)?;
    let number = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let mut seen = Segment {
        sequence: number(4),
        acknowledgement: number(8),
        window: u16::from_be_bytes([header[14], header[15]]),
        flags: header[FLAGS],
        payload: (segment.len() - length) as u32,
        window_scale: None,
        sack_permitted: false,
        sack: None,
    };
    // A segment of a connection under way, most times.
    if !matches!(options, [] | [NOP, NOP, 8, 10, _, _, _, _, _, _, _, _]) {
        read_options(options, &mut seen);
    }
    Some(seen)
}

fn read_options(options: &[u8], seen: &mut Segment) {
    let mut rest = options;
    while let Some((&kind, behind)) = rest.split_first() {
        if kind == END {
            return;
        }
        if kind == NOP {
            rest = behind;
            continue;
        }
        let Some(length) = behind.first().map(|length| usize::from(*length)).filter(|length| *length >= 2) else {
            return;
        };
        // Cut short: the kernel stops here, too.
        let Some((option, behind)) = rest.split_at_checked(length) else { return };
        rest = behind;
        match (kind, option) {
            (SACK_PERMITTED, [_, _]) => seen.sack_permitted = true,
            // RFC 7323 section 2.3 allows 14 at most (TCP_MAX_WSCALE).
            (WINDOW_SCALE, [_, _, scale]) => seen.window_scale = Some((*scale).min(14)),
            (SACK, [_, _, blocks @ ..]) => {
                // The right edges; the sequence numbers wrap.
                for edge in blocks.as_chunks::<8>().0 {
                    let edge = u32::from_be_bytes([edge[4], edge[5], edge[6], edge[7]]);
                    let later = |sack: u32| (edge.wrapping_sub(sack) as i32) > 0;
                    if seen.sack.is_none_or(later) {
                        seen.sack = Some(edge);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Writes another MSS, and amends the checksum as the kernel does: as if the option stood at an even place
/// (`inet_proto_csum_replace2`). One that is yet to be computed is left alone.
pub(super) fn lower_mss(segment: &mut [u8], unfinished: bool, old: u16, new: u16) {
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
