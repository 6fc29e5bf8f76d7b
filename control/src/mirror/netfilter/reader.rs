//! Runs the tools that print the rules.

use std::collections::BTreeMap;
use std::future::Future;
use std::process::Stdio;
use std::sync::Arc;

use shunt_policy::Family;
use shunt_policy::config::Source;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use super::ipset::{self, IpSets};
use super::kernel;
use super::nft::{self, Ruleset};
use super::xt;
use super::{Dialect, Fault, LONGEST, Netfilter, PATIENCE};

/// The tables that iptables knows (`xtables_builtin_tables`).
const IPTABLES: [&str; 5] = ["filter", "nat", "mangle", "raw", "security"];
/// So often it is read anew at once when something has changed meanwhile.
const ATTEMPTS: u32 = 5;
/// What a tool says of its trouble, in bytes.
const COMPLAINT: u64 = 64 << 10;

/// Which tables iptables-legacy has made, from `/proc`: its rules give no event, and without tables there are none.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LegacyTables {
    pub(super) v4: String,
    pub(super) v6: String,
}

impl LegacyTables {
    pub fn read() -> Self {
        // Not there on kernels without the legacy back end.
        let names = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
        LegacyTables { v4: names("/proc/net/ip_tables_names"), v6: names("/proc/net/ip6_tables_names") }
    }

    pub fn any(&self) -> bool {
        !self.v4.is_empty() || !self.v6.is_empty()
    }
}

/// What was read, and of which generation of nftables it is.
#[derive(Clone, Debug)]
pub struct Reading {
    pub netfilter: Netfilter,
    generation: Option<u32>,
}

/// Reads everything. What `known` holds of nftables is taken from there as long as it is of the
/// present generation.
///
/// # Errors
///
/// A tool's, or that the rules changed each time while they were being read: a mixture is never believed.
pub async fn read(known: Option<Reading>) -> Result<Reading, Fault> {
    for _ in 0..ATTEMPTS {
        let (generation, interfaces) = (generation()?, interfaces()?);
        let holds = |known: &&Reading| {
            known.generation.is_some() && known.generation == generation && known.netfilter.nft.names.hold(&interfaces)
        };
        let known = known.as_ref().filter(holds);
        let read = match known {
            Some(known) => Ok((known.netfilter.nft.clone(), by_iptables_nft(&known.netfilter))),
            None => nftables(&interfaces).await,
        };
        let read = match read {
            Ok((nft, saved)) => by_polling(nft, saved).await,
            Err(fault) => Err(fault),
        };
        // What fails may do so because of the change.
        if self::generation()? != generation {
            continue;
        }
        let netfilter = read?;
        if netfilter.nft.names.hold(&self::interfaces()?) {
            return Ok(Reading { netfilter, generation });
        }
    }
    Err(Fault::Restless)
}

fn generation() -> Result<Option<u32>, Fault> {
    kernel::generation().map_err(|error| Fault::Kernel { problem: error.to_string() })
}

/// By name.
fn interfaces() -> Result<BTreeMap<String, u32>, Fault> {
    let all = nix::net::if_::if_nameindex().map_err(|error| Fault::Kernel { problem: error.to_string() })?;
    Ok(all.iter().map(|one| (one.name().to_string_lossy().into_owned(), one.index())).collect())
}

fn by_iptables_nft(netfilter: &Netfilter) -> Vec<Dialect> {
    netfilter.saved.iter().filter(|dialect| dialect.source == Source::IptablesNft).cloned().collect()
}

/// Native tables, and those of iptables-nft.
async fn nftables(interfaces: &BTreeMap<String, u32>) -> Result<(Arc<Ruleset>, Vec<Dialect>), Fault> {
    let mut ruleset = native().await?;
    let written_by_iptables = |family: &str| {
        ruleset.tables.iter().any(|table| table.family.word() == family && IPTABLES.contains(&table.name.as_str()))
    };
    let (v4, v6) = tokio::try_join!(
        when(written_by_iptables("ip"), saved_by("iptables-nft-save", Family::V4, Source::IptablesNft)),
        when(written_by_iptables("ip6"), saved_by("ip6tables-nft-save", Family::V6, Source::IptablesNft)),
    )?;
    let mut saved: Vec<Dialect> = v4.into_iter().chain(v6).collect();
    for Dialect { family, saved, .. } in &mut saved {
        saved.keep_own(&ruleset.tables, *family);
        saved.note_foreign(&ruleset.tables, *family);
    }
    // The others are native, whatever their name.
    ruleset.tables.retain(|table| {
        let own = |dialect: &Dialect| {
            family_word(dialect.family) == table.family.word() && dialect.saved.table(&table.name).is_some()
        };
        !saved.iter().any(own)
    });
    ruleset.names = nft::Names::read(&ruleset, interfaces);
    Ok((Arc::new(ruleset), saved))
}

