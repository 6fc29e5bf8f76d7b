//! What iptables asks of connections and does with them (`xt_conntrack`, `xt_connmark`).

use shunt_policy::config::{Action, ConnectionState, Field, Match, Side, Test, Value};

use crate::mirror::netfilter::xt::{self, AddressMask, Condition, ConnectionMark, ConnectionTest, End};

/// `--ctdir`, of `enum ip_conntrack_dir`.
const REPLY: u8 = 1;

/// The tests of one module. `None` where they do not come down to a list of tests that must all hold: without a connection
/// conntrack_mt asks nothing but the state, and takes the rest for true.
pub(super) fn tests(conditions: &[Condition]) -> Option<Vec<Match>> {
    let also_without = conditions.iter().any(|condition| match &condition.test {
        xt::Test::Connection(ConnectionTest::CtState(states)) => {
            let holds = |state: u16| (states.0 & state != 0) != condition.not;
            holds(ConnectionState::INVALID) || holds(ConnectionState::UNTRACKED)
        }
        _ => false,
    });
    if also_without && conditions.len() > 1 {
        return None;
    }
    conditions.iter().map(|condition| test(condition.not, &condition.test)).collect()
}

fn test(not: bool, test: &xt::Test) -> Option<Match> {
    let xt::Test::Connection(test) = test else { return None };
    let (not, test) = match test {
        // Any of the bits: not none of them.
        ConnectionTest::CtState(states) | ConnectionTest::State(states) => {
            (!not, Test::masked(Field::CtState, 0u8, states.0))
        }
        ConnectionTest::Status(statuses) => (!not, Test::masked(Field::CtStatus, 0u8, statuses.0)),
        ConnectionTest::Protocol(number) => (not, Test::of(Field::CtProtocol, [Value::one(*number)])),
        ConnectionTest::Address { of, address } => (not, super::address_mask(address_of(*of), masked(*address))),
        ConnectionTest::Port { of, range } => (not, super::numbers(port_of(*of), *range)),
        ConnectionTest::Direction { reply } => {
            (not, Test::of(Field::CtDirection, [Value::one(if *reply { REPLY } else { 0 })]))
        }
    };
    Some(Match { not, test })
}

/// conntrack_addrcmp compares under the mask alone.
fn masked(address: AddressMask) -> AddressMask {
    AddressMask { address: address.address & address.mask, ..address }
}

fn address_of(end: End) -> Field {
    match (end.reply, end.side) {
        (false, Side::Source) => Field::CtOriginalSource,
        (false, Side::Destination) => Field::CtOriginalDestination,
        (true, Side::Source) => Field::CtReplySource,
        (true, Side::Destination) => Field::CtReplyDestination,
    }
}

fn port_of(end: End) -> Field {
    match (end.reply, end.side) {
        (false, Side::Source) => Field::CtOriginalSourcePort,
        (false, Side::Destination) => Field::CtOriginalDestinationPort,
        (true, Side::Source) => Field::CtReplySourcePort,
        (true, Side::Destination) => Field::CtReplyDestinationPort,
    }
}

/// connmark_tg_shift, without a shift.
pub(super) fn mark(change: ConnectionMark) -> Action {
    match change {
        ConnectionMark::SetXmark { value, mask } => Action::CtMark { clear: mask, flip: value },
        ConnectionMark::Save { packet, connection } => Action::SaveMark { clear: connection, take: packet, flip: 0 },
        ConnectionMark::Restore { packet, connection } => {
            Action::RestoreMark { clear: packet, take: connection, flip: 0 }
        }
    }
}
