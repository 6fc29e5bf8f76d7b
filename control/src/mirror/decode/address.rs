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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::attributes::Request;

    fn message(fixed: [u8; FIXED], attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let request = Request::new(20, 0, &fixed);
        attributes.iter().fold(request, |request, (kind, value)| request.with(*kind, value)).finish(1)
    }

    #[test]
    fn the_far_end_of_a_link_and_what_its_flags_say() {
        // AF_INET, /32, IFA_F_SECONDARY, RT_SCOPE_LINK, interface 7.
        let fixed = [2, 32, 0x01, 253, 7, 0, 0, 0];
        let peer = message(fixed, &[(ADDRESS, &[192, 0, 2, 2]), (LOCAL, &[192, 0, 2, 1])]);
        let expected = KernelAddress {
            ifindex: Ifindex(7),
            local: [192, 0, 2, 1].into(),
            length: 32,
            address: [192, 0, 2, 2].into(),
            scope: 253,
            secondary: true,
            preferred: true,
        };
        assert_eq!(address(&peer), Ok(Some(expected)));
        let own = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        for (flags, is_preferred) in [(0x80u32, true), (0x201, true), (0x40, false), (0x20, false), (0x08, false)] {
            let six = message([10, 64, 0, 0, 7, 0, 0, 0], &[(ADDRESS, &own), (FLAGS, &flags.to_ne_bytes())]);
            let decoded = address(&six).unwrap().unwrap();
            assert_eq!((decoded.preferred, decoded.local), (is_preferred, decoded.address), "{flags:#x}");
        }
        assert!(address(&message([2, 33, 0, 0, 7, 0, 0, 0], &[(LOCAL, &[192, 0, 2, 1])])).is_err());
    }
}
