//! What is configured on both routers alike.

use std::fmt;

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};
use shunt_policy::Family;

use super::rules::{self, Line, Tool};
use crate::lab::Namespace;

/// One step of a configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Arguments of `ip`, with `-4` or `-6` before them if there is a family.
    Ip(Option<Family>, String),
    /// Path below `/proc/sys/net` and value.
    Sysctl(String, String),
    /// Arguments of `ip` at the far ends of the router's cables.
    Far(String),
    /// In the router, by a shell.
    Shell(String),
    /// A rule with selectors that Debian's iproute2 cannot write.
    Rule(RawRule),
    /// A line of a netfilter rule set.
    Load(Line),
    /// Connection tracking forgets all that it knows.
    ForgetConnections,
}

/// `struct fib_rule_hdr`'s family, a table, a priority, and attributes (`FRA_*`) besides.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RawRule {
    pub family: Family,
    pub priority: u32,
    pub table: u32,
    pub attributes: Vec<(u16, Vec<u8>)>,
}

impl Command {
    pub fn ip(text: impl Into<String>) -> Self {
        Command::Ip(None, text.into())
    }

    pub fn ip4(text: impl Into<String>) -> Self {
        Command::Ip(Some(Family::V4), text.into())
    }

    pub fn ip6(text: impl Into<String>) -> Self {
        Command::Ip(Some(Family::V6), text.into())
    }

    pub fn far(text: impl Into<String>) -> Self {
        Command::Far(text.into())
    }

    pub fn shell(text: impl Into<String>) -> Self {
        Command::Shell(text.into())
    }

    pub fn load(tool: Tool, table: &'static str, text: impl Into<String>) -> Self {
        Command::Load(Line { tool, table, text: text.into() })
    }

    pub fn sysctl(path: impl Into<String>, value: impl fmt::Display) -> Self {
        Command::Sysctl(path.into(), value.to_string())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::Ip(None, text) => write!(f, "ip {text}"),
            Command::Ip(Some(Family::V4), text) => write!(f, "ip -4 {text}"),
            Command::Ip(Some(Family::V6), text) => write!(f, "ip -6 {text}"),
            Command::Sysctl(path, value) => write!(f, "sysctl -w net/{path}={value}"),
            Command::Far(text) => write!(f, "far end: ip {text}"),
            Command::Shell(text) => f.write_str(text),
            Command::Rule(rule) => write!(f, "{rule:?}"),
            Command::Load(line) => write!(f, "{line}"),
            Command::ForgetConnections => f.write_str("conntrack -F"),
        }
    }
}

/// Runs the commands in their order. What the kernel refuses is left out; returns what it said to that.
pub fn apply(commands: &[Command], router: &Namespace, far: &Namespace) -> String {
    let mut refused = String::new();
    let mut rest = commands;
    while let Some(first) = rest.first() {
        // One `ip -batch` for each run of like commands.
        let like = |other: &&Command| match (first, other) {
            (Command::Ip(one, _), Command::Ip(other, _)) => one == other,
            (Command::Sysctl(..), Command::Sysctl(..)) | (Command::Far(_), Command::Far(_)) => true,
            (Command::Load(one), Command::Load(other)) => one.tool == other.tool,
            _ => false,
        };
        let length = rest.iter().take_while(like).count().max(1);
        let (run, behind) = rest.split_at(length);
        rest = behind;
        match first {
            Command::Ip(family, _) => refused += &batch(router, *family, run),
            Command::Far(_) => refused += &batch(far, None, run),
            Command::Sysctl(..) => refused += &sysctls(router, run),
            Command::Shell(text) => refused += &router.try_run(text).stderr,
            Command::Load(_) => {
                let lines = run.iter().filter_map(|command| match command {
                    Command::Load(line) => Some(line),
                    _ => None,
                });
                refused += &rules::load(router, &lines.collect::<Vec<_>>());
            }
            Command::ForgetConnections => {
                if let Err(error) = router.enter(forget_connections) {
                    refused += &format!("{first}: {error}\n");
                }
            }
            Command::Rule(rule) => {
                if let Err(error) = router.enter(|| rule.add()) {
                    refused += &format!("{first}: {error}\n");
                }
            }
        }
    }
    refused
}

fn batch(namespace: &Namespace, family: Option<Family>, commands: &[Command]) -> String {
    let family = match family {
        None => "",
        Some(Family::V4) => "-4",
        Some(Family::V6) => "-6",
    };
    let lines: Vec<&str> = commands
        .iter()
        .filter_map(|command| match command {
            Command::Ip(_, text) | Command::Far(text) => Some(text.as_str()),
            _ => None,
        })
        .collect();
    let output = namespace.try_run(&format!("ip {family} -force -batch - <<'END'\n{}\nEND\n", lines.join("\n")));
    output.stderr
}

fn sysctls(namespace: &Namespace, commands: &[Command]) -> String {
    namespace.enter(|| {
        let mut refused = String::new();
        for command in commands {
            let Command::Sysctl(path, value) = command else { continue };
            if let Err(error) = std::fs::write(format!("/proc/sys/net/{path}"), value) {
                refused += &format!("{command}: {error}\n");
            }
        }
        refused
    })
}

impl RawRule {
    /// In the namespace of the calling thread.
    fn add(&self) -> std::io::Result<()> {
        // RTM_NEWRULE; NLM_F_REQUEST, NLM_F_ACK, NLM_F_EXCL, NLM_F_CREATE.
        let (kind, flags) = (32u16, 0x1u16 | 0x4 | 0x200 | 0x400);
        let family = if self.family == Family::V4 { 2 } else { 10 };
        // FR_ACT_TO_TBL
        let mut message = vec![family, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];
        // FRA_PRIORITY, FRA_TABLE
        let fixed = [(6, self.priority.to_ne_bytes().to_vec()), (15, self.table.to_ne_bytes().to_vec())];
        for (kind, value) in fixed.iter().chain(&self.attributes) {
            message.extend((value.len() as u16 + 4).to_ne_bytes());
            message.extend(kind.to_ne_bytes());
            message.extend(value);
            message.resize(message.len().next_multiple_of(4), 0);
        }
        ask_kernel(NETLINK_ROUTE, kind, flags, &message)
    }
}

/// In the namespace of the calling thread.
fn forget_connections() -> std::io::Result<()> {
    // NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE; NLM_F_REQUEST, NLM_F_ACK; struct nfgenmsg of any family.
    ask_kernel(NETLINK_NETFILTER, 1 << 8 | 2, 0x1 | 0x4, &[0, 0, 0, 0])
}

/// Sends one netlink message and waits for its acknowledgement.
fn ask_kernel(protocol: isize, kind: u16, flags: u16, message: &[u8]) -> std::io::Result<()> {
    let mut bytes = (message.len() as u32 + 16).to_ne_bytes().to_vec();
    bytes.extend([kind.to_ne_bytes(), flags.to_ne_bytes()].concat());
    bytes.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend(message);
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    // struct nlmsgerr behind the header: 0 or a negative errno.
    match answer.get(16..20).and_then(|code| code.try_into().ok()).map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(code) => Err(std::io::Error::from_raw_os_error(-code)),
        None => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}
