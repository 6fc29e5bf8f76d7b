//! What becomes of connections as packets come: TCP first, then all others.

use shunt_policy::connection::{Connection, Direction, State, Tracking};
use shunt_policy::{PuntReason, Stop};

use super::super::Local;
use super::super::exchange::ToWorker;
use super::super::record::{Record, TcpState};
use super::super::seen::{Kind, Seen};
use super::super::settings::Settings;
use super::super::{Place, exchange::FromWorker};
use super::support::*;

fn state_of(desk: &Desk) -> TcpState {
    desk.connections.records(desk.now).next().unwrap().tcp.unwrap().state
}

fn timeout_of(desk: &Desk) -> u32 {
    desk.connections.records(desk.now).next().unwrap().timeout
}

fn ends() -> (shunt_policy::connection::Tuple, shunt_policy::connection::Tuple) {
    (connection(), connection().inverse().unwrap())
}

fn settled() -> Desk {
    let mut desk = Desk::new(16);
    let (client, server) = ends();
    shake_hands(&mut desk, client, server);
    desk
}

#[test]
fn a_whole_life_of_tcp() {
    let mut desk = Desk::new(16);
    let (client, server) = ends();
    assert_eq!(desk.state(tcp(client, segment(SYN, 100, 0, 0))), State::New);
    assert_eq!((state_of(&desk), timeout_of(&desk)), (TcpState::SynSent, 120));
    desk.pass(tcp(server, segment(SYN | ACK, 300, 101, 0))).unwrap();
    assert_eq!((state_of(&desk), timeout_of(&desk)), (TcpState::SynRecv, 60));
    let connection = desk.pass(tcp(client, segment(ACK, 101, 301, 0))).unwrap();
    assert_eq!((state_of(&desk), timeout_of(&desk)), (TcpState::Established, 432_000));
    assert_eq!(connection.status & Connection::ASSURED, Connection::ASSURED);
    assert_eq!(connection.direction, Direction::Original);
    // Data that nobody has acknowledged yet.
    desk.pass(tcp(client, segment(ACK, 101, 301, 500))).unwrap();
    assert_eq!(timeout_of(&desk), 300);
    desk.pass(tcp(server, segment(ACK, 301, 601, 0))).unwrap();
    assert_eq!(timeout_of(&desk), 432_000);
    desk.pass(tcp(client, segment(FIN | ACK, 601, 301, 0))).unwrap();
    assert_eq!((state_of(&desk), timeout_of(&desk)), (TcpState::FinWait, 120));
    desk.pass(tcp(server, segment(ACK, 301, 602, 0))).unwrap();
    assert_eq!((state_of(&desk), timeout_of(&desk)), (TcpState::CloseWait, 60));
    desk.pass(tcp(server, segment(FIN | ACK, 301, 602, 0))).unwrap();
    assert_eq!((state_of(&desk), timeout_of(&desk)), (TcpState::LastAck, 30));
    desk.pass(tcp(client, segment(ACK, 602, 302, 0))).unwrap();
    assert_eq!((state_of(&desk), timeout_of(&desk)), (TcpState::TimeWait, 120));
    desk.wait(120);
    // Expired to the nanosecond: an ACK now begins a connection in its middle.
    assert_eq!(desk.state(tcp(client, segment(ACK, 602, 302, 0))), State::New);
    assert_eq!(desk.connections.counts().expired, 1);
}

#[test]
fn a_syn_reopens_what_was_closed() {
    let mut desk = settled();
    let (client, server) = ends();
    desk.pass(tcp(client, segment(FIN | ACK, 101, 301, 0))).unwrap();
    desk.pass(tcp(server, segment(FIN | ACK, 301, 102, 0))).unwrap();
    desk.pass(tcp(client, segment(ACK, 102, 302, 0))).unwrap();
    assert_eq!(state_of(&desk), TcpState::TimeWait);
    desk.told();
    assert_eq!(desk.state(tcp(client, segment(SYN, 90_000, 0, 0))), State::New);
    assert_eq!((state_of(&desk), desk.connections.len()), (TcpState::SynSent, 1));
    assert!(matches!(desk.told()[..], [FromWorker::Ended { .. }]));
}

