//! Sets and maps of a table, each made once for all rules that ask it alike.

use std::collections::HashMap;
use std::sync::Arc;

use shunt_policy::config::{self, ConnectionState, Element, Value, Verdict};

use super::value::{self, Kind};
use crate::mirror::netfilter::nft::{self, Expression, Names};

pub(super) struct Sets<'a> {
    table: &'a nft::Table,
    pub(super) names: &'a Names,
    sets: Made<()>,
    marks: Made<u32>,
    verdicts: Made<Verdict>,
}

/// What a part of a key is compared with.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Part {
    pub(super) kind: Kind,
    /// What all packets have there.
    pub(super) fixed: Option<u128>,
}

/// By the name of the set and what its keys are compared with.
type Made<T> = HashMap<(String, Vec<Part>, bool), Arc<config::Set<T>>>;

/// So many elements are compared with each other; of maps with more only those without ranges are understood.
const COMPARED: usize = 4096;

impl<'a> Sets<'a> {
    pub(super) fn new(table: &'a nft::Table, names: &'a Names) -> Self {
        Sets { table, names, sets: HashMap::new(), marks: HashMap::new(), verdicts: HashMap::new() }
    }

    /// `None` if it is no set.
    pub(super) fn set(&mut self, set: &Expression, key: &[Part]) -> Option<Arc<config::Set<()>>> {
        let (table, names) = (self.table, self.names);
        made(&mut self.sets, set, key, true, || lowered(table, set, key, names, |_| Some(())))
    }

    pub(super) fn marks(&mut self, map: &Expression, key: &[Part]) -> Option<Arc<config::Set<u32>>> {
        let (table, names) = (self.table, self.names);
        let mark = |data: Option<&Expression>| value::number(data?, Kind::Mark, names).map(|mark| mark as u32);
        made(&mut self.marks, map, key, true, || lowered(table, map, key, names, mark))
    }

    /// `is_last`: no statement follows that `continue` would go on with.
    pub(super) fn verdicts(
        &mut self,
        map: &Expression,
        key: &[Part],
        is_last: bool,
    ) -> Option<Arc<config::Set<Verdict>>> {
        let (table, names) = (self.table, self.names);
        let verdict = |data: Option<&Expression>| match data? {
            Expression::Verdict(nft::Verdict::Continue) if !is_last => {
                Some(Verdict::Opaque("continue within a rule".to_owned()))
            }
            Expression::Verdict(verdict) => Some(value::verdict(verdict)),
            _ => None,
        };
        made(&mut self.verdicts, map, key, is_last, || lowered(table, map, key, names, verdict))
    }

    /// Of what a statement makes of the values; made for this one alone.
    pub(super) fn translations(
        &self,
        map: &Expression,
        key: &[Part],
        verdict: impl Fn(Option<&Expression>) -> Option<Verdict>,
    ) -> Option<Arc<config::Set<Verdict>>> {
        let verdict = |data: Option<&Expression>| verdict(Some(data?));
        lowered(self.table, map, key, self.names, verdict).map(Arc::new)
    }

    pub(super) fn elements<'b>(&'b self, set: &'b Expression) -> Option<&'b [nft::Element]> {
        match set {
            Expression::Set(elements) => Some(elements),
            Expression::Reference(name) => self.table.set(name).map(|set| set.elements.as_slice()),
            _ => None,
        }
    }

    /// The values of a named set of which nothing is uncertain.
    pub(super) fn certain_values(&mut self, set: &Expression, kind: Kind) -> Option<Vec<Value>> {
        let set = self.set(set, &[Part { kind, fixed: None }])?;
        let certain = set.opaque.is_none() && set.elements.iter().all(|element| !element.uncertain);
        certain.then(|| set.elements.iter().map(|element| element.key[0].clone()).collect())
    }
}

/// What a field is compared with, if that is written in the rule.
pub(super) fn anonymous(right: &Expression, kind: Kind, names: &Names) -> Option<Vec<Value>> {
    match right {
        Expression::Set(elements) => {
            let plain = |element: &nft::Element| element.timeout.is_none() && !element.stateful;
            let known = elements.iter().map(|element| match plain(element) {
                true => value::value(&element.key, kind, names),
                false => None,
            });
            known.collect()
        }
        one => value::value(one, kind, names).map(|value| vec![value]),
    }
}

