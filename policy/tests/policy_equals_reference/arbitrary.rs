//! Random configurations and queries from small pools.

#[path = "netfilter.rs"]
mod netfilter;
#[path = "script.rs"]
pub mod script;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use shunt_policy::config::{
    Config, Conntrack, DscpMatch, FlowLabelMatch, HashPolicy, Hops, Leg, Link, LinkAddress, MarkMatch, Neighbour,
    NexthopObject, Origin, PortMatch, PortRange, Preference, Route, RouteKind, RpFilter, Rule, RuleAction,
    RuleSelector, Source, Spreading, Suppress, Transmit,
};
use shunt_policy::{
    Dscp, Family, Ifindex, Mac, Mark, PortId, Prefix, Priority, PuntReason, Query, Rib, TableId, Transport,
};

/// Last byte of the pool's addresses.
const HOSTS: [u8; 8] = [0, 1, 2, 3, 64, 127, 128, 255];
const NAMES: [&str; 5] = ["lo", "eth0", "eth1", "ppp0", "isdn0"];

pub fn config() -> impl Strategy<Value = Config> {
    let parts = (
        links(),
        prop_oneof![1 => vec(neighbour(), 0..12), 4 => Just(every_neighbour())],
        // Now and then so many that they are not asked one by one.
        prop_oneof![24 => vec(rule(), 0..6), 1 => vec(rule(), 15..60)],
        vec(route(), 0..24),
        nexthops(),
        spreading(),
        netfilter::chains(),
        prop_oneof![12 => Just(Vec::new()), 1 => vec(netfilter::guard(), 1..3)],
        ((conntrack(), conntrack()), path_mtus()),
    );
    parts.prop_map(|(links, neighbours, mut rules, routes, nexthops, spreading, chains, guards, more)| {
        let (conntrack, path_mtus) = more;
        let mut rib = Rib::default();
        for (table, prefix, route) in routes {
            rib.append(table, prefix, route);
        }
        // Mostly what a router has: the rule for main and a default route.
        for family in Family::BOTH {
            let selector = RuleSelector::default();
            let action = RuleAction::lookup(TableId::MAIN);
            rules.push(Rule { family, priority: Priority(32766), selector, action, origin: origin(Source::Rule) });
            let default = Route::new(900, RouteKind::Unicast(Hops::one(Ifindex(3), None)));
            rib.append(TableId::MAIN, Prefix::any(family), default);
        }
        rules.sort_by_key(|rule| rule.priority);
        Config {
            links: Arc::new(links),
            neighbours: Arc::new(neighbours),
            rules: Arc::new(rules),
            tables: rib.tables().clone(),
            nexthops: Arc::new(nexthops),
            spreading,
            path_mtus: Arc::new(path_mtus),
            chains: Arc::new(chains),
            conntrack: conntrack.into(),
            guards: Arc::new(guards),
        }
    })
}

fn conntrack() -> impl Strategy<Value = Conntrack> {
    select(vec![Conntrack::Off, Conntrack::Off, Conntrack::Tracks, Conntrack::Translates])
}

fn path_mtus() -> impl Strategy<Value = BTreeMap<IpAddr, u32>> {
    let path = family().prop_flat_map(|family| (address(family), length()));
    prop_oneof![4 => Just(BTreeMap::new()), 1 => vec(path, 1..6).prop_map(|paths| paths.into_iter().collect())]
}

