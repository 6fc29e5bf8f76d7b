//! One packet and its connection: `nf_conntrack_in` and the nat hooks, as a decision asks them.

use shunt_policy::connection::{Connection, Direction, Endpoint, Manip, Range, Remembered, State, Tracking, Tuple};
use shunt_policy::{DropReason, Egress, Ifindex, Mark, PuntReason, Query, Stop, Transport};

use super::connections::{Connections, End, Sought};
use super::entry::{About, Entry, FIXED_TIMEOUT, Key, Progress, Step};
use super::index::Reference;
use super::nat;
use super::seen::{Kind, Seen};
use super::timeouts::{self, DCCP, GRE, SCTP};
use crate::packet::Ends;
use crate::replay::Held as Windows;

/// Whether an end of a packet, as it came, is an address of this machine: the destination, unless it says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Local {
    No,
    /// It is, and no rule changes that.
    Ours,
    /// It is, but rules of destination nat might lead it on.
    MayBeTranslated,
    /// The source is, and not the destination: answers go by the kernel alone.
    Source,
}

/// The connection of one packet. All that it changes is kept when it is settled; exceptions are that an expired entry goes when it is
/// met, and a closed one when a SYN reopens it or its tuple is needed.
pub struct Tracker<'a> {
    pub(super) connections: &'a mut Connections,
    pub(super) seen: Seen,
    /// Of the tuple that is wanted.
    hash: u32,
    pub(super) local: Local,
    pub(super) now: u64,
    pub(super) held: Held,
    /// The entry's windows, if XDP programs move them as well.
    pub(super) windows: Option<Windows>,
    /// What becomes of a known entry, whether or not the packet is one of its.
    pub(super) update: Option<(u32, Update)>,
    pub(super) mark: Option<Mark>,
    /// What rules were told.
    pub(super) found: Option<Connection>,
}

pub(super) enum Held {
    Unasked,
    /// Untracked, invalid, or the kernel's.
    Nothing,
    New(Fresh),
    Known(Reference),
    Related(Reference, Ends),
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
/// Of the flags of TCP.
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const KERNELS: Stop = Stop::Punt(PuntReason::KernelConnection);

impl<'a> Tracker<'a> {
    pub(super) fn new(connections: &'a mut Connections, sought: Sought, local: Local, now: u64) -> Self {
        let Sought { seen, hash } = sought;
        Tracker {
            connections,
            seen,
            hash,
            local,
            now,
            held: Held::Unasked,
            windows: None,
            update: None,
            mark: None,
            found: None,
        }
    }

    /// How the packet that an ICMP error quotes changes; `None` if it does not. To be asked when both ends were translated.
    pub fn inner(&self) -> Option<Ends> {
        match self.held {
            Held::Related(_, inner) => Some(inner).filter(|inner| *inner != Ends::default()),
            _ => None,
        }
    }

    /// What it takes to decide about the packet again; `None` if it was not tracked. The ends are those with which it leaves.
    pub fn remembered(&self, source: Option<Endpoint>, destination: Option<Endpoint>) -> Option<Remembered> {
        let tuples = self.tuple(Direction::Original).zip(self.tuple(Direction::Reply));
        let tuples = tuples.map(|(original, reply)| [original, reply]);
        self.found.map(|connection| Remembered { connection, tuples, source, destination })
    }

    /// A packet of the other direction, as it would come in where this one leaves, and what is known of its connection. `None` once the
    /// kernel's copy is one that we have told it of: then it is too late to leave the connection to the kernel as it is.
    pub fn answer(&self, query: &Query, egress: &Egress) -> Option<(Query, Remembered)> {
        let (this, other, reply, status) = match &self.held {
            Held::New(fresh) => (fresh.original, fresh.reply, true, fresh.status),
            Held::Known(found) => {
                let entry = self.connections.table.entry(found.number);
                if !entry.is_untold() {
                    return None;
                }
                (entry.tuple(found.reply), entry.tuple(!found.reply), !found.reply, entry.status)
            }
            Held::Unasked | Held::Nothing | Held::Related(..) => return None,
        };
        let transport = match query.transport {
            Transport::Ports { .. } => {
                Transport::Ports { source: other.source.port, destination: other.destination.port }
            }
            Transport::Icmp { .. } => {
                let [kind, code] = other.destination.port.to_be_bytes();
                Transport::Icmp { kind, code }
            }
            rest => rest,
        };
        let tcp_flags = match query.tcp_flags {
            0 => 0,
            SYN => SYN | ACK,
            _ => ACK,
        };
        let answer = Query {
            iif: egress.oif(),
            source: other.source.address,
            destination: other.destination.address,
            transport,
            flow_label: 0,
            ttl: u8::MAX,
            tcp_flags,
            mss: None,
            source_mac: egress.destination(),
            ..*query
        };
        let mark = self.mark.or(self.found.map(|found| found.mark)).unwrap_or_default();
        let status = status | Connection::CONFIRMED | Connection::SEEN_REPLY;
        let connection = Connection { state: State::Established, direction: direction(reply), status, mark };
        let tuples = Some(if reply { [this, other] } else { [other, this] });
        let source = Some(end_of(&this, Manip::Destination)).filter(|end| *end != end_of(&other, Manip::Source));
        let destination = Some(this.source).filter(|end| *end != end_of(&other, Manip::Destination));
        Some((answer, Remembered { connection, tuples, source, destination }))
    }

