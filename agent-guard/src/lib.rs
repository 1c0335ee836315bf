//! Runtime monitor and enforcer for AI agents, in the kernel.

pub mod audit;
pub mod bytes;
pub mod canary;
pub mod cgroup;
pub mod cli;
pub mod clock;
pub mod daemon;
pub mod dns;
pub mod doctor;
pub mod event;
pub mod guard;
pub mod handover;
pub mod identity;
pub mod kernel;
pub mod lack;
pub mod mounts;
pub mod oom;
pub mod policy;
pub mod programs;
pub mod run;
pub mod signals;
pub mod state_dir;
pub mod tier;
pub mod workload;
