//! What changes in directories, as the kernel tells it (inotify).

use std::{
    collections::HashMap,
    ffi::{CStr, OsStr},
    io,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
    io::Errno,
};
use tokio::io::{Interest, unix::AsyncFd};

/// Bytes that events are read into at once; one takes 16 and its name.
const BUFFER: usize = 8192;

/// Directories that are watched.
pub struct Watch {
    fd: AsyncFd<OwnedFd>,
    paths: HashMap<i32, PathBuf>,
}

/// What happened to an entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is there, or has other content.
    There(PathBuf),
    /// It is gone.
    Gone(PathBuf),
    /// More happened than the kernel kept: look at everything anew.
    Unknown,
}

impl Watch {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn new() -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        // SAFETY: the descriptor moves into the `AsyncFd` and closes with it.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        Ok(Self { fd, paths: HashMap::new() })
    }

    /// Watches the entries of `directory`, for the changes that `flags` name.
    ///
    /// # Errors
    /// What the kernel said, and where the bound on watches is set if it is that.
    pub fn add(&mut self, directory: &Path, flags: WatchFlags) -> io::Result<()> {
        let flags = flags | WatchFlags::ONLYDIR;
        match inotify::add_watch(self.fd.get_ref(), directory, flags) {
            Ok(watch) => {
                self.paths.insert(watch, directory.to_owned());
                Ok(())
            }
            Err(Errno::NOSPC) => Err(io::Error::other(
                "more directories than may be watched; raise fs.inotify.max_user_watches",
            )),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for changes, and takes those that there are.
    ///
    /// # Errors
    /// What the kernel said.
    pub async fn next(&mut self) -> io::Result<Vec<Change>> {
        loop {
            let mut ready = self.fd.readable().await?;
            let changes = read(self.fd.get_ref(), &mut self.paths)?;
            ready.clear_ready();
            if !changes.is_empty() {
                return Ok(changes);
            }
        }
    }
}

fn read(fd: &OwnedFd, paths: &mut HashMap<i32, PathBuf>) -> io::Result<Vec<Change>> {
    let mut buffer = [MaybeUninit::uninit(); BUFFER];
    let mut reader = Reader::new(fd, &mut buffer);
    let mut changes = Vec::new();
    loop {
        let event = match reader.next() {
            Ok(event) => event,
            Err(Errno::WOULDBLOCK) => return Ok(changes),
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let flags = event.events();
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            changes.push(Change::Unknown);
            continue;
        }
        if flags.contains(ReadFlags::IGNORED) {
            paths.remove(&event.wd());
            continue;
        }
        let (Some(directory), Some(name)) = (paths.get(&event.wd()), event.file_name()) else {
            continue;
        };
        let path = directory.join(of_bytes(name));
        let gone = ReadFlags::DELETE | ReadFlags::MOVED_FROM;
        changes.push(match flags.intersects(gone) {
            true => Change::Gone(path),
            false => Change::There(path),
        });
    }
}

fn of_bytes(name: &CStr) -> PathBuf {
    OsStr::from_bytes(name.to_bytes()).into()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn changes_are_told_by_path() {
        let directory = tempfile::tempdir().unwrap();
        let mut watch = Watch::new().unwrap();
        let flags = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVED_TO;
        watch.add(directory.path(), flags).unwrap();
        let (one, two) = (directory.path().join("one"), directory.path().join("two"));
        fs::write(&one, "").unwrap();
        fs::rename(&one, &two).unwrap();
        fs::remove_file(&two).unwrap();
        let changes = watch.next().await.unwrap();
        assert_eq!(changes, [Change::There(one), Change::There(two.clone()), Change::Gone(two)]);
    }

    #[tokio::test]
    async fn a_directory_that_is_gone_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("below");
        fs::create_dir(&below).unwrap();
        let mut watch = Watch::new().unwrap();
        watch.add(&below, WatchFlags::CREATE).unwrap();
        watch.add(directory.path(), WatchFlags::DELETE).unwrap();
        fs::remove_dir(&below).unwrap();
        assert_eq!(watch.next().await.unwrap(), [Change::Gone(below.clone())]);
        assert_eq!(watch.paths.values().collect::<Vec<_>>(), [directory.path()]);
        watch.add(&below, WatchFlags::CREATE).unwrap_err();
    }
}
