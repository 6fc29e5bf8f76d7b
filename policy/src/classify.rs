//! The netfilter side: PREROUTING chains that set the mark, and guards for what we do not evaluate.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::config::{
    BaseChain, ChainPolicy, ChainRule, Guard, InterfacePattern, Link, MarkMatch, Match, PortRange, Target, Test,
};
use crate::fib;
use crate::names::{Ifindex, Mark, Prefix};
use crate::outcome::{DropReason, PuntReason, Stop};
use crate::query::{Query, Transport};

/// Chains nested deeper are punted. The kernel's own bound for nftables is 16 (`NFT_JUMP_STACK_SIZE`).
pub(crate) const DEEPEST_JUMP: usize = 64;

/// A query with its addresses in the form that compiled tests compare.
#[derive(Clone, Copy)]
pub(crate) struct Facts<'a> {
    pub(crate) query: &'a Query,
    pub(crate) source: u128,
    pub(crate) destination: u128,
    /// Known behind the route look-up only.
    pub(crate) oif: Option<Ifindex>,
}

impl<'a> Facts<'a> {
    pub(crate) fn of(query: &'a Query) -> Self {
        Facts {
            query,
            source: fib::aligned_address(query.source),
            destination: fib::aligned_address(query.destination),
            oif: None,
        }
    }
}

/// The chains hooked to PREROUTING for one family, in the kernel's order.
#[derive(Debug, Default)]
pub(crate) struct Mangle {
    chains: Vec<CompiledBase>,
}

#[derive(Debug)]
struct CompiledBase {
    rules: Vec<CompiledRule>,
    policy: ChainPolicy,
    user: Vec<Vec<CompiledRule>>,
}

#[derive(Debug)]
struct CompiledRule {
    checks: Checks,
    action: Action,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Accept,
    Drop,
    Return,
    Jump(usize),
    Goto(usize),
    Mark { clear: u32, flip: u32 },
    Continue,
    Opaque,
}

/// How a chain ended.
enum Flow {
    /// Its last rule was passed, or RETURN met.
    Return,
    Accept,
}

impl Mangle {
    pub(crate) fn compile<'a>(chains: impl Iterator<Item = &'a BaseChain>, links: &[Link]) -> Self {
        Mangle { chains: chains.map(|chain| CompiledBase::compile(chain, links)).collect() }
    }

    /// The mark with which the packet leaves PREROUTING. Each base chain sees the mark of the one before; ACCEPT ends only its own.
    pub(crate) fn classify(&self, facts: &Facts<'_>) -> Result<Mark, Stop> {
        let mut mark = facts.query.mark;
        for chain in &self.chains {
            match chain.run(&chain.rules, facts, &mut mark, 0)? {
                Flow::Return if chain.policy == ChainPolicy::Drop => return Err(Stop::Drop(DropReason::MangleDrop)),
                Flow::Return | Flow::Accept => {}
            }
        }
        Ok(mark)
    }
}

impl CompiledBase {
    fn compile(chain: &BaseChain, links: &[Link]) -> Self {
        let index: HashMap<&str, usize> =
            chain.user.iter().enumerate().map(|(at, user)| (user.name.as_str(), at)).collect();
        let rules = |rules: &[ChainRule]| rules.iter().map(|rule| CompiledRule::compile(rule, &index, links)).collect();
        CompiledBase {
            rules: rules(&chain.rules),
            policy: chain.policy,
            user: chain.user.iter().map(|user| rules(&user.rules)).collect(),
        }
    }

    fn run(&self, rules: &[CompiledRule], facts: &Facts<'_>, mark: &mut Mark, depth: usize) -> Result<Flow, Stop> {
        for rule in rules {
            match rule.checks.hold(facts, *mark) {
                Holds::No => continue,
                Holds::Maybe => return Err(Stop::Punt(PuntReason::OpaqueMangle)),
                Holds::Yes => {}
            }
            match rule.action {
                Action::Accept => return Ok(Flow::Accept),
                Action::Drop => return Err(Stop::Drop(DropReason::MangleDrop)),
                Action::Return => return Ok(Flow::Return),
                Action::Continue => {}
                Action::Mark { clear, flip } => *mark = Mark((mark.0 & !clear) ^ flip),
                Action::Opaque => return Err(Stop::Punt(PuntReason::OpaqueMangle)),
                Action::Jump(_) | Action::Goto(_) if depth == DEEPEST_JUMP => {
                    return Err(Stop::Punt(PuntReason::OpaqueMangle));
                }
                Action::Goto(chain) => return self.run(&self.user[chain], facts, mark, depth + 1),
                Action::Jump(chain) => match self.run(&self.user[chain], facts, mark, depth + 1)? {
                    Flow::Return => {}
                    Flow::Accept => return Ok(Flow::Accept),
                },
            }
        }
        Ok(Flow::Return)
    }
}

impl CompiledRule {
    fn compile(rule: &ChainRule, chains: &HashMap<&str, usize>, links: &[Link]) -> Self {
        let chain = |name: &str, action: fn(usize) -> Action| chains.get(name).map_or(Action::Opaque, |at| action(*at));
        let action = match &rule.target {
            Target::Accept => Action::Accept,
            Target::Drop => Action::Drop,
            Target::Return => Action::Return,
            Target::Jump(name) => chain(name, Action::Jump),
            Target::Goto(name) => chain(name, Action::Goto),
            Target::Mark { clear, flip } => Action::Mark { clear: *clear, flip: *flip },
            Target::Continue => Action::Continue,
            Target::Opaque(_) => Action::Opaque,
        };
        CompiledRule { checks: Checks::compile(&rule.matches, links), action }
    }
}

