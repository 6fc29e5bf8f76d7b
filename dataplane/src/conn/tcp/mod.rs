//! What TCP does to a connection (`nf_conntrack_proto_tcp.c`).

mod states;
mod window;

use super::record::{TcpRecord, TcpState};
use super::seen::Segment;
use crate::replay;

/// `struct ip_ct_tcp`. Pairs are of the original and the reply direction. Sequence numbers in host order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tcp {
    pub(super) sides: [Side; 2],
    /// `td_scale`
    pub(super) scale: [u8; 2],
    /// `IP_CT_TCP_FLAG_*`
    pub(super) flags: [u8; 2],
    last_sequence: u32,
    last_acknowledgement: u32,
    last_end: u32,
    last_window: u16,
    last_scale: u8,
    last_flags: u8,
    /// Kind of the last packet; with [`LAST_REPLY`] if it came in the reply direction.
    last: u8,
    retransmissions: u8,
    pub(super) state: TcpState,
}

/// `struct ip_ct_tcp_state`: what one side has sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Side {
    /// Highest sequence number sent, and one.
    pub(super) end: u32,
    /// Up to where the other side lets it send.
    max_end: u32,
    /// 0: nothing of this side was seen.
    pub(super) max_window: u32,
    max_acknowledgement: u32,
}

pub(super) mod flag {
    pub const WINDOW_SCALE: u8 = 0x01;
    pub const SACK_PERM: u8 = 0x02;
    pub const CLOSE_INIT: u8 = 0x04;
    pub const BE_LIBERAL: u8 = 0x08;
    pub const DATA_UNACKNOWLEDGED: u8 = 0x10;
    pub const MAXACK_SET: u8 = 0x20;
    /// Of `last_flags` only, as is the next.
    pub const EXP_CHALLENGE_ACK: u8 = 0x40;
    pub const SIMULTANEOUS_OPEN: u8 = 0x80;
}

const LAST_REPLY: u8 = 0x80;

/// `enum tcp_bit_set`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Set {
    Syn = 0,
    SynAck = 1,
    Fin = 2,
    Ack = 3,
    Rst = 4,
    None = 5,
}

impl Set {
    /// `get_conntrack_index`
    fn of(segment: &Segment) -> Self {
        match segment {
            _ if segment.has_rst() => Set::Rst,
            _ if segment.has_syn() && segment.has_ack() => Set::SynAck,
            _ if segment.has_syn() => Set::Syn,
            _ if segment.has_fin() => Set::Fin,
            _ if segment.has_ack() => Set::Ack,
            _ => Set::None,
        }
    }
}

impl Tcp {
    const NEW: Tcp = Tcp {
        sides: [Side { end: 0, max_end: 0, max_window: 0, max_acknowledgement: 0 }; 2],
        scale: [0; 2],
        flags: [0; 2],
        last_sequence: 0,
        last_acknowledgement: 0,
        last_end: 0,
        last_window: 0,
        last_scale: 0,
        last_flags: 0,
        last: Set::None as u8,
        retransmissions: 0,
        state: TcpState::None,
    };

    /// `tcp_new`
    pub(super) fn begin(segment: &Segment, loose: bool) -> Option<Self> {
        let mut tcp = Tcp::NEW;
        let end = segment.end();
        let max_window = u32::from(segment.window).max(1);
        let side = &mut tcp.sides[0];
        match Set::of(segment) {
            Set::Syn => {
                *side = Side { end, max_end: end, max_window, max_acknowledgement: 0 };
                tcp.take_options(0, segment);
            }
            // The middle of a connection: SACK and liberal checks make up for the window scale that was not seen.
            Set::Ack if loose => {
                *side = Side { end, max_end: end.wrapping_add(max_window), max_window, max_acknowledgement: 0 };
                tcp.flags = [flag::SACK_PERM | flag::BE_LIBERAL; 2];
            }
            _ => return None,
        }
        Some(tcp)
    }

    /// As ctnetlink shows it: without windows (`nlattr_to_tcp`).
    pub(super) fn from_record(record: &TcpRecord) -> Self {
        // The acknowledgement that this flag speaks of is not shown.
        let flags = record.flags.map(|flags| flags & 0x3f & !flag::MAXACK_SET);
        let scaled = flags[0] & flags[1] & flag::WINDOW_SCALE != 0;
        let scale = if scaled { record.scale.map(|scale| scale.min(14)) } else { [0; 2] };
        Tcp { scale, flags, state: record.state, ..Tcp::NEW }
    }

