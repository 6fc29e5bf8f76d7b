//! The load of `shunt bench`: frames that go round through a router, by the programs of bpf/load.bpf.c.

use std::io;

use libbpf_rs::{Link, MapCore, MapFlags, MapMut, Object, ObjectBuilder, ProgramInput, ProgramMut};
use shunt_policy::Ifindex;

use super::program::{Aligned, cause};

static LOAD: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/load.bpf.o")));

/// `BPF_F_TEST_XDP_LIVE_FRAMES` of linux/bpf.h: what the program redirects is really sent.
const LIVE_FRAMES: u32 = 1 << 1;
/// `SIZES`, `SUBSTEPS` and `STEPS` of load.bpf.c.
const SIZES: usize = 3;
const SUBSTEPS: usize = 16;
const STEPS: usize = 48 * SUBSTEPS;
/// `arrived`, `bytes`, `drained` and `next` of `struct seen`, before the histogram.
const COUNTS: usize = 4;
/// `struct flow`
const FLOW: usize = 64;
const FIRST: [u8; 4] = 0u32.to_ne_bytes();

/// What goes round.
#[derive(Clone, Debug)]
pub struct Loop {
    /// Bytes of the headers, Ethernet to UDP: 42 or 62.
    pub head: usize,
    /// Sizes of the frames in bytes, at most three different ones.
    pub sizes: Vec<usize>,
    /// How many flows there are.
    pub flows: usize,
    /// How many cores the sink works on; those from 0 on.
    pub cores: usize,
}

/// The programs and their maps. Dropping it ends the loop, as does the death of the process.
pub struct Load {
    object: Object,
    link: Option<Link>,
}

/// What has arrived at the sink since the programs were loaded.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    pub frames: u64,
    pub bytes: u64,
    /// Frames that arrived after [`Load::stop`].
    pub drained: u64,
    /// From sending to arriving, in ns.
    pub latency: Histogram,
}

/// Counts by time, in steps of a sixteenth.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Histogram(Vec<u64>);

impl Load {
    /// Loads the programs. `heads` are the headers of all flows in the first size, then of all in the second, ...; the checksums are
    /// those of a payload of zeros.
    ///
    /// # Errors
    ///
    /// The kernel's, without `CAP_BPF` and `CAP_NET_ADMIN` say.
    pub fn open(turn: &Loop, heads: impl Iterator<Item = Vec<u8>>) -> io::Result<Load> {
        libbpf_rs::set_print(None);
        let mut sizes = [0; SIZES];
        sizes.iter_mut().zip(&turn.sizes).for_each(|(to, size)| *to = *size as u32);
        let settings = [turn.flows as u32, turn.cores as u32, turn.head as u32].into_iter().chain(sizes);
        let settings: Vec<u8> = settings.flat_map(u32::to_ne_bytes).collect();
        let mut open = ObjectBuilder::default().open_memory(&LOAD.0).map_err(cause)?;
        for mut map in open.maps_mut() {
            if map.name() == "flows" {
                map.set_max_entries((turn.flows * turn.sizes.len()) as u32).map_err(cause)?;
            }
            if map.name().to_string_lossy().ends_with(".rodata") {
                map.set_initial_value(&settings).map_err(cause)?;
            }
        }
        let mut load = Load { object: open.load().map_err(cause)?, link: None };
        let flows = load.map("flows")?;
        for (number, mut head) in heads.enumerate() {
            head.resize(FLOW, 0);
            flows.update(&(number as u32).to_ne_bytes(), &head, MapFlags::ANY).map_err(cause)?;
        }
        Ok(load)
    }

    /// Sends by this interface, which is in the network namespace of the calling thread.
    pub fn send_by(&mut self, generator: Ifindex) -> io::Result<()> {
        self.map("generator")?.update(&FIRST, &generator.0.to_ne_bytes(), MapFlags::ANY).map_err(cause)
    }

    /// Sends again what arrives at this interface, which is in the network namespace of the calling thread.
    pub fn attach(&mut self, sink: Ifindex) -> io::Result<()> {
        self.link = Some(self.program("arrive")?.attach_xdp(sink.0 as i32).map_err(cause)?);
        Ok(())
    }

