//! Keeps a copy of the kernel's rules.
//!
//! Events are hints, dumps are truth: an event says which part to dump anew, because much vanishes without one. Only routes and
//! neighbours, of which there may be a million, are followed message by message (see [`routes`]). A failed read keeps the last good
//! copy and is a fault that the operator sees.

pub(crate) mod attributes;
mod audit;
mod decode;
pub mod drivers;
mod ears;
mod health;
#[cfg(test)]
mod junk;
pub mod netfilter;
pub(crate) mod netlink;
pub mod oracle;
mod part;
mod paths;
mod raw;
mod read;
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

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use shunt_policy::config::Neighbour;
use shunt_policy::{Family, Ifindex};
use tokio::time::{Instant, Interval, MissedTickBehavior, sleep_until};

pub use attributes::Request;
use audit::Rounds;
pub use decode::neighbour::{nda, ntf};
use ears::Ears;
use health::LastRead;
pub use health::{Counts, MirrorHealth};
use netfilter::{Fault, Netfilter, Watch};
pub use netlink::EVENT_BUFFER;
use netlink::{Dumper, Events, Heard};
use part::POLL;
pub use part::Part;
use paths::Paths;
pub use routes::{AUDIT_PAUSE, Audit};
use routes::{Done, RouteTables};
pub use sysctl::{LinkSysctls, Sysctls};
pub use tables::TableNames;
pub use view::{KernelAddress, KernelLink, KernelNeighbour, KernelView, Layer, Qdiscs};

/// `RTNLGRP_*` of `linux/rtnetlink.h`: link, neigh, tc, IPv4 address, route and rule, IPv6 address, route and rule, IPv4 and IPv6
/// netconf, nexthop.
const ROUTE_GROUPS: [u32; 12] = [1, 3, 4, 5, 7, 8, 9, 11, 19, 24, 25, 32];
/// `NFNLGRP_NFTABLES`.
const NFTABLES_GROUP: u32 = 7;
/// So many datagrams are taken in at once: what never rests must not keep the daemon from all else.
const AT_ONCE: usize = 4096;
/// After a failed read.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Message types, `RTM_*`.
pub mod rtm {
    pub(super) const GETLINK: u16 = 18;
    pub(super) const GETADDR: u16 = 22;
    pub(super) const NEWROUTE: u16 = 24;
    pub(super) const DELROUTE: u16 = 25;
    pub(super) const GETROUTE: u16 = 26;
    pub const NEWNEIGH: u16 = 28;
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

/// Which parts of the view are not what they were.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// Links, addresses, sysctls, qdiscs, path MTUs.
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

    pub const LINKS: Changes =
        Changes { links: true, neighbours: false, rules: false, routes: false, nexthops: false, netfilter: false };

    fn any(self) -> bool {
        self != Changes::default()
    }
}

/// A copy of this network namespace's rules, and the ears to keep it.
pub struct Mirror {
    view: KernelView,
    routes: RouteTables,
    /// A dump of routes that waits until all is heard that came before its end.
    ended: Option<Done>,
    neighbours: Neighbours,
    dumper: Dumper,
    events: Events,
    nft_events: Events,
    /// What has to be dumped.
    dirty: BTreeSet<Part>,
    /// Interfaces whose next hops die with their carrier (`ignore_routes_with_linkdown`).
    carrier_counts: BTreeSet<Ifindex>,
    undecodable: BTreeMap<&'static str, Vec<String>>,
    netfilter: Watch,
    paths: Paths,
    poll: Interval,
    /// After a failed dump: when to try again.
    retry: Option<Instant>,
    fault: Option<FaultSince>,
    /// Routes are dumped by themselves: that all else can be read says nothing of them.
    route_fault: Option<FaultSince>,
    counts: Counts,
    last_read: LastRead,
    /// When the view was last known to equal the kernel.
    equal: std::time::Instant,
    audit: Rounds,
    /// While everything is read anew.
    reload: Option<Reload>,
    /// What differs from the view last told of.
    news: Changes,
}

struct Reload {
    begun: std::time::Instant,
    differed: BTreeSet<Part>,
}

