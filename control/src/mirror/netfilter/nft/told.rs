//! Statements that are never evaluated: from JSON to the text that nft prints.

use serde_json::Value;

use super::expression::duration;
use super::json::{element, expression, only, statement, string, words};
use super::{Expression, NatKind, NatTo, Statement};

pub(super) fn rejection(body: &Value) -> Option<String> {
    if body.is_null() {
        return Some(String::new());
    }
    let kind = string(body, "type")?;
    let code = body.get("expr").map(|code| code.as_str().map_or_else(|| code.to_string(), str::to_owned));
    Some(match (kind.as_str(), code) {
        // What is meant where nothing else is said.
        ("icmp" | "icmpv6" | "icmpx", Some(code)) if code == "port-unreachable" => String::new(),
        (_, Some(code)) => format!("{kind} {code}"),
        (_, None) => kind,
    })
}

pub(super) fn nat(kind: NatKind, word: &str, body: &Value) -> Statement {
    let family = string(body, "family");
    let to = nat_to(body);
    let text = to.as_ref().map_or_else(|| told(word, body), |to| nat_text(word, family.as_deref(), to));
    Statement::Nat { kind, family, to, text }
}

fn nat_to(body: &Value) -> Option<NatTo> {
    if !body.is_null() && !only(body, &["family", "addr", "port", "flags", "type_flags"]) {
        return None;
    }
    let mut to = NatTo {
        address: body.get("addr").map(expression),
        port: body.get("port").map(expression),
        random: false,
        fully_random: false,
        persistent: false,
        prefix: false,
    };
    for flag in words(body.get("flags")) {
        match flag.as_str() {
            "random" => to.random = true,
            "fully-random" => to.fully_random = true,
            "persistent" => to.persistent = true,
            "netmap" => to.prefix = true,
            _ => return None,
        }
    }
    let type_flags = words(body.get("type_flags"));
    let is_prefix = type_flags.iter().any(|flag| flag == "prefix");
    (type_flags.iter().all(|flag| flag == "prefix") && is_prefix == to.prefix).then_some(to)
}

fn nat_text(word: &str, family: Option<&str>, to: &NatTo) -> String {
    let NatTo { address, port, random, fully_random, persistent, prefix } = to;
    let mut text = word.to_owned();
    if let Some(family) = family {
        text += &format!(" {family}");
    }
    if *prefix {
        text += " prefix";
    }
    if address.is_some() || port.is_some() {
        text += " to ";
    }
    if let Some(address) = address {
        text += &match address {
            Expression::Range(first, last) if port.is_some() => format!("{}-{}", bracketed(first), bracketed(last)),
            one if port.is_some() => bracketed(one),
            one => one.to_string(),
        };
    }
    if let Some(port) = port {
        text += &format!(":{port}");
    }
    let flags = [(random, "random"), (fully_random, "fully-random"), (persistent, "persistent")];
    let flags: Vec<&str> = flags.iter().filter(|(is_set, _)| **is_set).map(|(_, word)| *word).collect();
    if !flags.is_empty() {
        text += &format!(" {}", flags.join(","));
    }
    text
}

/// An IPv6 address before a port.
fn bracketed(address: &Expression) -> String {
    match address {
        Expression::Symbol(address) if address.contains(':') => format!("[{address}]"),
        other => other.to_string(),
    }
}

pub(super) fn limit(body: &Value) -> Option<String> {
    if let Value::String(name) = body {
        return Some(format!("limit name \"{name}\""));
    }
    let over = if body.get("inv").and_then(Value::as_bool) == Some(true) { "over " } else { "" };
    let (rate, per) = (body.get("rate")?.as_u64()?, string(body, "per")?);
    let burst = body.get("burst").and_then(Value::as_u64).unwrap_or_default();
    Some(match string(body, "rate_unit").filter(|unit| unit != "packets") {
        None if burst == 5 || burst == 0 => format!("limit rate {over}{rate}/{per}"),
        None => format!("limit rate {over}{rate}/{per} burst {burst} packets"),
        Some(unit) if burst == 0 => format!("limit rate {over}{rate} {unit}/{per}"),
        Some(unit) => {
            let burst_unit = string(body, "burst_unit").unwrap_or_else(|| "bytes".to_owned());
            format!("limit rate {over}{rate} {unit}/{per} burst {burst} {burst_unit}")
        }
    })
}