    /// `nf_conntrack_in`
    fn look(&mut self) -> Result<Connection, Stop> {
        self.held = Held::Nothing;
        self.connections.left_copy = false;
        match self.seen.kind {
            Kind::Untracked => Ok(Connection::NONE),
            // Invalid by its bytes: the kernel sees that as well as we do, and what else it does with such a packet.
            Kind::Malformed => Err(Stop::Punt(PuntReason::Conntrack)),
            Kind::IcmpError { sound, .. } => self.relate(sound),
            _ => match self.find() {
                Some(found) => self.meet(found),
                None => self.begin(),
            },
        }
    }

    /// The entry that was sought.
    pub(super) fn find(&mut self) -> Option<Reference> {
        let key = Key::from(&self.seen.wanted()?);
        self.connections.find_hashed(&key, self.hash, self.now)
    }

    /// `nf_conntrack_inet_error`
    fn relate(&mut self, sound: bool) -> Result<Connection, Stop> {
        let Some(found) = self.find() else {
            // It may be about a connection of this machine itself.
            return if matches!(self.local, Local::No | Local::Source) {
                Ok(INVALID)
            } else {
                Err(Stop::Punt(PuntReason::Local))
            };
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
        self.held = Held::Related(found, Ends::default());
        // Nobody verifies checksums, but where there is nat the kernel drops such an error, even about what is not translated.
        if !sound {
            return Err(Stop::Punt(PuntReason::Conntrack));
        }
        Ok(Connection { state: State::Related, direction: direction(found.reply), status, mark })
    }

    /// `resolve_normal_ct` and `nf_conntrack_handle_packet` for an entry that is there.
    fn meet(&mut self, found: Reference) -> Result<Connection, Stop> {
        if self.connections.table.entry(found.number).is(Entry::KERNELS) {
            self.look_on(found);
            return Err(KERNELS);
        }
        self.windows = self.connections.look_at_windows(found.number);
        let entry = self.connections.table.entry(found.number);
        let mut update = Update { expires: entry.expires, status: entry.status, progress: entry.progress, kill: false };
        let about = About::of(entry, found.reply, self.now, &self.connections.settings);
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
                // The kernel is told to let its copy go, which must not happen to the new one.
                self.connections.left_copy |= entry.is(Entry::KNOWN);
                self.connections.end(found.number, End::Killed, self.now);
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

    /// A connection of the kernel's may become ours, and ctnetlink does not tell its TCP windows: they are kept here meanwhile.
    fn look_on(&mut self, found: Reference) {
        let connections = &mut *self.connections;
        let entry = connections.table.entry(found.number);
        let (Progress::Tcp(_), Kind::Tcp(segment)) = (&entry.progress, &self.seen.kind) else { return };
        let about = About::of(entry, found.reply, self.now, &connections.settings);
        let mut progress = entry.progress;
        let step = progress.step(Some(segment), &about);
        let goes_on = matches!(step, Step::Accept { .. } | Step::Invalid { .. });
        connections.table.entry_mut(found.number).progress = if goes_on { progress } else { Progress::Plain };
    }

    /// `init_conntrack` and the first packet.
    fn begin(&mut self) -> Result<Connection, Stop> {
        let Seen { tuple, kind } = &self.seen;
        match self.local {
            Local::No | Local::Source => {}
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
        // Their states are not mirrored. GRE has to begin in the kernel: of a copy that ctnetlink has made it knows no time-outs, and ends
        // it with its first packet (`nf_conntrack_gre_packet`). And what another worker owns should not have come here.
        let is_kernels = matches!(tuple.protocol, SCTP | DCCP | GRE) || self.local == Local::Source;
        if is_kernels || !self.connections.place.owns(tuple) {
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
                if manip == Manip::Source && has_moved(entry, found.reply, oif) {
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

    /// Of a copy that we have told it of the kernel does not know the interface. One that it keeps by itself is better left to it.
    fn moves(&self, oif: Ifindex) -> bool {
        let Held::Known(found) = &self.held else { return false };
        let entry = self.connections.table.entry(found.number);
        !entry.is_untold() && has_moved(entry, found.reply, oif.0)
    }

    fn keep_mark(&mut self, mark: Mark) {
        self.mark = Some(mark);
    }
}

/// `nf_nat_oif_changed`
fn has_moved(entry: &Entry, reply: bool, oif: u32) -> bool {
    entry.masquerade != 0 && !reply && entry.masquerade != oif
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
