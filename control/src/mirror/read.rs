//! Reads the parts, one dump each. What cannot be read stays as it was, and dirty.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use shunt_policy::config::{NexthopObject, Rule};
use shunt_policy::{Family, Ifindex};

use super::attributes::Request;
use super::decode::{self, Undecodable};
use super::netfilter::Netfilter;
use super::netlink::Dumper;
use super::part::Part;
use super::routes::{Finished, RouteTables};
use super::view::{KernelAddress, KernelLink, Qdiscs};
use super::{Mirror, MirrorError, Neighbours, Sysctls, TableNames, keep_fault, netlink, number, of, raw, rtm};

impl Mirror {
    /// Dumps what is dirty. A part that fails stays dirty and as it was.
    pub(super) fn refresh(&mut self) -> Result<(), MirrorError> {
        for part in Part::DUMPED {
            if self.dirty.contains(&part) {
                self.read(part)?;
                self.dirty.remove(&part);
            }
        }
        Ok(())
    }

    /// Reads one part of [`Part::DUMPED`]. Says whether it was not as the kernel's.
    pub(super) fn read(&mut self, part: Part) -> Result<bool, MirrorError> {
        let differs = match part {
            Part::Links => self.read_links()?,
            Part::Sysctls => self.read_sysctls(),
            Part::Addresses => self.read_addresses()?,
            Part::TrafficControl => self.read_qdiscs()?,
            Part::Neighbours => self.read_neighbours()?,
            Part::Rules => self.read_rules()?,
            Part::Nexthops => self.read_nexthops()?,
            // They have ways of their own.
            Part::Routes | Part::Nftables | Part::IptablesLegacy | Part::Ipset | Part::Xfrm | Part::PathMtus => false,
        };
        self.last_read.note(part);
        if differs {
            self.differed(part);
        }
        self.collect_undecodable();
        Ok(differs)
    }

    fn collect_undecodable(&mut self) {
        let undecodable = self.undecodable.values().flatten().cloned().collect();
        self.news.netfilter |= replace(&mut self.view.undecodable, undecodable);
    }

    fn read_links(&mut self) -> Result<bool, MirrorError> {
        let links: Vec<KernelLink> = self.dump("links", rtm::GETLINK, &[0; 16], |links: &mut Vec<_>, message| {
            match netlink::decoded(message) {
                Some(RouteNetlinkMessage::NewLink(link)) => links.push(decode::link(&link)),
                _ => return Err(Undecodable("link")),
            }
            Ok(())
        })?;
        // Going down, coming up, leaving and appearing take and bring routes, neighbours and nexthop objects without a word. So
        // does the carrier with nexthop objects (nh_netdev_event), and the MTU changes that of IPv6 routes (rt6_mtu_change_route).
        // Dead next hops of IPv6 come alive when the link runs, which is later than that it is up and has a carrier (rt6_sync_up).
        type State = (bool, bool, bool, u32);
        let state = |links: &[KernelLink]| -> BTreeMap<Ifindex, State> {
            links.iter().map(|link| (link.ifindex, (link.up, link.carrier, link.running, link.mtu))).collect()
        };
        let (before, now) = (state(&self.view.links), state(&links));
        for ifindex in before.keys().chain(now.keys()).filter(|ifindex| before.get(ifindex) != now.get(ifindex)) {
            self.routes.doubt_interface(*ifindex);
            self.dirty.extend([Part::Neighbours, Part::Nexthops, Part::Addresses]);
            let carrier = |of: &BTreeMap<Ifindex, State>| of.get(ifindex).map(|state| state.1);
            if carrier(&before) != carrier(&now) {
                note_unread(&mut self.view.unread_carriers, &self.routes, *ifindex);
            }
        }
        // nftables holds some interfaces by their number and prints them by their name of the moment.
        let names = |links: &[KernelLink]| -> BTreeMap<Ifindex, String> {
            links.iter().map(|link| (link.ifindex, link.name.clone())).collect()
        };
        if names(&self.view.links) != names(&links) {
            self.netfilter.doubt();
        }
        let differs = replace(&mut self.view.links, links);
        self.news.links |= differs;
        Ok(differs)
    }

