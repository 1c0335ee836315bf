//! The kernel's side as user space sees it: what the running kernel offers, loading the programs,
//! and the maps.

pub mod bindings;
pub mod btf;
pub mod counters;
pub mod fill;
pub mod grace;
pub mod leases;
pub mod load;
pub mod pins;
pub mod policies;
pub mod rings;
mod stand_in;
pub mod tables;
pub mod verifier;

use aya::Pod;

/// A key or value of a BPF map.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct Row<T>(pub T);

// SAFETY: only tables of `agent_guard_common` are wrapped: `repr(C)`, integers and arrays of them, no
// padding (their sizes are asserted where they are declared), every bit pattern read from the kernel
// was written as the same type.
unsafe impl<T: Copy + 'static> Pod for Row<T> {}

/// What lies at the bottom of an error: aya's own words above it name calls, not causes.
pub(crate) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