pub fn query() -> impl Strategy<Value = Query> {
    let transport = prop_oneof![
        4 => (port(), port()).prop_map(|(source, destination)| Transport::Ports { source, destination }),
        1 => (0..3u8, 0..3u8).prop_map(|(kind, code)| Transport::Icmp { kind, code }),
        1 => Just(Transport::Other),
        1 => any::<u32>().prop_map(Transport::Spi),
    ];
    (
        family(),
        select(vec![1u32, 2, 2, 2, 3, 3, 4, 4, 5, 5, 6]),
        protocol(),
        transport,
        tos(),
        prop_oneof![3 => Just(0), 1 => mark_value()],
        length(),
        flow_label(),
        (select(vec![64u8, 64, 2, 2, 1]), tcp_flags(), option::of(mss()), select(vec![1u8, 2])),
    )
        .prop_flat_map(|(family, iif, protocol, transport, tos, mark, length, flow_label, more)| {
            let (ttl, tcp_flags, mss, mac) = more;
            (address(family), address(family)).prop_map(move |(source, destination)| Query {
                iif: Ifindex(iif),
                source,
                destination,
                protocol,
                transport,
                tos,
                flow_label: if family == Family::V6 { flow_label } else { 0 },
                mark: Mark(mark),
                length,
                ttl,
                tcp_flags: if protocol == 6 { tcp_flags } else { 0 },
                mss: mss.filter(|_| protocol == 6),
                source_mac: Mac([2, 0, 0, 0, 9, mac]),
            })
        })
}

/// Five links with numbers 1 to 5; 6 is never there.
fn links() -> impl Strategy<Value = Vec<Link>> {
    let transmit = |port| {
        prop_oneof![
            12 => Just(Transmit::Port(PortId(port))),
            1 => Just(Transmit::Kernel(PuntReason::EgressNotTaken)),
            1 => Just(Transmit::Kernel(PuntReason::EgressQdisc)),
        ]
    };
    let usually = prop::bool::weighted(0.97);
    let rp_filter = prop_oneof![
        12 => Just(RpFilter::Off),
        1 => Just(RpFilter::Strict),
        1 => Just(RpFilter::Loose),
    ];
    let link = move |at: usize| {
        let facts = (usually, usually, usually, usually, rp_filter.clone(), any::<bool>(), transmit(at as u16));
        let rarely = prop::bool::weighted(0.05);
        let redirected = prop::bool::weighted(0.02);
        let more = (any::<bool>(), usually, rarely, rarely, redirected, 0..3u32, select(vec![1500u32, 1400, 1280]));
        let more = (more, vec(link_address(), 0..4));
        (facts, more).prop_map(move |(facts, more)| {
            let (up, has_mac, forwarding4, forwarding6, rp_filter, src_valid_mark, transmit) = facts;
            let ((accept_local, has_address4, ignored4, ignored6, redirected, group, mtu), addresses) = more;
            Link {
                ifindex: Ifindex(at as u32 + 1),
                name: NAMES[at].to_owned(),
                mac: has_mac.then_some(Mac([2, 0, 0, 0, 0, at as u8])),
                up,
                mtu,
                mtu6: mtu.min(1400),
                forwarding4,
                forwarding6,
                rp_filter,
                src_valid_mark,
                accept_local,
                has_address4,
                ignored4,
                ignored6,
                redirected4: redirected,
                redirected6: redirected,
                addresses,
                group,
                transmit,
                takes_redirected: src_valid_mark,
            }
        })
    };
    let links = (link(0), link(1), link(2), link(3), link(4));
    (links, prop::bool::weighted(0.2)).prop_map(|((a, b, c, d, e), nameless)| {
        let mut links = vec![a, b, c, d, e];
        if nameless {
            links.iter_mut().for_each(|link| link.addresses.clear());
        }
        links
    })
}

fn link_address() -> impl Strategy<Value = LinkAddress> {
    family().prop_flat_map(|family| {
        let scope = select(vec![0u8, 0, 0, 0, 253, 254]);
        (address(family), prefix(family), scope, prop::bool::weighted(0.2), prop::bool::weighted(0.8)).prop_map(
            |(address, network, scope, secondary, preferred)| LinkAddress {
                address,
                network,
                scope,
                secondary,
                preferred,
            },
        )
    })
}

