//! The kernel's state into the policy's words, and an account of it: rule by rule what is mirrored exactly, what is punted, what
//! is not supported. Pure.

mod netfilter;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use shunt_policy::config::{
    Config, Guard, Hook, Hops, Link, LinkAddress, Match, NexthopObject, Origin, Route, RouteKind, RouteText, RpFilter,
    RuleAction, Source, Test, Transmit,
};
use shunt_policy::{Family, Ifindex, Prefix, PuntReason, TableId};

pub use netfilter::{Counters, RuleKey, Twins, keyed};

use crate::mirror::{Changes, KernelAddress, KernelLink, KernelView, LinkSysctls};
use crate::ports::Number;

/// What the mirror means.
#[derive(Clone, Debug, Default)]
pub struct Translation {
    pub config: Config,
    /// The machine's own addresses: what is sent to them need not come to a worker.
    pub local_addresses: Vec<IpAddr>,
    /// Accounts of the parts that are not translated anew at every change.
    links: Vec<Item>,
    netfilter: Vec<Item>,
    /// What netfilter and others make guards of; those of the tables come behind.
    guards: Vec<Guard>,
    counters: Counters,
}

impl Translation {
    /// Which rule counts where.
    pub fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }
}

/// One thing that the operator configured, and what becomes of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    pub origin: Origin,
    pub standing: Standing,
    /// For the operator; empty if there is nothing to say.
    pub why: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Standing {
    /// The workers do what the kernel would do.
    Exact,
    /// What it could touch is left to the kernel, counted under this reason.
    Punted(PuntReason),
    /// Nothing here can serve it; it stays with the kernel as a whole.
    Unsupported,
}

impl Standing {
    pub fn word(self) -> &'static str {
        match self {
            Standing::Exact => "exact",
            Standing::Punted(_) => "punted",
            Standing::Unsupported => "unsupported",
        }
    }
}

impl Item {
    fn exact(origin: Origin) -> Self {
        Item { origin, standing: Standing::Exact, why: String::new() }
    }

    fn punted(origin: Origin, reason: PuntReason, why: impl Into<String>) -> Self {
        Item { origin, standing: Standing::Punted(reason), why: why.into() }
    }
}

/// What a part of the kernel's state amounts to.
#[derive(Default)]
struct Part {
    guards: Vec<Guard>,
    report: Vec<Item>,
}

impl Part {
    /// Leaves a whole family to the kernel.
    fn guard_all(&mut self, family: Family, reason: PuntReason, origin: &Origin) {
        let origin = origin.clone();
        self.guards.push(Guard { family, hook: Hook::Prerouting, matches: Vec::new(), reason, origin });
    }
}

/// Translates, with `ports` being the interfaces that the workers own.
pub fn translate(view: &KernelView, ports: &[Number]) -> Translation {
    let mut translation = Translation::default();
    translation.update(view, ports, Changes::ALL);
    translation
}

impl Translation {
    /// Follows the view, at the cost of what has changed in it.
    pub fn update(&mut self, view: &KernelView, ports: &[Number], changes: Changes) {
        let config = &mut self.config;
        if changes.links {
            let (links, report) = links(view, ports);
            config.links = Arc::new(links);
            config.spreading = view.sysctls.spreading;
            self.links = report;
        }
        config.neighbours = view.neighbours.clone();
        config.rules = view.rules.clone();
        config.tables = view.tables.clone();
        config.nexthops = view.nexthops.clone();
        config.path_mtus = view.path_mtus.clone();
        if changes.netfilter {
            let mut part = Part::default();
            let evaluated = netfilter::translate(&view.netfilter, &mut self.counters, &mut part);
            (config.chains, config.conntrack) = (Arc::new(evaluated.chains), evaluated.conntrack);
            others(view, &mut part);
            (self.guards, self.netfilter) = (part.guards, part.report);
        }
        if changes.netfilter || changes.rules || changes.routes || changes.links {
            let of_tables = merged_tables(view).chain(unrouted_addresses(view));
            let guards: Vec<Guard> = self.guards.iter().cloned().chain(of_tables).collect();
            // What is made of them is kept as long as they are the same.
            if guards != *config.guards {
                config.guards = Arc::new(guards);
            }
        }
        if changes.routes {
            let own = Family::BOTH.iter().flat_map(|family| config.tables.own(*family));
            let hosts = own.filter(|prefix| prefix.length() == prefix.family().bits());
            self.local_addresses = hosts.map(Prefix::address).collect();
        }
    }

