//! Who is at the other end of the control socket, and what it may ask.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    os::unix::net::UnixStream,
};

use anyhow::{Context as _, bail};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::sockopt::socket_peercred,
    process::{Pid, PidfdFlags, pidfd_open},
};

use crate::kernel::bindings::Bindings;

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// What it may ask.
    pub standing: Standing,
    /// The path of its cgroup when it connected; `None` where that is not known.
    pub cgroup: Option<String>,
}

/// What somebody may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Everything.
    Administrator,
    /// For itself.
    Agent,
    /// Nothing.
    Nobody,
}

/// What peers are told apart by.
pub struct Doorkeeper {
    group: Option<u32>,
    bindings: Bindings,
}

impl Doorkeeper {
    /// Lets root in, and the members of the group of this name.
    ///
    /// # Errors
    /// There is no such group.
    pub fn new(group: Option<&str>, bindings: Bindings) -> anyhow::Result<Self> {
        Ok(Self { group: group.map(group_id).transpose()?, bindings })
    }

    /// Who has connected. Of whom nothing is known, nothing is allowed.
    pub fn peer(&self, stream: &UnixStream) -> Peer {
        self.known(stream).unwrap_or_else(|error| {
            tracing::debug!("whose request it is can not be told: {error:#}");
            Peer { standing: Standing::Nobody, cgroup: None }
        })
    }

    fn known(&self, stream: &UnixStream) -> anyhow::Result<Peer> {
        let credentials = socket_peercred(stream).context("its credentials")?;
        let process = process(stream, credentials.pid).context("its process")?;
        let cgroup = cgroup_of(credentials.pid)?;
        // As long as it lives nobody else has its number: what was read is its own.
        if has_ended(process.as_fd())? {
            bail!("it has ended");
        }
        let is_member = |group: u32| {
            credentials.gid.as_raw() == group
                || groups(stream).is_ok_and(|groups| groups.contains(&group))
        };
        let standing = match self.bindings.is_in_agent(&cgroup)? {
            true => Standing::Agent,
            false if credentials.uid.is_root() || self.group.is_some_and(is_member) => {
                Standing::Administrator
            }
            false => Standing::Nobody,
        };
        Ok(Peer { standing, cgroup: Some(cgroup) })
    }
}

/// The process that connected. Before Linux 6.5 it is the one that has its number now: who connects is looked at at
/// once, so another one would have to get that number in between.
fn process(stream: &UnixStream, pid: Pid) -> io::Result<OwnedFd> {
    let mut fd: libc::c_int = -1;
    let mut length = size_of_val(&fd) as libc::socklen_t;
    // SAFETY: the descriptor is as long as `length` says, and both outlive the call.
    let got = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERPIDFD,
            (&raw mut fd).cast(),
            &raw mut length,
        )
    };
    if got == 0 {
        // SAFETY: the kernel has just made it for us alone.
        return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {
            Ok(pidfd_open(pid, PidfdFlags::empty())?)
        }
        error => Err(error),
    }
}

/// A process that has ended can be read from.
fn has_ended(process: BorrowedFd<'_>) -> Result<bool, Errno> {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::from_borrowed_fd(process, PollFlags::IN)], Some(&now)).map(|ready| ready > 0)
}

/// The path of a process's cgroup.
fn cgroup_of(pid: Pid) -> anyhow::Result<String> {
    let path = format!("/proc/{}/cgroup", pid.as_raw_nonzero());
    let table = fs::read_to_string(&path).with_context(|| path.clone())?;
    let cgroup = table.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned);
    cgroup.with_context(|| format!("{path} names no cgroup"))
}

/// Most supplementary groups that a process has: `NGROUPS_MAX` (`include/uapi/linux/limits.h`).
const MAX_GROUPS: usize = 65_536;

/// The supplementary groups that the peer had when it connected.
fn groups(stream: &UnixStream) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; MAX_GROUPS];
    let mut length = libc::socklen_t::try_from(size_of_val(groups.as_slice())).unwrap_or(0);
    // SAFETY: the buffer is as long as `length` says, and both outlive the call.
    let got = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    groups.truncate(length as usize / size_of::<u32>());
    Ok(groups)
}

/// The id of a group, from `/etc/group`.
fn group_id(name: &str) -> anyhow::Result<u32> {
    const GROUPS: &str = "/etc/group";
    let table = fs::read_to_string(GROUPS).context(GROUPS)?;
    match id_in(&table, name) {
        Some(id) => Ok(id),
        None => {
            bail!("there is no group {name} in {GROUPS}; make it with `groupadd --system {name}`")
        }
    }
}

fn id_in(table: &str, name: &str) -> Option<u32> {
    let mut lines = table.lines().map(|line| line.split(':'));
    lines.find_map(|mut fields| {
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_group_is_found_by_its_whole_name() {
        let table = "root:x:0:\nsre-2:x:12:a\nsre:x:7:a,b\nbad:x\n";
        assert_eq!(id_in(table, "sre"), Some(7));
        assert_eq!((id_in(table, "sr"), id_in(table, "bad")), (None, None));
    }

    #[test]
    fn the_process_at_the_other_end_is_the_one_that_made_it() {
        let (here, _there) = UnixStream::pair().unwrap();
        let own = Pid::from_raw(std::process::id().cast_signed()).unwrap();
        let process = process(&here, own).unwrap();
        assert!(!has_ended(process.as_fd()).unwrap());
        let cgroup = fs::read_to_string("/proc/self/cgroup").unwrap();
        assert!(cgroup.contains(&format!("0::{}\n", cgroup_of(own).unwrap())));
    }

    #[test]
    fn a_process_that_has_ended_is_known_as_such_before_its_number_is_free() {
        let mut child = Command::new("/bin/cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_child(&child);
        let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        assert!(!has_ended(process.as_fd()).unwrap());
        child.kill().unwrap();
        poll(&mut [PollFd::new(&process, PollFlags::IN)], None).unwrap();
        assert!(has_ended(process.as_fd()).unwrap());
        child.wait().unwrap();
        cgroup_of(pid).unwrap_err();
    }
}
