//! Holds decisions against the kernel's: those that the workers sample from live traffic, and the one that `explain` tells of.
//!
//! The kernel may change between a decision and the question, so a difference is only a doubt at first. It counts as a divergence
//! when it is there time after time, the same each time, while nothing that the kernel tells is left unheard.

pub mod watch;

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shunt_dataplane::Sample;
use shunt_policy::config::Config;
use shunt_policy::connection::Remembered;
use shunt_policy::{
    DropReason, Egress, Family, Generation, NextHop, Policy, PuntReason, Query, Routing, Stop, Uncounted,
};

use crate::explain::Packet;
use crate::mirror::oracle::{Answer, Kind, Oracle, Route, Unasked, next_hop_in_words};

/// Samples that are compared in one turn: each costs some 10 us, in which nothing else is done.
pub const AT_ONCE: usize = 64;
/// Doubts that wait to be looked at again.
const DOUBTS: usize = 32;
/// How long a doubt waits each time: sysctls are polled every 300 ms.
const PAUSE: Duration = Duration::from_millis(500);
/// So often in a row the same difference must be seen again.
const LOOKS: u32 = 3;
/// So often at most, while kernel and mirror do not come to rest.
const LOOKS_AT_MOST: u32 = 10;
/// Divergences that are kept to be shown.
const KEPT: usize = 8;

/// A decision beside the kernel's.
#[derive(Debug)]
pub struct Checked {
    pub kernel: Result<Answer, Unasked>,
    /// `None` where the one does not say what the other should be.
    pub same: Option<bool>,
}

/// Asks the kernel for a packet that `policy` decided on, knowing this of its connection.
pub fn check(
    policy: &Policy,
    query: &Query,
    tracked: Option<Remembered>,
    outcome: Result<Egress, Stop>,
    oracle: &mut Oracle,
) -> Checked {
    let routed = policy.routing(query, &mut { tracked }).ok().map(|routing| routing.query);
    check_routed(policy, routed.as_ref(), outcome, oracle)
}

/// The same for a packet as PREROUTING has left it, its destination translated; `None` if it ended there.
pub fn check_routed(
    policy: &Policy,
    query: Option<&Query>,
    outcome: Result<Egress, Stop>,
    oracle: &mut Oracle,
) -> Checked {
    let Some(query) = query else { return Checked { kernel: Err(Unasked::Ended), same: None } };
    let routing = policy.routing_of(query);
    let kernel = oracle.ask(query, query.mark);
    let alike = oracle.chooses_alike(query, &routing, &policy.config().spreading);
    let expected = Expected::of(query, outcome, &routing, alike);
    // Who turns back may be told of another way, or be a martian (fib_validate_source), and so may the source of what is punted before
    // that is asked: the kernel sees to all of it.
    let turned = matches!(outcome, Err(Stop::Punt(PuntReason::Redirect | PuntReason::MultipathInner)));
    let martian = matches!(kernel, Ok(Answer::Refused(libc::EINVAL | libc::EXDEV)));
    let expected = expected.filter(|_| !(turned && martian));
    let same = kernel.as_ref().ok().zip(expected).map(|(answer, expected)| expected.is(answer));
    Checked { kernel, same }
}

impl Checked {
    pub fn kernel_in_words(&self, config: &Config) -> String {
        match &self.kernel {
            Ok(answer) => answer.in_words(&config.links),
            Err(why) => format!("not asked: {why}"),
        }
    }
}

