//! Two questions to parts of the kernel that no library of ours decodes: is a connection translated, is there an IPsec policy.

use std::io;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_XFRM};
use shunt_policy::Family;

use super::attributes::{HEADER, Request, attributes};
use super::netlink::Dumper;

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET`
const CT_GET: u16 = 1 << 8 | 1;
/// `CTA_STATUS`, a big-endian word of `IPS_*` bits.
const CTA_STATUS: u16 = 3;
/// `IPS_SRC_NAT | IPS_DST_NAT`
const TRANSLATED: u32 = 1 << 4 | 1 << 5;
/// `XFRM_MSG_GETPOLICY`
const GETPOLICY: u16 = 0x15;
/// Where `struct xfrm_userpolicy_info` has its selector's family: behind two addresses, four port words.
const POLICY_FAMILY: usize = 16 + 16 + 8;
const AF_INET: u8 = libc::AF_INET as u8;
const AF_INET6: u8 = libc::AF_INET6 as u8;

/// Families in which conntrack has a connection whose addresses or ports it changes.
pub fn translated() -> io::Result<Vec<Family>> {
    let mut families = Vec::new();
    let Some(mut dumper) = open(NETLINK_NETFILTER)? else { return Ok(families) };
    for (family, number) in [(Family::V4, AF_INET), (Family::V6, AF_INET6)] {
        // struct nfgenmsg: family, version, resource id.
        let mut any = false;
        let asked = dumper.ask(&request(CT_GET, &[number, 0, 0, 0]), &mut |message| any |= is_translated(message));
        match asked {
            Ok(_) if any => families.push(family),
            Ok(_) => {}
            Err(error) if absent(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(families)
}

/// Families with IPsec policies.
pub fn xfrm() -> io::Result<Vec<Family>> {
    let mut families = Vec::new();
    let Some(mut dumper) = open(NETLINK_XFRM)? else { return Ok(families) };
    let asked =
        dumper.ask(&request(GETPOLICY, &[]), &mut |message| families.extend_from_slice(policy_families(message)));
    match asked {
        Err(error) if !absent(&error) => return Err(error),
        _ => {}
    }
    families.sort();
    families.dedup();
    Ok(families)
}

/// What a policy may apply to.
pub(super) fn policy_families(message: &[u8]) -> &'static [Family] {
    let family = message.get(HEADER + POLICY_FAMILY..).and_then(|rest| rest.first_chunk::<2>());
    match family.map(|bytes| u16::from_ne_bytes(*bytes) as u8) {
        Some(AF_INET) => &[Family::V4],
        Some(AF_INET6) => &[Family::V6],
        // Unspecified or not understood: it could be either.
        _ => &Family::BOTH,
    }
}

/// `None` if the kernel has no such netlink protocol.
pub(super) fn open(protocol: isize) -> io::Result<Option<Dumper>> {
    match Dumper::open(protocol) {
        Ok(dumper) => Ok(Some(dumper)),
        Err(error) if absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The kernel was built without it.
pub(super) fn absent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::EINVAL | libc::ENOENT)
    )
}

fn request(kind: u16, payload: &[u8]) -> Request {
    Request::new(kind, NLM_F_REQUEST | NLM_F_DUMP, payload)
}

/// Looks for `CTA_STATUS` among the attributes behind `struct nfgenmsg`. Every connection has one (`ctnetlink_fill_info`); one that
/// we cannot find may say anything.
pub(super) fn is_translated(message: &[u8]) -> bool {
    let mut all = attributes(message.get(HEADER + 4..).unwrap_or_default()).flatten();
    let status = all.find(|attribute| attribute.kind == CTA_STATUS).and_then(|attribute| attribute.be32());
    status.is_none_or(|status| status & TRANSLATED != 0)
}