#[test]
fn the_server_may_reopen_with_the_roles_changed() {
    let mut desk = settled();
    let (client, server) = ends();
    desk.pass(tcp(client, segment(FIN | ACK, 101, 301, 0))).unwrap();
    desk.pass(tcp(server, segment(FIN | ACK, 301, 102, 0))).unwrap();
    desk.pass(tcp(client, segment(ACK, 102, 302, 0))).unwrap();
    let connection = desk.pass(tcp(server, segment(SYN, 90_000, 0, 0))).unwrap();
    assert_eq!((connection.state, connection.direction), (State::New, Direction::Original));
    assert_eq!(desk.connections.records(desk.now).next().unwrap().original, server);
}

#[test]
fn segments_out_of_the_window_are_invalid() {
    let mut desk = settled();
    let (client, server) = ends();
    assert_eq!(desk.state(tcp(client, segment(ACK, 101 + 1_000_000, 301, 10))), State::Invalid);
    assert_eq!(desk.state(tcp(server, segment(ACK, 301, 5000, 0))), State::Invalid);
    // Long acknowledged: it passes and changes nothing.
    assert_eq!(desk.state(tcp(client, segment(ACK, 101u32.wrapping_sub(200_000), 301, 10))), State::Established);
    assert_eq!(desk.state(tcp(client, segment(ACK, 101, 301, 10))), State::Established);
}

#[test]
fn the_liberal_mind_no_window() {
    let settings = Settings { tcp_be_liberal: true, ..Settings::default() };
    let mut desk = Desk::with(16, settings, Place { worker: 0, workers: 1 });
    let (client, server) = ends();
    shake_hands(&mut desk, client, server);
    assert_eq!(desk.state(tcp(client, segment(ACK, 101 + 1_000_000, 301, 10))), State::Established);
}

#[test]
fn windows_scale_if_both_sides_say_so() {
    let (client, server) = ends();
    for (both, expected) in [(true, State::Established), (false, State::Invalid)] {
        let mut desk = Desk::new(16);
        let mut syn = segment(SYN, 100, 0, 0);
        syn.window_scale = Some(7);
        desk.pass(tcp(client, syn)).unwrap();
        let mut syn_ack = segment(SYN | ACK, 300, 101, 0);
        syn_ack.window_scale = both.then_some(7);
        desk.pass(tcp(server, syn_ack)).unwrap();
        desk.pass(tcp(client, segment(ACK, 101, 301, 0))).unwrap();
        desk.pass(tcp(server, segment(ACK, 301, 101, 0))).unwrap();
        assert_eq!(desk.state(tcp(client, segment(ACK, 101 + 500_000, 301, 10))), expected);
    }
}

#[test]
fn a_sack_counts_as_far_as_it_reaches() {
    let mut desk = Desk::new(16);
    let (client, server) = ends();
    let mut syn = segment(SYN, 100, 0, 0);
    syn.sack_permitted = true;
    desk.pass(tcp(client, syn)).unwrap();
    let mut syn_ack = segment(SYN | ACK, 300, 101, 0);
    syn_ack.sack_permitted = true;
    desk.pass(tcp(server, syn_ack)).unwrap();
    desk.pass(tcp(client, segment(ACK, 101, 301, 0))).unwrap();
    let mut beyond = segment(ACK, 301, 101, 0);
    beyond.sack = Some(10_000);
    assert_eq!(desk.state(tcp(server, beyond)), State::Invalid);
    desk.pass(tcp(client, segment(ACK, 101, 301, 1000))).unwrap();
    let mut known = segment(ACK, 301, 101, 0);
    known.sack = Some(1101);
    assert_eq!(desk.state(tcp(server, known)), State::Established);
}