    fn read_sysctls(&mut self) -> bool {
        let sysctls = Sysctls::read(self.view.links.iter().map(|link| link.name.as_str()));
        // In the kernel's answers what leads to a link without a carrier is dead while this is set (fib_nexthop_info).
        let ignores = |sysctls: &Sysctls, link: &KernelLink| {
            sysctls.links.get(&link.name).map(|own| (own.ignore_linkdown4, own.ignore_linkdown6))
        };
        for link in self.view.links.iter().filter(|link| !link.carrier) {
            if ignores(&sysctls, link) != ignores(&self.view.sysctls, link) {
                self.routes.doubt_interface(link.ifindex);
                self.dirty.insert(Part::Nexthops);
                note_unread(&mut self.view.unread_carriers, &self.routes, link.ifindex);
            }
        }
        let links = self.view.links.iter();
        let counts = links.filter(|link| ignores(&sysctls, link).is_some_and(|ignores| ignores != (false, false)));
        self.carrier_counts = counts.map(|link| link.ifindex).collect();
        let differs = replace(&mut self.view.sysctls, sysctls);
        self.news.links |= differs;
        differs
    }

    fn read_addresses(&mut self) -> Result<bool, MirrorError> {
        let addresses = self.dump("addresses", rtm::GETADDR, &[0; 8], |all: &mut Vec<KernelAddress>, message| {
            all.extend(decode::address(message)?);
            Ok(())
        })?;
        // With the last address of an interface, or with that which is its source, a route goes without a word.
        let places = |all: &[KernelAddress]| -> BTreeSet<(Ifindex, IpAddr, u8)> {
            all.iter().map(|one| (one.ifindex, one.local, one.length)).collect()
        };
        for (_, gone, _) in places(&self.view.addresses).difference(&places(&addresses)) {
            self.routes.doubt(Family::of(*gone));
        }
        let differs = replace(&mut self.view.addresses, addresses);
        self.news.links |= differs;
        Ok(differs)
    }

