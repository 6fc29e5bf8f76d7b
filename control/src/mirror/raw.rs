//! A question to a part of the kernel that no library of ours decodes: is there an IPsec policy.

use std::io;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
use netlink_sys::protocols::NETLINK_XFRM;
use shunt_policy::Family;

use super::attributes::{HEADER, Request};
use super::netlink::Dumper;

/// `XFRM_MSG_GETPOLICY`
const GETPOLICY: u16 = 0x15;
/// Where `struct xfrm_userpolicy_info` has its selector's family: behind two addresses, four port words.
const POLICY_FAMILY: usize = 16 + 16 + 8;
const AF_INET: u8 = libc::AF_INET as u8;
const AF_INET6: u8 = libc::AF_INET6 as u8;

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
