//! How a packet's way ends. Each variant is, under one word, the counter, the metric and what `explain` prints.

use std::fmt;

use crate::config::Hook;
use crate::connection::Endpoint;
use crate::names::{Ifindex, Mac, Mark, PortId};
use crate::neighbour::NeighbourSlot;

/// Permission to send: which port, between which Ethernet addresses. Only this crate can make one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Egress {
    pub(crate) port: PortId,
    pub(crate) oif: Ifindex,
    pub(crate) source: Mac,
    pub(crate) destination: Mac,
    pub(crate) mark: Mark,
    pub(crate) tos: u8,
    pub(crate) ttl: u8,
    pub(crate) mss: Option<u16>,
    /// What translation has made of the packet's own source and destination.
    pub(crate) new_source: Option<Endpoint>,
    pub(crate) new_destination: Option<Endpoint>,
    pub(crate) neighbour: NeighbourSlot,
    pub(crate) longest: u32,
    pub(crate) takes_redirected: bool,
}

impl Egress {
    pub fn port(&self) -> PortId {
        self.port
    }

    pub fn oif(&self) -> Ifindex {
        self.oif
    }

    /// The egress interface's own address.
    pub fn source(&self) -> Mac {
        self.source
    }

    /// The next hop's address.
    pub fn destination(&self) -> Mac {
        self.destination
    }

    /// The mark by which the packet was routed, that of PREROUTING.
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// The TOS or traffic class byte with which the packet leaves.
    pub fn tos(&self) -> u8 {
        self.tos
    }

    /// The TTL or hop limit with which it leaves.
    pub fn ttl(&self) -> u8 {
        self.ttl
    }

    /// The MSS with which it leaves, if it is a TCP packet with that option.
    pub fn mss(&self) -> Option<u16> {
        self.mss
    }

    /// The source with which it leaves, if that was translated.
    pub fn new_source(&self) -> Option<Endpoint> {
        self.new_source
    }

    /// The destination with which it leaves, if that was translated.
    pub fn new_destination(&self) -> Option<Endpoint> {
        self.new_destination
    }

    /// Where to note that the next hop is in use.
    pub fn neighbour(&self) -> NeighbourSlot {
        self.neighbour
    }

    /// Longest IP packet in bytes that leaves by this route.
    pub fn longest(&self) -> u32 {
        self.longest
    }

    /// Drivers of other interfaces may hand frames to the egress.
    pub fn takes_redirected(&self) -> bool {
        self.takes_redirected
    }
}

/// Why a packet does not go onward by our hands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Stop {
    /// The kernel would drop it without a word, and so do we.
    Drop(DropReason),
    /// It goes to the kernel exactly as it came.
    Punt(PuntReason),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stop::Drop(reason) => write!(f, "drop: {}", reason.word()),
            Stop::Punt(reason) => write!(f, "punt: {}", reason.word()),
        }
    }
}

/// Declares one enum of reasons with its words and meanings, so that no variant can lack either.
macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $word:literal, $meaning:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum $name { $(#[doc = $meaning] $variant,)* }

        impl $name {
            /// In the order of their indices.
            pub const ALL: [$name; [$($name::$variant),*].len()] = [$($name::$variant),*];

            /// Place in a table of counters.
            pub fn index(self) -> usize {
                self as usize
            }

            /// Name of the counter, the metric label and the word in `explain`.
            pub fn word(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }

            /// One line for the operator.
            pub fn meaning(self) -> &'static str {
                match self { $($name::$variant => $meaning,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.word())
            }
        }
    };
}

reasons! {
    /// The packet ends here.
    DropReason {
        Truncated = "truncated", "the frame is shorter than its own headers say";
        BadHeader = "bad_header", "IP version, header length or header checksum is wrong";
        PreroutingDrop = "prerouting_drop", "a PREROUTING rule or chain policy says DROP";
        ForwardDrop = "forward_drop", "a FORWARD rule or chain policy says DROP";
        PostroutingDrop = "postrouting_drop", "a POSTROUTING rule or chain policy says DROP";
        BlackholeRule = "blackhole_rule", "an ip rule says blackhole";
        BlackholeRoute = "blackhole_route", "the route is a blackhole";
        NatExhausted = "nat_exhausted", "every tuple that the nat rule allows is taken";
        NatNoAddress = "nat_no_address", "the egress has no address to masquerade behind";
        NatMoved = "nat_moved", "a masqueraded connection would leave by another interface: it ends";
        Misfit = "misfit", "it does not fit its connection, and the kernel, to whom it would go, could not tell";
        ConntrackFull = "conntrack_full", "there are too many connections, and none that may be dropped early";
        HandoverFull = "handover_full", "the worker that owns the connection is behind";
        TransmitFull = "transmit_full", "the egress queue is full";
        PuntFull = "punt_full", "the kernel took no more punted frames";
    }
}

