//! Translated connections, packet by packet.

use shunt_policy::connection::{Connection, Direction, Endpoint, Manip, Range, State, Tracking, Tuple};
use shunt_policy::{DropReason, Ifindex, PuntReason, Stop};

use super::super::seen::{Kind, Seen};
use super::super::settings::Settings;
use super::super::{Exhausted, Local, Place};
use super::support::*;
use crate::packet::Ends;

const WAN: Option<Ifindex> = Some(Ifindex(2));
const OTHER_WAN: Option<Ifindex> = Some(Ifindex(3));

/// What both hooks make of a packet of a known connection.
fn both(desk: &mut Desk, seen: Seen) -> (Option<Endpoint>, Option<Endpoint>) {
    let mut tracker = desk.connections.tracker(seen, Local::No, desk.now);
    tracker.track().unwrap();
    assert!(!tracker.is_unbound(Manip::Source) && !tracker.is_unbound(Manip::Destination));
    let destination = tracker.translate(Manip::Destination, None, None).unwrap();
    let source = tracker.translate(Manip::Source, WAN, None).unwrap();
    tracker.forwarded().unwrap();
    (source, destination)
}

#[test]
fn a_masqueraded_connection_and_its_answers() {
    let mut desk = Desk::new(16);
    let query = udp((CLIENT, 5000), (SERVER, 53));
    let mut tracker = desk.connections.tracker(query, Local::No, desk.now);
    assert_eq!(tracker.track().unwrap().state, State::New);
    assert!(tracker.is_unbound(Manip::Destination) && tracker.is_unbound(Manip::Source));
    assert_eq!(tracker.translate(Manip::Destination, None, None), Ok(None));
    assert!(!tracker.is_unbound(Manip::Destination) && tracker.is_unbound(Manip::Source));
    let range = Range { masquerade: true, ..to(PUBLIC) };
    assert_eq!(tracker.translate(Manip::Source, WAN, Some(&range)), Ok(Some(end(PUBLIC, 5000))));
    assert_eq!(tracker.tuple(Direction::Original), Some(query.tuple));
    assert_eq!(tracker.tuple(Direction::Reply), Some(tuple(17, (SERVER, 53), (PUBLIC, 5000))));
    tracker.forwarded().unwrap();
    assert_eq!(both(&mut desk, query), (Some(end(PUBLIC, 5000)), None));
    assert_eq!(both(&mut desk, udp((SERVER, 53), (PUBLIC, 5000))), (None, Some(end(CLIENT, 5000))));
    assert_eq!(both(&mut desk, query), (Some(end(PUBLIC, 5000)), None));
    // By another way out.
    let mut tracker = desk.connections.tracker(query, Local::No, desk.now);
    tracker.track().unwrap();
    let moves = [WAN, OTHER_WAN].map(|oif| tracker.moves(oif.unwrap()));
    assert_eq!(moves, [false, true], "though it were by the way it came in, it is not the kernel's");
    assert_eq!(tracker.translate(Manip::Source, OTHER_WAN, None), Err(Stop::Drop(DropReason::NatMoved)));
    tracker.dropped();
    assert_eq!(desk.connections.len(), 0);
}

#[test]
fn answers_may_come_back_by_any_way() {
    let mut desk = Desk::new(16);
    let range = Range { masquerade: true, ..to(PUBLIC) };
    desk.source_nat(udp((CLIENT, 5000), (SERVER, 53)), &range).unwrap();
    let answer = udp((SERVER, 53), (PUBLIC, 5000));
    let mut tracker = desk.connections.tracker(answer, Local::Ours, desk.now);
    tracker.track().unwrap();
    assert_eq!(tracker.translate(Manip::Source, OTHER_WAN, None), Ok(None));
}

