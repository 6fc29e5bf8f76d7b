//! What a packet pays for rules that it does not match: the kernel asks them one by one, and so do we.

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shunt_policy::config::{
    Config, Hops, Link, Neighbour, Origin, Route, RouteKind, Rule, RuleAction, RuleSelector, Source,
};
use shunt_policy::{
    Family, Generation, Ifindex, Mac, Mark, PortId, Prefix, Priority, Query, Rib, TableId, Transport, compile,
};

/// One decision behind `rules` rules of other sources.
pub fn decision(rules: usize) -> Duration {
    let gateway = IpAddr::from([198, 51, 100, 10]);
    let link = |number: u16| {
        let mac = Mac([2, 0, 0, 0, 0, number as u8]);
        Link::port(Ifindex(u32::from(number)), &format!("eth{number}"), mac, PortId(number - 1))
    };
    let rule = |number: usize| Rule {
        family: Family::V4,
        priority: Priority(number as u32),
        selector: RuleSelector {
            from: (number < rules).then(|| Prefix::host([198, 19, (number >> 8) as u8, number as u8].into())),
            ..RuleSelector::default()
        },
        action: RuleAction::lookup(TableId::MAIN),
        origin: Origin::new(Source::Rule, "scale"),
    };
    let mut rib = Rib::default();
    let onward = Route::new(0, RouteKind::Unicast(Hops::one(Ifindex(2), Some(gateway))));
    rib.append(TableId::MAIN, Prefix::any(Family::V4), onward);
    let config = Config {
        links: Arc::new(vec![link(1), link(2)]),
        neighbours: Arc::new(vec![Neighbour {
            ifindex: Ifindex(2),
            address: gateway,
            mac: Some(Mac([2; 6])),
            valid: true,
        }]),
        rules: Arc::new((0..=rules).map(rule).collect()),
        tables: rib.tables().clone(),
        ..Config::default()
    };
    let policy = compile(&config, Generation(1));
    let query = Query {
        iif: Ifindex(1),
        source: [192, 0, 2, 10].into(),
        destination: [198, 18, 0, 25].into(),
        protocol: 17,
        transport: Transport::Ports { source: 40_000, destination: 53 },
        tos: 0,
        flow_label: 0,
        mark: Mark(0),
        length: 64,
        ttl: 64,
        tcp_flags: 0,
        mss: None,
        source_mac: Mac([0; 6]),
    };
    let rounds = 20_000_000 / (rules as u32 + 100);
    let start = Instant::now();
    for _ in 0..rounds {
        black_box(policy.decide(black_box(&query))).expect("a way out");
    }
    start.elapsed() / rounds
}
