//! Netfilter rules, one line each, and the tools that load many of them at once.

use std::fmt::{self, Write as _};

use shunt_policy::Family;

use crate::lab::Namespace;

/// What loads a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tool {
    Ipset,
    Iptables(Family, Backend),
    Nft,
}

/// The two kinds of iptables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Backend {
    Nft,
    Legacy,
}

/// How a line of [`load`] begins.
pub const REFUSED: &str = "Command failed: ";

/// One rule, chain, set or element, in the words of its tool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    pub tool: Tool,
    /// Of iptables; empty for others.
    pub table: &'static str,
    /// `-A PREROUTING ...`, `:CHAIN - [0:0]`; `create NAME ...`; `add rule ...`.
    pub text: String,
}

impl Tool {
    fn command(self) -> String {
        match self {
            Tool::Ipset => "ipset restore".to_owned(),
            Tool::Nft => "nft -f -".to_owned(),
            // The lock is one for all namespaces of a lab.
            Tool::Iptables(family, Backend::Legacy) => format!("{}-legacy-restore -w 10 --noflush", iptables(family)),
            Tool::Iptables(family, Backend::Nft) => format!("{}-nft-restore --noflush", iptables(family)),
        }
    }
}

fn iptables(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Line { tool, table, text } = self;
        match tool {
            Tool::Ipset => write!(f, "ipset {text}"),
            Tool::Nft => write!(f, "nft {text}"),
            Tool::Iptables(family, backend) => {
                let backend = if *backend == Backend::Nft { "nft" } else { "legacy" };
                write!(f, "{}-{backend} -t {table} {text}", iptables(*family))
            }
        }
    }
}

/// Loads lines of one tool, all or none of them (of one table, in the case of iptables). Returns
/// one line if the tool refused.
pub fn load(namespace: &Namespace, lines: &[&Line]) -> String {
    let Some(first) = lines.first() else { return String::new() };
    let mut text = String::new();
    match first.tool {
        Tool::Ipset | Tool::Nft => lines.iter().for_each(|line| text += &format!("{}\n", line.text)),
        Tool::Iptables(..) => {
            for table in ["raw", "mangle", "nat", "filter"] {
                let of_table: Vec<_> = lines.iter().filter(|line| line.table == table).collect();
                if !of_table.is_empty() {
                    let _ = writeln!(text, "*{table}");
                    of_table.iter().for_each(|line| text += &format!("{}\n", line.text));
                    text += "COMMIT\n";
                }
            }
        }
    }
    let command = first.tool.command();
    let output = namespace.try_run(&format!("{command} <<'END'\n{text}END\n"));
    if output.code == 0 {
        return String::new();
    }
    format!("{REFUSED}{command}: {}\n", output.stderr.trim_end().replace('\n', " | "))
}
