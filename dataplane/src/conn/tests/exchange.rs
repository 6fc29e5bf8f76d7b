//! What is told to the kernel, and what it tells.

use shunt_policy::connection::{Connection, State, Tracking, Tuple};
use shunt_policy::{Ifindex, Mark, PuntReason, Stop};

use super::super::Local;
use super::super::Place;
use super::super::exchange::{FromWorker, ToWorker};
use super::super::record::{Record, TcpRecord, TcpState};
use super::super::settings::Settings;
use super::support::*;

const KERNELS: Stop = Stop::Punt(PuntReason::KernelConnection);

fn lives(told: &[FromWorker]) -> Vec<Record> {
    told.iter()
        .map(|report| match report {
            FromWorker::Lives(record) => *record,
            FromWorker::Ended { .. } => panic!("it lives"),
        })
        .collect()
}

fn record(original: Tuple, reply: Tuple) -> Record {
    Record { original, reply, status: 0, mark: Mark(0), timeout: 100, tcp: None, kernels: false, masquerade: None }
}

fn hear(desk: &mut Desk, record: Record, whole: bool) {
    desk.connections.tell(ToWorker::Kernel { record, whole }, desk.now);
}

#[test]
fn short_connections_are_nobodys_business() {
    let mut desk = Desk::new(8);
    let query = udp((CLIENT, 5000), (SERVER, 53));
    desk.pass(query).unwrap();
    desk.pass(udp((SERVER, 53), (CLIENT, 5000))).unwrap();
    desk.wait(40);
    desk.connections.sweep(desk.now, 8);
    assert_eq!(desk.told(), []);
}

#[test]
fn the_kernel_hears_of_what_is_assured_or_old_or_translated() {
    let mut desk = Desk::new(8);
    shake_hands(&mut desk, connection(), connection().inverse().unwrap());
    let record = lives(&desk.told())[0];
    assert_eq!((record.original, record.timeout), (connection(), 648_010));
    assert_eq!(record.tcp.unwrap().state, TcpState::Established);
    assert_eq!(record.status & u32::from(Connection::ASSURED), Connection::ASSURED.into());

    let query = udp((CLIENT, 5000), (SERVER, 53));
    desk.pass(query).unwrap();
    desk.wait(1);
    desk.pass(query).unwrap();
    assert_eq!(lives(&desk.told()).iter().map(|record| record.timeout).collect::<Vec<_>>(), [55]);

    let query = udp((CLIENT, 6000), (SERVER, 53));
    let reply = desk.source_nat(query, &to(PUBLIC)).unwrap();
    assert_eq!(desk.told(), []);
    desk.pass(udp_of(reply)).unwrap();
    assert_eq!(lives(&desk.told()).len(), 1);
}

#[test]
fn changes_and_the_passing_of_time_are_told() {
    let mut desk = Desk::new(8);
    let (client, server) = (connection(), connection().inverse().unwrap());
    shake_hands(&mut desk, client, server);
    desk.told();
    let data = tcp(client, segment(ACK, 101, 301, 0));
    desk.pass(data).unwrap();
    desk.wait(100);
    desk.pass(data).unwrap();
    assert_eq!(desk.told(), []);
    let mut tracker = desk.connections.tracker(data, Local::No, desk.now);
    tracker.track().unwrap();
    tracker.keep_mark(Mark(7));
    tracker.forwarded().unwrap();
    assert_eq!(lives(&desk.told())[0].mark, Mark(7));
    // A farewell is under way for a moment only: what there is budget for is told, and its end.
    desk.pass(tcp(server, segment(FIN | ACK, 301, 101, 0))).unwrap();
    assert_eq!(desk.told(), []);
    desk.connections.most_early = 1;
    desk.wait(1);
    desk.pass(tcp(client, segment(ACK, 101, 302, 0))).unwrap();
    assert_eq!(lives(&desk.told())[0].tcp.unwrap().state, TcpState::CloseWait);
    desk.pass(tcp(client, segment(FIN | ACK, 101, 302, 0))).unwrap();
    assert_eq!(desk.told(), []);
    desk.pass(tcp(server, segment(ACK, 302, 102, 0))).unwrap();
    assert_eq!(lives(&desk.told())[0].tcp.unwrap().state, TcpState::TimeWait);
    desk.wait(120);
    desk.connections.sweep(desk.now, 8);
    assert_eq!(desk.told(), [FromWorker::Ended { original: client, reply: server }]);
}

