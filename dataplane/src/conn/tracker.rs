//! One packet and its connection: `nf_conntrack_in` and the nat hooks, as a decision asks them.

use shunt_policy::connection::{Connection, Direction, Endpoint, Manip, Range, Remembered, State, Tracking, Tuple};
use shunt_policy::{DropReason, Ifindex, Mark, PuntReason, Stop};

use super::connections::{Connections, End};
use super::entry::{About, Entry, FIXED_TIMEOUT, Progress, Step};
use super::index::Reference;
use super::nat::{self, Inner};
use super::seen::{Kind, Seen};
use super::timeouts::{self, DCCP, SCTP, SECOND};

/// Whether the destination of a packet, as it came, is an address of this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Local {
    No,
    /// It is, and no rule changes that.
    Ours,
    /// It is, but rules of destination nat might lead it on.
    MayBeTranslated,
}

/// The connection of one packet. All that it changes is kept when it is settled; exceptions are that an expired entry goes when it is
/// met, and a closed one when a SYN reopens it or its tuple is needed.
pub struct Tracker<'a> {
    pub(super) connections: &'a mut Connections,
    pub(super) seen: Seen,
    pub(super) local: Local,
    pub(super) now: u64,
    pub(super) held: Held,
    /// What becomes of a known entry, whether or not the packet is one of its.
    pub(super) update: Option<(u32, Update)>,
    pub(super) mark: Option<Mark>,
    /// What rules were told.
    found: Option<Connection>,
}

pub(super) enum Held {
    Unasked,
    /// Untracked, invalid, or the kernel's.
    Nothing,
    New(Fresh),
    Known(Reference),
    Related(Reference, Inner),
}

/// A connection that begins with the packet.
#[derive(Clone, Copy)]
pub(super) struct Fresh {
    pub(super) original: Tuple,
    pub(super) reply: Tuple,
    pub(super) status: u16,
    pub(super) masquerade: u32,
    /// Seconds
    pub(super) timeout: u32,
    pub(super) progress: Progress,
}

#[derive(Clone, Copy)]
pub(super) struct Update {
    pub(super) expires: u64,
    pub(super) status: u16,
    pub(super) progress: Progress,
    pub(super) kill: bool,
}

const INVALID: Connection = Connection { state: State::Invalid, ..Connection::NONE };
const KERNELS: Stop = Stop::Punt(PuntReason::KernelConnection);

impl<'a> Tracker<'a> {
    pub(super) fn new(connections: &'a mut Connections, seen: Seen, local: Local, now: u64) -> Self {
        Tracker { connections, seen, local, now, held: Held::Unasked, update: None, mark: None, found: None }
    }

    /// How the packet that an ICMP error quotes changes; `None` if it does not. To be asked when both ends were translated.
    pub fn inner(&self) -> Option<Inner> {
        match self.held {
            Held::Related(_, inner) => Some(inner).filter(|inner| *inner != Inner::default()),
            _ => None,
        }
    }

    /// Whether the packet would have left by another interface than the one behind which its connection is masqueraded; then that ends
    /// (`nf_nat_oif_changed`). For a packet that goes to the kernel before its source is translated: the kernel's copy does not know.
    pub fn has_moved(&mut self, oif: Ifindex) -> bool {
        let Held::Known(found) = &self.held else { return false };
        let masquerade = self.connections.table.entry(found.number).masquerade;
        let moved = masquerade != 0 && !found.reply && masquerade != oif.0;
        if let Some((_, update)) = self.update.as_mut().filter(|_| moved) {
            update.kill = true;
        }
        moved
    }

    /// What it takes to decide about the packet again; `None` if it was not tracked. The ends are those with which it leaves.
    pub fn remembered(&self, source: Option<Endpoint>, destination: Option<Endpoint>) -> Option<Remembered> {
        let tuples = self.tuple(Direction::Original).zip(self.tuple(Direction::Reply));
        let tuples = tuples.map(|(original, reply)| [original, reply]);
        self.found.map(|connection| Remembered { connection, tuples, source, destination })
    }

