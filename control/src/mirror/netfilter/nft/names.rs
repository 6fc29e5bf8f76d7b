//! What the words in a ruleset mean on this machine: nft prints interfaces by their present names, and takes other words from files.

use std::collections::{BTreeMap, BTreeSet};

use super::{Expression, Ruleset, Statement, symbols};

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Names {
    /// Numbers of the interfaces that rules name by number (`iif`, `oif`): these stay with the number when it is renamed.
    interfaces: BTreeMap<String, u32>,
    groups: BTreeMap<String, u64>,
    marks: BTreeMap<String, u64>,
    protocols: BTreeMap<String, u64>,
}

impl Names {
    /// Of a ruleset, when these were the interfaces.
    pub fn read(ruleset: &Ruleset, interfaces: &BTreeMap<String, u32>) -> Self {
        let used = named_by_number(ruleset);
        let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let iproute2 = |name: &str| {
            // Both places since iproute2 6.5; what the operator wrote counts.
            let mut words = number_first(&file(&format!("/usr/share/iproute2/{name}")));
            words.extend(number_first(&file(&format!("/etc/iproute2/{name}"))));
            words
        };
        Names {
            interfaces: interfaces.iter().filter(|(name, _)| used.contains(*name)).map(own).collect(),
            groups: iproute2("group"),
            marks: iproute2("rt_marks"),
            protocols: word_first(&file("/etc/protocols")),
        }
    }

    /// Whether interfaces that rules name by number are still those.
    pub fn hold(&self, interfaces: &BTreeMap<String, u32>) -> bool {
        self.interfaces.iter().all(|(name, number)| interfaces.get(name) == Some(number))
    }

    /// The number of an interface that a rule names by it. nft prints the number itself of one that is gone.
    pub fn interface(&self, word: &str) -> Option<u64> {
        let named = self.interfaces.get(word).copied().map(u64::from);
        match word.parse().ok() {
            // It could be either.
            Some(_) if named.is_some() => None,
            Some(number) => Some(number),
            None => named,
        }
    }

    /// The number of a group of interfaces (`/etc/iproute2/group`).
    pub fn group(&self, word: &str) -> Option<u64> {
        self.groups.get(word).copied()
    }

    /// The number of a mark (`/etc/iproute2/rt_marks`).
    pub fn mark(&self, word: &str) -> Option<u64> {
        self.marks.get(word).copied()
    }

    /// The number of an IP protocol.
    pub fn protocol(&self, word: &str) -> Option<u64> {
        self.protocols.get(word).copied().or_else(|| symbols::PROTOCOLS.number(word))
    }
}

fn own((name, number): (&String, &u32)) -> (String, u32) {
    (name.clone(), *number)
}

/// `201 mail.out`, of iproute2's files.
fn number_first(text: &str) -> BTreeMap<String, u64> {
    let words = lines(text).filter_map(|mut words| {
        let number = words.next()?;
        let number = match number.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok()?,
            None => number.parse().ok()?,
        };
        Some((words.next()?.to_owned(), number))
    });
    words.collect()
}

/// `tcp 6 TCP`, of `/etc/protocols`. The first line of a number is the one that is printed.
fn word_first(text: &str) -> BTreeMap<String, u64> {
    let words = lines(text).filter_map(|mut words| Some((words.next()?.to_owned(), words.next()?.parse().ok()?)));
    words.collect()
}

fn lines(text: &str) -> impl Iterator<Item = std::str::SplitWhitespace<'_>> {
    text.lines().map(|line| line.split('#').next().unwrap_or_default().split_whitespace())
}

/// The words that stand for the number of an interface.
fn named_by_number(ruleset: &Ruleset) -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    for table in &ruleset.tables {
        for statement in table.chains.iter().flat_map(|chain| &chain.rules).flat_map(|rule| &rule.statements) {
            match statement {
                Statement::Match { left, right, .. } => collect(left, right, &mut words),
                Statement::VerdictMap { key, data } => collect(key, data, &mut words),
                Statement::Set { value: Expression::Map { key, data }, .. } => collect(key, data, &mut words),
                Statement::Nat { to: Some(to), .. } => {
                    for map in [&to.address, &to.port].into_iter().flatten() {
                        if let Expression::Map { key, data } = map {
                            collect(key, data, &mut words);
                        }
                    }
                }
                _ => {}
            }
        }
        for set in table.sets.iter().filter(|set| set.key.iter().any(|kind| kind == "iface_index")) {
            set.elements.iter().for_each(|element| symbols_of(&element.key, &mut words));
        }
    }
    words
}

fn collect(left: &Expression, right: &Expression, words: &mut BTreeSet<String>) {
    let by_number = |one: &Expression| matches!(one, Expression::Meta(key) if key == "iif" || key == "oif");
    let asks = match left {
        Expression::Concat(parts) => parts.iter().any(by_number),
        one => by_number(one),
    };
    if asks {
        symbols_of(right, words);
    }
}

fn symbols_of(expression: &Expression, words: &mut BTreeSet<String>) {
    match expression {
        Expression::Symbol(word) => {
            words.insert(word.clone());
        }
        Expression::Concat(parts) | Expression::List(parts) => parts.iter().for_each(|part| symbols_of(part, words)),
        Expression::Set(elements) => elements.iter().for_each(|element| symbols_of(&element.key, words)),
        Expression::Range(first, last) => [first, last].into_iter().for_each(|end| symbols_of(end, words)),
        _ => {}
    }
}
