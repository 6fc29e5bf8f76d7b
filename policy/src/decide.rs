//! One packet through a [`Policy`].

use crate::classify::Facts;
use crate::compile::{FamilyPolicy, LinkFacts, Policy};
use crate::config::RpFilter;
use crate::names::{Family, Ifindex};
use crate::outcome::{Egress, PuntReason, Stop};
use crate::query::{Query, Transport};
use crate::rules::{Answer, Ground};

impl Policy {
    /// Where the packet goes, or why it does not go by our hands. Reads only; no allocation.
    pub fn decide(&self, query: &Query) -> Result<Egress, Stop> {
        let Some(ingress) = self.links.facts.get(&query.iif) else {
            return Err(Stop::Punt(PuntReason::UnknownIngress));
        };
        let family = self.family(query.family());
        let facts = Facts::of(query);
        family.before.iter().try_for_each(|guard| guard.admit(&facts))?;
        let mark = family.mangle.classify(&facts)?;
        if !ingress.forwards(query.family()) {
            return Err(Stop::Punt(PuntReason::ForwardingOff));
        }

        let query = &Query { mark, ..*query };
        let ground = self.ground(query.family());
        let way = match ground.walk(query, facts.destination) {
            Answer::Onward(way) => way,
            Answer::Own(stop, _) | Answer::Failed(stop) | Answer::Unclear(stop) => return Err(stop),
        };
        let hop = ground.leg(way, query)?;
        if query.family() == Family::V4 {
            self.validate_source(query, &facts, &ground, ingress, hop.oif)?;
        }

        if hop.oif == query.iif {
            return Err(Stop::Punt(PuntReason::Redirect));
        }
        let Some(egress) = self.links.facts.get(&hop.oif) else { return Err(Stop::Punt(PuntReason::EgressDown)) };
        if hop.via.is_some() && egress.is_redirected(query.family()) {
            return Err(Stop::Punt(PuntReason::Redirected));
        }
        if query.length > egress.mtu(query.family()).min(family.sets.way(way).mtu.unwrap_or(u32::MAX)) {
            return Err(Stop::Punt(PuntReason::Oversize));
        }
        let facts = Facts { query, oif: Some(hop.oif), ..facts };
        family.after.iter().try_for_each(|guard| guard.admit(&facts))?;

        let (port, source) = egress.egress.map_err(Stop::Punt)?;
        let destination = match hop.via {
            Some(_) => hop.gateway,
            None => self.neighbours.known(hop.oif, query.destination),
        };
        let Some((destination, neighbour)) = destination else { return Err(Stop::Punt(PuntReason::Neighbour)) };
        Ok(Egress { port, oif: hop.oif, source, destination, mark, neighbour })
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
