//! What the kernel programs of agent-guard and its user space share: the layouts of the BPF maps,
//! the decision over them, and the wire event.
//!
//! Everything here is `no_std`, allocates nothing and touches no kernel or system call, so the same
//! code decides inside a BPF program and inside `agent-guard policy explain`.
#![no_std]

pub mod decide;
pub mod event;
pub mod guarded;
pub mod hash;
pub mod hook;
pub mod limits;
pub mod mode;
mod numbered;
pub mod offsets;
pub mod privileged;
pub mod socket;
pub mod table;
