//! Packets to the byte, with everything that can be wrong with one.

use std::fmt;
use std::net::IpAddr;

/// A packet that is sent into both routers. `frame` makes the bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    /// The router's port that it arrives at.
    pub port: usize,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub tos: u8,
    pub ttl: u8,
    /// IPv6 only, 20 bits.
    pub flow_label: u32,
    /// IPv4 only.
    pub dont_fragment: bool,
    pub body: Body,
    /// TCP only: FIN 0x01, SYN 0x02, RST 0x04, PSH 0x08, ACK 0x10, URG 0x20, ECE 0x40, CWR 0x80.
    pub tcp_flags: u8,
    /// TCP only.
    pub tcp_options: Vec<u8>,
    /// Number of the host whose MAC the frame comes from.
    pub sender: u8,
    /// Bytes behind the transport header.
    pub fill: usize,
    pub twist: Twist,
}

/// What stands behind the IP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Body {
    Udp(u16, u16),
    UdpLite(u16, u16),
    Tcp(u16, u16),
    Sctp(u16, u16),
    /// ICMP or ICMPv6 by the family: type and code.
    Icmp(u8, u8),
    /// The same with a quoted UDP packet from the packet's destination to this address.
    IcmpError(u8, u8, IpAddr),
    /// A router's word that packets to this address may have so many bytes, with a quoted echo reply from the packet's destination (`icmp_err`).
    TooBig(u16, IpAddr),
    Esp(u32),
    /// A UDP packet from the first to the second address in this protocol: 4 or 41, or behind a GRE header 47.
    Inside(u8, IpAddr, IpAddr),
    /// Any other protocol.
    Other(u8),
}

/// What is unusual about the frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Twist {
    None,
    /// Junk behind the IP packet.
    Padding(usize),
    /// Destination address of the frame.
    To([u8; 6]),
    /// Flips a bit of the IPv4 header checksum.
    HeaderSum,
    /// Flips a bit of the TCP or UDP checksum.
    BodySum,
    /// IP version.
    Version(u8),
    /// Header length in words (IPv4), without more bytes.
    HeaderLength(u8),
    /// Added to the length field, which then lies.
    Length(i16),
    /// The frame is cut to so many bytes.
    Cut(usize),
    /// IPv4 options, or an IPv6 extension header of this protocol without content.
    Options(Vec<u8>),
    Extension(u8),
    /// Offset in units of eight bytes, more fragments.
    Fragment(u16, bool),
    /// A VLAN tag.
    Tagged(u16),
    /// Another EtherType.
    EtherType(u16),
}

/// Marks the payload, so that what comes out can be told apart.
pub(super) const MAGIC: [u8; 4] = *b"TwIn";

impl Packet {
    /// An ordinary UDP packet. Panics if an address makes no sense: tests are written by hand.
    pub fn udp(port: usize, source: &str, destination: &str) -> Packet {
        let address = |text: &str| text.parse().unwrap_or_else(|_| panic!("{text} is no address"));
        Packet {
            port,
            source: address(source),
            destination: address(destination),
            tos: 0,
            ttl: 64,
            flow_label: 0,
            dont_fragment: false,
            body: Body::Udp(4000, 9),
            tcp_flags: 0x10,
            tcp_options: Vec::new(),
            sender: 0x0f,
            fill: 24,
            twist: Twist::None,
        }
    }

    pub fn tos(self, tos: u8) -> Packet {
        Packet { tos, ..self }
    }

    pub fn ttl(self, ttl: u8) -> Packet {
        Packet { ttl, ..self }
    }

    pub fn body(self, body: Body) -> Packet {
        Packet { body, ..self }
    }

    /// A TCP SYN with an MSS option.
    pub fn syn(self, ports: (u16, u16), mss: u16) -> Packet {
        let [high, low] = mss.to_be_bytes();
        Packet { body: Body::Tcp(ports.0, ports.1), tcp_flags: 0x02, tcp_options: vec![2, 4, high, low], ..self }
    }

    pub fn twist(self, twist: Twist) -> Packet {
        Packet { twist, ..self }
    }

    pub fn fill(self, fill: usize) -> Packet {
        Packet { fill, ..self }
    }

