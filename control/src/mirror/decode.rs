//! Kernel messages into the words of the policy. What we do not know of a message makes the thing opaque, never invisible.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteType};
use netlink_packet_route::rule::{self, RuleAttribute, RuleFlags, RuleMessage};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use shunt_policy::config::{
    MarkMatch, Neighbour, Nexthop, Origin, Route, RouteKind, Rule, RuleAction, RuleSelector, Source,
};
use shunt_policy::{Dscp, Family, Ifindex, Mac, Prefix, Priority, TableId};

use super::tables::TableNames;
use super::view::{KernelLink, Layer, Qdiscs};

pub fn link(message: &LinkMessage) -> KernelLink {
    let mut link = KernelLink {
        ifindex: Ifindex(message.header.index),
        name: String::new(),
        layer: match message.header.link_layer_type {
            LinkLayerType::Ether => Layer::Ethernet,
            LinkLayerType::Loopback => Layer::Loopback,
            _ => Layer::Other,
        },
        up: message.header.flags.contains(LinkFlags::Up),
        mac: None,
        mtu: 0,
        kind: None,
        master: None,
        lower: None,
        rx_queues: 1,
        xdp_program: None,
    };
    let mut lower_is_elsewhere = false;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name.clone(),
            LinkAttribute::Address(address) => link.mac = mac(address),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Controller(master) => link.master = Some(Ifindex(*master)),
            LinkAttribute::Link(lower) => link.lower = Some(Ifindex(*lower)),
            // A veth's peer: its number belongs to another namespace.
            LinkAttribute::LinkNetNsId(_) => lower_is_elsewhere = true,
            LinkAttribute::NumRxQueues(queues) => link.rx_queues = *queues,
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            LinkAttribute::Xdp(attributes) => {
                link.xdp_program = attributes.iter().find_map(|attribute| match attribute {
                    LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) | LinkXdp::HwProgId(id) => {
                        Some(*id)
                    }
                    _ => None,
                });
            }
            _ => {}
        }
    }
    if lower_is_elsewhere {
        link.lower = None;
    }
    link
}

/// An entry of the neighbour table; `None` for proxies and for what has no address.
pub fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    if message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    // The states in which the kernel itself would send (NUD_VALID), less NUD_NOARP, which has no address to send to.
    let usable = matches!(
        message.header.state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
    );
    let mut address = None;
    let mut lladdr = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => address = Some(IpAddr::V4(*a)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => address = Some(IpAddr::V6(*a)),
            NeighbourAttribute::LinkLayerAddress(bytes) => lladdr = mac(bytes),
            _ => {}
        }
    }
    Some(Neighbour { ifindex: Ifindex(message.header.ifindex), address: address?, mac: lladdr.filter(|_| usable) })
}

