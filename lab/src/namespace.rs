//! One network namespace, and processes in it.

use std::fs::File;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sched::{CloneFlags, setns};

/// A network namespace of the lab.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
    /// The other ends of its veth pairs: namespace and device.
    far_ends: Arc<Mutex<Vec<(Namespace, String)>>>,
}

/// What a command printed.
#[derive(Clone, Debug)]
pub struct Output {
    pub stdout: String,
    pub stderr: String,
    /// Exit code; -1 if a signal ended it.
    pub code: i32,
}

/// A command that did not do its work.
#[derive(thiserror::Error, Clone, PartialEq, Eq, Debug)]
#[error("in {place}: {command}\n{said}")]
pub struct Failed {
    /// The namespace, or `the lab`.
    pub place: String,
    pub command: String,
    /// Exit code and all that it printed.
    pub said: String,
}

/// A process that ends with its owner, or with the thread that started it.
#[derive(Debug)]
pub struct Process(Child);

impl Namespace {
    pub(super) fn create(name: &str) -> Result<Self, Failed> {
        run_here(&format!("ip netns add {name}"))?;
        let namespace = Namespace { name: name.to_owned(), far_ends: Arc::default() };
        // No waiting for duplicate address detection, and no router advertisements of our own making.
        let keys = ["default.accept_dad", "all.accept_dad", "default.dad_transmits", "default.router_solicitations"];
        let keys = keys.map(|key| format!("net.ipv6.conf.{key}=0")).join(" ");
        namespace.attempt(&format!("ip link set lo up && sysctl -qw {keys}"))?;
        Ok(namespace)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_wired_to(&self, (namespace, device): (&Namespace, &str)) {
        // By its name alone: two that know each other would never go.
        let far = Namespace { name: namespace.name.clone(), far_ends: Arc::default() };
        self.far_ends.lock().unwrap_or_else(PoisonError::into_inner).push((far, device.to_owned()));
    }

    /// The other ends of its veth pairs.
    pub(super) fn far_ends(&self) -> Vec<(Namespace, String)> {
        self.far_ends.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs a shell command to its end.
    ///
    /// # Panics
    ///
    /// If it fails, with what it said.
    pub fn run(&self, command: &str) -> String {
        self.attempt(command).unwrap_or_else(|failed| panic!("{failed}"))
    }

    /// Runs a shell command to its end.
    ///
    /// # Errors
    ///
    /// If it fails, with what it said.
    pub fn attempt(&self, command: &str) -> Result<String, Failed> {
        outcome(&self.name, command, self.try_run(command))
    }

    /// The same with `input` to read.
    pub fn feed(&self, command: &str, input: &str) -> Result<String, Failed> {
        let mut process = self.command(&["sh", "-c", command]);
        process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = process.spawn().and_then(|mut child| {
            let stdin = child.stdin.take();
            std::thread::scope(|scope| {
                // Who ends early says himself why.
                scope.spawn(|| stdin.map(|mut stdin| stdin.write_all(input.as_bytes())));
                child.wait_with_output()
            })
        });
        let output = output.unwrap_or_else(|error| panic!("in {}: {command}: {error}", self.name));
        outcome(&self.name, command, output.into())
    }

    /// The same, whatever its exit code.
    pub fn try_run(&self, command: &str) -> Output {
        let output = self.command(&["sh", "-c", command]).stdin(Stdio::null()).output();
        let output = output.unwrap_or_else(|error| panic!("in {}: {command}: {error}", self.name));
        output.into()
    }

    /// Starts a command and lets it run.
    pub fn spawn(&self, words: &[&str]) -> Process {
        let child = self.command(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Process(child.unwrap_or_else(|error| panic!("in {}: {words:?}: {error}", self.name)))
    }

    /// A command in this namespace that the kernel kills with the thread that starts it.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "ip", "netns", "exec", &self.name]).args(words);
        command
    }

    /// Calls `what` on a thread in this namespace.
    pub fn enter<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.join();
                what()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread into this namespace.
    fn join(&self) {
        let file = File::open(format!("/run/netns/{}", self.name));
        let file = file.unwrap_or_else(|error| panic!("namespace {}: {error}", self.name));
        setns(file, CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| panic!("namespace {}: {error}", self.name));
    }

    /// How many packets the kernel has forwarded here: IPv4 and IPv6.
    pub fn kernel_forwarded(&self) -> u64 {
        let text = self.run("cat /proc/net/snmp /proc/net/snmp6");
        let mut tables = text.lines().filter(|line| line.starts_with("Ip: "));
        let (names, values) = (tables.next().unwrap_or_default(), tables.next().unwrap_or_default());
        let v4 = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "ForwDatagrams");
        let v4: u64 = v4.and_then(|(_, value)| value.parse().ok()).expect("ForwDatagrams in /proc/net/snmp");
        let v6 = text.lines().find_map(|line| line.strip_prefix("Ip6OutForwDatagrams"));
        let v6: u64 = v6.and_then(|value| value.trim().parse().ok()).expect("Ip6OutForwDatagrams in /proc/net/snmp6");
        v4 + v6
    }

    /// Packets that an interface has received and sent, from its own counters.
    pub fn packets(&self, device: &str) -> (u64, u64) {
        let read = |what: &str| -> u64 {
            let text = self.run(&format!("cat /sys/class/net/{device}/statistics/{what}"));
            text.trim().parse().unwrap_or_else(|_| panic!("{what} of {device}: {text}"))
        };
        (read("rx_packets"), read("tx_packets"))
    }

    /// Ethernet address of an interface.
    pub fn mac(&self, device: &str) -> [u8; 6] {
        let text = self.run(&format!("cat /sys/class/net/{device}/address"));
        let bytes: Vec<u8> =
            text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).expect("a hexadecimal byte")).collect();
        bytes.try_into().expect("six bytes")
    }
}

/// Runs a shell command in the lab but in no namespace of it.
pub fn run_here(command: &str) -> Result<String, Failed> {
    let output = Command::new("sh").args(["-c", command]).stdin(Stdio::null()).output();
    outcome("the lab", command, output.unwrap_or_else(|error| panic!("sh: {error}")).into())
}

fn outcome(place: &str, command: &str, output: Output) -> Result<String, Failed> {
    let Output { stdout, stderr, code } = output;
    match code {
        0 => Ok(stdout),
        _ => Err(Failed {
            place: place.to_owned(),
            command: command.to_owned(),
            said: format!("exit code {code}\n{stdout}{stderr}"),
        }),
    }
}

impl From<std::process::Output> for Output {
    fn from(output: std::process::Output) -> Self {
        Output {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code().unwrap_or(-1),
        }
    }
}

impl Process {
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    pub(super) fn from_child(child: Child) -> Self {
        Process(child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
