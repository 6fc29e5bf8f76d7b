//! The dialect of native nftables: what `nft --stateless --json list ruleset` prints (1.0.6; later versions are understood as far as
//! they are the same), as an AST that prints as `nft --stateless list ruleset` does.
//!
//! What is not known is kept as such at its place, so that nobody takes it for absent: [`Expression::Unknown`],
//! [`Effect::Unknown`], [`Hook::Other`], [`Table::unknown`].

mod expression;
mod json;
mod names;
mod statement;
pub mod symbols;
mod told;

use std::fmt;

pub use expression::{Element, Expression, Operator};
pub use json::parse;
pub use names::Names;
pub use statement::{Effect, NatKind, NatTo, Relation, Statement, Verdict};

/// All native tables.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ruleset {
    pub tables: Vec<Table>,
    /// Those that are switched off (`flags dormant`): what their rules ask for is kept ready all the same.
    pub asleep: Vec<Table>,
    /// What the words in it meant when it was read.
    pub names: Names,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    pub family: TableFamily,
    pub name: String,
    pub chains: Vec<Chain>,
    /// Sets, maps and verdict maps.
    pub sets: Vec<Set>,
    pub flowtables: Vec<Flowtable>,
    /// Objects of other kinds, by kind and name: counters, quotas, limits, ct helpers and the like. They do what the rules that name
    /// them do.
    pub objects: Vec<(String, String)>,
    /// Objects that we do not know, as JSON: they may do anything.
    pub unknown: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TableFamily {
    Ip,
    Ip6,
    Inet,
    Netdev,
    Bridge,
    Arp,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chain {
    pub name: String,
    /// Of a chain on a hook.
    pub base: Option<Base>,
    pub rules: Vec<Rule>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Base {
    /// filter, nat, route.
    pub kind: String,
    pub hook: Hook,
    pub priority: i32,
    /// The chain policy is drop.
    pub drops: bool,
    /// Of netdev chains, as far as they are told (nft 1.0.6 leaves them out): empty is "any".
    pub devices: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hook {
    Ingress,
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
    Egress,
    Other(String),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    pub handle: u64,
    pub comment: Option<String>,
    pub statements: Vec<Statement>,
}

/// A named set, map or verdict map.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Set {
    pub name: String,
    /// `ipv4_addr`; several where it is a concatenation.
    pub key: Vec<String>,
    /// Of a map: `mark`, `verdict`.
    pub data: Option<String>,
    /// Holds ranges; without it nothing in it is one.
    pub interval: bool,
    /// Its elements may go by themselves: all (there is a default time) or those that say so.
    pub timeout: bool,
    /// Rules add to it: the flag, or a statement that does (nft 1.0.6 does not print the flag).
    pub dynamic: bool,
    /// Each element counts, or does something else, when it is found.
    pub stateful: bool,
    /// That is a count of connections.
    pub counts_connections: bool,
    pub elements: Vec<Element>,
    /// There is more to it than we know.
    pub unknown: bool,
}

/// Forwards by itself what was put into it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flowtable {
    pub name: String,
    pub devices: Vec<String>,
}

/// What was printed is not a ruleset, or not a whole one.
#[derive(thiserror::Error, Clone, PartialEq, Eq, Debug)]
#[error("not a ruleset: {0}")]
pub struct NotARuleset(pub String);

impl Table {
    pub fn chain(&self, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|chain| chain.name == name)
    }

    pub fn set(&self, name: &str) -> Option<&Set> {
        self.sets.iter().find(|set| set.name == name)
    }
}

impl TableFamily {
    pub fn word(self) -> &'static str {
        match self {
            TableFamily::Ip => "ip",
            TableFamily::Ip6 => "ip6",
            TableFamily::Inet => "inet",
            TableFamily::Netdev => "netdev",
            TableFamily::Bridge => "bridge",
            TableFamily::Arp => "arp",
        }
    }
}

/// As nft prints it, with the handle.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, statement) in self.statements.iter().enumerate() {
            write!(f, "{}{statement}", if at == 0 { "" } else { " " })?;
        }
        if let Some(comment) = &self.comment {
            write!(f, " comment \"{comment}\"")?;
        }
        write!(f, " # handle {}", self.handle)
    }
}

/// `table inet fw`
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "table {} {}", self.family.word(), self.name)
    }
}

#[cfg(test)]
mod tests;
