//! ipsets in the common form: every set becomes elements that have no packet in common, each with one answer.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use shunt_policy::Family;
use shunt_policy::config::{Element, Field, Set, Side, Value};

use super::xt::address_of;
use crate::mirror::netfilter::Netfilter;
use crate::mirror::netfilter::ipset::{IpSet, Key, Member, MemberOption, Net, Port, SetOption};
use crate::mirror::netfilter::nft::{Effect, Statement};

/// The sets that rules ask, each lowered once.
pub(super) struct Sets<'a> {
    netfilter: &'a Netfilter,
    /// Sets that rules fill or empty while packets pass.
    changing: HashSet<&'a str>,
    /// A rule does so, and which set it is nft does not print.
    any_changing: bool,
    known: HashMap<(String, Family, usize), Known>,
}

/// What a rule asks with a set.
pub(super) enum Asked {
    /// No packet of this family is in it.
    Never,
    In {
        key: Vec<Field>,
        set: Arc<Set<()>>,
    },
    Opaque(String),
}

#[derive(Clone)]
enum Known {
    Never,
    Elements(Shape, Arc<Set<()>>),
    Opaque(String),
}

/// Of what an element consists, and which side of the packet each part is compared with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Shape {
    Address,
    AddressPort,
    AddressPortAddress,
    /// The ports of TCP and UDP (`ip_set_get_ip_port`).
    Port,
    Mac,
}

/// One or more keys in a row, by their first field; the other fields have one value each.
type Ranges = BTreeMap<Vec<u128>, Vec<Range>>;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Range {
    first: u128,
    last: u128,
    /// May be gone by now.
    uncertain: bool,
}

impl<'a> Sets<'a> {
    pub(super) fn new(netfilter: &'a Netfilter) -> Self {
        let rules = netfilter.saved.iter().flat_map(|dialect| dialect.saved.rules());
        let mut changing: HashSet<&str> = rules.flat_map(|rule| rule.changes_sets()).collect();
        // What is done to a list of sets is done to one of them (list_set_kadd).
        for list in netfilter.ipsets.sets.iter().filter(|set| changing.contains(&*set.name)).collect::<Vec<_>>() {
            changing.extend(list.members.iter().filter_map(|member| match &member.key {
                Key::Set(name) => Some(&**name),
                _ => None,
            }));
        }
        let hidden = |statement: &Statement| matches!(statement, Statement::Other { effect: Effect::Xt, text } if text.contains("\"SET\""));
        let chains = netfilter.nft.tables.iter().flat_map(|table| &table.chains);
        let any_changing = chains.flat_map(|chain| &chain.rules).flat_map(|rule| &rule.statements).any(hidden);
        Sets { netfilter, changing, any_changing, known: HashMap::new() }
    }

    /// What `-m set --match-set NAME SIDES` asks (`ip_set_test`).
    pub(super) fn asked(&mut self, name: &str, sides: &[Side], family: Family) -> Asked {
        if self.any_changing {
            return Asked::Opaque(format!("ipset {name}: a rule of nftables changes sets, and nft hides which"));
        }
        let known = self.known.entry((name.to_owned(), family, sides.len()));
        let known = known.or_insert_with(|| match lower(self.netfilter, &self.changing, name, sides.len(), family) {
            Err(why) => Known::Opaque(format!("ipset {name}: {why}")),
            Ok(None) => Known::Never,
            Ok(Some((shape, ranges))) => Known::Elements(shape, Arc::new(elements(name, ranges))),
        });
        match known {
            Known::Never => Asked::Never,
            Known::Opaque(why) => Asked::Opaque(why.clone()),
            Known::Elements(shape, set) => match shape.key(sides) {
                Some(key) => Asked::In { key, set: set.clone() },
                None => Asked::Opaque(format!("ipset {name}: MAC address of the destination")),
            },
        }
    }
}

impl Shape {
    /// In the order of an element's values; `None` if we do not know what it is compared with.
    fn key(self, sides: &[Side]) -> Option<Vec<Field>> {
        let address = |at: usize| sides.get(at).map(|side| address_of(*side));
        let port = |at: usize| {
            sides.get(at).map(|side| match side {
                Side::Source => Field::IpsetSourcePort,
                Side::Destination => Field::IpsetDestinationPort,
            })
        };
        match self {
            Shape::Address => Some(vec![address(0)?]),
            Shape::AddressPort => Some(vec![address(0)?, Field::Protocol, port(1)?]),
            Shape::AddressPortAddress => Some(vec![address(0)?, Field::Protocol, port(1)?, address(2)?]),
            Shape::Port => Some(vec![port(0)?, Field::Protocol]),
            Shape::Mac => (sides.first() == Some(&Side::Source)).then(|| vec![Field::SourceMac]),
        }
    }
}

