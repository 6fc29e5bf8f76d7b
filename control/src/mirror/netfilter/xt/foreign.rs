//! Rules that `nft` has added to tables of iptables-nft. `iptables-nft-save` prints of them what it knows, and leaves out the rest
//! without a word: of `tcp sequence 5 drop` it makes `-p tcp -j DROP`.

use std::collections::HashMap;

use serde_json::Value;
use shunt_policy::Family;

use super::Saved;

impl Saved {
    /// Holds each rule against what `nft -j list ruleset` says of it, and notes those that iptables cannot have written.
    pub fn note_foreign(&mut self, listed: &Value, family: Family) {
        let word = match family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        };
        let mut by_chain: HashMap<(&str, &str), Vec<&Value>> = HashMap::new();
        let objects = listed["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
        for rule in objects.iter().filter_map(|object| object.get("rule")).filter(|rule| rule["family"] == word) {
            let place = (rule["table"].as_str().unwrap_or_default(), rule["chain"].as_str().unwrap_or_default());
            by_chain.entry(place).or_default().push(&rule["expr"]);
        }
        for table in &mut self.tables {
            for chain in &mut table.chains {
                let listed = by_chain.remove(&(table.name.as_str(), chain.name.as_str())).unwrap_or_default();
                if listed.len() != chain.rules.len() {
                    let line =
                        format!("{}: nft lists {} rules, iptables {}", chain.name, listed.len(), chain.rules.len());
                    table.unread.push(line);
                    continue;
                }
                for (rule, expression) in chain.rules.iter_mut().zip(listed) {
                    rule.foreign = !is_of_iptables(expression);
                }
            }
        }
    }
}

/// Whether all of it is what iptables-nft writes, once: of two tests of one field it prints the last, except of the mark.
fn is_of_iptables(expression: &Value) -> bool {
    let mut seen: Vec<&Value> = Vec::new();
    expression.as_array().is_some_and(|statements| {
        statements.iter().all(|statement| {
            let Some(test) = statement.get("match") else { return is_statement(statement) };
            let (left, mask) = match test["left"]["&"].as_array().map(Vec::as_slice) {
                Some([field, mask]) => (field, Some(mask)),
                _ => (&test["left"], None),
            };
            let once = !seen.contains(&left) || left["meta"]["key"] == "mark";
            seen.push(left);
            once && is_test(&test["op"], left, mask, &test["right"])
        })
    })
}

fn is_statement(statement: &Value) -> bool {
    const KNOWN: [&str; 10] = ["xt", "counter", "accept", "drop", "return", "jump", "goto", "limit", "log", "mangle"];
    // Of `mangle` iptables writes the one that traces, which is opaque.
    let traces = |statement: &Value| statement["mangle"]["key"]["meta"]["key"] == "nftrace";
    let words = statement.as_object().map(|object| object.keys().map(String::as_str).collect::<Vec<_>>());
    words.is_some_and(|words| words.iter().all(|word| KNOWN.contains(word) && (*word != "mangle" || traces(statement))))
}

fn is_test(op: &Value, left: &Value, mask: Option<&Value>, right: &Value) -> bool {
    let is_equality = op == "==" || op == "!=";
    let is_single = right.is_number() || right.is_string();
    if let Some(key) = left["meta"]["key"].as_str() {
        let of_iptables = match key {
            "iifname" | "oifname" | "l4proto" => mask.is_none() && is_single,
            "mark" => is_single || right.get("prefix").is_some(),
            _ => false,
        };
        return is_equality && of_iptables && !names_set(right);
    }
    let payload = &left["payload"];
    match (payload["protocol"].as_str(), payload["field"].as_str()) {
        (Some("ip" | "ip6"), Some("saddr" | "daddr")) => {
            is_equality && (is_single || right.get("prefix").is_some()) && !names_set(right)
        }
        (Some("ip"), Some("protocol")) => is_equality && is_single && mask.is_none() && !names_set(right),
        (Some("ip"), Some("frag-off")) => is_equality && right == 0,
        (Some("tcp" | "udp"), Some("sport" | "dport")) => {
            let is_range = right.get("range").is_some() && is_equality;
            mask.is_none() && (is_single || is_range) && op != "in" && !names_set(right)
        }
        // A list of flags is all of them together; `!` is none of them, `in` any.
        (Some("tcp"), Some("flags")) => {
            let knows = |flags: &Value| match flags {
                Value::Array(words) => words.iter().all(|word| SIX_FLAGS.iter().any(|flag| word == flag)),
                word => word == 0 || SIX_FLAGS.iter().any(|flag| word == flag),
            };
            knows(right) && mask.is_none_or(knows) && if mask.is_some() { is_equality } else { op == "!" || op == "in" }
        }
        _ => false,
    }
}

/// Those that iptables has names for.
const SIX_FLAGS: [&str; 6] = ["fin", "syn", "rst", "psh", "ack", "urg"];

fn names_set(right: &Value) -> bool {
    right.as_str().is_some_and(|word| word.starts_with('@'))
}
