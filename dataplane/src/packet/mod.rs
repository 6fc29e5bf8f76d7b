//! Reads what stands in a frame, and changes what forwarding changes. One file per header.

pub mod checksum;
mod ethernet;
mod ipv4;
mod ipv6;
mod offload;
mod sctp;
mod transport;

use std::net::IpAddr;

use shunt_policy::{DropReason, Family, Ifindex, Mac, Mark, PuntReason, Query, Stop, Transport};

pub use offload::{Offload, partial};

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
        let (family, packet) = ethernet::parse(frame)?;
        match family {
            Family::V4 => ipv4::parse(packet),
            Family::V6 => ipv6::parse(packet),
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
        }
    }

    /// The packet's part behind the IP header, in the frame it was parsed from.
    fn payload<'a>(&self, frame: &'a mut [u8]) -> Option<&'a mut [u8]> {
        frame.get_mut(ETHERNET + self.header..ETHERNET + self.length)
    }

    /// Makes the frame ready to leave: TTL, checksums, Ethernet addresses. Returns the length it leaves with, in
    /// bytes, which is without the padding it may have come with. `frame` is the one this was parsed from.
    pub fn rewrite(&self, frame: &mut [u8], source: Mac, destination: Mac) -> usize {
        match self.family() {
            Family::V4 => ipv4::decrement_ttl(frame),
            Family::V6 => ipv6::decrement_hop_limit(frame),
        }
        if let Some(payload) = self.payload(frame) {
            transport::complete(self, payload);
        }
        ethernet::address(frame, source, destination);
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
