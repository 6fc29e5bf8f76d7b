//! Whether a segment lies in the window (`tcp_in_window`), after Guido van Rooij, "Real Stateful TCP Packet Filtering in IP Filter".

use super::super::record::TcpState;
use super::super::seen::Segment;
use super::{Set, Side, Tcp, after, before, flag};

/// `enum nf_ct_tcp_action`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Window {
    Accept,
    /// It passes, and changes nothing more.
    Ignore,
    Invalid,
}

/// `MAXACKWINCONST`: how far behind an acknowledgement may lag at least, in bytes.
const MAX_ACK_WINDOW: u32 = 66_000;

impl Tcp {
    /// `tcp_in_window`; `from` is the direction, 1 for reply.
    pub(super) fn in_window(&mut self, segment: &Segment, from: usize, set: Set, be_liberal: bool) -> Window {
        let to = 1 - from;
        let mut sequence = segment.sequence;
        let mut ack = segment.acknowledgement;
        let mut sack = ack;
        let mut end = segment.end();
        if self.flags[to] & flag::SACK_PERM != 0
            && let Some(edge) = segment.sack
            && after(edge, sack)
        {
            sack = edge;
        }
        if self.learn(segment, from, end, sack) {
            return Window::Accept;
        }
        let receiver_end = self.sides[to].end;
        // Without ACK it counts as good; so does the 0 that broken stacks send with a RST.
        if !segment.has_ack() || segment.has_rst() && ack == 0 {
            (ack, sack) = (receiver_end, receiver_end);
        }
        // The answer to a SYN.
        if segment.has_rst() && sequence == 0 && self.state == TcpState::SynSent {
            sequence = self.sides[from].end;
            end = sequence;
        }
        let outside = self.outside(from, sequence, end, sack);
        if let Some(outside) = outside
            && !(be_liberal || self.flags[from] & flag::BE_LIBERAL != 0)
        {
            return outside;
        }
        // `nf_tcp_log_invalid` says accept to the liberal, and `tcp_in_window` returns: nothing is learned from such a segment.
        if outside.is_some() {
            return Window::Accept;
        }
        self.follow(segment, from, set, Numbers { sequence, end, ack, sack });
        Window::Accept
    }

    /// What a side begins with; true if there is nothing to check.
    fn learn(&mut self, segment: &Segment, from: usize, end: u32, sack: u32) -> bool {
        let to = 1 - from;
        if self.sides[from].max_window == 0 {
            if segment.has_syn() {
                self.init_sender(segment, from, end);
                // Simultaneous open.
                return !segment.has_ack();
            }
            // The middle of a connection, of which nothing was seen in this direction.
            let window = (u32::from(segment.window) << self.scale[from]).max(1);
            let side = &mut self.sides[from];
            (side.end, side.max_window, side.max_end) = (end, window, end.wrapping_add(window));
            let receiver = &mut self.sides[to];
            if receiver.max_window == 0 {
                (receiver.end, receiver.max_end) = (sack, sack);
            } else if sack == receiver.end.wrapping_add(1) {
                // Likely the answer to a keepalive.
                receiver.end = sack;
            }
        } else if segment.has_syn()
            && after(end, self.sides[from].end)
            && matches!(self.state, TcpState::SynSent | TcpState::SynRecv)
        {
            // RFC 793: a TCP that begins anew need only be sure to use higher sequence numbers.
            self.init_sender(segment, from, end);
            return from == 1 && !segment.has_ack();
        }
        false
    }

    /// `tcp_init_sender`
    fn init_sender(&mut self, segment: &Segment, from: usize, end: u32) {
        let side = &mut self.sides[from];
        (side.end, side.max_end) = (end, end);
        side.max_window = u32::from(segment.window).max(1);
        self.take_options(from, segment);
        // RFC 1323: both sides must send the option.
        if from == 1 && self.flags[0] & self.flags[1] & flag::WINDOW_SCALE == 0 {
            self.scale = [0; 2];
        }
    }