fn family_word(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// All tables. nft 1.0.6 prints a table that has flags as anything but JSON (`table_print_json` there), so if there are such all are
/// asked for by themselves.
async fn native() -> Result<Ruleset, Fault> {
    let tables = kernel::tables().map_err(|error| Fault::Kernel { problem: error.to_string() })?;
    if tables.iter().all(|table| !table.has_flags) {
        return listed(&["list", "ruleset"]).await;
    }
    let mut ruleset = Ruleset::default();
    for table in &tables {
        let listed = listed(&["list", "table", table.family, &table.name]).await?.tables;
        if table.dormant { &mut ruleset.asleep } else { &mut ruleset.tables }.extend(listed);
    }
    Ok(ruleset)
}

async fn listed(what: &[&str]) -> Result<Ruleset, Fault> {
    let arguments = [&["--stateless", "--json"], what].concat();
    let printed = run("nft", "nftables", &arguments).await?;
    let parsed = aside("nft", move || nft::parse(&String::from_utf8_lossy(&printed))).await?;
    parsed.map_err(|error| Fault::Failed { tool: "nft", problem: error.to_string() })
}

/// Adds what gives no event: iptables-legacy, and the sets that rules name.
async fn by_polling(nft: Arc<Ruleset>, mut saved: Vec<Dialect>) -> Result<Netfilter, Fault> {
    saved.extend(legacy().await?);
    saved.sort_by_key(|dialect| dialect.family);
    let mut netfilter = Netfilter { saved, nft, ..Netfilter::default() };
    if netfilter.names_sets() {
        netfilter.ipsets = ipsets().await?;
    }
    Ok(netfilter)
}

async fn ipsets() -> Result<IpSets, Fault> {
    let printed = run("ipset", "ipset", &["save"]).await?;
    let ipsets = aside("ipset", move || ipset::parse(&String::from_utf8_lossy(&printed))).await?;
    match ipsets.cut {
        true => Err(Fault::Failed { tool: "ipset", problem: "its output ends in the middle of a line".to_owned() }),
        false => Ok(ipsets.without_counts()),
    }
}

async fn legacy() -> Result<Vec<Dialect>, Fault> {
    let tables = LegacyTables::read();
    let (v4, v6) = tokio::try_join!(
        when(!tables.v4.is_empty(), saved_by("iptables-legacy-save", Family::V4, Source::IptablesLegacy)),
        when(!tables.v6.is_empty(), saved_by("ip6tables-legacy-save", Family::V6, Source::IptablesLegacy)),
    )?;
    Ok(v4.into_iter().chain(v6).collect())
}

async fn when<T>(wanted: bool, what: impl Future<Output = Result<T, Fault>>) -> Result<Option<T>, Fault> {
    if wanted { what.await.map(Some) } else { Ok(None) }
}

async fn saved_by(tool: &'static str, family: Family, source: Source) -> Result<Dialect, Fault> {
    let printed = run(tool, "iptables", &[]).await?;
    let saved = aside(tool, move || xt::parse(&String::from_utf8_lossy(&printed), family)).await?;
    if saved.cut {
        return Err(Fault::Failed { tool, problem: "its output ends in the middle of a table".to_owned() });
    }
    Ok(Dialect { family, source, saved })
}

/// Does what may take a while where it keeps nobody waiting.
pub(super) async fn aside<T: Send + 'static>(
    tool: &'static str,
    what: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Fault> {
    let done = tokio::task::spawn_blocking(what).await;
    done.map_err(|error| Fault::Failed { tool, problem: format!("its output cannot be read: {error}") })
}

/// Runs a tool to its end. What it prints may hold any bytes, in comments.
pub(super) async fn run(tool: &'static str, package: &'static str, arguments: &[&str]) -> Result<Vec<u8>, Fault> {
    let missing = |error: std::io::Error| Fault::Missing { tool, package, problem: error.to_string() };
    let mut command = Command::new(tool);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A tool that hangs, or talks without end, must not outlive our patience.
    let mut child = command.kill_on_drop(true).spawn().map_err(missing)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let talk = async {
        let (printed, complaint) = tokio::try_join!(
            async {
                let printed = up_to(stdout, LONGEST + 1).await.map_err(missing)?;
                if printed.len() as u64 > LONGEST { Err(Fault::TooLong { tool }) } else { Ok(printed) }
            },
            async { up_to(stderr, COMPLAINT).await.map_err(missing) },
        )?;
        Ok((printed, complaint, child.wait().await.map_err(missing)?))
    };
    let (printed, complaint, status) =
        tokio::time::timeout(PATIENCE, talk).await.unwrap_or(Err(Fault::TimedOut { tool }))?;
    if !status.success() {
        let problem = String::from_utf8_lossy(&complaint).trim().to_owned();
        return Err(Fault::Failed { tool, problem: format!("{problem} ({status})") });
    }
    Ok(printed)
}

async fn up_to(pipe: Option<impl AsyncRead + Unpin>, bytes: u64) -> std::io::Result<Vec<u8>> {
    let mut read = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(bytes).read_to_end(&mut read).await?;
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(arguments: &[&str]) -> Result<Vec<u8>, Fault> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run("sh", "dash", arguments))
    }

    #[test]
    fn a_tool_that_talks_without_end_is_ended() {
        assert_eq!(outcome(&["-c", "exec cat /dev/zero"]), Err(Fault::TooLong { tool: "sh" }));
    }

    #[test]
    fn a_tool_that_hangs_is_ended() {
        assert_eq!(outcome(&["-c", "echo half; exec sleep 60"]), Err(Fault::TimedOut { tool: "sh" }));
    }

    #[test]
    fn a_tool_that_fails_says_why() {
        let Err(Fault::Failed { problem, .. }) = outcome(&["-c", "echo half; echo no memory >&2; exit 3"]) else {
            panic!("it did not fail")
        };
        assert!(problem.contains("no memory") && problem.contains('3'), "{problem}");
        assert_eq!(outcome(&["-c", "printf 'a\\377b'"]), Ok(b"a\xffb".to_vec()));
    }
}