/// The neighbour table of all interfaces.
pub type Neighbours = BTreeMap<(Ifindex, IpAddr), KernelNeighbour>;

impl Mirror {
    /// Subscribes, then reads everything once. `room` is the receive buffer for events, in bytes.
    pub async fn open(room: usize) -> Result<Self, MirrorError> {
        let events = Events::open(NETLINK_ROUTE, &ROUTE_GROUPS, room).map_err(MirrorError::Listen)?;
        let nft_events = Events::open(NETLINK_NETFILTER, &[NFTABLES_GROUP], room).map_err(MirrorError::Listen)?;
        let dumper = Dumper::open(NETLINK_ROUTE).map_err(MirrorError::Listen)?;
        let routes = RouteTables::read().await.map_err(|source| MirrorError::Read { part: "routes", source })?;
        let mut poll = tokio::time::interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut mirror = Mirror {
            view: KernelView { tables: routes.tables().clone(), ..KernelView::default() },
            routes,
            ended: None,
            neighbours: Neighbours::new(),
            dumper,
            events,
            nft_events,
            carrier_counts: BTreeSet::new(),
            dirty: Part::DUMPED.into(),
            undecodable: BTreeMap::new(),
            netfilter: Watch::start(),
            paths: Paths::default(),
            poll,
            retry: None,
            fault: None,
            route_fault: None,
            counts: Counts::default(),
            last_read: LastRead::now(),
            equal: std::time::Instant::now(),
            audit: Rounds::begin(),
            reload: None,
            news: Changes::default(),
        };
        mirror.view.netfilter = Netfilter::read().await?;
        mirror.view.xfrm = raw::xfrm().map_err(|source| MirrorError::Read { part: "IPsec policies", source })?;
        mirror.refresh()?;
        mirror.look_at_paths();
        if !mirror.hear_pending() || mirror.news.routes {
            // It may have come in between while the routes were dumped, which spoils a dump of IPv6.
            mirror.routes.doubt(Family::V6);
        }
        mirror.news = Changes::ALL;
        mirror.tell();
        Ok(mirror)
    }

    pub fn view(&self) -> &KernelView {
        &self.view
    }

    /// With what the view does not need of them.
    pub fn neighbours(&self) -> &Neighbours {
        &self.neighbours
    }

    /// Returns when the view has changed, and what of it. Cancel-safe.
    ///
    /// # Errors
    ///
    /// Only when the kernel's events cannot be heard any more; a failed read is a fault of [`health`](Self::health).
    pub async fn changed(&mut self) -> Result<Changes, MirrorError> {
        loop {
            if !self.dirty.is_empty() && self.retry.is_none() {
                self.try_refresh();
            }
            if self.ended.is_some() && self.hear_pending() {
                // What was heard of links and objects may cast doubt on routes: then the difference is no surprise.
                self.try_refresh();
                if let Some(done) = self.ended.take() {
                    let finished = self.routes.finish(done);
                    self.take_routes(finished);
                }
            }
            if self.news.any() {
                return Ok(self.tell());
            }
            self.routes.begin_if_due();
            if self.in_step() {
                self.equal = std::time::Instant::now();
            }
            let routes_due = self.routes.due().map(Instant::from_std);
            tokio::select! {
                heard = self.events.heard() => {
                    let mut ears = Ears {
                        carrier_counts: &self.carrier_counts,
                        dirty: &mut self.dirty,
                        counts: &mut self.counts,
                        routes: &mut self.routes,
                        neighbours: &mut self.neighbours,
                        audit: &mut self.audit,
                        news: &mut self.news,
                    };
                    ears.note(heard.map_err(MirrorError::Listen)?);
                    self.hear_pending();
                }
                heard = self.nft_events.heard() => {
                    let heard = heard.map_err(MirrorError::Listen)?;
                    note_netfilter(heard, &mut self.counts, &mut self.netfilter);
                    for _ in 0..AT_ONCE {
                        let Some(heard) = self.nft_events.pending() else { break };
                        note_netfilter(heard, &mut self.counts, &mut self.netfilter);
                    }
                }
                done = self.routes.done(), if self.ended.is_none() => self.ended = Some(done),
                _ = until(routes_due) => {}
                _ = until(self.retry) => self.retry = None,
                (netfilter, told) = self.netfilter.read() => self.take_netfilter(netfilter, told),
                _ = self.poll.tick() => self.look_around(),
            }
        }
    }

