//! `shunt mirror`: what we believe the kernel to hold, in the order and the words of `ip`. For the operator, and to be compared.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};
use shunt_policy::config::{Hops, Leg, Link, NexthopObject, Preference, Route, RouteKind, RouteText};
use shunt_policy::{Family, Ifindex, Prefix, TableId};

use crate::cli::MirrorArgs;
use crate::mirror::{KernelNeighbour, KernelView, LinkSysctls, Mirror, Neighbours};

/// Which part of it.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
pub struct Excerpt {
    pub json: bool,
    pub four: bool,
    pub six: bool,
    /// Routes of one table, by name or number.
    pub table: Option<String>,
}

impl From<&MirrorArgs> for Excerpt {
    fn from(args: &MirrorArgs) -> Self {
        Excerpt { json: args.ask.json, four: args.four, six: args.six, table: args.table.clone() }
    }
}

/// A copy that can be printed while the mirror goes on: a million routes take seconds.
pub struct Holdings {
    view: KernelView,
    neighbours: Neighbours,
    /// For the names.
    links: Arc<Vec<Link>>,
}

/// As JSON. Keys are those of `ip -j` where it has one.
#[derive(Serialize)]
struct Shown<'a> {
    links: Vec<ShownLink>,
    addresses: Vec<ShownAddress>,
    rules: Vec<ShownRule>,
    routes: ShownRoutes<'a>,
    nexthops: Vec<ShownNexthop>,
    neighbours: Vec<ShownNeighbour>,
    sysctls: ShownSysctls,
}

#[derive(Serialize)]
struct ShownLink {
    ifindex: u32,
    ifname: String,
    up: bool,
    carrier: bool,
    mtu: u32,
    group: u32,
    address: Option<String>,
    master: Option<String>,
}

#[derive(Serialize)]
struct ShownAddress {
    dev: String,
    local: IpAddr,
    prefixlen: u8,
}

#[derive(Serialize)]
struct ShownRule {
    family: &'static str,
    priority: u32,
    /// As `ip rule` prints it.
    text: String,
}

/// Made one by one as they are written: there may be a million.
struct ShownRoutes<'a> {
    names: Names<'a>,
    routes: Vec<(TableId, Prefix, &'a [Route])>,
}

impl Serialize for ShownRoutes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let each = self.routes.iter().flat_map(|(table, prefix, routes)| {
            routes.iter().map(move |route| shown_route(&self.names, *table, *prefix, route))
        });
        serializer.collect_seq(each)
    }
}

/// The routes of a prefix stand in the order in which the kernel asks them.
#[derive(Serialize)]
struct ShownRoute {
    family: &'static str,
    table: u32,
    #[serde(rename = "type")]
    kind: &'static str,
    dst: String,
    tos: u8,
    metric: u32,
    pref: &'static str,
    mtu: Option<u32>,
    dev: Option<String>,
    nhid: Option<u32>,
    nexthops: Vec<ShownHop>,
}

#[derive(Serialize)]
struct ShownHop {
    gateway: Option<IpAddr>,
    dev: String,
    weight: u32,
    dead: bool,
}

#[derive(Serialize)]
struct ShownNexthop {
    id: u32,
    #[serde(rename = "type")]
    kind: &'static str,
    nexthop: Option<ShownHop>,
    group: Vec<ShownMember>,
    /// Members of the buckets, in order.
    buckets: Vec<u32>,
}

#[derive(Serialize)]
struct ShownMember {
    id: u32,
    weight: u32,
}

#[derive(Serialize)]
struct ShownNeighbour {
    dst: IpAddr,
    dev: String,
    /// `null` while it is not resolved.
    lladdr: Option<String>,
    permanent: bool,
}

#[derive(Serialize)]
struct ShownSysctls {
    /// Interface, key, value in force: `all` included.
    links: Vec<(String, &'static str, u32)>,
    spreading: String,
    narrowest_path: Option<u32>,
}

impl Holdings {
    pub fn of(mirror: &Mirror, links: &Arc<Vec<Link>>) -> Self {
        Holdings { view: mirror.view().clone(), neighbours: mirror.neighbours().clone(), links: links.clone() }
    }

    /// For the terminal, or as JSON. Errors are for the operator.
    pub fn print(&self, excerpt: &Excerpt) -> Result<String, String> {
        let table = excerpt.table.as_deref().map(|name| self.table(name)).transpose()?;
        let wanted = |family: Family| match family {
            Family::V4 => !excerpt.six,
            Family::V6 => !excerpt.four,
        };
        match excerpt.json {
            true => serde_json::to_string(&self.shown(&wanted, table)).map_err(|error| error.to_string()),
            false => Ok(self.text(&wanted, table)),
        }
    }

    fn table(&self, name: &str) -> Result<TableId, String> {
        self.view.table_names.number(name).ok_or_else(|| {
            format!("--table {name}: neither a number nor a name of /etc/iproute2/rt_tables or rt_tables.d")
        })
    }

    fn text(&self, wanted: &dyn Fn(Family) -> bool, only: Option<TableId>) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_text(&mut out, wanted, only);
        out.truncate(out.trim_end().len());
        out
    }

