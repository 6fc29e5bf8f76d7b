//! The facts of a packet that a rule may look at.

use std::net::IpAddr;

use crate::names::{Family, Ifindex, Mark};

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
    /// The mark with which the packet arrives; 0 for all that comes from a wire.
    pub mark: Mark,
    /// Length of the IP packet in bytes, headers included.
    pub length: u32,
}

impl Query {
    pub fn family(&self) -> Family {
        Family::of(self.destination)
    }
}

/// What stands behind the IP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// TCP, UDP, UDP-Lite, SCTP, DCCP: host order.
    Ports { source: u16, destination: u16 },
    /// ICMP for IPv4, ICMPv6 for IPv6.
    Icmp { kind: u8, code: u8 },
    /// Other protocols.
    Other,
}
