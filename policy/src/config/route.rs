//! Routes, next hops and nexthop objects.

use std::fmt;
use std::net::IpAddr;

use super::Link;
use crate::names::{Dscp, Ifindex, Prefix};

/// One route of a prefix. Which table and prefix it belongs to, [`Tables`](crate::tables::Tables) knows.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Route {
    /// IPv4 TOS routes only; 0 is "any".
    pub tos: Dscp,
    /// `RTA_PRIORITY`: lower is preferred.
    pub metric: u32,
    /// IPv6 router preference (RFC 4191), decides between routes of equal metric.
    pub preference: Preference,
    /// The route's own MTU in bytes, if it has one (`RTAX_MTU`).
    pub mtu: Option<u32>,
    pub kind: RouteKind,
}

impl Route {
    /// A route with nothing special about it.
    pub fn new(metric: u32, kind: RouteKind) -> Self {
        Route { tos: Dscp::default(), metric, preference: Preference::Medium, mtu: None, kind }
    }
}

/// In rising order of preference (`rt6_score_route`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Preference {
    Low,
    Medium,
    High,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum RouteKind {
    Unicast(Hops),
    /// The packet is for this machine; the interface is the address's.
    Local(Option<Ifindex>),
    Broadcast(Option<Ifindex>),
    Anycast(Option<Ifindex>),
    Multicast(Option<Ifindex>),
    Blackhole,
    Unreachable,
    Prohibit,
    /// On to the next rule.
    Throw,
    /// Encapsulation, unknown attributes: packets that end here are punted.
    Opaque(String),
}

impl RouteKind {
    /// The interface of a route whose packets are this machine's own.
    pub fn own_interface(&self) -> Option<Ifindex> {
        match self {
            RouteKind::Local(dev) | RouteKind::Broadcast(dev) | RouteKind::Anycast(dev) | RouteKind::Multicast(dev) => {
                *dev
            }
            _ => None,
        }
    }

    /// A packet whose source leads here is not a stranger's: the kernel calls it martian (`__fib_validate_source`).
    pub fn is_own(&self) -> bool {
        match self {
            RouteKind::Local(_) | RouteKind::Broadcast(_) | RouteKind::Anycast(_) | RouteKind::Multicast(_) => true,
            RouteKind::Unicast(_)
            | RouteKind::Blackhole
            | RouteKind::Unreachable
            | RouteKind::Prohibit
            | RouteKind::Throw
            | RouteKind::Opaque(_) => false,
        }
    }
}

/// Where a unicast route leads.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Hops {
    /// Next hops of the route's own, never none; more than one is a multipath route.
    Legs(Box<[Leg]>),
    /// A nexthop object (`nhid`).
    Object(u32),
}

impl Hops {
    pub fn one(oif: Ifindex, via: Option<IpAddr>) -> Self {
        Hops::Legs(Box::new([Leg::new(oif, via)]))
    }
}

/// One next hop.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Leg {
    pub oif: Ifindex,
    /// The gateway, of either family; `None` when the destination itself is on the link.
    pub via: Option<IpAddr>,
    /// From 1.
    pub weight: u32,
    /// `RTNH_F_DEAD`: the kernel passes it over.
    pub dead: bool,
}

impl Leg {
    pub fn new(oif: Ifindex, via: Option<IpAddr>) -> Self {
        Leg { oif, via, weight: 1, dead: false }
    }
}

/// An object of `ip nexthop`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NexthopObject {
    Leg(Leg),
    Blackhole,
    /// Members and their weights, in the kernel's order.
    Group(Vec<(u32, u32)>),
    /// A resilient group: the member that each bucket holds at present.
    Resilient {
        members: Vec<(u32, u32)>,
        buckets: Vec<u32>,
    },
    Opaque(String),
}

/// How flows are spread over the legs of multipath routes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Spreading {
    /// `net.ipv4.fib_multipath_hash_policy`
    pub policy4: HashPolicy,
    /// `net.ipv6.fib_multipath_hash_policy`
    pub policy6: HashPolicy,
    /// `net.ipv4.fib_multipath_hash_seed`; `None` if it is not set: the kernel's own is then not known to anybody.
    pub seed: Option<u32>,
    /// `net.ipv4.fib_multipath_use_neigh`
    pub use_neighbours: bool,
}

/// What of a packet decides its leg (`ip-sysctl.rst`, fib_multipath_hash_policy).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum HashPolicy {
    /// 0: addresses.
    #[default]
    L3,
    /// 1: addresses, protocol and ports.
    L4,
    /// 2: addresses, those inside of a tunnel if it is one.
    Inner,
    /// 3: the fields of `fib_multipath_hash_fields`.
    Custom(u32),
    /// One that we do not know.
    Unknown,
}

/// A route as `ip route` prints it, less what does not decide.
pub struct RouteText<'a> {
    pub prefix: Prefix,
    pub route: &'a Route,
    /// For the interfaces' names.
    pub links: &'a [Link],
}

impl RouteText<'_> {
    fn leg(&self, f: &mut fmt::Formatter<'_>, leg: &Leg) -> fmt::Result {
        match leg.via {
            Some(via) if (via.is_ipv4(), self.prefix.address().is_ipv4()) == (false, true) => {
                write!(f, " via inet6 {via}")?;
            }
            Some(via) => write!(f, " via {via}")?,
            None => {}
        }
        self.dev(f, leg.oif)?;
        if leg.dead { f.write_str(" dead") } else { Ok(()) }
    }

    fn dev(&self, f: &mut fmt::Formatter<'_>, oif: Ifindex) -> fmt::Result {
        match self.links.iter().find(|link| link.ifindex == oif) {
            Some(link) => write!(f, " dev {}", link.name),
            None => write!(f, " dev if{}", oif.0),
        }
    }
}

impl fmt::Display for RouteText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Route { tos, metric, preference: _, mtu, kind } = self.route;
        match kind {
            RouteKind::Unicast(_) => {}
            RouteKind::Local(_) => f.write_str("local ")?,
            RouteKind::Broadcast(_) => f.write_str("broadcast ")?,
            RouteKind::Anycast(_) => f.write_str("anycast ")?,
            RouteKind::Multicast(_) => f.write_str("multicast ")?,
            RouteKind::Blackhole => f.write_str("blackhole ")?,
            RouteKind::Unreachable => f.write_str("unreachable ")?,
            RouteKind::Prohibit => f.write_str("prohibit ")?,
            RouteKind::Throw => f.write_str("throw ")?,
            RouteKind::Opaque(why) => write!(f, "({why}) ")?,
        }
        write!(f, "{}", self.prefix.in_words())?;
        if *tos != Dscp::default() {
            write!(f, " tos {:#04x}", tos.bits())?;
        }
        match kind {
            RouteKind::Unicast(Hops::Object(id)) => write!(f, " nhid {id}")?,
            RouteKind::Unicast(Hops::Legs(legs)) => {
                for leg in legs {
                    if legs.len() > 1 {
                        f.write_str(" nexthop")?;
                    }
                    self.leg(f, leg)?;
                    if legs.len() > 1 {
                        write!(f, " weight {}", leg.weight)?;
                    }
                }
            }
            RouteKind::Local(dev) | RouteKind::Broadcast(dev) | RouteKind::Anycast(dev) | RouteKind::Multicast(dev) => {
                dev.map_or(Ok(()), |dev| self.dev(f, dev))?;
            }
            _ => {}
        }
        if *metric != 0 {
            write!(f, " metric {metric}")?;
        }
        mtu.map_or(Ok(()), |mtu| write!(f, " mtu {mtu}"))
    }
}