    /// Rule by rule, what becomes of it.
    pub fn report(&self, view: &KernelView) -> Vec<Item> {
        let mut report = self.links.clone();
        rules(view, &mut report);
        self.routes(view, &mut report);
        report.extend(self.netfilter.iter().cloned());
        report.extend(traffic_control(view));
        report
    }

    fn routes(&self, view: &KernelView, report: &mut Vec<Item>) {
        let name = |table| view.table_names.name(table);
        for family in Family::BOTH {
            for (table, size) in view.tables.sizes(family) {
                let text = format!("table {}: {size} {family} prefixes", name(table));
                report.push(Item::exact(Origin::new(Source::Route, text)));
            }
            // Sets are few; only if one holds something opaque are its prefixes looked for.
            if !view.tables.sets(family).any(|set| set.iter().any(|route| self.opaque(route).is_some())) {
                continue;
            }
            for (table, prefix, routes) in view.tables.each(family) {
                for route in routes {
                    let Some(why) = self.opaque(route) else { continue };
                    let text = RouteText { prefix, route, links: &self.config.links };
                    let origin = Origin::new(Source::Route, format!("{text} table {}", name(table)));
                    report.push(Item::punted(origin, PuntReason::OpaqueRoute, why));
                }
            }
        }
        for guard in merged_tables(view) {
            let why = "while no rule was ever added, the kernel looks up local and main as one table";
            report.push(Item::punted(guard.origin, guard.reason, why));
        }
        for guard in unrouted_addresses(view) {
            let why = "without rules and local routes of the operator's, the kernel asks the addresses whose source is its own";
            report.push(Item::punted(guard.origin, guard.reason, why));
        }
        if view.tables.sets(Family::V4).chain(view.tables.sets(Family::V6)).any(|set| set.iter().any(is_multipath))
            && view.sysctls.spreading.seed.is_none()
        {
            let origin = Origin::new(Source::Sysctl, "net.ipv4.fib_multipath_hash_seed = 0");
            let why = "the spread over the legs of a multipath route is the kernel's, the leg of a given flow is not: the \
                       kernel's seed is secret; set one, and the legs are the same";
            report.push(Item { origin, standing: Standing::Exact, why: why.to_owned() });
        }
    }

    /// Why packets that end at the route are the kernel's.
    fn opaque(&self, route: &Route) -> Option<String> {
        match &route.kind {
            RouteKind::Opaque(why) => Some(why.clone()),
            RouteKind::Unicast(Hops::Object(id)) => match self.config.nexthops.get(id) {
                Some(NexthopObject::Opaque(why)) => Some(why.clone()),
                Some(_) => None,
                None => Some(format!("there is no nexthop object {id}")),
            },
            _ => None,
        }
    }
}

fn is_multipath(route: &Route) -> bool {
    match &route.kind {
        RouteKind::Unicast(Hops::Legs(legs)) => legs.len() > 1,
        RouteKind::Unicast(Hops::Object(_)) => true,
        _ => false,
    }
}

/// Addresses whose local route was deleted: as a source the kernel may refuse them all the same (`fib_validate_source`,
/// inet_lookup_ifaddr_rcu).
fn unrouted_addresses(view: &KernelView) -> impl Iterator<Item = Guard> {
    let four =
        view.addresses.iter().filter(|address| address.local.is_ipv4()).map(|address| Prefix::host(address.local));
    four.filter(|host| !view.tables.is_own(*host)).map(|host| Guard {
        family: Family::V4,
        hook: Hook::Prerouting,
        matches: vec![Match { not: false, test: Test::source(host) }],
        reason: PuntReason::OpaqueRoute,
        origin: Origin::new(Source::Route, format!("{} is in no table local", host.in_words())),
    })
}

