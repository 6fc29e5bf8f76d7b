//! Who forwards in a story.

use shunt_tests::lab::{Daemon, Namespace};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    Kernel,
    /// The workers alone.
    Shunt,
    /// The workers, and the XDP program as they have decided.
    Replay,
}

/// A router of a story, at work.
pub struct Forwarder(pub Option<Daemon>);

impl By {
    /// Starts shunt in a router that is to have it.
    pub fn start(self, router: &Namespace) -> Forwarder {
        self.start_with(router, "")
    }

    /// The same, with arguments of `shunt run`.
    pub fn start_with(self, router: &Namespace, arguments: &str) -> Forwarder {
        Forwarder(match self {
            By::Kernel => None,
            By::Shunt => Some(router.start_shunt(&format!("--replay off {arguments}"))),
            By::Replay => Some(router.start_shunt_with_replay(arguments)),
        })
    }
}

impl Forwarder {
    /// Does `what`, of which the workers forward at least so many packets.
    pub fn forwards<T>(&self, packets: u64, what: impl FnOnce() -> T) -> T {
        let Some(daemon) = &self.0 else { return what() };
        let before = daemon.forwarded();
        let result = what();
        let by_workers = daemon.forwarded() - before;
        assert!(by_workers >= packets, "{by_workers} of {packets} packets by the workers: {:#}", daemon.status());
        result
    }

    /// Rules were changed: the mirror need not wait until it asks for them by itself.
    pub fn reload(&self) {
        if let Some(daemon) = &self.0 {
            daemon.reload();
        }
    }
}

/// Makes tests of stories: `by_the_kernel::privileged_...`, `by_shunt::...` and `by_replay::...`.
macro_rules! stories {
    ($($story:ident),+ $(,)?) => {
        mod by_the_kernel {
            $(#[test] fn $story() { super::$story(crate::by::By::Kernel); })+
        }
        crate::by::stories_of_shunt!($($story),+);
    };
}

/// The same without the kernel.
macro_rules! stories_of_shunt {
    ($($story:ident),+ $(,)?) => {
        mod by_shunt {
            $(#[test] fn $story() { super::$story(crate::by::By::Shunt); })+
        }
        mod by_replay {
            $(#[test] fn $story() { super::$story(crate::by::By::Replay); })+
        }
    };
}

pub(crate) use {stories, stories_of_shunt};