fn neighbour() -> impl Strategy<Value = Neighbour> {
    family().prop_flat_map(|family| {
        let parts = (1..6u32, address(family), option::weighted(0.8, 1..250u8), any::<bool>());
        parts.prop_map(|(ifindex, address, mac, valid)| Neighbour {
            ifindex: Ifindex(ifindex),
            address,
            mac: mac.map(|last| Mac([2, 1, 0, 0, 0, last])),
            valid: valid || mac.is_some(),
        })
    })
}

/// Every address of the pool, resolved on every link.
fn every_neighbour() -> Vec<Neighbour> {
    let mut all = Vec::new();
    for family in [Family::V4, Family::V6] {
        for (network, host) in (0..2).flat_map(|network| HOSTS.map(|host| (network, host))) {
            all.extend((1..6u8).map(|link| Neighbour {
                ifindex: Ifindex(link.into()),
                address: pool_address(family, network, host),
                mac: Some(Mac([2, 2, link, 0, network, host])),
                valid: true,
            }));
        }
    }
    all
}

fn rule() -> impl Strategy<Value = Rule> {
    let suppress = (option::weighted(0.1, select(vec![0u8, 15, 24, 64])), option::weighted(0.1, 0..3u32))
        .prop_map(|(prefix_length, group)| Suppress { prefix_length, group });
    let action = prop_oneof![
        24 => (table(), suppress).prop_map(|(table, suppress)| RuleAction::Lookup(table, suppress)),
        1 => Just(RuleAction::Blackhole),
        1 => Just(RuleAction::Unreachable),
        1 => Just(RuleAction::Prohibit),
        1 => Just(RuleAction::Nop),
        2 => priority().prop_map(RuleAction::Goto),
        1 => Just(RuleAction::Opaque("action 9".to_owned())),
    ];
    (family(), priority(), action).prop_flat_map(|(family, priority, action)| {
        let fwmark = (mark_value(), mask()).prop_map(|(value, mask)| MarkMatch { value, mask });
        let tos_value = select(vec![0x04u8, 0x08, 0x10, 0x1c]).prop_map(Dscp::of_tos);
        let dscp = (tos(), select(vec![0xfcu8, 0x80, 0x1c]))
            .prop_map(|(value, mask)| DscpMatch { value: Dscp::of_tos(value & mask), mask: Dscp::of_tos(mask) });
        let port_match = || {
            prop_oneof![
                (port(), 0..40u16)
                    .prop_map(|(first, more)| PortRange { first, last: first.saturating_add(more) })
                    .prop_map(PortMatch::Range),
                (port(), select(vec![u16::MAX, 0xff00, 1])).prop_map(|(value, mask)| PortMatch::Masked { value, mask }),
            ]
        };
        let label = (flow_label(), select(vec![0xfffffu32, 1]))
            .prop_map(|(value, mask)| FlowLabelMatch { value: value & mask, mask });
        let usual = (
            prop::bool::weighted(0.15),
            option::weighted(0.3, prefix(family)),
            option::weighted(0.3, prefix(family)),
            option::weighted(0.2, name()),
            option::weighted(0.4, fwmark),
            option::weighted(0.2, tos_value),
            option::weighted(0.05, Just("attribute 99".to_owned())),
        );
        let unusual = (
            option::weighted(0.05, name()),
            option::weighted(0.1, dscp),
            option::weighted(0.1, protocol()),
            option::weighted(0.1, port_match()),
            option::weighted(0.1, port_match()),
            option::weighted(0.05, select(vec![(0u32, 0), (0, 1000), (1, 1000)])),
            prop::bool::weighted(0.03),
            option::weighted(0.03, Just(7u64)),
            option::weighted(0.1, label),
        );
        let action = action.clone();
        (usual, unusual).prop_map(move |(usual, unusual)| {
            let (not, from, to, iif, fwmark, tos, opaque) = usual;
            let (oif, dscp, protocol, source_port, destination_port, uid_range, l3mdev, tunnel, flow_label) = unusual;
            let selector = RuleSelector {
                not,
                from,
                to,
                iif,
                oif,
                fwmark,
                tos,
                dscp,
                protocol,
                source_port,
                destination_port,
                uid_range,
                l3mdev,
                tunnel,
                flow_label,
                opaque,
            };
            Rule { family, priority, selector, action: action.clone(), origin: origin(Source::Rule) }
        })
    })
}