    /// Sends `count` frames of `size` bytes from the core that the calling thread runs on. Takes some 30 ms, however many they are.
    pub fn inject(&mut self, size: usize, count: u32) -> io::Result<()> {
        let frame = vec![0; size];
        let input =
            ProgramInput { data_in: Some(&frame), flags: LIVE_FRAMES, repeat: count, ..ProgramInput::default() };
        self.program("inject")?.test_run(input).map(|_| ()).map_err(cause)
    }

    /// What arrives from now on goes no further: with `false` it does again.
    pub fn stop(&mut self, stop: bool) -> io::Result<()> {
        self.map("stopping")?.update(&FIRST, &u32::from(stop).to_ne_bytes(), MapFlags::ANY).map_err(cause)
    }

    pub fn seen(&mut self) -> io::Result<Seen> {
        let per_core = self.map("seen")?.lookup_percpu(&FIRST, MapFlags::ANY).map_err(cause)?;
        let mut seen = Seen::default();
        for core in per_core.into_iter().flatten() {
            let words: Vec<u64> = core.as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word)).collect();
            let Some(([frames, bytes, drained, _next], latency)) = words.split_first_chunk::<COUNTS>() else {
                return Err(io::Error::other("the BPF map seen is of another shape"));
            };
            seen.frames += frames;
            seen.bytes += bytes;
            seen.drained += drained;
            seen.latency.0.iter_mut().zip(latency).for_each(|(sum, count)| *sum += count);
        }
        Ok(seen)
    }

    fn map(&mut self, name: &str) -> io::Result<MapMut<'_>> {
        let map = self.object.maps_mut().find(|map| map.name() == name);
        map.ok_or_else(|| io::Error::other(format!("the BPF object has no map {name}")))
    }

    fn program(&mut self, name: &str) -> io::Result<ProgramMut<'_>> {
        let program = self.object.progs_mut().find(|program| program.name() == name);
        program.ok_or_else(|| io::Error::other(format!("the BPF object has no program {name}")))
    }
}

impl Seen {
    /// What has come since `before`.
    pub fn since(&self, before: &Seen) -> Seen {
        let latency = self.latency.0.iter().zip(&before.latency.0).map(|(now, then)| now - then).collect();
        Seen {
            frames: self.frames - before.frames,
            bytes: self.bytes - before.bytes,
            drained: self.drained - before.drained,
            latency: Histogram(latency),
        }
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram(vec![0; STEPS])
    }
}

impl Histogram {
    /// The time in ns below which this share of all is; 0 if there are none.
    pub fn quantile(&self, share: f64) -> u64 {
        let total: u64 = self.0.iter().sum();
        let rank = (share * total as f64).ceil().max(1.0) as u64;
        self.steps().find(|(_, below)| *below >= rank).map_or(0, |(time, _)| time)
    }

    /// The upper ends in ns of the steps that hold something, with how many are below.
    pub fn steps(&self) -> impl Iterator<Item = (u64, u64)> {
        let filled = self.0.iter().enumerate().filter(|(_, count)| **count > 0);
        filled.scan(0, |below, (step, count)| {
            *below += count;
            Some((start(step + 1), *below))
        })
    }

    pub fn add(&mut self, other: &Histogram) {
        self.0.iter_mut().zip(&other.0).for_each(|(sum, count)| *sum += count);
    }
}

/// Where a step begins, in ns: the inverse of `step` in load.bpf.c.
fn start(step: usize) -> u64 {
    let (power, part) = ((step / SUBSTEPS) as u32, (step % SUBSTEPS) as u64);
    match power {
        0 => part,
        _ => (SUBSTEPS as u64 + part) << (power - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_end_of_its_step() {
        assert_eq!((start(0), start(15), start(16), start(17), start(32)), (0, 15, 16, 17, 32));
        assert_eq!(start(33), 34, "from 32 ns on a step is 2 ns");
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), 0);
        histogram.0[16] = 99;
        histogram.0[48] = 1;
        assert_eq!(histogram.quantile(0.5), 17);
        assert_eq!(histogram.quantile(0.99), 17);
        assert_eq!(histogram.quantile(1.0), start(49));
        assert_eq!(histogram.steps().collect::<Vec<_>>(), [(17, 99), (start(49), 100)]);
    }

    #[test]
    fn privileged_the_programs_load() {
        let turn = Loop { head: 42, sizes: vec![64], flows: 2, cores: 1 };
        let mut load = Load::open(&turn, [vec![0; 42], vec![0; 42]].into_iter()).expect("root may load them");
        assert_eq!(load.seen().expect("a map"), Seen::default());
    }
}
