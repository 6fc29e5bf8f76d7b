//! What was seen, and what should have been.

use std::fmt;
use std::time::Duration;

/// The router's uplinks.
pub(super) const UPLINKS: [&str; 3] = ["eth1", "ppp0", "isdn0"];

/// Kinds of traffic, and the iptables matches by which the ISPs count them.
pub(super) const KINDS: [(&str, &str); 5] = [
    ("mail", "-p tcp --dport 25"),
    ("ben-mail", "-p tcp --dport 25 -s 192.0.2.20"),
    ("web", "-p tcp --dport 80"),
    ("interactive", "-p tcp --dport 22"),
    ("stream", "-p udp --dport 5000"),
];

/// Place of a kind in the counts.
pub(super) fn kind(name: &str) -> usize {
    KINDS.iter().position(|(kind, _)| *kind == name).expect("a kind of traffic")
}

/// Packets, by the counters of those who saw them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Census {
    /// By uplink and kind of traffic, as the ISPs counted.
    pub by_uplink: [[u64; KINDS.len()]; UPLINKS.len()],
    /// Forwarded by the router's kernel.
    pub kernel: u64,
    /// Forwarded by the workers.
    pub workers: u64,
    /// Handed to the kernel by the workers.
    pub punted: u64,
}

impl Census {
    /// What has come since an earlier one.
    pub(super) fn since(&self, before: &Census) -> Census {
        let mut since = self.clone();
        for (now, then) in since.by_uplink.iter_mut().flatten().zip(before.by_uplink.iter().flatten()) {
            *now -= then;
        }
        since.kernel -= before.kernel;
        since.workers -= before.workers;
        since.punted -= before.punted;
        since
    }
}

/// A stretch of the demo.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Phase {
    pub title: &'static str,
    pub seen: Census,
}

impl Phase {
    /// Packets of a kind by an uplink.
    pub fn count(&self, uplink: &str, name: &str) -> u64 {
        let at = UPLINKS.iter().position(|one| *one == uplink).expect("an uplink");
        self.seen.by_uplink[at][kind(name)]
    }

    pub(super) fn line(&self) -> String {
        let mut parts = Vec::new();
        for (uplink, counts) in UPLINKS.iter().zip(&self.seen.by_uplink) {
            let kinds = KINDS.iter().zip(counts).filter(|((kind, _), count)| **count > 0 && *kind != "ben-mail");
            let kinds: Vec<_> = kinds.map(|((kind, _), count)| format!("{kind} {count}")).collect();
            if !kinds.is_empty() {
                parts.push(format!("{uplink}: {}", kinds.join(", ")));
            }
        }
        parts.join("; ")
    }
}

/// The whole demo.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    pub phases: Vec<Phase>,
    /// From the return of the command that deleted a rule to the last packet by it that was seen.
    pub switched: Duration,
    /// Longest silence of a 1 ms stream around the death of the process.
    pub silence: Duration,
    pub lost_at_death: u64,
    /// TCP exchanges that did not come to their end while shunt ran.
    pub errors: u64,
}

impl Report {
    /// Whatever was not as the chapter says. Empty is a success.
    pub fn disappointments(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut expect = |phase: usize, what: &str, holds: bool| {
            if !holds {
                wrong.push(format!("{}: {what}", self.phases[phase].title));
            }
        };
        // For each phase the kinds of traffic that go by each uplink; whatever else goes there is wrong.
        let by_phase: [[&[&str]; 3]; 7] = [
            [&["mail", "ben-mail", "web", "interactive", "stream"], &[], &[]],
            [&["web", "interactive", "stream"], &["mail", "ben-mail"], &[]],
            [&["web", "stream"], &["mail", "ben-mail"], &["interactive"]],
            [&["mail", "ben-mail", "web", "stream"], &["mail"], &["interactive"]],
            [&["mail", "ben-mail", "web", "stream"], &[], &["interactive"]],
            [&["mail", "ben-mail", "web", "stream"], &[], &["interactive"]],
            [&["web", "stream"], &["mail", "ben-mail"], &["interactive"]],
        ];
        for (at, (phase, uplinks)) in self.phases.iter().zip(by_phase).enumerate() {
            for (uplink, kinds) in UPLINKS.iter().zip(uplinks) {
                for (name, _) in KINDS {
                    let count = phase.count(uplink, name);
                    let due = kinds.contains(&name);
                    expect(at, &format!("{count} packets of {name} by {uplink}"), (count > 0) == due);
                }
            }
            let Census { kernel, workers, punted, .. } = phase.seen;
            if at + 1 < self.phases.len() {
                expect(at, &format!("the workers forwarded {workers}"), workers > 100);
                expect(at, &format!("the kernel forwarded {kernel}, of {punted} punted"), kernel <= punted);
            } else {
                expect(at, &format!("the kernel forwarded {kernel}"), kernel > 100);
            }
        }
        if self.phases.len() != 7 {
            wrong.push(format!("{} phases of 7", self.phases.len()));
        }
        if self.errors > 0 {
            wrong.push(format!("{} TCP exchanges failed while shunt ran", self.errors));
        }
        if self.silence > Duration::from_millis(50) {
            wrong.push(format!("a silence of {:?} when the process died", self.silence));
        }
        wrong
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Packets towards the servers, as the ISPs counted them:")?;
        write!(f, "{:<34}", "")?;
        for uplink in UPLINKS {
            write!(f, "| {uplink:<29}")?;
        }
        writeln!(f, "| the router")?;
        write!(f, "{:<34}", "")?;
        for _ in UPLINKS {
            write!(f, "| {:>4} {:>4} {:>6} {:>6}     ", "mail", "web", "inter.", "stream")?;
        }
        writeln!(f, "| workers  kernel  punted")?;
        for phase in &self.phases {
            write!(f, "{:<34}", phase.title)?;
            for uplink in UPLINKS {
                let [mail, web, inter, stream] =
                    ["mail", "web", "interactive", "stream"].map(|kind| phase.count(uplink, kind));
                write!(f, "| {mail:>4} {web:>4} {inter:>6} {stream:>6}     ")?;
            }
            let Census { kernel, workers, punted, .. } = phase.seen;
            writeln!(f, "| {workers:>7} {kernel:>7} {punted:>7}")?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "Rules: mail by fwmark 1 -> table mail.out (ppp0); interactive by fwmark 2 -> table isdn.out (isdn0); the rest main."
        )?;
        match self.switched {
            Duration::ZERO => writeln!(f, "Rule deleted: no mail by ppp0 after the command had returned.")?,
            late => writeln!(f, "Rule deleted: the last mail by ppp0 {late:.0?} after the command had returned.")?,
        }
        writeln!(
            f,
            "Process killed: longest silence {:.1?} in a stream of one packet each ms, {} lost.",
            self.silence, self.lost_at_death
        )?;
        write!(f, "TCP exchanges that failed while shunt ran: {}.", self.errors)
    }
}