fn made<T>(
    known: &mut Made<T>,
    set: &Expression,
    key: &[Part],
    is_last: bool,
    make: impl FnOnce() -> Option<config::Set<T>>,
) -> Option<Arc<config::Set<T>>> {
    let Expression::Reference(name) = set else { return make().map(Arc::new) };
    let key = (name.clone(), key.to_vec(), is_last);
    if let Some(set) = known.get(&key) {
        return Some(set.clone());
    }
    let set = Arc::new(make()?);
    known.insert(key, set.clone());
    Some(set)
}

fn lowered<T: Clone>(
    table: &nft::Table,
    set: &Expression,
    key: &[Part],
    names: &Names,
    data: impl Fn(Option<&Expression>) -> Option<T>,
) -> Option<config::Set<T>> {
    let (name, elements, named) = match set {
        Expression::Set(elements) => (String::new(), elements, None),
        Expression::Reference(name) => {
            let set = table.set(name)?;
            let kind = if set.data.is_some() { "map" } else { "set" };
            let text = format!("{kind} {} {} {name}", table.family.word(), table.name);
            (text, &set.elements, Some(set))
        }
        _ => return None,
    };
    // Of an anonymous one it is not told.
    let interval = named.is_none_or(|set| set.interval);
    let maker = Maker { key, names, interval };
    let mut made = config::Set { name, elements: Vec::new(), opaque: None };
    let mut catch_all = None;
    for element in elements {
        let goes = element.timeout.is_some() || named.is_some_and(|set| set.timeout || set.stateful);
        let Some(data) = data(element.data.as_ref()) else {
            made.opaque = Some("what it gives for an element is not understood".to_owned());
            return Some(made);
        };
        if element.key == Expression::Symbol("*".to_owned()) {
            catch_all = Some((data, goes || element.stateful));
            continue;
        }
        match maker.key(&element.key) {
            Some((key, certain)) => {
                let Some(key) = key else { continue };
                let uncertain = goes || element.stateful || !certain;
                let keys = maker.as_seen(key);
                made.elements.extend(keys.into_iter().map(|key| Element { key, data: data.clone(), uncertain }));
            }
            None => {
                made.opaque = Some("an element of it is not understood".to_owned());
                return Some(made);
            }
        }
    }
    if let Some((data, uncertain)) = catch_all
        && !maker.fill(&mut made.elements, &data, uncertain)
    {
        made.opaque = Some("it has an element for all else".to_owned());
    }
    if named.is_some_and(|set| set.dynamic) {
        made.opaque = Some("rules add to it".to_owned());
    } else if named.is_some_and(|set| set.unknown) {
        made.opaque = Some("it is of a kind that we do not know".to_owned());
    } else if (key.len() == 1 || elements.iter().any(|element| element.data.is_some())) && overlap(&made.elements) {
        made.opaque = Some("its elements overlap".to_owned());
    }
    Some(made)
}

struct Maker<'a> {
    key: &'a [Part],
    names: &'a Names,
    interval: bool,
}

