//! What connection tracking looks at: the tuple, TCP's numbers, the packet that an ICMP error quotes, and whether it is sound.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use shunt_policy::Transport;
use shunt_policy::connection::{Endpoint, Tuple};

use super::transport::{DCCP, ICMP, ICMPV6, SCTP, TCP, UDP, UDP_LITE};
use super::{ETHERNET, Packet, checksum, tcp, transport};
use crate::conn::seen::{Kind, Seen};

/// `NR_ICMP_TYPES`
const LAST_ICMP_TYPE: u8 = 18;

/// Length of an ICMP header in bytes; behind it stands what an error quotes.
pub(super) const ICMP_HEADER: usize = 8;

impl Packet {
    /// `checksum` asks for the transport checksum to be right (`nf_conntrack_checksum`); one that the sender left to its hardware is.
    /// `frame` is the one this was parsed from.
    pub fn seen(&self, frame: &[u8], checksum: bool) -> Seen {
        let payload = frame.get(ETHERNET + self.header..ETHERNET + self.length).unwrap_or_default();
        let tuple = self.tuple(payload);
        let kind = self.kind(payload, checksum).unwrap_or(Kind::Malformed);
        Seen { tuple, kind }
    }

    fn tuple(&self, payload: &[u8]) -> Tuple {
        let (source, destination) = match self.transport {
            Transport::Ports { source, destination } => (source, destination),
            Transport::Icmp { kind, code } => (word(payload, 4).unwrap_or_default(), u16::from_be_bytes([kind, code])),
            // AH and ESP have no key of their own (nf_conntrack_l4proto_generic).
            Transport::Spi(_) | Transport::Other => (0, 0),
        };
        Tuple {
            source: Endpoint { address: self.source, port: source },
            destination: Endpoint { address: self.destination, port: destination },
            protocol: self.protocol,
        }
    }

    /// `None` for what conntrack refuses.
    fn kind(&self, payload: &[u8], checksum: bool) -> Option<Kind> {
        match self.protocol {
            // tcp_error
            TCP => {
                let segment = tcp::segment(payload)?;
                let sound = (!checksum || self.sums_up(payload)) && has_valid_flags(segment.flags);
                sound.then_some(Kind::Tcp(segment))
            }
            // udp_error
            UDP => {
                let length = usize::from(word(payload, 4)?);
                let sound = (8..=payload.len()).contains(&length)
                    && (!checksum || word(payload, 6) == Some(0) || self.sums_up(payload));
                sound.then_some(Kind::Udp)
            }
            // udplite_error
            UDP_LITE => {
                let coverage = match usize::from(word(payload, 4)?) {
                    0 => payload.len(),
                    coverage => coverage,
                };
                let covered = payload.get(..coverage).filter(|covered| covered.len() >= 8)?;
                let sound = word(payload, 6)? != 0 && (!checksum || self.sum(covered, payload.len()) == 0xffff);
                sound.then_some(Kind::UdpLite)
            }
            ICMP => self.icmp(payload, checksum),
            ICMPV6 => self.icmpv6(payload, checksum),
            _ => Some(Kind::Other),
        }
    }

    /// `nf_conntrack_icmpv4_error`
    fn icmp(&self, payload: &[u8], checksum: bool) -> Option<Kind> {
        let sound = || checksum::fold(checksum::sum(payload)) == 0xffff;
        if checksum && !sound() {
            return None;
        }
        match payload.first()? {
            3 | 4 | 5 | 11 | 12 => {
                let about = quoted4(payload.get(ICMP_HEADER..)?)?;
                Some(Kind::IcmpError { about, sound: checksum || sound() })
            }
            ..=LAST_ICMP_TYPE => Some(Kind::Icmp),
            _ => None,
        }
    }

