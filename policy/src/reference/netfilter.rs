//! Chains, rules and sets, step by step.

use std::net::IpAddr;

use super::{Step, Walk};
use crate::config::{
    self, Action, BaseChain, ChainPolicy, ChainRule, Conntrack, Field, Guard, Hook, Match, Mss, MssLimit, Test,
    TtlChange, Verdict,
};
use crate::connection::{Connection, Manip, Range};
use crate::names::{Family, Ifindex, Mark};
use crate::outcome::{DropReason, PuntReason, Stop};
use crate::query::Query;

/// See [`Verdict::Jump`]: deeper is punted.
const DEEPEST: usize = crate::netfilter::DEEPEST_JUMP;

/// The packet on its way, as rules before have left it.
#[derive(Clone)]
pub(super) struct Packet {
    pub(super) query: Query,
    pub(super) oif: Option<Ifindex>,
    /// The gateway.
    pub(super) via: Option<IpAddr>,
    pub(super) connection: Connection,
    /// NOTRACK, or what conntrack passes over.
    pub(super) untracked: bool,
    /// A rule has set `ct mark`.
    pub(super) marks_connection: bool,
    /// Largest packet that the route ahead takes.
    pub(super) mtu: u32,
    /// Fields that rules have set, be it to what they were.
    written: Vec<Field>,
    /// Rules that have counted it.
    counts: usize,
}

impl Packet {
    pub(super) fn of(query: &Query) -> Self {
        Packet {
            query: *query,
            oif: None,
            via: None,
            connection: Connection::NONE,
            untracked: false,
            marks_connection: false,
            mtu: 0,
            written: Vec::new(),
            counts: 0,
        }
    }
}

/// All priorities.
pub(super) const EVER: (i32, i32) = (i32::MIN, i32::MAX);

/// How a chain ended.
enum End {
    Accept,
    Return,
    Nat(Range),
}

impl<'a> Walk<'a> {
    pub(super) fn guards(&mut self, hook: Hook, packet: &Packet) -> Result<(), Stop> {
        let (config, family) = (self.config, self.family);
        for guard in config.guards.iter().filter(|guard| guard.family == family && guard.hook == hook) {
            let Guard { matches, reason, origin, .. } = guard;
            let excluded = matches.iter().any(|one| self.holds(one, packet) == Some(false));
            if !excluded {
                self.steps.push(Step::MightMatch { rule: origin.clone() });
                return Err(Stop::Punt(*reason));
            }
        }
        Ok(())
    }

    /// All base chains of a hook with such priorities, but those of type nat.
    pub(super) fn hook(&mut self, hook: Hook, (from, to): (i32, i32), packet: &mut Packet) -> Result<(), Stop> {
        let (config, family) = (self.config, self.family);
        let chains: Vec<&BaseChain> = config
            .chains
            .iter()
            .filter(|chain| chain.family == family && chain.hook == hook && !(chain.nat && hook != Hook::Forward))
            .filter(|chain| (from..=to).contains(&chain.priority))
            .collect();
        let mut rest = &chains[..];
        while let [first, behind @ ..] = rest {
            let companions = behind.iter().take_while(|chain| chain.unordered).count();
            if companions == 0 {
                self.base_chain(first, packet)?;
            } else {
                self.in_any_order(&rest[..=companions], packet)?;
            }
            rest = &behind[companions..];
        }
        Ok(())
    }

    /// The chains of type nat of a hook, until one has said what the packet becomes.
    pub(super) fn nat_chains(&mut self, manip: Manip, packet: &mut Packet) -> Result<Option<Range>, Stop> {
        let (config, family) = (self.config, self.family);
        let hook = if manip == Manip::Source { Hook::Postrouting } else { Hook::Prerouting };
        let chains: Vec<&BaseChain> =
            config.chains.iter().filter(|chain| chain.family == family && chain.hook == hook && chain.nat).collect();
        let mut rest = &chains[..];
        while let [first, behind @ ..] = rest {
            let companions = behind.iter().take_while(|chain| chain.unordered).count();
            let found = if companions == 0 {
                self.nat_chain(first, packet)?
            } else {
                self.nat_in_any_order(&rest[..=companions], packet)?
            };
            if found.is_some() {
                return Ok(found);
            }
            rest = &behind[companions..];
        }
        Ok(None)
    }

