//! Path MTUs of IPv6 that routers have told this machine about its own packets, and by which the kernel forwards as well
//! (`rt6_exception`). It tells of none, but counts the messages. Of IPv4 it shows only those by which it has sent a packet itself.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::attributes::{HEADER, Request, attributes};
use super::decode::route::{CLONED, FIXED, RTAX_MTU, rta};
use super::netlink::Dumper;
use super::rtm;

/// What is known is read anew after this time: the kernel forgets without a word.
const FORGETS: Duration = Duration::from_secs(60);

/// A read is followed by a rest of so many times its length: who sends messages all the time costs this much at most.
const REST: u32 = 20;

/// By destination; bytes.
pub type PathMtus = BTreeMap<IpAddr, u32>;

/// What has been read.
#[derive(Debug, Default)]
pub struct Paths(Option<Last>);

#[derive(Debug)]
struct Last {
    /// Messages by then that may have told of a path.
    messages: u64,
    ended: Instant,
    took: Duration,
    nothing: bool,
}

impl Last {
    fn is_good(&self, messages: u64, now: Instant) -> bool {
        let age = now - self.ended;
        age < self.took * REST || self.messages == messages && (self.nothing || age < FORGETS)
    }
}

impl Paths {
    /// What there is, if it may have changed.
    ///
    /// # Errors
    ///
    /// Where the kernel does not tell.
    pub fn look(&mut self) -> io::Result<Option<PathMtus>> {
        let messages = messages();
        let began = Instant::now();
        if self.0.as_ref().is_some_and(|last| last.is_good(messages, began)) {
            return Ok(None);
        }
        let paths = read()?;
        let ended = Instant::now();
        self.0 = Some(Last { messages, ended, took: ended - began, nothing: paths.is_empty() });
        Ok(Some(paths))
    }
}

/// Messages received so far that a packet was too big. 0 where nobody counts, as without IPv6.
fn messages() -> u64 {
    let text = fs::read_to_string("/proc/net/snmp6").unwrap_or_default();
    let count = text.lines().find_map(|line| line.strip_prefix("Icmp6InPktTooBigs")?.trim().parse().ok());
    count.unwrap_or(0)
}

/// Exceptions of routes, and no routes.
fn read() -> io::Result<PathMtus> {
    let mut fixed = [0; FIXED];
    fixed[0] = libc::AF_INET6 as u8;
    fixed[8..].copy_from_slice(&CLONED.to_ne_bytes());
    let request = Request::new(rtm::GETROUTE, NLM_F_REQUEST | NLM_F_DUMP, &fixed);
    let take = |paths: &mut PathMtus, message: &[u8]| {
        if let Some((destination, mtu)) = path(message) {
            // By several routes.
            let narrowest = paths.entry(destination).or_insert(mtu);
            *narrowest = mtu.min(*narrowest);
        }
    };
    match Dumper::open(NETLINK_ROUTE)?.dump(&request, take) {
        Ok((paths, _)) => Ok(paths),
        // Without IPv6.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(PathMtus::new()),
        Err(error) => Err(error),
    }
}

/// Kernels that know no filters tell of routes as well.
fn path(message: &[u8]) -> Option<(IpAddr, u32)> {
    let fixed = message.get(HEADER..)?.first_chunk::<FIXED>()?;
    if u32::from_ne_bytes(*fixed.last_chunk()?) & CLONED == 0 {
        return None;
    }
    let (mut destination, mut mtu) = (None, None);
    for attribute in attributes(&message[HEADER + FIXED..]) {
        let attribute = attribute?;
        match attribute.kind {
            rta::DST => destination = attribute.address(),
            rta::METRICS => {
                let mut metrics = attributes(attribute.value).flatten();
                mtu = metrics.find(|metric| metric.kind == RTAX_MTU).and_then(|metric| metric.u32());
            }
            _ => {}
        }
    }
    destination.zip(mtu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_is_good_for_a_while() {
        let ended = Instant::now();
        let took = Duration::from_millis(10);
        let last = |nothing| Last { messages: 5, ended, took, nothing };
        let after = |milliseconds| ended + Duration::from_millis(milliseconds);
        assert!(last(true).is_good(6, after(199)) && !last(true).is_good(6, after(200)));
        assert!(last(true).is_good(5, after(1_000_000)), "nothing is forgotten where there is nothing");
        assert!(last(false).is_good(5, after(59_999)) && !last(false).is_good(5, after(60_000)));
    }
}
