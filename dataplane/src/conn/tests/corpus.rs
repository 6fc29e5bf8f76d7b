//! What the kernel has said of TCP, asked again of us.

use shunt_policy::connection::{Direction, State, Tuple};

use super::super::seen::Segment;
use super::support::*;

#[test]
fn segments_are_judged_as_linux_judges_them() {
    let mut desk = Desk::new(1024);
    let (mut packets, mut ends) = (0, 0);
    for line in include_str!("corpus/tcp.txt").lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[0] {
            "P" => judge(&mut desk, &words, line),
            _ => compare_end(&desk, &words, line),
        }
        *if words[0] == "P" { &mut packets } else { &mut ends } += 1;
    }
    assert!(packets > 900 && ends > 90, "{packets} and {ends}");
}

fn judge(desk: &mut Desk, words: &[&str], line: &str) {
    let number = |at: usize| words[at].parse::<i64>().unwrap();
    let segment = Segment {
        sequence: number(4) as u32,
        acknowledgement: number(5) as u32,
        window: number(7) as u16,
        flags: number(3) as u8,
        payload: number(6) as u32,
        window_scale: u8::try_from(number(8)).ok(),
        sack_permitted: number(9) == 1,
        sack: u32::try_from(number(10)).ok(),
    };
    let client = client(number(1) as u16);
    let tuple = if number(2) == 0 { client } else { client.inverse().unwrap() };
    let connection = desk.pass(tcp(tuple, segment)).unwrap();
    let state = match number(11) {
        1 => State::Invalid,
        2 => State::New,
        _ => State::Established,
    };
    assert_eq!((connection.state, connection.direction == Direction::Reply), (state, number(12) == 1), "{line}");
}

fn compare_end(desk: &Desk, words: &[&str], line: &str) {
    let client = client(words[1].parse().unwrap());
    let mut records = desk.connections.records(desk.now);
    let left = records.find(|record| record.original == client || record.reply == client);
    let end = left.map_or("gone 0 0".to_owned(), |left| {
        format!("{:?} {} {}", left.tcp.unwrap().state, left.timeout, left.status)
    });
    assert_eq!(end, words[2..].join(" "), "{line}");
}

fn client(port: u16) -> Tuple {
    tuple(6, (CLIENT, port), (SERVER, 443))
}
