//! The kernel's state into the policy's words, and an account of it: rule by rule what is mirrored exactly, what is punted, what
//! is not supported. Pure.

mod netfilter;

use std::collections::BTreeMap;
use std::net::IpAddr;

use shunt_policy::config::{
    Config, Guard, Hook, Link, Origin, Route, RouteKind, RpFilter, RuleAction, Source, Transmit,
};
use shunt_policy::{Family, Ifindex, PortId, PuntReason, TableId};

use crate::mirror::{KernelLink, KernelView, TableNames};

/// What the mirror means.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Translation {
    pub config: Config,
    pub report: Vec<Item>,
    /// The machine's own addresses: what is sent to them need not come to a worker.
    pub local_addresses: Vec<IpAddr>,
}

/// One thing that the operator configured, and what becomes of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    pub origin: Origin,
    pub standing: Standing,
    /// For the operator; empty if there is nothing to say.
    pub why: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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

/// Translates, with `ports` being the interfaces that the workers own.
pub fn translate(view: &KernelView, ports: &[(Ifindex, PortId)]) -> Translation {
    let mut translation = Translation::default();
    links(view, ports, &mut translation);
    translation.config.neighbours.clone_from(&view.neighbours);
    rules(view, &mut translation);
    routes(view, &mut translation);
    netfilter::translate(&view.netfilter, &mut translation);
    others(view, &mut translation);
    translation
}

fn links(view: &KernelView, ports: &[(Ifindex, PortId)], translation: &mut Translation) {
    for link in &view.links {
        let transmit = transmit(link, view, ports);
        let sysctls = view.sysctls.links.get(&link.name);
        translation.config.links.push(Link {
            ifindex: link.ifindex,
            name: link.name.clone(),
            mac: link.mac,
            up: link.up,
            mtu: link.mtu,
            mtu6: sysctls.and_then(|sysctls| sysctls.mtu6).unwrap_or(link.mtu).min(link.mtu),
            // Of an interface whose sysctls cannot be read nothing is known.
            forwarding4: sysctls.is_some_and(|sysctls| sysctls.forwarding4),
            forwarding6: sysctls.is_some_and(|sysctls| sysctls.forwarding6),
            rp_filter: sysctls.map_or(RpFilter::Strict, |sysctls| sysctls.rp_filter),
            src_valid_mark: sysctls.is_some_and(|sysctls| sysctls.src_valid_mark),
            transmit,
        });
        if link.is_loopback() || link.is_own_tap() {
            continue;
        }
        let origin = Origin::new(Source::Link, link.name.clone());
        translation.report.push(match transmit {
            Transmit::Port(_) => Item::exact(origin),
            Transmit::Kernel(reason) => Item::punted(origin, reason, reason.meaning()),
        });
        let Some(sysctls) = sysctls.filter(|_| matches!(transmit, Transmit::Port(_))) else { continue };
        for (on, family) in [(sysctls.forwarding4, Family::V4), (sysctls.forwarding6, Family::V6)] {
            if !on {
                let key = if family == Family::V4 { "ipv4" } else { "ipv6" };
                let origin = Origin::new(Source::Sysctl, format!("net.{key}.conf.{}.forwarding = 0", link.name));
                let why = format!("{family} packets that arrive here are the kernel's");
                translation.report.push(Item::punted(origin, PuntReason::ForwardingOff, why));
            }
        }
        if sysctls.rp_filter != RpFilter::Off {
            let origin =
                Origin::new(Source::Sysctl, format!("net.ipv4.conf.{}.rp_filter: {:?}", link.name, sysctls.rp_filter));
            let why = "packets whose way back is by this interface are ours; to any other the kernel may object";
            translation.report.push(Item::punted(origin, PuntReason::ReversePath, why));
        }
    }
}