/// What the kernel says if a decision is its own.
enum Expected<'a> {
    /// Unicast by one of these.
    Onward(&'a [NextHop]),
    /// By this one.
    By(NextHop),
    Local,
    Refused(&'static [i32]),
    NotOnward,
}

impl<'a> Expected<'a> {
    /// `None` for what ends before or behind the routes by rules that the kernel was not asked for. `alike` is whether the kernel
    /// chooses the same leg as for a real packet.
    fn of(query: &Query, outcome: Result<Egress, Stop>, routing: &'a Routing, alike: bool) -> Option<Self> {
        use DropReason::{BlackholeRoute, BlackholeRule};
        use DropReason::{ForwardDrop, PostroutingDrop};
        use PuntReason::{
            EgressNotTaken, EgressQdisc, ForwardingOff, Local, MultipathInner, Neighbour, NoRoute, OpaqueForward,
            OpaquePostrouting, Oversize, ProhibitRoute, ProhibitRule, Redirect, ReversePath, SourceLocal,
            UnreachableRoute, UnreachableRule,
        };
        let spread = routing.legs.len() > 1 && !alike;
        let reason = match outcome {
            Ok(_) if spread => return Some(Expected::Onward(&routing.legs)),
            Ok(egress) => return Some(Expected::By(next_hop(egress, routing))),
            Err(Stop::Drop(BlackholeRule | BlackholeRoute)) => return Some(Expected::Refused(&[libc::EINVAL])),
            // Behind the route.
            Err(Stop::Drop(ForwardDrop | PostroutingDrop)) => OpaqueForward,
            Err(Stop::Drop(_)) => return None,
            Err(Stop::Punt(reason)) => reason,
        };
        match reason {
            // Behind the route.
            MultipathInner if !routing.legs.is_empty() => Some(Expected::Onward(&routing.legs)),
            Redirect | Oversize | Neighbour | EgressNotTaken | EgressQdisc | OpaqueForward | OpaquePostrouting => {
                if spread {
                    Some(Expected::Onward(&routing.legs))
                } else {
                    routing.taken.map(Expected::By)
                }
            }
            Local => Some(Expected::Local),
            NoRoute | UnreachableRule => Some(Expected::Refused(&[libc::ENETUNREACH])),
            UnreachableRoute => Some(Expected::Refused(&[libc::EHOSTUNREACH])),
            ProhibitRule | ProhibitRoute => Some(Expected::Refused(&[libc::EACCES])),
            // Older kernels say EXDEV for rp_filter.
            ReversePath | SourceLocal => Some(Expected::Refused(&[libc::EINVAL, libc::EXDEV])),
            ForwardingOff if query.family() == Family::V4 => Some(Expected::NotOnward),
            _ => None,
        }
    }

    fn is(&self, answer: &Answer) -> bool {
        match (self, *answer) {
            (Expected::Onward(legs), Answer::Route(Route { kind: Kind::Unicast, next_hop, .. })) => {
                legs.contains(&next_hop)
            }
            (Expected::By(wanted), Answer::Route(Route { kind: Kind::Unicast, next_hop, .. })) => *wanted == next_hop,
            (Expected::Local, Answer::Route(Route { kind, .. })) => kind == Kind::Local,
            // What is addressed to the machine may have a source that it objects to (ip_route_input_slow).
            (Expected::Local, Answer::Refused(errno)) => errno == libc::EINVAL || errno == libc::EXDEV,
            (Expected::Refused(errnos), Answer::Refused(errno)) => errnos.contains(&errno),
            (Expected::NotOnward, Answer::Route(Route { kind, .. })) => kind != Kind::Unicast,
            (Expected::NotOnward, Answer::Refused(_)) => true,
            (Expected::Onward(_) | Expected::By(_), _) | (Expected::Refused(_), _) => false,
        }
    }
}

/// Compares what the workers sample, a little at a time.
pub struct Verifier {
    oracle: Oracle,
    tally: Tally,
    /// The one that is due first at the front.
    doubts: VecDeque<Doubt>,
    /// The last ones that were not alike, each packet once.
    divergences: VecDeque<Divergence>,
}

/// Everything since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Tally {
    sampled: u64,
    compared: u64,
    not_comparable: u64,
    /// The kernel or the mirror was changing, so nothing can be said.
    unsettled: u64,
    divergences: u64,
}

/// A decision that is not the kernel's, so far.
struct Doubt {
    query: Query,
    tracked: Option<Remembered>,
    due: Instant,
    looks: u32,
    /// Looks in a row that saw the same.
    steady: u32,
    /// Both answers at the last look, if the mirror was in step.
    seen: Option<(Result<Egress, Stop>, Option<Answer>)>,
}

struct Divergence {
    /// Which one it was, from 1; of a packet that was seen again, the last.
    number: u64,
    packet: String,
    ours: String,
    kernel: String,
    generation: Generation,
}

impl Verifier {
    /// # Errors
    ///
    /// No socket to the kernel.
    pub fn open() -> io::Result<Self> {
        Ok(Verifier {
            oracle: Oracle::open()?,
            tally: Tally::default(),
            doubts: VecDeque::with_capacity(DOUBTS),
            divergences: VecDeque::with_capacity(KEPT),
        })
    }

    pub fn oracle(&mut self) -> &mut Oracle {
        &mut self.oracle
    }

    /// Compares these samples, and looks again at the doubts that are due. `policy` is the one last published; `in_step` hears what
    /// the kernel has told by then, and says whether the policy is still up to it.
    pub fn turn(&mut self, samples: Vec<Sample>, policy: &Policy, in_step: &mut dyn FnMut() -> bool, now: Instant) {
        for sample in samples {
            self.tally.sampled += 1;
            self.compare(&sample, policy, now);
        }
        while self.doubts.front().is_some_and(|doubt| doubt.due <= now) {
            let Some(doubt) = self.doubts.pop_front() else { break };
            self.look_again(doubt, policy, in_step, now);
        }
    }

