//! What something was measured on.

use serde_json::{Value, json};

/// Cores, processor, kernel, load now, date.
pub fn machine() -> Value {
    let said = |command: &str| {
        let output = std::process::Command::new("sh").args(["-c", command]).output().expect("sh runs");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    json!({
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "cpu": said("sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n1"),
        "kernel": said("uname -r"),
        // What else ran: the times of changes are those of a machine that has other work, too.
        "load": said("cut -d' ' -f1 /proc/loadavg").parse::<f64>().unwrap_or(0.0),
        "date": said("date -u +%F"),
    })
}
