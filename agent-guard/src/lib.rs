//! Runtime monitor and enforcer for AI agents, in the kernel.

pub mod event;