    fn compare(&mut self, sample: &Sample, policy: &Policy, now: Instant) {
        let Sample { query, tracked, outcome, generation } = *sample;
        // The kernel knows no former policy: what was decided by one is decided again.
        let outcome = if generation == policy.generation() { outcome } else { decide(policy, &query, tracked) };
        match check(policy, &query, tracked, outcome, &mut self.oracle).same {
            Some(true) => self.tally.compared += 1,
            None => self.tally.not_comparable += 1,
            Some(false) if self.doubts.len() < DOUBTS => {
                self.doubts.push_back(Doubt { query, tracked, due: now + PAUSE, looks: 0, steady: 0, seen: None });
            }
            Some(false) => self.tally.unsettled += 1,
        }
    }

    fn look_again(&mut self, doubt: Doubt, policy: &Policy, in_step: &mut dyn FnMut() -> bool, now: Instant) {
        let Doubt { query, tracked, looks, steady, seen, .. } = doubt;
        let looks = looks + 1;
        let before = in_step();
        let outcome = decide(policy, &query, tracked);
        let checked = check(policy, &query, tracked, outcome, &mut self.oracle);
        let sees = (before && in_step()).then_some((outcome, checked.kernel.as_ref().ok().copied()));
        if checked.same == Some(false) {
            let steady = match sees {
                None => 0,
                Some(_) if seen == sees => steady + 1,
                Some(_) => 1,
            };
            if steady == LOOKS {
                self.tally.compared += 1;
                self.diverged(&query, tracked, outcome, &checked, policy);
                return;
            }
            if looks < LOOKS_AT_MOST {
                self.doubts.push_back(Doubt { query, tracked, due: now + PAUSE, looks, steady, seen: sees });
                return;
            }
        }
        self.tally.unsettled += 1;
    }

    fn diverged(
        &mut self,
        query: &Query,
        tracked: Option<Remembered>,
        outcome: Result<Egress, Stop>,
        checked: &Checked,
        policy: &Policy,
    ) {
        self.tally.divergences += 1;
        let config = policy.config();
        let divergence = Divergence {
            number: self.tally.divergences,
            packet: Packet::of(query, config).to_string(),
            ours: in_words(policy, query, tracked, outcome),
            kernel: checked.kernel_in_words(config),
            generation: policy.generation(),
        };
        let Divergence { packet, ours, kernel, generation, .. } = &divergence;
        let same = |other: &Divergence| (&other.packet, &other.ours, &other.kernel) == (packet, ours, kernel);
        match self.divergences.iter().position(same) {
            Some(known) => drop(self.divergences.remove(known)),
            None => eprintln!(
                "a decision that is not the kernel's: {packet}: ours: {ours}; the kernel's: {kernel}; generation {}; this is a defect \
                 of shunt, please report it",
                generation.0
            ),
        }
        self.divergences.truncate(KEPT - 1);
        self.divergences.push_front(divergence);
    }

    /// The section `verify` of `shunt status --json`, the last divergence first.
    pub fn json(&self) -> Value {
        let Tally { sampled, compared, not_comparable, unsettled, divergences } = self.tally;
        json!({
            "sampled": sampled,
            "compared": compared,
            "not_comparable": not_comparable,
            "unsettled": unsettled,
            "pending": self.doubts.len(),
            "divergence_total": divergences,
            "divergences": self.divergences.iter().map(|one| json!({
                "number": one.number, "packet": one.packet, "ours": one.ours, "kernel": one.kernel,
                "generation": one.generation.0,
            })).collect::<Vec<_>>(),
        })
    }
}

/// Where a packet was sent.
fn next_hop(egress: Egress, routing: &Routing) -> NextHop {
    NextHop { oif: egress.oif(), via: routing.taken.and_then(|taken| taken.via) }
}

fn decide(policy: &Policy, query: &Query, tracked: Option<Remembered>) -> Result<Egress, Stop> {
    policy.decide_counting(query, &mut { tracked }, &mut Uncounted)
}

fn in_words(policy: &Policy, query: &Query, tracked: Option<Remembered>, outcome: Result<Egress, Stop>) -> String {
    match (outcome, policy.routing(query, &mut { tracked })) {
        (Ok(egress), Ok(routing)) => next_hop_in_words(&next_hop(egress, &routing), &policy.config().links),
        (Err(stop), _) | (Ok(_), Err(stop)) => stop.to_string(),
    }
}

/// The same for the terminal, from its JSON.
pub fn text(verify: &Value) -> Vec<String> {
    let mut lines = vec![format!(
        "verify    {} of {} samples compared with the kernel, {} not comparable, {} unsettled; divergences {}",
        verify["compared"],
        verify["sampled"],
        verify["not_comparable"],
        verify["unsettled"],
        verify["divergence_total"]
    )];
    lines.extend(verify["divergences"].as_array().into_iter().flatten().map(divergence_text));
    lines
}

fn divergence_text(divergence: &Value) -> String {
    let word = |key: &str| divergence[key].as_str().unwrap_or_default().to_owned();
    format!(
        "DIVERGES  {}\n          ours    {}\n          kernel  {}\n          by generation {}",
        word("packet"),
        word("ours"),
        word("kernel"),
        divergence["generation"]
    )
}
