//! The states of a connection (`tcp_conntracks`, `nf_conntrack_tcp_packet`).

use shunt_policy::connection::Connection;

use super::super::entry::{About, Step};
use super::super::record::TcpState;
use super::super::seen::Segment;
use super::super::settings::TcpTimeouts;
use super::window::Window;
use super::{LAST_REPLY, Set, Side, Tcp, before, flag, options};

/// What a segment makes of a state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    To(TcpState),
    /// It may be good or bad: the receiver will tell, with a RST or a SYN/ACK.
    Ignore,
    Invalid,
}

const SS: Next = Next::To(TcpState::SynSent);
const SR: Next = Next::To(TcpState::SynRecv);
const ES: Next = Next::To(TcpState::Established);
const FW: Next = Next::To(TcpState::FinWait);
const CW: Next = Next::To(TcpState::CloseWait);
const LA: Next = Next::To(TcpState::LastAck);
const TW: Next = Next::To(TcpState::TimeWait);
const CL: Next = Next::To(TcpState::Close);
const S2: Next = Next::To(TcpState::SynSent2);
const IG: Next = Next::Ignore;
const IV: Next = Next::Invalid;

/// `tcp_conntracks`, by direction, [`Set`] and state.
#[rustfmt::skip]
const TRANSITIONS: [[[Next; 10]; 6]; 2] = [
    [
        //        none SS  SR  ES  FW  CW  LA  TW  CL  S2
        /* SYN */ [SS, SS, IG, IG, IG, IG, IG, SS, SS, S2],
        /* S/A */ [IV, IV, SR, IV, IV, IV, IV, IV, IV, SR],
        /* FIN */ [IV, IV, FW, FW, LA, LA, LA, TW, CL, IV],
        /* ACK */ [ES, IV, ES, ES, CW, CW, TW, TW, CL, IV],
        /* RST */ [IV, CL, CL, CL, CL, CL, CL, CL, CL, CL],
        /* --- */ [IV, IV, IV, IV, IV, IV, IV, IV, IV, IV],
    ],
    [
        /* SYN */ [IV, S2, IV, IV, IV, IV, IV, SS, IV, S2],
        /* S/A */ [IV, SR, IG, IG, IG, IG, IG, IG, IG, SR],
        /* FIN */ [IV, IV, FW, FW, LA, LA, LA, TW, CL, IV],
        /* ACK */ [IV, IG, SR, ES, CW, CW, TW, TW, CL, IG],
        /* RST */ [IV, CL, CL, CL, CL, CL, CL, CL, CL, CL],
        /* --- */ [IV, IV, IV, IV, IV, IV, IV, IV, IV, IV],
    ],
];

/// Before the window is looked at.
enum Before {
    Done(Step),
    Window(TcpState),
    /// The window does not matter.
    Skip(TcpState),
}

impl Tcp {
    /// `nf_conntrack_tcp_packet`, without the checks of the header and of a first segment.
    pub(in super::super) fn packet(&mut self, segment: &Segment, about: &About) -> Step {
        let from = usize::from(about.reply);
        let set = Set::of(segment);
        let mut old = self.state;
        let state = match TRANSITIONS[from][set as usize][old as usize] {
            Next::Invalid => return Step::Invalid { timeout: None },
            Next::Ignore => match self.ignored(segment, from, set, old) {
                None => return PASS,
                Some(state) => {
                    old = TcpState::SynSent;
                    Before::Window(state)
                }
            },
            Next::To(TcpState::SynSent) if old >= TcpState::TimeWait => {
                let closed = (self.flags[0] | self.flags[1]) & flag::CLOSE_INIT != 0;
                if closed || self.last_direction() == from && self.last_was(Set::Rst) {
                    return Step::Reopen;
                }
                match self.ignored(segment, from, set, old) {
                    None => return PASS,
                    Some(state) => Before::Window(state),
                }
            }
            Next::To(state) => self.consider(state, segment, from, set, about),
        };
        let state = match state {
            Before::Done(step) => return step,
            Before::Skip(state) => state,
            Before::Window(state) => match self.in_window(segment, from, set, about.settings.tcp_be_liberal) {
                Window::Accept => state,
                Window::Ignore => return PASS,
                Window::Invalid => return self.out_of_window(from, set, about),
            },
        };
        self.enter(state, old, segment, from, set, about)
    }

