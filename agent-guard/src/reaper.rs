//! The reaper: a second process that ends the agent should the guard die.
//!
//! It holds the guard's BPF links, so enforcement outlives the guard until the last process of the
//! agent is gone, and the read end of a pipe that the guard never writes more than one byte to. End of
//! file without that byte means that the guard died.

use std::{
    fs,
    io::{self, Read, Write},
    os::{fd::RawFd, unix::process::CommandExt},
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::{cgroup, oom};

/// What the guard writes when it has cleaned up itself.
const FAREWELL: u8 = b'.';

/// The guard's handle on its reaper.
pub struct Reaper {
    child: Child,
}

impl Reaper {
    /// Starts a reaper for the cgroup at `cgroup`. To be called when every BPF link is made.
    pub fn start(cgroup: &Path) -> io::Result<Self> {
        let descriptors = bpf_descriptors()?;
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("agent-guard")
            .arg("reaper")
            .arg(cgroup)
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        // SAFETY: between fork and exec only setsid and fcntl are called, both async-signal-safe, over a
        // list made before; fcntl on a descriptor that is gone fails.
        unsafe {
            command.pre_exec(move || {
                rustix::process::setsid()?;
                for descriptor in &descriptors {
                    if libc::fcntl(*descriptor, libc::F_SETFD, 0) < 0 {
                        return Err(io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        Ok(Self { child: command.spawn()? })
    }

    /// Tells the reaper that there is nothing left to do, and waits for it.
    pub fn dismiss(mut self) -> io::Result<()> {
        if let Some(mut pipe) = self.child.stdin.take() {
            pipe.write_all(&[FAREWELL])?;
        }
        self.child.wait().map(drop)
    }
}

/// The descriptors of this process that are BPF programs, maps or links.
fn bpf_descriptors() -> io::Result<Vec<RawFd>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let is_bpf = fs::read_link(entry.path()).is_ok_and(|target| {
            target.as_os_str().as_encoded_bytes().starts_with(b"anon_inode:bpf")
        });
        if let (true, Some(number)) =
            (is_bpf, entry.file_name().to_str().and_then(|name| name.parse().ok()))
        {
            found.push(number);
        }
    }
    Ok(found)
}

/// The reaper's own side: the hidden command `agent-guard reaper`.
pub fn main(cgroup: &Path) -> io::Result<()> {
    // Where that is not granted the reaper is no worse than others.
    let _ = oom::exempt();
    let mut byte = [0];
    let farewell = io::stdin().read(&mut byte)? == 1 && byte == [FAREWELL];
    if !farewell {
        cgroup::end(cgroup).map_err(io::Error::other)?;
    }
    Ok(())
}
