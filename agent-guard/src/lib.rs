//! Runtime monitor and enforcer for AI agents, in the kernel.

pub mod canary;
pub mod cgroup;
pub mod doctor;
pub mod guard;
pub mod kernel;
pub mod mounts;
pub mod policy;
pub mod reaper;
pub mod signals;
pub mod tier;
