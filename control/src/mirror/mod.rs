//! Keeps a copy of the kernel's rules.
//!
//! Events are hints, dumps are truth: an event says which part to dump anew, because much vanishes without one. Only routes and
//! neighbours, of which there may be a million, are followed message by message (see [`routes`]). A failed read keeps the last good
//! copy and is a fault that the operator sees.

mod attributes;
mod decode;
pub mod netfilter;
mod netlink;
pub mod oracle;
mod raw;
mod routes;
mod sysctl;
mod tables;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use shunt_policy::config::{Neighbour, NexthopObject, Rule};
use shunt_policy::{Family, Ifindex, Mac};
use tokio::time::{Instant, Interval, MissedTickBehavior, sleep_until};

use attributes::Request;
use decode::Undecodable;
use netfilter::{Fault, Netfilter, Watch};
use netlink::{Dumper, Events, Heard, each_message};
pub use routes::Audit;
use routes::RouteTables;
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

/// Message types, `RTM_*`.
mod rtm {
    pub(super) const GETLINK: u16 = 18;
    pub(super) const GETADDR: u16 = 22;
    pub(super) const NEWROUTE: u16 = 24;
    pub(super) const DELROUTE: u16 = 25;
    pub(super) const NEWNEIGH: u16 = 28;
    pub(super) const DELNEIGH: u16 = 29;
    pub(super) const GETNEIGH: u16 = 30;
    pub(super) const GETRULE: u16 = 34;
    pub(super) const GETQDISC: u16 = 38;
    pub(super) const GETNEXTHOP: u16 = 106;
    pub(super) const GETNEXTHOPBUCKET: u16 = 118;
}

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
#[derive(Clone, Debug)]
pub struct MirrorHealth {
    /// What fails at the moment.
    pub fault: Option<String>,
    pub faulty_since: Option<std::time::Instant>,
    pub counts: Counts,
    /// Messages of the present copy that could not be decoded.
    pub undecodable: u64,
    /// Routes are being dumped because what we hold may be wrong.
    pub in_doubt: bool,
    pub audit: Audit,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// How often the kernel had to throw events away.
    pub lost_events: u64,
    /// How often everything was dumped anew because of that.
    pub resyncs: u64,
    /// Dumps that a change had interrupted, and that were taken again.
    pub retried_dumps: u64,
}

/// Which parts of the view are not what they were.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// Links, addresses, sysctls, qdiscs.
    pub links: bool,
    pub neighbours: bool,
    pub rules: bool,
    pub routes: bool,
    pub nexthops: bool,
    /// Netfilter, IPsec, messages that cannot be decoded.
    pub netfilter: bool,
}

impl Changes {
    pub const ALL: Changes =
        Changes { links: true, neighbours: true, rules: true, routes: true, nexthops: true, netfilter: true };

    fn any(self) -> bool {
        self != Changes::default()
    }
}

/// A copy of this network namespace's rules, and the ears to keep it.
pub struct Mirror {
    view: KernelView,
    routes: RouteTables,
    neighbours: BTreeMap<(Ifindex, IpAddr), Option<Mac>>,
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
    counts: Counts,
    /// What differs from the view last told of.
    news: Changes,
}

/// Parts that have to be dumped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Dirty {
    links: bool,
    addresses: bool,
    neighbours: bool,
    rules: bool,
    nexthops: bool,
    qdiscs: bool,
}

impl Dirty {
    const ALL: Dirty =
        Dirty { links: true, addresses: true, neighbours: true, rules: true, nexthops: true, qdiscs: true };

    fn any(self) -> bool {
        self != Dirty::default()
    }