/// The ranges that match, `None` if no packet of the family does, or why it cannot be known.
fn lower(
    netfilter: &Netfilter,
    changing: &HashSet<&str>,
    name: &str,
    sides: usize,
    family: Family,
) -> Result<Option<(Shape, Ranges)>, String> {
    if !netfilter.ipsets.unread.is_empty() {
        return Err("ipset prints lines that we cannot read".to_owned());
    }
    let set = netfilter.ipsets.set(name).ok_or("it is not there")?;
    if changing.contains(name) {
        return Err("-j SET changes it".to_owned());
    }
    if set.options.contains(&SetOption::Counters) {
        return Err("it counts".to_owned());
    }
    if !set.is_understood() {
        return Err(format!("a set of type {} with such elements or options", set.kind));
    }
    if set.kind == "list:set" {
        return list(netfilter, changing, set, sides, family);
    }
    let of_family = |set: &IpSet| set.options.contains(&SetOption::Family(family));
    let (shape, fits) = match set.kind.as_str() {
        "hash:ip" | "hash:net" => (Shape::Address, of_family(set)),
        "bitmap:ip" => (Shape::Address, family == Family::V4),
        "hash:ip,port" | "hash:net,port" => (Shape::AddressPort, of_family(set) && sides >= 2),
        "hash:ip,port,ip" => (Shape::AddressPortAddress, of_family(set) && sides >= 3),
        "bitmap:port" => (Shape::Port, true),
        "hash:mac" => (Shape::Mac, true),
        kind => return Err(format!("type {kind} is not mirrored")),
    };
    if !fits {
        return Ok(None);
    }
    Ok(Some((shape, ranges(set, family)?)))
}

/// A packet is in a list if it is in any of its sets, asked one after the other (`list_set_ktest`).
fn list(
    netfilter: &Netfilter,
    changing: &HashSet<&str>,
    set: &IpSet,
    sides: usize,
    family: Family,
) -> Result<Option<(Shape, Ranges)>, String> {
    let mut all: Option<(Shape, Ranges)> = None;
    for member in &set.members {
        let Key::Set(name) = &member.key else { return Err(format!("element {member}")) };
        let lowered = lower(netfilter, changing, name, sides, family).map_err(|why| format!("{name}: {why}"))?;
        let Some((shape, mut ranges)) = lowered else { continue };
        let uncertain = expires(member);
        ranges.values_mut().flatten().for_each(|range| range.uncertain |= uncertain);
        let (first_shape, all) = all.get_or_insert_with(|| (shape, Ranges::new()));
        if *first_shape != shape {
            return Err("sets of different kinds in one list".to_owned());
        }
        for (rest, ranges) in ranges {
            all.entry(rest).or_default().extend(ranges);
        }
    }
    if let Some((_, all)) = &mut all {
        all.values_mut().for_each(|ranges| *ranges = union(std::mem::take(ranges)));
    }
    Ok(all)
}

fn expires(member: &Member) -> bool {
    member.options.iter().any(|option| matches!(option, MemberOption::Timeout(seconds) if *seconds != 0))
}

/// An entry of a set before those that it stands before are taken out of larger ones.
struct Entry {
    range: Range,
    matches: bool,
}

/// Of all prefixes that hold a packet the longest answers, be it with "no" (`mtype_test_cidrs`).
fn ranges(set: &IpSet, family: Family) -> Result<Ranges, String> {
    let mut netmask = None;
    for option in &set.options {
        match option {
            SetOption::Netmask(length) => netmask = Some(*length),
            SetOption::Bitmask(_) => return Err("bitmask".to_owned()),
            _ => {}
        }
    }
    let mut entries: BTreeMap<Vec<u128>, Vec<Entry>> = BTreeMap::new();
    for member in &set.members {
        let uncertain = expires(member);
        let matches = !member.options.contains(&MemberOption::Nomatch);
        for (first, last, rest) in keys(&member.key, netmask, family).ok_or_else(|| format!("element {member}"))? {
            entries.entry(rest).or_default().push(Entry { range: Range { first, last, uncertain }, matches });
        }
    }
    Ok(entries.into_iter().map(|(rest, entries)| (rest, most_specific(entries))).collect())
}

