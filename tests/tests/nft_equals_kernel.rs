//! What a rule of nftables means is what the kernel makes of it: every rule here counts in the kernel exactly those packets that our
//! form of it counts. The network is that of [`TwoWays`], its router the kernel alone; the same frames are shown to both.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use etherparse::{PacketBuilder, TcpOptionElement};
use serde_json::Value;
use shunt_control::mirror::{EVENT_BUFFER, Mirror};
use shunt_control::translate::translate;
use shunt_dataplane::packet::Packet;
use shunt_policy::config::{BaseChain, ChainPolicy, ChainRule, Config, CounterSlot};
use shunt_policy::reference::trace;
use shunt_policy::{Ifindex, Stop};
use shunt_tests::lab::{TwoWays, Wire, eventually};

/// By these the frames of the test are known from all others.
const SENDER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x77];
const OTHER_SENDER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x78];
const SENDERS: &str = "{ 02:00:00:00:00:77, 02:00:00:00:00:78 }";

/// Asked in tables of all families.
const ANY: &str = r#"
    iifname "eth0"
    iifname "eth*"
    iifname "ppp0"
    iifname != "eth0"
    iifname != "et*"
    iifname { "eth0", "ppp0" }
    iifname != { "eth1", "ppp0" }
    iifname @names
    iifname @starts
    iif "eth0"
    iif != "eth1"
    iif { "eth0", "lo" }
    iif 4711
    iifgroup 0
    iifgroup 7
    oifname "eth1"
    oifname != "eth1"
    oifname != "nothing"
    oifname { "eth1", "x" }
    oifname != { "x", "y" }
    oif "eth1"
    oif != "eth1"
    oif 0
    oifgroup 0
    oifgroup != 7
    iifname . oifname { "eth0" . "eth1" }
    meta l4proto tcp
    meta l4proto != tcp
    meta l4proto { tcp, udp }
    meta l4proto 1-5
    meta l4proto icmp
    meta l4proto ipv6-icmp
    meta length 60
    meta length > 60
    meta length < 61
    meta length 40-90
    meta mark 0
    meta mark != 0
    meta mark & 0xff == 0
    meta mark & 0xff != 0x1
    meta mark < 5
    meta mark { 0, 5-7 }
    meta mark @marks
    meta mark 7
    meta mark and 0xf00 == { 0x100, 0x200 }
    meta mark set 0x7 meta mark 7
    meta mark set 0x105 meta mark & 0xf == 5
    meta mark set 0x105 meta mark & 0xf0 | 0x3 == 0x3
    meta mark set 0x105 meta mark set meta mark & 0xff0f ^ 0x30 meta mark 0x135
    meta mark set 0x105 meta mark set meta mark | 0x1f0 meta mark 0x1f5
    meta mark set 0x105 meta mark set meta mark ^ 0xff meta mark 0x1fa
    meta mark set tcp dport map { 25 : 1, 80-90 : 2 } meta mark 2
    meta mark set tcp dport map @portmarks meta mark 1
    meta mark set meta l4proto . th dport map { tcp . 25 : 1, udp . 53 : 2 } meta mark { 1, 2 }
    meta pkttype host
    meta pkttype != host
    meta pkttype { broadcast, multicast }
    meta protocol ip
    meta protocol ip6
    meta protocol { ip, ip6 }
    meta skuid 0
    meta skuid != 0
    meta iiftype ether
    meta ipsec exists
    meta ipsec missing
    ether saddr 02:00:00:00:00:77
    ether saddr != 02:00:00:00:00:77
    ether saddr & ff:ff:ff:00:00:0f == 02:00:00:00:00:08
    ether saddr { 02:00:00:00:00:78, 02:00:00:00:00:79 }
    ether type ip
    ether type ip6
    tcp dport 25
    tcp dport != 25
    tcp dport { 22, 25, 80-90 }
    tcp dport != { 22, 80-90 }
    tcp dport 20-25
    tcp dport != 20-25
    tcp dport < 80
    tcp dport >= 80
    tcp dport @ports
    tcp dport != @ports
    tcp sport 1024-65535
    tcp flags syn
    tcp flags == syn
    tcp flags != syn
    tcp flags ! syn
    tcp flags syn,ack
    tcp flags & (fin|syn|rst|ack) == syn
    tcp flags & (syn|ack) != syn
    tcp flags & (fin|syn) == 0
    tcp flags { syn, ack, syn|ack }
    tcp flags & (syn|ack) == { syn, ack }
    tcp option maxseg size 1460
    tcp option maxseg size > 1400
    tcp option maxseg size != 1460
    tcp option maxseg size set 1200 tcp option maxseg size 1200
    tcp option maxseg size set 1500 tcp option maxseg size 1460
    tcp option maxseg size set 1500 meta l4proto tcp
    udp dport 53
    udp dport { 53, 5000 }
    udp sport != 1000
    sctp dport 99
    dccp dport 99
    udplite dport 99
    th dport 25
    meta l4proto { tcp, udp } th dport { 25, 53 }
    meta l4proto . th dport { tcp . 25, udp . 53-60 }
    meta l4proto . th dport @services
    meta l4proto != tcp th dport 53
    tcp dport . tcp sport { 25 . 1000, 80 . 1-5 }
    meta mark . meta l4proto { 0 . tcp }