    fn write_text(&self, out: &mut String, wanted: &dyn Fn(Family) -> bool, only: Option<TableId>) -> std::fmt::Result {
        let names = self.names();
        let dev = |ifindex| name(&names, ifindex);
        for link in &self.view.links {
            let up = if link.up { "up" } else { "down" };
            let carrier = if link.carrier { "carrier" } else { "no carrier" };
            write!(out, "link      {}: {} {up}, {carrier}, mtu {}", link.ifindex.0, link.name, link.mtu)?;
            write!(out, " group {}", link.group)?;
            link.mac.map_or(Ok(()), |mac| write!(out, " lladdr {mac}"))?;
            link.master.map_or(Ok(()), |master| write!(out, " master {}", dev(master)))?;
            writeln!(out)?;
        }
        for one in self.view.addresses.iter().filter(|one| wanted(Family::of(one.local))) {
            writeln!(out, "address   {}/{} dev {}", one.local, one.length, dev(one.ifindex))?;
        }
        for rule in self.view.rules.iter().filter(|rule| wanted(rule.family)) {
            writeln!(out, "rule      {}", rule.origin.text)?;
        }
        for (table, prefix, routes) in self.routes(wanted, only) {
            for route in routes {
                write!(out, "route     {}", RouteText { prefix, route, links: &self.links })?;
                match table {
                    TableId::MAIN => writeln!(out)?,
                    table => writeln!(out, " table {}", self.view.table_names.name(table))?,
                }
            }
        }
        for (id, object) in self.view.nexthops.iter() {
            write!(out, "nexthop   id {id}")?;
            match object {
                NexthopObject::Leg(leg) => {
                    leg.via.map_or(Ok(()), |via| write!(out, " via {via}"))?;
                    write!(out, " dev {}{}", dev(leg.oif), if leg.dead { " dead" } else { "" })?;
                }
                NexthopObject::Blackhole => write!(out, " blackhole")?,
                NexthopObject::Opaque(why) => write!(out, " ({why})")?,
                NexthopObject::Group(members) | NexthopObject::Resilient { members, .. } => {
                    let member = |(id, weight): &(u32, u32)| match weight {
                        1 => id.to_string(),
                        weight => format!("{id},{weight}"),
                    };
                    write!(out, " group {}", members.iter().map(member).collect::<Vec<_>>().join("/"))?;
                }
            }
            if let NexthopObject::Resilient { buckets, .. } = object {
                write!(out, " type resilient buckets {}", buckets.len())?;
            }
            writeln!(out)?;
        }
        for ((ifindex, address), KernelNeighbour { mac, permanent, .. }) in &self.neighbours {
            if wanted(Family::of(*address)) {
                write!(out, "neighbour {address} dev {}", dev(*ifindex))?;
                match mac {
                    Some(mac) => write!(out, " lladdr {mac}")?,
                    None => write!(out, " unresolved")?,
                }
                writeln!(out, "{}", if *permanent { " PERMANENT" } else { "" })?;
            }
        }
        Ok(())
    }

