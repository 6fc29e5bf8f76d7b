//! What we do not evaluate, and how to tell which packets it could touch.

use super::Surroundings;
use super::compiler::{Compiler, reads_of_guard, varying_in};
use super::facts::{Facts, FieldSet};
use super::matching::{CompiledMatch, Holds};
use crate::config::{Field, Guard};
use crate::outcome::{PuntReason, Stop};

#[derive(Debug)]
pub(crate) struct CompiledGuard {
    matches: Box<[CompiledMatch]>,
    reason: PuntReason,
    reads: FieldSet,
    varies: Option<Field>,
}

impl CompiledGuard {
    pub(crate) fn compile(guard: &Guard, compiler: &mut Compiler<'_>) -> Self {
        let matches = guard.matches.iter().map(|one| compiler.one_match(one)).collect();
        let varies = guard.matches.iter().find_map(|one| varying_in(&one.test));
        CompiledGuard { matches, reason: guard.reason, reads: reads_of_guard(guard), varies }
    }

    /// See [`Policy::varies`](crate::Policy::varies).
    pub(crate) fn varies(&self) -> Option<Field> {
        self.varies
    }

    /// Whether it looks at the tuples of connections.
    pub(crate) fn asks_tuples(&self) -> bool {
        self.reads.meets(FieldSet::TUPLES)
    }

    /// Stops a packet that the guarded thing could touch.
    pub(crate) fn admit(&self, facts: &Facts<'_>, surroundings: Surroundings<'_>) -> Result<(), Stop> {
        let excluded = |one: &CompiledMatch| one.holds(facts, surroundings) == Holds::No;
        if self.matches.iter().any(excluded) { Ok(()) } else { Err(Stop::Punt(self.reason)) }
    }
}
