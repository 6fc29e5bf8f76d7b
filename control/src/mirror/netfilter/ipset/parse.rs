//! `create` and `add` lines.

use std::collections::HashMap;
use std::net::IpAddr;

use shunt_policy::Family;

use super::super::text::{Protocol, decimal, prints_as};
use super::super::xt::mac;
use super::icmp::{ICMP, ICMPV6, Icmp};
use super::{IpSet, IpSets, Key, Member, MemberOption, Net, Port, PortNumber, SetOption};

/// Reads the whole output of `ipset save`.
pub fn parse(text: &str) -> IpSets {
    let mut all = IpSets::default();
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = end_of_line(rest);
        all.cut = end.is_none();
        let line = &rest[..end.unwrap_or(rest.len())];
        rest = rest.get(line.len() + 1..).unwrap_or_default();
        if let Some(set) = create(line) {
            places.extend(line.split(' ').nth(1).map(|name| (name, all.sets.len())));
            all.sets.push(set);
            continue;
        }
        let added = line.strip_prefix("add ").and_then(|line| line.split_once(' '));
        match added.and_then(|(name, rest)| Some((all.sets.get_mut(*places.get(name)?)?, rest))) {
            Some((set, rest)) => set.members.push(member(&set.kind, rest)),
            None => all.unread.push(line.to_owned()),
        }
    }
    all
}

const COMMENT: &str = " comment \"";

/// A line end between the double quotes of a comment is a part of it; there are no escapes. `None` if the line never ends.
fn end_of_line(text: &str) -> Option<usize> {
    let mut at = 0;
    loop {
        let end = at + text[at..].find('\n')?;
        let Some(comment) = text[at..end].find(COMMENT) else { return Some(end) };
        let inside = at + comment + COMMENT.len();
        at = inside + text[inside..].find('"')? + 1;
    }
}

/// `create NAME TYPE OPTIONS`; the options are opaque if we would print them otherwise.
fn create(line: &str) -> Option<IpSet> {
    let mut words = line.strip_prefix("create ")?.splitn(3, ' ');
    let (name, kind, rest) = (words.next()?, words.next()?, words.next());
    let set = |options| IpSet { name: name.to_owned(), kind: kind.to_owned(), options, members: Vec::new() };
    let read = set_options(rest).map(set).filter(|set| prints_as(set, line));
    Some(read.unwrap_or_else(|| set(vec![SetOption::Opaque(rest.unwrap_or_default().into())])))
}

fn set_options(text: Option<&str>) -> Option<Vec<SetOption>> {
    let mut words = text.unwrap_or_default().split(' ').filter(|word| !word.is_empty());
    let mut options = Vec::new();
    while let Some(word) = words.next() {
        options.push(set_option(word, &mut words)?);
    }
    Some(options)
}

const STORAGE: [&str; 6] = ["hashsize", "maxelem", "bucketsize", "initval", "size", "range"];

fn set_option<'a>(word: &str, words: &mut impl Iterator<Item = &'a str>) -> Option<SetOption> {
    match word {
        "counters" => return Some(SetOption::Counters),
        "comment" => return Some(SetOption::Comment),
        "skbinfo" => return Some(SetOption::SkbInfo),
        "forceadd" => return Some(SetOption::ForceAdd),
        _ => {}
    }
    let argument = words.next()?;
    Some(match word {
        "family" if argument == "inet" => SetOption::Family(Family::V4),
        "family" if argument == "inet6" => SetOption::Family(Family::V6),
        "netmask" => SetOption::Netmask(decimal(argument)?),
        "bitmask" => SetOption::Bitmask(argument.parse().ok()?),
        "timeout" => SetOption::Timeout(decimal(argument)?),
        _ => {
            let name = STORAGE.iter().find(|known| **known == word)?;
            SetOption::Storage { name, value: argument.into() }
        }
    })
}

/// `KEY OPTIONS`; opaque as a whole if we would print it otherwise.
fn member(kind: &str, text: &str) -> Member {
    let (key, rest) = text.split_once(' ').unwrap_or((text, ""));
    let read = known_key(kind, key).zip(member_options(rest)).map(|(key, options)| Member { key, options });
    let opaque = || Member { key: Key::Opaque(text.into()), options: Vec::new() };
    read.filter(|read| prints_as(read, text)).unwrap_or_else(opaque)
}

fn known_key(kind: &str, text: &str) -> Option<Key> {
    let mut parts = text.split(',');
    let mut next = || parts.next();
    let key = match kind {
        "hash:ip" | "hash:net" | "bitmap:ip" => Key::Net(net(next()?)?),
        "hash:ip,port" | "hash:net,port" => Key::NetPort(net(next()?)?, port(next()?)?),
        "hash:ip,port,ip" => Key::NetPortNet(net(next()?)?, port(next()?)?, net(next()?)?),
        "bitmap:port" => Key::Number(decimal(next()?)?),
        "hash:mac" => Key::Mac(mac(next()?)?),
        "list:set" => return Some(Key::Set(text.into())),
        _ => return None,
    };
    parts.next().is_none().then_some(key)
}

fn net(text: &str) -> Option<Net> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(decimal::<u8>(length)?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let bits = Family::of(address).bits();
    Some(Net { address, length: length.unwrap_or(bits) }).filter(|net| net.length <= bits)
}

/// `tcp:80`, `icmp:echo-request`, `gre:0`
fn port(text: &str) -> Option<Port> {
    let (protocol, what) = text.split_once(':')?;
    let protocol = Protocol::parse(protocol)?;
    let what = match protocol.number {
        ICMP | ICMPV6 => PortNumber::Icmp(Icmp::parse(what, protocol.number)?),
        _ => PortNumber::Number(decimal(what)?),
    };
    Some(Port { protocol, what })
}

fn member_options(mut text: &str) -> Option<Vec<MemberOption>> {
    let mut options = Vec::new();
    while !text.is_empty() {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        if word == "nomatch" {
            options.push(MemberOption::Nomatch);
            text = rest;
            continue;
        }
        if word == "comment" {
            let (comment, rest) = rest.strip_prefix('"')?.split_once('"')?;
            options.push(MemberOption::Comment(comment.into()));
            text = rest.strip_prefix(' ').unwrap_or(rest);
            continue;
        }
        let (argument, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        options.push(match word {
            "timeout" => MemberOption::Timeout(decimal(argument)?),
            "packets" => MemberOption::Packets(decimal(argument)?),
            "bytes" => MemberOption::Bytes(decimal(argument)?),
            _ => {
                let name = ["skbmark", "skbprio", "skbqueue"].into_iter().find(|known| *known == word)?;
                MemberOption::Skb { name, value: argument.into() }
            }
        });
        text = rest;
    }
    Some(options)
}