/// First and last value of the first field, and the values of the others.
fn keys(key: &Key, netmask: Option<u8>, family: Family) -> Option<Vec<(u128, u128, Vec<u128>)>> {
    let net = |net: &Net| net_range(net, netmask, family);
    let port = |port: &Port| {
        // The other family's ICMP has types of its own, which are not ours to look at.
        let foreign = matches!((family, port.protocol.number), (Family::V4, 58) | (Family::V6, 1));
        (!foreign).then(|| [u128::from(port.protocol.number), u128::from(port.what.number())])
    };
    let single = |net: &Net| net_range(net, None, family).filter(|(first, last)| first == last);
    Some(match key {
        Key::Net(address) => {
            let (first, last) = net(address)?;
            vec![(first, last, Vec::new())]
        }
        Key::NetPort(address, with) => {
            let (first, last) = net(address)?;
            vec![(first, last, port(with)?.to_vec())]
        }
        Key::NetPortNet(address, with, other) => {
            let (first, last) = net(address)?;
            let [protocol, number] = port(with)?;
            vec![(first, last, vec![protocol, number, single(other)?.0])]
        }
        Key::Number(number) => [6, 17].map(|protocol| ((*number).into(), (*number).into(), vec![protocol])).to_vec(),
        Key::Mac(mac) => {
            let number = mac.number().into();
            vec![(number, number, Vec::new())]
        }
        Key::Set(_) | Key::Opaque(_) => return None,
    })
}

fn net_range(net: &Net, netmask: Option<u8>, family: Family) -> Option<(u128, u128)> {
    let bits = family.bits();
    let (first, all) = match (net.address, family) {
        (IpAddr::V4(address), Family::V4) => (u128::from(address.to_bits()), u128::from(u32::MAX)),
        (IpAddr::V6(address), Family::V6) => (address.to_bits(), u128::MAX),
        _ => return None,
    };
    let length = netmask.unwrap_or(bits).min(net.length);
    let host = !u128::MAX.checked_shl(u32::from(bits - length)).unwrap_or(0) & all;
    (first & host == 0).then_some((first, first | host))
}

/// Prefixes are nested or have nothing in common: what the inner ones leave of the outer ones.
fn most_specific(mut entries: Vec<Entry>) -> Vec<Range> {
    entries.sort_by_key(|entry| (entry.range.first, std::cmp::Reverse(entry.range.last)));
    let mut found = Vec::with_capacity(entries.len());
    let mut emit = |entry: &Entry, first: u128, last: u128| {
        // What does not match is no element, unless it may be gone and leave the answer to a larger one.
        if entry.matches || entry.range.uncertain {
            found.push(Range { first, last, uncertain: entry.range.uncertain });
        }
    };
    // Those that hold the place we have come to, and the first value of each that is not answered yet.
    let mut open: Vec<(&Entry, Option<u128>)> = Vec::new();
    for entry in &entries {
        while let Some((outer, next)) = open.pop_if(|(outer, _)| outer.range.last < entry.range.first) {
            if let Some(next) = next.filter(|next| *next <= outer.range.last) {
                emit(outer, next, outer.range.last);
            }
        }
        if let Some((outer, next)) = open.last_mut() {
            if let Some(first) = next.filter(|first| *first < entry.range.first) {
                emit(outer, first, entry.range.first - 1);
            }
            *next = entry.range.last.checked_add(1);
        }
        open.push((entry, Some(entry.range.first)));
    }
    while let Some((outer, next)) = open.pop() {
        if let Some(next) = next.filter(|next| *next <= outer.range.last) {
            emit(outer, next, outer.range.last);
        }
    }
    found
}

/// What is in any of the ranges, certainly if it is in a certain one.
fn union(ranges: Vec<Range>) -> Vec<Range> {
    let certain = merged(ranges.iter().filter(|range| !range.uncertain).copied().collect());
    let uncertain = merged(ranges.into_iter().filter(|range| range.uncertain).collect());
    let mut found = certain.clone();
    for range in uncertain {
        let mut next = Some(range.first);
        let behind = certain.partition_point(|certain| certain.last < range.first);
        for certain in certain[behind..].iter().take_while(|certain| certain.first <= range.last) {
            if let Some(first) = next.filter(|first| *first < certain.first) {
                found.push(Range { first, last: certain.first - 1, uncertain: true });
            }
            next = certain.last.checked_add(1);
        }
        if let Some(first) = next.filter(|first| *first <= range.last) {
            found.push(Range { first, ..range });
        }
    }
    found
}

/// Ranges that overlap become one.
fn merged(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_unstable();
    let mut found: Vec<Range> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match found.last_mut() {
            Some(last) if range.first <= last.last => last.last = last.last.max(range.last),
            _ => found.push(range),
        }
    }
    found
}

fn elements(name: &str, ranges: Ranges) -> Set<()> {
    let elements = ranges.into_iter().flat_map(|(rest, ranges)| {
        ranges.into_iter().map(move |Range { first, last, uncertain }| {
            let first = Value::Range { first, last };
            let key = std::iter::once(first).chain(rest.iter().map(|value| Value::one(*value))).collect();
            Element { key, data: (), uncertain }
        })
    });
    Set { name: format!("ipset {name}"), elements: elements.collect(), opaque: None }
}

#[cfg(test)]
mod tests;
