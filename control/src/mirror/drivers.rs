//! When a driver begins or ceases to take redirected frames: the group `mgmt` of the generic netlink family `netdev` tells of it
//! (`netdev_genl_dev_notify`), from Linux 6.3 on.

use std::io;

use netlink_packet_core::NLM_F_REQUEST;
use netlink_sys::protocols::NETLINK_GENERIC;

use super::attributes::{Attribute, HEADER, Request, attributes};
use super::netlink::{Dumper, Events, Heard};

/// `GENL_ID_CTRL` and what it knows (linux/genetlink.h).
const CONTROLLER: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_NAME: u16 = 2;
const GROUPS: u16 = 7;
const GROUP_NAME: u16 = 1;
const GROUP_ID: u16 = 2;
/// Length of `struct genlmsghdr`: command, version, two unused bytes.
const GENERIC_HEADER: usize = 4;

/// Room for events in bytes. They are few, and one that is lost is as good as one that is heard.
const ROOM: usize = 64 << 10;

/// News of what the drivers of this network namespace can do. Of what has changed it tells nothing: look.
pub struct Drivers(Option<Events>);

impl Drivers {
    /// Where the kernel does not tell there never are any.
    pub fn open() -> Drivers {
        Drivers(group("netdev", "mgmt").and_then(|group| Events::open(NETLINK_GENERIC, &[group], ROOM)).ok())
    }

    /// Waits for news. Cancel-safe.
    pub async fn changed(&mut self) {
        while let Some(events) = &mut self.0 {
            match events.heard().await {
                Ok(Heard::Datagram(_) | Heard::Lost) => return,
                Ok(Heard::Stranger) => {}
                Err(_) => self.0 = None,
            }
        }
        std::future::pending().await
    }
}

/// The number of a multicast group of a family.
fn group(family: &str, name: &str) -> io::Result<u32> {
    let named = [family.as_bytes(), &[0]].concat();
    let request = Request::new(CONTROLLER, NLM_F_REQUEST, &[GET_FAMILY, 1, 0, 0]).with(FAMILY_NAME, &named);
    let mut found = None;
    Dumper::open(NETLINK_GENERIC)?.ask(&request, &mut |message| {
        let answer = message.get(HEADER + GENERIC_HEADER..).unwrap_or_default();
        let groups = attributes(answer).flatten().filter(|attribute| attribute.kind == GROUPS);
        found = groups.flat_map(|groups| attributes(groups.value)).flatten().find_map(|group| number(group, name));
    })?;
    found.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}

/// Of one group, if it has this name.
fn number(group: Attribute<'_>, name: &str) -> Option<u32> {
    let of = |kind| attributes(group.value).flatten().find(|attribute| attribute.kind == kind);
    let is_it = of(GROUP_NAME)?.name().as_deref() == Some(name);
    if is_it { of(GROUP_ID)?.u32() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_families_are_known_by_name() {
        assert_eq!(group("nlctrl", "notify").ok(), Some(16), "GENL_ID_CTRL has the first group");
        assert!(group("nlctrl", "nonsense").is_err());
        assert!(group("nonsense", "notify").is_err());
    }
}
