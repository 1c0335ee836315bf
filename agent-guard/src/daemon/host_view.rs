//! Whose mounts and cgroups the daemon sees: policies are compiled for the host's. A daemon in a container has its
//! own, and enters the host's.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, IntoRawFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use rustix::{
    fs::{Mode, OFlags, open},
    io::fcntl_dupfd_cloexec,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use super::config::Config;

/// The inode of the first namespace of process ids (`PROC_PID_INIT_INO`).
const FIRST_PIDS: u64 = 0xEFFF_FFFC;

/// The inode of the first namespace of mounts (`MNT_NS_INIT_INO`), on kernels that have it fixed.
const FIRST_MOUNTS: u64 = 0xEFFF_FFF8;

/// The descriptor by which the daemon's own root stays known: the same at each start, because a policy is known by
/// its path; and beyond those that are open by then.
const OWN_ROOT: i32 = 512;

/// Enters the mounts and the cgroup tree of process 1. The policy directory stays the one that was seen before; every
/// other path of the configuration is the host's from here on. Only for a process of one thread.
///
/// # Errors
/// Process 1 is not the host's, or the kernel refused.
pub fn enter(config: &mut Config) -> anyhow::Result<()> {
    ensure!(
        fs::metadata("/proc/self/ns/pid").context("looking at /proc/self/ns/pid")?.ino()
            == FIRST_PIDS,
        "process 1 here is not the host's; give the container the host's process ids (`hostPID: true`, `--pid=host`)"
    );
    let root = open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let root = fcntl_dupfd_cloexec(&root, OWN_ROOT).context("keeping the container's root")?;
    let below = config.policies.strip_prefix("/").context("the policy directory is absolute")?;
    let policies = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd())).join(below);
    let namespace = |name: &str| {
        let path = Path::new("/proc/1/ns").join(name);
        File::open(&path).with_context(|| {
            format!("opening {}, for which CAP_SYS_PTRACE is needed", path.display())
        })
    };
    let (cgroups, mounts) = (namespace("cgroup")?, namespace("mnt")?);
    let enter = |namespace: &File, kind| {
        move_into_link_name_space(namespace.as_fd(), Some(kind)).context(
            "entering the host's namespaces, for which CAP_SYS_ADMIN and CAP_SYS_CHROOT are needed",
        )
    };
    enter(&cgroups, LinkNameSpaceType::ControlGroup)?;
    enter(&mounts, LinkNameSpaceType::Mount)?;
    // Open for as long as the process lives.
    let _ = root.into_raw_fd();
    config.policies = policies;
    Ok(())
}

/// Warns where the mounts are not those of process 1: policies are compiled for others than agents see then. Where
/// that can not be told it says so.
pub fn check() {
    let namespace = |process: &str| -> io::Result<u64> {
        Ok(fs::metadata(format!("/proc/{process}/ns/mnt"))?.ino())
    };
    match (namespace("self"), namespace("1")) {
        // Not every process 1 lets itself be looked at.
        (Ok(FIRST_MOUNTS), _) => {}
        (Ok(own), Ok(first)) if own == first => {}
        (Ok(_), Ok(_)) => tracing::warn!(
            "the daemon has mounts of its own, and policies are compiled for those instead of the host's; in a container start it with `--enter-host`, in a systemd unit remove what makes them (ProtectHome=, PrivateTmp= and their like)"
        ),
        (Err(error), _) | (_, Err(error)) => tracing::warn!(
            "whether the mounts here are the host's, for which policies are to be compiled, can not be told by /proc/1/ns/mnt: {error}"
        ),
    }
}
