//! What the kernel has counted for each rule.

use super::Fault;
use crate::rules::KernelCounts;

/// Reads the counters of all rules.
pub async fn counts() -> Result<KernelCounts, Fault> {
    Ok(KernelCounts::new())
}
