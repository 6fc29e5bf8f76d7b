//! Keeps a copy of the kernel's rules.
//!
//! Events are hints, dumps are truth: an event only says which part to dump anew, because much vanishes without one (routes with
//! their device, say). A failed read keeps the last good copy and is a fault that the operator sees.

mod decode;
pub mod netfilter;
mod netlink;
mod raw;
mod sysctl;
mod tables;
mod view;

use std::collections::{BTreeMap, HashMap};
use std::future::pending;
use std::io;
use std::time::Duration;

use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::rule::RuleMessage;
use netlink_packet_route::tc::TcMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use shunt_policy::config::{Route, Rule};
use shunt_policy::{Family, Ifindex};
use tokio::time::{Instant, Interval, MissedTickBehavior, sleep_until};

use netfilter::{Fault, Netfilter, Watch};
use netlink::{Dump, Dumper, Events, Heard};
pub use sysctl::{LinkSysctls, Sysctls};
pub use tables::TableNames;
pub use view::{KernelLink, KernelView, Layer, Qdiscs};

/// `RTNLGRP_*` of `linux/rtnetlink.h`: link, neigh, tc, IPv4 address, route and rule, IPv6 address, route and rule, IPv4 and IPv6
/// netconf, nexthop.
const ROUTE_GROUPS: [u32; 12] = [1, 3, 4, 5, 7, 8, 9, 11, 19, 24, 25, 32];
/// `NFNLGRP_NFTABLES`.
const NFTABLES_GROUP: u32 = 7;
/// How often we look at what gives no event: sysctls, iptables-legacy, translated connections.
const POLL: Duration = Duration::from_millis(300);
/// After a failed read.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// The mirror cannot start.
#[derive(thiserror::Error, Debug)]
pub enum MirrorError {
    #[error("cannot listen to the kernel's changes: {0}")]
    Listen(io::Error),
    #[error("cannot read the kernel's {part}: {source}")]
    Read { part: &'static str, source: io::Error },
    #[error("cannot read netfilter: {0}")]
    Netfilter(#[from] Fault),
}

/// How well the copy is kept.
#[derive(Clone, Debug, Default)]
pub struct MirrorHealth {
    /// What fails at the moment.
    pub fault: Option<String>,
    pub faulty_since: Option<std::time::Instant>,
    /// How often the kernel had to throw events away.
    pub lost_events: u64,
    /// How often everything was dumped anew because of that.
    pub resyncs: u64,
    /// Dumps that a change had interrupted, and that were taken again.
    pub retried_dumps: u64,
    /// Messages of the present copy that could not be decoded.
    pub undecodable: u64,
}

/// A copy of this network namespace's rules, and the ears to keep it.
pub struct Mirror {
    view: KernelView,
    dumper: Dumper,
    events: Events,
    nft_events: Events,
    dirty: Dirty,
    undecodable: BTreeMap<&'static str, Vec<String>>,
    netfilter: Watch,
    poll: Interval,
    /// After a failed dump: when to try again.
    retry: Option<Instant>,
    fault: Option<(String, std::time::Instant)>,
    counts: MirrorHealth,
    /// The view differs from the one last told of.
    news: bool,
}

/// Parts that have to be dumped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Dirty {
    links: bool,
    neighbours: bool,
    rules: bool,
    routes: bool,
    qdiscs: bool,
}

impl Dirty {
    const ALL: Dirty = Dirty { links: true, neighbours: true, rules: true, routes: true, qdiscs: true };

    fn any(self) -> bool {
        self != Dirty::default()
    }

    /// What a message of this type makes doubtful (`RTM_*`).
    fn note(&mut self, kind: u16) {
        match kind {
            // Links take routes, neighbours and rules' interfaces with them.
            16..=19 => *self = Dirty::ALL,
            // Addresses bring and take local routes and those that have them as source.
            20..=23 => self.routes = true,
            24..=27 => self.routes = true,
            28..=31 => self.neighbours = true,
            32..=35 => self.rules = true,
            36..=39 => self.qdiscs = true,
            // netconf: forwarding, rp_filter, ignore_routes_with_linkdown.
            80..=83 => self.links = true,
            // nexthop objects
            104..=107 => self.routes = true,
            _ => {}
        }
    }
}

impl Mirror {
    /// Subscribes, then reads everything once.
    pub async fn open() -> Result<Self, MirrorError> {
        let events = Events::open(NETLINK_ROUTE, &ROUTE_GROUPS).map_err(MirrorError::Listen)?;
        let nft_events = Events::open(NETLINK_NETFILTER, &[NFTABLES_GROUP]).map_err(MirrorError::Listen)?;
        let dumper = Dumper::open(NETLINK_ROUTE).map_err(MirrorError::Listen)?;
        let mut poll = tokio::time::interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut mirror = Mirror {
            view: KernelView::default(),
            dumper,
            events,
            nft_events,
            dirty: Dirty::ALL,
            undecodable: BTreeMap::new(),
            netfilter: Watch::start(),
            poll,
            retry: None,
            fault: None,
            counts: MirrorHealth::default(),
            news: false,
        };
        mirror.view.netfilter = netfilter::read().await?;
        mirror.view.netfilter.translated = still_translated(&mirror.view.netfilter, true)?;
        mirror.view.xfrm = raw::xfrm().map_err(|source| MirrorError::Read { part: "IPsec policies", source })?;
        mirror.refresh()?;
        mirror.news = false;
        Ok(mirror)
    }