#[test]
fn a_reset_closes_only_at_the_edge() {
    let (client, server) = ends();
    let mut desk = settled();
    desk.pass(tcp(server, segment(ACK, 301, 101, 0))).unwrap();
    // Behind what the server has acknowledged: invalid; ahead of it: in the window, and the connection stays, for 10 s.
    assert_eq!(desk.state(tcp(client, segment(RST, 90, 0, 0))), State::Invalid);
    assert_eq!(desk.state(tcp(client, segment(RST, 150, 0, 0))), State::Established);
    assert_eq!((state_of(&desk), timeout_of(&desk)), (TcpState::Established, 10));
    assert_eq!(desk.state(tcp(client, segment(RST, 101, 0, 0))), State::Established);
    assert_eq!((state_of(&desk), timeout_of(&desk)), (TcpState::Close, 10));
    // A SYN of the side that has sent the RST.
    assert_eq!(desk.state(tcp(client, segment(SYN, 7000, 0, 0))), State::New);
    assert_eq!(state_of(&desk), TcpState::SynSent);

    let settings = Settings { tcp_ignore_invalid_rst: true, ..Settings::default() };
    let mut desk = Desk::with(16, settings, Place { worker: 0, workers: 1 });
    shake_hands(&mut desk, client, server);
    desk.pass(tcp(server, segment(ACK, 301, 101, 0))).unwrap();
    assert_eq!(desk.state(tcp(client, segment(RST, 90, 0, 0))), State::Established);
}

#[test]
fn a_reset_as_the_only_answer_ends_it_at_once() {
    let mut desk = Desk::new(16);
    let (client, server) = ends();
    desk.pass(tcp(client, segment(SYN, 100, 0, 0))).unwrap();
    assert_eq!(desk.state(tcp(server, segment(RST | ACK, 0, 101, 0))), State::Established);
    assert_eq!((desk.connections.len(), desk.connections.counts().killed), (0, 1));
}

#[test]
fn simultaneous_open() {
    let mut desk = Desk::new(16);
    let (client, server) = ends();
    desk.pass(tcp(client, segment(SYN, 100, 0, 0))).unwrap();
    assert_eq!(desk.state(tcp(server, segment(SYN, 300, 0, 0))), State::Established);
    assert_eq!(state_of(&desk), TcpState::SynSent2);
    desk.pass(tcp(client, segment(SYN | ACK, 100, 301, 0))).unwrap();
    assert_eq!(state_of(&desk), TcpState::SynRecv);
    desk.pass(tcp(server, segment(ACK, 301, 101, 0))).unwrap();
    assert_eq!(state_of(&desk), TcpState::Established);
}

#[test]
fn a_repeated_syn_keeps_nothing_alive() {
    let mut desk = Desk::new(16);
    desk.pass(tcp(connection(), segment(SYN, 100, 0, 0))).unwrap();
    desk.wait(100);
    assert_eq!(desk.state(tcp(connection(), segment(SYN, 100, 0, 0))), State::New);
    assert_eq!(timeout_of(&desk), 20);
}

#[test]
fn the_middle_of_a_connection_is_picked_up_if_the_operator_wants() {
    let mut desk = Desk::new(16);
    let (client, server) = ends();
    assert_eq!(desk.state(tcp(client, segment(ACK, 5000, 9000, 10))), State::New);
    assert_eq!((state_of(&desk), timeout_of(&desk)), (TcpState::Established, 300));
    assert_eq!(desk.state(tcp(server, segment(ACK, 9000, 5010, 10))), State::Established);
    let connection = desk.pass(tcp(client, segment(ACK, 5010, 9010, 10))).unwrap();
    assert_eq!(connection.status & Connection::ASSURED, Connection::ASSURED);
    for flags in [FIN | ACK, RST, SYN | ACK] {
        let other = tuple(6, (CLIENT, 50_000), (SERVER, 443));
        assert_eq!(desk.state(tcp(other, segment(flags, 1, 1, 0))), State::Invalid);
    }
    let settings = Settings { tcp_loose: false, ..Settings::default() };
    let mut strict = Desk::with(16, settings, Place { worker: 0, workers: 1 });
    assert_eq!(strict.state(tcp(client, segment(ACK, 5000, 9000, 10))), State::Invalid);
    assert_eq!(strict.connections.len(), 0);
}

