//! Tables and rules of `nft` among those of iptables-nft. `iptables-nft-save` prints of them what it knows, and leaves out the rest
//! without a word: of `tcp sequence 5 drop` it makes `-p tcp -j DROP`, of a chain at another priority nothing.

use shunt_policy::Family;
use shunt_policy::config::ChainPolicy;

use super::super::nft::{self, Effect, Expression, Hook, Operator, Relation, Statement, TableFamily, Verdict};
use super::{Chain, Saved, Table};

impl Saved {
    /// Leaves only the tables that iptables can have made: every chain that nft lists is printed, and hangs where iptables would hang
    /// it. What nft does not list is asleep, or not there: iptables prints all of its chains for a table that has one.
    pub fn keep_own(&mut self, listed: &[nft::Table], family: Family) {
        let family = table_family(family);
        let Saved { tables, incompatible, .. } = self;
        tables.retain(|table| {
            let listed = listed.iter().find(|listed| listed.family == family && listed.name == table.name);
            !incompatible.contains(&table.name) && listed.is_some_and(|listed| is_whole(table, listed))
        });
        for table in tables {
            let listed = listed.iter().find(|listed| listed.family == family && listed.name == table.name);
            table.chains.retain(|chain| listed.is_some_and(|listed| listed.chain(&chain.name).is_some()));
        }
    }

    /// Holds each rule against what nft says of it, and notes those that iptables cannot have written.
    pub fn note_foreign(&mut self, listed: &[nft::Table], family: Family) {
        let family = table_family(family);
        for table in &mut self.tables {
            let listed = listed.iter().find(|listed| listed.family == family && listed.name == table.name);
            for chain in &mut table.chains {
                let listed = listed.and_then(|listed| listed.chain(&chain.name));
                let listed = listed.map_or(&[][..], |listed| &listed.rules);
                if listed.len() != chain.rules.len() {
                    let (by_nft, by_iptables) = (listed.len(), chain.rules.len());
                    table.unread.push(format!("{}: nft lists {by_nft} rules, iptables {by_iptables}", chain.name));
                    continue;
                }
                for (rule, listed) in chain.rules.iter_mut().zip(listed) {
                    rule.foreign = !is_of_iptables(&listed.statements);
                }
            }
        }
    }
}

fn table_family(family: Family) -> TableFamily {
    match family {
        Family::V4 => TableFamily::Ip,
        Family::V6 => TableFamily::Ip6,
    }
}

fn is_whole(table: &Table, listed: &nft::Table) -> bool {
    let printed = |chain: &nft::Chain| {
        let Some(saved) = table.chain(&chain.name) else { return false };
        match &chain.base {
            None => saved.policy.is_none(),
            Some(base) => {
                let drops = if base.drops { ChainPolicy::Drop } else { ChainPolicy::Accept };
                saved.policy == Some(drops)
                    && place(&table.name, &chain.name) == Some((base.kind.as_str(), &base.hook, base.priority))
            }
        }
    };
    // A chain of iptables' own that is not there prints as one that accepts.
    let there = |chain: &Chain| {
        listed.chain(&chain.name).is_some() || chain.policy == Some(ChainPolicy::Accept) && chain.rules.is_empty()
    };
    listed.chains.iter().all(printed) && table.chains.iter().all(there) && listed.unknown.is_empty()
}

/// Type, hook and priority of a chain of iptables' own (`xtables_ipv4` of nft.c).
fn place(table: &str, chain: &str) -> Option<(&'static str, &'static Hook, i32)> {
    let hook = match chain {
        "PREROUTING" => &Hook::Prerouting,
        "INPUT" => &Hook::Input,
        "FORWARD" => &Hook::Forward,
        "OUTPUT" => &Hook::Output,
        "POSTROUTING" => &Hook::Postrouting,
        _ => return None,
    };
    Some(match (table, chain) {
        ("raw", _) => ("filter", hook, -300),
        ("mangle", "OUTPUT") => ("route", hook, -150),
        ("mangle", _) => ("filter", hook, -150),
        ("nat", "PREROUTING" | "OUTPUT") => ("nat", hook, -100),
        ("nat", _) => ("nat", hook, 100),
        ("filter", _) => ("filter", hook, 0),
        ("security", _) => ("filter", hook, 50),
        _ => return None,
    })
}

/// Whether all of it is what iptables-nft writes, once: of two tests of one field it prints the last, except of the mark.
fn is_of_iptables(statements: &[Statement]) -> bool {
    let mut seen: Vec<&Expression> = Vec::new();
    statements.iter().all(|statement| match statement {
        Statement::Match { left, relation, right } => {
            let (field, mask) = match left {
                Expression::Binary(Operator::And, field, mask) => (&**field, Some(&**mask)),
                field => (field, None),
            };
            let once = !seen.contains(&field) || matches!(field, Expression::Meta(key) if key == "mark");
            seen.push(field);
            once && is_test(*relation, field, mask, right)
        }
        Statement::Counter => true,
        Statement::Verdict(verdict) => !matches!(verdict, Verdict::Continue),
        // TRACE, which is opaque, as are limits and logs.
        Statement::Set { key: Expression::Meta(key), .. } => key == "nftrace",
        Statement::Other { effect: Effect::Xt, .. } => true,
        Statement::Other { text, .. } => text.starts_with("limit") || text.starts_with("log"),
        _ => false,
    })
}

fn is_test(relation: Relation, field: &Expression, mask: Option<&Expression>, right: &Expression) -> bool {
    let is_equality = matches!(relation, Relation::Equal | Relation::NotEqual);
    let is_single = matches!(right, Expression::Number(_) | Expression::Symbol(_));
    let is_prefix = matches!(right, Expression::Prefix(..));
    let (protocol, field) = match field {
        Expression::Meta(key) => ("meta", key.as_str()),
        Expression::Payload { protocol, field } => (protocol.as_str(), field.as_str()),
        _ => return false,
    };
    match (protocol, field) {
        ("meta", "iifname" | "oifname" | "l4proto") | ("ip", "protocol") => is_equality && is_single && mask.is_none(),
        ("meta", "mark") | ("ip" | "ip6", "saddr" | "daddr") => is_equality && (is_single || is_prefix),
        ("ip", "frag-off") => is_equality && *right == Expression::Number(0),
        ("tcp" | "udp", "sport" | "dport") => {
            let is_range = matches!(right, Expression::Range(..)) && is_equality;
            let compares = !matches!(relation, Relation::Any | Relation::NoneOf);
            mask.is_none() && compares && (is_single || is_range)
        }
        ("tcp", "flags") => {
            let compares = match mask {
                Some(_) => is_equality,
                None => matches!(relation, Relation::Any | Relation::NoneOf),
            };
            compares && has_names_for(right) && mask.is_none_or(has_names_for)
        }
        _ => false,
    }
}

/// Whether iptables has names for all of the TCP flags.
fn has_names_for(flags: &Expression) -> bool {
    const SIX: [&str; 6] = ["fin", "syn", "rst", "psh", "ack", "urg"];
    match flags {
        Expression::Number(number) => *number == 0,
        Expression::Symbol(flag) => SIX.contains(&flag.as_str()),
        Expression::List(flags) => flags.iter().all(has_names_for),
        Expression::Binary(Operator::Or, one, other) => has_names_for(one) && has_names_for(other),
        _ => false,
    }
}