    /// `nf_conntrack_in`
    fn look(&mut self) -> Result<Connection, Stop> {
        self.held = Held::Nothing;
        self.connections.left_copy = false;
        match self.seen.kind {
            Kind::Untracked => Ok(Connection::NONE),
            // Invalid by its bytes: the kernel sees that as well as we do, and what else it does with such a packet.
            Kind::Malformed => Err(Stop::Punt(PuntReason::Conntrack)),
            Kind::IcmpError { about } => self.relate(&about),
            _ => match self.connections.find(&self.seen.tuple, self.now) {
                Some(found) => self.meet(found),
                None => self.begin(),
            },
        }
    }

    /// `nf_conntrack_inet_error`
    fn relate(&mut self, about: &Tuple) -> Result<Connection, Stop> {
        let found = about.inverse().and_then(|inner| self.connections.find(&inner, self.now));
        let Some(found) = found else {
            // It may be about a connection of this machine itself.
            return if self.local == Local::No { Ok(INVALID) } else { Err(Stop::Punt(PuntReason::Local)) };
        };
        let entry = self.connections.table.entry(found.number);
        if entry.is(Entry::KERNELS) {
            return Err(KERNELS);
        }
        // An error about one connection that is sent to somebody else does not pass as related.
        if entry.tuple(found.reply).destination.address != self.seen.tuple.destination.address {
            return Ok(INVALID);
        }
        let (status, mark) = (entry.status, Mark(entry.mark));
        self.held = Held::Related(found, Inner::default());
        Ok(Connection { state: State::Related, direction: direction(found.reply), status, mark })
    }

    /// `resolve_normal_ct` and `nf_conntrack_handle_packet` for an entry that is there.
    fn meet(&mut self, found: Reference) -> Result<Connection, Stop> {
        let entry = self.connections.table.entry(found.number);
        if entry.is(Entry::KERNELS) {
            return Err(KERNELS);
        }
        let mut update = Update { expires: entry.expires, status: entry.status, progress: entry.progress, kill: false };
        let about = About {
            protocol: entry.protocol,
            reply: found.reply,
            status: entry.status,
            left: (entry.expires - self.now) / SECOND,
            now: self.now,
            settings: &self.connections.settings,
        };
        let segment = match &self.seen.kind {
            Kind::Tcp(segment) => Some(segment),
            _ => None,
        };
        let state = match found.reply || entry.status & Connection::SEEN_REPLY != 0 {
            true => State::Established,
            false => State::New,
        };
        let mark = Mark(entry.mark);
        let (timeout, is_valid) = match update.progress.step(segment, &about) {
            Step::Reopen => {
                self.connections.end(found.number, End::Killed);
                return self.begin();
            }
            Step::Invalid { timeout } => (timeout, false),
            Step::Kill => {
                update.kill = true;
                (None, true)
            }
            Step::Accept { timeout, assured } => {
                update.status |= if assured { Connection::ASSURED } else { 0 };
                (timeout, true)
            }
        };
        if let Some(timeout) = timeout
            && update.status & FIXED_TIMEOUT == 0
        {
            update.expires = timeouts::after(self.now, timeout);
        }
        if is_valid && found.reply {
            update.status |= Connection::SEEN_REPLY;
        }
        self.update = Some((found.number, update));
        if !is_valid {
            return Ok(INVALID);
        }
        self.held = Held::Known(found);
        Ok(Connection { state, direction: direction(found.reply), status: update.status, mark })
    }

    /// `init_conntrack` and the first packet.
    fn begin(&mut self) -> Result<Connection, Stop> {
        let Seen { tuple, kind } = &self.seen;
        match self.local {
            Local::No => {}
            // It may belong to a connection of this machine that has not been told of.
            Local::MayBeTranslated if can_begin(kind, tuple) => {}
            _ => return Err(Stop::Punt(PuntReason::Local)),
        }
        let Some(reply) = tuple.inverse() else { return Ok(INVALID) };
        let settings = &self.connections.settings;
        let Some(mut progress) = Progress::begin(kind, tuple, self.now, settings) else { return Ok(INVALID) };
        let segment = match kind {
            Kind::Tcp(segment) => Some(segment),
            _ => None,
        };
        let about = About { protocol: tuple.protocol, reply: false, status: 0, left: 0, now: self.now, settings };
        let timeout = match progress.step(segment, &about) {
            Step::Accept { timeout, .. } => timeout.unwrap_or(0),
            Step::Invalid { .. } | Step::Kill | Step::Reopen => return Ok(INVALID),
        };
        let fresh = Fresh { original: *tuple, reply, status: 0, masquerade: 0, timeout, progress };
        self.held = Held::New(fresh);
        // Their states are not mirrored. And what another worker owns should not have come here.
        if matches!(tuple.protocol, SCTP | DCCP) || !self.connections.place.owns(tuple) {
            return Err(KERNELS);
        }
        Ok(Connection { state: State::New, ..Connection::NONE })
    }
}

