//! The output as a whole: tables, chains, and which line is a rule of which chain.

use std::collections::HashMap;

use shunt_policy::Family;
use shunt_policy::config::ChainPolicy;

use super::super::text::decimal;
use super::words::{Words, lines};
use super::{Chain, Counters, Match, Rule, Saved, Table, Target};

/// Reads the whole output of one tool.
pub fn parse(text: &str, family: Family) -> Saved {
    let mut saved = Saved::default();
    let mut open: Option<OpenTable> = None;
    for line in lines(text).map(|line| line.trim_end_matches([' ', '\r'])) {
        if let Some(comment) = line.strip_prefix('#') {
            // # Table `filter' is incompatible, use 'nft' tool.
            // # Table `filter' contains incompatible base-chains, use 'nft' tool to list them.
            if let Some((_, rest)) = comment.split_once("Table `")
                && let Some((name, _)) = rest.split_once("' ")
            {
                saved.incompatible.push(name.to_owned());
            }
            continue;
        }
        match (&mut open, line.strip_prefix('*')) {
            (_, Some(name)) => {
                // One that was not closed.
                saved.cut |= open.is_some();
                saved.tables.extend(open.take().map(|open| open.table));
                open = Some(OpenTable::new(name));
            }
            (Some(_), None) if line == "COMMIT" => saved.tables.extend(open.take().map(|open| open.table)),
            (Some(table), None) => table.take(line, family),
            (None, None) => saved.cut |= !line.is_empty(),
        }
    }
    saved.cut |= open.is_some();
    saved.tables.extend(open.map(|open| open.table));
    saved
}

struct OpenTable {
    table: Table,
    /// Place of each chain in the table.
    places: HashMap<String, usize>,
}

impl OpenTable {
    fn new(name: &str) -> Self {
        OpenTable { table: Table { name: name.to_owned(), ..Table::default() }, places: HashMap::new() }
    }

    fn take(&mut self, line: &str, family: Family) {
        let taken = match line.strip_prefix(':') {
            Some(declaration) => self.declare(declaration),
            None => self.rule(line, family),
        };
        if taken.is_none() && !line.is_empty() {
            self.table.unread.push(line.to_owned());
        }
    }

    /// `:PREROUTING ACCEPT [0:0]`, `:user - [0:0]`
    fn declare(&mut self, declaration: &str) -> Option<()> {
        let mut words = declaration.split(' ');
        let name = words.next().filter(|name| !name.is_empty())?;
        let policy = match words.next()? {
            "ACCEPT" => Some(ChainPolicy::Accept),
            "DROP" => Some(ChainPolicy::Drop),
            "-" => None,
            _ => return None,
        };
        let counters = match words.next() {
            Some(word) => Some(counters(word)?),
            None => None,
        };
        if words.next().is_some() || self.places.contains_key(name) {
            return None;
        }
        self.places.insert(name.to_owned(), self.table.chains.len());
        self.table.chains.push(Chain { name: name.to_owned(), policy, counters, rules: Vec::new() });
        Some(())
    }

    /// `-A CHAIN ...`, with `[packets:bytes]` in front if the tool was asked for counters.
    fn rule(&mut self, line: &str, family: Family) -> Option<()> {
        let (counters, line) = match line.strip_prefix('[') {
            Some(_) => {
                let (first, rest) = line.split_once(' ')?;
                (Some(counters(first)?), rest)
            }
            None => (None, line),
        };
        let line = line.strip_prefix("-A ")?;
        let (chain, rest) = line.split_once(' ').unwrap_or((line, ""));
        let place = *self.places.get(chain)?;
        let (matches, target) = match Words::split(rest) {
            Some(words) => self.parts(words, family),
            None if rest.is_empty() => (Vec::new(), None),
            None => (vec![Match::Opaque(rest.into())], None),
        };
        self.table.chains.get_mut(place)?.rules.push(Rule { counters, matches, target, foreign: false });
        Some(())
    }

    fn parts(&self, mut words: Words, family: Family) -> (Vec<Match>, Option<Target>) {
        let mut matches = Vec::new();
        while let Some(word) = words.peek() {
            if matches!(word, "-j" | "-g") {
                return (matches, Some(Target::parse(&mut words, family, |name| self.is_user_chain(name))));
            }
            matches.push(Match::parse(&mut words, family));
        }
        (matches, None)
    }

    fn is_user_chain(&self, name: &str) -> bool {
        self.places
            .get(name)
            .and_then(|place| self.table.chains.get(*place))
            .is_some_and(|chain| chain.policy.is_none())
    }
}

/// `[12:3456]`
fn counters(text: &str) -> Option<Counters> {
    let (packets, bytes) = text.strip_prefix('[')?.strip_suffix(']')?.split_once(':')?;
    Some(Counters { packets: decimal(packets)?, bytes: decimal(bytes)? })
}