/// A rule of `ip rule`.
pub fn rule(message: &RuleMessage, names: &TableNames) -> Option<Rule> {
    let header = &message.header;
    let family = family(header.family)?;
    let mut selector = RuleSelector { not: header.flags.contains(RuleFlags::Invert), ..RuleSelector::default() };
    let mut priority = 0;
    let mut table = u32::from(header.table);
    let mut goto = None;
    let (mut mark, mut mask) = (None, None);
    let mut opaque = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Destination(address) => selector.to = Prefix::new(*address, header.dst_len),
            RuleAttribute::Source(address) => selector.from = Prefix::new(*address, header.src_len),
            RuleAttribute::Iifname(name) => selector.iif = Some(name.clone()),
            RuleAttribute::Priority(number) => priority = *number,
            RuleAttribute::FwMark(value) => mark = Some(*value),
            RuleAttribute::FwMask(value) => mask = Some(*value),
            RuleAttribute::Table(number) => table = *number,
            RuleAttribute::Goto(number) => goto = Some(*number),
            // Who installed it.
            RuleAttribute::Protocol(_) => {}
            // The kernel always tells; all ones is "not set".
            RuleAttribute::SuppressPrefixLen(u32::MAX) | RuleAttribute::SuppressIfGroup(u32::MAX) => {}
            RuleAttribute::SuppressPrefixLen(length) => opaque.push(format!("suppress_prefixlength {length}")),
            RuleAttribute::SuppressIfGroup(group) => opaque.push(format!("suppress_ifgroup {group}")),
            RuleAttribute::Oifname(name) => opaque.push(format!("oif {name}")),
            RuleAttribute::IpProtocol(protocol) => opaque.push(format!("ipproto {protocol:?}")),
            RuleAttribute::SourcePortRange(range) => opaque.push(format!("sport {}-{}", range.start, range.end)),
            RuleAttribute::DestinationPortRange(range) => opaque.push(format!("dport {}-{}", range.start, range.end)),
            RuleAttribute::UidRange(range) => opaque.push(format!("uidrange {}-{}", range.start, range.end)),
            RuleAttribute::L3MDev(_) => opaque.push("l3mdev".to_owned()),
            RuleAttribute::TunId(id) => opaque.push(format!("tun_id {id}")),
            RuleAttribute::Realm(_) => opaque.push("realms".to_owned()),
            RuleAttribute::Other(attribute) => {
                opaque.push(format!("attribute {}", netlink_packet_core::Nla::kind(attribute)));
            }
            other => opaque.push(format!("{other:?}")),
        }
    }
    if mark.is_some() || mask.is_some() {
        // Without a mask the kernel compares all bits (fib_nl2rule).
        selector.fwmark = Some(MarkMatch { value: mark.unwrap_or(0), mask: mask.unwrap_or(u32::MAX) });
    }
    selector.tos = (header.tos != 0).then(|| Dscp::of_tos(header.tos));
    selector.opaque = (!opaque.is_empty()).then(|| opaque.join(" "));
    let action = match header.action {
        rule::RuleAction::ToTable => RuleAction::Lookup(TableId(table)),
        rule::RuleAction::Blackhole => RuleAction::Blackhole,
        rule::RuleAction::Unreachable => RuleAction::Unreachable,
        rule::RuleAction::Prohibit => RuleAction::Prohibit,
        rule::RuleAction::Goto => RuleAction::Opaque(format!("goto {}", goto.unwrap_or(0))),
        rule::RuleAction::Nop => RuleAction::Opaque("nop".to_owned()),
        other => RuleAction::Opaque(format!("{other:?}")),
    };
    let origin = Origin::new(Source::Rule, rule_text(priority, &selector, &action, names));
    Some(Rule { family, priority: Priority(priority), selector, action, origin })
}

/// As `ip rule` prints it.
fn rule_text(priority: u32, selector: &RuleSelector, action: &RuleAction, names: &TableNames) -> String {
    let RuleSelector { not, from, to, iif, fwmark, tos, opaque } = selector;
    let mut text = format!("{priority}:");
    if *not {
        text += " not";
    }
    text += " from ";
    text += &from.map_or("all".to_owned(), prefix_text);
    if let Some(to) = to {
        text = text + " to " + &prefix_text(*to);
    }
    if let Some(tos) = tos {
        // Writing to a String cannot fail, here and below.
        let _ = write!(text, " tos {:#04x}", tos.bits());
    }
    if let Some(MarkMatch { value, mask }) = fwmark {
        let _ = write!(text, " fwmark {value:#x}");
        if *mask != u32::MAX {
            let _ = write!(text, "/{mask:#x}");
        }
    }
    if let Some(iif) = iif {
        text = text + " iif " + iif;
    }
    if let Some(opaque) = opaque {
        text = text + " " + opaque;
    }
    match action {
        RuleAction::Lookup(table) => text + " lookup " + &names.name(*table),
        RuleAction::Blackhole => text + " blackhole",
        RuleAction::Unreachable => text + " unreachable",
        RuleAction::Prohibit => text + " prohibit",
        RuleAction::Opaque(what) => text + " " + what,
    }
}

