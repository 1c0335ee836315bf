//! The agent's own cgroup.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use agent_guard_common::limits::MAX_CGROUP_LEVEL;

use crate::mounts::{self, Mount};

/// Why there is no cgroup for the agent.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No unified hierarchy.
    #[error(
        "no cgroup2 file system is mounted; mount one with `mount -t cgroup2 none /sys/fs/cgroup` (or anywhere else)"
    )]
    NotMounted,
    /// The guard's own place in the hierarchy is unknown.
    #[error("/proc/self/cgroup names no place in the cgroup2 hierarchy")]
    NoPlace,
    /// The tree is deeper than the kernel programs look.
    #[error(
        "cgroup {0} lies deeper than {MAX_CGROUP_LEVEL} levels, which is as far as the kernel programs look"
    )]
    TooDeep(PathBuf),
    /// Another run, or what another run left, has the name.
    #[error("cgroup {0} exists already and holds processes; another agent of this name runs there")]
    InUse(PathBuf),
    /// The file system said no.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
}

/// The kind of file handle that kernfs has (`include/linux/exportfs.h`): a cgroup's id.
const FILEID_KERNFS: i32 = 0xfe;

/// How long processes that were killed may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// What the name of every agent's cgroup starts with; it ends with the guard's process id.
const PREFIX: &str = "agent-guard-";

/// A cgroup.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    id: u64,
}

impl Cgroup {
    /// Makes `agent-guard-ID` below the caller's own cgroup, so that a guard inside an agent stays inside
    /// it. An empty one that a killed run left is taken over.
    pub fn create(mounts: &[Mount], id: &str) -> Result<Self, CgroupError> {
        let name = format!("{PREFIX}{id}");
        let mount = mounts::cgroup2(mounts).ok_or(CgroupError::NotMounted)?;
        let place = fs::read_to_string("/proc/self/cgroup")
            .map_err(io_error("reading", Path::new("/proc/self/cgroup")))?;
        let place =
            place.lines().find_map(|line| line.strip_prefix("0::/")).ok_or(CgroupError::NoPlace)?;
        let parent = mount.join(place);
        sweep(&parent);
        Self::create_in(&parent, mounts, &name)
    }

    /// Makes `name` in the cgroup at `parent`.
    pub fn create_in(parent: &Path, mounts: &[Mount], name: &str) -> Result<Self, CgroupError> {
        let path = parent.join(name);
        check_level(&path, mounts)?;
        match fs::create_dir(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if populated(&path).map_err(io_error("reading", &path))? {
                    return Err(CgroupError::InUse(path));
                }
                remove_tree(&path).map_err(io_error("removing the empty", &path))?;
                fs::create_dir(&path).map_err(io_error("making", &path))?;
            }
            Err(error) => return Err(io_error("making", &path)(error)),
        }
        // The inode number of a cgroup directory is the id that the kernel programs see.
        let id = fs::metadata(&path).map_err(io_error("reading", &path))?.ino();
        Ok(Self { path, id })
    }

    /// The one at `path`, which somebody else made.
    pub fn existing(path: &Path, mounts: &[Mount]) -> Result<Self, CgroupError> {
        check_level(path, mounts)?;
        let id = fs::metadata(path).map_err(io_error("reading", path))?.ino();
        Ok(Self { path: path.to_owned(), id })
    }

    /// The ids of the cgroups that it lies in.
    pub fn above(&self, mounts: &[Mount]) -> Result<Vec<u64>, CgroupError> {
        let mount = mounts::cgroup2(mounts).ok_or(CgroupError::NotMounted)?;
        let above = self.path.ancestors().skip(1).take_while(|path| path.starts_with(mount));
        above.map(|path| Ok(fs::metadata(path).map_err(io_error("reading", path))?.ino())).collect()
    }

    /// Its id in the kernel.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fails unless there can be a cgroup in it that the kernel programs still look at.
    ///
    /// # Errors
    /// [`CgroupError::TooDeep`], and what makes the place unknown.
    pub fn check_room_below(&self, mounts: &[Mount]) -> Result<(), CgroupError> {
        check_level(&self.path.join("below"), mounts)
    }

    /// Its directory, opened, as cgroup programs are attached to it.
    pub fn open(&self) -> Result<File, CgroupError> {
        File::open(&self.path).map_err(io_error("opening", &self.path))
    }

    /// A descriptor to which a process writes `0` to enter.
    pub fn entrance(&self) -> Result<File, CgroupError> {
        let path = self.path.join("cgroup.procs");
        OpenOptions::new().write(true).open(&path).map_err(io_error("opening", &path))
    }

    /// Whether a process is in it or below.
    pub fn is_populated(&self) -> Result<bool, CgroupError> {
        is_populated(&self.path)
    }

    /// Kills what still runs in it or below, and removes it.
    pub fn remove(self) -> Result<(), CgroupError> {
        end(&self.path)
    }
}

fn check_level(path: &Path, mounts: &[Mount]) -> Result<(), CgroupError> {
    let mount = mounts::cgroup2(mounts).ok_or(CgroupError::NotMounted)?;
    let level = path.strip_prefix(mount).map_or(0, |inside| inside.components().count());
    if level > MAX_CGROUP_LEVEL as usize {
        return Err(CgroupError::TooDeep(path.to_owned()));
    }
    Ok(())
}

/// The cgroups of this host, asked for by id.
pub struct Cgroups {
    mount: File,
}

impl Cgroups {
    /// Of the mount table.
    pub fn open(mounts: &[Mount]) -> Result<Self, CgroupError> {
        let path = mounts::cgroup2(mounts).ok_or(CgroupError::NotMounted)?;
        Ok(Self { mount: File::open(path).map_err(io_error("opening", path))? })
    }

