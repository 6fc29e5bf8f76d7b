//! How packets of a translated connection change (`nf_nat_packet`, `nf_nat_icmp_reply_translation`).

use shunt_policy::connection::{Connection, Endpoint, Manip, Tuple};

use crate::packet::Ends;

/// What an end of a packet becomes: as the inverse of `answers`, the tuple of the other direction, has it. `None` if this end is not
/// translated. For ICMP the port is the identifier, whichever end.
pub(in super::super) fn packet(status: u16, reply: bool, manip: Manip, answers: &Tuple) -> Option<Endpoint> {
    if !applies(status, reply, manip) {
        return None;
    }
    let target = answers.inverse()?;
    Some(match (manip, target.protocol) {
        (Manip::Source, _) => target.source,
        (Manip::Destination, 1 | 58) => Endpoint { port: target.source.port, ..target.destination },
        (Manip::Destination, _) => target.destination,
    })
}

/// The same of an ICMP error: its own address, which has no port.
pub(in super::super) fn outer(status: u16, reply: bool, manip: Manip, answers: &Tuple) -> Option<Endpoint> {
    packet(status, reply, manip, answers).map(|end| Endpoint { port: 0, ..end })
}

/// What goes with it inside: the other end of what is quoted. The identifier of a query stands at whichever end it is.
pub(in super::super) fn inner(status: u16, reply: bool, manip: Manip, answers: &Tuple, inner: &mut Ends) {
    if !applies(status, reply, manip) {
        return;
    }
    match (manip, answers.protocol) {
        (Manip::Destination, _) => inner.source = Some(answers.source),
        (Manip::Source, 1 | 58) => {
            inner.destination = Some(Endpoint { port: answers.source.port, ..answers.destination });
        }
        (Manip::Source, _) => inner.destination = Some(answers.destination),
    }
}

/// Whether the bit is set that tells of this end, for packets of this direction.
fn applies(status: u16, reply: bool, manip: Manip) -> bool {
    let bit = match (manip, reply) {
        (Manip::Source, false) | (Manip::Destination, true) => Connection::SRC_NAT,
        (Manip::Destination, false) | (Manip::Source, true) => Connection::DST_NAT,
    };
    status & bit != 0
}