#[test]
fn a_port_forward_there_and_back() {
    let mut desk = Desk::new(16);
    let call = tuple(6, (SERVER, 40_000), (PUBLIC, 8080));
    let mut tracker = desk.connections.tracker(tcp(call, segment(SYN, 1, 0, 0)), Local::MayBeTranslated, desk.now);
    tracker.track().unwrap();
    let range = Range { ports: Some((80, 80)), ..to(CLIENT) };
    assert_eq!(tracker.translate(Manip::Destination, None, Some(&range)), Ok(Some(end(CLIENT, 80))));
    assert_eq!(tracker.translate(Manip::Source, WAN, None), Ok(None));
    tracker.forwarded().unwrap();
    let answer = tuple(6, (CLIENT, 80), (SERVER, 40_000));
    assert_eq!(both(&mut desk, tcp(answer, segment(SYN | ACK, 5, 2, 0))), (Some(end(PUBLIC, 8080)), None));
    assert_eq!(both(&mut desk, tcp(call, segment(ACK, 2, 6, 0))), (None, Some(end(CLIENT, 80))));
    let record = desk.connections.records(desk.now).next().unwrap();
    let nat = u32::from(Connection::DST_NAT | Connection::SRC_NAT);
    assert_eq!(record.status & nat, Connection::DST_NAT.into());
}

#[test]
fn hairpin_changes_both_ends() {
    let mut desk = Desk::new(16);
    let call = udp((CLIENT, 5000), (PUBLIC, 53));
    let mut tracker = desk.connections.tracker(call, Local::MayBeTranslated, desk.now);
    tracker.track().unwrap();
    assert_eq!(tracker.translate(Manip::Destination, None, Some(&to("192.0.2.53"))), Ok(Some(end("192.0.2.53", 53))));
    assert_eq!(tracker.translate(Manip::Source, WAN, Some(&to(PUBLIC))), Ok(Some(end(PUBLIC, 5000))));
    tracker.forwarded().unwrap();
    let answer = udp(("192.0.2.53", 53), (PUBLIC, 5000));
    assert_eq!(both(&mut desk, answer), (Some(end(PUBLIC, 53)), Some(end(CLIENT, 5000))));
}

#[test]
fn two_clients_with_one_port_share_the_address() {
    let mut desk = Desk::new(16);
    let first = desk.source_nat(udp(("192.0.2.1", 5060), (SERVER, 5060)), &to(PUBLIC)).unwrap();
    let second = desk.source_nat(udp(("192.0.2.2", 5060), (SERVER, 5060)), &to(PUBLIC)).unwrap();
    assert_eq!(first.destination, end(PUBLIC, 5060));
    assert!(second.destination.port >= 1024 && second.destination.port != 5060);
    // Towards another server the port is free, but this source has a mapping (`find_appropriate_src`).
    let third = desk.source_nat(udp(("192.0.2.2", 5060), ("198.51.100.99", 5060)), &to(PUBLIC)).unwrap();
    assert_eq!(third.destination, second.destination);
    let fourth = desk.source_nat(udp(("192.0.2.3", 5060), ("198.51.100.99", 5060)), &to(PUBLIC)).unwrap();
    assert_eq!(fourth.destination, end(PUBLIC, 5060));
}

#[test]
fn untranslated_sources_need_room_too() {
    let mut desk = Desk::new(16);
    // Behind the public address, towards this server, this port is in use; and now its owner itself wants it.
    desk.source_nat(udp((CLIENT, 5000), (SERVER, 53)), &to(PUBLIC)).unwrap();
    let own = udp((PUBLIC, 5000), (SERVER, 53));
    let mut tracker = desk.connections.tracker(own, Local::No, desk.now);
    tracker.track().unwrap();
    let became = tracker.translate(Manip::Source, WAN, None).unwrap().unwrap();
    assert!(became.address == own.tuple.source.address && became.port != 5000);
    tracker.forwarded().unwrap();
    // Without nat nobody chooses another, and the clash drops it (`__nf_conntrack_confirm`).
    let mut desk = Desk::new(16);
    desk.source_nat(udp((CLIENT, 5000), (SERVER, 53)), &to(PUBLIC)).unwrap();
    assert_eq!(desk.pass(own), Err(Stop::Drop(DropReason::NatExhausted)));
}