    /// What a message of this type makes doubtful.
    fn note(&mut self, kind: u16) {
        match kind {
            16..=19 => (self.links, self.qdiscs) = (true, true),
            20..=23 => self.addresses = true,
            32..=35 => self.rules = true,
            36..=39 => self.qdiscs = true,
            // netconf: forwarding, rp_filter, ignore_routes_with_linkdown.
            80..=83 => self.links = true,
            // Objects and their buckets.
            104..=107 | 116..=119 => self.nexthops = true,
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
        let routes = RouteTables::read().await.map_err(|source| MirrorError::Read { part: "routes", source })?;
        let mut poll = tokio::time::interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut mirror = Mirror {
            view: KernelView { tables: routes.tables().clone(), ..KernelView::default() },
            routes,
            neighbours: BTreeMap::new(),
            dumper,
            events,
            nft_events,
            dirty: Dirty::ALL,
            undecodable: BTreeMap::new(),
            netfilter: Watch::start(),
            poll,
            retry: None,
            fault: None,
            counts: Counts::default(),
            news: Changes::default(),
        };
        mirror.view.netfilter = netfilter::read().await?;
        mirror.view.netfilter.translated = still_translated(&mirror.view.netfilter, true)?;
        mirror.view.xfrm = raw::xfrm().map_err(|source| MirrorError::Read { part: "IPsec policies", source })?;
        mirror.refresh()?;
        mirror.news = Changes::ALL;
        mirror.tell();
        Ok(mirror)
    }

    pub fn view(&self) -> &KernelView {
        &self.view
    }

    /// Returns when the view has changed, and what of it. Cancel-safe.
    ///
    /// # Errors
    ///
    /// Only when the kernel's events cannot be heard any more; a failed read is a fault of [`health`](Self::health).
    pub async fn changed(&mut self) -> Result<Changes, MirrorError> {
        loop {
            if self.dirty.any() && self.retry.is_none() {
                self.try_refresh();
            }
            if self.news.any() {
                return Ok(self.tell());
            }
            self.routes.begin_if_due();
            let routes_due = self.routes.due().map(Instant::from_std);
            tokio::select! {
                heard = self.events.heard() => {
                    let heard = heard.map_err(MirrorError::Listen)?;
                    note(heard, &mut self.dirty, &mut self.counts, &mut self.routes, &mut self.neighbours, &mut self.news);
                    self.hear_pending();
                }
                heard = self.nft_events.heard() => {
                    heard.map_err(MirrorError::Listen)?;
                    while self.nft_events.pending().is_some() {}
                    self.netfilter.note();
                }
                done = self.routes.done() => {
                    self.hear_pending();
                    let finished = self.routes.finish(done);
                    self.take_routes(finished);
                }
                _ = until(routes_due) => {}
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
            counts: self.counts,
            in_doubt: self.routes.is_dirty(),
            audit: self.routes.audit(),
        }
    }

    /// All that has arrived by now.
    fn hear_pending(&mut self) {
        while let Some(heard) = self.events.pending() {
            note(heard, &mut self.dirty, &mut self.counts, &mut self.routes, &mut self.neighbours, &mut self.news);
        }
    }

    /// Brings the view up to what is held, and forgets the news.
    fn tell(&mut self) -> Changes {
        let news = std::mem::take(&mut self.news);
        if news.routes {
            self.view.tables = self.routes.tables().clone();
        }
        if news.neighbours {
            let list = self.neighbours.iter();
            let list =
                list.map(|((ifindex, address), mac)| Neighbour { ifindex: *ifindex, address: *address, mac: *mac });
            self.view.neighbours = Arc::new(list.collect());
        }
        news
    }

    fn take_routes(&mut self, finished: io::Result<routes::Finished>) {
        match finished {
            Ok(finished) => {
                self.counts.retried_dumps += finished.retried;
                self.news.routes |= finished.changed;
                self.undecodable.insert("routes", self.routes.undecodable().cloned().collect());
                self.collect_undecodable();
                self.fault = None;
            }
            Err(source) => self.fail(&MirrorError::Read { part: "routes", source }),
        }
    }

    fn fail(&mut self, error: &MirrorError) {
        let since = self.fault.take().map_or_else(std::time::Instant::now, |(_, since)| since);
        self.fault = Some((error.to_string(), since));
        self.retry = Some(Instant::now() + RETRY_PAUSE);
    }

    fn try_refresh(&mut self) {
        match self.refresh() {
            Ok(()) => self.fault = None,
            Err(error) => self.fail(&error),
        }
    }

    /// Dumps what is dirty. A part that fails stays dirty and as it was.
    fn refresh(&mut self) -> Result<(), MirrorError> {
        if self.dirty.links {
            self.links()?;
            self.read_sysctls();
            self.dirty.links = false;
        }
        if self.dirty.addresses {
            let addressed: BTreeSet<Ifindex> =
                self.dump("addresses", rtm::GETADDR, &[number(Family::V4), 0, 0, 0, 0, 0, 0, 0], addressed)?;
            // With the last address of an interface, or with that which is its source, a route goes without a word.
            if addressed != self.view.addressed {
                self.routes.doubt(Family::V4);
            }
            self.news.links |= replace(&mut self.view.addressed, addressed);
            self.dirty.addresses = false;
        }
        if self.dirty.qdiscs {
            let qdiscs = self.qdiscs()?;
            self.news.links |= replace(&mut self.view.qdiscs, qdiscs);
            self.dirty.qdiscs = false;
        }
        if self.dirty.neighbours {
            let all = self.dump("neighbours", rtm::GETNEIGH, &[0; 12], |all: &mut BTreeMap<_, _>, message| {
                if let Some(RouteNetlinkMessage::NewNeighbour(neighbour)) = netlink::decoded(message) {
                    all.extend(decode::neighbour(&neighbour).map(|n| ((n.ifindex, n.address), n.mac)));
                }
                Ok(())
            })?;
            self.news.neighbours |= replace(&mut self.neighbours, all);
            self.dirty.neighbours = false;
        }
        if self.dirty.rules {
            self.view.table_names = TableNames::read();
            let rules = self.rules()?;
            if rules != *self.view.rules {
                self.view.rules = Arc::new(rules);
                self.news.rules = true;
            }
            self.dirty.rules = false;
        }
        if self.dirty.nexthops {
            let nexthops = self.nexthops()?;
            if nexthops != *self.view.nexthops {
                // An object takes its routes along.
                if self.view.nexthops.keys().any(|id| !nexthops.contains_key(id)) {
                    Family::BOTH.iter().for_each(|family| self.routes.doubt(*family));
                }
                self.view.nexthops = Arc::new(nexthops);
                self.news.nexthops = true;
            }
            self.dirty.nexthops = false;
        }
        self.collect_undecodable();
        Ok(())
    }

    fn collect_undecodable(&mut self) {
        let undecodable = self.undecodable.values().flatten().cloned().collect();
        self.news.netfilter |= replace(&mut self.view.undecodable, undecodable);
    }

    fn links(&mut self) -> Result<(), MirrorError> {
        let links: Vec<KernelLink> = self.dump("links", rtm::GETLINK, &[0; 16], |links: &mut Vec<_>, message| {
            match netlink::decoded(message) {
                Some(RouteNetlinkMessage::NewLink(link)) => links.push(decode::link(&link)),
                _ => return Err(Undecodable("link")),
            }
            Ok(())
        })?;
        // Going down, coming up, leaving and appearing take and bring routes, neighbours and nexthop objects; the carrier alone
        // makes next hops dead or alive where dead ones are ignored (`fib_nexthop_info`).
        let state = |links: &[KernelLink]| {
            links.iter().map(|link| (link.ifindex, link.up, link.carrier)).collect::<BTreeSet<_>>()
        };
        let (before, now) = (state(&self.view.links), state(&links));
        for (ifindex, ..) in before.symmetric_difference(&now) {
            self.routes.doubt_interface(*ifindex);
            (self.dirty.neighbours, self.dirty.nexthops, self.dirty.addresses) = (true, true, true);
        }
        self.news.links |= replace(&mut self.view.links, links);
        Ok(())
    }

    fn qdiscs(&mut self) -> Result<BTreeMap<Ifindex, Qdiscs>, MirrorError> {
        let mut merged =
            self.dump("qdiscs", rtm::GETQDISC, &[0; 20], |merged: &mut BTreeMap<Ifindex, Qdiscs>, message| {
                if let Some(RouteNetlinkMessage::NewQueueDiscipline(message)) = netlink::decoded(message)
                    && let Some((ifindex, one)) = decode::qdisc(&message)
                {
                    let both = merged.entry(ifindex).or_default();
                    *both = Qdiscs { ingress: both.ingress | one.ingress, root: both.root | one.root };
                }
                Ok(())
            })?;
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
            let names = self.view.table_names.clone();
            let mut fixed = [0; 12];
            fixed[0] = number(family);
            let part = of(family, ["rules", "IPv6 rules"]);
            rules.extend(self.dump(part, rtm::GETRULE, &fixed, |rules: &mut Vec<_>, message| {
                rules.extend(decode::rule(message, &names)?);
                Ok(())
            })?);
        }
        Ok(rules)
    }

    fn nexthops(&mut self) -> Result<BTreeMap<u32, NexthopObject>, MirrorError> {
        let objects = |objects: &mut BTreeMap<_, _>, message: &[u8]| {
            let (id, object) = decode::nexthop(message)?;
            objects.insert(id, object);
            Ok(())
        };
        let mut objects = self.dump("nexthops", rtm::GETNEXTHOP, &[0; 8], objects)?;
        if !objects.values().any(|object| matches!(object, NexthopObject::Resilient { .. })) {
            return Ok(objects);
        }
        let buckets = |buckets: &mut Vec<_>, message: &[u8]| {
            buckets.push(decode::bucket(message)?);
            Ok(())
        };
        let mut all: Vec<decode::Bucket> = self.dump("nexthop buckets", rtm::GETNEXTHOPBUCKET, &[0; 8], buckets)?;
        all.sort_by_key(|bucket| (bucket.group, bucket.index));
        for bucket in all {
            if let Some(NexthopObject::Resilient { buckets, .. }) = objects.get_mut(&bucket.group) {
                buckets.push(bucket.member);
            }
        }
        Ok(objects)
    }

    /// Dumps one part. What `take` cannot decode is kept by name: such a thing may decide anything.
    fn dump<T: Default>(
        &mut self,
        part: &'static str,
        kind: u16,
        fixed: &[u8],
        take: impl Fn(&mut T, &[u8]) -> Result<(), Undecodable>,
    ) -> Result<T, MirrorError> {
        let request = Request::new(kind, NLM_F_REQUEST | NLM_F_DUMP, fixed);
        let dumped = self.dumper.dump(&request, |(all, undecodable): &mut (T, Vec<String>), message| {
            if let Err(error) = take(all, message) {
                undecodable.push(error.to_string());
            }
        });
        let ((all, undecodable), retried) = dumped.map_err(|source| MirrorError::Read { part, source })?;
        self.counts.retried_dumps += retried;
        self.undecodable.insert(part, undecodable);
        Ok(all)
    }

    fn read_sysctls(&mut self) {
        let sysctls = Sysctls::read(self.view.links.iter().map(|link| link.name.as_str()));
        for link in &self.view.links {
            let ignores = |sysctls: &Sysctls| {
                let of_link = sysctls.links.get(&link.name)?;
                Some((of_link.ignore_linkdown4, of_link.ignore_linkdown6))
            };
            // Dead next hops are marked in dumps, and nothing tells when the mark goes.
            if !link.carrier && ignores(&sysctls) != ignores(&self.view.sysctls) {
                self.routes.doubt_interface(link.ifindex);
                self.dirty.nexthops = true;
            }
        }
        self.news.links |= replace(&mut self.view.sysctls, sysctls);
    }

    /// What gives no event.
    fn look_around(&mut self) {
        // Programs come to the tc hooks without one.
        self.dirty.qdiscs = true;
        self.read_sysctls();
        if let Ok(xfrm) = raw::xfrm() {
            self.news.netfilter |= replace(&mut self.view.xfrm, xfrm);
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
        self.news.netfilter |= replace(&mut self.view.netfilter, netfilter);
    }

    fn follow_translations(&mut self) {
        if let Ok(translated) = still_translated(&self.view.netfilter, true) {
            self.news.netfilter |= replace(&mut self.view.netfilter.translated, translated);
        }
    }
}

/// Takes in what was heard: routes and neighbours at once, of all else that it is to be dumped.
fn note(
    heard: Heard<'_>,
    dirty: &mut Dirty,
    counts: &mut Counts,
    routes: &mut RouteTables,
    neighbours: &mut BTreeMap<(Ifindex, IpAddr), Option<Mac>>,
    news: &mut Changes,
) {
    let Heard::Datagram(datagram) = heard else {
        counts.lost_events += 1;
        counts.resyncs += 1;
        *dirty = Dirty::ALL;
        Family::BOTH.iter().for_each(|family| routes.doubt(*family));
        return;
    };
    let taken = each_message(datagram, |header, message| {
        match header.message_type() {
            kind @ (rtm::NEWROUTE | rtm::DELROUTE) => {
                news.routes |= routes.hear(kind == rtm::NEWROUTE, header.flags(), message);
            }
            rtm::NEWNEIGH | rtm::DELNEIGH => match netlink::decoded(message) {
                Some(RouteNetlinkMessage::NewNeighbour(one)) => {
                    if let Some(Neighbour { ifindex, address, mac }) = decode::neighbour(&one) {
                        news.neighbours |= neighbours.insert((ifindex, address), mac) != Some(mac);
                    }
                }
                Some(RouteNetlinkMessage::DelNeighbour(one)) => {
                    if let Some(Neighbour { ifindex, address, .. }) = decode::neighbour(&one) {
                        news.neighbours |= neighbours.remove(&(ifindex, address)).is_some();
                    }
                }
                _ => dirty.neighbours = true,
            },
            kind => dirty.note(kind),
        }
        Ok(())
    });
    // Nothing above fails; a datagram that is cut short simply ends.
    let _ = taken;
}

/// The interface of an IPv4 address (`struct ifaddrmsg`).
fn addressed(all: &mut BTreeSet<Ifindex>, message: &[u8]) -> Result<(), Undecodable> {
    let index = message.get(attributes::HEADER + 4..).and_then(<[u8]>::first_chunk::<4>);
    all.insert(Ifindex(index.map(|index| u32::from_ne_bytes(*index)).ok_or(Undecodable("address"))?));
    Ok(())
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

/// `AF_*`
fn number(family: Family) -> u8 {
    of(family, [libc::AF_INET as u8, libc::AF_INET6 as u8])
}

fn of<T: Copy>(family: Family, [v4, v6]: [T; 2]) -> T {
    match family {
        Family::V4 => v4,
        Family::V6 => v6,
    }
}