    /// As ctnetlink is told of it. It has no word for an acknowledgement: with the flag that there was one, the kernel would hold a RST
    /// against 0.
    pub(super) fn record(&self) -> TcpRecord {
        let flags = self.flags.map(|flags| flags & !flag::MAXACK_SET);
        TcpRecord { state: self.state, scale: self.scale, flags }
    }

    /// `tcp_options` of a SYN
    fn take_options(&mut self, from: usize, segment: &Segment) {
        self.flags[from] &= flag::BE_LIBERAL;
        self.flags[from] |= options(segment);
        self.scale[from] = segment.window_scale.unwrap_or(0).min(14);
    }

    /// Whether both sides have been seen in an established connection: then most segments move nothing but the windows.
    pub(super) fn has_windows(&self) -> bool {
        self.state == TcpState::Established && self.sides.iter().all(|side| side.max_window != 0)
    }

    /// What XDP programs follow of it, in their layout (`struct windows` of replay.h, words 1 to 7).
    pub(super) fn windows(&self) -> replay::Record {
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let side = |side: &Side| [pair(side.end, side.max_end), pair(side.max_window, side.max_acknowledgement)];
        let ([a, b], [c, d]) = (side(&self.sides[0]), side(&self.sides[1]));
        let [low, high] = self.last_window.to_ne_bytes();
        let last_window = u32::from_ne_bytes([low, high, self.scale[0], self.scale[1]]);
        let flags = u32::from_ne_bytes([self.flags[0], self.flags[1], self.last, self.retransmissions]);
        [
            a,
            b,
            c,
            d,
            pair(self.last_sequence, self.last_acknowledgement),
            pair(self.last_end, last_window),
            flags.into(),
        ]
    }

    /// The inverse.
    pub(super) fn set_windows(&mut self, record: &replay::Record) {
        let pair = |word: u64| (word as u32, (word >> 32) as u32);
        let [a, b, c, d, numbers, end, flags] = *record;
        for (side, (ends, window)) in self.sides.iter_mut().zip([(a, b), (c, d)]) {
            (side.end, side.max_end) = pair(ends);
            (side.max_window, side.max_acknowledgement) = pair(window);
        }
        (self.last_sequence, self.last_acknowledgement) = pair(numbers);
        let (last_end, last_window) = pair(end);
        self.last_end = last_end;
        let [low, high, ..] = last_window.to_ne_bytes();
        self.last_window = u16::from_ne_bytes([low, high]);
        [self.flags[0], self.flags[1], self.last, self.retransmissions] = (flags as u32).to_ne_bytes();
    }

    fn last_set(&self) -> u8 {
        self.last & !LAST_REPLY
    }

    fn last_was(&self, set: Set) -> bool {
        self.last_set() == set as u8
    }

    fn last_direction(&self) -> usize {
        usize::from(self.last & LAST_REPLY != 0)
    }

    fn keep_last(&mut self, set: Set, from: usize) {
        self.last = set as u8 | if from == 1 { LAST_REPLY } else { 0 };
    }
}

fn options(segment: &Segment) -> u8 {
    let scale = if segment.window_scale.is_some() { flag::WINDOW_SCALE } else { 0 };
    let sack = if segment.sack_permitted { flag::SACK_PERM } else { 0 };
    scale | sack
}

impl Segment {
    fn has_fin(&self) -> bool {
        self.flags & 0x01 != 0
    }

    fn has_syn(&self) -> bool {
        self.flags & 0x02 != 0
    }

    fn has_rst(&self) -> bool {
        self.flags & 0x04 != 0
    }

    fn has_ack(&self) -> bool {
        self.flags & 0x10 != 0
    }

    /// Whether it can begin a connection and nothing else.
    pub(super) fn is_pure_syn(&self) -> bool {
        Set::of(self) == Set::Syn
    }

    /// `segment_seq_plus_len`
    fn end(&self) -> u32 {
        self.sequence
            .wrapping_add(self.payload)
            .wrapping_add(u32::from(self.has_syn()))
            .wrapping_add(u32::from(self.has_fin()))
    }
}

/// `before` and `after` of sequence numbers
fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

fn after(a: u32, b: u32) -> bool {
    before(b, a)
}
