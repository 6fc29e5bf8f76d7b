//! Sets and maps in the form in which packets ask them.

use std::collections::HashMap;

use super::facts::Facts;
use crate::config::{Field, Link, Set, Value};

/// Linear up to here: shorter than any hash.
const FEW: usize = 8;

/// A compiled [`Set`].
#[derive(Debug)]
pub(crate) struct CompiledSet<T> {
    form: Form,
    /// By the number of the element.
    data: Vec<(T, Certainty)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Certainty {
    Certain,
    Uncertain,
}

#[derive(Debug)]
enum Form {
    Opaque,
    /// One field: ranges that do not overlap, in rising order, and the number of the element.
    Ranges(Vec<(u128, u128, u32)>),
    /// One field, only single values.
    Values(HashMap<u128, u32, foldhash::fast::RandomState>),
    /// Several fields, only single values.
    Tuples(HashMap<Box<[u128]>, u32, foldhash::fast::RandomState>),
    /// Several fields, one list of ranges for each.
    Boxes(Vec<(Box<[Ranges]>, u32)>),
}

/// Of a name with a wildcard several, else one.
type Ranges = Box<[(u128, u128)]>;

/// The most fields of a key (`NFT_REG32_COUNT` allows no more of four bytes than 16).
const WIDEST: usize = 16;

/// What a set says of a packet.
pub(crate) enum Found<'a, T> {
    Element(&'a T),
    None,
    /// It cannot be known.
    Unknown,
}

impl<T: Clone> CompiledSet<T> {
    pub(crate) fn compile(set: &Set<T>, links: &[Link]) -> Self {
        let data = set.elements.iter().map(|element| {
            let certainty = if element.uncertain { Certainty::Uncertain } else { Certainty::Certain };
            (element.data.clone(), certainty)
        });
        CompiledSet { form: Form::of(set, links), data: data.collect() }
    }

    pub(crate) fn find(&self, key: &[Field], facts: &Facts<'_>) -> Found<'_, T> {
        let number = match &self.form {
            Form::Opaque => return Found::Unknown,
            Form::Ranges(ranges) => {
                let Some(value) = value(key, facts) else { return Found::None };
                let behind = ranges.partition_point(|(first, ..)| *first <= value);
                ranges[..behind].last().filter(|(_, last, _)| value <= *last).map(|(.., number)| *number)
            }
            Form::Values(values) => value(key, facts).and_then(|value| values.get(&value).copied()),
            Form::Tuples(_) | Form::Boxes(_) => {
                let mut values = [0; WIDEST];
                let Some(values) = values.get_mut(..key.len()) else { return Found::Unknown };
                for (value, field) in values.iter_mut().zip(key) {
                    match facts.value(*field) {
                        Some(seen) => *value = seen,
                        None => return Found::None,
                    }
                }
                match &self.form {
                    Form::Tuples(tuples) => tuples.get(&*values).copied(),
                    Form::Boxes(boxes) => boxes.iter().find(|(ranges, _)| inside(ranges, values)).map(|(_, n)| *n),
                    _ => None,
                }
            }
        };
        match number.and_then(|number| self.data.get(number as usize)) {
            None => Found::None,
            Some((_, Certainty::Uncertain)) => Found::Unknown,
            Some((data, Certainty::Certain)) => Found::Element(data),
        }
    }
}

fn value(key: &[Field], facts: &Facts<'_>) -> Option<u128> {
    key.first().and_then(|field| facts.value(*field))
}

fn inside(ranges: &[Ranges], values: &[u128]) -> bool {
    ranges.iter().zip(values).all(|(ranges, value)| ranges.iter().any(|(first, last)| first <= value && value <= last))
}

impl Form {
    fn of<T>(set: &Set<T>, links: &[Link]) -> Self {
        if set.opaque.is_some() {
            return Form::Opaque;
        }
        let boxes = set.elements.iter().enumerate().map(|(number, element)| {
            (element.key.iter().map(|value| ranges(value, links)).collect::<Box<[_]>>(), number as u32)
        });
        let boxes: Vec<_> = boxes.collect();
        let single = |ranges: &Ranges| matches!(ranges[..], [(first, last)] if first == last);
        let all_single = boxes.iter().all(|(fields, _)| fields.iter().all(single));
        if boxes.iter().all(|(fields, _)| fields.len() == 1) {
            if all_single && boxes.len() > FEW {
                return Form::Values(boxes.iter().map(|(fields, number)| (fields[0][0].0, *number)).collect());
            }
            let one = |(fields, number): &(Box<[Ranges]>, u32)| {
                let number = *number;
                fields[0].iter().map(move |(first, last)| (*first, *last, number)).collect::<Vec<_>>()
            };
            let mut all: Vec<_> = boxes.iter().flat_map(one).collect();
            all.sort_unstable();
            return Form::Ranges(all);
        }
        if all_single && boxes.len() > FEW {
            let key = |fields: &[Ranges]| fields.iter().map(|ranges| ranges[0].0).collect::<Box<[u128]>>();
            return Form::Tuples(boxes.iter().map(|(fields, number)| (key(fields), *number)).collect());
        }
        Form::Boxes(boxes)
    }
}

/// The numbers that a value stands for; none for the name of an interface that is not there.
pub(crate) fn ranges(value: &Value, links: &[Link]) -> Ranges {
    match value {
        Value::Range { first, last } => [(*first, *last)].into(),
        Value::Name(pattern) => {
            let named = links.iter().filter(|link| pattern.matches(&link.name));
            named.map(|link| (u128::from(link.ifindex.0), u128::from(link.ifindex.0))).collect()
        }
    }
}