fn prefix_text(prefix: Prefix) -> String {
    match (prefix.length(), prefix.family().bits()) {
        (0, _) => "default".to_owned(),
        (length, bits) if length == bits => prefix.address().to_string(),
        _ => prefix.to_string(),
    }
}

/// A route of any table; `None` for what takes no part in look-ups: cache entries, and routes whose device is gone or down.
pub fn route(message: &RouteMessage, links: &HashMap<Ifindex, &str>, ignore_linkdown: bool) -> Option<Route> {
    let header = &message.header;
    let family = family(header.address_family)?;
    // The kernel passes over dead next hops (fib_table_lookup, find_match).
    if header.flags.contains(RouteFlags::Cloned) || header.flags.contains(RouteFlags::Dead) {
        return None;
    }
    let mut table = u32::from(header.table);
    let mut destination = Prefix::any(family);
    let (mut metric, mut oif, mut via, mut mtu) = (0, None, None, None);
    let mut opaque: Option<String> = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(address) => {
                destination = Prefix::new(ip(address)?, header.destination_prefix_length)?;
            }
            RouteAttribute::Priority(number) => metric = *number,
            RouteAttribute::Oif(number) => oif = Some(Ifindex(*number)),
            RouteAttribute::Gateway(address) => via = Some(ip(address)?),
            RouteAttribute::Metrics(metrics) => {
                // The others shape the machine's own connections only.
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            RouteAttribute::PrefSource(_)
            | RouteAttribute::CacheInfo(_)
            | RouteAttribute::Preference(_)
            | RouteAttribute::Expires(_)
            | RouteAttribute::Uid(_) => {}
            RouteAttribute::MultiPath(_) => opaque = Some("multipath".to_owned()),
            RouteAttribute::NhId(id) => opaque = Some(format!("nexthop object {id}")),
            RouteAttribute::Encap(_) | RouteAttribute::EncapType(_) => opaque = Some("encapsulation".to_owned()),
            RouteAttribute::Via(_) => opaque = Some("gateway of another family".to_owned()),
            RouteAttribute::Source(_) => opaque = Some("source-specific".to_owned()),
            RouteAttribute::Realm(_) => opaque = Some("realms".to_owned()),
            other => opaque = Some(format!("{other:?}")),
        }
    }
    if header.flags.contains(RouteFlags::Linkdown) && ignore_linkdown {
        opaque = Some("linkdown with ignore_routes_with_linkdown".to_owned());
    }
    let kind = match (opaque, header.kind) {
        (Some(why), _) => RouteKind::Opaque(why),
        (None, RouteType::Unicast) if table == TableId::LOCAL.0 => {
            // While no rule was ever added the kernel keeps local and main in one trie (fib_unmerge), which shows here only.
            RouteKind::Opaque("unicast in table local".to_owned())
        }
        (None, RouteType::Unicast) => match oif {
            Some(oif) => RouteKind::Unicast(Nexthop { oif, via, mtu }),
            None => RouteKind::Opaque("no interface".to_owned()),
        },
        (None, RouteType::Local) => RouteKind::Local,
        (None, RouteType::Broadcast) => RouteKind::Broadcast,
        (None, RouteType::Anycast) => RouteKind::Anycast,
        (None, RouteType::Multicast) => RouteKind::Multicast,
        (None, RouteType::BlackHole) => RouteKind::Blackhole,
        (None, RouteType::Unreachable) => RouteKind::Unreachable,
        (None, RouteType::Prohibit) => RouteKind::Prohibit,
        (None, RouteType::Throw) => RouteKind::Throw,
        (None, other) => RouteKind::Opaque(format!("type {other:?}")),
    };
    // IPv6 routes have no TOS (RFC 8200 routers may, Linux does not).
    let tos = if family == Family::V4 { Dscp::of_tos(header.tos) } else { Dscp::default() };
    let text = route_text(destination, &kind, oif.and_then(|oif| links.get(&oif).copied()), via, metric, tos);
    let origin = Origin::new(Source::Route, text);
    Some(Route { table: TableId(table), destination, tos, metric, kind, origin })
}