#[test]
fn the_kernels_copy_outlives_ours() {
    let mut desk = Desk::new(8);
    let (query, answer) = (udp((CLIENT, 5000), (SERVER, 53)), udp((SERVER, 53), (CLIENT, 5000)));
    let mut random = fastrand::Rng::with_seed(3);
    let mut ends = 0;
    desk.pass(query).unwrap();
    for _ in 0..2000 {
        desk.wait(random.u64(0..40));
        let known = desk.connections.len() == 1 && ends != 0;
        if known && desk.connections.records(desk.now).next().is_some() {
            assert!(ends > desk.now, "the kernel's copy has ended before ours");
        }
        desk.pass(if random.bool() { query } else { answer }).unwrap();
        for report in desk.told() {
            ends = match report {
                FromWorker::Lives(record) => desk.now + u64::from(record.timeout) * SECOND,
                FromWorker::Ended { .. } => 0,
            };
        }
    }
}

#[test]
fn a_full_queue_stops_nobody() {
    let (producer, mut reports) = rtrb::RingBuffer::new(1);
    let settings = std::sync::Arc::new(Settings::default());
    let place = Place { worker: 0, workers: 1 };
    let mut connections = super::super::Connections::new(8, place, settings, producer, 1);
    connections.most_early = 0;
    let mut pass = |port, now| {
        let mut tracker = connections.tracker(udp((CLIENT, port), (SERVER, 53)), Local::No, now);
        tracker.track().unwrap();
        tracker.forwarded().unwrap();
        connections.counts().report_overflow
    };
    for port in [1, 2] {
        pass(port, 0);
    }
    assert_eq!((pass(1, 2 * SECOND), pass(2, 2 * SECOND)), (0, 1));
    reports.pop().unwrap();
    assert_eq!(pass(2, 3 * SECOND), 1);
    assert!(reports.pop().is_ok());
    // What has ended waits for room.
    pass(1, 20 * SECOND);
    connections.sweep(60 * SECOND, 8);
    assert_eq!(connections.len(), 2);
    reports.pop().unwrap();
    connections.sweep(60 * SECOND, 8);
    assert!(matches!(reports.pop(), Ok(FromWorker::Ended { .. })));
}

#[test]
fn a_connection_of_the_kernel_is_gone_on_with() {
    let mut desk = Desk::new(8);
    let (client, server) = (connection(), tuple(6, (SERVER, 443), (PUBLIC, 40_000)));
    let tcp_record = TcpRecord { state: TcpState::Established, scale: [7, 7], flags: [0x23, 0x23] };
    let status = u32::from(Connection::SEEN_REPLY | Connection::ASSURED | Connection::SRC_NAT);
    let whole = Record { status, mark: Mark(9), tcp: Some(tcp_record), ..record(client, server) };
    hear(&mut desk, whole, true);
    assert_eq!(desk.connections.counts().imported, 1);
    // No windows: where each side begins is taken from what it sends.
    let connection = desk.pass(tcp(server, segment(ACK, 7_000_000, 9_000_000, 100))).unwrap();
    assert_eq!((connection.state, connection.mark), (State::Established, Mark(9)));
    assert_eq!(desk.state(tcp(client, segment(ACK, 9_000_000, 7_000_100, 100))), State::Established);
    assert_eq!(desk.state(tcp(client, segment(ACK, 99_000_000, 7_000_100, 100))), State::Invalid);
    desk.connections.tell(ToWorker::Ended { original: client, reply: server }, desk.now);
    assert_eq!(desk.connections.len(), 0);
}