/// While no rule was ever added the kernel keeps the IPv4 tables local and main in one trie (`fib_unmerge`): a longer prefix in
/// main then hides a shorter one in local. Nothing tells whether a rule was added and removed again, so what could lie on either
/// side of the difference is the kernel's.
fn merged_tables(view: &KernelView) -> impl Iterator<Item = Guard> {
    let lookup = |table| RuleAction::lookup(table);
    let mut rules = view.rules.iter().filter(|rule| rule.family == Family::V4);
    let default = rules.by_ref().map(|rule| (rule.priority.0, &rule.action)).eq([
        (0, &lookup(TableId::LOCAL)),
        (32766, &lookup(TableId::MAIN)),
        (32767, &lookup(TableId::DEFAULT)),
    ]);
    let local = view.tables.each_of(Family::V4, TableId::LOCAL);
    let prefixes: Vec<Prefix> = local
        .filter(|(prefix, routes)| {
            // Never forwarded: 127.0.0.0/8.
            let loopback = prefix.address().is_loopback();
            let unicast = routes.iter().any(|route| !route.kind.is_own());
            default && !loopback && (unicast || prefix.length() < 32)
        })
        .map(|(prefix, _)| prefix)
        .collect();
    prefixes.into_iter().flat_map(|prefix| {
        let origin = Origin::new(Source::Route, format!("{} table local", prefix.in_words()));
        [Test::source(prefix), Test::destination(prefix)].map(|test| Guard {
            family: Family::V4,
            hook: Hook::Prerouting,
            matches: vec![Match { not: false, test }],
            reason: PuntReason::OpaqueRoute,
            origin: origin.clone(),
        })
    })
}

fn links(view: &KernelView, ports: &[Number]) -> (Vec<Link>, Vec<Item>) {
    let (mut links, mut report) = (Vec::new(), Vec::new());
    if let Some(bytes) = view.sysctls.narrowest_path {
        let origin = Origin::new(Source::Sysctl, "net.ipv4.ip_forward_use_pmtu = 1");
        let why = format!("the kernel knows alone which paths are narrow: packets above {bytes} bytes are its own");
        report.push(Item::punted(origin, PuntReason::Oversize, why));
    }
    let mut addresses = addresses(view);
    for link in &view.links {
        let addresses = addresses.remove(&link.ifindex).unwrap_or_default();
        let transmit = transmit(link, view, ports);
        let sysctls = view.sysctls.links.get(&link.name);
        // Dumps say themselves which next hops are dead, and know better: an IPv4 route by an IPv6 gateway that was added without
        // a carrier is alive (`fib_check_nh_v6_gw`). This is for the time until they are read.
        let ignored = |family: Family, does: fn(&LinkSysctls) -> bool| {
            let unread = view.unread_carriers[family as usize].contains(&link.ifindex);
            unread && !link.carrier && sysctls.is_some_and(does)
        };
        links.push(Link {
            ifindex: link.ifindex,
            name: link.name.clone(),
            mac: link.mac,
            up: link.up,
            mtu: link.mtu.min(view.sysctls.narrowest_path.unwrap_or(u32::MAX)),
            mtu6: sysctls.and_then(|sysctls| sysctls.mtu6).unwrap_or(link.mtu).min(link.mtu),
            // Of an interface whose sysctls cannot be read nothing is known.
            forwarding4: sysctls.is_some_and(|sysctls| sysctls.forwarding4),
            forwarding6: sysctls.is_some_and(|sysctls| sysctls.forwarding6),
            rp_filter: sysctls.map_or(RpFilter::Strict, |sysctls| sysctls.rp_filter),
            src_valid_mark: sysctls.is_some_and(|sysctls| sysctls.src_valid_mark),
            accept_local: sysctls.is_some_and(|sysctls| sysctls.accept_local),
            has_address4: addresses.iter().any(|one| one.address.is_ipv4()),
            ignored4: ignored(Family::V4, |sysctls| sysctls.ignore_linkdown4),
            ignored6: ignored(Family::V6, |sysctls| sysctls.ignore_linkdown6),
            redirected4: sysctls.is_some_and(|sysctls| sysctls.redirected4),
            redirected6: sysctls.is_some_and(|sysctls| sysctls.redirected6),
            addresses,
            group: link.group,
            transmit,
            takes_redirected: ports.iter().any(|port| port.ifindex == link.ifindex && port.takes_redirected),
        });
        if link.is_loopback() || link.is_own_tap() {
            continue;
        }
        let origin = Origin::new(Source::Link, link.name.clone());
        report.push(match transmit {
            Transmit::Port(_) => Item::exact(origin),
            Transmit::Kernel(reason) => Item::punted(origin, reason, reason.meaning()),
        });
        let Some(sysctls) = sysctls.filter(|_| matches!(transmit, Transmit::Port(_))) else { continue };
        for (on, family) in [(sysctls.forwarding4, Family::V4), (sysctls.forwarding6, Family::V6)] {
            if !on {
                let text = match family {
                    Family::V4 => format!("net.ipv4.conf.{}.forwarding = 0", link.name),
                    Family::V6 => "net.ipv6.conf.all.forwarding = 0".to_owned(),
                };
                let why = format!("{family} packets that arrive at {} are the kernel's", link.name);
                report.push(Item::punted(Origin::new(Source::Sysctl, text), PuntReason::ForwardingOff, why));
            }
        }
        for (on, family) in [(sysctls.redirected4, "ipv4"), (sysctls.redirected6, "ipv6")] {
            if on {
                let origin = Origin::new(Source::Sysctl, format!("net.{family}.conf.{}.accept_redirects", link.name));
                let why = format!(
                    "what leaves {} by a gateway is the kernel's, which a redirect may have told of another one",
                    link.name
                );
                report.push(Item::punted(origin, PuntReason::Redirected, why));
            }
        }
        if sysctls.rp_filter != RpFilter::Off {
            let text = format!("net.ipv4.conf.{}.rp_filter: {:?}", link.name, sysctls.rp_filter);
            report.push(Item::exact(Origin::new(Source::Sysctl, text)));
        }
    }
    (links, report)
}

