//! What `ip[6]tables[-nft|-legacy]-save [-c]` prints, in types, and printed back as it was.
//!
//! Nothing here fails: what is not understood stays as text at its place in the order, so that what it could touch is left to the
//! kernel. A part of a rule counts as understood only if we would print it as the tool did.

mod connection;
mod foreign;
mod matches;
mod nat;
mod parse;
mod target;
mod values;
mod words;

use std::fmt;

use shunt_policy::config::ChainPolicy;

pub use connection::{ConnectionTest, End, States, Statuses};
pub(super) use matches::mac;
pub use matches::{Comparison, Condition, Match, PacketType, Test};
pub use nat::{Nat, NatFlags, NatTarget};
pub use parse::parse;
pub use target::{ConnectionMark, HopChange, MarkChange, Mss, Target};
pub use values::{AddressMask, AddressRange, AddressTypes, Flags, Group, IcmpType, Masked, MaskedByte, Range};

/// What one of the tools printed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Saved {
    pub tables: Vec<Table>,
    /// Tables that the tool calls incompatible: they were not written by iptables.
    pub incompatible: Vec<String>,
    /// The output ends in the middle of a table, or has something outside of them: it must not be believed.
    pub cut: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Table {
    /// filter, nat, mangle, raw, security.
    pub name: String,
    pub chains: Vec<Chain>,
    /// Lines of which we cannot say to which chain they belong.
    pub unread: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chain {
    pub name: String,
    /// Of built-in chains only.
    pub policy: Option<ChainPolicy>,
    pub counters: Option<Counters>,
    pub rules: Vec<Rule>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// If the tool was asked for them.
    pub counters: Option<Counters>,
    pub matches: Vec<Match>,
    /// Without one the walk goes on with the next rule.
    pub target: Option<Target>,
    /// Not iptables has written it, but nft: it may ask or do more than what is printed.
    pub foreign: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counters {
    pub packets: u64,
    pub bytes: u64,
}

impl Saved {
    pub fn table(&self, name: &str) -> Option<&Table> {
        self.tables.iter().find(|table| table.name == name)
    }

    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.tables.iter().flat_map(|table| &table.chains).flat_map(|chain| &chain.rules)
    }
}

impl Table {
    pub fn chain(&self, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|chain| chain.name == name)
    }
}

impl Chain {
    /// A rule of this chain as the tool prints it, without counters: `-A PREROUTING -i eth0 -j DROP`.
    pub fn line(&self, rule: &Rule) -> String {
        Line { chain: &self.name, rule }.to_string()
    }
}

impl Rule {
    /// Whether nothing of it is opaque.
    pub fn is_understood(&self) -> bool {
        !matches!(self.target, Some(Target::Opaque(_)))
            && !self.matches.iter().any(|one| matches!(one, Match::Opaque(_)))
    }

    /// Names of the ipsets that it asks.
    pub fn sets(&self) -> impl Iterator<Item = &str> {
        let conditions = self.matches.iter().flat_map(|one| match one {
            Match::Module { conditions, .. } => conditions.as_slice(),
            _ => &[],
        });
        conditions.filter_map(|condition| match &condition.test {
            Test::MatchSet { name, .. } => Some(&**name),
            _ => None,
        })
    }

    /// Names of the ipsets that it changes (`-j SET --add-set NAME src`), among other words.
    pub fn changes_sets(&self) -> impl Iterator<Item = &str> {
        self.set_options().into_iter().flat_map(|options| options.split(' '))
    }

    fn set_options(&self) -> Option<&str> {
        let text = match (&self.target, self.matches.last()) {
            (Some(Target::Set(text)), _) => text,
            // A line that we could not split into words.
            (None, Some(Match::Opaque(text))) => text,
            _ => return None,
        };
        text.split_once("-j SET ").map(|(_, options)| options)
    }
}

/// Without the lines that begin with `#`, except those that call a table incompatible.
impl fmt::Display for Saved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for name in &self.incompatible {
            writeln!(f, "# Table `{name}' is incompatible, use 'nft' tool.")?;
        }
        self.tables.iter().try_for_each(|table| write!(f, "{table}"))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "*{}", self.name)?;
        for chain in &self.chains {
            let policy = match chain.policy {
                Some(ChainPolicy::Accept) => "ACCEPT",
                Some(ChainPolicy::Drop) => "DROP",
                None => "-",
            };
            write!(f, ":{} {policy}", chain.name)?;
            match chain.counters {
                Some(counters) => writeln!(f, " {counters}")?,
                None => writeln!(f)?,
            }
        }
        for chain in &self.chains {
            for rule in &chain.rules {
                if let Some(counters) = rule.counters {
                    write!(f, "{counters} ")?;
                }
                writeln!(f, "{}", Line { chain: &chain.name, rule })?;
            }
        }
        self.unread.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        writeln!(f, "COMMIT")
    }
}

struct Line<'a> {
    chain: &'a str,
    rule: &'a Rule,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "-A {}", self.chain)?;
        self.rule.matches.iter().try_for_each(|one| write!(f, " {one}"))?;
        self.rule.target.iter().try_for_each(|target| write!(f, " {target}"))
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}:{}]", self.packets, self.bytes)
    }
}

#[cfg(test)]
mod tests;
