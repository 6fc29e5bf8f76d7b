//! What the kernel does about connections, whichever rules ask for it.
//!
//! It tracks all connections of a family as long as there is a rule that asks, in whichever chain of whichever hook, be it one that
//! nothing leads to, or in a table that is switched off: with the rule itself it asks for conntrack's hooks (`nf_ct_netns_get`).
//! NOTRACK asks for nothing. Translation hangs on the hooks with the first chain of type nat of the family, on whichever of them, even
//! without a rule (`nf_nat_register_fn`), and does nothing to what is not tracked. Connections that were translated before go on as
//! long as both are there.

use shunt_policy::Family;
use shunt_policy::config::Conntrack;

use crate::mirror::netfilter::nft::{self, Effect, Expression, Rule, Statement, TableFamily};
use crate::mirror::netfilter::xt::{self, Match, Target};
use crate::mirror::netfilter::{Dialect, Netfilter};

/// By family.
pub(super) fn conntrack(netfilter: &Netfilter) -> [Conntrack; 2] {
    Family::BOTH.map(|family| {
        let dialects = || netfilter.saved.iter().filter(|dialect| dialect.family == family);
        let tables = || netfilter.nft.tables.iter().filter(|table| concerns(table, family));
        let asleep = netfilter.nft.asleep.iter().filter(|table| concerns(table, family));
        if !dialects().any(asks) && !tables().chain(asleep).any(table_asks) {
            return Conntrack::Off;
        }
        let has_nat = |dialect: &Dialect| {
            dialect.saved.table("nat").is_some_and(|table| table.chains.iter().any(|chain| chain.policy.is_some()))
        };
        let is_nat = |chain: &nft::Chain| chain.base.as_ref().is_some_and(|base| base.kind == "nat");
        match dialects().any(has_nat) || tables().any(|table| table.chains.iter().any(is_nat)) {
            true => Conntrack::Translates,
            false => Conntrack::Tracks,
        }
    })
}

fn asks(dialect: &Dialect) -> bool {
    dialect.saved.tables.iter().any(|table| {
        // What cannot be read may ask.
        let unread = !table.unread.is_empty();
        unread || table.chains.iter().flat_map(|chain| &chain.rules).any(|rule| rule_asks(rule, table.name == "nat"))
    })
}

fn rule_asks(rule: &xt::Rule, is_nat: bool) -> bool {
    let target = match &rule.target {
        Some(Target::Nat(_) | Target::ConnectionMark(_) | Target::Connection(_)) => true,
        // nf_ct_netns_get is called by these, too; in table nat it may be a translation that we have not understood.
        Some(Target::Opaque(text)) => {
            is_nat || ["-j SYNPROXY", "-j CONNSECMARK"].iter().any(|one| text.starts_with(one))
        }
        _ => false,
    };
    let asks = |one: &Match| match one {
        Match::Connection(_) => true,
        Match::Module { name, .. } => matches!(*name, "conntrack" | "state" | "connmark"),
        Match::Plain(_) | Match::Opaque(_) => false,
    };
    rule.foreign || target || rule.matches.iter().any(asks)
}

/// Whether a table can ask for conntrack in a family. One of bridges asks in both (`nf_ct_netns_get`).
fn concerns(table: &nft::Table, family: Family) -> bool {
    match table.family {
        TableFamily::Ip => family == Family::V4,
        TableFamily::Ip6 => family == Family::V6,
        TableFamily::Inet | TableFamily::Bridge => true,
        TableFamily::Netdev | TableFamily::Arp => false,
    }
}

fn table_asks(table: &nft::Table) -> bool {
    let object = |(kind, _): &(String, String)| {
        matches!(kind.as_str(), "ct helper" | "ct timeout" | "ct expectation" | "synproxy")
    };
    table.objects.iter().any(object)
        || table.sets.iter().any(|set| set.counts_connections)
        || table.chains.iter().flat_map(|chain| &chain.rules).any(native_asks)
}

fn native_asks(rule: &Rule) -> bool {
    rule.statements.iter().any(|statement| match statement {
        Statement::Match { left, right, .. } => speaks(left) || speaks(right),
        Statement::Set { key, value } => speaks(key) || speaks(value),
        Statement::VerdictMap { key, .. } => speaks(key),
        Statement::Nat { .. } => true,
        Statement::Other { effect, text } => match effect {
            // An xt match or target does not show what it is.
            Effect::ConnectionTest | Effect::Connection | Effect::Xt => true,
            _ => tells(text) || ["synproxy", "flow "].iter().any(|word| text.starts_with(word)),
        },
        Statement::Counter | Statement::Verdict(_) | Statement::Reject(_) | Statement::Notrack => false,
    })
}

fn speaks(expression: &Expression) -> bool {
    match expression {
        Expression::Ct { .. } => true,
        Expression::Binary(_, left, right) => speaks(left) || speaks(right),
        Expression::Map { key, .. } => speaks(key),
        Expression::Concat(parts) => parts.iter().any(speaks),
        Expression::Told(text) | Expression::Unknown(text) => tells(text),
        _ => false,
    }
}

/// Whether a text has a word of conntrack, be it in nft's own form or in JSON.
fn tells(text: &str) -> bool {
    text.split(|letter: char| !letter.is_ascii_alphanumeric()).any(|word| word == "ct")
}

#[cfg(test)]
mod tests;
