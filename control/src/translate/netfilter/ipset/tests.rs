//! Sets as ipset prints them, and what rules find in them.

use shunt_policy::config::Set;

use super::*;
use crate::mirror::netfilter::{ipset, xt};

fn sets(text: &str) -> Netfilter {
    Netfilter { ipsets: ipset::parse(text), ..Netfilter::default() }
}

fn asked(netfilter: &Netfilter, name: &str, sides: &str, family: Family) -> Asked {
    let side = |word| if word == "src" { Side::Source } else { Side::Destination };
    let sides: Vec<Side> = sides.split(',').map(side).collect();
    Sets::new(netfilter).asked(name, &sides, family)
}

/// Whether the values of a key are in the set; `None` if that is uncertain.
fn holds(set: &Set<()>, values: &[u128]) -> Option<bool> {
    let inside = |value: &Value, number: u128| matches!(value, Value::Range { first, last } if (*first..=*last).contains(&number));
    let mut found =
        set.elements.iter().filter(|element| element.key.iter().zip(values).all(|(one, n)| inside(one, *n)));
    let first = found.next();
    assert!(found.next().is_none(), "elements overlap: {set:?}");
    first.map_or(Some(false), |element| (!element.uncertain).then_some(true))
}

fn lookup(netfilter: &Netfilter, name: &str, sides: &str, values: &[u128]) -> Option<bool> {
    match asked(netfilter, name, sides, Family::V4) {
        Asked::In { set, .. } => holds(&set, values),
        Asked::Never => Some(false),
        Asked::Opaque(_) => None,
    }
}

fn address(text: &str) -> u128 {
    text.parse::<std::net::Ipv4Addr>().unwrap().to_bits().into()
}

#[test]
fn the_longest_prefix_answers() {
    let netfilter = sets(
        "create n hash:net family inet timeout 0\nadd n 192.0.2.0/24 timeout 0\nadd n 192.0.2.64/26 timeout 0 nomatch\n\
         add n 192.0.2.65 timeout 0\nadd n 0.0.0.0/1 timeout 0\nadd n 192.0.2.128/25 timeout 9\n\
         add n 192.0.2.192/26 timeout 0\nadd n 192.0.2.240/28 timeout 9 nomatch\nadd n 255.255.255.0/24 timeout 0\n",
    );
    for (text, expected) in [
        ("192.0.2.1", Some(true)),
        ("192.0.2.63", Some(true)),
        ("192.0.2.64", Some(false)),
        ("192.0.2.65", Some(true)),
        ("192.0.2.66", Some(false)),
        ("192.0.2.127", Some(false)),
        ("192.0.2.128", None),
        ("192.0.2.191", None),
        ("192.0.2.192", Some(true)),
        ("192.0.2.239", Some(true)),
        ("192.0.2.240", None),
        ("192.0.2.255", None),
        ("192.0.3.0", Some(false)),
        ("127.255.255.255", Some(true)),
        ("128.0.0.0", Some(false)),
        ("255.255.255.255", Some(true)),
    ] {
        assert_eq!(lookup(&netfilter, "n", "src", &[address(text)]), expected, "{text}");
    }
}

#[test]
fn ports_and_addresses_of_either_side() {
    let netfilter = sets(
        "create p hash:ip,port family inet\nadd p 192.0.2.1,tcp:80\nadd p 192.0.2.1,icmp:echo-request\nadd p 192.0.2.1,gre:0\n\
         create n hash:net,port family inet\nadd n 192.0.2.0/24,tcp:80\nadd n 192.0.2.0/25,tcp:80 nomatch\nadd n 192.0.2.0/24,udp:80\n\
         create t hash:ip,port,ip family inet\nadd t 192.0.2.1,tcp:80,198.51.100.1\n\
         create b bitmap:port range 0-1024\nadd b 53\ncreate m hash:mac\nadd m 02:00:00:00:00:0A\n",
    );
    let one = address("192.0.2.1");
    let Asked::In { key, set } = asked(&netfilter, "p", "dst,src", Family::V4) else { panic!() };
    assert_eq!(key, [Field::Destination, Field::Protocol, Field::IpsetSourcePort]);
    for (protocol, port, expected) in [(6, 80, true), (17, 80, false), (1, 0x800, true), (47, 0, true), (6, 0, false)] {
        assert_eq!(holds(&set, &[one, protocol, port]), Some(expected), "{protocol} {port}");
    }
    let of =
        |last: u128, protocol, port| lookup(&netfilter, "n", "src,dst", &[address("192.0.2.0") + last, protocol, port]);
    assert_eq!([of(1, 6, 80), of(1, 17, 80), of(200, 6, 80)], [Some(false), Some(true), Some(true)]);
    let Asked::In { key, set } = asked(&netfilter, "t", "src,dst,dst", Family::V4) else { panic!() };
    assert_eq!(key, [Field::Source, Field::Protocol, Field::IpsetDestinationPort, Field::Destination]);
    assert_eq!(holds(&set, &[one, 6, 80, address("198.51.100.1")]), Some(true));
    let Asked::In { key, set } = asked(&netfilter, "b", "dst", Family::V6) else { panic!() };
    assert_eq!(key, [Field::IpsetDestinationPort, Field::Protocol]);
    assert_eq!([6, 17, 132].map(|protocol| holds(&set, &[53, protocol])), [true, true, false].map(Some));
    let Asked::In { key, set } = asked(&netfilter, "m", "src", Family::V4) else { panic!() };
    assert_eq!((key, holds(&set, &[0x0200_0000_000a])), (vec![Field::SourceMac], Some(true)));
    assert!(matches!(asked(&netfilter, "m", "dst", Family::V4), Asked::Opaque(_)));
    // Fewer sides than the set has parts, and the other family: no packet is in it.
    for (name, sides, family) in [("p", "src", Family::V4), ("t", "src,dst", Family::V4), ("p", "src,dst", Family::V6)]
    {
        assert!(matches!(asked(&netfilter, name, sides, family), Asked::Never), "{name} {sides} {family}");
    }
}

