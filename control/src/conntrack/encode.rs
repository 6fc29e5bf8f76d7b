//! What we ask of the kernel: all its connections, to have one of ours, to let it go.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST};
use shunt_dataplane::conn::record::{Record, TcpRecord};
use shunt_policy::connection::{Connection, Tuple};

use super::attributes::*;
use crate::mirror::attributes::{HEADER, Request};

/// `IP_CT_TCP_FLAG_BE_LIBERAL`
pub(super) const BE_LIBERAL: u8 = 0x08;
/// `IPS_SRC_NAT_DONE | IPS_DST_NAT_DONE`
const NAT_DONE: u32 = 1 << 7 | 1 << 8;
const CONFIRMED: u32 = Connection::CONFIRMED as u32;
/// What of a status can be told, besides: the rest is unchangeable (`IPS_UNCHANGEABLE_MASK`), or another's.
pub(super) const TELLABLE: u32 = (Connection::SEEN_REPLY | Connection::ASSURED) as u32;

/// For all connections of both families.
pub(super) fn dump() -> Request {
    Request::new(CT_GET, NLM_F_REQUEST | NLM_F_DUMP, &[libc::AF_UNSPEC as u8, 0, 0, 0])
}

/// Appends the request for a connection that the kernel has not. It is answered by an error alone.
pub(super) fn create(batch: &mut Vec<u8>, sequence: u32, record: &Record) {
    let Record { original, reply, status, mark, timeout, tcp, kernels: _, masquerade: _ } = record;
    // Exclusive: an existing one would be changed, whatever its other direction is.
    message(batch, (CT_NEW, NLM_F_CREATE | NLM_F_EXCL), sequence, original, |message| {
        message.tuple(CTA_TUPLE_ORIG, original);
        match original.inverse().filter(|inverse| inverse != reply || status & NAT_DONE != 0) {
            // The kernel sees what has to be translated from the difference between what the reply would be without translation
            // and the ranges (nf_nat_setup_info), so it is told the reply without. Both ends get a range of one element: without
            // one it would look for a free port (__nf_nat_alloc_null_binding), and not say that the tuple is taken.
            Some(inverse) => {
                message.tuple(CTA_TUPLE_REPLY, &inverse);
                message.nat(CTA_NAT_DST, reply.source, destination_port(reply));
                message.nat(CTA_NAT_SRC, reply.destination, source_port(reply));
            }
            None => message.tuple(CTA_TUPLE_REPLY, reply),
        }
        message.be32(CTA_STATUS, CONFIRMED | status & TELLABLE);
        message.be32(CTA_TIMEOUT, *timeout);
        message.be32(CTA_MARK, mark.0);
        if let Some(tcp) = tcp {
            message.tcp(tcp);
        }
    });
}

/// Appends the request that brings one up to date which the kernel has. Bits of the status can be set only, so what is set already has
/// to be in it; without it stays as it is.
pub(super) fn update(batch: &mut Vec<u8>, sequence: u32, record: &Record, status: Option<u32>) {
    let Record { original, reply: _, status: _, mark, timeout, tcp, kernels: _, masquerade: _ } = record;
    message(batch, (CT_NEW, 0), sequence, original, |message| {
        message.tuple(CTA_TUPLE_ORIG, original);
        if let Some(status) = status {
            message.be32(CTA_STATUS, CONFIRMED | status & TELLABLE);
        }
        message.be32(CTA_TIMEOUT, *timeout);
        message.be32(CTA_MARK, mark.0);
        if let Some(tcp) = tcp {
            message.tcp(tcp);
        }
    });
}

/// Appends the request that ends a connection.
pub(super) fn delete(batch: &mut Vec<u8>, sequence: u32, original: &Tuple) {
    message(batch, (CT_DELETE, 0), sequence, original, |message| message.tuple(CTA_TUPLE_ORIG, original));
}

fn message(
    batch: &mut Vec<u8>,
    (kind, flags): (u16, u16),
    sequence: u32,
    original: &Tuple,
    attributes: impl FnOnce(&mut Vec<u8>),
) {
    let start = batch.len();
    batch.extend([0; 4]);
    batch.extend(kind.to_ne_bytes());
    batch.extend((flags | NLM_F_REQUEST).to_ne_bytes());
    batch.extend(sequence.to_ne_bytes());
    batch.resize(start + HEADER, 0);
    let family = match original.source.address {
        IpAddr::V4(_) => libc::AF_INET,
        IpAddr::V6(_) => libc::AF_INET6,
    };
    // struct nfgenmsg
    batch.extend([family as u8, 0, 0, 0]);
    attributes(batch);
    let length = (batch.len() - start) as u32;
    batch[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

/// The port that DNAT writes; ICMP has none there.
fn destination_port(reply: &Tuple) -> Option<u16> {
    (!matches!(reply.protocol, ICMP | ICMPV6)).then_some(reply.source.port)
}

/// The port that SNAT writes; the identifier of ICMP, which is that of the source in both directions.
fn source_port(reply: &Tuple) -> Option<u16> {
    Some(match reply.protocol {
        ICMP | ICMPV6 => reply.source.port,
        _ => reply.destination.port,
    })
}

trait AppendTcp {
    fn tcp(&mut self, tcp: &TcpRecord);
}

impl AppendTcp for Vec<u8> {
    fn tcp(&mut self, tcp: &TcpRecord) {
        let TcpRecord { state, scale, flags } = tcp;
        self.nested(CTA_PROTOINFO, |message| {
            message.nested(CTA_PROTOINFO_TCP, |message| {
                message.attribute(TCP_STATE, &[*state as u8]);
                message.attribute(TCP_WSCALE_ORIGINAL, &[scale[0]]);
                message.attribute(TCP_WSCALE_REPLY, &[scale[1]]);
                // The kernel has seen no window of it. The mask says which of the flags are meant (nlattr_to_tcp).
                message.attribute(TCP_FLAGS_ORIGINAL, &[flags[0] | BE_LIBERAL, u8::MAX]);
                message.attribute(TCP_FLAGS_REPLY, &[flags[1] | BE_LIBERAL, u8::MAX]);
            });
        });
    }
}
