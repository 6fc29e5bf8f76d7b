//! What can be said on the command line.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use shunt_policy::Mac;

/// Where the daemon listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/shunt.sock";

/// Userspace router for Linux: mirrors the kernel's marks, rules and tables, and forwards the packets itself.
#[derive(Parser, Debug)]
#[command(name = "shunt", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Take interfaces and forward until SIGTERM or SIGINT
    Run(RunArgs),
    /// What the running daemon does: ports, workers, policy, counters
    Status(AskArgs),
    /// The numbers of `status` in the text format of Prometheus
    Metrics(MetricsArgs),
    /// What of the kernel's configuration is mirrored exactly, what is punted, what is not supported
    Check(AskArgs),
    /// Follow one packet through the rules
    Explain(ExplainArgs),
    /// Hold the running daemon's decisions against the kernel's, under live traffic
    Verify(VerifyArgs),
    /// What the running daemon believes the kernel to hold
    Mirror(MirrorArgs),
    /// Every mirrored rule of netfilter, with its packets and bytes
    Rules(AskArgs),
    /// Read everything anew, and say what had differed
    Reload(AskArgs),
    /// Measure shunt against the kernel, in network namespaces that are gone afterwards
    Bench(BenchArgs),
}

#[derive(Args, Debug, Default)]
pub struct RunArgs {
    /// Interface to take; repeatable [default: every Ethernet interface that is up]
    #[arg(long, value_name = "IF")]
    pub dev: Vec<String>,
    /// Worker threads, each on a core of its own [default: one per core]
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
    /// auto, native or generic [default: auto]
    #[arg(long, value_name = "MODE")]
    pub xdp_mode: Option<String>,
    /// auto, require or off [default: auto]
    #[arg(long, value_name = "MODE")]
    pub zero_copy: Option<String>,
    /// Whether the XDP program forwards flows that workers have decided about: auto (where frames are copied to them), on or off
    /// [default: auto]
    #[arg(long, value_name = "MODE")]
    pub replay: Option<String>,
    /// Control socket [default: /run/shunt.sock]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Room for the kernel's events in bytes; one of a route takes about 1000 [default: 67108864]
    #[arg(long, value_name = "BYTES")]
    pub event_buffer: Option<usize>,
    /// Room for so many connections, of all workers together [default: net.netfilter.nf_conntrack_max]
    #[arg(long, value_name = "N")]
    pub connections: Option<usize>,
    /// TOML file with the same keys; the command line wins
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct MirrorArgs {
    /// IPv4 only
    #[arg(short = '4', conflicts_with = "six")]
    pub four: bool,
    /// IPv6 only
    #[arg(short = '6')]
    pub six: bool,
    /// Routes of this table only, by name or number
    #[arg(long, value_name = "TABLE")]
    pub table: Option<String>,
    #[command(flatten)]
    pub ask: AskArgs,
}

#[derive(Args, Debug)]
pub struct AskArgs {
    /// Machine-readable output
    #[arg(long)]
    pub json: bool,
    /// Control socket of the daemon
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
}

#[derive(Args, Debug)]
pub struct MetricsArgs {
    /// Control socket of the daemon
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
}

#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// End when so many decisions have been compared
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub samples: u64,
    /// End after so many seconds
    #[arg(long, value_name = "S", default_value_t = 10)]
    pub seconds: u64,
    #[command(flatten)]
    pub ask: AskArgs,
}

#[derive(Args, Debug)]
pub struct BenchArgs {
    /// Measure between ports of this machine: the router's two, --dev A --dev B [default: veth pairs]
    #[arg(long, value_name = "IF")]
    pub dev: Vec<String>,
    /// The load's two, --load C --load D: a cable joins C to A, another D to B
    #[arg(long, value_name = "IF")]
    pub load: Vec<String>,
    /// Measure this one only; repeatable [default: all]
    #[arg(long, value_name = "NAME")]
    pub scenario: Vec<String>,
    /// How often each router is measured in each scenario, by turns
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// How long each time with many packets on their way, and half as long with few
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = seconds)]
    pub seconds: f64,
    /// Where the results go
    #[arg(long, value_name = "FILE", default_value = "shunt-bench.json")]
    pub json: PathBuf,
    /// Where the page with plots goes
    #[arg(long, value_name = "FILE", default_value = "shunt-bench.html")]
    pub html: PathBuf,
    /// Only say which scenarios there are
    #[arg(long)]
    pub list: bool,
}