pub(super) fn quota(body: &Value) -> Option<String> {
    if let Value::String(name) = body {
        return Some(format!("quota name \"{name}\""));
    }
    let over = if body.get("inv").and_then(Value::as_bool) == Some(true) { "over " } else { "" };
    Some(format!("quota {over}{} {}", body.get("val")?, string(body, "val_unit")?))
}

pub(super) fn log(body: &Value) -> Option<String> {
    if !body.is_null() && !only(body, &["prefix", "group", "snaplen", "queue-threshold", "level", "flags"]) {
        return None;
    }
    let mut text = "log".to_owned();
    if let Some(prefix) = string(body, "prefix") {
        text += &format!(" prefix \"{prefix}\"");
    }
    for key in ["group", "snaplen", "queue-threshold"] {
        if let Some(number) = body.get(key) {
            text += &format!(" {key} {number}");
        }
    }
    if let Some(level) = string(body, "level") {
        text += &format!(" level {level}");
    }
    let mut flags = words(body.get("flags"));
    if flags.windows(2).any(|pair| pair == ["tcp sequence", "tcp options"]) {
        flags.retain(|flag| flag != "tcp options");
        flags.iter_mut().filter(|flag| *flag == "tcp sequence").for_each(|flag| flag.push_str(",options"));
    }
    text += &flags.iter().map(|flag| format!(" flags {flag}")).collect::<String>();
    Some(text)
}

pub(super) fn forward(body: &Value) -> Option<String> {
    if only(body, &["dev"]) {
        return Some(format!("fwd to \"{}\"", string(body, "dev")?));
    }
    Some(told("fwd", body))
}

pub(super) fn duplicate(body: &Value) -> Option<String> {
    let to = string(body, "addr")?;
    // In netdev tables it is an interface.
    let address = to.parse::<std::net::IpAddr>().is_ok();
    let to = if address { to } else { format!("\"{to}\"") };
    Some(match string(body, "dev") {
        Some(device) => format!("dup to {to} device \"{device}\""),
        None => format!("dup to {to}"),
    })
}

pub(super) fn transparent_proxy(body: &Value) -> Option<String> {
    let mut text = "tproxy".to_owned();
    if let Some(family) = string(body, "family") {
        text += &format!(" {family}");
    }
    text += " to ";
    if let Some(address) = string(body, "addr") {
        text += &if address.contains(':') { format!("[{address}]") } else { address };
    }
    if let Some(port) = body.get("port") {
        text += &format!(":{}", expression(port));
    }
    Some(text)
}

pub(super) fn synproxy(body: &Value) -> Option<String> {
    if let Value::String(name) = body {
        return Some(format!("synproxy name \"{name}\""));
    }
    let mut text = "synproxy".to_owned();
    for key in ["mss", "wscale"] {
        if let Some(number) = body.get(key) {
            text += &format!(" {key} {number}");
        }
    }
    for flag in words(body.get("flags")) {
        text += &format!(" {flag}");
    }
    Some(text)
}

/// `add @seen { ip saddr timeout 5m }`
pub(super) fn update(body: &Value, set: &str) -> Option<String> {
    let element = element(body.get("elem")?);
    let timeout = element.timeout.map(|timeout| format!(" timeout {}", duration(timeout))).unwrap_or_default();
    let statements = body.get("stmt").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let statements: String = statements.iter().map(|one| format!(" {}", statement(one))).collect();
    Some(format!("{} @{set} {{ {}{timeout}{statements} }}", string(body, "op")?, element.key))
}

pub(super) fn meter(body: &Value) -> Option<String> {
    let size = body.get("size").map(|size| format!(" size {size}")).unwrap_or_default();
    let what = statement(body.get("stmt")?);
    let key = element(body.get("key")?);
    let timeout = key.timeout.map(|timeout| format!(" timeout {}", duration(timeout))).unwrap_or_default();
    Some(format!("meter {}{size} {{ {}{timeout} {what} }}", string(body, "name")?, key.key))
}

/// What we know by its name alone.
pub(super) fn told(word: &str, body: &Value) -> String {
    if body.is_null() { word.to_owned() } else { format!("{word} {body}") }
}
