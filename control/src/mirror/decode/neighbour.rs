//! The neighbour table from `RTM_NEWNEIGH` and `RTM_DELNEIGH` (`struct ndmsg`, `neigh_fill_info`).

use std::net::IpAddr;

use shunt_policy::{Family, Ifindex};

use super::{Undecodable, family, mac};
use crate::mirror::attributes::{HEADER, attributes};
use crate::mirror::view::KernelNeighbour;

/// Length of `struct ndmsg`.
const FIXED: usize = 12;

/// `NUD_*`
pub mod nud {
    pub const REACHABLE: u16 = 0x02;
    pub const STALE: u16 = 0x04;
    pub const DELAY: u16 = 0x08;
    pub const PROBE: u16 = 0x10;
    pub const NOARP: u16 = 0x40;
    pub const PERMANENT: u16 = 0x80;
}

/// `NTF_*` and, as they stand in `NDA_FLAGS_EXT`, `NTF_EXT_*`
pub mod ntf {
    pub const USE: u8 = 0x01;
    pub const PROXY: u8 = 0x08;
    pub const EXT_LEARNED: u8 = 0x10;
    pub const EXT_MANAGED: u32 = 0x01;
    /// Since Linux 6.17
    pub const EXT_VALIDATED: u32 = 0x04;
}

/// Attributes, `NDA_*`.
pub mod nda {
    pub const DST: u16 = 1;
    pub const LLADDR: u16 = 2;
    pub const FLAGS_EXT: u16 = 15;
}

/// An entry and where it stands.
pub type Entry = ((Ifindex, IpAddr), KernelNeighbour);

/// Decodes a whole message; `None` for proxies, for what has no address, and for bridges' tables.
///
/// # Errors
///
/// A message that is cut short or wrong in itself.
pub fn neighbour(message: &[u8]) -> Result<Option<Entry>, Undecodable> {
    decode(message).ok_or(Undecodable("neighbour"))
}

fn decode(message: &[u8]) -> Option<Option<Entry>> {
    let [of, _, _, _, a, b, c, d, low, high, flags, _] = *message.get(HEADER..)?.first_chunk::<FIXED>()?;
    let (ifindex, state) = (u32::from_ne_bytes([a, b, c, d]), u16::from_ne_bytes([low, high]));
    let Some(family) = family(of) else { return Some(None) };
    let (mut address, mut lladdr, mut left_alone) = (None, None, false);
    for attribute in attributes(&message[HEADER + FIXED..]) {
        let attribute = attribute?;
        match attribute.kind {
            nda::DST => address = Some(attribute.address().filter(|address| Family::of(*address) == family)?),
            // Of another length on what is not Ethernet; nothing of ours leaves there.
            nda::LLADDR => lladdr = mac(attribute.value),
            nda::FLAGS_EXT => left_alone = attribute.u32()? & (ntf::EXT_MANAGED | ntf::EXT_VALIDATED) != 0,
            _ => {}
        }
    }
    let Some(address) = address.filter(|_| flags & ntf::PROXY == 0) else { return Some(None) };
    // NUD_VALID: the states in which the kernel itself would send. To whom without ARP there may be no address.
    let resolved = nud::REACHABLE | nud::STALE | nud::DELAY | nud::PROBE | nud::PERMANENT;
    let neighbour = KernelNeighbour {
        mac: lladdr.filter(|_| state & resolved != 0),
        valid: state & (resolved | nud::NOARP) != 0,
        permanent: state & nud::PERMANENT != 0,
        ages: state & (nud::PERMANENT | nud::NOARP) == 0 && !left_alone,
        learned: flags & ntf::EXT_LEARNED != 0,
    };
    Some(Some(((Ifindex(ifindex), address), neighbour)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::attributes::Request;

    /// 198.51.100.1 on interface 2.
    fn entry(state: u16, lladdr: &[u8], flags_ext: u32) -> KernelNeighbour {
        let mut fixed = [0; FIXED];
        fixed[0] = libc::AF_INET as u8;
        fixed[4] = 2;
        fixed[8..10].copy_from_slice(&state.to_ne_bytes());
        let message = Request::new(28, 0, &fixed).with(nda::DST, &[198, 51, 100, 1]).with(nda::LLADDR, lladdr);
        let message = message.with(nda::FLAGS_EXT, &flags_ext.to_ne_bytes()).finish(0);
        neighbour(&message).unwrap().unwrap().1
    }

    #[test]
    fn an_entry_that_others_look_after_is_left_to_them() {
        let flags = [0, ntf::EXT_MANAGED, ntf::EXT_VALIDATED, 5];
        assert_eq!(flags.map(|flags| entry(nud::STALE, &[2; 6], flags).ages), [true, false, false, false]);
    }
}
