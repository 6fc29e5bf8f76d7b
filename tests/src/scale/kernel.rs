//! What the kernel itself takes to tell its routes.

use std::time::{Duration, Instant};

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use crate::lab::Namespace;

/// `NLMSG_DONE`
const DONE: u16 = 3;
const LONGEST: usize = 256 << 10;

/// Dumps all routes of both families and looks at nothing.
pub fn dump(namespace: &Namespace) -> Duration {
    namespace.enter(|| {
        let mut socket = Socket::new(NETLINK_ROUTE).expect("a netlink socket");
        socket.bind_auto().expect("an address");
        socket.connect(&SocketAddr::new(0, 0)).expect("the kernel");
        let start = Instant::now();
        for family in [2u8, 10] {
            // struct nlmsghdr: length, RTM_GETROUTE, NLM_F_REQUEST | NLM_F_DUMP, sequence, port; struct rtmsg.
            let mut request = vec![28, 0, 0, 0, 26, 0, 1, 3, 0, 0, 0, 0, 0, 0, 0, 0, family];
            request.resize(28, 0);
            socket.send(&request, 0).expect("the kernel listens");
            let mut answer = Vec::with_capacity(LONGEST);
            loop {
                answer.clear();
                socket.recv(&mut answer, 0).expect("the kernel answers");
                if answer.get(4..6).is_some_and(|kind| kind == DONE.to_ne_bytes()) {
                    break;
                }
            }
        }
        start.elapsed()
    })
}
