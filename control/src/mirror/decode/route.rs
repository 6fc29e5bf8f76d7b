//! Routes from `RTM_NEWROUTE` and `RTM_DELROUTE` (`struct rtmsg`, `fib_dump_info`, `rt6_fill_node`).

use std::net::IpAddr;

use shunt_policy::config::{Hops, Leg, Preference, Route, RouteKind};
use shunt_policy::{Dscp, Family, Ifindex, Prefix, TableId};

use super::{Undecodable, family};
use crate::mirror::attributes::{Attribute, HEADER, attributes};

/// Length of `struct rtmsg`.
pub const FIXED: usize = 12;
/// `RTM_F_CLONED`: an entry of a cache, not a route.
pub const CLONED: u32 = 0x200;
/// `RTNH_F_DEAD`
const DEAD: u8 = 1;
/// Length of `struct rtnexthop`.
const NEXTHOP: usize = 8;

/// Attributes, `RTA_*`.
pub mod rta {
    pub const DST: u16 = 1;
    pub const SRC: u16 = 2;
    pub const IIF: u16 = 3;
    pub const OIF: u16 = 4;
    pub const GATEWAY: u16 = 5;
    pub const PRIORITY: u16 = 6;
    pub const PREFSRC: u16 = 7;
    pub const METRICS: u16 = 8;
    pub const MULTIPATH: u16 = 9;
    pub const FLOW: u16 = 11;
    pub const CACHEINFO: u16 = 12;
    pub const TABLE: u16 = 15;
    pub const MARK: u16 = 16;
    pub const VIA: u16 = 18;
    pub const PREF: u16 = 20;
    pub const UID: u16 = 25;
    pub const ENCAP_TYPE: u16 = 21;
    pub const ENCAP: u16 = 22;
    pub const EXPIRES: u16 = 23;
    pub const PAD: u16 = 24;
    pub const IP_PROTO: u16 = 27;
    pub const SPORT: u16 = 28;
    pub const DPORT: u16 = 29;
    pub const NH_ID: u16 = 30;
    pub const FLOWLABEL: u16 = 31;
}

/// `RTAX_MTU`, among the metrics.
pub const RTAX_MTU: u16 = 2;

/// A route and where it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placed {
    pub table: TableId,
    pub prefix: Prefix,
    pub route: Route,
}

/// Decodes a whole message. `None` for what takes no part in look-ups of IPv4 and IPv6.
///
/// # Errors
///
/// A message that is cut short or wrong in itself. An attribute that we do not know makes the route opaque.
pub fn route(message: &[u8]) -> Result<Option<Placed>, Undecodable> {
    let fixed = message.get(HEADER..).and_then(<[u8]>::first_chunk::<FIXED>).ok_or(Undecodable("route"))?;
    let [of, length, source_length, tos, table, _protocol, _scope, kind, flags @ ..] = *fixed;
    let Some(family) = family(of) else { return Ok(None) };
    let flags = u32::from_ne_bytes(flags);
    if flags & CLONED != 0 {
        return Ok(None);
    }
    let mut parts = Parts { table: u32::from(table), ..Parts::new(family) };
    for attribute in attributes(&message[HEADER + FIXED..]) {
        let attribute = attribute.ok_or(Undecodable("route"))?;
        parts.take(&attribute, length).ok_or(Undecodable("route"))?;
    }
    if parts.prefix.length() != length {
        return Err(Undecodable("route"));
    }
    if source_length != 0 {
        // Asked before all others of the prefix, since it hides them from some sources.
        parts.opaque("source-specific");
        (parts.metric, parts.preference) = (0, Preference::High);
    }
    // Flags of the only next hop stand with the route's own.
    Ok(Some(parts.finish(kind, tos, flags & u32::from(DEAD) != 0)))
}

struct Parts {
    family: Family,
    table: u32,
    prefix: Prefix,
    metric: u32,
    preference: Preference,
    mtu: Option<u32>,
    oif: Option<Ifindex>,
    via: Option<IpAddr>,
    object: Option<u32>,
    legs: Vec<Leg>,
    opaque: Option<String>,
}

impl Parts {
    fn new(family: Family) -> Self {
        Parts {
            family,
            table: 0,
            prefix: Prefix::any(family),
            metric: 0,
            preference: Preference::Medium,
            mtu: None,
            oif: None,
            via: None,
            object: None,
            legs: Vec::new(),
            opaque: None,
        }
    }

