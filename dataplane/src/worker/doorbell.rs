//! Wakes a worker that sleeps, and costs nothing but a look while it does not.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// One per worker: rung by other workers and the publisher, heard by the worker.
pub struct Doorbell {
    /// Written by the worker, read by those who ring.
    sleeping: AtomicBool,
    event: EventFd,
}

impl Doorbell {
    pub fn new() -> io::Result<Self> {
        let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(Doorbell { sleeping: AtomicBool::new(false), event })
    }

    /// After something was left for the worker (a frame in its inbox, a policy in its mailbox).
    ///
    /// The fence pairs with the one in [`lie_down`](Self::lie_down): the giver writes the inbox, then reads
    /// `sleeping`; the worker writes `sleeping`, then reads the inbox. With both fences sequentially consistent at
    /// least one sees the other's write, so either the bell rings or the worker does not lie down.
    pub fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) {
            // Fails only if the event counts to 2^64 - 2, and then it is readable anyway.
            let _ = self.event.write(1);
        }
    }

    /// The worker's last word before it looks into its inbox once more and sleeps.
    pub fn lie_down(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The worker is up, by whatever woke it.
    pub fn get_up(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
        // EAGAIN: nobody rang.
        let _ = self.event.read();
    }

    /// What poll(2) waits on.
    pub fn descriptor(&self) -> RawFd {
        self.event.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::xsk::Wait;

    #[test]
    fn a_sleeper_never_misses_what_was_left_for_it() {
        const TURNS: u64 = 20_000;
        let bells: [_; 2] = std::array::from_fn(|_| Arc::new(Doorbell::new().expect("a file descriptor")));
        let ball = Arc::new(AtomicU64::new(0));
        let player = |side: u64| {
            let (own, other) = (Arc::clone(&bells[side as usize]), Arc::clone(&bells[1 - side as usize]));
            let ball = Arc::clone(&ball);
            std::thread::spawn(move || {
                let mut wait = Wait::new(std::iter::once(own.descriptor()));
                loop {
                    let turn = ball.load(Ordering::Relaxed);
                    if turn >= TURNS {
                        return other.ring();
                    }
                    if turn % 2 == side {
                        ball.store(turn + 1, Ordering::Relaxed);
                        other.ring();
                        continue;
                    }
                    own.lie_down();
                    if ball.load(Ordering::Relaxed) == turn {
                        wait.sleep(Duration::from_secs(5));
                    }
                    own.get_up();
                }
            })
        };
        let start = Instant::now();
        let players = [player(0), player(1)];
        players.into_iter().for_each(|player| player.join().expect("a player"));
        // A lost ring would cost five seconds.
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
}
