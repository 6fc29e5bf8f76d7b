//! What a packet for the kernel finds there: its copy of the connection, as it has to be.

use shunt_policy::connection::{State, Tracking};
use shunt_policy::{Mark, PuntReason, Stop};

use super::super::exchange::{FromWorker, Given, ToWorker};
use super::super::record::{Record, TcpRecord, TcpState};
use super::super::seen::Seen;
use super::super::{Local, Punted};
use super::support::*;

const KERNELS: Stop = Stop::Punt(PuntReason::KernelConnection);

fn punt(desk: &mut Desk, seen: Seen) -> Punted {
    punt_as(desk, seen, PuntReason::Oversize)
}

fn punt_as(desk: &mut Desk, seen: Seen, reason: PuntReason) -> Punted {
    let mut tracker = desk.connections.tracker(seen, Local::No, desk.now);
    let _ = tracker.track();
    tracker.keep_mark(Mark(7));
    tracker.punted(reason)
}

/// As the kernel tells of an established TCP connection, which is not translated.
fn established() -> Record {
    Record {
        original: connection(),
        reply: connection().inverse().unwrap(),
        status: 0xe,
        mark: Mark(0),
        timeout: 432_000,
        tcp: Some(TcpRecord { state: TcpState::Established, scale: [0; 2], flags: [0; 2] }),
        kernels: false,
        masquerade: None,
    }
}

#[test]
fn it_waits_until_the_kernel_knows_the_connection_as_it_is() {
    let mut desk = Desk::new(8);
    let query = udp((CLIENT, 5000), (SERVER, 53));
    desk.pass(query).unwrap();
    assert_eq!(punt(&mut desk, query), Punted::Later);
    desk.connections.tell(ToWorker::Exported { original: query.tuple }, desk.now);
    assert_eq!(punt(&mut desk, query), Punted::Now);
    // The answer is news.
    assert_eq!(punt(&mut desk, udp((SERVER, 53), (CLIENT, 5000))), Punted::Later);
    let marks: Vec<Mark> = desk.connections.records(desk.now).map(|record| record.mark).collect();
    assert_eq!(marks, [Mark(0)], "marks of what the kernel gets are its own");
}

#[test]
fn a_first_one_waits_while_tuples_are_given_away_that_the_kernel_has_not_heard_of() {
    let mut desk = Desk::new(8);
    let given = Given::default();
    let (producer, reports) = rtrb::RingBuffer::new(16);
    desk.connections.report_to(producer, given.clone());
    desk.reports = reports;
    assert_eq!(punt(&mut desk, udp((CLIENT, 1), (SERVER, 53))), Punted::Now, "nothing is translated");
    let query = udp((CLIENT, 5000), (SERVER, 53));
    let reply = desk.source_nat(query, &to(PUBLIC)).unwrap();
    assert_eq!(punt(&mut desk, udp((CLIENT, 2), (SERVER, 53))), Punted::Now, "of what it is not told it is not behind");
    desk.pass(udp_of(reply)).unwrap();
    assert_eq!(desk.told().len(), 1);
    assert_eq!(punt(&mut desk, udp((CLIENT, 3), (SERVER, 53))), Punted::Later);
    assert!(!desk.connections.is_given(desk.connections.said()));
    given.set(1);
    assert!(desk.connections.is_given(desk.connections.said()));
    assert_eq!(punt(&mut desk, udp((CLIENT, 4), (SERVER, 53))), Punted::Now);
}

#[test]
fn windows_of_the_kernels_connections_are_kept_until_one_is_ours() {
    let mut desk = Desk::new(8);
    let (client, server) = (connection(), connection().inverse().unwrap());
    let handshake = [
        tcp(client, segment(SYN, 100, 0, 0)),
        tcp(server, segment(SYN | ACK, 300, 101, 0)),
        tcp(client, segment(ACK, 101, 301, 0)),
    ];
    for seen in handshake {
        assert_eq!(punt(&mut desk, seen), Punted::Now);
    }
    desk.connections.tell(ToWorker::Kernel { record: established(), whole: true }, desk.now);
    assert_eq!(desk.state(tcp(client, segment(ACK, 101, 301, 100))), State::Established);
    assert_eq!(desk.state(tcp(client, segment(ACK, 90_000_000, 301, 100))), State::Invalid);
    // Its own copy is strict, and does not see windows move: with the first packet it hears of that.
    let told = desk.told();
    assert!(matches!(told[..], [FromWorker::Lives(_)]), "{told:?}");
}

