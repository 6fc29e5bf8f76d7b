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

/// `None` for other families.
///
/// # Errors
///
/// A message that is cut short or wrong in itself.
pub fn address(message: &[u8]) -> Result<Option<KernelAddress>, Undecodable> {
    decode(message).ok_or(Undecodable("address"))
}

fn decode(message: &[u8]) -> Option<Option<KernelAddress>> {
    let [of, length, _, _, index @ ..] = *message.get(HEADER..)?.first_chunk::<FIXED>()?;
    let Some(family) = family(of) else { return Some(None) };
    let (mut address, mut local) = (None, None);
    for attribute in attributes(&message[HEADER + FIXED..]) {
        let attribute = attribute?;
        match attribute.kind {
            ADDRESS => address = Some(attribute.address().filter(|address| Family::of(*address) == family)?),
            LOCAL => local = Some(attribute.address().filter(|address| Family::of(*address) == family)?),
            _ => {}
        }
    }
    Some(Some(KernelAddress { ifindex: Ifindex(u32::from_ne_bytes(index)), local: local.or(address)?, length }))
}