    /// `None` if the value is not of the attribute's kind.
    fn take(&mut self, attribute: &Attribute<'_>, length: u8) -> Option<()> {
        match attribute.kind {
            rta::DST => {
                let address = attribute.address().filter(|address| Family::of(*address) == self.family)?;
                self.prefix = Prefix::new(address, length)?;
            }
            rta::TABLE => self.table = attribute.u32()?,
            rta::PRIORITY => self.metric = attribute.u32()?,
            rta::OIF => self.oif = Some(Ifindex(attribute.u32()?)),
            rta::GATEWAY => self.via = Some(attribute.address()?),
            rta::VIA => self.via = Some(via(attribute)?),
            rta::METRICS => {
                for metric in attributes(attribute.value) {
                    let metric = metric?;
                    if metric.kind == RTAX_MTU {
                        self.mtu = Some(metric.u32()?);
                    }
                }
            }
            rta::MULTIPATH => self.multipath(attribute.value)?,
            rta::NH_ID => self.object = Some(attribute.u32()?),
            rta::PREF => {
                self.preference = match attribute.u8()? {
                    1 => Preference::High,
                    3 => Preference::Low,
                    _ => Preference::Medium,
                };
            }
            rta::ENCAP | rta::ENCAP_TYPE => self.opaque("encapsulation"),
            rta::SRC => self.opaque("source-specific"),
            // The machine's own source address, realms (they classify only), age.
            rta::PREFSRC | rta::FLOW | rta::CACHEINFO | rta::EXPIRES | rta::PAD => {}
            unknown => self.opaque(&format!("attribute {unknown}")),
        }
        Some(())
    }

    fn opaque(&mut self, why: &str) {
        self.opaque.get_or_insert_with(|| why.to_owned());
    }

    /// `struct rtnexthop` each, with attributes behind it.
    fn multipath(&mut self, mut rest: &[u8]) -> Option<()> {
        while !rest.is_empty() {
            let [a, b, flags, weight, index @ ..] = *rest.first_chunk::<NEXTHOP>()?;
            let length = usize::from(u16::from_ne_bytes([a, b]));
            let mut via_address = None;
            for attribute in attributes(rest.get(NEXTHOP..length)?) {
                let attribute = attribute?;
                match attribute.kind {
                    rta::GATEWAY => via_address = Some(attribute.address()?),
                    rta::VIA => via_address = Some(via(&attribute)?),
                    rta::FLOW => {}
                    rta::ENCAP | rta::ENCAP_TYPE => self.opaque("encapsulation"),
                    unknown => self.opaque(&format!("attribute {unknown} of a next hop")),
                }
            }
            self.legs.push(Leg {
                oif: Ifindex(u32::from_ne_bytes(index)),
                via: via_address,
                // One less in the message.
                weight: u32::from(weight) + 1,
                dead: flags & DEAD != 0,
            });
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Some(())
    }

    fn finish(self, kind: u8, tos: u8, dead: bool) -> Placed {
        let Parts { family, table, prefix, metric, preference, mtu, oif, via, object, legs, opaque } = self;
        // A blackhole object makes its routes blackholes, but they are chosen as all routes by objects are (`__find_rr_leaf`).
        let by_object = object.filter(|_| matches!(kind, 1 | 6)).map(|id| RouteKind::Unicast(Hops::Object(id)));
        // RTN_*
        let kind = match (opaque, by_object, kind) {
            (Some(why), ..) => RouteKind::Opaque(why),
            (None, Some(by_object), _) => by_object,
            (None, None, 1) if !legs.is_empty() => RouteKind::Unicast(Hops::Legs(legs.into())),
            (None, None, 1) => match oif {
                Some(oif) => RouteKind::Unicast(Hops::Legs(Box::new([Leg { dead, ..Leg::new(oif, via) }]))),
                None => RouteKind::Opaque("no interface".to_owned()),
            },
            (None, _, 2) => RouteKind::Local(oif),
            (None, _, 3) => RouteKind::Broadcast(oif),
            (None, _, 4) => RouteKind::Anycast(oif),
            (None, _, 5) => RouteKind::Multicast(oif),
            (None, _, 6) => RouteKind::Blackhole,
            (None, _, 7) => RouteKind::Unreachable,
            (None, _, 8) => RouteKind::Prohibit,
            (None, _, 9) => RouteKind::Throw,
            (None, _, other) => RouteKind::Opaque(format!("type {other}")),
        };
        // Linux has no TOS routes in IPv6.
        let tos = if family == Family::V4 { Dscp::of_tos(tos) } else { Dscp::default() };
        Placed { table: TableId(table), prefix, route: Route { tos, metric, preference, mtu, kind } }
    }
}

/// `struct rtvia`: a family and an address of it.
pub fn via(attribute: &Attribute<'_>) -> Option<IpAddr> {
    let (_, value) = attribute.value.split_at_checked(2)?;
    Attribute { value, ..*attribute }.address()
}
