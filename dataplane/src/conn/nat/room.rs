//! Room for a new connection's tuples in the table.

use shunt_policy::connection::{Connection, Endpoint, Manip, Range, Tuple};
use shunt_policy::{DropReason, PuntReason, Stop};

use super::super::connections::{Connections, End};
use super::super::entry::{Entry, Progress};
use super::super::record::TcpState;
use super::super::tracker::Fresh;
use super::allocate::{HARDER, Space, is_in_range, unique};

/// `nf_nat_setup_info`; without a range `nf_nat_alloc_null_binding`.
///
/// # Errors
///
/// The source is the last end that can make a tuple unique. If it does not, `__nf_conntrack_confirm` would drop the packet; if the
/// answers would come to another worker, the connection is left to the kernel.
pub(in super::super) fn set_up(
    connections: &mut Connections,
    fresh: &mut Fresh,
    manip: Manip,
    range: Option<&Range>,
    now: u64,
) -> Result<(), Stop> {
    let Some(current) = fresh.reply.inverse() else { return Ok(()) };
    let kept = match manip {
        Manip::Source => current.source.address,
        Manip::Destination => current.destination.address,
    };
    let null = Range { addresses: Some((kept, kept)), ..Range::default() };
    let mut room = Room { connections, fresh, now };
    let tuple = unique(&current, manip, range.unwrap_or(&null), &mut room);
    let Some(reply) = tuple.inverse() else { return Ok(()) };
    if manip == Manip::Source {
        if !room.is_ours(&tuple) {
            fresh.reply = reply;
            return Err(Stop::Punt(PuntReason::KernelConnection));
        }
        if room.is_used(&tuple) {
            connections.counts.exhausted += 1;
            connections.counts.exhausted_towards.add(&tuple);
            return Err(Stop::Drop(DropReason::NatExhausted));
        }
    }
    let (translated, done) = match manip {
        Manip::Source => (Connection::SRC_NAT, Connection::SRC_NAT_DONE),
        Manip::Destination => (Connection::DST_NAT, Connection::DST_NAT_DONE),
    };
    if tuple != current {
        fresh.reply = reply;
        fresh.status |= translated;
    }
    fresh.status |= done;
    Ok(())
}

struct Room<'a> {
    connections: &'a mut Connections,
    fresh: &'a Fresh,
    now: u64,
}

impl Space for Room<'_> {
    fn is_used(&mut self, tuple: &Tuple) -> bool {
        tuple.inverse().is_some_and(|reply| self.connections.find(&reply, self.now).is_some())
    }

    fn is_used_harder(&mut self, tuple: &Tuple, left: u32) -> bool {
        let Some(reply) = tuple.inverse() else { return false };
        let Some(found) = self.connections.find(&reply, self.now) else { return false };
        let (Progress::Tcp(new), true) = (&self.fresh.progress, left <= HARDER) else { return true };
        let entry = self.connections.table.entry(found.number);
        let Progress::Tcp(old) = &entry.progress else { return true };
        // `nf_nat_may_kill`, `nf_seq_has_advanced`: packets of the old one that are still on their way must be invalid in the new one.
        let may_go = new.state == TcpState::SynSent
            && found.reply
            && !entry.is(Entry::KERNELS)
            && old.state >= TcpState::TimeWait
            && entry.status & Connection::SRC_NAT != 0
            && entry.status & super::super::entry::FIXED_TIMEOUT == 0
            && new.sides[0].end.wrapping_sub(old.sides[0].end) as i32 > 0;
        if may_go {
            self.connections.end(found.number, End::Killed, self.now);
        }
        !may_go
    }

    fn is_ours(&self, tuple: &Tuple) -> bool {
        tuple.inverse().is_some_and(|reply| self.connections.place.owns(&reply))
    }

    fn mapped(&self, tuple: &Tuple, range: &Range) -> Option<Tuple> {
        // Of ICMP the kernel copies type and code with the destination.
        let mapped = |source| Tuple { source, ..*tuple };
        let fits = |source: &Endpoint| is_in_range(&mapped(*source), range);
        self.connections.mapped_before(tuple, self.now, fits).map(mapped)
    }

    fn random(&mut self) -> u16 {
        self.connections.random.port()
    }
}