#[test]
fn what_is_the_kernels_is_punted_and_its_tuples_are_taken() {
    let mut desk = Desk::new(8);
    let own = record(tuple(17, (PUBLIC, 5000), (SERVER, 53)), tuple(17, (SERVER, 53), (PUBLIC, 5000)));
    hear(&mut desk, own, false);
    assert_eq!(desk.pass(udp_of(own.reply)), Err(KERNELS));
    let reply = desk.source_nat(udp((CLIENT, 5000), (SERVER, 53)), &to(PUBLIC)).unwrap();
    assert_ne!(reply.destination.port, 5000);
    desk.wait(100);
    assert_eq!(desk.pass(udp_of(own.reply)), Err(KERNELS), "what the kernel forwards prolongs it");
    desk.connections.tell(ToWorker::Ended { original: own.original, reply: own.reply }, desk.now);
    assert_eq!(desk.state(udp_of(own.reply)), State::New);
    let helped = Record { kernels: true, ..record(connection(), connection().inverse().unwrap()) };
    hear(&mut desk, helped, true);
    assert_eq!(desk.pass(tcp(connection(), segment(ACK, 1, 1, 0))), Err(KERNELS));
}

#[test]
fn a_punted_beginning_is_the_kernels_until_it_tells_more() {
    let mut desk = Desk::new(8);
    let query = udp((CLIENT, 5000), (SERVER, 53));
    let mut tracker = desk.connections.tracker(query, Local::No, desk.now);
    tracker.track().unwrap();
    tracker.punted(shunt_policy::PuntReason::Neighbour);
    assert_eq!(desk.pass(query), Err(KERNELS));
    let translated = record(query.tuple, tuple(17, (SERVER, 53), (PUBLIC, 5000)));
    hear(&mut desk, translated, false);
    assert_eq!(desk.pass(udp_of(translated.reply)), Err(KERNELS));
    hear(&mut desk, translated, true);
    let answer = desk.pass(udp_of(translated.reply)).unwrap();
    assert_eq!(answer.status & Connection::SRC_NAT, Connection::SRC_NAT);
    assert_eq!(desk.connections.len(), 1);
}

#[test]
fn punted_before_anybody_asked_is_punted_all_the_same() {
    let mut desk = Desk::new(8);
    let query = udp((CLIENT, 5000), (SERVER, 53));
    desk.connections.tracker(query, Local::No, desk.now).punted(shunt_policy::PuntReason::Neighbour);
    assert_eq!(desk.pass(query), Err(KERNELS));
    desk.connections
        .tracker(udp((CLIENT, 5001), (PUBLIC, 53)), Local::Ours, desk.now)
        .punted(shunt_policy::PuntReason::Neighbour);
    assert_eq!(desk.connections.len(), 1);
}

#[test]
fn dropped_is_forgotten_if_new_and_seen_if_not() {
    let mut desk = Desk::new(8);
    let (query, answer) = (udp((CLIENT, 5000), (SERVER, 53)), udp((SERVER, 53), (CLIENT, 5000)));
    let drop = |desk: &mut Desk, seen| {
        let mut tracker = desk.connections.tracker(seen, Local::No, desk.now);
        tracker.track().unwrap();
        tracker.dropped();
    };
    drop(&mut desk, query);
    assert_eq!(desk.connections.len(), 0);
    desk.pass(query).unwrap();
    drop(&mut desk, answer);
    assert_eq!(desk.state(query), State::Established);
}

