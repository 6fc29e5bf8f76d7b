//! The table as a whole, by what it says of packets.

mod conversations;
mod copies;
mod corpus;
mod exchange;
mod model;
mod room;
mod support;
mod translation;
