//! What the kernel tells, and what it means for the mirror.

use std::collections::BTreeSet;

use shunt_policy::{Family, Ifindex};

use super::audit::Rounds;
use super::netlink::{Heard, each_message};
use super::routes::RouteTables;
use super::{Changes, Counts, Neighbours, Part, attributes, decode, rtm};

/// What hearing changes.
pub(super) struct Ears<'a> {
    pub(super) dirty: &'a mut BTreeSet<Part>,
    pub(super) counts: &'a mut Counts,
    pub(super) routes: &'a mut RouteTables,
    pub(super) neighbours: &'a mut Neighbours,
    pub(super) audit: &'a mut Rounds,
    pub(super) news: &'a mut Changes,
    pub(super) carrier_counts: &'a BTreeSet<Ifindex>,
}

impl Ears<'_> {
    /// Takes in what was heard: routes and neighbours at once, of all else that it is to be dumped.
    pub(super) fn note(&mut self, heard: Heard<'_>) {
        match heard {
            Heard::Datagram(datagram) => {
                let heard = each_message(datagram, |header, message| {
                    self.message(header.message_type(), header.flags(), message);
                    Ok(())
                });
                if heard.is_err() {
                    self.note(Heard::Lost);
                }
            }
            Heard::Lost => {
                self.counts.lost_events += 1;
                self.counts.resyncs += 1;
                Part::DUMPED.into_iter().for_each(|part| self.doubt(part));
                Family::BOTH.iter().for_each(|family| self.routes.doubt(*family));
            }
            Heard::Stranger => self.counts.strangers += 1,
        }
    }

    fn message(&mut self, kind: u16, flags: u16, message: &[u8]) {
        match kind {
            rtm::NEWROUTE | rtm::DELROUTE => {
                self.news.routes |= self.routes.hear(kind == rtm::NEWROUTE, flags, message);
            }
            rtm::NEWNEIGH | rtm::DELNEIGH => match decode::neighbour(message) {
                Ok(Some((key, neighbour))) => {
                    self.audit.told_of_neighbour(&key);
                    let before = match kind {
                        rtm::NEWNEIGH => self.neighbours.insert(key, neighbour),
                        _ => self.neighbours.remove(&key),
                    };
                    let now = (kind == rtm::NEWNEIGH).then(|| neighbour.matters());
                    self.news.neighbours |= before.map(|before| before.matters()) != now;
                }
                Ok(None) => {}
                Err(_) => self.doubt(Part::Neighbours),
            },
            // RTM_*LINK; with a link come its sysctls and its first qdisc.
            16..=19 => {
                [Part::Links, Part::Sysctls, Part::TrafficControl].into_iter().for_each(|part| self.doubt(part));
                // The carrier shows in the link before next hops are dead or alive by it (linkwatch_do_dev); this comes behind both.
                let index = message.get(attributes::HEADER + 4..).and_then(<[u8]>::first_chunk::<4>);
                let ifindex = index.map(|index| Ifindex(u32::from_ne_bytes(*index)));
                if let Some(ifindex) = ifindex.filter(|ifindex| self.carrier_counts.contains(ifindex)) {
                    self.routes.doubt_interface(ifindex);
                }
            }
            // RTM_*ADDR
            20..=23 => self.doubt(Part::Addresses),
            // RTM_*RULE
            32..=35 => self.doubt(Part::Rules),
            // RTM_*QDISC
            36..=39 => self.doubt(Part::TrafficControl),
            // RTM_*NETCONF: forwarding, rp_filter, ignore_routes_with_linkdown.
            80..=83 => self.doubt(Part::Sysctls),
            // RTM_*NEXTHOP, RTM_*NEXTHOPBUCKET
            104..=107 | 116..=119 => self.doubt(Part::Nexthops),
            _ => {}
        }
    }

    fn doubt(&mut self, part: Part) {
        self.dirty.insert(part);
        self.audit.told_of(part);
    }
}
