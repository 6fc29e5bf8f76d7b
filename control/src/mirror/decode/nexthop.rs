//! Nexthop objects from `RTM_NEWNEXTHOP` and the buckets of resilient groups from `RTM_NEWNEXTHOPBUCKET` (`nh_fill_node`,
//! `nh_fill_res_bucket`).

use shunt_policy::Ifindex;
use shunt_policy::config::{Leg, NexthopObject};

use super::Undecodable;
use crate::mirror::attributes::{Attribute, HEADER, attributes};

/// Length of `struct nhmsg`.
const FIXED: usize = 8;
/// `RTNH_F_DEAD`
const DEAD: u32 = 1;

/// Attributes, `NHA_*`.
mod nha {
    pub(super) const ID: u16 = 1;
    pub(super) const GROUP: u16 = 2;
    pub(super) const GROUP_TYPE: u16 = 3;
    pub(super) const BLACKHOLE: u16 = 4;
    pub(super) const OIF: u16 = 5;
    pub(super) const GATEWAY: u16 = 6;
    pub(super) const RES_GROUP: u16 = 12;
    pub(super) const RES_BUCKET: u16 = 13;
    pub(super) const OP_FLAGS: u16 = 14;
    pub(super) const GROUP_STATS: u16 = 15;
    pub(super) const HW_STATS_ENABLE: u16 = 16;
    pub(super) const HW_STATS_USED: u16 = 17;
}

/// An object and its id. A resilient group comes without buckets.
///
/// # Errors
///
/// A message that is cut short or wrong in itself. An attribute that we do not know makes the object opaque.
pub fn nexthop(message: &[u8]) -> Result<(u32, NexthopObject), Undecodable> {
    decode(message).ok_or(Undecodable("nexthop"))
}

fn decode(message: &[u8]) -> Option<(u32, NexthopObject)> {
    let [_, _, _, _, flags @ ..] = *message.get(HEADER..)?.first_chunk::<FIXED>()?;
    let dead = u32::from_ne_bytes(flags) & DEAD != 0;
    let (mut id, mut oif, mut via, mut members, mut group_type) = (None, None, None, None, 0);
    let (mut blackhole, mut opaque) = (false, None);
    for attribute in attributes(&message[HEADER + FIXED..]) {
        let attribute = attribute?;
        match attribute.kind {
            nha::ID => id = Some(attribute.u32()?),
            nha::OIF => oif = Some(Ifindex(attribute.u32()?)),
            nha::GATEWAY => via = Some(attribute.address()?),
            nha::BLACKHOLE => blackhole = true,
            nha::GROUP => members = Some(group(&attribute)?),
            nha::GROUP_TYPE => group_type = attribute.u16()?,
            // Their timers and statistics.
            nha::RES_GROUP | nha::OP_FLAGS | nha::GROUP_STATS | nha::HW_STATS_ENABLE | nha::HW_STATS_USED => {}
            // Encapsulation, bridge entries, what is new.
            unknown => opaque = Some(format!("attribute {unknown} of a nexthop object")),
        }
    }
    // NEXTHOP_GRP_TYPE_MPATH, NEXTHOP_GRP_TYPE_RES
    let object = match (opaque, members, group_type, oif) {
        (Some(why), ..) => NexthopObject::Opaque(why),
        (None, Some(members), 0, _) => NexthopObject::Group(members),
        (None, Some(members), 1, _) => NexthopObject::Resilient { members, buckets: Vec::new() },
        (None, Some(_), other, _) => NexthopObject::Opaque(format!("group of type {other}")),
        (None, None, ..) if blackhole => NexthopObject::Blackhole,
        (None, None, _, Some(oif)) => NexthopObject::Leg(Leg { dead, ..Leg::new(oif, via) }),
        (None, None, _, None) => NexthopObject::Opaque("no interface".to_owned()),
    };
    Some((id?, object))
}

/// `struct nexthop_grp` each: id, weight less one (two bytes since Linux 6.12), reserved.
fn group(attribute: &Attribute<'_>) -> Option<Vec<(u32, u32)>> {
    let (members, rest) = attribute.value.as_chunks::<8>();
    let member = |[a, b, c, d, low, high, ..]: &[u8; 8]| {
        (u32::from_ne_bytes([*a, *b, *c, *d]), u32::from(u16::from_le_bytes([*low, *high])) + 1)
    };
    rest.is_empty().then(|| members.iter().map(member).collect())
}

/// Which member a bucket of a resilient group holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bucket {
    pub group: u32,
    pub index: u16,
    pub member: u32,
}

/// # Errors
///
/// A message that is cut short or wrong in itself.
pub fn bucket(message: &[u8]) -> Result<Bucket, Undecodable> {
    decode_bucket(message).ok_or(Undecodable("nexthop bucket"))
}

fn decode_bucket(message: &[u8]) -> Option<Bucket> {
    /// `NHA_RES_BUCKET_*`
    const INDEX: u16 = 1;
    const MEMBER: u16 = 3;
    let (mut group, mut index, mut member) = (None, None, None);
    for attribute in attributes(message.get(HEADER + FIXED..)?) {
        let attribute = attribute?;
        match attribute.kind {
            nha::ID => group = Some(attribute.u32()?),
            nha::RES_BUCKET => {
                for inner in attributes(attribute.value) {
                    let inner = inner?;
                    match inner.kind {
                        INDEX => index = Some(inner.u16()?),
                        MEMBER => member = Some(inner.u32()?),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(Bucket { group: group?, index: index?, member: member? })
}