/// What we do not evaluate, and how to tell which packets it could touch.
#[derive(Debug)]
pub(crate) struct CompiledGuard {
    checks: Checks,
    reason: PuntReason,
}

impl CompiledGuard {
    pub(crate) fn compile(guard: &Guard, links: &[Link]) -> Self {
        CompiledGuard { checks: Checks::compile(&guard.matches, links), reason: guard.reason }
    }

    /// Stops a packet that the guarded thing could touch.
    pub(crate) fn admit(&self, facts: &Facts<'_>) -> Result<(), Stop> {
        match self.checks.hold(facts, facts.query.mark) {
            Holds::No => Ok(()),
            Holds::Yes | Holds::Maybe => Err(Stop::Punt(self.reason)),
        }
    }
}

/// Whether all matches of a rule hold.
enum Holds {
    Yes,
    No,
    /// All that we know do, but not all are known.
    Maybe,
}

#[derive(Debug)]
struct Checks {
    known: Box<[(bool, Check)]>,
    opaque: bool,
}

/// A [`Test`] with its names and prefixes resolved.
#[derive(Debug)]
enum Check {
    In(Box<[Ifindex]>),
    Out(Box<[Ifindex]>),
    Source { value: u128, mask: u128 },
    Destination { value: u128, mask: u128 },
    Protocol(u8),
    SourcePort(Box<[PortRange]>),
    DestinationPort(Box<[PortRange]>),
    EitherPort(Box<[PortRange]>),
    Tos { value: u8, mask: u8 },
    CodePoint(u8),
    Mark(MarkMatch),
    Icmp { kind: u8, codes: (u8, u8) },
}

impl Checks {
    fn compile(matches: &[Match], links: &[Link]) -> Self {
        let mut opaque = false;
        let mut known = Vec::with_capacity(matches.len());
        for Match { not, test } in matches {
            let check = match test {
                Test::In(pattern) => Check::In(links_matching(pattern, links)),
                Test::Out(pattern) => Check::Out(links_matching(pattern, links)),
                Test::Source(prefix) => Check::Source { value: fib::aligned(*prefix), mask: aligned_mask(*prefix) },
                Test::Destination(prefix) => {
                    Check::Destination { value: fib::aligned(*prefix), mask: aligned_mask(*prefix) }
                }
                Test::Protocol(protocol) => Check::Protocol(*protocol),
                Test::SourcePort(ranges) => Check::SourcePort(ranges.as_slice().into()),
                Test::DestinationPort(ranges) => Check::DestinationPort(ranges.as_slice().into()),
                Test::EitherPort(ranges) => Check::EitherPort(ranges.as_slice().into()),
                Test::Tos { value, mask } => Check::Tos { value: *value, mask: *mask },
                Test::CodePoint(point) => Check::CodePoint(*point),
                Test::Mark(mark) => Check::Mark(*mark),
                Test::Icmp { kind, codes } => Check::Icmp { kind: *kind, codes: *codes },
                Test::Opaque(_) => {
                    opaque = true;
                    continue;
                }
            };
            known.push((*not, check));
        }
        Checks { known: known.into(), opaque }
    }

    fn hold(&self, facts: &Facts<'_>, mark: Mark) -> Holds {
        for (not, check) in &self.known {
            if check.holds(facts, mark) == *not {
                return Holds::No;
            }
        }
        if self.opaque { Holds::Maybe } else { Holds::Yes }
    }
}

impl Check {
    fn holds(&self, facts: &Facts<'_>, mark: Mark) -> bool {
        let query = facts.query;
        let any = |ranges: &[PortRange], port: u16| ranges.iter().any(|range| range.contains(port));
        match self {
            Check::In(links) => links.contains(&query.iif),
            Check::Out(links) => facts.oif.is_some_and(|oif| links.contains(&oif)),
            Check::Source { value, mask } => (facts.source ^ value) & mask == 0,
            Check::Destination { value, mask } => (facts.destination ^ value) & mask == 0,
            Check::Protocol(protocol) => query.protocol == *protocol,
            Check::Tos { value, mask } => query.tos & mask == *value,
            Check::CodePoint(point) => query.tos >> 2 == *point,
            // xt_mark compares the whole value: bits outside the mask never match, other than in an ip rule.
            Check::Mark(wanted) => mark.0 & wanted.mask == wanted.value,
            Check::SourcePort(ranges) => {
                matches!(query.transport, Transport::Ports { source, .. } if any(ranges, source))
            }
            Check::DestinationPort(ranges) => {
                matches!(query.transport, Transport::Ports { destination, .. } if any(ranges, destination))
            }
            Check::EitherPort(ranges) => {
                matches!(query.transport, Transport::Ports { source, destination }
                    if any(ranges, source) || any(ranges, destination))
            }
            Check::Icmp { kind, codes } => {
                matches!(query.transport, Transport::Icmp { kind: seen, code }
                    if seen == *kind && codes.0 <= code && code <= codes.1)
            }
        }
    }
}

fn links_matching(pattern: &InterfacePattern, links: &[Link]) -> Box<[Ifindex]> {
    links.iter().filter(|link| pattern.matches(&link.name)).map(|link| link.ifindex).collect()
}

/// Netmask of a prefix in the alignment of [`fib::aligned`].
fn aligned_mask(prefix: Prefix) -> u128 {
    match prefix.address() {
        IpAddr::V4(_) => u128::from(crate::names::mask32(prefix.length())) << 96,
        IpAddr::V6(_) => crate::names::mask128(prefix.length()),
    }
}