impl Tracking for Tracker<'_> {
    fn track(&mut self) -> Result<Connection, Stop> {
        let found = self.look();
        self.found = found.ok();
        found
    }

    fn tuple(&self, direction: Direction) -> Option<Tuple> {
        let reply = direction == Direction::Reply;
        match &self.held {
            Held::New(fresh) => Some(if reply { fresh.reply } else { fresh.original }),
            Held::Known(found) | Held::Related(found, _) => {
                Some(self.connections.table.entry(found.number).tuple(reply))
            }
            Held::Unasked | Held::Nothing => None,
        }
    }

    fn pass_over(&mut self) {
        self.held = Held::Nothing;
    }

    fn is_unbound(&self, manip: Manip) -> bool {
        matches!(&self.held, Held::New(fresh) if fresh.status & done(manip) == 0)
    }

    fn translate(
        &mut self,
        manip: Manip,
        oif: Option<Ifindex>,
        range: Option<&Range>,
    ) -> Result<Option<Endpoint>, Stop> {
        let oif = oif.map_or(0, |oif| oif.0);
        let seen = &self.seen.tuple;
        let (current, became) = match &mut self.held {
            Held::Unasked | Held::Nothing => return Ok(None),
            Held::New(fresh) => {
                if fresh.status & done(manip) == 0 {
                    nat::set_up(self.connections, fresh, manip, range, self.now)?;
                    if manip == Manip::Source && range.is_some_and(|range| range.masquerade) {
                        fresh.masquerade = oif;
                    }
                }
                (end_of(seen, manip), nat::packet(fresh.status, false, manip, &fresh.reply))
            }
            Held::Known(found) => {
                let entry = self.connections.table.entry(found.number);
                // `nf_nat_oif_changed`
                let moved = entry.masquerade != 0 && manip == Manip::Source && !found.reply && entry.masquerade != oif;
                if moved {
                    if let Some((_, update)) = &mut self.update {
                        update.kill = true;
                    }
                    return Err(Stop::Drop(DropReason::NatMoved));
                }
                let answers = entry.tuple(!found.reply);
                (end_of(seen, manip), nat::packet(entry.status, found.reply, manip, &answers))
            }
            Held::Related(found, inner) => {
                // The kernel drops one that tells of another gateway for a translated connection, and looks at more than we do.
                if seen.protocol == 1 && seen.destination.port >> 8 == 5 {
                    return Err(Stop::Punt(PuntReason::Nat));
                }
                let entry = self.connections.table.entry(found.number);
                let answers = entry.tuple(!found.reply);
                nat::inner(entry.status, found.reply, manip, &answers, inner);
                let current = Endpoint { port: 0, ..end_of(seen, manip) };
                (current, nat::outer(entry.status, found.reply, manip, &answers))
            }
        };
        Ok(became.filter(|became| *became != current))
    }

    fn keep_mark(&mut self, mark: Mark) {
        self.mark = Some(mark);
    }
}

/// Whether a packet that belongs to nothing known can begin a connection, and not be one of an unknown one.
fn can_begin(kind: &Kind, tuple: &Tuple) -> bool {
    match kind {
        Kind::Tcp(segment) => segment.is_pure_syn(),
        Kind::Icmp => timeouts::icmp_begins(tuple),
        _ => true,
    }
}

/// `IPS_SRC_NAT_DONE`, `IPS_DST_NAT_DONE`
fn done(manip: Manip) -> u16 {
    match manip {
        Manip::Source => Connection::SRC_NAT_DONE,
        Manip::Destination => Connection::DST_NAT_DONE,
    }
}

/// For ICMP with the identifier, whichever end.
fn end_of(tuple: &Tuple, manip: Manip) -> Endpoint {
    match (manip, tuple.protocol) {
        (Manip::Source, _) => tuple.source,
        (Manip::Destination, 1 | 58) => Endpoint { port: tuple.source.port, ..tuple.destination },
        (Manip::Destination, _) => tuple.destination,
    }
}

fn direction(reply: bool) -> Direction {
    if reply { Direction::Reply } else { Direction::Original }
}