    pub fn view(&self) -> &KernelView {
        &self.view
    }

    /// Returns when the view has changed. Cancel-safe.
    ///
    /// # Errors
    ///
    /// Only when the kernel's events cannot be heard any more; a failed read is a fault of [`health`](Self::health).
    pub async fn changed(&mut self) -> Result<(), MirrorError> {
        loop {
            if self.dirty.any() && self.retry.is_none() {
                self.try_refresh();
            }
            if std::mem::take(&mut self.news) {
                return Ok(());
            }
            tokio::select! {
                heard = self.events.heard() => {
                    let heard = heard.map_err(MirrorError::Listen)?;
                    self.note(heard);
                    while let Some(more) = self.events.pending() {
                        self.note(more);
                    }
                }
                heard = self.nft_events.heard() => {
                    heard.map_err(MirrorError::Listen)?;
                    while self.nft_events.pending().is_some() {}
                    self.netfilter.note();
                }
                _ = until(self.retry) => self.retry = None,
                netfilter = self.netfilter.read() => self.take_netfilter(netfilter),
                _ = self.poll.tick() => self.look_around(),
            }
        }
    }

    pub fn health(&self) -> MirrorHealth {
        let fault = self.fault.clone().or(self.netfilter.fault());
        MirrorHealth {
            fault: fault.as_ref().map(|(text, _)| text.clone()),
            faulty_since: fault.map(|(_, since)| since),
            undecodable: self.view.undecodable.len() as u64,
            ..self.counts
        }
    }

    fn note(&mut self, heard: Heard) {
        match heard {
            Heard::Types(types) => types.into_iter().for_each(|kind| self.dirty.note(kind)),
            Heard::Lost => {
                self.counts.lost_events += 1;
                self.counts.resyncs += 1;
                self.dirty = Dirty::ALL;
            }
        }
    }

    fn try_refresh(&mut self) {
        match self.refresh() {
            Ok(()) => self.fault = None,
            Err(error) => {
                let since = self.fault.take().map_or_else(std::time::Instant::now, |(_, since)| since);
                self.fault = Some((error.to_string(), since));
                self.retry = Some(Instant::now() + RETRY_PAUSE);
            }
        }
    }

    /// Dumps what is dirty. A part that fails stays dirty and as it was.
    fn refresh(&mut self) -> Result<(), MirrorError> {
        if self.dirty.links {
            let links = self.dump("links", RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
            let links = each(links, |message| match message {
                RouteNetlinkMessage::NewLink(link) => Some(decode::link(&link)),
                _ => None,
            });
            self.news |= replace(&mut self.view.links, links);
            self.read_sysctls();
            self.dirty.links = false;
        }
        if self.dirty.qdiscs {
            let qdiscs = self.qdiscs()?;
            self.news |= replace(&mut self.view.qdiscs, qdiscs);
            self.dirty.qdiscs = false;
        }
        if self.dirty.neighbours {
            let request = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
            let neighbours = each(self.dump("neighbours", request)?, |message| match message {
                RouteNetlinkMessage::NewNeighbour(neighbour) => decode::neighbour(&neighbour),
                _ => None,
            });
            self.news |= replace(&mut self.view.neighbours, neighbours);
            self.dirty.neighbours = false;
        }
        if self.dirty.rules {
            self.news |= replace(&mut self.view.table_names, TableNames::read());
            let rules = self.rules()?;
            self.news |= replace(&mut self.view.rules, rules);
            self.dirty.rules = false;
        }
        if self.dirty.routes {
            let routes = self.routes()?;
            self.news |= replace(&mut self.view.routes, routes);
            self.dirty.routes = false;
        }
        let undecodable = self.undecodable.values().flatten().cloned().collect();
        self.news |= replace(&mut self.view.undecodable, undecodable);
        Ok(())
    }

    fn qdiscs(&mut self) -> Result<BTreeMap<Ifindex, Qdiscs>, MirrorError> {
        let dumped = self.dump("qdiscs", RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default()))?;
        let mut merged: BTreeMap<Ifindex, Qdiscs> = BTreeMap::new();
        for message in dumped {
            if let RouteNetlinkMessage::NewQueueDiscipline(message) = message
                && let Some((ifindex, one)) = decode::qdisc(&message)
            {
                let both = merged.entry(ifindex).or_default();
                *both = Qdiscs { ingress: both.ingress | one.ingress, root: both.root | one.root };
            }
        }
        // Programs at the same hooks that no qdisc shows. If the kernel does not tell, there may be some.
        for link in self.view.links.iter().filter(|link| !link.is_own_tap()) {
            if shunt_dataplane::has_tcx_programs(link.ifindex).unwrap_or(true) {
                merged.entry(link.ifindex).or_default().ingress = true;
            }
        }
        Ok(merged)
    }

