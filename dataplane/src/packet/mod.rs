//! Reads what stands in a frame, and changes what forwarding changes. One file per header.

pub mod checksum;
mod ethernet;
mod ipv4;
mod ipv6;
mod offload;
mod sctp;
mod seen;
mod tcp;
mod translate;
mod transport;

use std::net::IpAddr;

use shunt_policy::{DropReason, Egress, Family, Ifindex, Mac, Mark, PuntReason, Query, Stop, Transport};

pub use offload::{Offload, partial};
pub use tcp::TcpFacts;
pub use translate::Ends;

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

    /// Makes the frame ready to leave: TOS, TTL, MSS and both ends as rules have left them, checksums, Ethernet addresses. `quoted` are the
    /// ends of the packet that an ICMP error quotes. Returns the length it leaves with, in bytes, which is without the padding it may
    /// have come with. `frame` is the one this was parsed from.
    pub fn rewrite(&self, frame: &mut [u8], egress: &Egress, quoted: &Ends) -> usize {
        match self.family() {
            Family::V4 => ipv4::rewrite(self, frame, egress),
            Family::V6 => ipv6::rewrite(self, frame, egress),
        }
        let unfinished = self.payload(frame).and_then(|payload| transport::unfinished(self, payload));
        if let (Some(old), Some(new), Some(payload)) = (self.tcp.mss, egress.mss(), self.payload(frame))
            && old != new
        {
            tcp::lower_mss(payload, unfinished.is_some(), old, new);
        }
        let ends = Ends { source: egress.new_source(), destination: egress.new_destination() };
        if let Some(packet) = frame.get_mut(ETHERNET..)
            && !(ends.is_none() && quoted.is_none())
        {
            translate::packet(self, packet, unfinished, &ends, quoted);
        }
        if let Some(payload) = self.payload(frame) {
            transport::complete(self, payload, unfinished);
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