impl Maker<'_> {
    /// The key of an element, less what is the same for all packets: none if no packet can have it. And whether it is certain.
    fn key(&self, written: &Expression) -> Option<(Option<Vec<Value>>, bool)> {
        let parts = written.parts();
        if parts.len() != self.key.len() {
            return None;
        }
        let (mut key, mut possible, mut certain) = (Vec::new(), true, true);
        for (part, Part { kind, fixed }) in parts.iter().zip(self.key) {
            let value = match (kind, part) {
                (Kind::Name, Expression::Symbol(word)) => {
                    let (value, sure) = value::name_in_set(word, self.interval)?;
                    certain &= sure;
                    value
                }
                _ => value::value(part, *kind, self.names)?,
            };
            match fixed {
                Some(seen) => possible &= value::holds(&value, *seen),
                None => key.push(value),
            }
        }
        Some((possible.then_some(key), certain))
    }

    /// The key of an element in all forms in which a packet may have it: a state of nftables is four of ours, with and without the bits
    /// that only iptables sees.
    fn as_seen(&self, key: Vec<Value>) -> Vec<Vec<Value>> {
        const UNSEEN: [u16; 4] =
            [0, ConnectionState::SNAT, ConnectionState::DNAT, ConnectionState::SNAT | ConnectionState::DNAT];
        let mut keys = vec![key];
        let parts = self.key.iter().filter(|part| part.fixed.is_none());
        for (at, _) in parts.enumerate().filter(|(_, part)| part.kind == Kind::CtState) {
            let with = |key: &Vec<Value>, bits: u16| {
                let mut key = key.clone();
                if let Value::Range { first, last } = &mut key[at] {
                    (*first, *last) = (*first | u128::from(bits), *last | u128::from(bits));
                }
                key
            };
            keys = keys.iter().flat_map(|key| UNSEEN.map(|bits| with(key, bits))).collect();
        }
        keys
    }

    /// Adds elements for all that is not there yet (`nft_set_catchall_lookup`). False if that cannot be said in numbers.
    fn fill<T: Clone>(&self, elements: &mut Vec<Element<T>>, data: &T, uncertain: bool) -> bool {
        let [Part { kind, fixed: None }] = self.key else { return false };
        let Some((mut next, end)) = kind.everything() else { return false };
        let mut taken: Vec<(u128, u128)> = Vec::new();
        for element in elements.iter() {
            let [Value::Range { first, last }] = element.key[..] else { return false };
            taken.push((first, last));
        }
        taken.sort_unstable();
        let mut add = |first: u128, last: u128| {
            elements.push(Element { key: vec![Value::Range { first, last }], data: data.clone(), uncertain });
        };
        for (first, last) in taken {
            if next < first {
                add(next, first - 1);
            }
            match last.checked_add(1) {
                Some(behind) => next = next.max(behind),
                None => return true,
            }
        }
        if next <= end {
            add(next, end);
        }
        true
    }
}

/// Whether a packet could find two elements. The kernel does not allow it for most kinds of sets, but for boxes it does when the
/// larger one comes later (`nft_pipapo_insert` looks for the corners of the new one).
fn overlap<T>(elements: &[Element<T>]) -> bool {
    let wide = |element: &Element<T>| {
        element.key.iter().any(|value| match value {
            Value::Range { first, last } => first != last,
            Value::Name(pattern) => pattern.0.ends_with('+'),
        })
    };
    if elements.first().is_some_and(|element| element.key.len() == 1) && all_ranges(elements) {
        let mut ranges: Vec<(u128, u128)> = elements.iter().filter_map(|element| range(&element.key[0])).collect();
        ranges.sort_unstable();
        return ranges.windows(2).any(|pair| pair[0].1 >= pair[1].0);
    }
    let wide: Vec<usize> = (0..elements.len()).filter(|at| wide(&elements[*at])).collect();
    if wide.len() * elements.len() > COMPARED * COMPARED {
        return true;
    }
    wide.iter()
        .any(|one| elements.iter().enumerate().any(|(at, other)| at != *one && meet(&elements[*one].key, &other.key)))
}

fn all_ranges<T>(elements: &[Element<T>]) -> bool {
    elements.iter().all(|element| range(&element.key[0]).is_some())
}

fn range(value: &Value) -> Option<(u128, u128)> {
    match value {
        Value::Range { first, last } => Some((*first, *last)),
        Value::Name(_) => None,
    }
}

fn meet(one: &[Value], other: &[Value]) -> bool {
    one.iter().zip(other).all(|pair| match pair {
        (Value::Range { first: a, last: b }, Value::Range { first: c, last: d }) => a <= d && c <= b,
        (Value::Name(one), Value::Name(other)) => {
            let start = |pattern: &config::InterfacePattern| pattern.0.trim_end_matches('+').to_owned();
            one.matches(&start(other)) || other.matches(&start(one))
        }
        _ => false,
    })
}
