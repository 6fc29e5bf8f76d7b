//! Two questions to parts of the kernel that no library of ours decodes: is a connection translated, is there an IPsec policy.

use std::io;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_XFRM};
use shunt_policy::Family;

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
const HEADER: usize = 16;
const AF_INET: u8 = libc::AF_INET as u8;
const AF_INET6: u8 = libc::AF_INET6 as u8;

/// Families in which conntrack has a connection whose addresses or ports it changes.
pub fn translated() -> io::Result<Vec<Family>> {
    let mut families = Vec::new();
    let Some(mut dumper) = open(NETLINK_NETFILTER)? else { return Ok(families) };
    for (family, number) in [(Family::V4, AF_INET), (Family::V6, AF_INET6)] {
        // struct nfgenmsg: family, version, resource id.
        let mut any = false;
        let asked = dumper.ask(request(CT_GET, &[number, 0, 0, 0]), &mut |_, message| any |= is_translated(message));
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
    let asked = dumper.ask(request(GETPOLICY, &[]), &mut |_, message| {
        let family = message.get(HEADER + POLICY_FAMILY..).and_then(|rest| rest.first_chunk::<2>());
        match family.map(|bytes| u16::from_ne_bytes(*bytes) as u8) {
            Some(AF_INET) => families.push(Family::V4),
            Some(AF_INET6) => families.push(Family::V6),
            // Unspecified or not understood: it could be either.
            _ => families.extend(Family::BOTH),
        }
    });
    match asked {
        Err(error) if !absent(&error) => return Err(error),
        _ => {}
    }
    families.sort();
    families.dedup();
    Ok(families)
}

/// `None` if the kernel has no such netlink protocol.
fn open(protocol: isize) -> io::Result<Option<Dumper>> {
    match Dumper::open(protocol) {
        Ok(dumper) => Ok(Some(dumper)),
        Err(error) if absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The kernel was built without it.
fn absent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::EINVAL | libc::ENOENT)
    )
}

/// `struct nlmsghdr` of a dump request; the sequence number is filled in when it is sent.
fn request(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = ((HEADER + payload.len()) as u32).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(payload);
    bytes
}

/// Looks for `CTA_STATUS` among the attributes behind `struct nfgenmsg`.
fn is_translated(message: &[u8]) -> bool {
    let mut rest = message.get(HEADER + 4..).unwrap_or_default();
    while let Some([a, b, c, d]) = rest.first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([*a, *b]));
        // The upper bits flag nesting and byte order.
        let kind = u16::from_ne_bytes([*c, *d]) & 0x3fff;
        if kind == CTA_STATUS
            && let Some(status) = rest.get(4..8).and_then(|value| value.first_chunk::<4>())
        {
            return u32::from_be_bytes(*status) & TRANSLATED != 0;
        }
        if length < 4 {
            break;
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    false
}