#[test]
fn pings_have_their_identifiers_translated() {
    let mut desk = Desk::new(16);
    desk.source_nat(icmp("192.0.2.1", SERVER, 8, 77), &to(PUBLIC)).unwrap();
    let reply = desk.source_nat(icmp("192.0.2.2", SERVER, 8, 77), &to(PUBLIC)).unwrap();
    let identifier = reply.source.port;
    assert_ne!(identifier, 77);
    let back = both(&mut desk, icmp(SERVER, PUBLIC, 0, identifier));
    assert_eq!(back, (None, Some(end("192.0.2.2", 77))));
    assert_eq!(both(&mut desk, icmp(SERVER, PUBLIC, 0, 77)), (None, Some(end("192.0.2.1", 77))));
}

#[test]
fn errors_show_each_side_its_own_addresses() {
    let mut desk = Desk::new(16);
    let sent = udp(("192.0.2.2", 5000), (SERVER, 53));
    desk.source_nat(udp(("192.0.2.1", 5000), (SERVER, 53)), &to(PUBLIC)).unwrap();
    let port = desk.source_nat(sent, &to(PUBLIC)).unwrap().destination.port;
    let router = "198.51.100.254";
    let error = |kind: u16, about: Tuple| Seen {
        tuple: tuple(1, (router, 0), (PUBLIC, kind << 8)),
        kind: Kind::IcmpError { about, sound: true },
    };
    // A router far out has seen the public address.
    let about = tuple(17, (PUBLIC, port), (SERVER, 53));
    let mut tracker = desk.connections.tracker(error(11, about), Local::Ours, desk.now);
    let connection = tracker.track().unwrap();
    assert_eq!((connection.state, connection.direction), (State::Related, Direction::Reply));
    assert_eq!(tracker.translate(Manip::Destination, None, None), Ok(Some(end("192.0.2.2", 0))));
    assert_eq!(tracker.translate(Manip::Source, WAN, None), Ok(None));
    assert_eq!(tracker.inner(), Some(Ends { source: Some(end("192.0.2.2", 5000)), destination: None }));
    tracker.forwarded().unwrap();
    // The client itself complains of an answer: what it has seen is its own address.
    let complaint = Seen {
        tuple: tuple(1, ("192.0.2.2", 0), (SERVER, 3 << 8 | 3)),
        kind: Kind::IcmpError { about: tuple(17, (SERVER, 53), ("192.0.2.2", 5000)), sound: true },
    };
    let mut tracker = desk.connections.tracker(complaint, Local::No, desk.now);
    assert_eq!(tracker.track().unwrap().direction, Direction::Original);
    assert_eq!(tracker.translate(Manip::Destination, None, None), Ok(None));
    assert_eq!(tracker.translate(Manip::Source, WAN, None), Ok(Some(end(PUBLIC, 0))));
    assert_eq!(tracker.inner(), Some(Ends { source: None, destination: Some(end(PUBLIC, port)) }));
    tracker.forwarded().unwrap();
    let spoiled = Seen { kind: Kind::IcmpError { about, sound: false }, ..error(11, about) };
    let mut tracker = desk.connections.tracker(spoiled, Local::Ours, desk.now);
    assert_eq!(
        tracker.track(),
        Err(Stop::Punt(PuntReason::Conntrack)),
        "the kernel's nat, where it is there, drops it"
    );
    let mut tracker = desk.connections.tracker(error(5, about), Local::Ours, desk.now);
    tracker.track().unwrap();
    assert_eq!(tracker.translate(Manip::Destination, None, None), Err(Stop::Punt(PuntReason::Nat)));
}

