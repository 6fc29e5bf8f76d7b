//! What we do not evaluate, and how to tell which packets it could touch.

use super::Surroundings;
use super::chain::Compiler;
use super::facts::Facts;
use super::test::{CompiledTest, Holds};
use crate::config::Guard;
use crate::outcome::{PuntReason, Stop};

#[derive(Debug)]
pub(crate) struct CompiledGuard {
    tests: Box<[(bool, CompiledTest)]>,
    reason: PuntReason,
}

impl CompiledGuard {
    pub(crate) fn compile(guard: &Guard, compiler: &mut Compiler<'_>) -> Self {
        let tests = guard.matches.iter().map(|one| (one.not, compiler.test(&one.test))).collect();
        CompiledGuard { tests, reason: guard.reason }
    }

    /// Stops a packet that the guarded thing could touch.
    pub(crate) fn admit(&self, facts: &Facts<'_>, surroundings: Surroundings<'_>) -> Result<(), Stop> {
        let excluded = |(not, test): &(bool, CompiledTest)| test.holds(*not, facts, surroundings) == Holds::No;
        if self.tests.iter().any(excluded) { Ok(()) } else { Err(Stop::Punt(self.reason)) }
    }
}