#[test]
fn resets_are_not_held_against_an_acknowledgement_that_nobody_tells_of() {
    const MAXACK_SET: u8 = 0x20;
    let mut desk = Desk::new(8);
    shake_hands(&mut desk, connection(), connection().inverse().unwrap());
    let flags = desk.connections.records(desk.now).next().unwrap().tcp.unwrap().flags;
    assert_eq!(flags.map(|flags| flags & MAXACK_SET), [0; 2]);
}

#[test]
fn what_may_be_untracked_at_times_is_left_for_good() {
    let mut desk = Desk::new(8);
    shake_hands(&mut desk, connection(), connection().inverse().unwrap());
    let data = tcp(connection(), segment(ACK, 101, 301, 10));
    let early = |desk: &mut Desk, reason| desk.connections.tracker(data, Local::No, desk.now).punted(reason);
    early(&mut desk, PuntReason::Stale);
    assert_eq!(desk.state(data), State::Established, "a stale mirror leaves nothing in doubt");
    assert_eq!(early(&mut desk, PuntReason::ChainOrder), Punted::Later);
    assert_eq!(desk.pass(data), Err(KERNELS));
    desk.connections.tell(ToWorker::Kernel { record: established(), whole: true }, desk.now);
    assert_eq!(desk.pass(data), Err(KERNELS));
    assert_eq!(desk.connections.len(), 1);
}

#[test]
fn a_copy_that_the_kernel_keeps_by_itself_is_left_as_it_is() {
    let mut desk = Desk::new(8);
    desk.connections.tell(ToWorker::Kernel { record: established(), whole: true }, desk.now);
    let (client, server) = (connection(), connection().inverse().unwrap());
    assert_eq!(punt(&mut desk, tcp(client, segment(ACK, 101, 301, 10))), Punted::Now);
    assert_eq!(punt(&mut desk, tcp(server, segment(FIN | ACK, 301, 111, 0))), Punted::Now);
    assert_eq!(punt(&mut desk, tcp(client, segment(ACK, 90_000_000, 301, 10))), Punted::Now, "it knows its windows");
    assert_eq!(desk.told(), []);
    // What it does not see it is told.
    assert_eq!(desk.state(tcp(client, segment(ACK, 111, 302, 10))), State::Established);
    assert!(matches!(desk.told()[..], [FromWorker::Lives(_)]));
    assert_eq!(punt(&mut desk, tcp(client, segment(ACK, 90_000_000, 302, 10))), Punted::Misfit);
}

#[test]
fn what_a_worker_before_us_kept_the_kernel_is_told_again() {
    let mut desk = Desk::new(8);
    desk.connections.inherit(&established(), desk.now);
    assert_eq!(punt(&mut desk, tcp(connection(), segment(ACK, 101, 301, 10))), Punted::Later);
    assert!(matches!(desk.told()[..], [FromWorker::Lives(_)]));
}