    fn shown(&self, wanted: &dyn Fn(Family) -> bool, only: Option<TableId>) -> Shown<'_> {
        let names = self.names();
        let dev = |ifindex| name(&names, ifindex);
        let hop = |leg: &Leg| ShownHop { gateway: leg.via, dev: dev(leg.oif), weight: leg.weight, dead: leg.dead };
        Shown {
            links: self.shown_links(&names),
            addresses: (self.view.addresses.iter())
                .filter(|one| wanted(Family::of(one.local)))
                .map(|one| ShownAddress { dev: dev(one.ifindex), local: one.local, prefixlen: one.length })
                .collect(),
            rules: (self.view.rules.iter())
                .filter(|rule| wanted(rule.family))
                .map(|rule| ShownRule {
                    family: word(rule.family),
                    priority: rule.priority.0,
                    text: rule.origin.text.to_string(),
                })
                .collect(),
            routes: ShownRoutes { names: self.names(), routes: self.routes(wanted, only) },
            nexthops: self.view.nexthops.iter().map(|(id, object)| shown_nexthop(*id, object, &hop)).collect(),
            neighbours: (self.neighbours.iter())
                .filter(|((_, address), _)| wanted(Family::of(*address)))
                .map(|((ifindex, address), one)| ShownNeighbour {
                    dst: *address,
                    dev: dev(*ifindex),
                    lladdr: one.mac.map(|mac| mac.to_string()),
                    permanent: one.permanent,
                })
                .collect(),
            sysctls: self.shown_sysctls(),
        }
    }

    fn shown_links(&self, names: &Names<'_>) -> Vec<ShownLink> {
        let shown = self.view.links.iter().map(|link| ShownLink {
            ifindex: link.ifindex.0,
            ifname: link.name.clone(),
            up: link.up,
            carrier: link.carrier,
            mtu: link.mtu,
            group: link.group,
            address: link.mac.map(|mac| mac.to_string()),
            master: link.master.map(|master| name(names, master)),
        });
        shown.collect()
    }

    fn shown_sysctls(&self) -> ShownSysctls {
        let of_link = |(name, sysctls): (&String, &LinkSysctls)| {
            let LinkSysctls {
                forwarding4,
                forwarding6,
                rp_filter,
                src_valid_mark,
                accept_local,
                ignore_linkdown4,
                ignore_linkdown6,
                redirected4,
                redirected6,
                mtu6,
            } = *sysctls;
            let values = [
                ("forwarding4", forwarding4.into()),
                ("forwarding6", forwarding6.into()),
                ("rp_filter", rp_filter as u32),
                ("src_valid_mark", src_valid_mark.into()),
                ("accept_local", accept_local.into()),
                ("ignore_linkdown4", ignore_linkdown4.into()),
                ("ignore_linkdown6", ignore_linkdown6.into()),
                ("redirected4", redirected4.into()),
                ("redirected6", redirected6.into()),
                ("mtu6", mtu6.unwrap_or(0)),
            ];
            values.map(|(key, value)| (name.clone(), key, value))
        };
        ShownSysctls {
            links: self.view.sysctls.links.iter().flat_map(of_link).collect(),
            spreading: format!("{:?}", self.view.sysctls.spreading),
            narrowest_path: self.view.sysctls.narrowest_path,
        }
    }

    /// By family, table and prefix.
    fn routes(&self, wanted: &dyn Fn(Family) -> bool, only: Option<TableId>) -> Vec<(TableId, Prefix, &[Route])> {
        let families = Family::BOTH.into_iter().filter(|family| wanted(*family));
        let each = families.flat_map(|family| self.view.tables.each(family));
        let mut all: Vec<_> = each.filter(|(table, ..)| only.is_none_or(|only| *table == only)).collect();
        all.sort_by_key(|(table, prefix, _)| (prefix.family(), *table, *prefix));
        all
    }

    fn names(&self) -> Names<'_> {
        self.view.links.iter().map(|link| (link.ifindex, link.name.as_str())).collect()
    }
}

type Names<'a> = HashMap<Ifindex, &'a str>;

/// An interface that is gone has its number only.
fn name(names: &Names<'_>, ifindex: Ifindex) -> String {
    names.get(&ifindex).map_or_else(|| format!("if{}", ifindex.0), |name| (*name).to_owned())
}

fn word(family: Family) -> &'static str {
    match family {
        Family::V4 => "inet",
        Family::V6 => "inet6",
    }
}

fn shown_route(names: &Names<'_>, table: TableId, prefix: Prefix, route: &Route) -> ShownRoute {
    let Route { tos, metric, preference, mtu, kind } = route;
    let (kind, dev) = match kind {
        RouteKind::Unicast(_) => ("unicast", &None),
        RouteKind::Local(dev) => ("local", dev),
        RouteKind::Broadcast(dev) => ("broadcast", dev),
        RouteKind::Anycast(dev) => ("anycast", dev),
        RouteKind::Multicast(dev) => ("multicast", dev),
        RouteKind::Blackhole => ("blackhole", &None),
        RouteKind::Unreachable => ("unreachable", &None),
        RouteKind::Prohibit => ("prohibit", &None),
        RouteKind::Throw => ("throw", &None),
        RouteKind::Opaque(_) => ("opaque", &None),
    };
    let hop = |leg: &Leg| ShownHop { gateway: leg.via, dev: name(names, leg.oif), weight: leg.weight, dead: leg.dead };
    let (nhid, nexthops) = match &route.kind {
        RouteKind::Unicast(Hops::Object(id)) => (Some(*id), Vec::new()),
        RouteKind::Unicast(Hops::Legs(legs)) => (None, legs.iter().map(hop).collect()),
        _ => (None, Vec::new()),
    };
    ShownRoute {
        family: word(prefix.family()),
        table: table.0,
        kind,
        dst: prefix.in_words(),
        tos: tos.bits(),
        metric: *metric,
        pref: match preference {
            Preference::Low => "low",
            Preference::Medium => "medium",
            Preference::High => "high",
        },
        mtu: *mtu,
        dev: dev.map(|dev| name(names, dev)),
        nhid,
        nexthops,
    }
}

fn shown_nexthop(id: u32, object: &NexthopObject, hop: &dyn Fn(&Leg) -> ShownHop) -> ShownNexthop {
    let (kind, nexthop, group, buckets) = match object {
        NexthopObject::Leg(leg) => ("nexthop", Some(hop(leg)), &[][..], &[][..]),
        NexthopObject::Blackhole => ("blackhole", None, &[][..], &[][..]),
        NexthopObject::Group(members) => ("group", None, &members[..], &[][..]),
        NexthopObject::Resilient { members, buckets } => ("resilient", None, &members[..], &buckets[..]),
        NexthopObject::Opaque(_) => ("opaque", None, &[][..], &[][..]),
    };
    let group = group.iter().map(|(id, weight)| ShownMember { id: *id, weight: *weight }).collect();
    ShownNexthop { id, kind, nexthop, group, buckets: buckets.to_vec() }
}
