//! How to run: the command line over the config file over the defaults.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use shunt_dataplane::{ReplayMode, XdpMode, ZeroCopy};

use crate::cli::{DEFAULT_SOCKET, RunArgs};
use crate::mirror::EVENT_BUFFER;

/// 12 GiB of them.
const MOST_CONNECTIONS: usize = 1 << 26;

/// Settings of one run of the daemon.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Interfaces asked for by name; empty is "all that suit".
    pub devices: Vec<String>,
    pub workers: usize,
    pub xdp_mode: XdpMode,
    pub zero_copy: ZeroCopy,
    pub replay: ReplayMode,
    pub socket: PathBuf,
    /// Bytes of events of the kernel's that may wait for us.
    pub event_buffer: usize,
    /// Connections of all workers together; `None` is as many as the kernel may have.
    pub connections: Option<usize>,
}

/// Why the settings cannot be used.
#[derive(thiserror::Error, Debug)]
pub enum SettingsError {
    #[error("cannot read the config file {path}: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    /// The parser's text names line and column and shows the line.
    #[error("config file {path}: {problem}")]
    Malformed { path: PathBuf, problem: String },
    #[error("{key} = {value:?}: expected {expected}")]
    Value { key: &'static str, value: String, expected: &'static str },
}

/// The file's keys: those of the command line, with underscores.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct File {
    dev: Option<Vec<String>>,
    workers: Option<usize>,
    xdp_mode: Option<String>,
    zero_copy: Option<String>,
    replay: Option<String>,
    socket: Option<PathBuf>,
    event_buffer: Option<usize>,
    connections: Option<usize>,
}

impl Settings {
    /// Settings from the command line and, if it names one, the config file.
    pub fn from_args(args: &RunArgs) -> Result<Self, SettingsError> {
        let file = args.config.as_deref().map(File::read).transpose()?.unwrap_or_default();
        let workers = args.workers.or(file.workers).unwrap_or_else(cores);
        if !(1..=64).contains(&workers) {
            let value = workers.to_string();
            return Err(SettingsError::Value { key: "workers", value, expected: "a number from 1 to 64" });
        }
        let connections = args.connections.or(file.connections);
        if connections.is_some_and(|count| !(1024..=MOST_CONNECTIONS).contains(&count)) {
            let value = connections.unwrap_or_default().to_string();
            return Err(SettingsError::Value { key: "connections", value, expected: "a number from 1024 to 67108864" });
        }
        Ok(Settings {
            connections,
            devices: if args.dev.is_empty() { file.dev.unwrap_or_default() } else { args.dev.clone() },
            workers,
            xdp_mode: xdp_mode(args.xdp_mode.clone().or(file.xdp_mode))?,
            zero_copy: zero_copy(args.zero_copy.clone().or(file.zero_copy))?,
            replay: replay(args.replay.clone().or(file.replay))?,
            event_buffer: args.event_buffer.or(file.event_buffer).unwrap_or(EVENT_BUFFER),
            socket: args.socket.clone().or(file.socket).unwrap_or_else(|| DEFAULT_SOCKET.into()),
        })
    }
}

impl File {
    fn read(path: &Path) -> Result<Self, SettingsError> {
        let path = path.to_owned();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(source) => return Err(SettingsError::Unreadable { path, source }),
        };
        toml::from_str(&text).map_err(|error| SettingsError::Malformed { path, problem: error.to_string() })
    }
}

/// Cores that this process may use.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(64)
}

fn xdp_mode(text: Option<String>) -> Result<XdpMode, SettingsError> {
    match text.as_deref() {
        None | Some("auto") => Ok(XdpMode::Auto),
        Some("native") => Ok(XdpMode::Native),
        Some("generic") => Ok(XdpMode::Generic),
        Some(other) => {
            Err(SettingsError::Value { key: "xdp_mode", value: other.to_owned(), expected: "auto, native or generic" })
        }
    }
}

fn zero_copy(text: Option<String>) -> Result<ZeroCopy, SettingsError> {
    match text.as_deref() {
        None | Some("auto") => Ok(ZeroCopy::Auto),
        Some("require") => Ok(ZeroCopy::Require),
        Some("off") => Ok(ZeroCopy::Off),
        Some(other) => {
            Err(SettingsError::Value { key: "zero_copy", value: other.to_owned(), expected: "auto, require or off" })
        }
    }
}

fn replay(text: Option<String>) -> Result<ReplayMode, SettingsError> {
    match text.as_deref() {
        None | Some("auto") => Ok(ReplayMode::Auto),
        Some("on") => Ok(ReplayMode::On),
        Some("off") => Ok(ReplayMode::Off),
        Some(other) => {
            Err(SettingsError::Value { key: "replay", value: other.to_owned(), expected: "auto, on or off" })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<File, SettingsError> {
        let path = std::env::temp_dir().join(format!("shunt-settings-{}-{}.toml", std::process::id(), text.len()));
        std::fs::write(&path, text).unwrap();
        let read = File::read(&path);
        std::fs::remove_file(&path).unwrap();
        read
    }

    #[test]
    fn a_mistake_in_the_file_is_shown_with_line_and_column() {
        let problem = file("dev = [\"eth0\"]\nworkers = two\n").err().unwrap().to_string();
        assert!(problem.contains("line 2, column 11"), "{problem}");
        let problem = file("devices = [\"eth0\"]\n").err().unwrap().to_string();
        assert!(problem.contains("line 1, column 1") && problem.contains("devices"), "{problem}");
    }

    #[test]
    fn the_command_line_wins_over_the_defaults() {
        let args = RunArgs { workers: Some(3), xdp_mode: Some("generic".to_owned()), ..RunArgs::default() };
        let settings = Settings::from_args(&args).unwrap();
        assert_eq!((settings.workers, settings.xdp_mode), (3, XdpMode::Generic));
        assert_eq!(settings.socket, PathBuf::from(DEFAULT_SOCKET));
        let args = RunArgs { xdp_mode: Some("fast".to_owned()), ..RunArgs::default() };
        let problem = Settings::from_args(&args).unwrap_err().to_string();
        assert_eq!(problem, "xdp_mode = \"fast\": expected auto, native or generic");
        assert!(Settings::from_args(&RunArgs { workers: Some(0), ..RunArgs::default() }).is_err());
    }
}
