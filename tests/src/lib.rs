//! The lab of network namespaces, and what is told in it.

pub mod demo;
pub mod lab;
pub mod scale;
pub mod twin;
