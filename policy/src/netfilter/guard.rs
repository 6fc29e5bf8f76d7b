//! What we do not evaluate, and how to tell which packets it could touch.

use super::Surroundings;
use super::compiler::{Compiler, reads_of_guard};
use super::facts::{Facts, FieldSet};
use super::matching::{CompiledMatch, Holds};
use crate::config::Guard;
use crate::outcome::{PuntReason, Stop};

#[derive(Debug)]
pub(crate) struct CompiledGuard {
    matches: Box<[CompiledMatch]>,
    reason: PuntReason,
    reads: FieldSet,
}

impl CompiledGuard {
    pub(crate) fn compile(guard: &Guard, compiler: &mut Compiler<'_>) -> Self {
        let matches = guard.matches.iter().map(|one| compiler.one_match(one)).collect();
        CompiledGuard { matches, reason: guard.reason, reads: reads_of_guard(guard) }
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
