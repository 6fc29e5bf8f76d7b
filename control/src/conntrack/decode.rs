//! What the kernel says of a connection, in a dump or in an event.

use netlink_packet_core::{NLM_F_CREATE, NetlinkBuffer};
use shunt_dataplane::conn::record::{Record, TcpRecord, TcpState};
use shunt_policy::Mark;
use shunt_policy::connection::Tuple;

use super::attributes::*;
use crate::mirror::attributes::{HEADER, attributes};

/// `IPS_*` of `linux/netfilter/nf_conntrack_common.h`, of which [`Connection`](shunt_policy::connection::Connection) has the others.
const IPS_EXPECTED: u32 = 1 << 0;
const IPS_SEQ_ADJUST: u32 = 1 << 6;
const IPS_FIXED_TIMEOUT: u32 = 1 << 10;
const IPS_HELPER: u32 = 1 << 13;
const IPS_OFFLOAD: u32 = 1 << 14;
const IPS_HW_OFFLOAD: u32 = 1 << 15;
/// A worker cannot go on with these: the kernel looks into the packets, numbers them anew, forwards them by a flow table, or lets the
/// connection end at a time that packets do not put off.
const KERNELS: u32 = IPS_EXPECTED | IPS_SEQ_ADJUST | IPS_FIXED_TIMEOUT | IPS_HELPER | IPS_OFFLOAD | IPS_HW_OFFLOAD;

/// One message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum News {
    Lives {
        told: Told,
        /// It has just begun (of events alone).
        new: bool,
    },
    Ended(Gone),
}

/// A connection as the message has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Told {
    pub record: Record,
    /// `CTA_ZONE`, or that of one direction.
    pub zone: u16,
    /// Who asked for what is told; 0 is the kernel itself.
    pub port: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Gone {
    pub original: Tuple,
    pub reply: Tuple,
    pub zone: u16,
    pub port: u32,
    /// Its time was over: `ctnetlink_dump_timeout` leaves a time-out of 0 away.
    pub run_out: bool,
}

/// `None` for what is no connection, or is cut short.
pub(super) fn news(message: &[u8]) -> Option<News> {
    let header = NetlinkBuffer::new_checked(message).ok()?;
    let (kind, port) = (header.message_type(), header.port_number());
    if kind != CT_NEW && kind != CT_DELETE {
        return None;
    }
    let new = header.flags() & NLM_F_CREATE != 0;
    // Behind struct nfgenmsg.
    let body = Body::read(message.get(HEADER + 4..)?)?;
    let ((original, zone), (reply, reply_zone)) = (body.original?, body.reply?);
    let zone = [body.zone, zone, reply_zone].into_iter().find(|zone| *zone != 0).unwrap_or(0);
    if kind == CT_DELETE {
        return Some(News::Ended(Gone { original, reply, zone, port, run_out: body.timeout.is_none() }));
    }
    let record = Record {
        original,
        reply,
        status: body.status?,
        mark: Mark(body.mark),
        // One that a flow table forwards shows none (ctnetlink_dump_info).
        timeout: body.timeout.unwrap_or(0),
        tcp: body.tcp,
        kernels: body.kernels || zone != 0 || body.status? & KERNELS != 0,
        masquerade: None,
    };
    Some(News::Lives { told: Told { record, zone, port }, new })
}

#[derive(Default)]
struct Body {
    original: Option<(Tuple, u16)>,
    reply: Option<(Tuple, u16)>,
    zone: u16,
    status: Option<u32>,
    /// Events leave a mark of 0 away (ctnetlink_dump_mark).
    mark: u32,
    timeout: Option<u32>,
    tcp: Option<TcpRecord>,
    kernels: bool,
}

impl Body {
    fn read(bytes: &[u8]) -> Option<Body> {
        let mut body = Body::default();
        for attribute in attributes(bytes) {
            let attribute = attribute?;
            match attribute.kind {
                CTA_TUPLE_ORIG => body.original = Some(tuple(attribute.value)?),
                CTA_TUPLE_REPLY => body.reply = Some(tuple(attribute.value)?),
                CTA_ZONE => body.zone = be16(&attribute)?,
                CTA_STATUS => body.status = Some(attribute.be32()?),
                CTA_MARK => body.mark = attribute.be32()?,
                CTA_TIMEOUT => body.timeout = Some(attribute.be32()?),
                CTA_PROTOINFO => body.tcp = protoinfo(attribute.value)?,
                CTA_HELP | CTA_TUPLE_MASTER | CTA_SEQ_ADJ_ORIG | CTA_SEQ_ADJ_REPLY => body.kernels = true,
                // All that ctnetlink has created have one, which says nothing (nfct_synproxy_ext_add).
                CTA_SYNPROXY => body.kernels |= attributes(attribute.value).flatten().any(|one| one.value != [0; 4]),
                _ => {}
            }
        }
        Some(body)
    }
}

/// `Some(None)` for another protocol than TCP, and for what a connection that has ended shows: its state alone.
fn protoinfo(nested: &[u8]) -> Option<Option<TcpRecord>> {
    for attribute in attributes(nested) {
        let attribute = attribute?;
        if attribute.kind == CTA_PROTOINFO_TCP {
            return tcp(attribute.value);
        }
    }
    Some(None)
}

fn tcp(nested: &[u8]) -> Option<Option<TcpRecord>> {
    let mut state = None;
    let mut record = TcpRecord { state: TcpState::None, scale: [0; 2], flags: [0; 2] };
    let mut ends = 0;
    for attribute in attributes(nested) {
        let attribute = attribute?;
        match attribute.kind {
            TCP_STATE => state = Some(tcp_state(attribute.u8()?)?),
            TCP_WSCALE_ORIGINAL => record.scale[0] = attribute.u8()?,
            TCP_WSCALE_REPLY => record.scale[1] = attribute.u8()?,
            // struct nf_ct_tcp_flags: flags and a mask, which is 0 here.
            TCP_FLAGS_ORIGINAL | TCP_FLAGS_REPLY => {
                let [flags, _] = attribute.value.try_into().ok()?;
                record.flags[usize::from(attribute.kind - TCP_FLAGS_ORIGINAL)] = flags;
                ends += 1;
            }
            _ => {}
        }
    }
    record.state = state?;
    Some((ends == 2).then_some(record))
}

fn tcp_state(number: u8) -> Option<TcpState> {
    Some(match number {
        0 => TcpState::None,
        1 => TcpState::SynSent,
        2 => TcpState::SynRecv,
        3 => TcpState::Established,
        4 => TcpState::FinWait,
        5 => TcpState::CloseWait,
        6 => TcpState::LastAck,
        7 => TcpState::TimeWait,
        8 => TcpState::Close,
        9 => TcpState::SynSent2,
        _ => return None,
    })
}