#[test]
fn the_kernel_may_know_more_of_ours() {
    let mut desk = Desk::new(8);
    let (client, server) = (connection(), connection().inverse().unwrap());
    shake_hands(&mut desk, client, server);
    let theirs = TcpRecord { state: TcpState::CloseWait, scale: [0; 2], flags: [0; 2] };
    hear(&mut desk, Record { tcp: Some(theirs), mark: Mark(3), ..record(client, server) }, true);
    let now = desk.connections.records(desk.now).next().unwrap();
    assert_eq!((now.tcp.unwrap().state, now.mark), (TcpState::CloseWait, Mark(3)));
    let behind = TcpRecord { state: TcpState::SynRecv, ..theirs };
    hear(&mut desk, Record { tcp: Some(behind), ..record(client, server) }, true);
    assert_eq!(desk.connections.records(desk.now).next().unwrap().tcp.unwrap().state, TcpState::CloseWait);
    // Contradictions change nothing.
    hear(&mut desk, record(client, tuple(6, (SERVER, 443), (PUBLIC, 1))), true);
    assert_eq!((desk.connections.len(), desk.connections.counts().contradictions), (1, 1));
}

#[test]
fn old_news_are_not_of_a_connection_that_was_reopened() {
    let mut desk = Desk::new(8);
    let (client, server) = (connection(), connection().inverse().unwrap());
    shake_hands(&mut desk, client, server);
    desk.pass(tcp(client, segment(RST, 101, 0, 0))).unwrap();
    desk.pass(tcp(client, segment(SYN, 5000, 0, 0))).unwrap();
    let closed = TcpRecord { state: TcpState::Close, scale: [0; 2], flags: [0; 2] };
    hear(&mut desk, Record { tcp: Some(closed), ..record(client, server) }, true);
    desk.connections.tell(ToWorker::Ended { original: client, reply: server }, desk.now);
    let left = desk.connections.records(desk.now).next().unwrap();
    assert_eq!(left.tcp.unwrap().state, TcpState::SynSent);
}

#[test]
fn an_address_that_goes_takes_its_connections_along() {
    let mut desk = Desk::new(8);
    let masquerade = |address| shunt_policy::connection::Range { masquerade: true, ..to(address) };
    desk.source_nat(udp((CLIENT, 1), (SERVER, 53)), &masquerade(PUBLIC)).unwrap();
    desk.source_nat(udp((CLIENT, 2), (SERVER, 53)), &masquerade("203.0.113.2")).unwrap();
    desk.source_nat(udp((CLIENT, 3), (SERVER, 53)), &to(PUBLIC)).unwrap();
    let gone = |address: &str| ToWorker::Unmasquerade { oif: Ifindex(2), address: Some(address.parse().unwrap()) };
    desk.connections.tell(gone(PUBLIC), desk.now);
    assert_eq!(desk.connections.len(), 2);
    desk.connections.tell(ToWorker::Unmasquerade { oif: Ifindex(3), address: None }, desk.now);
    assert_eq!(desk.connections.len(), 2);
    desk.connections.tell(ToWorker::Unmasquerade { oif: Ifindex(2), address: None }, desk.now);
    assert_eq!(desk.connections.len(), 1);
}

#[test]
fn a_table_can_be_handed_on() {
    let mut old = Desk::new(64);
    shake_hands(&mut old, connection(), connection().inverse().unwrap());
    let reply = old.source_nat(udp((CLIENT, 5000), (SERVER, 53)), &to(PUBLIC)).unwrap();
    hear(&mut old, record(tuple(17, (PUBLIC, 9), (SERVER, 9)), tuple(17, (SERVER, 9), (PUBLIC, 9))), false);
    let mut new = Desk::new(64);
    for record in old.connections.records(old.now) {
        new.connections.tell(ToWorker::Kernel { record, whole: !record.kernels }, new.now);
    }
    assert_eq!(new.connections.len(), 3);
    assert_eq!(new.state(tcp(connection(), segment(ACK, 101, 301, 0))), State::Established);
    assert_eq!(new.state(udp_of(reply)), State::Established);
    assert_eq!(new.pass(udp((PUBLIC, 9), (SERVER, 9))), Err(KERNELS));
}
