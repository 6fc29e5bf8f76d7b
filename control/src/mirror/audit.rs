//! Reads now and then what nobody has cast doubt on: a mirror that only believes what it is told drifts without noticing.
//!
//! The route tables have audits of their own (see [`routes`](super::routes)), and what is polled needs none.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use shunt_policy::Ifindex;

use super::health::PartAudit;
use super::part::Part;
use super::routes::AUDIT_PAUSE;
use super::{Mirror, Neighbours};

/// One at a time, so that no round keeps the loop from events for long.
const AUDITED: [Part; 5] = [Part::Neighbours, Part::Nexthops, Part::Rules, Part::Addresses, Part::Links];

/// The round that is under way.
pub(super) struct Rounds {
    waiting: Vec<Part>,
    /// Parts that differed from their dump though nothing had told of it. The kernel changes first and tells then, so judgement
    /// waits until the next look.
    suspects: BTreeSet<Part>,
    suspect_neighbours: BTreeSet<(Ifindex, IpAddr)>,
    found: PartAudit,
}

impl Rounds {
    pub(super) fn begin() -> Self {
        Rounds {
            waiting: Vec::new(),
            suspects: BTreeSet::new(),
            suspect_neighbours: BTreeSet::new(),
            found: PartAudit { last: Instant::now(), count: 0, differing: [0; Part::ALL.len()] },
        }
    }

    pub(super) fn found(&self) -> &PartAudit {
        &self.found
    }

    /// The kernel has told that the part changed.
    pub(super) fn told_of(&mut self, part: Part) {
        self.suspects.remove(&part);
    }

    pub(super) fn told_of_neighbour(&mut self, key: &(Ifindex, IpAddr)) {
        self.suspect_neighbours.remove(key);
    }

    pub(super) fn suspect(&mut self, part: Part) {
        self.suspects.insert(part);
    }

    /// What has not been told of by now was not told of.
    fn judge(&mut self) {
        if !std::mem::take(&mut self.suspect_neighbours).is_empty() {
            self.suspects.insert(Part::Neighbours);
        }
        for part in std::mem::take(&mut self.suspects) {
            self.found.differing[part as usize] += 1;
        }
    }

    /// The part to look at now, if it is time.
    fn next(&mut self) -> Option<Part> {
        if self.waiting.is_empty() && self.found.last.elapsed() >= AUDIT_PAUSE {
            self.waiting = AUDITED.into();
        }
        let part = self.waiting.pop()?;
        if self.waiting.is_empty() {
            self.found.last = Instant::now();
            self.found.count += 1;
        }
        Some(part)
    }
}

impl Mirror {
    /// A step of the round. To be called now and then, after all that was told is heard.
    pub(super) fn audit(&mut self) {
        self.audit.judge();
        self.routes.judge();
        let Some(part) = self.audit.next() else { return };
        if part == Part::Links {
            // Beside everything else; what nothing has told of is found there, too.
            self.netfilter.audit();
        }
        // In doubt anyway: it is about to be read.
        if self.dirty.contains(&part) {
            return;
        }
        let before = (part == Part::Neighbours).then(|| self.neighbours.clone());
        match self.read(part) {
            Ok(true) => match before {
                Some(before) => self.audit.suspect_neighbours = differing(&before, &self.neighbours).collect(),
                None => self.audit.suspect(part),
            },
            Ok(false) => {}
            Err(error) => {
                self.dirty.insert(part);
                self.fail(&error);
            }
        }
        self.hear_pending();
    }
}

/// The neighbours whose address is another one. That one is being resolved the kernel does not tell.
fn differing<'a>(before: &'a Neighbours, now: &'a Neighbours) -> impl Iterator<Item = (Ifindex, IpAddr)> + 'a {
    let known = |all: &Neighbours, key| all.get(key).map_or((None, false), |neighbour| neighbour.matters());
    before.keys().chain(now.keys()).filter(move |key| known(before, key) != known(now, key)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_counts_unless_the_kernel_tells_of_it_by_the_next_look() {
        let mut rounds = Rounds::begin();
        rounds.suspect(Part::Rules);
        rounds.suspect(Part::Links);
        rounds.told_of(Part::Rules);
        rounds.judge();
        rounds.judge();
        let found = rounds.found();
        assert_eq!((found.differing[Part::Rules as usize], found.differing[Part::Links as usize]), (0, 1));
        let key = (Ifindex(2), [192, 0, 2, 1].into());
        rounds.suspect_neighbours.insert(key);
        rounds.told_of_neighbour(&key);
        rounds.judge();
        assert_eq!(rounds.found().differing[Part::Neighbours as usize], 0);
    }

    #[test]
    fn a_round_visits_every_part_once() {
        let mut rounds = Rounds::begin();
        assert_eq!(rounds.next(), None);
        rounds.found.last -= AUDIT_PAUSE;
        let visited: BTreeSet<Part> = std::iter::from_fn(|| rounds.next()).collect();
        assert_eq!((visited, rounds.found.count), (AUDITED.into(), 1));
    }
}
