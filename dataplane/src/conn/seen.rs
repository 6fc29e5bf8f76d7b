//! What connection tracking looks at in a packet.

use shunt_policy::connection::Tuple;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    pub tuple: Tuple,
    pub kind: Kind,
}

impl Seen {
    /// The tuple that the connection has to have to which the packet belongs; `None` if it belongs to none.
    pub fn wanted(&self) -> Option<Tuple> {
        match self.kind {
            Kind::Untracked | Kind::Malformed => None,
            Kind::IcmpError { about, .. } => about.inverse(),
            _ => Some(self.tuple),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Tcp(Segment),
    /// `payload` in bytes.
    Udp,
    UdpLite,
    /// SCTP, DCCP, GRE, ESP and all else that is told apart by its addresses, and by ports if it has them.
    Other,
    /// A query or an answer (echo, timestamp, ...), or what begins no connection (`nf_conntrack_invert_icmp_tuple`).
    Icmp,
    /// An ICMP error about a packet with this tuple, as it is quoted: of the packet that the sender of the error has seen. `tuple` is that of
    /// the outer packet. `sound` if its checksum is right, which is looked at even if nobody asks for it (`nf_nat_icmp_reply_translation`).
    IcmpError {
        about: Tuple,
        sound: bool,
    },
    /// A checksum, a length or a combination of flags is wrong (`tcp_error`, `udp_error`, `nf_conntrack_icmpv4_error`): of no connection.
    Malformed,
    /// Never tracked: neighbour discovery and multicast listener reports (`nf_conntrack_icmpv6_error`).
    Untracked,
}

/// What tracking looks at in a TCP segment. Host order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    pub sequence: u32,
    pub acknowledgement: u32,
    pub window: u16,
    /// From FIN (0x01) to CWR (0x80).
    pub flags: u8,
    /// Bytes of payload, without SYN and FIN.
    pub payload: u32,
    /// Of the options of a SYN (`tcp_options`).
    pub window_scale: Option<u8>,
    pub sack_permitted: bool,
    /// The highest right edge of a SACK option, if it has one (`tcp_sack`).
    pub sack: Option<u32>,
}
