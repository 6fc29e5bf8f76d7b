//! Keeps frames going round.

use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use shunt_dataplane::worker::thread::pin;
use shunt_dataplane::{Load, Seen};

use super::cores::Cores;
use super::error::BenchError;

/// Nothing has come for so long: nothing will. A slow router behind ten thousand rules takes a tenth of a second for a round, and
/// its core may have been elsewhere for as long.
const SILENCE: Duration = Duration::from_millis(500);
const TICK: Duration = Duration::from_millis(20);

/// The load, with a fixed number of frames on their way.
pub struct Turning {
    load: Load,
    sizes: &'static [(usize, u32)],
    /// Where the sink works, and so from where frames are sent.
    cores: Vec<usize>,
    window: u32,
}

/// What went round in some time.
pub struct Turned {
    pub seen: Seen,
    pub time: Duration,
    /// How often it had run empty and was begun anew.
    pub restarts: u64,
}

impl Turning {
    pub fn new(load: Load, sizes: &'static [(usize, u32)], cores: &Cores) -> Self {
        Turning { load, sizes, cores: cores.load.clone(), window: 0 }
    }

    /// Sends `window` frames on their way. Those from before have been drained.
    pub fn start(&mut self, window: u32) -> Result<(), BenchError> {
        self.window = window;
        self.stop(false)?;
        self.inject()
    }

    /// Lets it turn until so many frames have come and so much time is over, at most for `patience`.
    pub fn warm_up(&mut self, frames: u64, time: Duration, patience: Duration) -> Result<(), BenchError> {
        let (start, first) = (Instant::now(), self.seen()?.frames);
        while start.elapsed() < time || self.seen()?.frames - first < frames && start.elapsed() < patience {
            self.run(TICK)?;
        }
        Ok(())
    }

    /// Lets it turn for some time. If it runs empty it is started again.
    pub fn run(&mut self, time: Duration) -> Result<Turned, BenchError> {
        let before = self.seen()?;
        let start = Instant::now();
        let (mut restarts, mut last, mut heard) = (0, before.frames, start);
        while start.elapsed() < time {
            thread::sleep(TICK.min(time.saturating_sub(start.elapsed())));
            let frames = self.seen()?.frames;
            if frames != last {
                (last, heard) = (frames, Instant::now());
            } else if heard.elapsed() > SILENCE {
                restarts += 1;
                self.inject()?;
                heard = Instant::now();
            }
        }
        let (seen, time) = (self.seen()?, start.elapsed());
        Ok(Turned { seen: seen.since(&before), time, restarts })
    }

    /// Stops, and says how many frames were on their way. `sent` are at most.
    pub fn drain(&mut self, sent: u64) -> Result<u64, BenchError> {
        let before = self.seen()?.drained;
        self.stop(true)?;
        let (mut drained, mut heard) = (0, Instant::now());
        while drained < sent && heard.elapsed() < SILENCE {
            thread::sleep(Duration::from_millis(1));
            let now = self.seen()?.drained - before;
            if now != drained {
                (drained, heard) = (now, Instant::now());
            }
        }
        Ok(drained)
    }

    /// How many frames one start sends on their way.
    pub fn window(&self) -> u64 {
        self.parts().iter().map(|(_, _, count)| u64::from(*count)).sum()
    }

    pub fn seen(&mut self) -> Result<Seen, BenchError> {
        self.load.seen().map_err(BenchError::kernel("the counters of the load"))
    }

    fn stop(&mut self, stop: bool) -> Result<(), BenchError> {
        self.load.stop(stop).map_err(BenchError::kernel("the switch of the load"))
    }

    /// Sends the frames on their way: each core its part of each size.
    fn inject(&mut self) -> Result<(), BenchError> {
        for (core, size, count) in self.parts() {
            let load = &mut self.load;
            // A frame is sent by the core on which the system call is made.
            let sent = thread::scope(|scope| {
                let sender = scope.spawn(|| {
                    pin(Pid::from_raw(0), core)?;
                    load.inject(size, count)
                });
                sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            sent.map_err(BenchError::kernel("the first frames"))?;
        }
        Ok(())
    }

    /// How many frames of which size each core sends.
    fn parts(&self) -> Vec<(usize, usize, u32)> {
        let whole: u32 = self.sizes.iter().map(|(_, share)| share).sum();
        let cores = self.cores.len() as u32;
        let part =
            |core: usize, (size, share): (usize, u32)| (core, size, (self.window * share / whole / cores).max(1));
        self.cores.iter().flat_map(|core| self.sizes.iter().map(|size| part(*core, *size))).collect()
    }
}
