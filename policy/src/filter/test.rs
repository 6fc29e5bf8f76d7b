//! Tests in the form in which packets are held against them.

use std::sync::Arc;

use super::Surroundings;
use super::facts::Facts;
use super::set::{CompiledSet, Found};
use crate::config::{Field, PortRange, Side};
use crate::names::Family;
use crate::query::Transport;

/// A [`Test`](crate::config::Test) with its names resolved.
#[derive(Debug)]
pub(super) enum CompiledTest {
    /// The most frequent one: one value, or several in a row.
    Range {
        field: Field,
        mask: u128,
        first: u128,
        last: u128,
    },
    /// Ranges in rising order, none overlapping.
    Ranges {
        field: Field,
        mask: u128,
        ranges: Box<[(u128, u128)]>,
    },
    EitherPort(Box<[PortRange]>),
    In {
        key: Box<[Field]>,
        set: Arc<CompiledSet<()>>,
    },
    AddressType {
        of: Side,
        types: u16,
    },
    Never,
    Opaque,
}

/// Whether a test holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Holds {
    Yes,
    No,
    /// It cannot be known.
    Maybe,
}

impl CompiledTest {
    pub(super) fn holds(&self, not: bool, facts: &Facts<'_>, surroundings: Surroundings<'_>) -> Holds {
        let answer = match self {
            CompiledTest::Range { field, mask, first, last } => {
                let Some(value) = facts.value(*field) else { return Holds::No };
                let value = value & mask;
                *first <= value && value <= *last
            }
            CompiledTest::Ranges { field, mask, ranges } => {
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
