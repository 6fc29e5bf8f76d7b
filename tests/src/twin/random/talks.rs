//! Conversations of hosts: most in order, some with what should not happen.

use fastrand::Rng;
use shunt_policy::Family;

use super::{one, rarely};
use crate::twin::base::{MARKS, PORTS, behind4, behind6, net4, net6, second4};
use crate::twin::talk::{End, From, Step, Talk, What};

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const FIN: u8 = 0x01;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;

/// First sequence numbers of both sides.
const CLIENT: u32 = 0x1000_0000;
const SERVER: u32 = 0xffff_ff00;

/// The conversations of a case. Hosts and ports come from small pools, so that some want the same public port.
pub fn talks(rng: &mut Rng, count: usize) -> Vec<Talk> {
    let mut all: Vec<Talk> = Vec::new();
    while all.len() < count {
        let talk = talk(rng);
        // Two conversations of the same ends would be one.
        let ends = |talk: &Talk| {
            (talk.protocol, talk.client.address, talk.client.number, talk.server.address, talk.server.number)
        };
        let is_portless = !matches!(talk.protocol, 1 | 6 | 17 | 58);
        let same = |other: &Talk| {
            ends(other) == ends(&talk)
                || is_portless && (other.protocol, other.client.address) == (talk.protocol, talk.client.address)
        };
        if !all.iter().any(same) {
            all.push(talk);
        }
    }
    all
}

fn talk(rng: &mut Rng) -> Talk {
    let family = if rng.u32(..3) < 2 { Family::V4 } else { Family::V6 };
    let (from, to) = (rng.usize(..PORTS), rng.usize(..PORTS));
    let host = rng.u16(1..5);
    let client = match (family, rarely(rng, 6)) {
        (Family::V4, true) => net4(from, 11),
        (Family::V4, false) => behind4(from, host),
        (Family::V6, true) => net6(from, 11),
        (Family::V6, false) => behind6(from, host),
    };
    let server = match (family, rng.u32(..8)) {
        (Family::V4, 0) => net4(to, 1),
        (Family::V4, 1) => second4(to, 1),
        (Family::V4, 2) => behind4(to, 0x1000 + host),
        (Family::V4, _) => format!("198.18.7.{}", one(rng, &[8, 9, 130])),
        (Family::V6, 0 | 1) => net6(to, 1),
        (Family::V6, 2) => behind6(to, 0x1000 + host),
        (Family::V6, _) => format!("2001:db8:100:7::{:x}", one(rng, &[8, 9, 0x102])),
    };
    let protocol = match rng.u32(..20) {
        0..8 => 17,
        8..15 => 6,
        15..18 if family == Family::V4 => 1,
        15..18 => 58,
        _ => one(rng, &[47, 50, 253]),
    };
    let number = match rng.u32(..4) {
        0 => one(rng, &[500, 600, 700, 4000, 20001, 8080]),
        _ => one(rng, &MARKS).0,
    };
    let mut steps = match protocol {
        6 => tcp(rng, family),
        _ => datagrams(rng, family),
    };
    // Too large for some links. (Of a fragmented echo by the router itself, the identification would be in the way.)
    if protocol == 17 && rarely(rng, 6) {
        let at = rng.usize(..steps.len());
        steps[at].fill = 1380;
    }
    Talk {
        protocol,
        client: End { port: from, address: client.parse().expect("an address"), number },
        server: End { port: to, address: server.parse().expect("an address"), number: one(rng, &[9, 25, 80, 53]) },
        start: rng.usize(..3),
        steps,
    }
}

fn step(rng: &mut Rng, from: From, what: What) -> Step {
    Step {
        from,
        what,
        ttl: if rarely(rng, 24) { rng.u8(1..3) } else { 64 },
        tos: one(rng, &[0, 0, 0, 0x10, 0xb8]),
        fill: rng.usize(16..64),
        bad_sum: rarely(rng, 32),
    }
}

fn error(rng: &mut Rng, family: Family, from: From) -> Step {
    let (kind, code) = match family {
        Family::V4 => one(rng, &[(3, 3), (3, 4), (3, 1), (11, 0), (12, 0), (4, 0)]),
        Family::V6 => one(rng, &[(1, 4), (2, 0), (3, 0), (4, 1), (1, 0)]),
    };
    let (short, spoiled) = (rarely(rng, 3), rarely(rng, 6));
    step(rng, from, What::Error { kind, code, short: short && family == Family::V4, spoiled })
}

fn datagrams(rng: &mut Rng, family: Family) -> Vec<Step> {
    let mut steps = Vec::new();
    // Mostly the client speaks first.
    let first = if rarely(rng, 12) { From::Server } else { From::Client };
    steps.push(step(rng, first, What::Data));
    for _ in 0..rng.u32(1..8) {
        let next = match rng.u32(..16) {
            0..6 => step(rng, From::Client, What::Data),
            6..11 => step(rng, From::Server, What::Data),
            11 => step(rng, From::Stranger, What::Data),
            12 => error(rng, family, From::Client),
            13 | 14 => error(rng, family, From::Server),
            _ => error(rng, family, From::Stranger),
        };
        steps.push(next);
    }
    steps
}