    /// The cases of `nf_conntrack_tcp_packet` that look twice at where the table leads.
    fn consider(&mut self, state: TcpState, segment: &Segment, from: usize, set: Set, about: &About) -> Before {
        match state {
            // RFC 5961: the answer to a SYN that came out of the blue does not acknowledge the last FIN.
            TcpState::TimeWait
                if self.state == TcpState::LastAck
                    && set == Set::Ack
                    && self.last_direction() != from
                    && self.last_was(Set::Syn)
                    && self.last_flags & flag::EXP_CHALLENGE_ACK != 0 =>
            {
                self.last_flags &= !flag::EXP_CHALLENGE_ACK;
                Before::Done(PASS)
            }
            TcpState::SynSent2 => {
                self.last_flags |= flag::SIMULTANEOUS_OPEN;
                Before::Window(state)
            }
            TcpState::SynRecv if from == 1 && set == Set::Ack && self.last_flags & flag::SIMULTANEOUS_OPEN != 0 => {
                Before::Window(TcpState::Established)
            }
            TcpState::Close if set == Set::Rst => self.reset(segment, from, about),
            _ => Before::Window(state),
        }
    }

    /// A RST: may it close the connection?
    fn reset(&mut self, segment: &Segment, from: usize, about: &About) -> Before {
        let old = self.state;
        // `tcp_can_early_drop`: the tuple may be in use again, and what is known of windows be old.
        if matches!(
            old,
            TcpState::FinWait | TcpState::LastAck | TcpState::TimeWait | TcpState::Close | TcpState::CloseWait
        ) {
            return Before::Skip(TcpState::Close);
        }
        let mut state = TcpState::Close;
        let to = 1 - from;
        if self.flags[to] & flag::MAXACK_SET != 0 && !self.last_was(Set::Syn) {
            let expected = self.sides[to].max_acknowledgement;
            // `nf_conntrack_tcp_established`
            let established = old == TcpState::Established && about.status & Connection::ASSURED != 0;
            if segment.sequence == 0 && !established {
                return Before::Window(state);
            }
            if before(segment.sequence, expected) && !about.settings.tcp_ignore_invalid_rst {
                return Before::Done(Step::Invalid { timeout: None });
            }
            if !established || segment.sequence == expected {
                return Before::Window(state);
            }
            // It ends what its sender sent just before.
            if self.last_was(Set::Ack) && self.last_direction() == from && segment.sequence == self.last_end {
                return Before::Window(state);
            }
            // Not exactly at the edge: the receiver may answer with a challenge ACK, and the connection go on.
            state = old;
        }
        // That the SYN must be the other side's is what Linux 6.18 does; older sources do not ask.
        let is_answer = self.last_was(Set::Syn) && self.last_direction() != from;
        let answered = about.status & Connection::SEEN_REPLY != 0 && is_answer;
        let half_open = about.status & Connection::ASSURED == 0 && self.last_was(Set::Ack);
        if (answered || half_open) && segment.acknowledgement == self.last_end {
            // The answer to a SYN or ACK that was let through without being understood.
            return Before::Skip(state);
        }
        if old == TcpState::SynSent
            && self.last_was(Set::Ack)
            && self.last_direction() == 1
            && segment.sequence == self.last_acknowledgement
        {
            // The answer to a challenge ACK.
            return Before::Skip(state);
        }
        Before::Window(state)
    }

    /// A segment that is noted and passes; `Some` if it shows that both sides are further on than we are.
    fn ignored(&mut self, segment: &Segment, from: usize, set: Set, old: TcpState) -> Option<TcpState> {
        if set == Set::SynAck
            && self.last_was(Set::Syn)
            && self.last_direction() != from
            && segment.acknowledgement == self.last_end
        {
            // It acknowledges a SYN that passed as ignored: what was noted of that is where they begin.
            let to = self.last_direction();
            let side = &mut self.sides[to];
            (side.end, side.max_end) = (self.last_end, self.last_end);
            side.max_window = u32::from(self.last_window).max(1);
            self.scale[to] = self.last_scale;
            self.last_flags &= !flag::EXP_CHALLENGE_ACK;
            self.flags[to] = self.last_flags;
            // `nf_ct_tcp_state_reset`
            self.sides[from] = Side::default();
            self.scale[from] = 0;
            self.flags[from] &= flag::BE_LIBERAL;
            return Some(TcpState::SynRecv);
        }
        self.keep_last(set, from);
        self.last_sequence = segment.sequence;
        self.last_end = segment.end();
        self.last_window = segment.window;
        if set == Set::Syn && from == 0 {
            self.last_flags = options(segment);
            self.last_scale = segment.window_scale.unwrap_or(0).min(14);
            if old == TcpState::LastAck {
                self.last_flags |= flag::EXP_CHALLENGE_ACK;
            }
        }
        if old == TcpState::SynSent && set == Set::Ack && from == 1 {
            self.last_acknowledgement = segment.acknowledgement;
        }
        None
    }

