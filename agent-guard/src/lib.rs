//! Runtime monitor and enforcer for AI agents, in the kernel.

pub mod kernel;
pub mod tier;