/// The numbers of both sides, as far as the conversation has come.
struct Dialogue {
    client: u32,
    server: u32,
    steps: Vec<Step>,
}

impl Dialogue {
    fn say(&mut self, rng: &mut Rng, from: From, flags: u8, bytes: usize) {
        let (own, other) = match from {
            From::Client => (&mut self.client, self.server),
            _ => (&mut self.server, self.client),
        };
        let acknowledged = if flags & ACK != 0 { other } else { 0 };
        let what = What::Segment { flags, sequence: *own, acknowledged };
        *own = own.wrapping_add(bytes as u32 + u32::from(flags & (SYN | FIN) != 0));
        let said = Step { fill: bytes, ..step(rng, from, what) };
        self.steps.push(said);
    }
}

fn tcp(rng: &mut Rng, family: Family) -> Vec<Step> {
    let mut talk = Dialogue { client: CLIENT, server: SERVER, steps: Vec::new() };
    let (c, s) = (From::Client, From::Server);
    match rng.u32(..12) {
        // In the middle of what nobody has seen begin.
        0 => talk.say(rng, c, ACK | PSH, 40),
        1 => talk.say(rng, s, SYN | ACK, 0),
        // Both begin at once.
        2 => {
            talk.say(rng, c, SYN, 0);
            talk.say(rng, s, SYN, 0);
            talk.say(rng, c, SYN | ACK, 0);
            talk.say(rng, s, SYN | ACK, 0);
        }
        3 => {
            talk.say(rng, c, SYN, 0);
            talk.say(rng, s, RST | ACK, 0);
        }
        _ => {
            talk.say(rng, c, SYN, 0);
            talk.say(rng, s, SYN | ACK, 0);
            talk.say(rng, c, ACK, 0);
        }
    }
    for _ in 0..rng.u32(..5) {
        let from = if rng.bool() { c } else { s };
        let bytes = one(rng, &[0, 24, 64, 700]);
        talk.say(rng, from, ACK | PSH, bytes);
    }
    match rng.u32(..6) {
        0 => {
            let from = one(rng, &[c, s]);
            talk.say(rng, from, RST, 0);
        }
        1 => {
            // Both end at once.
            talk.say(rng, c, FIN | ACK, 0);
            talk.server = talk.server.wrapping_sub(1);
            talk.say(rng, s, FIN | ACK, 0);
            talk.server = talk.server.wrapping_add(1);
            talk.say(rng, c, ACK, 0);
            talk.say(rng, s, ACK, 0);
        }
        2 | 3 => {
            talk.say(rng, c, FIN | ACK, 0);
            talk.say(rng, s, ACK, 0);
            talk.say(rng, s, FIN | ACK, 0);
            talk.say(rng, c, ACK, 0);
        }
        _ => {}
    }
    // The same ends once more.
    if rarely(rng, 6) {
        talk.client = talk.client.wrapping_add(100_000);
        talk.say(rng, c, SYN, 0);
        talk.say(rng, s, SYN | ACK, 0);
        talk.say(rng, c, ACK, 0);
    }
    disturb(rng, family, &mut talk.steps);
    talk.steps
}

/// What should not happen, at times: out of the window, twice, in another order, odd flags, errors between.
fn disturb(rng: &mut Rng, family: Family, steps: &mut Vec<Step>) {
    if rng.bool() {
        return;
    }
    for _ in 0..rng.u32(1..3) {
        let at = rng.usize(..steps.len());
        match rng.u32(..8) {
            0 | 1 => {
                if let What::Segment { sequence, .. } = &mut steps[at].what {
                    *sequence = sequence.wrapping_add(one(rng, &[1, 70_000, 2_000_000, 0x8000_0000, 0xffff_0000]));
                }
            }
            2 => {
                if let What::Segment { acknowledged, .. } = &mut steps[at].what {
                    *acknowledged = acknowledged.wrapping_add(one(rng, &[1, 100_000, 0x8000_0000, 0xfff0_0000]));
                }
            }
            3 => steps.insert(at, steps[at]),
            4 if at > 0 => steps.swap(at - 1, at),
            5 => {
                if let What::Segment { flags, .. } = &mut steps[at].what {
                    *flags = one(rng, &[0, SYN | FIN, SYN | RST, FIN, FIN | PSH | 0x20, SYN | PSH, RST | ACK]);
                }
            }
            6 => {
                let from = one(rng, &[From::Client, From::Server, From::Stranger]);
                let error = error(rng, family, from);
                steps.insert(at + 1, error);
            }
            _ => {
                let stranger = Step { from: From::Stranger, ..steps[at] };
                steps.insert(at + 1, stranger);
            }
        }
    }
}