#[test]
fn a_range_that_is_used_up_drops() {
    let mut desk = Desk::new(16);
    let range = Range { ports: Some((2000, 2003)), ..to(PUBLIC) };
    let mut ports = Vec::new();
    for client in 1..=4 {
        let client = format!("192.0.2.{client}");
        ports.push(desk.source_nat(udp((&client, 5000), (SERVER, 53)), &range).unwrap().destination.port);
    }
    ports.sort();
    assert_eq!(ports, [2000, 2001, 2002, 2003]);
    let fifth = udp(("192.0.2.5", 5000), (SERVER, 53));
    assert_eq!(desk.source_nat(fifth, &range), Err(Stop::Drop(DropReason::NatExhausted)));
    assert_eq!(desk.source_nat(fifth, &range), Err(Stop::Drop(DropReason::NatExhausted)));
    let full = Exhausted { protocol: 17, destination: end(SERVER, 53), packets: 2 };
    assert_eq!(desk.connections.counts().exhausted_towards.0[..2], [Some(full), None]);
    // Full is a destination, not the address.
    assert!(desk.source_nat(udp(("192.0.2.5", 5000), ("198.51.100.21", 53)), &range).is_ok());
    desk.wait(30);
    assert!(desk.source_nat(fifth, &range).is_ok());
}

#[test]
fn a_closed_connection_makes_room_for_one_that_needs_its_port() {
    let mut desk = Desk::new(16);
    let range = Range { ports: Some((2000, 2000)), random: true, ..to(PUBLIC) };
    let first = tuple(6, (CLIENT, 40_000), (SERVER, 443));
    let answers = desk.source_nat(tcp(first, segment(SYN, 100, 0, 0)), &range).unwrap();
    desk.pass(tcp(answers, segment(SYN | ACK, 300, 101, 0))).unwrap();
    let second = tuple(6, ("192.0.2.11", 40_000), (SERVER, 443));
    let syn = |sequence| tcp(second, segment(SYN, sequence, 0, 0));
    assert_eq!(desk.source_nat(syn(500), &range), Err(Stop::Drop(DropReason::NatExhausted)));
    desk.pass(tcp(first, segment(RST, 101, 0, 0))).unwrap();
    // Only with higher sequence numbers.
    assert_eq!(desk.source_nat(syn(50), &range), Err(Stop::Drop(DropReason::NatExhausted)));
    assert_eq!(desk.source_nat(syn(500), &range), Ok(answers));
}

#[test]
fn answers_come_to_the_worker_that_asked() {
    let place = |worker| Place { worker, workers: 4 };
    let mut kept = 0;
    let mut desks: Vec<_> = (0..4).map(|worker| Desk::with(4096, Settings::default(), place(worker))).collect();
    for port in 3000..3400 {
        for client in 1..=4 {
            let seen = udp((&format!("192.0.2.{client}"), port), (SERVER, 53));
            let owner = place(0).owner(&seen.tuple);
            let reply = desks[owner].source_nat(seen, &to(PUBLIC)).unwrap();
            assert_eq!(place(0).owner(&reply), owner);
            assert_eq!(place(0).owner(&reply.inverse().unwrap()), owner);
            kept += u32::from(reply.destination.port == port);
        }
    }
    // The first client of each port keeps it, unless it was chosen for another before.
    assert!((380..=400).contains(&kept), "{kept}");
    // A port that would be another worker's: the kernel's, until it tells.
    let other = (0..10).map(|port| 60_000 + port).find(|port| {
        place(0).owner(&tuple(17, (SERVER, 53), (PUBLIC, *port)))
            != place(0).owner(&tuple(17, (CLIENT, 3000), (SERVER, 53)))
    });
    let range = Range { ports: Some((other.unwrap(), other.unwrap())), ..to(PUBLIC) };
    let seen = udp((CLIENT, 3000), (SERVER, 53));
    let owner = place(0).owner(&seen.tuple);
    let desk = &mut desks[owner];
    let mut tracker = desk.connections.tracker(seen, Local::No, desk.now);
    tracker.track().unwrap();
    let kernels = Err(Stop::Punt(PuntReason::KernelConnection));
    assert_eq!(tracker.translate(Manip::Source, WAN, Some(&range)), kernels);
    tracker.punted(shunt_policy::PuntReason::Neighbour);
    assert_eq!(desk.pass(seen).map(|_| ()).map_err(Err::<(), _>).unwrap_err(), kernels.map(|_| ()));
    desk.wait(5);
    assert_eq!(desk.state(seen), State::New);
}
