//! One packet through a [`Policy`].

use std::net::IpAddr;

use crate::compile::{FamilyPolicy, LOOPBACK, LinkFacts, Policy};
use crate::config::{Conntrack, Hook, RpFilter};
use crate::connection::{Endpoint, Manip, Tracking, Trackless};
use crate::fib;
use crate::names::{Family, Ifindex, Mark};
use crate::netfilter::{CompiledGuard, Facts, Stretch, Surroundings, Tally, Uncounted};
use crate::outcome::{Egress, PuntReason, Stop};
use crate::query::{Query, Transport};
use crate::rules::{Answer, Ground};

impl Policy {
    /// Where the packet goes. Reads only; no allocation.
    ///
    /// # Errors
    ///
    /// Why it does not go by our hands.
    pub fn decide(&self, query: &Query) -> Result<Egress, Stop> {
        self.decide_counting(query, &mut Trackless, &mut Uncounted)
    }

    /// The same for a packet whose connection is known to `tracking`; and tells of each netfilter rule that counts the packet. Of a
    /// packet that is punted the kernel counts, so what was told of one is to be forgotten.
    ///
    /// # Errors
    ///
    /// As of [`decide`](Self::decide).
    pub fn decide_counting(
        &self,
        query: &Query,
        tracking: &mut impl Tracking,
        tally: &mut impl Tally,
    ) -> Result<Egress, Stop> {
        let mut facts = Facts::of(query, &self.links);
        let outcome = self.follow(&mut facts, tracking, tally);
        if let Some(mark) = facts.tracked.new_mark() {
            tracking.keep_mark(mark);
        }
        outcome
    }

    fn follow(
        &self,
        facts: &mut Facts<'_>,
        tracking: &mut impl Tracking,
        tally: &mut impl Tally,
    ) -> Result<Egress, Stop> {
        let Some(ingress) = self.links.facts.get(&facts.query.iif) else {
            return Err(Stop::Punt(PuntReason::UnknownIngress));
        };
        let family = self.family(facts.query.family());
        self.admit(&family.before, Hook::Prerouting, facts)?;
        let new_destination = self.prerouting(facts, tracking, tally)?;
        let query = &{ facts.query };
        tally.routed(query);
        if !ingress.forwards(query.family()) {
            return Err(Stop::Punt(PuntReason::ForwardingOff));
        }

        let ground = self.ground(query.family());
        let way = match ground.walk(query, facts.destination) {
            Answer::Onward(way) => way,
            Answer::Own(stop, _) | Answer::Failed(stop) | Answer::Unclear(stop) => return Err(stop),
        };
        let hop = ground.leg(way, query)?;
        if query.family() == Family::V4 {
            self.validate_source(query, facts, &ground, ingress, hop.oif)?;
        }

        if query.ttl <= 1 {
            return Err(Stop::Punt(PuntReason::TtlExpired));
        }
        if hop.oif == query.iif && !tracking.moves(hop.oif) {
            return Err(Stop::Punt(PuntReason::Redirect));
        }
        let Some(egress) = self.links.facts.get(&hop.oif) else { return Err(Stop::Punt(PuntReason::EgressDown)) };
        if hop.via.is_some() && egress.is_redirected(query.family()) {
            return Err(Stop::Punt(PuntReason::Redirected));
        }
        let (link_mtu, route_mtu) = (egress.mtu(query.family()), family.sets.way(way).mtu);
        let path_mtu = self.config.path_mtus.get(&query.destination).copied();
        let longest = link_mtu.min(route_mtu.unwrap_or(u32::MAX)).min(path_mtu.unwrap_or(u32::MAX));
        if query.length > longest {
            return Err(Stop::Punt(PuntReason::Oversize));
        }

        // From here on as ip_forward hands it to the hook: with the egress, and a TTL that is one less.
        (facts.oif, facts.via, facts.mtu) = (Some(hop.oif), hop.via, route_mtu.unwrap_or(link_mtu));
        facts.query.ttl -= 1;
        self.admit(&family.after, Hook::Forward, facts)?;
        family.chains.pass(Stretch::Forward, facts, self, tally)?;
        family.chains.pass(Stretch::Leaving, facts, self, tally)?;
        let new_source = self.translate(Manip::Source, facts, tracking, tally)?;
        family.chains.pass(Stretch::Left, facts, self, tally)?;

        let (port, source) = egress.egress.map_err(Stop::Punt)?;
        let destination = match hop.via {
            Some(_) => hop.gateway,
            None => self.neighbours.known(hop.oif, query.destination),
        };
        let Some((destination, neighbour)) = destination else { return Err(Stop::Punt(PuntReason::Neighbour)) };
        let Query { tos, ttl, mss, .. } = facts.query;
        Ok(Egress {
            port,
            oif: hop.oif,
            source,
            destination,
            mark: query.mark,
            tos,
            ttl,
            mss,
            new_source,
            new_destination,
            neighbour,
            longest,
            takes_redirected: egress.takes_redirected,
        })
    }

    /// PREROUTING, with conntrack and nat in their places. Says what the destination has become.
    pub(crate) fn prerouting(
        &self,
        facts: &mut Facts<'_>,
        tracking: &mut impl Tracking,
        tally: &mut impl Tally,
    ) -> Result<Option<Endpoint>, Stop> {
        let FamilyPolicy { chains, conntrack, asks_tuples, .. } = self.family(facts.query.family());
        chains.pass(Stretch::Untracked, facts, self, tally)?;
        match facts.tracked.is_untracked() {
            true => tracking.pass_over(),
            false if *conntrack != Conntrack::Off => facts.tracked.track(tracking, *asks_tuples)?,
            false => {}
        }
        chains.pass(Stretch::Tracked, facts, self, tally)?;
        let new_destination = self.translate(Manip::Destination, facts, tracking, tally)?;
        chains.pass(Stretch::Destined, facts, self, tally)?;
        Ok(new_destination)
    }