#[test]
fn the_same_segment_again_and_again_shortens_it() {
    let mut desk = settled();
    let (client, _) = ends();
    for _ in 0..4 {
        desk.pass(tcp(client, segment(ACK, 101, 301, 0))).unwrap();
    }
    assert_eq!(timeout_of(&desk), 300);
}

#[test]
fn a_challenge_to_a_syn_does_not_end_the_last_ack() {
    let mut desk = settled();
    let (client, server) = ends();
    desk.pass(tcp(client, segment(FIN | ACK, 101, 301, 0))).unwrap();
    desk.pass(tcp(server, segment(FIN | ACK, 301, 102, 0))).unwrap();
    assert_eq!(state_of(&desk), TcpState::LastAck);
    assert_eq!(desk.state(tcp(client, segment(SYN, 900_000, 0, 0))), State::Established);
    assert_eq!(desk.state(tcp(server, segment(ACK, 302, 102, 0))), State::Established);
    assert_eq!(state_of(&desk), TcpState::LastAck);
    desk.pass(tcp(server, segment(ACK, 302, 102, 0))).unwrap();
    assert_eq!(state_of(&desk), TcpState::TimeWait);
}

#[test]
fn both_ends_may_be_further_on_than_we_are() {
    let mut desk = settled();
    let (client, server) = ends();
    // The client has forgotten all and begins anew; the server agrees.
    assert_eq!(desk.state(tcp(client, segment(SYN, 700_000, 0, 0))), State::Established);
    assert_eq!(state_of(&desk), TcpState::Established);
    assert_eq!(desk.state(tcp(server, segment(SYN | ACK, 900_000, 700_001, 0))), State::Established);
    assert_eq!(state_of(&desk), TcpState::SynRecv);
    assert_eq!(desk.state(tcp(client, segment(ACK, 700_001, 900_001, 10))), State::Established);
    assert_eq!(state_of(&desk), TcpState::Established);
}

#[test]
fn udp_is_a_stream_after_two_seconds() {
    let mut desk = Desk::new(16);
    let (query, answer) = (udp((CLIENT, 5000), (SERVER, 53)), udp((SERVER, 53), (CLIENT, 5000)));
    assert_eq!(desk.state(query), State::New);
    assert_eq!(desk.state(query), State::New);
    let connection = desk.pass(answer).unwrap();
    assert_eq!((connection.state, connection.direction), (State::Established, Direction::Reply));
    assert_eq!(connection.status & Connection::SEEN_REPLY, Connection::SEEN_REPLY);
    assert_eq!((desk.state(query), timeout_of(&desk)), (State::Established, 30));
    desk.wait(2);
    let connection = desk.pass(query).unwrap();
    assert_eq!((timeout_of(&desk), connection.status & Connection::ASSURED), (30, 0));
    desk.wait(1);
    let connection = desk.pass(query).unwrap();
    assert_eq!((timeout_of(&desk), connection.status & Connection::ASSURED), (120, Connection::ASSURED));
}

#[test]
fn others_live_by_their_own_time_outs() {
    let desk_of = |protocol: u8, kind: Kind| {
        let mut desk = Desk::new(4);
        let original = tuple(protocol, (CLIENT, 0), (SERVER, 0));
        if protocol == 47 {
            // It has to begin in the kernel.
            let first = desk.connections.tracker(Seen { tuple: original, kind }, Local::No, desk.now);
            first.punted(PuntReason::KernelConnection);
            let record = desk.connections.records(desk.now).next().unwrap();
            assert!(record.kernels);
            let record = Record { kernels: false, timeout: 30, ..record };
            desk.connections.tell(ToWorker::Kernel { record, whole: true }, desk.now);
        }
        desk.pass(Seen { tuple: original, kind }).unwrap();
        let first = timeout_of(&desk);
        desk.pass(Seen { tuple: original.inverse().unwrap(), kind }).unwrap();
        let connection = desk.pass(Seen { tuple: original, kind }).unwrap();
        (first, timeout_of(&desk), connection.status & Connection::ASSURED != 0)
    };
    assert_eq!(desk_of(47, Kind::Other), (30, 180, true));
    assert_eq!(desk_of(50, Kind::Other), (600, 600, false));
    assert_eq!(desk_of(136, Kind::UdpLite), (30, 120, true));
    for protocol in [33, 132] {
        let mut desk = Desk::new(4);
        let seen = Seen { tuple: tuple(protocol, (CLIENT, 1), (SERVER, 2)), kind: Kind::Other };
        let mut tracker = desk.connections.tracker(seen, Local::No, desk.now);
        assert_eq!(tracker.track(), Err(Stop::Punt(PuntReason::KernelConnection)));
        tracker.punted(shunt_policy::PuntReason::Neighbour);
        assert_eq!(desk.connections.records(desk.now).map(|record| record.kernels).collect::<Vec<_>>(), [true]);
    }
}