/// Few, so that rules go to one another and share their place.
fn priority() -> impl Strategy<Value = Priority> {
    select(vec![0u32, 1, 100, 101, 200, 1000, 32_765]).prop_map(Priority)
}

fn leg(family: Family) -> impl Strategy<Value = Leg> {
    (1..7u32, option::of(gateway(family)), 1..4u32, prop::bool::weighted(0.05))
        .prop_map(|(oif, via, weight, dead)| Leg { oif: Ifindex(oif), via, weight, dead })
}

/// Mostly of the family; IPv4 has gateways of the other one, too.
fn gateway(family: Family) -> impl Strategy<Value = IpAddr> {
    match family {
        Family::V4 => prop_oneof![5 => address(Family::V4), 1 => address(Family::V6)].boxed(),
        Family::V6 => address(family).boxed(),
    }
}

/// Objects with the ids from 1: four legs, a blackhole, two groups, a resilient one. Routes name others, too.
fn nexthops() -> impl Strategy<Value = BTreeMap<u32, NexthopObject>> {
    let member = || (1..5u32, 1..4u32);
    let resilient = vec(member(), 1..4).prop_flat_map(|members| {
        let ids: Vec<u32> = members.iter().map(|(id, _)| *id).collect();
        vec(prop_oneof![30 => select(ids), 1 => Just(9)], 0..9)
            .prop_map(move |buckets| NexthopObject::Resilient { members: members.clone(), buckets })
    });
    let legs = vec(family().prop_flat_map(leg), 4);
    let groups = (vec(member(), 1..4), vec(prop_oneof![9 => member(), 1 => (5..10u32, Just(1))], 1..4));
    (legs, groups, resilient).prop_map(|(legs, groups, resilient)| {
        let objects = legs.into_iter().map(|leg| NexthopObject::Leg(Leg { weight: 1, ..leg }));
        let groups = [NexthopObject::Blackhole, NexthopObject::Group(groups.0), NexthopObject::Group(groups.1)];
        let unknown = NexthopObject::Opaque("encapsulation".to_owned());
        (1..).zip(objects.chain(groups).chain([resilient, unknown])).collect()
    })
}

fn spreading() -> impl Strategy<Value = Spreading> {
    let policy = || {
        prop_oneof![
            3 => Just(HashPolicy::L3),
            3 => Just(HashPolicy::L4),
            1 => Just(HashPolicy::Inner),
            2 => (0..128u32).prop_map(HashPolicy::Custom),
            1 => Just(HashPolicy::Unknown),
        ]
    };
    (policy(), policy(), option::of(any::<u32>()), any::<bool>())
        .prop_map(|(policy4, policy6, seed, use_neighbours)| Spreading { policy4, policy6, seed, use_neighbours })
}

