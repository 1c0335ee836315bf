//! What holds only where a kernel enforces it. As root, on the tier that the host is to be held to:
//!
//! ```text
//! cargo build && AGENT_GUARD_TEST_TIER=trace cargo test -p agent-guard --test enforce
//! ```
//!
//! `AGENT_GUARD_BIN` names another program to test, `AGENT_GUARD_SRC` the repository where it is not
//! where this was built, and `AGENT_GUARD_TEST_OWN_MACHINE` says that nobody else uses the machine: its
//! clock may be set. This program is also the agent that the tests run: see `actor`.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test: what it does not expect, it fails by"
)]

#[path = "enforce/actor.rs"]
mod actor;
#[path = "enforce/behaviour/mod.rs"]
mod behaviour;
#[path = "enforce/clusters.rs"]
mod clusters;
#[path = "enforce/code.rs"]
mod code;
#[path = "enforce/daemon.rs"]
mod daemon;
#[path = "enforce/guard.rs"]
mod guard;
#[path = "enforce/memory.rs"]
mod memory;
#[path = "enforce/name_servers.rs"]
mod name_servers;
#[path = "enforce/names.rs"]
mod names;
#[path = "enforce/network.rs"]
mod network;
#[path = "enforce/operations.rs"]
mod operations;
#[path = "enforce/passing.rs"]
mod passing;
#[path = "enforce/queries.rs"]
mod queries;
#[path = "enforce/receivers.rs"]
mod receivers;
#[path = "enforce/ring.rs"]
mod ring;
#[path = "enforce/roles.rs"]
mod roles;
#[path = "enforce/scenes.rs"]
mod scenes;
#[path = "enforce/scratch.rs"]
mod scratch;
#[path = "enforce/sockets.rs"]
mod sockets;
#[expect(dead_code, reason = "an imagined place is for the runner without a kernel")]
mod support;
#[path = "enforce/terminals.rs"]
mod terminals;
#[path = "enforce/verifier.rs"]
mod verifier;

use libtest_mimic::Arguments;

use crate::guard::Run;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, first, role @ ..] = arguments.as_slice()
        && first == "actor"
    {
        return roles::play(role);
    }
    let arguments = Arguments::from_args();
    guard::tier();
    assert!(
        rustix::process::geteuid().is_root(),
        "programs are loaded into the kernel: run as root"
    );
    own_mounts();
    let trials = [scenes::trials(), behaviour::trials(), verifier::trials()];
    let trials = trials.into_iter().flatten().collect();
    // The programs stay loaded from one test to the next.
    let holder = (!arguments.list)
        .then(|| Run::under(behaviour::ALLOW_ALL).start(&["/bin/sleep", "infinity"]));
    let conclusion = libtest_mimic::run(&arguments, trials);
    let one_by_one = Arguments { test_threads: Some(1), ..arguments };
    let alone = libtest_mimic::run(&one_by_one, behaviour::alone());
    if let Some(holder) = holder {
        holder.signal(rustix::process::Signal::TERM);
        holder.finish();
    }
    conclusion.exit_if_failed();
    alone.exit();
}

/// Mounts that tests make are nobody else's, and gone with this process.
fn own_mounts() {
    use rustix::{
        mount::{MountPropagationFlags, mount_change},
        thread::{UnshareFlags, unshare_unsafe},
    };
    // SAFETY: there is one thread, and it has no idea of mounts.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
}