    /// `nf_nat_ipv4_fn`, `nf_nat_ipv6_fn`: what one end becomes. Of an ICMP error what it is about says so, and no rule.
    fn translate(
        &self,
        manip: Manip,
        facts: &mut Facts<'_>,
        tracking: &mut impl Tracking,
        tally: &mut impl Tally,
    ) -> Result<Option<Endpoint>, Stop> {
        let FamilyPolicy { chains, conntrack, asks_tuples, .. } = self.family(facts.query.family());
        if *conntrack != Conntrack::Translates || !facts.tracked.exists() {
            return Ok(None);
        }
        let binds = !facts.tracked.is_error() && tracking.is_unbound(manip);
        let range = if binds { chains.range(manip, facts, self, tally)? } else { None };
        let new = tracking.translate(manip, facts.oif, range.as_ref())?;
        if let Some(new) = new {
            facts.translated(manip, new);
        }
        if binds {
            facts.tracked.bound(manip, new.is_some());
            if *asks_tuples {
                facts.tracked.take_tuples(tracking);
            }
        }
        Ok(new)
    }

    fn admit(&self, guards: &[CompiledGuard], hook: Hook, facts: &Facts<'_>) -> Result<(), Stop> {
        let surroundings = Surroundings { policy: self, family: facts.query.family(), hook };
        guards.iter().try_for_each(|guard| guard.admit(facts, surroundings))
    }

    /// Largest packet that the route back to the source takes, in bytes: that of a look-up for the address alone, as for a packet of
    /// the machine's own (`tcpmss_reverse_mtu`). Where there is none, there is no limit.
    pub(crate) fn mtu_back(&self, query: &Query) -> Result<u32, Stop> {
        let family = query.family();
        let query = query.to_sender();
        let ground = self.ground(family);
        let way = match ground.walk(&query, fib::aligned_address(query.destination)) {
            Answer::Onward(way) => way,
            Answer::Failed(_) => return Ok(u32::MAX),
            // By the loopback interface, or unknown.
            Answer::Own(stop, _) | Answer::Unclear(stop) => return Err(stop),
        };
        if let Some(mtu) = ground.sets.way(way).mtu {
            return Ok(mtu);
        }
        let oif = ground.leg(way, &query)?.oif;
        Ok(self.links.facts.get(&oif).map_or(u32::MAX, |link| link.mtu(family)))
    }

    pub(crate) fn ground(&self, family: Family) -> Ground<'_> {
        let FamilyPolicy { rules, sets, .. } = self.family(family);
        Ground {
            rules,
            tables: self.config.tables.family(family),
            sets,
            spreading: &self.config.spreading,
            groups: &self.links.groups,
        }
    }

    /// `__fib_validate_source`. IPv6 has nothing of the kind.
    fn validate_source(
        &self,
        query: &Query,
        facts: &Facts<'_>,
        ground: &Ground<'_>,
        ingress: &LinkFacts,
        oif: Ifindex,
    ) -> Result<(), Stop> {
        if ingress.rp_filter == RpFilter::Off {
            // Then only a source of this machine's own is refused, and what is own in no table is none.
            let may_be_own = self.config.tables.family(Family::V4).may_be_own(facts.source);
            if ingress.accept_local || !may_be_own {
                return Ok(());
            }
        }
        let objection = Err(Stop::Punt(PuntReason::ReversePath));
        let own = Err(Stop::Punt(PuntReason::SourceLocal));
        let way_back = query.reversed(oif, ingress.src_valid_mark);
        let answers_here = match ground.walk(&way_back, facts.source) {
            Answer::Onward(way) => ground.sets.way(way).uses(query.iif),
            Answer::Own(Stop::Punt(PuntReason::Local), dev) if ingress.accept_local => dev == Some(query.iif),
            Answer::Own(..) => return own,
            Answer::Failed(_) if ingress.rp_filter == RpFilter::Off => true,
            Answer::Failed(_) => return objection,
            Answer::Unclear(stop) => return Err(stop),
        };
        match ingress.rp_filter {
            RpFilter::Strict if !answers_here => objection,
            // Any way back will do, save on an interface without an address (last_resort).
            RpFilter::Loose if !answers_here && !ingress.has_address4 => objection,
            _ => Ok(()),
        }
    }
}

impl Query {
    /// A look-up of the machine's own for the way to the source, of which nothing is known but the address.
    pub(crate) fn to_sender(self) -> Query {
        let nowhere = match self.family() {
            Family::V4 => IpAddr::from([0; 4]),
            Family::V6 => IpAddr::from([0; 16]),
        };
        Query {
            iif: LOOPBACK,
            source: nowhere,
            destination: self.source,
            protocol: 0,
            transport: Transport::Other,
            tos: 0,
            flow_label: 0,
            mark: Mark(0),
            ..self
        }
    }

    /// The look-up for the way back (`__fib_validate_source`): addresses and ports exchanged, as if it had come in where the
    /// packet goes out, the mark only if `src_valid_mark` asks for it.
    fn reversed(&self, oif: Ifindex, keep_mark: bool) -> Query {
        let transport = match self.transport {
            Transport::Ports { source, destination } => Transport::Ports { source: destination, destination: source },
            Transport::Spi(spi) => Transport::Spi(spi.rotate_left(16)),
            other => other,
        };
        Query {
            iif: oif,
            source: self.destination,
            destination: self.source,
            transport,
            mark: if keep_mark { self.mark } else { Default::default() },
            ..*self
        }
    }
}