#[test]
fn icmp_queries_and_answers() {
    let mut desk = Desk::new(4);
    assert_eq!(desk.state(icmp(SERVER, CLIENT, 0, 9)), State::Invalid);
    assert_eq!(desk.state(icmp(CLIENT, SERVER, 8, 9)), State::New);
    assert_eq!(desk.state(icmp(SERVER, CLIENT, 0, 9)), State::Established);
    assert_eq!((desk.state(icmp(SERVER, CLIENT, 0, 8)), timeout_of(&desk)), (State::Invalid, 30));
    // Answers under another address are of nothing.
    assert_eq!(desk.state(icmp(PUBLIC, CLIENT, 0, 9)), State::Invalid);
}

#[test]
fn errors_belong_to_what_they_quote() {
    let mut desk = Desk::new(4);
    let sent = udp((CLIENT, 5000), (SERVER, 53));
    desk.pass(sent).unwrap();
    let error = |to: &str, about| Seen {
        tuple: tuple(1, (PUBLIC, 0), (to, 3 << 8)),
        kind: Kind::IcmpError { about, sound: true },
    };
    let connection = desk.pass(error(CLIENT, sent.tuple)).unwrap();
    assert_eq!((connection.state, connection.direction), (State::Related, Direction::Reply));
    let answer = sent.tuple.inverse().unwrap();
    let connection = desk.pass(error(SERVER, answer)).unwrap();
    assert_eq!((connection.state, connection.direction), (State::Related, Direction::Original));
    assert_eq!(desk.state(error("192.0.2.99", sent.tuple)), State::Invalid);
    assert_eq!(desk.state(error(CLIENT, udp((CLIENT, 5001), (SERVER, 53)).tuple)), State::Invalid);
}

#[test]
fn what_is_local_stays_the_kernels() {
    let mut desk = Desk::new(4);
    let local =
        |desk: &mut Desk, seen, local| desk.connections.tracker(seen, local, desk.now).track().map(|it| it.state);
    let punt = Err(Stop::Punt(PuntReason::Local));
    let to_us = udp((SERVER, 53), (PUBLIC, 5000));
    assert_eq!(local(&mut desk, to_us, Local::Ours), punt);
    assert_eq!(local(&mut desk, to_us, Local::MayBeTranslated), Ok(State::New));
    let there = tuple(6, (SERVER, 443), (PUBLIC, 40_000));
    assert_eq!(local(&mut desk, tcp(there, segment(SYN | ACK, 1, 1, 0)), Local::MayBeTranslated), punt);
    assert_eq!(local(&mut desk, tcp(there, segment(ACK, 1, 1, 0)), Local::MayBeTranslated), punt);
    assert_eq!(local(&mut desk, tcp(there, segment(SYN, 1, 0, 0)), Local::MayBeTranslated), Ok(State::New));
    assert_eq!(local(&mut desk, icmp(SERVER, PUBLIC, 0, 1), Local::MayBeTranslated), punt);
    assert_eq!(local(&mut desk, icmp(SERVER, PUBLIC, 8, 1), Local::MayBeTranslated), Ok(State::New));
}