#[test]
fn masks_and_bitmaps() {
    let netfilter = sets(
        "create h hash:ip family inet netmask 24\nadd h 192.0.2.0\ncreate b bitmap:ip range 192.0.0.0-192.0.255.255 netmask 24\n\
         add b 192.0.2.0\ncreate p hash:ip,port family inet netmask 24\nadd p 192.0.2.0,udp:5\n",
    );
    for (name, rest) in [("h", &[][..]), ("b", &[]), ("p", &[17, 5])] {
        let of = |text| lookup(&netfilter, name, "src,src", &[&[address(text)], rest].concat());
        assert_eq!([of("192.0.2.77"), of("192.0.3.0"), of("192.0.1.255")], [true, false, false].map(Some), "{name}");
    }
}

#[test]
fn a_list_is_what_any_of_its_sets_holds() {
    let netfilter = sets(
        "create a hash:net family inet\nadd a 192.0.2.0/24\nadd a 192.0.2.0/25 nomatch\ncreate b hash:ip family inet timeout 0\n\
         add b 192.0.2.1 timeout 0\nadd b 192.0.2.2 timeout 9\nadd b 192.0.2.200 timeout 9\ncreate c hash:ip family inet6\n\
         add c 2001:db8::1\ncreate p hash:ip,port family inet\nadd p 192.0.2.1,tcp:80\n\
         create l list:set size 8\nadd l a\nadd l b\nadd l c\nadd l p\ncreate m list:set size 8 timeout 5\nadd m a timeout 4\n",
    );
    let of = |last: u128| lookup(&netfilter, "l", "src", &[address("192.0.2.0") + last]);
    assert_eq!([of(0), of(1), of(2), of(200), of(201)], [Some(false), Some(true), None, Some(true), Some(true)]);
    assert_eq!(lookup(&netfilter, "m", "src", &[address("192.0.2.200")]), None);
    let Asked::In { set, .. } = asked(&netfilter, "l", "src", Family::V6) else { panic!() };
    assert_eq!(set.elements.len(), 1);
    // With two sides the set of addresses and ports takes part, of which we cannot make one set with the others.
    assert!(matches!(asked(&netfilter, "l", "src,src", Family::V4), Asked::Opaque(_)));
}

#[test]
fn what_cannot_be_known_is_opaque() {
    let text = "create c hash:ip family inet counters\nadd c 192.0.2.1 packets 0 bytes 0\ncreate i hash:net,iface family inet\n\
        create m hash:ip family inet bitmask 255.0.255.0\ncreate s hash:ip family inet\ncreate u hash:ip family inet colour red\n\
        create e hash:ip family inet\nadd e 192.0.2.1 colour red\ncreate l list:set size 8\nadd l s\n";
    let mut netfilter = sets(text);
    let is_opaque = |netfilter: &Netfilter, name| matches!(asked(netfilter, name, "src", Family::V4), Asked::Opaque(_));
    for name in ["c", "i", "m", "u", "e", "missing"] {
        assert!(is_opaque(&netfilter, name), "{name}");
    }
    assert!(!is_opaque(&netfilter, "s") && !is_opaque(&netfilter, "l"));
    // A rule that fills it, wherever it stands.
    let rules = "*mangle\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -j SET --add-set s src\nCOMMIT\n";
    let source = shunt_policy::config::Source::IptablesNft;
    netfilter.saved.push(crate::mirror::netfilter::Dialect {
        family: Family::V4,
        source,
        saved: xt::parse(rules, Family::V4),
    });
    assert!(is_opaque(&netfilter, "s") && is_opaque(&netfilter, "l"));
    assert!(is_opaque(&sets("create s hash:ip family inet\nwhat is this\n"), "s"));
}
