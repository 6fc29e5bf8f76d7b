//! The headers of what goes round.

use std::net::{Ipv4Addr, Ipv6Addr};

use shunt_dataplane::Loop;
use shunt_lab::{ipv4_udp, ipv6_udp};

use super::internet;
use super::scenario::Scenario;

/// Ethernet, IP and UDP.
const HEAD4: usize = 14 + 20 + 8;
const HEAD6: usize = 14 + 40 + 8;
const HOPS: u8 = 64;
/// What the HOWTO marks.
const PORT: u16 = 25;

/// Where to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Destinations {
    /// 203.0.113.0/24 and 2001:db8:25::/64.
    Documentation,
    /// Random addresses in the networks of a table of this size.
    Internet(usize),
}

/// The loop of a scenario.
pub fn turn(scenario: &Scenario) -> Loop {
    Loop {
        head: if scenario.is_ipv6 { HEAD6 } else { HEAD4 },
        sizes: scenario.sizes.iter().map(|(size, _)| *size).collect(),
        flows: scenario.flows,
        cores: scenario.queues as usize,
    }
}

/// Source and destination of a frame.
type Ends = ([u8; 6], [u8; 6]);

/// The headers of all flows in the first size, then of all in the second, ...
pub fn heads(scenario: &Scenario, ends: Ends) -> impl Iterator<Item = Vec<u8>> {
    let turn = turn(scenario);
    let (flows, is_ipv6) = (turn.flows, turn.head == HEAD6);
    let destinations = match scenario.destinations {
        Destinations::Documentation => (0..flows).map(documentation).collect(),
        Destinations::Internet(size) => internet::destinations(&internet::networks(size), flows),
    };
    turn.sizes.into_iter().flat_map(move |size| {
        let payload = vec![0; size - turn.head];
        let heads = destinations.iter().enumerate().map(|(flow, destination)| match is_ipv6 {
            false => head4(flow, ends, *destination, &payload),
            true => head6(flow, ends, &payload),
        });
        heads.collect::<Vec<_>>()
    })
}

/// No two flows have the same source, and no two to the same destination the same port: translated they still differ.
fn head4(flow: usize, ends: Ends, destination: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let source = Ipv4Addr::new(192, 0, 2, 10 + (flow % 100) as u8);
    let mut frame = ipv4_udp(ends, (source, destination), HOPS, (source_port(flow), PORT), payload);
    frame.truncate(HEAD4);
    frame
}

fn head6(flow: usize, ends: Ends, payload: &[u8]) -> Vec<u8> {
    let source = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10 + (flow % 100) as u16);
    let destination = Ipv6Addr::new(0x2001, 0xdb8, 0x25, 0, 0, 0, 0, 1 + (flow % 250) as u16);
    let mut frame = ipv6_udp(ends, (source, destination), HOPS, (source_port(flow), PORT), payload);
    frame.truncate(HEAD6);
    frame
}

fn source_port(flow: usize) -> u16 {
    1024 + (flow / 100) as u16
}

fn documentation(flow: usize) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, 1 + (flow % 250) as u8)
}