reasons! {
    /// A worker hands the packet to the kernel, which decides by the same rules.
    PuntReason {
        NotIp = "not_ip", "neither IPv4 nor IPv6";
        NotUnicast = "not_unicast", "a multicast, broadcast or reserved address";
        LinkLocal = "link_local", "an IPv6 link-local source or destination";
        Fragment = "fragment", "a fragment: the kernel reassembles where it must";
        Options = "options", "IPv4 options or IPv6 extension headers";
        TransportCut = "transport_cut", "too short for its TCP, UDP or ICMP header, or a malformed MSS option";
        ForeignIcmp = "foreign_icmp", "ICMPv6 in IPv4, or ICMP in IPv6";
        TtlExpired = "ttl_expired", "TTL or hop limit is used up: the kernel answers";
        Oversize = "oversize", "larger than the egress allows: the kernel fragments or answers";
        Local = "local", "addressed to this machine";
        SourceLocal = "source_local", "the source is an address of this machine";
        ReversePath = "reverse_path", "rp_filter has an objection";
        ForwardingOff = "forwarding_off", "the sysctl forwarding is off on the ingress";
        UnknownIngress = "unknown_ingress", "the interface is not in the mirror yet";
        MultipathInner = "multipath_inner", "the leg of a multipath route depends on headers inside of the packet";
        Redirect = "redirect", "it would leave by the interface it came in: the kernel may send a redirect";
        Redirected = "redirected", "the egress obeys ICMP redirects: the kernel alone knows the next hop";
        NoRoute = "no_route", "no rule and table has a route: the kernel answers";
        UnreachableRule = "unreachable_rule", "an ip rule says unreachable: the kernel answers";
        ProhibitRule = "prohibit_rule", "an ip rule says prohibit: the kernel answers";
        UnreachableRoute = "unreachable_route", "the route is unreachable: the kernel answers";
        ProhibitRoute = "prohibit_route", "the route is prohibited: the kernel answers";
        Neighbour = "neighbour", "the next hop's MAC is not known: the kernel resolves it";
        EgressDown = "egress_down", "the egress interface is down";
        EgressNotTaken = "egress_not_taken", "the egress is not one of our ports";
        EgressQdisc = "egress_qdisc", "the egress has a qdisc or filter of the operator's";
        OpaqueRule = "opaque_rule", "an ip rule that we do not mirror could match";
        OpaqueRoute = "opaque_route", "the route is of a kind that we do not mirror";
        OpaquePrerouting = "opaque_prerouting", "a PREROUTING rule that we do not mirror could match";
        OpaqueForward = "opaque_forward", "a FORWARD rule that we do not mirror could match";
        OpaquePostrouting = "opaque_postrouting", "a POSTROUTING rule that we do not mirror could match";
        Reject = "reject", "a rule says REJECT: the kernel answers";
        MssOption = "mss_option", "TCPMSS would add an option to the packet";
        ChainOrder = "chain_order", "chains of one priority disagree, and which one the kernel asks first cannot be seen";
        Conntrack = "conntrack", "a rule looks at connections, and the packet may belong to one that it could match";
        Nat = "nat", "a nat rule could match or has matched the connection";
        KernelConnection = "kernel_connection", "the connection is the kernel's: it began there, or a helper looks at it";
        Netdev = "netdev", "a chain on the interface itself or a flowtable could match";
        Xfrm = "xfrm", "an IPsec policy could match";
        Stale = "stale", "the mirror of the kernel's rules is older than its bound";
    }
}

impl PuntReason {
    /// A rule of this hook that is not mirrored.
    pub fn opaque_at(hook: Hook) -> Self {
        match hook {
            Hook::Prerouting => PuntReason::OpaquePrerouting,
            Hook::Forward => PuntReason::OpaqueForward,
            Hook::Postrouting => PuntReason::OpaquePostrouting,
        }
    }
}

impl DropReason {
    /// A rule of this hook.
    pub fn at(hook: Hook) -> Self {
        match hook {
            Hook::Prerouting => DropReason::PreroutingDrop,
            Hook::Forward => DropReason::ForwardDrop,
            Hook::Postrouting => DropReason::PostroutingDrop,
        }
    }
}

reasons! {
    /// The XDP program leaves the frame to the kernel before a worker sees it.
    PassReason {
        NotIp = "not_ip", "neither IPv4 nor IPv6: ARP, LLDP and the like";
        ForeignMac = "foreign_mac", "the frame is not addressed to the port's own MAC";
        Vlan = "vlan", "a VLAN tag";
        Malformed = "malformed", "too short or not what its EtherType says";
        Fragment = "fragment", "a fragment";
        Options = "options", "IPv4 options or IPv6 extension headers";
        TtlExpired = "ttl_expired", "TTL or hop limit is 1 or 0";
        Oversize = "oversize", "longer than the port's MTU: offloaded segments";
        NotUnicast = "not_unicast", "a multicast, broadcast or link-local address";
        Local = "local", "addressed to this machine";
        Standby = "standby", "the port is not served at the moment";
    }
}