#[test]
fn what_goes_back_where_it_came_from_is_left_to_the_kernel_from_its_first_packet_on() {
    let mut desk = Desk::new(8);
    let query = udp((CLIENT, 5000), (SERVER, 53));
    assert_eq!(punt_as(&mut desk, query, PuntReason::Redirect), Punted::Now);
    let translated = Record {
        original: query.tuple,
        reply: tuple(17, (SERVER, 53), (PUBLIC, 5000)),
        status: 0x18a,
        tcp: None,
        ..established()
    };
    for _ in 0..2 {
        desk.connections.tell(ToWorker::Kernel { record: translated, whole: true }, desk.now);
        assert_eq!(desk.pass(query), Err(KERNELS));
        assert_eq!(desk.pass(udp((SERVER, 53), (PUBLIC, 5000))), Err(KERNELS));
    }
    // One that we might have gone on with is handed back, and nothing said of it.
    desk.connections.tell(ToWorker::Kernel { record: established(), whole: true }, desk.now);
    let data = tcp(connection(), segment(ACK, 101, 301, 10));
    assert_eq!(punt_as(&mut desk, data, PuntReason::Redirect), Punted::Now);
    assert_eq!(desk.pass(data), Err(KERNELS));
    desk.connections.tell(ToWorker::Kernel { record: established(), whole: true }, desk.now);
    assert_eq!(desk.pass(data), Err(KERNELS));
    assert_eq!(desk.told(), []);
}

#[test]
fn a_packet_that_begins_a_connection_anew_waits_until_the_old_copy_is_gone() {
    let mut desk = Desk::new(8);
    let (client, server) = (connection(), connection().inverse().unwrap());
    shake_hands(&mut desk, client, server);
    desk.state(tcp(client, segment(FIN | ACK, 101, 301, 0)));
    desk.state(tcp(server, segment(FIN | ACK, 301, 102, 0)));
    desk.state(tcp(client, segment(ACK, 102, 302, 0)));
    desk.told();
    assert_eq!(punt(&mut desk, tcp(client, segment(SYN, 90_000, 0, 0))), Punted::Later);
    assert!(matches!(desk.told()[..], [FromWorker::Ended { .. }]));
}

#[test]
fn a_reset_that_ends_a_connection_meets_it_in_the_kernel() {
    let mut desk = Desk::new(8);
    let (client, server) = (connection(), connection().inverse().unwrap());
    desk.state(tcp(client, segment(SYN, 100, 0, 0)));
    assert_eq!(desk.told(), []);
    assert_eq!(punt(&mut desk, tcp(server, segment(RST | ACK, 0, 101, 0))), Punted::Later);
    let told = desk.told();
    assert!(matches!(told[..], [FromWorker::Lives(record)] if record.original == client), "{told:?}");
    assert!(desk.connections.is_empty());
}

#[test]
fn a_mark_that_a_punted_packet_has_got_is_ours_too_in_the_midst_of_a_handshake() {
    let mut desk = Desk::new(8);
    let (client, server) = (connection(), connection().inverse().unwrap());
    desk.state(tcp(client, segment(SYN, 100, 0, 0)));
    assert_eq!(punt(&mut desk, tcp(server, segment(SYN | ACK, 300, 101, 0))), Punted::Later);
    // Of such a state we might not have gone on with it.
    let tcp_record = established().tcp.map(|tcp| TcpRecord { state: TcpState::SynRecv, ..tcp });
    let record = Record { mark: Mark(17), tcp: tcp_record, ..established() };
    desk.connections.tell(ToWorker::Exported { original: client }, desk.now);
    desk.connections.tell(ToWorker::Kernel { record, whole: false }, desk.now);
    let marks: Vec<Mark> = desk.connections.records(desk.now).map(|record| record.mark).collect();
    assert_eq!(marks, [Mark(17)]);
    // The state is one that a copy without windows may have come to by what does not fit.
    let closed = established().tcp.map(|tcp| TcpRecord { state: TcpState::Close, ..tcp });
    desk.connections.tell(ToWorker::Kernel { record: Record { tcp: closed, ..record }, whole: false }, desk.now);
    let states: Vec<TcpState> = desk.connections.records(desk.now).map(|record| record.tcp.unwrap().state).collect();
    assert_eq!(states, [TcpState::SynRecv]);
}

#[test]
fn a_source_of_this_machine_that_comes_from_outside_takes_no_tuple() {
    let mut desk = Desk::new(8);
    let mut tracker = desk.connections.tracker(udp((PUBLIC, 5000), (SERVER, 53)), Local::Source, desk.now);
    assert_eq!(tracker.track(), Err(KERNELS));
    tracker.punted(PuntReason::KernelConnection);
    assert!(desk.connections.is_empty());
}