fn addresses(view: &KernelView) -> HashMap<Ifindex, Vec<LinkAddress>> {
    let mut addresses: HashMap<Ifindex, Vec<LinkAddress>> = HashMap::new();
    for one in &view.addresses {
        let network = Prefix::new(one.address, one.length).unwrap_or(Prefix::host(one.local));
        let KernelAddress { local: address, scope, secondary, preferred, .. } = *one;
        addresses.entry(one.ifindex).or_default().push(LinkAddress { address, network, scope, secondary, preferred });
    }
    addresses
}

fn transmit(link: &KernelLink, view: &KernelView, ports: &[Number]) -> Transmit {
    let qdiscs = view.qdiscs.get(&link.ifindex).copied().unwrap_or_default();
    match ports.iter().find(|port| port.ifindex == link.ifindex) {
        // What AF_XDP sends passes no qdisc, and clsact has egress filters too.
        Some(_) if qdiscs.root || qdiscs.ingress => Transmit::Kernel(PuntReason::EgressQdisc),
        Some(number) => Transmit::Port(number.port),
        None => Transmit::Kernel(PuntReason::EgressNotTaken),
    }
}

fn rules(view: &KernelView, report: &mut Vec<Item>) {
    for rule in view.rules.iter() {
        let origin = rule.origin.clone();
        let opaque = match (&rule.selector.opaque, &rule.action) {
            (Some(selector), _) => Some(format!("selector not mirrored: {selector}")),
            (None, RuleAction::Opaque(action)) => Some(format!("action not mirrored: {action}")),
            (None, _) => None,
        };
        report.push(match opaque {
            Some(why) => Item::punted(origin, PuntReason::OpaqueRule, why),
            None => Item::exact(origin),
        });
    }
}

/// What stands outside rules, routes and netfilter, and guards whole families.
fn others(view: &KernelView, part: &mut Part) {
    for family in &view.xfrm {
        let origin = Origin::new(Source::Xfrm, format!("{family} policies"));
        part.guard_all(*family, PuntReason::Xfrm, &origin);
        part.report.push(Item::punted(origin, PuntReason::Xfrm, "an IPsec policy may take any packet"));
    }
    for message in &view.undecodable {
        let origin = Origin::new(Source::Route, message.clone());
        for family in Family::BOTH {
            part.guard_all(family, PuntReason::OpaqueRoute, &origin);
        }
        part.report.push(Item::punted(origin, PuntReason::OpaqueRoute, "not decoded: it could decide anything"));
    }
}

fn traffic_control(view: &KernelView) -> impl Iterator<Item = Item> {
    view.qdiscs.iter().filter_map(|(ifindex, qdiscs)| {
        let link = view.link(*ifindex).filter(|link| !link.is_own_tap())?;
        let kind = if qdiscs.ingress { "ingress, clsact or tcx" } else { "root qdisc" };
        let origin = Origin::new(Source::TrafficControl, format!("{kind} on {}", link.name));
        Some(if qdiscs.ingress {
            let why = "filters may touch what arrives: the interface is not taken".to_owned();
            Item { origin, standing: Standing::Unsupported, why }
        } else {
            Item::punted(origin, PuntReason::EgressQdisc, "what leaves here must pass it")
        })
    })
}
