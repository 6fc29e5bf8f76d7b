//! A running `shunt`.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::eventually;
use crate::namespace::{Failed, Namespace, Output, Process};

const PATIENCE: Duration = Duration::from_secs(20);
/// The longest that a decision stays in doubt, and some.
const SETTLING: Duration = Duration::from_secs(8);

/// `shunt run` in a namespace.
pub struct Daemon {
    namespace: Namespace,
    process: Process,
    binary: PathBuf,
    socket: String,
    lines: Receiver<String>,
    /// All that it printed until it was ready.
    pub greeting: Vec<String>,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.was_right();
        }
    }
}

/// How a daemon ended.
#[derive(Debug)]
pub struct Finished {
    /// Exit code; -1 if a signal ended it.
    pub code: i32,
    pub stderr: String,
}

/// The binary under test: `SHUNT_BIN`, or the one built beside the running test.
pub fn shunt_binary() -> PathBuf {
    if let Some(path) = std::env::var_os("SHUNT_BIN") {
        return path.into();
    }
    let own = std::env::current_exe().expect("the path of this program");
    // target/debug/deps/test-1234 or target/debug/demo
    let built = own.ancestors().skip(1).take(2).map(|folder| folder.join("shunt")).find(|path| path.is_file());
    built.expect("shunt is built first: cargo build -p shunt-control")
}

impl Namespace {
    /// Runs a `shunt` command to its end.
    pub fn shunt(&self, arguments: &str) -> Output {
        self.try_run(&format!("{} {arguments}", shunt_binary().display()))
    }

    /// Starts `shunt run` and waits until it forwards.
    ///
    /// # Panics
    ///
    /// If it does not get ready, with what it said.
    pub fn start_shunt(&self, arguments: &str) -> Daemon {
        self.try_start_shunt(&[], &shunt_binary(), arguments).unwrap_or_else(|failed| panic!("{failed}"))
    }

    /// The same with flows that the XDP program forwards.
    pub fn start_shunt_with_replay(&self, arguments: &str) -> Daemon {
        self.prepare_far_ends();
        self.start_shunt(&format!("--replay on {arguments}"))
    }

    /// Has the other ends of its cables take frames that are redirected to them (with GRO a veth has NAPI, see veth_napi_enable), and compute
    /// the checksums of what they send.
    pub fn prepare_far_ends(&self) {
        for (namespace, device) in self.far_ends() {
            namespace.run(&format!("ethtool -K {device} gro on tx off"));
        }
    }

    /// Starts `binary` by the words of `launcher` (`taskset -c 1`, say) and waits until it forwards.
    ///
    /// # Errors
    ///
    /// If it does not get ready, with what it said.
    pub fn try_start_shunt(&self, launcher: &[&str], binary: &Path, arguments: &str) -> Result<Daemon, Failed> {
        let mut daemon = Daemon::spawn(self, launcher, binary, arguments);
        let end = Instant::now() + PATIENCE;
        let failed = |said: String| {
            let command = format!("shunt run {arguments}");
            Err(Failed { place: self.name().to_owned(), command, said })
        };
        loop {
            match daemon.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let ready = line.starts_with("ready");
                    daemon.greeting.push(line);
                    if ready {
                        return Ok(daemon);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    return failed(format!("not ready after {PATIENCE:?}: {:?}", daemon.greeting));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return failed(format!("ended before it was ready: {:?}", daemon.finish()));
                }
            }
        }
    }
}