    /// The frame. `tag` comes back in [`tag`] of whatever is made of it.
    pub fn frame(&self, tag: u32) -> Vec<u8> {
        let protocol = self.protocol();
        let mut body = self.body_bytes(tag);
        if self.twist == Twist::BodySum && body.len() > 17 {
            let at = if protocol == 6 { 16 } else { 6 };
            body[at] ^= 0x10;
        }
        let mut frame = Vec::with_capacity(body.len() + 64);
        frame.extend(match self.twist {
            Twist::To(mac) => mac,
            _ => router_mac(self.port),
        });
        frame.extend(far_mac(self.port, self.sender));
        if let Twist::Tagged(id) = self.twist {
            frame.extend([0x81, 0x00]);
            frame.extend(id.to_be_bytes());
        }
        let ethertype = match (&self.twist, self.source.is_ipv4()) {
            (Twist::EtherType(other), _) => *other,
            (_, true) => 0x0800,
            (_, false) => 0x86dd,
        };
        frame.extend(ethertype.to_be_bytes());
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                self.ipv4(&mut frame, (source.octets(), destination.octets()), protocol, &body, tag);
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                self.ipv6(&mut frame, (source.octets(), destination.octets()), protocol, &body, tag);
            }
            _ => panic!("two families in one packet: {self}"),
        }
        match self.twist {
            Twist::Padding(bytes) => frame.resize(frame.len() + bytes, 0xa5),
            Twist::Cut(bytes) => frame.truncate(bytes),
            _ => {}
        }
        frame
    }

    fn ipv4(
        &self,
        frame: &mut Vec<u8>,
        (source, destination): ([u8; 4], [u8; 4]),
        protocol: u8,
        body: &[u8],
        tag: u32,
    ) {
        let options: &[u8] = match &self.twist {
            Twist::Options(options) => options,
            _ => &[],
        };
        let words = 5 + options.len().div_ceil(4) as u8;
        let mut length = usize::from(words) * 4 + body.len();
        if let Twist::Length(more) = self.twist {
            length = length.saturating_add_signed(isize::from(more));
        }
        let fragment = match self.twist {
            Twist::Fragment(offset, more) => offset | u16::from(more) << 13,
            _ => u16::from(self.dont_fragment) << 14,
        };
        let version = if let Twist::Version(version) = self.twist { version } else { 4 };
        let mut header = vec![version << 4 | words, self.tos];
        if let Twist::HeaderLength(words) = self.twist {
            header[0] = 4 << 4 | words;
        }
        header.extend((length as u16).to_be_bytes());
        header.extend((tag as u16).to_be_bytes());
        header.extend(fragment.to_be_bytes());
        header.extend([self.ttl, protocol, 0, 0]);
        header.extend(source);
        header.extend(destination);
        header.extend(options);
        header.resize(usize::from(words) * 4, 0);
        let sum = checksum(&header, 0);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        if self.twist == Twist::HeaderSum {
            header[10] ^= 1;
        }
        frame.extend(header);
        frame.extend(body);
    }

    fn ipv6(
        &self,
        frame: &mut Vec<u8>,
        (source, destination): ([u8; 16], [u8; 16]),
        protocol: u8,
        body: &[u8],
        tag: u32,
    ) {
        let (next, extension): (u8, Vec<u8>) = match &self.twist {
            // Behind options and the like: a length of no further eight bytes, and PadN.
            Twist::Extension(44) => (44, vec![protocol, 0, 0, 0, 0, 0, 0, tag as u8]),
            Twist::Extension(kind) => (*kind, vec![protocol, 0, 1, 4, 0, 0, 0, 0]),
            Twist::Fragment(offset, more) => {
                let [a, b] = (offset << 3 | u16::from(*more)).to_be_bytes();
                (44, vec![protocol, 0, a, b, 0, 0, 0, tag as u8])
            }
            _ => (protocol, Vec::new()),
        };
        let mut length = extension.len() + body.len();
        if let Twist::Length(more) = self.twist {
            length = length.saturating_add_signed(isize::from(more));
        }
        let version = if let Twist::Version(version) = self.twist { version } else { 6 };
        let word = u32::from(version) << 28 | u32::from(self.tos) << 20 | self.flow_label;
        frame.extend(word.to_be_bytes());
        frame.extend((length as u16).to_be_bytes());
        frame.extend([next, self.ttl]);
        frame.extend(source);
        frame.extend(destination);
        frame.extend(extension);
        frame.extend(body);
    }

    /// IP protocol, or the next header behind all others.
    pub fn protocol(&self) -> u8 {
        match self.body {
            Body::Udp(..) => 17,
            Body::UdpLite(..) => 136,
            Body::Tcp(..) => 6,
            Body::Sctp(..) => 132,
            Body::Icmp(..) | Body::IcmpError(..) | Body::TooBig(..) if self.source.is_ipv6() => 58,
            Body::Icmp(..) | Body::IcmpError(..) | Body::TooBig(..) => 1,
            Body::Esp(_) => 50,
            Body::Inside(protocol, ..) | Body::Other(protocol) => protocol,
        }
    }

    /// Source and destination port; 0 where there are none.
    pub fn ports(&self) -> (u16, u16) {
        match self.body {
            Body::Udp(source, destination)
            | Body::UdpLite(source, destination)
            | Body::Tcp(source, destination)
            | Body::Sctp(source, destination) => (source, destination),
            Body::Icmp(..)
            | Body::IcmpError(..)
            | Body::TooBig(..)
            | Body::Esp(_)
            | Body::Inside(..)
            | Body::Other(_) => (0, 0),
        }
    }

    /// Everything behind the IP header.
    fn body_bytes(&self, tag: u32) -> Vec<u8> {
        let fill = fill(tag, self.fill);
        let protocol = self.protocol();
        let (source, destination) = self.ports();
        let ports = [source.to_be_bytes(), destination.to_be_bytes()].concat();
        let (mut body, sum_at) = match self.body {
            Body::Udp(..) => return udp(self.source, self.destination, (source, destination), &fill),
            // Coverage 0 is the whole packet (RFC 3828).
            Body::UdpLite(..) => ([&ports[..], &[0, 0, 0, 0]].concat(), Some(6)),
            Body::Tcp(..) => {
                let words = 5 + self.tcp_options.len().div_ceil(4);
                let rest = [0, 0, 0, 1, 0, 0, 0, 1, (words as u8) << 4, self.tcp_flags, 0x20, 0, 0, 0, 0, 0];
                let mut header = [&ports[..], &rest, &self.tcp_options].concat();
                header.resize(words * 4, 0);
                (header, Some(16))
            }
            Body::Sctp(..) => ([&ports[..], &[0, 0, 0, 1, 1, 2, 3, 4]].concat(), None),
            Body::Icmp(kind, code) => (vec![kind, code, 0, 0, 0x12, 0x34, 0, 1], Some(2)),
            Body::IcmpError(kind, code, to) => {
                let inner = Packet { source: self.destination, destination: to, ..Packet::udp(0, "::", "::") };
                let quoted = inner.frame(tag).split_off(14);
                ([&[kind, code, 0, 0, 0, 0, 0, 0], &quoted[..]].concat(), Some(2))
            }
            Body::TooBig(mtu, to) => {
                let v6 = to.is_ipv6();
                let reply = Body::Icmp(if v6 { 129 } else { 0 }, 0);
                let inner =
                    Packet { source: self.destination, destination: to, ..Packet::udp(0, "::", "::") }.body(reply);
                let (kind, code) = if v6 { (2, 0) } else { (3, 4) };
                let [high, low] = mtu.to_be_bytes();
                ([&[kind, code, 0, 0, 0, 0, high, low], &inner.frame(tag).split_off(14)[..]].concat(), Some(2))
            }
            Body::Esp(spi) => ([&spi.to_be_bytes()[..], &[0, 0, 0, 9]].concat(), None),
            Body::Inside(_, from, to) => {
                let inner = Packet { source: from, destination: to, ..Packet::udp(0, "::", "::") };
                let start: &[u8] = match (protocol, from.is_ipv4()) {
                    (47, true) => &[0, 0, 0x08, 0x00],
                    (47, false) => &[0, 0, 0x86, 0xdd],
                    _ => &[],
                };
                ([start, &inner.frame(tag).split_off(14)].concat(), None)
            }
            Body::Other(_) => (Vec::new(), None),
        };
        body.extend(fill);
        if let Some(at) = sum_at {
            // ICMP for IPv4 knows no pseudo-header.
            let pseudo =
                if protocol == 1 { 0 } else { pseudo_sum(self.source, self.destination, protocol, body.len()) };
            let sum = checksum(&body, pseudo);
            body[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        body
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Packet { port, source, destination, tos, ttl, flow_label, dont_fragment, body, fill, twist, .. } = self;
        write!(f, "p{port} {source} -> {destination} {body:?} tos {tos:#04x} ttl {ttl} fill {fill}")?;
        if *flow_label != 0 {
            write!(f, " flowlabel {flow_label:#x}")?;
        }
        if *dont_fragment {
            f.write_str(" DF")?;
        }
        if let Body::Tcp(..) = body {
            write!(f, " flags {:#04x} options {:02x?}", self.tcp_flags, self.tcp_options)?;
        }
        if self.sender != 0x0f {
            write!(f, " mac {}", shunt_policy::Mac(far_mac(*port, self.sender)))?;
        }
        if *twist != Twist::None { write!(f, " {twist:?}") } else { Ok(()) }
    }
}

/// Address of a router's port. The same on both routers, so that frames can be compared whole.
pub fn router_mac(port: usize) -> [u8; 6] {
    [2, 0, 0, 0, 1, port as u8]
}

/// Address of a host behind a port.
pub fn far_mac(port: usize, host: u8) -> [u8; 6] {
    [2, 0, 0, 0, 2, (port as u8) << 4 | host]
}

/// The tag of the packet that a frame was, or that it quotes.
pub fn tag(frame: &[u8]) -> Option<u32> {
    let at = frame.windows(8).find(|window| window[..4] == MAGIC)?;
    Some(u32::from_be_bytes([at[4], at[5], at[6], at[7]]))
}

/// The first of the packets that a TCP reset, which quotes nothing, answers.
pub fn is_reset_of(frame: &[u8], packets: &[Packet]) -> Option<usize> {
    let sliced = etherparse::SlicedPacket::from_ethernet(frame).ok()?;
    let Some(etherparse::TransportSlice::Tcp(tcp)) = sliced.transport else { return None };
    let (source, destination): (IpAddr, IpAddr) = match sliced.net? {
        etherparse::NetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        etherparse::NetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        _ => return None,
    };
    let answers = |packet: &Packet| {
        (packet.source, packet.destination) == (destination, source)
            && packet.body == Body::Tcp(tcp.destination_port(), tcp.source_port())
    };
    if tcp.rst() { packets.iter().position(answers) } else { None }
}

/// A frame without what the kernel draws at random: `None` for what has nothing to do with forwarding (ARP, neighbour and
/// listener discovery), and the identification of ICMP errors and answers is zeroed.
pub fn comparable(mut frame: Vec<u8>) -> Option<Vec<u8>> {
    match frame.get(12..14)? {
        [0x08, 0x06] => None,
        [0x08, 0x00] => {
            let behind = 14 + usize::from(frame.get(14)? & 15) * 4;
            if frame.get(23) == Some(&1) && matches!(frame.get(behind), Some(0 | 3 | 5 | 11 | 12 | 14)) {
                frame[18..20].fill(0);
                frame[24..26].fill(0);
            }
            Some(frame)
        }
        // MLD has a hop-by-hop header before it.
        [0x86, 0xdd] => match (frame.get(20), frame.get(54)) {
            (Some(58), Some(130..=136)) | (Some(0), _) if tag(&frame).is_none() => None,
            _ => Some(frame),
        },
        _ => Some(frame),
    }
}

pub(super) fn fill(tag: u32, length: usize) -> Vec<u8> {
    let unit = [MAGIC, tag.to_be_bytes()].concat();
    unit.into_iter().cycle().take(length).collect()
}

pub(super) fn udp(source: IpAddr, destination: IpAddr, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let length = 8 + payload.len();
    let mut body = [ports.0.to_be_bytes(), ports.1.to_be_bytes(), (length as u16).to_be_bytes(), [0, 0]].concat();
    body.extend(payload);
    let sum = checksum(&body, pseudo_sum(source, destination, 17, length));
    body[6..8].copy_from_slice(&if sum == 0 { 0xffff } else { sum }.to_be_bytes());
    body
}

pub(super) fn words(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum()
}

pub(super) fn pseudo_sum(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> u32 {
    let of = |address: IpAddr| match address {
        IpAddr::V4(address) => words(&address.octets()),
        IpAddr::V6(address) => words(&address.octets()),
    };
    of(source) + of(destination) + u32::from(protocol) + length as u32
}

/// RFC 1071.
pub(super) fn checksum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = start + words(bytes);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By a parser that is not ours.
    #[test]
    fn frames_are_valid_unless_twisted() {
        for (source, destination) in [("192.0.2.1", "198.18.0.1"), ("2001:db8::1", "2001:db8::2")] {
            for body in [Body::Udp(1, 2), Body::Tcp(3, 4), Body::Icmp(if source.contains(':') { 128 } else { 8 }, 0)] {
                let frame = Packet::udp(0, source, destination).body(body).frame(7);
                assert_eq!(tag(&frame), Some(7));
                let sliced = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
                let transport = sliced.transport.unwrap();
                let net = sliced.net.unwrap();
                match (net, transport) {
                    (etherparse::NetSlice::Ipv4(ip), etherparse::TransportSlice::Udp(udp)) => {
                        let header = ip.header().to_header();
                        assert_eq!(header.calc_header_checksum(), header.header_checksum);
                        let sum = udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap();
                        assert_eq!(sum, udp.checksum());
                    }
                    (etherparse::NetSlice::Ipv6(ip), etherparse::TransportSlice::Tcp(tcp)) => {
                        let header = ip.header().to_header();
                        let sum = tcp.to_header().calc_checksum_ipv6(&header, tcp.payload()).unwrap();
                        assert_eq!(sum, tcp.checksum());
                    }
                    _ => {}
                }
            }
        }
    }
}
