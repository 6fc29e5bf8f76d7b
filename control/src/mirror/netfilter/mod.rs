//! What netfilter holds, in whichever dialect it was written.
//!
//! Tables written by iptables-nft are read with `iptables-nft-save`, because `nft -j` leaves out the arguments of their matches;
//! what iptables-legacy wrote with `iptables-legacy-save`; all other tables with `nft -j`.

mod counts;
pub mod ipset;
mod kernel;
pub mod nft;
mod reader;
mod text;
mod watch;
pub mod xt;

use std::sync::Arc;
use std::time::Duration;

use shunt_policy::Family;
use shunt_policy::config::Source;

pub use counts::counts;
use ipset::IpSets;
use nft::Ruleset;
pub use watch::Watch;
use xt::Saved;

/// How long a tool may take: nft prints 100,000 elements of a set in two seconds, on a busy machine in more.
const PATIENCE: Duration = Duration::from_secs(10);
/// A reading that takes longer is told of as a fault, until it ends.
const LATE: Duration = Duration::from_secs(4);
/// How much a tool may print, in bytes.
const LONGEST: u64 = 64 << 20;

/// Everything that could touch a forwarded packet.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Netfilter {
    pub saved: Vec<Dialect>,
    /// What `ipset save` prints if a rule names a set.
    pub ipsets: IpSets,
    /// Native tables.
    pub nft: Arc<Ruleset>,
}

/// The tables of one of the four `-save` tools.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dialect {
    pub family: Family,
    /// [`Source::IptablesNft`] or [`Source::IptablesLegacy`].
    pub source: Source,
    pub saved: Saved,
}

impl Netfilter {
    /// # Errors
    ///
    /// As of [`reader::read`].
    pub async fn read() -> Result<Self, Fault> {
        Ok(reader::read(None).await?.netfilter)
    }

    /// Whether a rule asks an ipset.
    pub fn names_sets(&self) -> bool {
        let mut rules = self.saved.iter().flat_map(|dialect| dialect.saved.rules());
        rules.any(|rule| rule.sets().next().is_some())
    }

    /// What iptables-legacy wrote.
    pub fn legacy(&self) -> impl Iterator<Item = &Dialect> {
        self.saved.iter().filter(|dialect| dialect.source == Source::IptablesLegacy)
    }
}

/// Why netfilter could not be read; the last good state stays.
#[derive(thiserror::Error, Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    #[error("cannot run {tool}: {problem}; is it installed? (Debian: apt install {package})")]
    Missing { tool: &'static str, package: &'static str, problem: String },
    #[error("{tool} did not answer within {} s", PATIENCE.as_secs())]
    TimedOut { tool: &'static str },
    #[error("{tool} failed: {problem}")]
    Failed { tool: &'static str, problem: String },
    #[error("the tools that print netfilter's rules have not answered for {} s", LATE.as_secs())]
    Late,
    #[error("{tool} printed more than {} MiB", LONGEST >> 20)]
    TooLong { tool: &'static str },
    #[error("the kernel does not tell of nftables: {problem}")]
    Kernel { problem: String },
    #[error("nftables' rules change faster than they can be read")]
    Restless,
}