impl BenchArgs {
    pub fn time(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

/// A time that can be measured in.
fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.1..=600.0).contains(seconds));
    seconds.ok_or_else(|| "expected seconds from 0.1 to 600".to_owned())
}

#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// Interface by which the packet arrives
    #[arg(long, value_name = "IF")]
    pub iif: String,
    /// Source address
    #[arg(long, value_name = "A")]
    pub src: IpAddr,
    /// Destination address
    #[arg(long, value_name = "B")]
    pub dst: IpAddr,
    /// tcp, udp, icmp, icmpv6, or a number
    #[arg(long, value_name = "P", value_parser = protocol)]
    pub proto: u8,
    /// Source port
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub sport: u16,
    /// Destination port
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub dport: u16,
    /// TOS or traffic class byte, decimal or 0x..
    #[arg(long, value_name = "X", default_value = "0", value_parser = byte)]
    pub tos: u8,
    /// Mark with which the packet arrives, decimal or 0x..
    #[arg(long, value_name = "M", default_value = "0", value_parser = number)]
    pub mark: u32,
    /// TTL or hop limit with which the packet arrives
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub ttl: u8,
    /// Length of the IP packet in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 84)]
    pub length: u32,
    /// ICMP or ICMPv6 type [default: echo request]
    #[arg(long, value_name = "N")]
    pub icmp_type: Option<u8>,
    /// ICMP or ICMPv6 code
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub icmp_code: u8,
    /// Flags of a TCP packet, say syn,ack; a SYN comes with an MSS of 1460
    #[arg(long, value_name = "FLAGS", default_value = "syn", value_parser = tcp_flags)]
    pub tcp_flags: u8,
    /// Source address of the frame
    #[arg(long, value_name = "MAC", default_value = "00:00:00:00:00:00", value_parser = mac)]
    pub mac: Mac,
    #[command(flatten)]
    pub ask: AskArgs,
}

fn protocol(text: &str) -> Result<u8, String> {
    Ok(match text {
        "icmp" => 1,
        "tcp" => 6,
        "udp" => 17,
        "gre" => 47,
        "esp" => 50,
        "icmpv6" | "ipv6-icmp" => 58,
        "sctp" => 132,
        "udplite" => 136,
        _ => text
            .parse()
            .map_err(|_| "expected tcp, udp, icmp, icmpv6, gre, esp, sctp, udplite or a number".to_owned())?,
    })
}

/// The flags in the order of their bits.
const TCP_FLAGS: [&str; 8] = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"];

fn tcp_flags(text: &str) -> Result<u8, String> {
    let flag = |name: &str| {
        let bit = TCP_FLAGS.iter().position(|flag| flag.eq_ignore_ascii_case(name));
        bit.map(|bit| 1 << bit).ok_or_else(|| format!("expected some of {}", TCP_FLAGS.join(",")))
    };
    text.split(',').filter(|name| !matches!(*name, "" | "none")).try_fold(0, |flags, name| Ok(flags | flag(name)?))
}

fn mac(text: &str) -> Result<Mac, String> {
    Mac::parse(text).ok_or_else(|| "expected an address like 02:00:00:00:00:01".to_owned())
}

fn number(text: &str) -> Result<u32, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| "expected a number of 32 bits, decimal or 0x..".to_owned())
}

fn byte(text: &str) -> Result<u8, String> {
    number(text)?.try_into().map_err(|_| "expected a number from 0 to 255 (0xff)".to_owned())
}
