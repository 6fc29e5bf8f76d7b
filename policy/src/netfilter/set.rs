//! Sets and maps in the form in which packets ask them.

use std::collections::HashMap;

use super::facts::Facts;
use crate::config::{Field, Link, Set, Value};
use crate::index::{Demand, Index};

/// Linear up to here: shorter than any hash.
const FEW: usize = 8;

/// The elements of sets up to this many are what a rule can be found by.
const FEW_SPANS: usize = 16;

/// A compiled [`Set`].
#[derive(Debug)]
pub(crate) struct CompiledSet<T> {
    form: Form,
    certain: bool,
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
    /// Several fields.
    Boxes(Boxes),
}

#[derive(Debug)]
struct Boxes {
    /// One list of ranges for each field, and the number of the element.
    boxes: Vec<(Box<[Ranges]>, u32)>,
    /// By the number of the field in the key. Of many only.
    index: Option<Index<u8>>,
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

impl<T> CompiledSet<T> {
    /// Whether it always knows its answer.
    pub(super) fn is_certain(&self) -> bool {
        self.certain
    }

    /// Where the field of the key lies in all elements: ranges in rising order, none overlapping. Of small sets only.
    pub(super) fn spans(&self, at: usize) -> Option<Vec<(u128, u128)>> {
        if self.data.len() > FEW_SPANS {
            return None;
        }
        let spans: Vec<(u128, u128)> = match &self.form {
            Form::Opaque => return None,
            Form::Ranges(ranges) => ranges.iter().map(|(first, last, _)| (*first, *last)).collect(),
            Form::Values(values) => values.keys().map(|value| (*value, *value)).collect(),
            Form::Tuples(tuples) => tuples.keys().filter_map(|key| key.get(at).map(|value| (*value, *value))).collect(),
            Form::Boxes(Boxes { boxes, .. }) => {
                boxes.iter().filter_map(|(key, _)| key.get(at)).flatten().copied().collect()
            }
        };
        Some(joined(spans))
    }
}

/// Those that overlap or touch become one.
pub(super) fn joined(mut ranges: Vec<(u128, u128)>) -> Vec<(u128, u128)> {
    ranges.sort_unstable();
    ranges.dedup_by(|next, kept| {
        let joined = next.0 <= kept.1.saturating_add(1);
        if joined {
            kept.1 = kept.1.max(next.1);
        }
        joined
    });
    ranges
}

impl<T: Clone> CompiledSet<T> {
    pub(crate) fn compile(set: &Set<T>, links: &[Link]) -> Self {
        let data = set.elements.iter().map(|element| {
            let certainty = if element.uncertain { Certainty::Uncertain } else { Certainty::Certain };
            (element.data.clone(), certainty)
        });
        let form = Form::of(set, links);
        let certain = !matches!(form, Form::Opaque) && !set.elements.iter().any(|element| element.uncertain);
        CompiledSet { form, certain, data: data.collect() }
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
                    Form::Boxes(boxes) => boxes.find(values),
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
        if set.opaque.is_some() || set.elements.iter().any(|element| element.key.len() > WIDEST) {
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
        Form::Boxes(Boxes::of(boxes))
    }
}

impl Boxes {
    fn of(boxes: Vec<(Box<[Ranges]>, u32)>) -> Self {
        let index = (boxes.len() > FEW).then(|| {
            let fields = boxes.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
            // The bits that all that is asked for has; a value with others is told apart by the box itself.
            let highest = |at: usize| {
                boxes.iter().filter_map(|(key, _)| key.get(at)).flatten().map(|(_, last)| *last).max().unwrap_or(0)
            };
            let masks: Vec<u128> = (0..fields).map(|at| u128::MAX.unbounded_shr(highest(at).leading_zeros())).collect();
            let demands = |key: &[Ranges]| {
                let demand = |(at, ranges): (usize, &Ranges)| Demand::new(at as u8, masks[at], joined(ranges.to_vec()));
                key.iter().enumerate().filter_map(demand).collect()
            };
            let all: Vec<_> = (0..).zip(boxes.iter().map(|(key, _)| demands(key))).collect();
            Index::build([&all])
        });
        Boxes { boxes, index }
    }

    fn find(&self, values: &[u128]) -> Option<u32> {
        let found = |(ranges, number): &(Box<[Ranges]>, u32)| inside(ranges, values).then_some(*number);
        if let Some(index) = &self.index {
            let mut candidates = index.candidates();
            if index.gather(0, 0, |at| values.get(usize::from(at)).copied(), &mut candidates).is_ok() {
                return candidates.find_map(|at| found(&self.boxes[at as usize]));
            }
        }
        self.boxes.iter().find_map(found)
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