    /// `nf_conntrack_icmpv6_error`
    fn icmpv6(&self, payload: &[u8], checksum: bool) -> Option<Kind> {
        if checksum && !self.sums_up(payload) {
            return None;
        }
        match payload.first()? {
            ..128 => {
                let about = quoted6(payload.get(ICMP_HEADER..)?)?;
                Some(Kind::IcmpError { about, sound: checksum || self.sums_up(payload) })
            }
            // Listener queries, reports, done; router and neighbour solicitations and advertisements; listener reports of version 2.
            130..=136 | 143 => Some(Kind::Untracked),
            _ => Some(Kind::Icmp),
        }
    }

    /// The transport checksum is right, or yet to be computed.
    fn sums_up(&self, payload: &[u8]) -> bool {
        self.sum(payload, payload.len()) == 0xffff || transport::unfinished(self, payload).is_some()
    }

    /// The sum over pseudo-header and `covered`; `length` is that of all behind the IP header.
    fn sum(&self, covered: &[u8], length: usize) -> u16 {
        let addresses = address_sum(self.source) + address_sum(self.destination);
        checksum::fold(addresses + u64::from(self.protocol) + length as u64 + checksum::sum(covered))
    }
}

/// `tcp_valid_flags`: those that may stand together, PSH, ECE and CWR aside.
fn has_valid_flags(flags: u8) -> bool {
    const FIN: u8 = 0x01;
    const SYN: u8 = 0x02;
    const RST: u8 = 0x04;
    const ACK: u8 = 0x10;
    const URG: u8 = 0x20;
    let flags = flags & (FIN | SYN | RST | ACK | URG);
    match flags & !URG {
        SYN | ACK => true,
        both if both == FIN | ACK => true,
        // With URG neither.
        one if one == RST || one == RST | ACK || one == SYN | ACK => flags & URG == 0,
        _ => false,
    }
}

pub(super) fn address_sum(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => checksum::sum(&address.octets()),
        IpAddr::V6(address) => checksum::sum(&address.octets()),
    }
}

/// The tuple of the IPv4 packet at the start of `packet` (`nf_ct_get_tuplepr`).
fn quoted4(packet: &[u8]) -> Option<Tuple> {
    let header = packet.first_chunk::<20>()?;
    let ihl = usize::from(header[0] & 0x0f) * 4;
    let offset = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
    if header[0] >> 4 != 4 || ihl < 20 || offset != 0 {
        return None;
    }
    let address = |at: usize| -> Option<IpAddr> { Some(Ipv4Addr::from(*packet.get(at..)?.first_chunk::<4>()?).into()) };
    tuple_of(header[9], address(12)?, address(16)?, packet.get(ihl..)?)
}

/// The same of IPv6. Behind extension headers nothing is looked for: such a packet was the kernel's, and so is its connection.
fn quoted6(packet: &[u8]) -> Option<Tuple> {
    let header = packet.first_chunk::<40>()?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let address =
        |at: usize| -> Option<IpAddr> { Some(Ipv6Addr::from(*packet.get(at..)?.first_chunk::<16>()?).into()) };
    tuple_of(header[6], address(8)?, address(24)?, packet.get(40..)?)
}

/// `None` if too little of the transport header is there (`nf_ct_get_tuple`).
fn tuple_of(protocol: u8, source: IpAddr, destination: IpAddr, payload: &[u8]) -> Option<Tuple> {
    let (source_port, destination_port) = match protocol {
        TCP | UDP | UDP_LITE | SCTP | DCCP => {
            payload.first_chunk::<8>()?;
            (word(payload, 0)?, word(payload, 2)?)
        }
        ICMP | ICMPV6 => {
            payload.first_chunk::<8>()?;
            (word(payload, 4)?, word(payload, 0)?)
        }
        _ => (0, 0),
    };
    Some(Tuple {
        source: Endpoint { address: source, port: source_port },
        destination: Endpoint { address: destination, port: destination_port },
        protocol,
    })
}

/// The number at `at`, in host order.
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}