    /// Only if one alone of the chains does anything at all, and that does not depend on it.
    fn nat_in_any_order(&mut self, chains: &[&'a BaseChain], packet: &mut Packet) -> Result<Option<Range>, Stop> {
        let came = Packet { written: Vec::new(), counts: 0, ..packet.clone() };
        let mut ends = Vec::new();
        for (at, chain) in chains.iter().enumerate() {
            let mut own = came.clone();
            let end = self.nat_chain(chain, &mut own);
            if let Err(Stop::Punt(_)) = end {
                return end;
            }
            if end != Ok(None) || !own.written.is_empty() || own.counts > 0 {
                ends.push((at, end, own));
            }
            if ends.len() > 1 {
                return Err(Stop::Punt(PuntReason::ChainOrder));
            }
        }
        let Some((at, end, own)) = ends.pop() else { return Ok(None) };
        let others = chains.iter().enumerate().filter(|(other, _)| *other != at);
        let mut looks =
            others.flat_map(|(_, chain)| chain.all_rules()).flat_map(|rule| &rule.steps).flat_map(looked_at);
        if looks.any(|field| own.written.contains(&field)) {
            return Err(Stop::Punt(PuntReason::ChainOrder));
        }
        packet.take(own);
        end
    }

    fn nat_chain(&mut self, chain: &'a BaseChain, packet: &mut Packet) -> Result<Option<Range>, Stop> {
        match self.chain(chain, &chain.rules, packet, 0)? {
            End::Accept => Ok(None),
            End::Nat(range) => Ok(Some(range)),
            End::Return if chain.policy == ChainPolicy::Accept => Ok(None),
            End::Return => {
                self.steps.push(Step::ChainPolicy { chain: chain.name.clone(), policy: chain.policy });
                Err(dropped(chain.hook))
            }
        }
    }

    /// Each of the chains sees the packet as it came. What they make of it counts if no order would make anything else of it.
    fn in_any_order(&mut self, chains: &[&'a BaseChain], packet: &mut Packet) -> Result<(), Stop> {
        let came = Packet { written: Vec::new(), counts: 0, ..packet.clone() };
        let mut ends = Vec::new();
        for chain in chains {
            let mut own = came.clone();
            match self.base_chain(chain, &mut own) {
                Err(Stop::Punt(reason)) => return Err(Stop::Punt(reason)),
                end => ends.push((end, own)),
            }
        }
        let unknown = Err(Stop::Punt(PuntReason::ChainOrder));
        let writers: Vec<usize> =
            (0..ends.len()).filter(|at| ends[*at].0.is_ok() && !ends[*at].1.written.is_empty()).collect();
        if writers.len() > 1 {
            return unknown;
        }
        let droppers: Vec<usize> = (0..ends.len()).filter(|at| ends[*at].0.is_err()).collect();
        let leaves = |packet: &Packet| packet.counts > 0 || packet.written.contains(&Field::CtMark);
        let leavers: Vec<usize> = (0..ends.len()).filter(|at| leaves(&ends[*at].1)).collect();
        if let [one, ..] = droppers[..] {
            let alone = leavers.is_empty() || (leavers == [one] && droppers == [one]);
            if !alone {
                return unknown;
            }
            packet.connection = ends[one].1.connection;
            packet.marks_connection = ends[one].1.marks_connection;
            return ends[one].0;
        }
        if let [writer] = writers[..] {
            for (at, chain) in chains.iter().enumerate() {
                let looks =
                    chain.all_rules().flat_map(|rule| rule.steps.iter().flat_map(looked_at)).collect::<Vec<_>>();
                if at != writer && ends[writer].1.written.iter().any(|field| looks.contains(field)) {
                    return unknown;
                }
            }
            packet.take(ends.swap_remove(writer).1);
        }
        Ok(())
    }

    fn base_chain(&mut self, chain: &'a BaseChain, packet: &mut Packet) -> Result<(), Stop> {
        // Conntrack and nat have these priorities, too.
        let rival = match (chain.hook, chain.priority) {
            (Hook::Prerouting, -200) => Some(Conntrack::Tracks),
            (Hook::Prerouting, -100) | (Hook::Postrouting, 100) => Some(Conntrack::Translates),
            _ => None,
        };
        let is_empty = chain.rules.is_empty() && chain.policy == ChainPolicy::Accept;
        if rival.is_some_and(|rival| self.conntrack() >= rival) && !is_empty {
            return Err(Stop::Punt(PuntReason::ChainOrder));
        }
        match self.chain(chain, &chain.rules, packet, 0)? {
            End::Nat(_) => Err(unknown(chain.hook)),
            End::Accept => Ok(()),
            End::Return if chain.policy == ChainPolicy::Accept => Ok(()),
            End::Return => {
                self.steps.push(Step::ChainPolicy { chain: chain.name.clone(), policy: chain.policy });
                Err(dropped(chain.hook))
            }
        }
    }

    fn chain(
        &mut self,
        base: &'a BaseChain,
        rules: &'a [ChainRule],
        packet: &mut Packet,
        depth: usize,
    ) -> Result<End, Stop> {
        for rule in rules {
            let (target, goes) = match self.rule(base.hook, rule, packet)? {
                Verdict::Continue => continue,
                Verdict::Accept => return Ok(End::Accept),
                Verdict::Drop => return Err(dropped(base.hook)),
                Verdict::Return => return Ok(End::Return),
                Verdict::Reject => return Err(Stop::Punt(PuntReason::Reject)),
                Verdict::Nat(_) if !base.nat || base.hook == Hook::Forward => return Err(unknown(base.hook)),
                Verdict::Nat(nat) => return Ok(End::Nat(self.range(base.hook, &nat, packet)?)),
                Verdict::Opaque(_) => return Err(unknown(base.hook)),
                Verdict::Jump(name) => (name, false),
                Verdict::Goto(name) => (name, true),
            };
            let user = base.user.iter().rfind(|user| user.name == target);
            let user = user.filter(|_| depth < DEEPEST).ok_or(unknown(base.hook))?;
            let end = self.chain(base, &user.rules, packet, depth + 1)?;
            if goes || matches!(end, End::Accept | End::Nat(_)) {
                return Ok(end);
            }
        }
        Ok(End::Return)
    }

    /// Takes a rule's steps.
    fn rule(&mut self, hook: Hook, rule: &'a ChainRule, packet: &mut Packet) -> Result<Verdict, Stop> {
        let before = (packet.query, packet.connection.mark);
        let opaque = |walk: &mut Self| {
            walk.steps.push(Step::MightMatch { rule: rule.origin.clone() });
            Err(unknown(hook))
        };
        let mut verdict = Verdict::Continue;
        for step in &rule.steps {
            match step {
                config::Step::Match(one) => match self.holds(one, packet) {
                    Some(true) => {}
                    Some(false) => {
                        // nftables may have changed the packet by then.
                        if before != (packet.query, packet.connection.mark) {
                            self.matched(rule, before, packet);
                        }
                        return Ok(Verdict::Continue);
                    }
                    None => return opaque(self),
                },
                config::Step::Count => {
                    packet.counts += 1;
                    self.counted.push(rule.counter);
                }
                config::Step::Do(Action::Nothing) => {}
                config::Step::Do(Action::Untrack) => {
                    if !packet.has_connection() && !packet.untracked {
                        packet.untracked = true;
                        packet.written.push(Field::CtState);
                    }
                }
                config::Step::Do(Action::CtMark { clear, flip }) if packet.has_connection() => {
                    packet.mark_connection((packet.connection.mark.0 & !clear) ^ flip);
                }
                config::Step::Do(Action::SaveMark { clear, take, flip }) if packet.has_connection() => {
                    let taken = packet.query.mark.0 & take;
                    packet.mark_connection((packet.connection.mark.0 & !clear) ^ taken ^ flip);
                }
                config::Step::Do(Action::RestoreMark { clear, take, flip }) if packet.has_connection() => {
                    let taken = packet.connection.mark.0 & take;
                    packet.query.mark = Mark((packet.query.mark.0 & !clear) ^ taken ^ flip);
                    packet.written.push(Field::Mark);
                }
                config::Step::Do(Action::CtMark { .. } | Action::SaveMark { .. } | Action::RestoreMark { .. }) => {}
                config::Step::Do(Action::Mark { clear, flip }) => {
                    packet.query.mark = Mark((packet.query.mark.0 & !clear) ^ flip);
                    packet.written.push(Field::Mark);
                }
                config::Step::Do(Action::MarkOf { key, map }) => match self.element(key, map, packet) {
                    Some(Some(mark)) => {
                        packet.query.mark = Mark(*mark);
                        packet.written.push(Field::Mark);
                    }
                    Some(None) => return Ok(Verdict::Continue),
                    None => return opaque(self),
                },
                config::Step::Do(Action::Tos { clear, flip }) => {
                    packet.query.tos = (packet.query.tos & !clear) ^ flip;
                    packet.written.push(Field::Tos);
                }
                config::Step::Do(Action::Ttl(change)) => {
                    let ttl = u32::from(packet.query.ttl);
                    packet.query.ttl = match change {
                        TtlChange::Set(ttl) => *ttl,
                        TtlChange::Raise(by) => (ttl + u32::from(*by)).min(255) as u8,
                        TtlChange::Lower(by) => ttl.saturating_sub(u32::from(*by)) as u8,
                    };
                    packet.written.push(Field::Ttl);
                }
                config::Step::Do(Action::Mss(mss)) => self.lower_mss(hook, *mss, packet)?,
                config::Step::Do(Action::Connection(_) | Action::Opaque(_)) => return opaque(self),
                config::Step::Verdict(one) => {
                    verdict = one.clone();
                    break;
                }
                config::Step::VerdictOf { key, map } => {
                    match self.element(key, map, packet) {
                        Some(Some(one)) => verdict = one.clone(),
                        Some(None) => return Ok(Verdict::Continue),
                        None => return opaque(self),
                    }
                    break;
                }
            }
        }
        self.matched(rule, before, packet);
        Ok(verdict)
    }

    fn matched(&mut self, rule: &ChainRule, (before, ct_mark): (Query, Mark), after: &Packet) {
        let mut changes = Vec::new();
        if ct_mark != after.connection.mark {
            changes.push(format!("ct mark {} -> {}", ct_mark, after.connection.mark));
        }
        let after = &after.query;
        if before.mark != after.mark {
            changes.push(format!("mark {} -> {}", before.mark, after.mark));
        }
        if before.tos != after.tos {
            changes.push(format!("tos {:#04x} -> {:#04x}", before.tos, after.tos));
        }
        if before.ttl != after.ttl {
            changes.push(format!("ttl {} -> {}", before.ttl, after.ttl));
        }
        if let (Some(old), Some(new)) = (before.mss, after.mss)
            && old != new
        {
            changes.push(format!("mss {old} -> {new}"));
        }
        self.steps.push(Step::Matched { rule: rule.origin.clone(), changes });
    }

    fn lower_mss(&mut self, hook: Hook, mss: Mss, packet: &mut Packet) -> Result<(), Stop> {
        if packet.query.protocol != 6 {
            return Ok(());
        }
        let Some(old) = packet.query.mss else {
            return if mss.adds { Err(Stop::Punt(PuntReason::MssOption)) } else { Ok(()) };
        };
        let new = match mss.to {
            MssLimit::Bytes(bytes) => u32::from(bytes),
            MssLimit::PathMtu => {
                let headers = if self.family == Family::V4 { 20 + 20 } else { 40 + 20 };
                let mtu = packet.mtu.min(self.mtu_back(&packet.query)?);
                let sensible = packet.oif.is_some() && mtu > headers && mtu - headers <= 0xffff;
                if !sensible {
                    return Err(unknown(hook));
                }
                mtu - headers
            }
        };
        if u32::from(old) > new {
            packet.query.mss = Some(new as u16);
        }
        packet.written.push(Field::TcpMss);
        Ok(())
    }
}

impl Packet {
    fn mark_connection(&mut self, mark: u32) {
        self.connection.mark = Mark(mark);
        self.marks_connection = true;
        self.written.push(Field::CtMark);
    }

    /// What one chain has made of it.
    fn take(&mut self, made: Packet) {
        let Packet { query, connection, untracked, marks_connection, written, .. } = made;
        (self.query, self.connection) = (query, connection);
        (self.untracked, self.marks_connection) = (untracked, marks_connection);
        self.written.extend(written);
    }
}

/// What a step looks at, or changes.
fn looked_at(step: &config::Step) -> Vec<Field> {
    match step {
        config::Step::Match(Match { test: Test::Field { field, .. }, .. }) => vec![*field],
        config::Step::Match(Match { test: Test::EitherPort(_), .. }) => vec![Field::SourcePort, Field::DestinationPort],
        config::Step::Match(Match { test: Test::In { key, .. }, .. }) | config::Step::VerdictOf { key, .. } => {
            key.clone()
        }
        // The mark that comes out of a map does not depend on the one before, but on who comes last.
        config::Step::Do(Action::MarkOf { key, .. }) => [&key[..], &[Field::Mark]].concat(),
        config::Step::Do(Action::Mark { .. }) => vec![Field::Mark],
        config::Step::Do(Action::Tos { .. }) => vec![Field::Tos],
        config::Step::Do(Action::Ttl(_)) => vec![Field::Ttl],
        config::Step::Do(Action::Mss(_)) => vec![Field::TcpMss],
        config::Step::Do(Action::Untrack) => vec![Field::CtState],
        config::Step::Do(Action::CtMark { .. }) => vec![Field::CtMark],
        config::Step::Do(Action::SaveMark { .. } | Action::RestoreMark { .. }) => vec![Field::Mark, Field::CtMark],
        _ => Vec::new(),
    }
}

fn dropped(hook: Hook) -> Stop {
    Stop::Drop(DropReason::at(hook))
}

fn unknown(hook: Hook) -> Stop {
    Stop::Punt(PuntReason::opaque_at(hook))
}
