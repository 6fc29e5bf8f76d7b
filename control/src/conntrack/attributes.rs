//! What ctnetlink's messages are made of: `linux/netfilter/nfnetlink_conntrack.h`. Numbers are in network byte order in them.

use std::net::IpAddr;

use shunt_policy::connection::{Endpoint, Tuple};

use crate::mirror::attributes::{Attribute, attributes};

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_*`
pub(super) const CT_NEW: u16 = 1 << 8;
pub(super) const CT_GET: u16 = 1 << 8 | 1;
pub(super) const CT_DELETE: u16 = 1 << 8 | 2;

/// `enum ctattr_type`
pub(super) const CTA_TUPLE_ORIG: u16 = 1;
pub(super) const CTA_TUPLE_REPLY: u16 = 2;
pub(super) const CTA_STATUS: u16 = 3;
pub(super) const CTA_PROTOINFO: u16 = 4;
pub(super) const CTA_HELP: u16 = 5;
pub(super) const CTA_NAT_SRC: u16 = 6;
pub(super) const CTA_TIMEOUT: u16 = 7;
pub(super) const CTA_MARK: u16 = 8;
pub(super) const CTA_NAT_DST: u16 = 13;
pub(super) const CTA_TUPLE_MASTER: u16 = 14;
pub(super) const CTA_SEQ_ADJ_ORIG: u16 = 15;
pub(super) const CTA_SEQ_ADJ_REPLY: u16 = 16;
pub(super) const CTA_ZONE: u16 = 18;
pub(super) const CTA_SYNPROXY: u16 = 24;

/// `enum ctattr_tuple`
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_TUPLE_ZONE: u16 = 3;

/// `enum ctattr_ip`
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;

/// `enum ctattr_l4proto`; what ICMPv6 has follows what ICMP has, three further.
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTO_ICMP_ID: u16 = 4;
const CTA_PROTO_ICMPV6_ID: u16 = 7;

/// `enum ctattr_protoinfo`, `enum ctattr_protoinfo_tcp`
pub(super) const CTA_PROTOINFO_TCP: u16 = 1;
pub(super) const TCP_STATE: u16 = 1;
pub(super) const TCP_WSCALE_ORIGINAL: u16 = 2;
pub(super) const TCP_WSCALE_REPLY: u16 = 3;
pub(super) const TCP_FLAGS_ORIGINAL: u16 = 4;
pub(super) const TCP_FLAGS_REPLY: u16 = 5;

/// `enum ctattr_nat`, `enum ctattr_protonat`
const CTA_NAT_V4_MINIP: u16 = 1;
const CTA_NAT_PROTO: u16 = 3;
const CTA_NAT_V6_MINIP: u16 = 4;
const CTA_PROTONAT_PORT_MIN: u16 = 1;

const NLA_F_NESTED: u16 = 0x8000;

pub(super) const ICMP: u8 = libc::IPPROTO_ICMP as u8;
pub(super) const ICMPV6: u8 = libc::IPPROTO_ICMPV6 as u8;
pub(super) const TCP: u8 = libc::IPPROTO_TCP as u8;

/// A tuple, and the zone of its direction; 0 is none. `None` if something is missing or has another length.
pub(super) fn tuple(nested: &[u8]) -> Option<(Tuple, u16)> {
    let (mut ip, mut proto, mut zone) = (None, None, 0);
    for attribute in attributes(nested) {
        let attribute = attribute?;
        match attribute.kind {
            CTA_TUPLE_IP => ip = Some(addresses(attribute.value)?),
            CTA_TUPLE_PROTO => proto = Some(protocol(attribute.value)?),
            CTA_TUPLE_ZONE => zone = be16(&attribute)?,
            _ => {}
        }
    }
    let (source, destination) = ip?;
    let (protocol, ports) = proto?;
    let source = Endpoint { address: source, port: ports[0] };
    let destination = Endpoint { address: destination, port: ports[1] };
    Some((Tuple { source, destination, protocol }, zone))
}

fn addresses(nested: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let (mut source, mut destination) = (None, None);
    for attribute in attributes(nested) {
        let attribute = attribute?;
        match attribute.kind {
            CTA_IP_V4_SRC | CTA_IP_V6_SRC => source = Some(attribute.address()?),
            CTA_IP_V4_DST | CTA_IP_V6_DST => destination = Some(attribute.address()?),
            _ => {}
        }
    }
    match (source?, destination?) {
        pair @ ((IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_))) => Some(pair),
        _ => None,
    }
}

/// The protocol, and what stands for ports (see [`Tuple`]). Protocols of which the kernel shows none have 0.
fn protocol(nested: &[u8]) -> Option<(u8, [u16; 2])> {
    let (mut number, mut ports) = (None, [0; 2]);
    let mut icmp = [0; 2];
    for attribute in attributes(nested) {
        let attribute = attribute?;
        match attribute.kind {
            CTA_PROTO_NUM => number = Some(attribute.u8()?),
            CTA_PROTO_SRC_PORT | CTA_PROTO_ICMP_ID | CTA_PROTO_ICMPV6_ID => ports[0] = be16(&attribute)?,
            CTA_PROTO_DST_PORT => ports[1] = be16(&attribute)?,
            5 | 8 => icmp[0] = attribute.u8()?,
            6 | 9 => icmp[1] = attribute.u8()?,
            _ => {}
        }
    }
    let number = number?;
    if matches!(number, ICMP | ICMPV6) {
        ports[1] = u16::from_be_bytes(icmp);
    }
    Some((number, ports))
}

pub(super) fn be16(attribute: &Attribute<'_>) -> Option<u16> {
    attribute.value.try_into().ok().map(u16::from_be_bytes)
}

/// Attributes, appended to a message under construction.
pub(super) trait Append {
    fn attribute(&mut self, kind: u16, value: &[u8]);
    /// An attribute that has attributes inside.
    fn nested(&mut self, kind: u16, inside: impl FnOnce(&mut Self));

    fn be32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    fn tuple(&mut self, kind: u16, tuple: &Tuple);

    /// What an end of a connection becomes: this address, and this port unless the protocol has none there.
    fn nat(&mut self, kind: u16, end: Endpoint, port: Option<u16>);
}

impl Append for Vec<u8> {
    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.extend(((value.len() + 4) as u16).to_ne_bytes());
        self.extend(kind.to_ne_bytes());
        self.extend(value);
        self.resize(self.len().next_multiple_of(4), 0);
    }

    fn nested(&mut self, kind: u16, inside: impl FnOnce(&mut Self)) {
        let start = self.len();
        self.attribute(kind | NLA_F_NESTED, &[]);
        inside(self);
        let length = (self.len() - start) as u16;
        self[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    fn tuple(&mut self, kind: u16, tuple: &Tuple) {
        let Tuple { source, destination, protocol } = tuple;
        self.nested(kind, |message| {
            message.nested(CTA_TUPLE_IP, |message| {
                for (end, v4, v6) in
                    [(source, CTA_IP_V4_SRC, CTA_IP_V6_SRC), (destination, CTA_IP_V4_DST, CTA_IP_V6_DST)]
                {
                    match end.address {
                        IpAddr::V4(address) => message.attribute(v4, &address.octets()),
                        IpAddr::V6(address) => message.attribute(v6, &address.octets()),
                    }
                }
            });
            message.nested(CTA_TUPLE_PROTO, |message| {
                message.attribute(CTA_PROTO_NUM, &[*protocol]);
                let [kind, code] = destination.port.to_be_bytes();
                let icmp = match *protocol {
                    ICMP => CTA_PROTO_ICMP_ID,
                    ICMPV6 => CTA_PROTO_ICMPV6_ID,
                    // nf_ct_port_nlattr_to_tuple wants both; protocols without ports ignore them.
                    _ => {
                        message.attribute(CTA_PROTO_SRC_PORT, &source.port.to_be_bytes());
                        message.attribute(CTA_PROTO_DST_PORT, &destination.port.to_be_bytes());
                        return;
                    }
                };
                message.attribute(icmp, &source.port.to_be_bytes());
                message.attribute(icmp + 1, &[kind]);
                message.attribute(icmp + 2, &[code]);
            });
        });
    }

    fn nat(&mut self, kind: u16, end: Endpoint, port: Option<u16>) {
        self.nested(kind, |message| {
            // Without an upper end the range has one address (nf_nat_ipv4_nlattr_to_range), and one port.
            match end.address {
                IpAddr::V4(address) => message.attribute(CTA_NAT_V4_MINIP, &address.octets()),
                IpAddr::V6(address) => message.attribute(CTA_NAT_V6_MINIP, &address.octets()),
            }
            if let Some(port) = port {
                message.nested(CTA_NAT_PROTO, |message| {
                    message.attribute(CTA_PROTONAT_PORT_MIN, &port.to_be_bytes());
                });
            }
        });
    }
}
