//! What was measured, and on what.

use std::time::Duration;

use serde_json::{Value, json};

/// The same thing measured several times.
#[derive(Clone, Debug, Default)]
pub struct Spread(Vec<Duration>);

impl Spread {
    pub fn of(times: usize, measure: impl FnMut(usize) -> Duration) -> Spread {
        let mut all: Vec<Duration> = (0..times).map(measure).collect();
        all.sort();
        Spread(all)
    }

    /// The least that is not below this share of all.
    pub fn quantile(&self, share: f64) -> Duration {
        let rank = (share * self.0.len() as f64).ceil() as usize;
        self.0[rank.clamp(1, self.0.len()) - 1]
    }

    pub fn median(&self) -> Duration {
        self.quantile(0.5)
    }

    pub fn seconds(&self) -> Value {
        self.json(|time| rounded(time.as_secs_f64(), 1000.0))
    }

    pub fn microseconds(&self) -> Value {
        self.json(|time| json!(time.as_micros() as u64))
    }

    fn json(&self, unit: impl Fn(Duration) -> Value) -> Value {
        json!({
            "count": self.0.len(),
            "min": unit(self.quantile(0.0)),
            "median": unit(self.median()),
            "p99": unit(self.quantile(0.99)),
            "max": unit(self.quantile(1.0)),
        })
    }
}

pub fn rounded(value: f64, parts: f64) -> Value {
    json!((value * parts).round() / parts)
}

pub fn mib(bytes: u64) -> Value {
    rounded(bytes as f64 / f64::from(1 << 20), 10.0)
}

/// Resident memory of a process in bytes: now, and at most.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    pub now: u64,
    pub peak: u64,
}

impl Memory {
    pub fn of(process: u32) -> Memory {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("the process is there");
        let line = |key: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("a line of /proc/PID/status");
            line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
        };
        Memory { now: line("VmRSS:"), peak: line("VmHWM:") }
    }
}