    /// Takes in what has been told by now, and says whether that was all. What of it is news, [`changed`](Self::changed) says.
    pub fn hear_pending(&mut self) -> bool {
        let Self { events, dirty, counts, routes, neighbours, audit, news, carrier_counts, .. } = self;
        let mut ears = Ears { dirty, counts, routes, neighbours, audit, news, carrier_counts };
        for _ in 0..AT_ONCE {
            match events.pending() {
                Some(heard) => ears.note(heard),
                None => return true,
            }
        }
        false
    }

    /// What [`changed`](Self::changed) would say at once, if anything.
    pub fn caught_up(&mut self) -> Option<Changes> {
        self.hear_pending();
        if !self.dirty.is_empty() && self.retry.is_none() {
            self.try_refresh();
        }
        self.news.any().then(|| self.tell())
    }

    /// Reads everything anew; [`reloaded`](Self::reloaded) says when that is done.
    pub fn reload(&mut self) {
        let differed = self.reload.take().map(|reload| reload.differed).unwrap_or_default();
        self.reload = Some(Reload { begun: std::time::Instant::now(), differed });
        self.dirty.extend(Part::DUMPED);
        Family::BOTH.iter().for_each(|family| self.routes.doubt(*family));
        self.look_around();
        self.netfilter.doubt();
    }

    /// Once after a [`reload`](Self::reload): which parts had not been as the kernel's.
    pub fn reloaded(&mut self) -> Option<BTreeSet<Part>> {
        let begun = self.reload.as_ref()?.begun;
        // Where something changes all the time no moment may be without a doubt.
        let done = self.in_step() || !self.news.any() && self.last_read.all_since(begun);
        if done { self.reload.take().map(|reload| reload.differed) } else { None }
    }

    /// Brings the view up to what is held, and forgets the news.
    fn tell(&mut self) -> Changes {
        let news = std::mem::take(&mut self.news);
        if news.routes {
            self.view.tables = self.routes.tables().clone();
        }
        if news.neighbours {
            let list = self.neighbours.iter();
            let list = list.map(|((ifindex, address), KernelNeighbour { mac, valid, .. })| Neighbour {
                ifindex: *ifindex,
                address: *address,
                mac: *mac,
                valid: *valid,
            });
            self.view.neighbours = Arc::new(list.collect());
        }
        news
    }

    fn fail(&mut self, error: &MirrorError) {
        keep_fault(&mut self.fault, error);
        self.retry = Some(Instant::now() + RETRY_PAUSE);
    }

    fn try_refresh(&mut self) {
        match self.refresh() {
            Ok(()) => self.fault = None,
            Err(error) => self.fail(&error),
        }
    }

    /// The part was not as the kernel's.
    fn differed(&mut self, part: Part) {
        if let Some(reload) = &mut self.reload {
            reload.differed.insert(part);
        }
    }
}

/// What fails, and since when.
type FaultSince = (String, std::time::Instant);

fn keep_fault(fault: &mut Option<FaultSince>, error: &MirrorError) {
    let since = fault.take().map_or_else(std::time::Instant::now, |(_, since)| since);
    *fault = Some((error.to_string(), since));
}

fn note_netfilter(heard: Heard<'_>, counts: &mut Counts, netfilter: &mut Watch) {
    match heard {
        Heard::Datagram(_) => {}
        Heard::Lost => (counts.lost_events, counts.resyncs) = (counts.lost_events + 1, counts.resyncs + 1),
        Heard::Stranger => return counts.strangers += 1,
    }
    netfilter.note();
}

async fn until(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => pending().await,
    }
}

/// `AF_*`
pub fn number(family: Family) -> u8 {
    of(family, [libc::AF_INET as u8, libc::AF_INET6 as u8])
}

fn of<T: Copy>(family: Family, [v4, v6]: [T; 2]) -> T {
    match family {
        Family::V4 => v4,
        Family::V6 => v6,
    }
}