"#;

const IPV4: &str = r#"
    ip saddr 192.0.2.10
    ip saddr != 192.0.2.10
    ip saddr 192.0.2.0/24
    ip saddr != 192.0.2.0/25
    ip saddr 192.0.2.1-192.0.2.9
    ip saddr & 0.0.0.255 == 0.0.0.11
    ip saddr & 255.255.255.0 != 192.0.2.0
    ip saddr { 192.0.2.11, 198.51.100.0/24 }
    ip saddr != { 192.0.2.11, 198.51.100.0/24 }
    ip saddr @hosts
    ip saddr != @hosts
    ip saddr @nets
    ip saddr @anyone
    ip saddr != @anyone
    ip saddr @empty
    ip saddr != @empty
    ip saddr @timed
    ip saddr @counted
    ip saddr . tcp dport @pairs
    ip saddr . tcp dport != @pairs
    ip saddr . ip protocol . th dport @triples
    ip saddr . meta l4proto { 192.0.2.10 . tcp, 192.0.2.0/28 . udp }
    ip saddr . ip dscp { 192.0.2.10 . cs1 }
    ip saddr . ip ttl { 192.0.2.10 . 64 }
    ip daddr 198.18.0.0/15
    ip protocol tcp
    ip protocol != tcp
    ip protocol { icmp, udp, 47 }
    ip protocol 50-51
    ip protocol @protocols
    ip ttl 64
    ip ttl < 60
    ip ttl > 63
    ip ttl { 1-5, 63 }
    ip ttl set 33 ip ttl 33
    ip dscp cs1
    ip dscp != cs1
    ip dscp { cs1, ef, 5 }
    ip dscp 0x8-0x10
    ip dscp @points
    ip dscp set ef ip dscp ef
    ip dscp set cs2 ip ecn ce
    ip ecn ce
    ip ecn not-ect
    ip ecn != ce
    ip ecn set ect0 ip ecn ect0
    ip length 60
    ip length > 60
    ip length 20-50
    ip version 4
    ip hdrlength 5
    ip hdrlength != 5
    ip frag-off & 0x1fff != 0
    ip frag-off & 0x3fff == 0
    icmp type echo-request
    icmp type { echo-request, echo-reply }
    icmp type != echo-request
    icmp type destination-unreachable icmp code port-unreachable
    icmp code 0
    icmp code { 1, 3 }
    meta mark set ip saddr map @hostmarks meta mark 5
    meta mark set ip dscp map { cs1 : 1, ef : 2 } meta mark 1
    meta mark set ip saddr . tcp dport map { 192.0.2.10 . 25 : 9 } meta mark 9
    fib daddr type unicast
    fib saddr type local
    fib daddr type { local, broadcast }
    fib daddr type != local
"#;

