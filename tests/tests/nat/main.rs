//! Translation of addresses and what hangs on connection tracking, with real clients. Each story is told of the kernel first, which
//! shows that it is the kernel's behaviour, and then of shunt. The network is that of [`network::Edge`] where no other is drawn.

mod by;
mod crowd;
mod death;
mod errors;
mod flood;
mod flows;
mod forwarded;
mod invalid;
mod links;
mod masquerade;
mod network;
mod ports;
mod standby;
mod timeouts;