fn transmit(link: &KernelLink, view: &KernelView, ports: &[(Ifindex, PortId)]) -> Transmit {
    let qdiscs = view.qdiscs.get(&link.ifindex).copied().unwrap_or_default();
    match ports.iter().find(|(ifindex, _)| *ifindex == link.ifindex) {
        // What AF_XDP sends passes no qdisc, and clsact has egress filters too.
        Some(_) if qdiscs.root || qdiscs.ingress => Transmit::Kernel(PuntReason::EgressQdisc),
        Some((_, port)) => Transmit::Port(*port),
        None => Transmit::Kernel(PuntReason::EgressNotTaken),
    }
}

fn rules(view: &KernelView, translation: &mut Translation) {
    for rule in &view.rules {
        let origin = rule.origin.clone();
        let opaque = match (&rule.selector.opaque, &rule.action) {
            (Some(selector), _) => Some(format!("selector not mirrored: {selector}")),
            (None, RuleAction::Opaque(action)) => Some(format!("action not mirrored: {action}")),
            (None, _) => None,
        };
        translation.report.push(match opaque {
            Some(why) => Item::punted(origin, PuntReason::OpaqueRule, why),
            None => Item::exact(origin),
        });
    }
    translation.config.rules.clone_from(&view.rules);
}

fn routes(view: &KernelView, translation: &mut Translation) {
    let mut exact: BTreeMap<(Family, TableId), usize> = BTreeMap::new();
    for route in &view.routes {
        match &route.kind {
            RouteKind::Opaque(why) => {
                let origin = Origin::new(Source::Route, table_text(route, &view.table_names));
                translation.report.push(Item::punted(origin, PuntReason::OpaqueRoute, why.clone()));
            }
            _ => *exact.entry((route.destination.family(), route.table)).or_default() += 1,
        }
        let host = route.destination.length() == route.destination.family().bits();
        if host && matches!(route.kind, RouteKind::Local | RouteKind::Broadcast | RouteKind::Anycast) {
            translation.local_addresses.push(route.destination.address());
        }
    }
    for ((family, table), count) in exact {
        let text = format!("table {}: {count} {family} routes", view.table_names.name(table));
        translation.report.push(Item::exact(Origin::new(Source::Route, text)));
    }
    translation.config.routes.clone_from(&view.routes);
}

fn table_text(route: &Route, names: &TableNames) -> String {
    format!("{} table {}", route.origin.text, names.name(route.table))
}

/// What stands outside rules, routes and netfilter.
fn others(view: &KernelView, translation: &mut Translation) {
    for family in &view.xfrm {
        let origin = Origin::new(Source::Xfrm, format!("{family} policies"));
        guard_all(*family, PuntReason::Xfrm, &origin, translation);
        translation.report.push(Item::punted(origin, PuntReason::Xfrm, "an IPsec policy may take any packet"));
    }
    for message in &view.undecodable {
        let origin = Origin::new(Source::Route, message.clone());
        for family in Family::BOTH {
            guard_all(family, PuntReason::OpaqueRoute, &origin, translation);
        }
        translation.report.push(Item::punted(origin, PuntReason::OpaqueRoute, "not decoded: it could decide anything"));
    }
    for (ifindex, qdiscs) in &view.qdiscs {
        let Some(link) = view.link(*ifindex).filter(|link| !link.is_own_tap()) else { continue };
        let kind = if qdiscs.ingress { "ingress, clsact or tcx" } else { "root qdisc" };
        let origin = Origin::new(Source::TrafficControl, format!("{kind} on {}", link.name));
        translation.report.push(if qdiscs.ingress {
            let why = "filters may touch what arrives: the interface is not taken".to_owned();
            Item { origin, standing: Standing::Unsupported, why }
        } else {
            Item::punted(origin, PuntReason::EgressQdisc, "what leaves here must pass it")
        });
    }
}

/// Leaves a whole family to the kernel.
fn guard_all(family: Family, reason: PuntReason, origin: &Origin, translation: &mut Translation) {
    let origin = origin.clone();
    translation.config.guards.push(Guard { family, hook: Hook::Prerouting, matches: Vec::new(), reason, origin });
}
