//! How well the copy is kept: what `shunt status` tells of it.

use std::time::{Duration, Instant};

use shunt_policy::Family;

use super::part::{Part, routes_bound};
use super::{Audit, Mirror};

/// The mirror as a service.
#[derive(Clone, Debug)]
pub struct MirrorHealth {
    /// What fails at the moment.
    pub fault: Option<String>,
    pub faulty_since: Option<Instant>,
    pub counts: Counts,
    /// Messages of the present copy that could not be decoded.
    pub undecodable: u64,
    /// Nothing that is held is in doubt, and nothing waits to be read.
    pub in_step: bool,
    /// When the view was last known to equal the kernel.
    pub equal: Instant,
    /// The audits of the route tables.
    pub route_audit: Audit,
    pub audit: PartAudit,
    pub last_read: LastRead,
    /// How long a dump of all routes took last.
    routes_took: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// How often the kernel had to throw events away.
    pub lost_events: u64,
    /// How often everything was dumped anew because of that.
    pub resyncs: u64,
    /// Dumps that a change had interrupted, and that were not believed.
    pub retried_dumps: u64,
    /// Datagrams that somebody else than the kernel sent us, and that were not believed.
    pub strangers: u64,
}

/// What audits of all but the route tables have found.
#[derive(Clone, Debug)]
pub struct PartAudit {
    /// When the last one ended.
    pub last: Instant,
    pub count: u64,
    /// How often a part was not as the kernel's though nothing had told of it. By the part's number.
    pub differing: [u64; Part::ALL.len()],
}

/// When each part was last read whole. Where that takes a while, when it began.
#[derive(Clone, Debug)]
pub struct LastRead {
    parts: [Instant; Part::ALL.len()],
    routes: [Instant; 2],
}

impl LastRead {
    pub(super) fn now() -> Self {
        let now = Instant::now();
        LastRead { parts: [now; Part::ALL.len()], routes: [now; 2] }
    }

    pub(super) fn note(&mut self, part: Part) {
        self.note_at(part, Instant::now());
    }

    pub(super) fn note_at(&mut self, part: Part, began: Instant) {
        self.parts[part as usize] = began;
    }

    pub(super) fn note_routes(&mut self, family: Family, began: Instant) {
        self.routes[family as usize] = began;
    }

    pub fn of(&self, part: Part) -> Instant {
        match part {
            Part::Routes => self.routes[0].min(self.routes[1]),
            part => self.parts[part as usize],
        }
    }

    /// Whether every part was read since.
    pub(super) fn all_since(&self, then: Instant) -> bool {
        Part::ALL.into_iter().all(|part| self.of(part) >= then)
    }
}

impl MirrorHealth {
    /// How old a change of the part may get that is not in the view yet.
    pub fn staleness_bound(&self, part: Part) -> Duration {
        match part {
            Part::Routes => routes_bound(self.routes_took),
            part => part.staleness_bound(),
        }
    }
}

impl Mirror {
    pub fn health(&self) -> MirrorHealth {
        // The oldest is the one that ends in all packets being the kernel's.
        let faults = [self.fault.clone(), self.route_fault.clone(), self.netfilter.fault()];
        let fault = faults.into_iter().flatten().min_by_key(|(_, since)| *since);
        MirrorHealth {
            fault: fault.as_ref().map(|(text, _)| text.clone()),
            faulty_since: fault.map(|(_, since)| since),
            undecodable: self.view.undecodable.len() as u64,
            counts: self.counts,
            in_step: self.in_step(),
            equal: self.equal,
            route_audit: self.routes.audit(),
            audit: self.audit.found().clone(),
            last_read: self.last_read.clone(),
            routes_took: self.routes.took(),
        }
    }

    /// Whether nothing is in doubt. What the kernel did a moment ago and has not told yet nobody knows.
    pub(super) fn in_step(&self) -> bool {
        self.dirty.is_empty()
            && self.retry.is_none()
            && !self.news.any()
            && !self.routes.is_dirty()
            && !self.netfilter.is_in_doubt()
    }
}
