//! What RFC 4787, 5382, 5508 and 7857 ask of a NAT, requirement by requirement: docs/nat-requirements.md.

#[path = "../common/mod.rs"]
mod common;
mod rfc4787;
mod rfc5382;
mod rfc5508;
mod rfc7857;
mod scene;
mod table;
