//! A table that is full, and how much memory it takes.

use shunt_policy::connection::State;
use shunt_policy::{DropReason, Stop};

use super::super::Local;
use super::super::settings::Settings;
use super::super::table::Table;
use super::super::{Place, Sources, exchange::ToWorker};
use super::support::*;

fn client(number: u32) -> String {
    std::net::Ipv4Addr::from(0xc612_0000 + number).to_string()
}

/// Assured, all of them.
fn established(desk: &mut Desk, number: u32) {
    let original = tuple(6, (&client(number), 40_000), (SERVER, 443));
    shake_hands(desk, original, original.inverse().unwrap());
}

#[test]
fn a_flood_of_syns_costs_no_established_connection() {
    let mut desk = Desk::new(1000);
    for number in 0..500 {
        established(&mut desk, number);
    }
    let mut full = 0;
    for number in 0..20_000 {
        let syn = tcp(tuple(6, (&client(10_000 + number), 1), (SERVER, 443)), segment(SYN, 1, 0, 0));
        match desk.pass(syn) {
            Ok(_) => {}
            Err(stop) => {
                assert_eq!(stop, Stop::Drop(DropReason::ConntrackFull));
                full += 1;
            }
        }
        assert!(desk.connections.len() <= 1000);
    }
    let counts = *desk.connections.counts();
    assert_eq!(counts.full, full);
    assert_eq!(counts.created - counts.evicted, 1000);
    assert!(counts.evicted > 15_000, "{counts:?}");
    for number in 0..500 {
        let original = tuple(6, (&client(number), 40_000), (SERVER, 443));
        assert_eq!(desk.state(tcp(original, segment(ACK, 101, 301, 0))), State::Established);
    }
}

#[test]
fn a_table_of_the_assured_takes_nobody_in() {
    let mut desk = Desk::new(50);
    for number in 0..50 {
        established(&mut desk, number);
    }
    let late = udp((CLIENT, 1), (SERVER, 2));
    assert_eq!(desk.pass(late), Err(Stop::Drop(DropReason::ConntrackFull)));
    // Those that have expired make room without being swept.
    desk.wait(432_000);
    assert_eq!(desk.state(late), State::New);
}

/// What closes is assured, too, and goes after all that is not.
#[test]
fn a_full_table_lets_go_of_what_is_closing() {
    let mut desk = Desk::new(16);
    for number in 0..16 {
        established(&mut desk, number);
    }
    let late = |number: u32| udp((&client(100 + number), 1), (SERVER, 2));
    assert_eq!(desk.pass(late(0)), Err(Stop::Drop(DropReason::ConntrackFull)));
    for number in 0..8 {
        let original = tuple(6, (&client(number), 40_000), (SERVER, 443));
        desk.pass(tcp(original, segment(FIN | ACK, 101, 301, 0))).unwrap();
    }
    for number in 0..100 {
        desk.pass(late(number)).unwrap();
    }
    for number in 8..16 {
        let original = tuple(6, (&client(number), 40_000), (SERVER, 443));
        assert_eq!(desk.state(tcp(original, segment(ACK, 101, 301, 0))), State::Established);
    }
}

#[test]
fn the_kernels_go_first() {
    let mut desk = Desk::new(8);
    for number in 0..4 {
        desk.pass(udp((&client(number), 1), (SERVER, 2))).unwrap();
        let seen = udp((&client(100 + number), 1), (SERVER, 2));
        let mut tracker = desk.connections.tracker(seen, Local::No, desk.now);
        shunt_policy::connection::Tracking::track(&mut tracker).unwrap();
        tracker.punted(shunt_policy::PuntReason::Neighbour);
    }
    for number in 0..4 {
        desk.pass(udp((&client(200 + number), 1), (SERVER, 2))).unwrap();
    }
    let kernels = desk.connections.records(desk.now).filter(|record| record.kernels).count();
    assert_eq!((kernels, desk.connections.len(), desk.connections.counts().evicted), (0, 8, 4));
}

#[test]
fn the_operator_sets_the_limit_for_all_workers() {
    let settings = Settings { max: 400, ..Settings::default() };
    let mut desk = Desk::with(1000, settings, Place { worker: 0, workers: 4 });
    let mut entered = 0;
    for port in 1024..2048 {
        let seen = udp((CLIENT, port), (SERVER, 53));
        if (Place { worker: 0, workers: 4 }).owner(&seen.tuple) == 0 {
            desk.pass(seen).unwrap();
            entered += 1;
        }
    }
    assert_eq!(desk.connections.len(), 100);
    assert!(entered > 100);
    desk.connections.tell(ToWorker::Settings(Settings { max: 0, ..Settings::default() }.into()), desk.now);
    for port in 3000..4000 {
        let seen = udp((CLIENT, port), (SERVER, 53));
        if (Place { worker: 0, workers: 4 }).owner(&seen.tuple) == 0 {
            desk.pass(seen).unwrap();
        }
    }
    assert!(desk.connections.len() > 100);
}

#[test]
fn sweeping_removes_what_has_expired_bit_by_bit() {
    let mut desk = Desk::new(1000);
    for number in 0..100 {
        desk.pass(udp((&client(number), 1), (SERVER, 2))).unwrap();
    }
    desk.wait(30);
    desk.connections.sweep(desk.now, 30);
    assert_eq!(desk.connections.len(), 70);
    desk.connections.sweep(desk.now, 1000);
    assert_eq!((desk.connections.len(), desk.connections.counts().expired), (0, 100));
}

#[test]
fn a_connection_takes_at_most_192_bytes() {
    let bytes = Table::memory(1) + Sources::BYTES;
    assert!(bytes <= 192, "{bytes}");
}