/// As `ip route` prints it, less what does not decide.
fn route_text(
    destination: Prefix,
    kind: &RouteKind,
    dev: Option<&str>,
    via: Option<IpAddr>,
    metric: u32,
    tos: Dscp,
) -> String {
    let mut text = match kind {
        RouteKind::Unicast(_) => String::new(),
        RouteKind::Local => "local ".to_owned(),
        RouteKind::Broadcast => "broadcast ".to_owned(),
        RouteKind::Anycast => "anycast ".to_owned(),
        RouteKind::Multicast => "multicast ".to_owned(),
        RouteKind::Blackhole => "blackhole ".to_owned(),
        RouteKind::Unreachable => "unreachable ".to_owned(),
        RouteKind::Prohibit => "prohibit ".to_owned(),
        RouteKind::Throw => "throw ".to_owned(),
        RouteKind::Opaque(why) => format!("({why}) "),
    };
    text += &prefix_text(destination);
    if tos != Dscp::default() {
        let _ = write!(text, " tos {:#04x}", tos.bits());
    }
    if let Some(via) = via {
        let _ = write!(text, " via {via}");
    }
    if let Some(dev) = dev {
        let _ = write!(text, " dev {dev}");
    }
    if metric != 0 {
        let _ = write!(text, " metric {metric}");
    }
    text
}

/// Makes routes opaque between which the kernel chooses by more than we know: IPv6 routes of equal metric become siblings or are
/// taken in turn (`find_rr_leaf`), and between equal IPv4 default routes it asks whose gateway answers (`fib_select_default`).
pub fn mark_ambiguous(routes: &mut [Route]) {
    let key = |route: &Route| {
        let v6 = route.destination.family() == Family::V6;
        // Link-local and multicast packets are not forwarded; these prefixes stand once per interface.
        let never_forwarded = match route.destination.address() {
            IpAddr::V6(address) => address.is_unicast_link_local() || address.is_multicast(),
            IpAddr::V4(_) => false,
        };
        let chosen_by_more = !never_forwarded && (v6 || route.destination.length() == 0);
        let takes_part = matches!(route.kind, RouteKind::Unicast(_) | RouteKind::Opaque(_));
        (chosen_by_more && takes_part).then_some((route.table, route.destination, route.tos, route.metric))
    };
    let mut counts: HashMap<_, u32> = HashMap::new();
    routes.iter().filter_map(key).for_each(|key| *counts.entry(key).or_default() += 1);
    for route in routes {
        if key(route).is_some_and(|key| counts[&key] > 1) {
            route.kind = RouteKind::Opaque("one of several with this metric".to_owned());
        }
    }
}

/// What of a qdisc is the operator's doing.
pub fn qdisc(message: &TcMessage) -> Option<(Ifindex, Qdiscs)> {
    let header = &message.header;
    let kind = message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Kind(kind) => Some(kind.as_str()),
        _ => None,
    });
    let ingress = matches!(kind, Some("ingress" | "clsact"));
    let root = header.parent == TcHandle::ROOT && header.handle.major != 0 && !ingress;
    let ifindex = Ifindex(u32::try_from(header.index).ok()?);
    (ingress || root).then_some((ifindex, Qdiscs { ingress, root }))
}

fn family(family: AddressFamily) -> Option<Family> {
    match family {
        AddressFamily::Inet => Some(Family::V4),
        AddressFamily::Inet6 => Some(Family::V6),
        _ => None,
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some(IpAddr::V4(*a)),
        RouteAddress::Inet6(a) => Some(IpAddr::V6(*a)),
        _ => None,
    }
}

fn mac(bytes: &[u8]) -> Option<Mac> {
    Some(Mac(bytes.try_into().ok()?))
}
