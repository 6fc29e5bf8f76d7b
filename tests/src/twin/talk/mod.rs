//! Conversations through both routers. Each side answers to what has really come to it through that router, so that a wrong
//! translation shows in all that follows.

mod case;
mod frames;
mod likeness;
mod tables;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::{Outcome, QUIET, Twin, packet};

pub(super) use case::case;
use likeness::{Pairs, Verdict};

/// Between the packets of a round in which conversations begin. The kernel takes the tuple of a punted one for itself, and the workers
/// hear of it some milliseconds later; which of two conversations gets a tuple that both want must not depend on that.
const BEGINNING: Duration = Duration::from_millis(10);

/// What one host says to another, and what comes back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Talk {
    pub protocol: u8,
    pub client: End,
    /// As the client addresses it. `port` is where it speaks from before it has heard anything.
    pub server: End,
    /// Round of the first step.
    pub start: usize,
    pub steps: Vec<Step>,
}

/// A host behind a port of the router.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct End {
    pub port: usize,
    pub address: IpAddr,
    /// Port of UDP and TCP; of ICMP, the client's is the identifier.
    pub number: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    pub from: From,
    pub what: What,
    pub ttl: u8,
    pub tos: u8,
    /// Bytes of payload.
    pub fill: usize,
    pub bad_sum: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum From {
    Client,
    Server,
    /// A third host, beside the server, to the address that the server sees.
    Stranger,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// A datagram; an echo request of the client and the answer of the server.
    Data,
    /// Flags as in [`Packet`](super::Packet); numbers are those of the wire.
    Segment { flags: u8, sequence: u32, acknowledged: u32 },
    /// An ICMP error about what the speaker has got last (the stranger: what the server has). `short` quotes eight bytes behind the IP
    /// header, `spoiled` another port.
    Error { kind: u8, code: u8, short: bool, spoiled: bool },
}

/// What differs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// Number of the conversation; none if it is of the case as a whole.
    pub talk: Option<usize>,
    pub told: String,
    /// One of the two has sent nothing where the other has.
    pub silence: bool,
}

/// What a case came to.
#[derive(Debug, Default)]
pub struct Told {
    pub packets: u64,
    pub answered: u64,
    /// Invalid packets that the kernel would have forwarded or answered, and shunt has dropped.
    pub misfits: u64,
    pub differences: Vec<Difference>,
}

/// What a conversation has come to on one router.
#[derive(Clone, Default)]
struct Heard {
    /// The last frame of the other side that came to the client, and to the server.
    by_client: Option<(usize, Vec<u8>)>,
    by_server: Option<(usize, Vec<u8>)>,
}

/// One step under way: which conversation's, and what was sent into each router.
struct Under {
    talk: usize,
    step: Step,
    frames: [Option<(usize, Vec<u8>)>; 2],
}

