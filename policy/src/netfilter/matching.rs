//! Tests in the form in which packets are held against them.

use std::sync::Arc;

use super::Surroundings;
use super::facts::Facts;
use super::set::{CompiledSet, Found};
use crate::config::{Field, PortRange, Side};
use crate::names::Family;
use crate::query::Transport;

/// A [`Match`](crate::config::Match) with its names resolved. Kept small: a long chain is a lot of memory to walk through.
#[derive(Debug)]
pub(super) enum CompiledMatch {
    /// The most frequent one: one value of up to 32 bits, or several in a row.
    Range {
        not: bool,
        field: Field,
        mask: u32,
        first: u32,
        last: u32,
    },
    Other(Box<(bool, CompiledTest)>),
}

/// A [`Test`](crate::config::Test) of another kind.
#[derive(Debug)]
pub(super) enum CompiledTest {
    Ranges(Ranges),
    EitherPort(Box<[PortRange]>),
    In { key: Box<[Field]>, set: Arc<CompiledSet<()>> },
    AddressType { of: Side, types: u16 },
    Never,
    Opaque,
}

/// Inclusive, in rising order, none overlapping; under a mask.
#[derive(Debug)]
pub(super) struct Ranges {
    pub(super) field: Field,
    pub(super) mask: u128,
    pub(super) ranges: Vec<(u128, u128)>,
}

/// Whether a test holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Holds {
    Yes,
    No,
    /// It cannot be known.
    Maybe,
}

impl CompiledMatch {
    pub(super) fn holds(&self, facts: &Facts<'_>, surroundings: Surroundings<'_>) -> Holds {
        match self {
            CompiledMatch::Range { not, field, mask, first, last } => {
                let Some(value) = facts.value(*field) else { return Holds::No };
                // Fields of more bits are asked about in the other form.
                let value = value as u32 & mask;
                if (*first <= value && value <= *last) == *not { Holds::No } else { Holds::Yes }
            }
            CompiledMatch::Other(other) => {
                let (not, test) = &**other;
                test.holds(*not, facts, surroundings)
            }
        }
    }
}

impl CompiledTest {
    fn holds(&self, not: bool, facts: &Facts<'_>, surroundings: Surroundings<'_>) -> Holds {
        let answer = match self {
            CompiledTest::Ranges(Ranges { field, mask, ranges }) => {
                let Some(value) = facts.value(*field) else { return Holds::No };
                let value = value & mask;
                let behind = ranges.partition_point(|(first, _)| *first <= value);
                ranges[..behind].last().is_some_and(|(_, last)| value <= *last)
            }
            CompiledTest::EitherPort(ranges) => {
                let Transport::Ports { source, destination } = facts.query.transport else { return Holds::No };
                ranges.iter().any(|range| range.contains(source) || range.contains(destination))
            }
            CompiledTest::In { key, set } => {
                if key.iter().any(|field| facts.value(*field).is_none()) {
                    return Holds::No;
                }
                match set.find(key, facts) {
                    Found::Element(()) => true,
                    Found::None => false,
                    Found::Unknown => return Holds::Maybe,
                }
            }
            CompiledTest::AddressType { of, types } => {
                let address = match of {
                    Side::Source => facts.source,
                    Side::Destination => facts.destination,
                };
                let tables = surroundings.policy.config.tables.family(Family::V4);
                types & (1 << tables.address_type(address)) != 0
            }
            CompiledTest::Never => return Holds::No,
            CompiledTest::Opaque => return Holds::Maybe,
        };
        if answer == not { Holds::No } else { Holds::Yes }
    }
}
