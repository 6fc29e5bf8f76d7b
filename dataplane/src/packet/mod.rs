//! Reads what stands in a frame, and changes what forwarding changes. One file per header.

pub mod checksum;
mod ethernet;
mod ipv4;
mod ipv6;
mod offload;
mod sctp;
mod tcp;
mod transport;

use std::net::IpAddr;

use shunt_policy::{DropReason, Egress, Family, Ifindex, Mac, Mark, PuntReason, Query, Stop, Transport};

pub use offload::{Offload, partial};
pub use tcp::TcpFacts;

/// Length of an Ethernet header without a tag, in bytes.
pub const ETHERNET: usize = ethernet::LENGTH;

/// The facts of a frame that holds one whole unicast IP packet that may be forwarded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// IP protocol or IPv6 next header, behind no extension header.
    pub protocol: u8,
    pub transport: Transport,
    /// What rules may ask of a TCP header.
    pub tcp: TcpFacts,
    /// Source address of the frame.
    pub source_mac: Mac,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TOS or traffic class byte.
    pub tos: u8,
    /// IPv6 flow label, 20 bits; 0 for IPv4.
    pub flow_label: u32,
    /// Length of the IP header in bytes: 20 or 40.
    pub header: usize,
    /// Length of the IP packet in bytes, header included. The frame may be longer (padding), never shorter.
    pub length: usize,
}

impl Packet {
    /// Reads a frame from its Ethernet header on.
    ///
    /// # Errors
    ///
    /// `Drop` where the kernel drops without a word (`ip_rcv_core`, `ip6_rcv_core`), `Punt` where it does something
    /// else than forward, or looks at more than we do.
    pub fn parse(frame: &[u8]) -> Result<Packet, Stop> {
        let (family, source_mac, packet) = ethernet::parse(frame)?;
        match family {
            Family::V4 => ipv4::parse(packet, source_mac),
            Family::V6 => ipv6::parse(packet, source_mac),
        }
    }

    pub fn family(&self) -> Family {
        Family::of(self.destination)
    }

    /// What the policy is asked.
    pub fn query(&self, iif: Ifindex) -> Query {
        Query {
            iif,
            source: self.source,
            destination: self.destination,
            protocol: self.protocol,
            transport: self.transport,
            tos: self.tos,
            flow_label: self.flow_label,
            mark: Mark(0),
            length: self.length as u32,
            ttl: self.ttl,
            tcp_flags: self.tcp.flags,
            mss: self.tcp.mss,
            source_mac: self.source_mac,
        }
    }

    /// The packet's part behind the IP header, in the frame it was parsed from.
    fn payload<'a>(&self, frame: &'a mut [u8]) -> Option<&'a mut [u8]> {
        frame.get_mut(ETHERNET + self.header..ETHERNET + self.length)
    }

    /// Makes the frame ready to leave: TOS, TTL and MSS as rules have left them, checksums, Ethernet addresses. Returns the length
    /// it leaves with, in bytes, which is without the padding it may have come with. `frame` is the one this was parsed from.
    pub fn rewrite(&self, frame: &mut [u8], egress: &Egress) -> usize {
        match self.family() {
            Family::V4 => ipv4::rewrite(self, frame, egress),
            Family::V6 => ipv6::rewrite(self, frame, egress),
        }
        if let Some(payload) = self.payload(frame) {
            if let (Some(old), Some(new)) = (self.tcp.mss, egress.mss())
                && old != new
            {
                tcp::lower_mss(self, payload, old, new);
            }
            transport::complete(self, payload);
        }
        ethernet::address(frame, egress.source(), egress.destination());
        ETHERNET + self.length
    }
}

const TRUNCATED: Stop = Stop::Drop(DropReason::Truncated);
const BAD_HEADER: Stop = Stop::Drop(DropReason::BadHeader);

const fn punt(reason: PuntReason) -> Stop {
    Stop::Punt(reason)
}

#[cfg(test)]
mod tests;
