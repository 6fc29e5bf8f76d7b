//! The table against one that is a list: the same packets, the same clock.

use fastrand::Rng;
use shunt_policy::connection::{Direction, Manip, Range, State, Tracking, Tuple};
use shunt_policy::{DropReason, Ifindex, Stop};

use super::super::Local;
use super::support::*;

/// All that UDP needs.
#[derive(Clone, Copy)]
struct Flow {
    original: Tuple,
    reply: Tuple,
    expires: u64,
    stream: u64,
    answered: bool,
}

#[derive(Default)]
struct List(Vec<Flow>);

impl List {
    fn find(&mut self, tuple: &Tuple, now: u64) -> Option<(usize, bool)> {
        self.0.retain(|flow| flow.expires > now);
        self.0.iter().enumerate().find_map(|(at, flow)| match tuple {
            _ if flow.original == *tuple => Some((at, false)),
            _ if flow.reply == *tuple => Some((at, true)),
            _ => None,
        })
    }

    fn meet(&mut self, at: usize, reply: bool, now: u64) -> State {
        let flow = &mut self.0[at];
        let state = if reply || flow.answered { State::Established } else { State::New };
        let seconds = if flow.answered && now > flow.stream { 120 } else { 30 };
        flow.expires = now + seconds * SECOND;
        flow.answered |= reply;
        state
    }
}

fn any(random: &mut Rng) -> Tuple {
    let inside = (format!("192.0.2.{}", random.u8(1..6)), random.u16(5000..5004));
    let outside = (format!("198.51.100.{}", random.u8(1..3)), 53);
    tuple(17, (&inside.0, inside.1), (&outside.0, outside.1))
}

/// An answer to the public address, likely to one that is there.
fn any_answer(random: &mut Rng, list: &List) -> Tuple {
    match list.0.is_empty() {
        true => tuple(17, (SERVER, 53), (PUBLIC, random.u16(5000..5010))),
        false => list.0[random.usize(..list.0.len())].reply,
    }
}

#[test]
fn the_table_is_a_list_only_faster() {
    for seed in 0..40 {
        let random = &mut Rng::with_seed(seed);
        let mut desk = Desk::new(512);
        let mut list = List::default();
        let range = match seed % 4 {
            0 => None,
            1 => Some(to(PUBLIC)),
            2 => Some(Range { ports: Some((5000, 5007)), ..to(PUBLIC) }),
            _ => Some(Range { fully_random: true, ports: Some((6000, 6031)), ..to(PUBLIC) }),
        };
        for _ in 0..1500 {
            match random.u8(..20) {
                0 => desk.now += random.u64(0..50 * SECOND),
                1 => desk.connections.sweep(desk.now, random.usize(..600)),
                2..12 => turn(&mut desk, &mut list, any(random), range.as_ref()),
                _ => {
                    let answer = any_answer(random, &list);
                    turn(&mut desk, &mut list, answer, range.as_ref());
                }
            }
            desk.now += random.u64(0..SECOND);
            desk.told();
        }
        list.0.retain(|flow| flow.expires > desk.now);
        let mut ours: Vec<_> =
            desk.connections.records(desk.now).map(|it| format!("{:?}", (it.original, it.reply))).collect();
        let mut theirs: Vec<_> = list.0.iter().map(|it| format!("{:?}", (it.original, it.reply))).collect();
        ours.sort();
        theirs.sort();
        assert_eq!(ours, theirs);
        desk.connections.sweep(desk.now, 512);
        assert_eq!(desk.connections.len(), theirs.len());
        let counts = desk.connections.counts();
        assert_eq!(counts.created, counts.expired + theirs.len() as u64);
    }
}

/// One packet, asked of both.
fn turn(desk: &mut Desk, list: &mut List, tuple: Tuple, range: Option<&Range>) {
    let now = desk.now;
    let mut tracker = desk.connections.tracker(udp_of(tuple), Local::No, now);
    let connection = tracker.track().unwrap();
    if let Some((at, reply)) = list.find(&tuple, now) {
        assert_eq!(connection.state, list.meet(at, reply, now));
        assert_eq!(connection.direction == Direction::Reply, reply);
        let flow = list.0[at];
        assert_eq!(tracker.tuple(Direction::Original), Some(flow.original));
        let became = tracker.translate(Manip::Source, None, None).unwrap();
        let inverse = flow.reply.inverse().unwrap();
        let expected = (!reply && inverse.source != flow.original.source).then_some(inverse.source);
        assert_eq!(became, expected);
        tracker.forwarded().unwrap();
        return;
    }
    assert_eq!(connection.state, State::New);
    if let Some(range) = range {
        tracker.translate(Manip::Destination, None, None).unwrap();
        if let Err(stop) = tracker.translate(Manip::Source, Some(Ifindex(2)), Some(range)) {
            assert_eq!(stop, Stop::Drop(DropReason::NatExhausted));
            let towards = tuple.destination;
            let (first, last) = range.ports.unwrap();
            let taken = list.0.iter().filter(|flow| flow.reply.source == towards || flow.original.source == towards);
            assert!(taken.count() > usize::from(last - first), "there was room");
            return tracker.dropped();
        }
    }
    let reply = tracker.tuple(Direction::Reply).unwrap();
    let result = tracker.forwarded();
    if list.find(&reply, now).is_some() {
        assert_eq!(result, Err(Stop::Drop(DropReason::NatExhausted)));
        return;
    }
    result.unwrap();
    if let Some(range) = range {
        let mapped = reply.inverse().unwrap();
        assert_eq!(mapped.destination, tuple.destination);
        assert_eq!(Some((mapped.source.address, mapped.source.address)), range.addresses);
        assert!(range.ports.is_none_or(|(first, last)| (first..=last).contains(&mapped.source.port)));
    }
    list.0.push(Flow { original: tuple, reply, expires: now + 30 * SECOND, stream: now + 2 * SECOND, answered: false });
}