    fn rules(&mut self) -> Result<Vec<Rule>, MirrorError> {
        let mut rules = Vec::new();
        for family in Family::BOTH {
            let mut request = RuleMessage::default();
            request.header.family = number(family);
            let dumped = self.dump(of(family, ["rules", "IPv6 rules"]), RouteNetlinkMessage::GetRule(request))?;
            let names = &self.view.table_names;
            rules.extend(each(dumped, |message| match message {
                RouteNetlinkMessage::NewRule(rule) => decode::rule(&rule, names),
                _ => None,
            }));
        }
        Ok(rules)
    }

    fn routes(&mut self) -> Result<Vec<Route>, MirrorError> {
        let mut routes = Vec::new();
        for family in Family::BOTH {
            let mut request = RouteMessage::default();
            request.header.address_family = number(family);
            let dumped = self.dump(of(family, ["routes", "IPv6 routes"]), RouteNetlinkMessage::GetRoute(request))?;
            let names: HashMap<Ifindex, &str> =
                self.view.links.iter().map(|link| (link.ifindex, link.name.as_str())).collect();
            let ignore_linkdown = self.view.sysctls.ignore_linkdown;
            routes.extend(each(dumped, |message| match message {
                RouteNetlinkMessage::NewRoute(route) => decode::route(&route, &names, ignore_linkdown),
                _ => None,
            }));
        }
        decode::mark_ambiguous(&mut routes);
        Ok(routes)
    }

    fn dump(
        &mut self,
        part: &'static str,
        request: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, MirrorError> {
        let Dump { messages, undecodable, retried } =
            self.dumper.dump(request).map_err(|source| MirrorError::Read { part, source })?;
        self.counts.retried_dumps += retried;
        self.undecodable.insert(part, undecodable);
        Ok(messages)
    }

    fn read_sysctls(&mut self) {
        let sysctls = Sysctls::read(self.view.links.iter().map(|link| link.name.as_str()));
        // Whether a route without carrier counts is decided as it is decoded.
        self.dirty.routes |= sysctls.ignore_linkdown != self.view.sysctls.ignore_linkdown;
        self.news |= replace(&mut self.view.sysctls, sysctls);
    }

    /// What gives no event.
    fn look_around(&mut self) {
        // Programs come to the tc hooks without one.
        self.dirty.qdiscs = true;
        self.read_sysctls();
        if let Ok(xfrm) = raw::xfrm() {
            self.news |= replace(&mut self.view.xfrm, xfrm);
        }
        self.netfilter.look_around();
        if !self.view.netfilter.translated.is_empty() {
            self.follow_translations();
        }
    }

    fn take_netfilter(&mut self, mut netfilter: Netfilter) {
        // Connections stay translated when the rule that made them goes.
        let had = !self.view.netfilter.translated.is_empty()
            || Family::BOTH.iter().any(|family| self.view.netfilter.has_nat_rules(*family));
        match still_translated(&netfilter, had) {
            Ok(translated) => netfilter.translated = translated,
            Err(_) => netfilter.translated.clone_from(&self.view.netfilter.translated),
        }
        self.news |= replace(&mut self.view.netfilter, netfilter);
    }

    fn follow_translations(&mut self) {
        if let Ok(translated) = still_translated(&self.view.netfilter, true) {
            self.news |= replace(&mut self.view.netfilter.translated, translated);
        }
    }
}

/// Families with translated connections but without nat rules; with rules the question does not arise. Asked only if `had` any.
fn still_translated(netfilter: &Netfilter, had: bool) -> Result<Vec<Family>, MirrorError> {
    if !had || Family::BOTH.iter().all(|family| netfilter.has_nat_rules(*family)) {
        return Ok(Vec::new());
    }
    let read = raw::translated().map_err(|source| MirrorError::Read { part: "connections", source })?;
    Ok(read.into_iter().filter(|family| !netfilter.has_nat_rules(*family)).collect())
}

/// Puts in the new value and says whether it is another one.
fn replace<T: PartialEq>(old: &mut T, new: T) -> bool {
    let differs = *old != new;
    *old = new;
    differs
}

async fn until(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => pending().await,
    }
}

fn each<T>(messages: Vec<RouteNetlinkMessage>, decode: impl FnMut(RouteNetlinkMessage) -> Option<T>) -> Vec<T> {
    messages.into_iter().filter_map(decode).collect()
}

fn number(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

fn of<T: Copy>(family: Family, [v4, v6]: [T; 2]) -> T {
    match family {
        Family::V4 => v4,
        Family::V6 => v6,
    }
}
