//! The "marking packets" chapter, command for command, with real traffic, forwarded by the workers.
//!
//! ```text
//!  anna .10 \                        eth1  --- fast ISP ---\        / mail 198.19.25.25
//!            switch --- eth0 [router] ppp0  --- flat ISP --- core --
//!  ben  .20 /   192.0.2.0/24         isdn0 --- isdn ISP ---/        \ web  198.19.80.80
//! ```
//!
//! The ISPs count what the router sends them, by kind of traffic, with rules of their own; they know nothing of shunt. Answers come
//! back by the fast ISP. Nothing here knows what to expect but [`Report::disappointments`].

mod network;
mod report;
mod traffic;

use std::io::{self, Write};
use std::time::Duration;

use crate::lab::{Daemon, Stream, eventually};
use network::{Network, WEB};
pub use report::{Phase, Report};
use traffic::Traffic;

/// How long the traffic of each phase is watched.
const WATCHED: Duration = Duration::from_millis(2000);

/// Runs the whole chapter, telling it to `out`, and reports what was seen.
///
/// # Errors
///
/// Only of `out`.
///
/// # Panics
///
/// Without root, and where a command of the chapter fails.
pub fn run(out: &mut dyn Write) -> io::Result<Report> {
    writeln!(out, "Building the network: two clients, a router with three uplinks, a mail and a web server.")?;
    let network = Network::build();
    let _servers = network.serve();
    let mut teller = Teller { out, network: &network };

    teller.says("Starting shunt on the router.")?;
    let shunt = network.router.start_shunt("");
    for line in &shunt.greeting {
        writeln!(teller.out, "    {line}")?;
    }
    let traffic = Traffic::start(&network);
    let mut phases = Vec::new();

    phases.push(teller.watch("no marks: all by the fast uplink", Some(&shunt))?);

    teller.says("The chapter: mail is to leave by the cheap link.")?;
    teller.command("iptables -A PREROUTING -i eth0 -t mangle -p tcp --dport 25 -j MARK --set-mark 1")?;
    teller.command("echo 201 mail.out >> /etc/iproute2/rt_tables")?;
    teller.command("ip rule add fwmark 1 table mail.out")?;
    teller.command("ip rule ls")?;
    teller.command("ip route add default via 203.0.113.2 dev ppp0 table mail.out")?;
    phases.push(teller.watch("mail marked: by ppp0", Some(&shunt))?);
    teller.explain(&shunt)?;

    teller.says("A dedicated ISDN line for interactive sessions, told by their TOS.")?;
    teller.command("iptables -A PREROUTING -i eth0 -t mangle -m tos --tos Minimize-Delay -j MARK --set-mark 2")?;
    teller.command("echo 202 isdn.out >> /etc/iproute2/rt_tables")?;
    teller.command("ip rule add fwmark 2 table isdn.out")?;
    teller.command("ip route add default via 198.18.3.2 dev isdn0 table isdn.out")?;
    phases.push(teller.watch("interactive marked: by isdn0", Some(&shunt))?);

    teller.says("First exception: ben's mail is not to be marked.")?;
    teller.command("iptables -t mangle -I PREROUTING 1 -i eth0 -s 192.0.2.20 -p tcp --dport 25 -j ACCEPT")?;
    phases.push(teller.watch("ben excluded: his mail by eth1", Some(&shunt))?);

    teller.says("Second exception: a rule that is asked before, and points to main.")?;
    teller.command("ip rule add from 192.0.2.10 priority 100 table main")?;
    phases.push(teller.watch("anna by main: nothing by ppp0", Some(&shunt))?);
    teller.command("ip rule del from 192.0.2.10 priority 100 table main")?;
    teller.command("iptables -t mangle -D PREROUTING 1")?;
    teller.pause();

    teller.says("A rule is deleted, live.")?;
    let switched = teller.until_gone("mail", 1, "ip rule del fwmark 1 table mail.out")?;
    phases.push(teller.watch("rule deleted: mail by eth1", Some(&shunt))?);
    teller.command("ip rule add fwmark 1 table mail.out")?;
    teller.pause();

    teller.says("The process is killed (SIGKILL). The kernel goes on by the same rules.")?;
    let errors = traffic.errors();
    let stream = Stream::start(&network.anna, WEB, 5000, Duration::from_millis(1));
    std::thread::sleep(Duration::from_millis(300));
    shunt.kill();
    std::thread::sleep(Duration::from_millis(300));
    let silence = stream.finish();
    phases.push(teller.watch("shunt killed: the kernel alone", None)?);
    traffic.stop();

    let report = Report { phases, switched, silence: silence.longest_gap, lost_at_death: silence.lost(), errors };
    writeln!(teller.out, "\n{report}")?;
    Ok(report)
}

/// Shows and does.
struct Teller<'a> {
    out: &'a mut dyn Write,
    network: &'a Network,
}

impl Teller<'_> {
    fn says(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "\n== {text}")
    }

    /// Runs a command on the router, as the chapter has it.
    fn command(&mut self, command: &str) -> io::Result<()> {
        writeln!(self.out, "router# {command}")?;
        for line in self.network.router.run(command).lines() {
            writeln!(self.out, "    {line}")?;
        }
        Ok(())
    }

    /// Lets the last commands take hold, and what was on its way arrive.
    fn pause(&self) {
        std::thread::sleep(Duration::from_millis(700));
    }

    /// Counts what goes where for a while.
    fn watch(&mut self, title: &'static str, shunt: Option<&Daemon>) -> io::Result<Phase> {
        self.pause();
        let before = self.network.census(shunt);
        std::thread::sleep(WATCHED);
        let seen = self.network.census(shunt).since(&before);
        let phase = Phase { title, seen };
        writeln!(self.out, "    {}", phase.line())?;
        Ok(phase)
    }

    /// How long after a command an uplink sees the last of a kind of traffic; looked at each 5 ms.
    fn until_gone(&mut self, kind: &str, uplink: usize, command: &str) -> io::Result<Duration> {
        let count = || self.network.census(None).by_uplink[uplink][report::kind(kind)];
        self.command(command)?;
        let start = std::time::Instant::now();
        let mut last = (count(), Duration::ZERO);
        // Mail is sent all the time: a quarter second without is the end of it.
        eventually(Duration::from_secs(5), || {
            let now = count();
            if now != last.0 {
                last = (now, start.elapsed());
            }
            (start.elapsed() > last.1 + Duration::from_millis(250)).then_some(())
        });
        Ok(last.1)
    }

    fn explain(&mut self, shunt: &Daemon) -> io::Result<()> {
        let question = "--iif eth0 --src 192.0.2.10 --dst 198.19.25.25 --proto tcp --sport 40000 --dport 25";
        writeln!(self.out, "router# shunt explain {question}")?;
        for line in shunt.explain_text(question).lines() {
            writeln!(self.out, "    {line}")?;
        }
        Ok(())
    }
}