const IPV6: &str = r#"
    ip6 saddr 2001:db8:1::10
    ip6 saddr != 2001:db8:1::10
    ip6 saddr 2001:db8:1::/64
    ip6 saddr != 2001:db8:1::/124
    ip6 saddr 2001:db8:1::-2001:db8:1::f
    ip6 saddr & ::ff == ::11
    ip6 saddr { 2001:db8:1::11, 2001:db8:9::/48 }
    ip6 saddr @hosts6
    ip6 saddr . tcp dport { 2001:db8:1::10 . 25 }
    ip6 nexthdr tcp
    ip6 nexthdr { udp, ipv6-icmp }
    ip6 nexthdr != tcp
    ip6 hoplimit 64
    ip6 hoplimit < 60
    ip6 hoplimit set 22 ip6 hoplimit 22
    ip6 dscp cs1
    ip6 dscp { cs1, ef }
    ip6 dscp set ef ip6 dscp ef
    ip6 ecn ce
    ip6 flowlabel 0
    ip6 flowlabel 0x12345
    ip6 flowlabel != 0
    ip6 length 20
    ip6 length > 20
    ip6 length { 8-24 }
    ip6 version 6
    icmpv6 type echo-request
    icmpv6 type { echo-request, packet-too-big }
    icmpv6 type != echo-request
    icmpv6 code 0
    icmpv6 code no-route
"#;

/// Only where packets of both families come.
const INET: &str = r#"
    meta nfproto ipv4
    meta nfproto ipv6
    meta nfproto != ipv4
    meta nfproto { ipv4, ipv6 }
    meta nfproto ipv6 tcp dport 25
    meta nfproto . meta l4proto { ipv4 . tcp, ipv6 . udp }
    meta protocol ip udp dport 53
    tcp dport 25 ip saddr 192.0.2.10
    tcp dport 25 ip6 saddr 2001:db8:1::10
    ip6 nexthdr tcp tcp dport 25
    ip protocol tcp tcp dport != 25
"#;

/// Loads into a table of family ip and inet; without the addresses into one of family ip6.
const SETS: &str = r#"
    set names { type ifname; elements = { "eth0", "lo" }; }
    set starts { type ifname; flags interval; elements = { "ppp0", "eth*" }; }
    set marks { type mark; elements = { 0, 5 }; }
    set ports { type inet_service; flags interval; elements = { 22, 25, 80-90 }; }
    set services { type inet_proto . inet_service; flags interval; elements = { tcp . 25, udp . 50-60 }; }
    set protocols { type inet_proto; elements = { tcp, 47, 132 }; }
    set points { type dscp; elements = { cs1, 5 }; }
    map portmarks { type inet_service : mark; elements = { 25 : 1, 80 : 2 }; }
    set hosts { type ipv4_addr; elements = { 192.0.2.10, 192.0.2.12 }; }
    set hosts6 { type ipv6_addr; flags interval; elements = { 2001:db8:1::10, 2001:db8:9::/48 }; }
    set nets { type ipv4_addr; flags interval; auto-merge; elements = { 192.0.2.0/28, 192.0.2.16/28, 198.18.0.5-198.18.0.9 }; }
    set anyone { type ipv4_addr; flags interval; elements = { 192.0.2.10, * }; }
    set empty { type ipv4_addr; }
    set timed { type ipv4_addr; flags timeout; elements = { 192.0.2.10 timeout 1h, 192.0.2.11 }; }
    set counted { type ipv4_addr; counter; elements = { 192.0.2.11 }; }
    set pairs { type ipv4_addr . inet_service; elements = { 192.0.2.10 . 25, 192.0.2.11 . 80 }; }
    set triples { type ipv4_addr . inet_proto . inet_service; flags interval; elements = { 192.0.2.0/28 . tcp . 20-30, 192.0.2.11 . udp . 53 }; }
    map hostmarks { type ipv4_addr : mark; elements = { 192.0.2.10 : 5, 192.0.2.11 : 6 }; }
"#;

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty())
}

/// A table with these rules on each hook, to which only the frames of the test come.
fn table(family: &str, hooks: &[&str], rules: &[&str]) -> String {
    let mut text = format!("table {family} asked {{\n{}\n", SETS.replace("; }", "\n}").replace("{ type", "{\ntype"));
    for hook in hooks {
        text += &format!(
            "chain {hook} {{\ntype filter hook {hook} priority 10\nether saddr {SENDERS} jump all-{hook}\n}}\n"
        );
        // The kernel takes the question for IPsec in PREROUTING only (nft_meta_get_validate).
        let here = rules.iter().filter(|rule| *hook == "prerouting" || !rule.contains("ipsec"));
        let rules: String = here.map(|rule| format!("{rule} counter\n")).collect();
        text += &format!("chain all-{hook} {{\n{rules}}}\n");
    }
    text + "}\n"
}

