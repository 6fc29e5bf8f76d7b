//! A router that masquerades, and packets of its known UDP connections.
//!
//! ```text
//!   hosts 198.18.0.0/15 by 192.0.2.2   ┌────────┐   the routes by 203.0.113.2
//!                                   ───┤ router ├───
//!                                      └────────┘   masqueraded behind 203.0.113.1
//! ```

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use etherparse::PacketBuilder;
use shunt_dataplane::conn::exchange::ToWorker;
use shunt_dataplane::conn::settings::Settings;
use shunt_dataplane::sim::{Router, SimSpec};
use shunt_dataplane::xsk::BATCH;
use shunt_policy::config::{
    BaseChain, ChainPolicy, ChainRule, Config, Conntrack, CounterSlot, Hook, Hops, Link, LinkAddress, Match, Nat,
    NatTo, Neighbour, Origin, Route, RouteKind, Rule, RuleAction, RuleSelector, Source, Step, Test, Verdict,
};
use shunt_policy::{Family, Generation, Ifindex, Mac, Policy, PortId, Prefix, Priority, Rib, TableId, compile};

pub const LAN: PortId = PortId(0);
pub const WAN: PortId = PortId(1);

const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

fn ifindex(port: PortId) -> Ifindex {
    Ifindex(10 + u32::from(port.0))
}

fn mac(port: PortId, host: u8) -> Mac {
    Mac([2, 0, 0, 0, port.0 as u8, host])
}

/// Networks of 24 bits, spread evenly over what is ordinary unicast.
fn networks(count: usize) -> Vec<u32> {
    let spread = |number: u32| 0x01_0000 + ((u64::from(number.wrapping_mul(0x9e37_79b1)) * 0xde_0000) >> 32) as u32;
    let all = (0..).map(spread).filter(|network| !matches!(network >> 16, 127 | 192 | 198 | 203));
    all.map(|network| network << 8).take(count).collect()
}

/// Packets pass these chains before.
fn config(networks: &[u32], before: &[BaseChain]) -> Config {
    let link = |port: PortId| Link::port(ifindex(port), &format!("eth{}", port.0), mac(port, 1), port);
    let mut wan = link(WAN);
    let network = Prefix::new(PUBLIC.into(), 24).expect("24 bits");
    wan.addresses = vec![LinkAddress { address: PUBLIC.into(), network, scope: 0, secondary: false, preferred: true }];
    let neighbour = |port: PortId, address: [u8; 4]| Neighbour {
        ifindex: ifindex(port),
        address: address.into(),
        mac: Some(mac(port, 2)),
        valid: true,
    };
    let rule = |(priority, table)| Rule {
        family: Family::V4,
        priority: Priority(priority),
        selector: RuleSelector::default(),
        action: RuleAction::lookup(table),
        origin: Origin::new(Source::Rule, "bench"),
    };
    let by = |port, via: [u8; 4]| Route::new(0, RouteKind::Unicast(Hops::one(ifindex(port), Some(via.into()))));
    let mut rib = Rib::default();
    rib.append(TableId::LOCAL, Prefix::host(PUBLIC.into()), Route::new(0, RouteKind::Local(Some(ifindex(WAN)))));
    let hosts = Prefix::new([198, 18, 0, 0].into(), 15).expect("15 bits");
    rib.append(TableId::MAIN, hosts, by(LAN, [192, 0, 2, 2]));
    let onward = by(WAN, [203, 0, 113, 2]);
    for network in networks {
        let prefix = Prefix::new(IpAddr::V4((*network).into()), 24).expect("24 bits");
        rib.set(TableId::MAIN, prefix, std::slice::from_ref(&onward));
    }
    let masquerade = ChainRule {
        steps: vec![
            Step::Match(Match { not: false, test: Test::oif("eth1") }),
            Step::Verdict(Verdict::Nat(Nat::plain(NatTo::Masquerade).into())),
        ],
        counter: CounterSlot(0),
        origin: Origin::new(Source::Nftables, "bench"),
    };
    let postrouting = BaseChain {
        family: Family::V4,
        hook: Hook::Postrouting,
        priority: 100,
        unordered: false,
        nat: true,
        name: "bench".to_owned(),
        rules: vec![masquerade],
        policy: ChainPolicy::Accept,
        user: Vec::new(),
    };
    Config {
        links: Arc::new(vec![link(LAN), wan]),
        neighbours: Arc::new(vec![neighbour(LAN, [192, 0, 2, 2]), neighbour(WAN, [203, 0, 113, 2])]),
        rules: Arc::new([(0, TableId::LOCAL), (32766, TableId::MAIN)].map(rule).to_vec()),
        tables: rib.tables().clone(),
        chains: Arc::new([before, &[postrouting]].concat()),
        conntrack: [Conntrack::Translates; 2],
        ..Config::default()
    }
}

