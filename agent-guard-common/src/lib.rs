//! What the kernel programs of agent-guard and its user space share.
#![no_std]
