//! A packet of a connection allocates nothing, whatever becomes of it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use shunt_dataplane::conn::exchange::ToWorker;
use shunt_dataplane::conn::seen::{Kind, Seen, Segment};
use shunt_dataplane::conn::settings::Settings;
use shunt_dataplane::conn::{Connections, Local, Place};
use shunt_policy::connection::{Endpoint, Manip, Range, Tracking, Tuple};
use shunt_policy::{Ifindex, Mark};

const SECOND: u64 = 1_000_000_000;

fn seen(number: u32) -> Seen {
    let protocol = if number.is_multiple_of(3) { 6 } else { 17 };
    let source = Endpoint { address: Ipv4Addr::from_bits(0xc612_0000 + number % 500).into(), port: 1000 };
    let destination = Endpoint { address: Ipv4Addr::new(203, 0, 113, 9).into(), port: 53 };
    let segment = Segment {
        sequence: number,
        acknowledgement: 0,
        window: 1000,
        flags: 2,
        payload: 0,
        window_scale: Some(7),
        sack_permitted: true,
        sack: None,
    };
    let kind = if protocol == 6 { Kind::Tcp(segment) } else { Kind::Udp };
    Seen { tuple: Tuple { source, destination, protocol }, kind }
}

#[test]
fn no_packet_costs_an_allocation() {
    let (producer, mut reports) = rtrb::RingBuffer::new(64);
    let settings = Arc::new(Settings::default());
    let place = Place { worker: 0, workers: 1 };
    let mut connections = Connections::new(300, place, settings, producer, 1);
    let public: IpAddr = Ipv4Addr::new(198, 51, 100, 1).into();
    let range = Range { addresses: Some((public, public)), masquerade: true, ..Range::default() };
    let mut now = 0;
    let counted = allocation_counter::measure(|| {
        for number in 0..20_000 {
            now += SECOND / 50;
            let mut tracker = connections.tracker(seen(number * 7), Local::No, now);
            if tracker.track().is_err() {
                tracker.punted(shunt_policy::PuntReason::Neighbour);
                continue;
            }
            let translated = tracker.translate(Manip::Destination, None, None).is_ok()
                && tracker.translate(Manip::Source, Some(Ifindex(2)), Some(&range)).is_ok();
            tracker.keep_mark(Mark(number));
            match number % 11 {
                0 => {
                    tracker.punted(shunt_policy::PuntReason::Neighbour);
                }
                1 => tracker.dropped(),
                _ if translated => drop(tracker.forwarded()),
                _ => tracker.dropped(),
            }
            if number % 5 == 0 {
                connections.sweep(now, 20);
                let _ = reports.pop();
            }
            let record = connections.records(now).next();
            if let (true, Some(record)) = (number % 13 == 0, record) {
                connections.tell(ToWorker::Kernel { record, whole: number % 2 == 0 }, now);
                connections.tell(ToWorker::Ended { original: record.original, reply: record.reply }, now);
                connections.tell(ToWorker::Unmasquerade { oif: Ifindex(3), address: None }, now);
            }
        }
    });
    assert_eq!(counted.count_total, 0);
    let counts = connections.counts();
    assert!(counts.created > 1000 && counts.expired > 100 && counts.evicted > 0 && counts.kernels > 0, "{counts:?}");
}
