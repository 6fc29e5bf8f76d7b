//! `shunt`: the command line.

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use serde_json::Value;
use shunt_control::cli::{AskArgs, Cli, Command, ExplainArgs, MirrorArgs, VerifyArgs};
use shunt_control::settings::Settings;
use shunt_control::socket::{Answer, Question, SocketError, ask};
use shunt_control::verify::watch;
use shunt_control::{bench, explain, metrics, ports, rules, status, supervisor};

/// The operator's mistake, or the machine's refusal: nothing was changed.
const REFUSED: u8 = 2;
/// `shunt verify` has found a decision that is not the kernel's.
const DIVERGED: u8 = 1;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => Settings::from_args(&args).map_err(anyhow::Error::from).and_then(run),
        Command::Status(args) => show(&args, &Question::Status, status::text),
        Command::Metrics(args) => {
            asked(&args.socket, &Question::Status).and_then(|status| say(&metrics::text(&status)))
        }
        Command::Check(args) => check(&args),
        Command::Explain(args) => explained(&args),
        Command::Verify(args) => match verified(&args) {
            Ok(true) => Ok(()),
            Ok(false) => return ExitCode::from(DIVERGED),
            Err(error) => Err(error),
        },
        Command::Mirror(args) => held(&args),
        Command::Rules(args) => show(&args, &Question::Rules, rules::text),
        Command::Bench(args) => bench::run(&args).map_err(anyhow::Error::from),
        Command::Reload(args) => show(&args, &Question::Reload, status::reload_text),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shunt: {error}");
            ExitCode::from(REFUSED)
        }
    }
}

fn run(settings: Settings) -> anyhow::Result<()> {
    Ok(runtime()?.block_on(supervisor::run(settings))?)
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

fn show(args: &AskArgs, question: &Question, text: impl Fn(&Value) -> String) -> anyhow::Result<()> {
    let value = asked(&args.socket, question)?;
    print(args.json, &value, text)
}

fn asked(socket: &Path, question: &Question) -> anyhow::Result<Value> {
    match ask(socket, question)? {
        Answer::Ok(value) => Ok(value),
        Answer::Text(text) => Ok(Value::String(text)),
        Answer::Error(problem) => Err(anyhow::anyhow!(problem)),
    }
}

fn print(json: bool, value: &Value, text: impl Fn(&Value) -> String) -> anyhow::Result<()> {
    say(&if json { serde_json::to_string_pretty(value)? } else { text(value) })
}

fn say(shown: &str) -> anyhow::Result<()> {
    use std::io::Write;
    // A reader that has seen enough (`| head`) is not an error.
    let _ = writeln!(std::io::stdout(), "{shown}");
    Ok(())
}

/// From the daemon, or without one from the kernel directly.
fn check(args: &AskArgs) -> anyhow::Result<()> {
    match ask(&args.socket, &Question::Check) {
        Ok(Answer::Ok(value)) => print(args.json, &value, status::check_text),
        Ok(Answer::Text(text)) => say(&text),
        Ok(Answer::Error(problem)) => Err(anyhow::anyhow!(problem)),
        Err(SocketError::NoDaemon { .. }) => {
            let mirror =
                runtime()?.block_on(shunt_control::mirror::Mirror::open(shunt_control::mirror::EVENT_BUFFER))?;
            let eligible = ports::sort(mirror.view(), &[], &[]);
            let translation = shunt_control::translate::translate(mirror.view(), &eligible.numbers());
            print(args.json, &status::check_json(&translation.report(mirror.view())), status::check_text)
        }
        Err(other) => Err(other.into()),
    }
}

fn explained(args: &ExplainArgs) -> anyhow::Result<()> {
    let packet = explain::Packet::from(args);
    show(&args.ask, &Question::Explain(packet.clone()), |answer| explain::text(&packet, answer))
}

/// Says whether every decision was the kernel's.
fn verified(args: &VerifyArgs) -> anyhow::Result<bool> {
    let report = watch::watch(args, || asked(&args.ask.socket, &Question::Status))?;
    print(args.ask.json, &report, watch::text)?;
    anyhow::ensure!(report["compared"] != 0, "nothing could be compared: it takes traffic that the workers see");
    Ok(report["divergences"] == 0)
}

fn held(args: &MirrorArgs) -> anyhow::Result<()> {
    match asked(&args.ask.socket, &Question::Mirror(args.into()))? {
        Value::String(text) => say(&text),
        other => say(&other.to_string()),
    }
}
