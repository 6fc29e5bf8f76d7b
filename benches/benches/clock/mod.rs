//! Time on a processor that this thread has had: what others do on the same machine is not in it.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

pub(crate) fn on_processor() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every thread has that clock").into()
}