/// Holds the conversations, and says where the routers differ. A conversation ends where they do.
pub(super) fn hold(twin: &mut Twin, talks: &[Talk]) -> Told {
    let mut told = Told::default();
    let mut heard = vec![[Heard::default(), Heard::default()]; talks.len()];
    let mut over = vec![false; talks.len()];
    let mut pairs = Pairs::default();
    let before = misfits(twin);
    let rounds = talks.iter().map(|talk| talk.start + talk.steps.len()).max().unwrap_or(0);
    for round in 0..rounds {
        let mut under = BTreeMap::new();
        for (number, talk) in talks.iter().enumerate().filter(|(number, _)| !over[*number]) {
            let Some(step) = round.checked_sub(talk.start).and_then(|at| talk.steps.get(at)) else { continue };
            let tag = twin.next_tags(1).start;
            let frames = [0, 1].map(|router| frames::frame(talk, step, tag, &heard[number][router]));
            under.insert(tag, Under { talk: number, step: *step, frames });
        }
        let begins = talks.iter().any(|talk| talk.start == round);
        let outcomes = exchange(twin, &under, if begins { BEGINNING } else { Duration::ZERO });
        for (tag, under) in &under {
            let [kernel, shunt] = [0, 1].map(|router| outcomes[router].get(tag).cloned().unwrap_or_default());
            told.packets += 1;
            told.answered += u64::from(!kernel.is_empty());
            let talk = &talks[under.talk];
            let verdict = likeness::compare(talk, &under.frames, &kernel, &shunt, &mut pairs);
            if let Verdict::Differ(why) = verdict {
                over[under.talk] = true;
                // What does not fit its connection and would be the kernel's ends here: the kernel, whose copy of the connection knows
                // no windows, would not see that it is invalid.
                if !kernel.is_empty() && shunt.is_empty() && misfits(twin) > before + told.misfits {
                    told.misfits += 1;
                    continue;
                }
                told.differences.push(Difference {
                    talk: Some(under.talk),
                    told: tell(round, talk, under, &why, &kernel, &shunt),
                    silence: kernel.is_empty() != shunt.is_empty(),
                });
                continue;
            }
            for (router, outcome) in [kernel, shunt].into_iter().enumerate() {
                heard[under.talk][router].hear(under.step.from, talk.protocol, outcome);
            }
        }
    }
    told
}

fn misfits(twin: &Twin) -> u64 {
    twin.daemon().counted("dropped", "misfit")
}

/// What came out of both routers, by tag. A reset quotes nothing, and a short quote no tag.
fn exchange(twin: &mut Twin, under: &BTreeMap<u32, Under>, pause: Duration) -> [HashMap<u32, Outcome>; 2] {
    let sent = under.values().map(|under| under.frames.clone());
    let tag_of = |router: usize, frame: &[u8]| {
        packet::tag(frame)
            .or_else(|| {
                let answered = |under: &Under| {
                    under.frames[router].as_ref().is_some_and(|(_, sent)| frames::is_reset_of(frame, sent))
                };
                under.iter().find(|(_, under)| answered(under)).map(|(tag, _)| *tag)
            })
            .or_else(|| under.keys().copied().find(|tag| frames::has_identification(frame, *tag)))
    };
    let mut outcomes = twin.pass(sent, pause, QUIET, tag_of);
    for outcome in outcomes.iter_mut().flat_map(HashMap::values_mut) {
        outcome.sort_by_key(|(port, frame)| (*port, frame.len()));
    }
    outcomes
}

impl Heard {
    fn hear(&mut self, from: From, protocol: u8, outcome: Outcome) {
        for (port, frame) in outcome {
            // Errors of the router itself are no part of the conversation.
            if !frames::is_of(&frame, protocol) {
                continue;
            }
            match from {
                From::Client => self.by_server = Some((port, frame)),
                From::Server | From::Stranger => self.by_client = Some((port, frame)),
            }
        }
    }
}

fn tell(round: usize, talk: &Talk, under: &Under, why: &str, kernel: &Outcome, shunt: &Outcome) -> String {
    use super::campaign::outcome;
    let sent = under.frames.clone().map(|frame| frame.into_iter().collect::<Outcome>());
    format!(
        "{why} in round {round}, {}, of\n{talk}sent to kernel {}\nsent to shunt  {}\nkernel {}\nshunt  {}\n",
        under.step,
        outcome(&sent[0]),
        outcome(&sent[1]),
        outcome(kernel),
        outcome(shunt)
    )
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Step { from, what, ttl, tos, fill, bad_sum } = self;
        write!(f, "{from:?} {what:x?} ttl {ttl} tos {tos:#04x} fill {fill}{}", if *bad_sum { " bad sum" } else { "" })
    }
}

impl fmt::Display for Talk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Talk { protocol, client, server, start, steps } = self;
        writeln!(
            f,
            "protocol {protocol}: p{} {} {} -> {} {} (p{}) from round {start}",
            client.port, client.address, client.number, server.address, server.number, server.port
        )?;
        steps.iter().try_for_each(|step| writeln!(f, "  {step}"))
    }
}