/// Knows a frame that has passed. It is loaded first: of chains with one priority the younger one runs first.
const LAST: &str = "table inet last { chain last { type filter hook postrouting priority 300; ether saddr { 02:00:00:00:00:77, 02:00:00:00:00:78 } counter; }; }\n";

/// Rules that change nothing, by family, or those that do.
fn rules(changing: bool) -> [(&'static str, Vec<&'static str>); 3] {
    let some = |texts: &[&'static str]| {
        let all = texts.iter().flat_map(|text| lines(text));
        all.filter(|rule| rule.contains(" set ") == changing).collect()
    };
    [("ip", some(&[ANY, IPV4])), ("ip6", some(&[ANY, IPV6])), ("inet", some(&[ANY, IPV4, IPV6, INET]))]
}

/// All kinds of packets, with a word for each.
fn frames(router: [u8; 6]) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for (sender, last) in [(SENDER, 10u8), (OTHER_SENDER, 11)] {
        let (source, destination) = ([192, 0, 2, last], [198, 18, 0, 25]);
        let source6 = [0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, if last == 10 { 0x10 } else { 0x11 }];
        let destination6 = [0x20, 1, 0xd, 0xb8, 0, 0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x25];
        for (ttl, tos, label, payload) in
            [(64u8, 0u8, 0u32, 0usize), (50, 0x20, 0x12345, 20), (9, 0xb8 | 3, 0, 8), (64, 0x14 | 1, 7, 100)]
        {
            let v4 = || {
                let mut header =
                    etherparse::Ipv4Header::new(0, ttl, etherparse::IpNumber::UDP, source, destination).expect("small");
                header.dscp = etherparse::IpDscp::try_new(tos >> 2).expect("six bits");
                header.ecn = etherparse::IpEcn::try_new(tos & 3).expect("two bits");
                PacketBuilder::ethernet2(sender, router)
                    .ip(etherparse::IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default()))
            };
            let v6 = || {
                let header = etherparse::Ipv6Header {
                    traffic_class: tos,
                    flow_label: etherparse::Ipv6FlowLabel::try_new(label).expect("twenty bits"),
                    hop_limit: ttl,
                    source: source6,
                    destination: destination6,
                    ..etherparse::Ipv6Header::default()
                };
                PacketBuilder::ethernet2(sender, router)
                    .ip(etherparse::IpHeaders::Ipv6(header, etherparse::Ipv6Extensions::default()))
            };
            let payload = vec![0x55; payload];
            for (family, builder) in [("IPv4", &v4 as &dyn Fn() -> _), ("IPv6", &v6)] {
                let mut add = |what: &str, write: &dyn Fn(&mut Vec<u8>)| {
                    let mut frame = Vec::new();
                    write(&mut frame);
                    all.push((format!("{family} .{last} ttl {ttl} tos {tos:#x} {what}"), frame));
                };
                let written = "a vector takes everything";
                for (sport, dport) in [(1000, 25), (2, 80), (5000, 53)] {
                    add(&format!("syn {dport}"), &|frame| {
                        let options = [TcpOptionElement::MaximumSegmentSize(1460), TcpOptionElement::Noop];
                        let tcp = builder().tcp(sport, dport, 1, 1000).syn().options(&options).expect("short options");
                        tcp.write(frame, &payload).expect(written);
                    });
                    add(&format!("udp {dport}"), &|frame| {
                        builder().udp(sport, dport).write(frame, &payload).expect(written);
                    });
                }
                add("ack", &|frame| builder().tcp(1000, 25, 1, 9).ack(1).write(frame, &payload).expect(written));
                add("syn ack", &|frame| {
                    builder().tcp(1000, 80, 1, 9).syn().ack(1).write(frame, &payload).expect(written);
                });
                add("fin", &|frame| builder().tcp(1000, 80, 1, 9).fin().write(frame, &payload).expect(written));
                // ICMP of the other family is the kernel's.
                let own_icmp = if family == "IPv4" { 1u8 } else { 58 };
                for protocol in [own_icmp, 17, 33, 47, 50, 99, 132, 136] {
                    // As ICMP: echo request; as ports: 2048 and some, 99.
                    let mut body = vec![8, 0, 0, 99, 0, 99, 0, 99];
                    body.extend(&payload);
                    body.resize(body.len().max(24), 0);
                    add(&format!("protocol {protocol}"), &|frame| {
                        builder().write(frame, protocol.into(), &body).expect(written);
                    });
                }
                if family == "IPv4" {
                    add("port unreachable", &|frame| {
                        builder().icmpv4_raw(3, 3, [0; 4]).write(frame, &payload).expect(written);
                    });
                } else {
                    for kind in [128u8, 2] {
                        add(&format!("icmpv6 {kind}"), &|frame| {
                            builder().icmpv6_raw(kind, 0, [0; 4]).write(frame, &payload).expect(written);
                        });
                    }
                }
            }
        }
    }
    all
}

