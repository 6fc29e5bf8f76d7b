//! The facts of a packet that a rule may look at.

use std::net::IpAddr;

use crate::names::{Family, Ifindex, Mac, Mark};

/// One packet, as PREROUTING sees it. Source and destination are of one family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Query {
    pub iif: Ifindex,
    pub source: IpAddr,
    pub destination: IpAddr,
    /// IP protocol, or the IPv6 next header behind no extension header.
    pub protocol: u8,
    pub transport: Transport,
    /// The whole TOS or traffic class byte.
    pub tos: u8,
    /// IPv6 flow label, 20 bits; 0 for IPv4.
    pub flow_label: u32,
    /// The mark with which the packet arrives; 0 for all that comes from a wire.
    pub mark: Mark,
    /// Length of the IP packet in bytes, headers included.
    pub length: u32,
    /// TTL or hop limit with which the packet arrives.
    pub ttl: u8,
    /// The byte of the TCP header with FIN (0x01) to CWR (0x80); 0 for all other protocols.
    pub tcp_flags: u8,
    /// Value of the MSS option of a TCP packet, in bytes.
    pub mss: Option<u16>,
    /// Source address of the frame.
    pub source_mac: Mac,
}

impl Query {
    pub fn family(&self) -> Family {
        Family::of(self.destination)
    }

    /// Source and destination port as `ip rule` and multipath hashing see them: the kernel's flow dissector takes the halves of
    /// an SPI for ports (`proto_ports_offset`), and 0 where there is nothing.
    pub fn dissected_ports(&self) -> (u16, u16) {
        match self.transport {
            Transport::Ports { source, destination } => (source, destination),
            Transport::Spi(spi) => ((spi >> 16) as u16, spi as u16),
            Transport::Icmp { .. } | Transport::Other => (0, 0),
        }
    }

    /// Carries a packet of its own that the flow dissector knows to look into: IPIP, 6in4, GRE, MPLS.
    pub fn is_encapsulation(&self) -> bool {
        matches!(self.protocol, 4 | 41 | 47 | 137)
    }

    /// An ICMP error, which quotes another packet (`icmp_is_err`, `icmpv6_is_err`).
    pub fn is_icmp_error(&self) -> bool {
        match (self.protocol, self.transport) {
            (1, Transport::Icmp { kind, .. }) => matches!(kind, 3 | 4 | 5 | 11 | 12),
            (58, Transport::Icmp { kind, .. }) => matches!(kind, 1..=4),
            _ => false,
        }
    }
}

/// What stands behind the IP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// TCP, UDP, UDP-Lite, SCTP, DCCP: host order.
    Ports { source: u16, destination: u16 },
    /// ICMP for IPv4, ICMPv6 for IPv6.
    Icmp { kind: u8, code: u8 },
    /// ESP and AH: the index of the security association.
    Spi(u32),
    /// Other protocols.
    Other,
}
