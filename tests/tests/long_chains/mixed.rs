//! Long chains of mark rules as operators mix them, and packets for them. The benches ask them, too.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use fastrand::Rng;
use shunt_policy::config::{
    Action, BaseChain, ChainPolicy, ChainRule, Config, CounterSlot, Element, Field, Hook, Hops, Link, Match, Neighbour,
    Origin, PortRange, Route, RouteKind, Rule, RuleAction, RuleSelector, Set, Source, Step, Test, Value,
};
use shunt_policy::{Family, Ifindex, Mac, Mark, PortId, Prefix, Priority, Query, Rib, TableId, Transport};

/// A router with three ports, eth1 to eth3, a default route out of the third, and these rules in PREROUTING.
pub fn router(rules: Vec<ChainRule>) -> Config {
    let link = |number: u8| {
        let mac = Mac([2, 0, 0, 0, 0, number]);
        Link::port(Ifindex(u32::from(number) + 1), &format!("eth{number}"), mac, PortId(u16::from(number) - 1))
    };
    let gateway = IpAddr::from([203, 0, 113, 2]);
    let mut rib = Rib::default();
    let onward = Route::new(0, RouteKind::Unicast(Hops::one(Ifindex(4), Some(gateway))));
    rib.append(TableId::MAIN, Prefix::any(Family::V4), onward);
    let rule = Rule {
        family: Family::V4,
        priority: Priority(32766),
        selector: RuleSelector::default(),
        action: RuleAction::lookup(TableId::MAIN),
        origin: Origin::new(Source::Rule, "from all lookup main"),
    };
    let chain = BaseChain {
        family: Family::V4,
        hook: Hook::Prerouting,
        priority: -150,
        unordered: false,
        nat: false,
        name: "mangle PREROUTING".to_owned(),
        rules,
        policy: ChainPolicy::Accept,
        user: Vec::new(),
    };
    let mac = Some(Mac([2, 0, 0, 0, 1, 3]));
    Config {
        links: Arc::new((1..=3).map(link).collect()),
        neighbours: Arc::new(vec![Neighbour { ifindex: Ifindex(4), address: gateway, mac, valid: true }]),
        rules: Arc::new(vec![rule]),
        tables: rib.tables().clone(),
        chains: Arc::new(vec![chain]),
        ..Config::default()
    }
}

/// A rule that marks, and goes on.
pub fn marks(number: u32, tests: impl IntoIterator<Item = Test>) -> ChainRule {
    let matches = tests.into_iter().map(|test| Step::Match(Match { not: false, test }));
    let mark = Action::Mark { clear: 0xff, flip: number & 0xff };
    ChainRule {
        steps: matches.chain([Step::Count, Step::Do(mark)]).collect(),
        counter: CounterSlot(number),
        origin: Origin::new(Source::IptablesNft, "-j MARK"),
    }
}

/// So many rules: of a hundred, 30 are of a source host, 15 of a source prefix, 10 of a destination prefix, 20 of a TCP or UDP port,
/// 10 of a range of TCP ports (half of them with an interface), 5 of an interface, a TOS and a source prefix, 5 of the mark that rules
/// before have set and a source prefix, 5 of a port and one of five sets of a hundred sources.
pub fn rules(count: u32, random: &mut Rng) -> Vec<ChainRule> {
    let sets: Vec<Arc<Set<()>>> = (0..5).map(|_| Arc::new(blocked(random))).collect();
    (0..count)
        .map(|number| {
            let iif = Test::iif(format!("eth{}", random.u8(1..=3)));
            let port = random.u16(..);
            let ports = PortRange { first: port, last: port.saturating_add(random.u16(1..64)) };
            let destination_port = Test::of(Field::DestinationPort, [Value::one(port)]);
            let source = Test::source(prefix(random, 24..=30));
            let tests = match random.u8(0..100) {
                0..30 => vec![Test::source(prefix(random, 32..=32))],
                30..45 => vec![source],
                45..55 => vec![Test::destination(prefix(random, 26..=30))],
                55..70 => vec![Test::protocol(6), destination_port],
                70..75 => vec![Test::protocol(17), destination_port],
                75..80 => vec![Test::protocol(6), Test::of(Field::DestinationPort, [ports.into()])],
                80..85 => vec![iif, Test::protocol(6), Test::of(Field::DestinationPort, [ports.into()])],
                85..90 => vec![iif, Test::masked(Field::Tos, random.u8(0..8) << 5, 0xfcu8), source],
                90..95 => vec![Test::masked(Field::Mark, random.u8(..), 0xffu8), source],
                _ => {
                    let set = random.choice(&sets).expect("five sets").clone();
                    vec![Test::protocol(6), destination_port, Test::In { key: vec![Field::Source], set }]
                }
            };
            marks(number, tests)
        })
        .collect()
}

/// A packet, half the time one that the first tests of a random rule are about.
pub fn packet(rules: &[ChainRule], random: &mut Rng) -> Query {
    let mut query = Query {
        iif: Ifindex(random.u32(2..=3)),
        source: host(random).into(),
        destination: host(random).into(),
        protocol: 6,
        transport: Transport::Ports { source: random.u16(1024..), destination: random.u16(..) },
        tos: random.u8(0..8) << 5,
        flow_label: 0,
        mark: Mark(0),
        length: 60,
        ttl: 64,
        tcp_flags: 0x02,
        mss: Some(1460),
        source_mac: Mac([2, 0, 0, 0, 9, 1]),
    };
    let Some(rule) = random.choice(rules).filter(|_| random.bool()) else { return query };
    for step in &rule.steps {
        let Step::Match(Match { test: Test::Field { field, values, .. }, .. }) = step else { continue };
        let Some(Value::Range { first, .. }) = values.first() else { continue };
        match field {
            Field::Source => query.source = Ipv4Addr::from(*first as u32).into(),
            Field::Destination => query.destination = Ipv4Addr::from(*first as u32).into(),
            Field::DestinationPort => {
                query.transport = Transport::Ports { source: 40_000, destination: *first as u16 };
            }
            Field::Protocol => query.protocol = *first as u8,
            _ => {}
        }
    }
    query
}

fn host(random: &mut Rng) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) | random.u32(..1 << 17))
}

fn prefix(random: &mut Rng, lengths: std::ops::RangeInclusive<u8>) -> Prefix {
    Prefix::new(host(random).into(), random.u8(lengths)).expect("at most 32 bits")
}

fn blocked(random: &mut Rng) -> Set<()> {
    let mut hosts: Vec<u32> = (0..100).map(|_| host(random).into()).collect();
    hosts.sort_unstable();
    hosts.dedup();
    let element = |host: u32| Element { key: vec![Value::one(host)], data: (), uncertain: false };
    Set { name: "ipset blocked".to_owned(), elements: hosts.into_iter().map(element).collect(), opaque: None }
}