    /// `nf_tcp_handle_invalid`: a connection that is likely dead does not stay for days because its end was out of the window.
    fn out_of_window(&mut self, from: usize, set: Set, about: &About) -> Step {
        let mut timeout = None;
        if about.status & Connection::ASSURED != 0 && matches!(set, Set::Rst | Set::Fin) {
            let answers = self.last_direction() != from && (self.last_was(Set::Fin) || self.last_was(Set::Rst));
            let shorter = about.settings.tcp.unacknowledged;
            if !answers {
                self.keep_last(set, from);
            } else if about.left >= 120 && about.left > shorter.into() {
                timeout = Some(shorter);
            }
        }
        Step::Invalid { timeout }
    }

    /// From `in_window:` on.
    fn enter(
        &mut self,
        state: TcpState,
        old: TcpState,
        segment: &Segment,
        from: usize,
        set: Set,
        about: &About,
    ) -> Step {
        self.keep_last(set, from);
        self.state = state;
        if old != state && state == TcpState::FinWait {
            self.flags[from] |= flag::CLOSE_INIT;
        }
        let timeouts = &about.settings.tcp;
        let mut timeout = self.timeout(set, timeouts, about.settings.tcp_max_retrans);
        let mut assured = false;
        if about.status & Connection::SEEN_REPLY == 0 {
            // A RST as the only answer.
            if segment.has_rst() {
                return Step::Kill;
            }
            // A repeated SYN does not keep it alive, or one port in use again and again would for ever.
            if set == Set::Syn && old == TcpState::SynSent {
                return PASS;
            }
            if state == TcpState::Established {
                timeout = timeout.min(timeouts.unacknowledged);
            }
        } else if about.status & Connection::ASSURED == 0
            && matches!(old, TcpState::SynRecv | TcpState::Established)
            && state == TcpState::Established
        {
            assured = true;
        }
        Step::Accept { timeout: Some(timeout), assured }
    }

    fn timeout(&self, set: Set, timeouts: &TcpTimeouts, max_retransmissions: u8) -> u32 {
        let usual = timeouts.of(self.state);
        let unacknowledged = (self.flags[0] | self.flags[1]) & flag::DATA_UNACKNOWLEDGED != 0;
        if self.retransmissions >= max_retransmissions && usual > timeouts.max_retrans {
            timeouts.max_retrans
        } else if set == Set::Rst {
            timeouts.close
        } else if unacknowledged && usual > timeouts.unacknowledged {
            timeouts.unacknowledged
        } else if self.last_window == 0 && usual > timeouts.max_retrans {
            timeouts.max_retrans
        } else {
            usual
        }
    }

    pub(super) fn keep_last_direction(&mut self, from: usize) {
        self.last = self.last_set() | if from == 1 { LAST_REPLY } else { 0 };
    }
}

/// It belongs to the connection and changes nothing.
const PASS: Step = Step::Accept { timeout: None, assured: false };

impl TcpTimeouts {
    pub(in super::super) fn of(&self, state: TcpState) -> u32 {
        match state {
            // `tcp_timeouts` has none for the state that no connection is in.
            TcpState::None => 0,
            TcpState::SynSent | TcpState::SynSent2 => self.syn_sent,
            TcpState::SynRecv => self.syn_recv,
            TcpState::Established => self.established,
            TcpState::FinWait => self.fin_wait,
            TcpState::CloseWait => self.close_wait,
            TcpState::LastAck => self.last_ack,
            TcpState::TimeWait => self.time_wait,
            TcpState::Close => self.close,
        }
    }
}