type Counts = BTreeMap<(String, String, u64), u64>;

/// What the kernel has counted, by family, chain and handle.
fn counts(net: &TwoWays) -> Counts {
    let text = net.router.run("nft -j list ruleset");
    let ruleset: Value = serde_json::from_str(&text).expect("JSON");
    let rules = ruleset["nftables"].as_array().expect("a list").iter().filter_map(|object| object.get("rule"));
    let counted = rules.filter_map(|rule| {
        let word = |key: &str| rule[key].as_str().expect("a word").to_owned();
        let counter = rule["expr"].as_array()?.iter().find_map(|one| one.get("counter"))?;
        let key = (word("family"), word("chain"), rule["handle"].as_u64()?);
        Some((key, counter["packets"].as_u64()?))
    });
    counted.collect()
}

/// Sends a frame and says what each rule has counted of it. `before` is what they have counted until now.
fn sent(net: &TwoWays, wire: &mut Wire, frame: &[u8], before: &mut Counts) -> Counts {
    wire.send(frame);
    let passed = |now: &Counts| {
        let total = |counts: &Counts| -> u64 {
            let last = |(key, _): &(&(String, String, u64), &u64)| key.1 == "last";
            counts.iter().filter(last).map(|(_, count)| *count).sum()
        };
        total(now) > total(before)
    };
    let now = eventually(Duration::from_secs(2), || Some(counts(net)).filter(passed)).expect("the frame is forwarded");
    let before = std::mem::replace(before, now.clone());
    now.into_iter().map(|(key, count)| (key.clone(), count - before[&key])).collect()
}

/// What the reference makes of a single rule: counted or not, `None` if it leaves the packet to the kernel.
fn counted(config: &Config, base: &BaseChain, rule: &ChainRule, packet: &Packet, iif: Ifindex) -> Option<bool> {
    let rule = ChainRule { counter: CounterSlot(7), ..rule.clone() };
    let alone = BaseChain { rules: vec![rule], user: Vec::new(), policy: ChainPolicy::Accept, ..base.clone() };
    let config = Config { chains: Arc::new(vec![alone]), guards: Arc::default(), ..config.clone() };
    let trace = trace(&config, &packet.query(iif));
    match trace.end {
        Err(Stop::Punt(reason)) if reason.word().starts_with("opaque") => None,
        _ => Some(trace.counted.contains(&CounterSlot(7))),
    }
}

/// The rules that this leaves to the kernel for some packets, by their beginnings.
const LEFT: [&str; 10] = [
    // Of what has no ports these are other bytes.
    "th dport 25",
    "meta l4proto != tcp th dport",
    // Elements that go by themselves, or count.
    "ip saddr @timed",
    "ip saddr @counted",
    // nft prints a name that ends in a star as it prints a start.
    "iifname @starts",
    // nft 1.0.6 prints a shift that is none.
    "ip saddr . ip dscp >> 2",
    // What the kernel's IPv6 tables say of an address; ICMP in the other family.
    "fib daddr type",
    "fib saddr type",
    "icmp ",
    "icmpv6 ",
];