    fn read_qdiscs(&mut self) -> Result<bool, MirrorError> {
        let mut merged =
            self.dump("qdiscs", rtm::GETQDISC, &[0; 20], |merged: &mut BTreeMap<Ifindex, Qdiscs>, message| {
                let Some(RouteNetlinkMessage::NewQueueDiscipline(message)) = netlink::decoded(message) else {
                    return Err(Undecodable("qdisc"));
                };
                if let Some((ifindex, one)) = decode::qdisc(&message) {
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
        let differs = replace(&mut self.view.qdiscs, merged);
        self.news.links |= differs;
        Ok(differs)
    }

    fn read_neighbours(&mut self) -> Result<bool, MirrorError> {
        let all = self.dump("neighbours", rtm::GETNEIGH, &[0; 12], |all: &mut Neighbours, message| {
            all.extend(decode::neighbour(message)?);
            Ok(())
        })?;
        let before = std::mem::replace(&mut self.neighbours, all);
        let same = before.len() == self.neighbours.len()
            && before
                .iter()
                .zip(&self.neighbours)
                .all(|(one, other)| (one.0, one.1.matters()) == (other.0, other.1.matters()));
        self.news.neighbours |= !same;
        Ok(!same)
    }

    fn read_rules(&mut self) -> Result<bool, MirrorError> {
        self.view.table_names = TableNames::read();
        let mut rules: Vec<Rule> = Vec::new();
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
        let differs = rules != *self.view.rules;
        if differs {
            self.view.rules = Arc::new(rules);
            self.news.rules = true;
        }
        Ok(differs)
    }

    fn read_nexthops(&mut self) -> Result<bool, MirrorError> {
        let nexthops = self.nexthops()?;
        if nexthops == *self.view.nexthops {
            return Ok(false);
        }
        // An object takes its routes along.
        if self.view.nexthops.keys().any(|id| !nexthops.contains_key(id)) {
            Family::BOTH.iter().for_each(|family| self.routes.doubt(*family));
        }
        self.view.nexthops = Arc::new(nexthops);
        self.news.nexthops = true;
        Ok(true)
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
        let ((all, undecodable), retried) = match dumped {
            Ok(dumped) => dumped,
            Err(source) => {
                // The kernel may still be at this one, and answers no other on the same socket (__netlink_dump_start: EBUSY).
                if let Ok(dumper) = Dumper::open(NETLINK_ROUTE) {
                    self.dumper = dumper;
                }
                return Err(MirrorError::Read { part, source });
            }
        };
        self.counts.retried_dumps += retried;
        self.undecodable.insert(part, undecodable);
        Ok(all)
    }

    pub(super) fn take_routes(&mut self, finished: io::Result<Finished>) {
        match finished {
            Ok(Finished { read, changed, retried }) => {
                self.counts.retried_dumps += retried;
                self.news.routes |= changed;
                if let Some((family, began)) = read {
                    self.last_read.note_routes(family, began);
                    // What has come into doubt in the meantime is no surprise.
                    if !self.routes.is_doubted(family) {
                        if changed {
                            self.differed(Part::Routes);
                        }
                        self.news.links |= !std::mem::take(&mut self.view.unread_carriers[family as usize]).is_empty();
                    }
                }
                self.undecodable.insert("routes", self.routes.undecodable().cloned().collect());
                self.collect_undecodable();
                self.route_fault = None;
            }
            Err(source) => keep_fault(&mut self.route_fault, &MirrorError::Read { part: "routes", source }),
        }
    }

    /// What gives no event.
    pub(super) fn look_around(&mut self) {
        // What waits to be heard is no difference that nothing has told of.
        if self.hear_pending() {
            self.audit();
        }
        // Programs come to the tc hooks without one.
        self.dirty.extend([Part::TrafficControl, Part::Sysctls]);
        if let Ok(xfrm) = raw::xfrm() {
            self.last_read.note(Part::Xfrm);
            if replace(&mut self.view.xfrm, xfrm) {
                self.news.netfilter = true;
                self.differed(Part::Xfrm);
            }
        }
        self.look_at_paths();
        if self.netfilter.look_around() {
            [Part::IptablesLegacy, Part::Ipset].into_iter().for_each(|part| self.last_read.note(part));
        }
    }

    /// What cannot be read stays as it was; its age shows in the status.
    pub(super) fn look_at_paths(&mut self) {
        let Ok(paths) = self.paths.look() else { return };
        self.last_read.note(Part::PathMtus);
        if let Some(paths) = paths.filter(|paths| *paths != *self.view.path_mtus) {
            self.view.path_mtus = Arc::new(paths);
            self.news.links = true;
            self.differed(Part::PathMtus);
        }
    }

    /// `told` unless it was read without anything having told of a change.
    pub(super) fn take_netfilter(&mut self, netfilter: Netfilter, told: bool) {
        let began = self.netfilter.began();
        [Part::Nftables, Part::IptablesLegacy, Part::Ipset]
            .into_iter()
            .for_each(|part| self.last_read.note_at(part, began));
        if netfilter != self.view.netfilter {
            let legacy = |netfilter: &Netfilter| netfilter.legacy().cloned().collect::<Vec<_>>();
            let of_legacy = legacy(&netfilter) != legacy(&self.view.netfilter);
            let of_sets = netfilter.ipsets != self.view.netfilter.ipsets;
            self.differed(match (of_legacy, of_sets) {
                (true, _) => Part::IptablesLegacy,
                (false, true) => Part::Ipset,
                (false, false) => Part::Nftables,
            });
            if !told && !of_legacy && !of_sets {
                self.audit.suspect(Part::Nftables);
            }
            self.view.netfilter = netfilter;
            self.news.netfilter = true;
        }
    }
}

/// Puts in the new value and says whether it is another one.
fn replace<T: PartialEq>(old: &mut T, new: T) -> bool {
    let differs = *old != new;
    *old = new;
    differs
}

/// The routes are to be read anew because of the interface's carrier, of the families that have any there.
fn note_unread(unread: &mut [BTreeSet<Ifindex>; 2], routes: &RouteTables, ifindex: Ifindex) {
    for family in Family::BOTH.into_iter().filter(|family| routes.is_doubted(*family)) {
        unread[family as usize].insert(ifindex);
    }
}