pub struct Bench {
    pub router: Router,
    networks: Vec<u32>,
    pub flows: usize,
    frame: Vec<u8>,
    pub injected: u64,
}

impl Bench {
    /// Workers know flows; all connections are known, answered, and so old that nothing changes any more.
    pub fn new(flows: usize, routes: usize) -> Self {
        let mut bench = Bench::empty(flows, routes);
        bench.make_known();
        bench
    }

    /// The same whose worker decides about every packet anew.
    pub fn without_flows(flows: usize, routes: usize) -> Self {
        let mut bench = Bench::with(&[], flows, routes, Router::without_flows);
        bench.make_known();
        bench
    }

    /// With room for so many, and for the flows of both directions of some thousand.
    pub fn empty(flows: usize, routes: usize) -> Self {
        Bench::behind(&[], flows, routes)
    }

    /// The same behind these chains.
    pub fn behind(chains: &[BaseChain], flows: usize, routes: usize) -> Self {
        Bench::with(chains, flows, routes, |workers, ports, policy| {
            Router::with_connections(workers, ports, policy, flows.max(1 << 13))
        })
    }

    fn with(
        chains: &[BaseChain],
        flows: usize,
        routes: usize,
        router: impl FnOnce(usize, &[SimSpec], Arc<Policy>) -> Router,
    ) -> Self {
        let networks = networks(routes);
        let ports = [LAN, WAN].map(|id| SimSpec { id, ifindex: ifindex(id), queues: 1 });
        let policy = Arc::new(compile(&config(&networks, chains), Generation(1)));
        let mut router = router(1, &ports, policy);
        router.record(false);
        router.tell(&ToWorker::Settings(Arc::new(Settings { max: 0, ..Settings::default() })));
        Bench { router, networks, flows, frame: Vec::new(), injected: 0 }
    }

    fn make_known(&mut self) {
        for _ in 0..3 {
            for port in [LAN, WAN] {
                for flow in 0..self.flows {
                    self.inject(port, flow);
                    if flow % BATCH == BATCH - 1 {
                        self.router.round();
                        self.router.take_told();
                    }
                }
                self.settle();
            }
            // Then what is answered is a stream.
            self.router.advance(Duration::from_secs(3));
        }
    }

    /// 64 bytes from a host, or the answer to them.
    pub fn frame(&mut self, port: PortId, flow: usize) -> &[u8] {
        let host = (Ipv4Addr::from_bits(0xc612_0000 + (flow as u32 & 0xffff)), 1024 + (flow % 60_000) as u16);
        // No two connections need the same port of the router's towards one server.
        let network = self.networks[flow % self.networks.len()];
        let server = (Ipv4Addr::from_bits(network + 9 + (flow / 60_000) as u32), 443);
        let (source, destination) = if port == LAN { (host, server) } else { (server, (PUBLIC, host.1)) };
        let builder = PacketBuilder::ethernet2(mac(port, 2).0, mac(port, 1).0)
            .ipv4(source.0.octets(), destination.0.octets(), 64)
            .udp(source.1, destination.1);
        self.frame.clear();
        builder.write(&mut self.frame, &[0; 22]).expect("a vector takes everything");
        &self.frame
    }

    pub fn inject(&mut self, port: PortId, flow: usize) {
        self.frame(port, flow);
        self.router.inject(port, 0, &self.frame);
        self.injected += 1;
    }

    pub fn settle(&mut self) {
        self.router.settle();
        self.router.take_told();
    }
}