impl Daemon {
    fn spawn(namespace: &Namespace, launcher: &[&str], binary: &Path, arguments: &str) -> Self {
        let binary = binary.to_str().expect("a path of text");
        let socket = format!("/run/shunt-{}.sock", namespace.name());
        let mut words = launcher.to_vec();
        words.extend([binary, "run", "--socket", &socket]);
        words.extend(arguments.split_whitespace());
        let mut child = namespace
            .command(&words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("setpriv starts");
        let stdout = child.stdout.take().expect("stdout is piped");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let process = Process::from_child(child);
        let binary = binary.into();
        Daemon { namespace: namespace.clone(), process, binary, socket, lines, greeting: Vec::new() }
    }

    /// `shunt status --json`.
    pub fn status(&self) -> Value {
        self.ask("status")
    }

    /// `shunt check --json`, its items.
    pub fn check(&self) -> Vec<Value> {
        self.ask("check")["items"].as_array().expect("items").clone()
    }

    /// The items of `shunt check` whose text contains `text`.
    pub fn checked(&self, text: &str) -> Vec<Value> {
        self.check().into_iter().filter(|item| item["text"].as_str().is_some_and(|own| own.contains(text))).collect()
    }

    /// `shunt explain --json`.
    pub fn explain(&self, arguments: &str) -> Value {
        self.ask(&format!("explain {arguments}"))
    }

    /// `shunt explain` as the operator reads it.
    pub fn explain_text(&self, arguments: &str) -> String {
        self.shunt(&format!("explain {arguments} --socket {}", self.socket)).stdout
    }

    /// `shunt reload --json`.
    pub fn reload(&self) -> Value {
        self.ask("reload")
    }

    /// `shunt rules --json`.
    pub fn rules(&self) -> Value {
        self.ask("rules")
    }

    /// What the mirror holds, as `shunt mirror --json` prints it.
    pub fn mirror(&self) -> Value {
        self.ask("mirror")
    }

    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    fn ask(&self, question: &str) -> Value {
        let output = self.shunt(&format!("{question} --json --socket {}", self.socket));
        assert_eq!(output.code, 0, "shunt {question}: {}", output.stderr);
        serde_json::from_str(&output.stdout)
            .unwrap_or_else(|error| panic!("shunt {question}: {error}: {}", output.stdout))
    }

    fn shunt(&self, arguments: &str) -> Output {
        self.namespace.try_run(&format!("{} {arguments}", self.binary.display()))
    }

    /// Packets forwarded by the workers.
    pub fn forwarded(&self) -> u64 {
        self.status()["counters"]["forwarded"].as_u64().expect("a number")
    }

    /// Packets of one kind (`dropped`, `punted`, `passed`) and reason.
    pub fn counted(&self, kind: &str, reason: &str) -> u64 {
        self.status()["counters"][kind][reason].as_u64().unwrap_or_else(|| panic!("no counter {kind} {reason}"))
    }

    /// All packets that the workers handed to the kernel.
    pub fn punted(&self) -> u64 {
        let status = self.status();
        let punted = status["counters"]["punted"].as_object().expect("reasons");
        punted.values().filter_map(Value::as_u64).sum()
    }

    pub fn generation(&self) -> u64 {
        self.status()["policy"]["generation"].as_u64().expect("a number")
    }

    /// Of the process.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn socket(&self) -> &str {
        &self.socket
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id() as i32), signal).expect("the daemon is there");
    }

    /// SIGTERM, and how it ended.
    pub fn terminate(mut self) -> Finished {
        self.was_right();
        self.signal(Signal::SIGTERM);
        self.finish()
    }

    /// Every decision of its that was held against the kernel's was the same. A doubt has time to settle.
    ///
    /// # Panics
    ///
    /// Where one was not, with both answers. Not for a daemon that has ended by itself.
    fn was_right(&mut self) {
        let is_running = |process: &mut Process| process.child().try_wait().is_ok_and(|ended| ended.is_none());
        let mut verify = Value::Null;
        let settled = eventually(SETTLING, || {
            if !is_running(&mut self.process) {
                return Some(());
            }
            let output = self.shunt(&format!("status --json --socket {}", self.socket));
            let status: Value = serde_json::from_str(&output.stdout).unwrap_or_default();
            verify = status["verify"].clone();
            (verify["pending"] == 0 || verify["divergence_total"] != 0).then_some(())
        });
        if is_running(&mut self.process) {
            assert!(settled.is_some() && verify["divergence_total"] == 0, "not as the kernel decides: {verify:#}");
        }
    }

    /// SIGKILL.
    pub fn kill(self) {
        self.signal(Signal::SIGKILL);
        self.finish();
    }

    /// Waits for the end.
    pub fn finish(mut self) -> Finished {
        let child = self.process.child();
        let end = Instant::now() + PATIENCE;
        let status = loop {
            match child.try_wait().expect("a child of ours") {
                Some(status) => break status,
                None if Instant::now() > end => panic!("shunt does not end"),
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        let mut stderr = String::new();
        if let Some(mut pipe) = child.stderr.take() {
            pipe.read_to_string(&mut stderr).expect("readable text");
        }
        Finished { code: status.code().unwrap_or(-1), stderr }
    }
}
