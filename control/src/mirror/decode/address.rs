//! Addresses of interfaces from `RTM_NEWADDR` (`struct ifaddrmsg`, `inet_fill_ifaddr`, `inet6_fill_ifaddr`).

use shunt_policy::{Family, Ifindex};

use super::{Undecodable, family};
use crate::mirror::attributes::{HEADER, attributes};
use crate::mirror::view::KernelAddress;

/// Length of `struct ifaddrmsg`.
const FIXED: usize = 8;
/// `IFA_ADDRESS`: the address, or the far end's on a point-to-point link, where `IFA_LOCAL` is our own.
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
/// More bits than the header has room for.
const FLAGS: u16 = 8;
/// `IFA_F_SECONDARY`, `IFA_F_TEMPORARY`
const SECONDARY: u32 = 0x01;
/// `IFA_F_DADFAILED`, `IFA_F_DEPRECATED`, `IFA_F_TENTATIVE`
const NOT_PREFERRED: u32 = 0x08 | 0x20 | 0x40;

/// `None` for other families.
///
/// # Errors
///
/// A message that is cut short or wrong in itself.
pub fn address(message: &[u8]) -> Result<Option<KernelAddress>, Undecodable> {
    decode(message).ok_or(Undecodable("address"))
}

fn decode(message: &[u8]) -> Option<Option<KernelAddress>> {
    let [of, length, flags, scope, index @ ..] = *message.get(HEADER..)?.first_chunk::<FIXED>()?;
    let Some(family) = family(of) else { return Some(None) };
    let (mut address, mut local, mut flags) = (None, None, u32::from(flags));
    for attribute in attributes(&message[HEADER + FIXED..]) {
        let attribute = attribute?;
        match attribute.kind {
            ADDRESS => address = Some(attribute.address().filter(|address| Family::of(*address) == family)?),
            LOCAL => local = Some(attribute.address().filter(|address| Family::of(*address) == family)?),
            FLAGS => flags = attribute.u32()?,
            _ => {}
        }
    }
    let local = local.or(address)?;
    Some(Some(KernelAddress {
        ifindex: Ifindex(u32::from_ne_bytes(index)),
        local,
        length: (length <= family.bits()).then_some(length)?,
        address: address.unwrap_or(local),
        scope,
        secondary: flags & SECONDARY != 0,
        preferred: family == Family::V4 || flags & NOT_PREFERRED == 0,
    }))
}