/// What came of many comparisons.
#[derive(Default)]
struct Tally {
    compared: u32,
    held: u32,
    left: BTreeMap<String, u32>,
    wrong: Vec<String>,
}

impl Tally {
    /// Loads the rules, and shows the frames to them and to what we make of them.
    fn compare<'a>(
        &mut self,
        net: &TwoWays,
        wire: &mut Wire,
        ruleset: &str,
        frames: impl Iterator<Item = &'a (String, Vec<u8>)>,
    ) {
        net.router.run(&format!("nft -f - <<'EOF'\nflush ruleset\n{LAST}{ruleset}\nEOF"));
        let (config, eth0) = net.router.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let mirror = runtime.block_on(Mirror::open(EVENT_BUFFER)).expect("the mirror opens");
            let links = &mirror.view().links;
            let eth0 = links.iter().find(|link| link.name == "eth0").expect("eth0 is there").ifindex;
            (translate(mirror.view(), &[]).config, eth0)
        });
        let mut before = counts(net);
        for (what, frame) in frames {
            let packet = Packet::parse(frame).unwrap_or_else(|stop| panic!("{what}: {stop}"));
            let kernel = sent(net, wire, frame, &mut before);
            for base in config.chains.iter().filter(|chain| chain.family == packet.family()) {
                let table = base.name.split(' ').nth(1).expect("a family");
                let Some(chain) = base.user.first() else { continue };
                for rule in &chain.rules {
                    let text = &rule.origin.text;
                    let (asked, handle) = text.rsplit_once(" # handle ").expect("a handle");
                    let asked = asked.split_once(": ").expect("a rule behind its chain").1;
                    let key = (table.to_owned(), chain.name.clone(), handle.parse().expect("a number"));
                    let theirs = kernel[&key] > 0;
                    match counted(&config, base, rule, &packet, eth0) {
                        None => *self.left.entry(asked.to_owned()).or_insert(0) += 1,
                        Some(ours) if ours == theirs => {
                            self.compared += 1;
                            self.held += u32::from(ours);
                        }
                        Some(ours) => {
                            self.wrong.push(format!("{what}\n   {text}: kernel {theirs}, ours {ours}"));
                        }
                    }
                }
            }
        }
    }

    fn judge(&self, least: u32) {
        let Tally { compared, held, left, wrong } = self;
        println!("{compared} compared, {held} of them hold; left to the kernel: {left:#?}");
        let some = &wrong[..wrong.len().min(40)];
        assert!(wrong.is_empty(), "{} differ of {compared}:\n{}", wrong.len(), some.join("\n"));
        let surprises: Vec<_> = left.keys().filter(|rule| !LEFT.iter().any(|known| rule.starts_with(known))).collect();
        assert!(surprises.is_empty(), "left to the kernel without need: {surprises:#?}");
        assert!(*compared > least && *held > least / 5, "{compared} {held}");
    }
}

#[test]
fn privileged_rules_count_what_they_count_in_the_kernel() {
    let net = TwoWays::new();
    let mut wire = Wire::open(&net.client, "eth0");
    let hooks = ["prerouting", "forward", "postrouting"];
    let ruleset: String = rules(false).iter().map(|(family, rules)| table(family, &hooks, rules)).collect();
    let mut tally = Tally::default();
    tally.compare(&net, &mut wire, &ruleset, frames(net.router.mac("eth0")).iter().step_by(3));
    tally.judge(50_000);
}

/// What one rule changes is what it then asks for. Each is in force alone.
#[test]
fn privileged_rules_change_what_they_change_in_the_kernel() {
    let net = TwoWays::new();
    let mut wire = Wire::open(&net.client, "eth0");
    let frames = frames(net.router.mac("eth0"));
    let mut tally = Tally::default();
    for (family, rules) in rules(true) {
        for (at, rule) in rules.iter().enumerate() {
            let hook = ["prerouting", "forward", "postrouting"][at % 3];
            tally.compare(&net, &mut wire, &table(family, &[hook], &[rule]), frames.iter().skip(at % 11).step_by(11));
        }
    }
    tally.judge(500);
}