pub fn route() -> impl Strategy<Value = (TableId, Prefix, Route)> {
    family().prop_flat_map(|family| {
        let hops = prop_oneof![
            20 => leg(family).prop_map(|leg| Hops::Legs(Box::new([leg]))),
            5 => vec(leg(family), 2..4).prop_map(|legs| Hops::Legs(legs.into())),
            8 => (1..11u32).prop_map(Hops::Object),
        ];
        let dev = || option::weighted(0.9, (1..6u32).prop_map(Ifindex));
        let kind = prop_oneof![
            30 => hops.prop_map(RouteKind::Unicast),
            1 => dev().prop_map(RouteKind::Local),
            1 => dev().prop_map(RouteKind::Broadcast),
            1 => dev().prop_map(RouteKind::Anycast),
            1 => Just(RouteKind::Blackhole),
            1 => Just(RouteKind::Unreachable),
            1 => Just(RouteKind::Prohibit),
            2 => Just(RouteKind::Throw),
            1 => Just(RouteKind::Opaque("encap".to_owned())),
        ];
        // Only IPv4 has TOS routes, only IPv6 has preferences.
        let tos = match family {
            Family::V4 => select(vec![0u8, 0, 0, 0x10, 0x08]).boxed(),
            Family::V6 => Just(0).boxed(),
        };
        let preference = match family {
            Family::V4 => Just(Preference::Medium).boxed(),
            Family::V6 => select(vec![Preference::Low, Preference::Medium, Preference::High]).boxed(),
        };
        let mtu = option::weighted(0.1, Just(1300u32));
        let metric = select(vec![0u32, 20, 20, 256, u32::MAX]);
        (table(), prefix(family), tos, metric, preference, mtu, kind).prop_map(
            |(table, prefix, tos, metric, preference, mtu, kind)| {
                (table, prefix, Route { tos: Dscp::of_tos(tos), metric, preference, mtu, kind })
            },
        )
    })
}

fn origin(source: Source) -> Origin {
    Origin::new(source, "random")
}

fn family() -> impl Strategy<Value = Family> {
    select(vec![Family::V4, Family::V6])
}

/// 16 addresses of two neighbouring networks.
fn address(family: Family) -> impl Strategy<Value = IpAddr> {
    (0..2u8, select(HOSTS.to_vec())).prop_map(move |(network, host)| pool_address(family, network, host))
}

fn pool_address(family: Family, network: u8, host: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(198, 18 + network, 0, host).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, network.into(), 0, 0, 0, 0, host.into()).into(),
    }
}

fn prefix(family: Family) -> impl Strategy<Value = Prefix> {
    let lengths = match family {
        Family::V4 => vec![0u8, 8, 15, 16, 24, 25, 26, 30, 31, 32],
        Family::V6 => vec![0u8, 32, 47, 48, 64, 120, 121, 126, 127, 128],
    };
    (address(family), select(lengths))
        .prop_map(|(address, length)| Prefix::new(address, length).expect("lengths fit the family"))
}

fn table() -> impl Strategy<Value = TableId> {
    select(vec![TableId::MAIN, TableId::LOCAL, TableId(201), TableId(202), TableId(999)])
}

fn name() -> impl Strategy<Value = String> {
    select(vec!["eth0", "eth1", "ppp0", "gone"]).prop_map(str::to_owned)
}

fn protocol() -> impl Strategy<Value = u8> {
    select(vec![1u8, 4, 6, 17, 47, 50, 58])
}

fn port() -> impl Strategy<Value = u16> {
    select(vec![0u16, 22, 25, 80, 100, 40_000, u16::MAX])
}

fn tos() -> impl Strategy<Value = u8> {
    select(vec![0u8, 0x10, 0x11, 0x08, 0x1c, 0xb0, 0x90, 0xff])
}

fn mark_value() -> impl Strategy<Value = u32> {
    select(vec![0u32, 1, 2, 3, 0x100, 0x1ff, u32::MAX])
}

fn mask() -> impl Strategy<Value = u32> {
    select(vec![u32::MAX, 0xff, 0xf00, 1, 0])
}

fn flow_label() -> impl Strategy<Value = u32> {
    select(vec![0u32, 0, 1, 0xabcde])
}

pub fn tcp_flags() -> impl Strategy<Value = u8> {
    select(vec![0x02u8, 0x12, 0x10, 0x18, 0x04])
}

pub fn mss() -> impl Strategy<Value = u16> {
    select(vec![1460u16, 1240, 1260, 536, 0])
}

fn length() -> impl Strategy<Value = u32> {
    select(vec![60u32, 60, 60, 60, 1280, 1300, 1301, 1400, 1500])
}