    /// Whether the cgroup with this id is gone. One of which that can not be said is not.
    pub fn has_gone(&self, id: u64) -> bool {
        #[repr(C)]
        struct Handle {
            head: libc::file_handle,
            id: [u8; 8],
        }
        let head = libc::file_handle { handle_bytes: 8, handle_type: FILEID_KERNFS, f_handle: [] };
        let mut handle = Handle { head, id: id.to_ne_bytes() };
        // SAFETY: the handle is followed by as many bytes as it says, and both outlive the call.
        let opened = unsafe {
            libc::open_by_handle_at(
                self.mount.as_raw_fd(),
                (&raw mut handle).cast(),
                libc::O_PATH | libc::O_CLOEXEC,
            )
        };
        if opened < 0 {
            return io::Error::last_os_error().raw_os_error() == Some(libc::ESTALE);
        }
        // SAFETY: the call has just opened it, for nobody else.
        drop(unsafe { OwnedFd::from_raw_fd(opened) });
        false
    }
}

/// Removes what guards left that were killed before they could hand over: empty cgroups that are named
/// after a process that is gone. What can not be removed is in nobody's way.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_abandoned =
            name.to_str().and_then(owner).is_some_and(|pid| !Path::new("/proc").join(pid).exists());
        if is_abandoned && populated(&entry.path()).is_ok_and(|populated| !populated) {
            let _ = remove_tree(&entry.path());
        }
    }
}

/// The process id in the name of a guard's cgroup.
fn owner(name: &str) -> Option<&str> {
    let (_, pid) = name.strip_prefix(PREFIX)?.rsplit_once('-')?;
    pid.parse::<u32>().is_ok().then_some(pid)
}

/// Kills every process in the cgroup at `path` and below, waits until they are gone and removes the
/// tree. A cgroup that is gone already is no error.
pub fn end(path: &Path) -> Result<(), CgroupError> {
    if !path.exists() {
        return Ok(());
    }
    kill(path)?;
    // A process that is gone can still be leaving its cgroup for a moment.
    let start = Instant::now();
    loop {
        match remove_tree(path) {
            Ok(()) => return Ok(()),
            Err(_) if start.elapsed() < KILL_PATIENCE => {
                std::thread::sleep(Duration::from_millis(5))
            }
            Err(error) => return Err(io_error("removing", path)(error)),
        }
    }
}

/// Kills every process in the cgroup at `path` and below, and waits until they are gone.
pub fn kill(path: &Path) -> Result<(), CgroupError> {
    let switch = path.join("cgroup.kill");
    let mut file =
        OpenOptions::new().write(true).open(&switch).map_err(io_error("opening", &switch))?;
    file.write_all(b"1").map_err(io_error("killing the processes of", path))?;
    let start = Instant::now();
    while populated(path).map_err(io_error("reading", path))? && start.elapsed() < KILL_PATIENCE {
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Whether the cgroup at `path` is not the one with this id any more.
pub fn is_gone(path: &Path, id: u64) -> bool {
    match fs::metadata(path) {
        Ok(metadata) => metadata.ino() != id,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// The file by which a cgroup is frozen.
const FREEZE: &str = "cgroup.freeze";

/// Whether somebody lets nobody in the cgroup at `path` run on.
pub fn is_frozen(path: &Path) -> Result<bool, CgroupError> {
    let switch = path.join(FREEZE);
    let state = fs::read_to_string(&switch).map_err(io_error("reading", &switch))?;
    Ok(state.trim_end() == "1")
}

/// Lets nobody in the cgroup at `path` and below run on, or all of them again.
pub fn freeze(path: &Path, frozen: bool) -> Result<(), CgroupError> {
    let switch = path.join(FREEZE);
    fs::write(&switch, if frozen { "1" } else { "0" }).map_err(io_error("writing", &switch))
}

/// Whether a process is in the cgroup at `path` or below. In one that is gone there is none.
pub fn is_populated(path: &Path) -> Result<bool, CgroupError> {
    match populated(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        found => found.map_err(io_error("reading", path)),
    }
}

fn populated(path: &Path) -> io::Result<bool> {
    let events = fs::read_to_string(path.join("cgroup.events"))?;
    Ok(events.lines().any(|line| line == "populated 1"))
}

/// A cgroup is removed like a directory; its files vanish with it.
fn remove_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.to_owned();
    move |source| CgroupError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_known_by_its_id_until_it_is_gone() {
        let mounts = mounts::MountTable::open().unwrap().read().unwrap();
        // Not every machine that builds this lets its users make cgroups, or open by handle.
        let (Ok(cgroups), true) = (Cgroups::open(&mounts), rustix::process::geteuid().is_root())
        else {
            return;
        };
        let parent = mounts::cgroup2(&mounts).unwrap().to_owned();
        let name = format!("agent-guard-test-{}", std::process::id());
        let Ok(cgroup) = Cgroup::create_in(&parent, &mounts, &name) else { return };
        let id = cgroup.id();
        assert!(!cgroups.has_gone(id));
        cgroup.remove().unwrap();
        assert!(cgroups.has_gone(id));
    }

    #[test]
    fn only_what_a_guard_made_is_ever_swept() {
        assert_eq!(owner("agent-guard-coding-agent-17"), Some("17"));
        for name in [
            "agent-guard-17",
            "agent-guard-x-",
            "agent-guard-x-1/2",
            "agent-guard-x-y",
            "x-17",
            "17",
        ] {
            assert_eq!(owner(name), None, "{name}");
        }
    }
}