    /// What the kernel says of a segment that is not in the window.
    fn outside(&mut self, from: usize, sequence: u32, end: u32, sack: u32) -> Option<Window> {
        let receiver = self.sides[1 - from];
        let sender = &mut self.sides[from];
        let ack_window = sender.max_window.max(MAX_ACK_WINDOW);
        let is_ack_recent = after(sack, receiver.end.wrapping_sub(ack_window).wrapping_sub(1));
        let is_ack_known = before(sack, receiver.end.wrapping_add(1));
        let reaches_window = after(end, sender.end.wrapping_sub(receiver.max_window).wrapping_sub(1));
        if !before(sequence, sender.max_end.wrapping_add(1)) {
            let overshot = end.wrapping_sub(sender.max_end).wrapping_add(1);
            if receiver.max_window != 0
                && reaches_window
                && is_ack_recent
                && overshot <= receiver.max_window
                && is_ack_known
            {
                // More than the window allows: if it passes nonetheless, its acknowledgement must not look as if it were of nothing.
                sender.end = end;
                self.flags[from] |= flag::DATA_UNACKNOWLEDGED;
                return Some(Window::Ignore);
            }
            return Some(Window::Invalid);
        }
        if !is_ack_known {
            return Some(Window::Invalid);
        }
        if receiver.max_window != 0 && !reaches_window || !is_ack_recent {
            return Some(Window::Ignore);
        }
        None
    }

    /// What is learned from a segment in the window.
    fn follow(&mut self, segment: &Segment, from: usize, set: Set, numbers: Numbers) {
        let Numbers { end, ack, sack, .. } = numbers;
        let to = 1 - from;
        let window = match segment.has_syn() {
            true => u32::from(segment.window),
            false => u32::from(segment.window) << self.scale[from],
        };
        let sender = &mut self.sides[from];
        sender.max_window = sender.max_window.max(window.wrapping_add(sack.wrapping_sub(ack)));
        if after(end, sender.end) {
            sender.end = end;
            self.flags[from] |= flag::DATA_UNACKNOWLEDGED;
        }
        if segment.has_ack() && (self.flags[from] & flag::MAXACK_SET == 0 || after(ack, sender.max_acknowledgement)) {
            sender.max_acknowledgement = ack;
            self.flags[from] |= flag::MAXACK_SET;
        }
        let Side { max_end: sender_max_end, .. } = *sender;
        let receiver = &mut self.sides[to];
        if receiver.max_window != 0 && after(end, sender_max_end) {
            receiver.max_window = receiver.max_window.wrapping_add(end.wrapping_sub(sender_max_end));
        }
        if after(sack.wrapping_add(window), receiver.max_end.wrapping_sub(1)) {
            receiver.max_end = sack.wrapping_add(window).wrapping_add(u32::from(window == 0));
        }
        if ack == receiver.end {
            self.flags[to] &= !flag::DATA_UNACKNOWLEDGED;
        }
        if set == Set::Ack {
            self.count_retransmissions(segment.window, from, numbers);
        }
    }

    fn count_retransmissions(&mut self, window: u16, from: usize, numbers: Numbers) {
        let Numbers { sequence, end, ack, .. } = numbers;
        let same = self.last_direction() == from
            && self.last_sequence == sequence
            && self.last_acknowledgement == ack
            && self.last_end == end
            && self.last_window == window;
        if same {
            self.retransmissions = self.retransmissions.wrapping_add(1);
            return;
        }
        self.keep_last_direction(from);
        self.last_sequence = sequence;
        self.last_acknowledgement = ack;
        self.last_end = end;
        self.last_window = window;
        self.retransmissions = 0;
    }
}

#[derive(Clone, Copy)]
struct Numbers {
    sequence: u32,
    end: u32,
    ack: u32,
    sack: u32,
}
