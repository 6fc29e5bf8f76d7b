//! Connections: one worker's table, what TCP does to them, which tuple a translation may take, when they end. Pure: time and randomness
//! are arguments. `nf_conntrack_core.c`, `nf_conntrack_proto_*.c` and `nf_nat_core.c` are the authority.

pub mod exchange;
pub mod record;
pub mod seen;
pub mod settings;
