//! The policy is swapped whole when mounts change.

use std::fs;

use agent_guard::tier::Tier;
use rustix::{
    mount::{MountFlags, UnmountFlags, mount, unmount},
    process::Signal,
};

use super::{Behaviour, DENY_SECRETS, actor, secret_place};
use crate::guard::{Run, tier};

pub const PROMISES: &[Behaviour] =
    &[("mounts come and go, and not one answer about other files changes", mounts_change)];

/// Mounts that come and go, one after the other.
const MOUNTS: usize = 8;

fn mounts_change() {
    let scratch = secret_place();
    let point = scratch.path("mounted");
    fs::create_dir(&point).unwrap();
    let role = ["alternate", "{root}/open/file", "{root}/secret/key", "{root}/mounted/number"];
    let running = Run::under(&scratch.place.fill(DENY_SECRETS)).start(&actor(&scratch, &role));
    for number in 1..=MOUNTS {
        mount("tmpfs", &point, "tmpfs", MountFlags::empty(), None).unwrap();
        fs::write(point.join("number"), format!("{number}-")).unwrap();
        // It can be read only under tables that know the new mount.
        running.stdout.wait_for(&format!("seen {number}-"));
        unmount(&point, UnmountFlags::DETACH).unwrap();
    }
    running.signal(Signal::USR1);
    let outcome = running.finish();
    outcome.exits(0);
    let said = outcome.text();
    assert!(!said.contains("ALLOWED FAILED"), "{said}");
    if tier() != Tier::Observe {
        assert!(!said.contains("DENIED SUCCEEDED"), "{said}");
    }
}
