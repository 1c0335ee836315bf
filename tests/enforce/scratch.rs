//! A place for one scene: directory, files, links, programs, listeners.

use std::{
    fs,
    io::{self, Write},
    net::{TcpListener, UdpSocket},
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, symlink},
        net::{UnixDatagram, UnixListener},
    },
    path::{Path, PathBuf},
};

use agent_guard::{mounts::MountTable, policy::pinned::tells_every_change};
use agent_guard_common::decide::Transport;
use tempfile::TempDir;

use crate::{
    actor::local,
    support::{PORTS, Place, Setup, endpoint_parts, unescape},
};

/// A program that does nothing and succeeds.
const TRUE: &str = "/usr/bin/true";

/// How often another row of ports is tried when somebody has one of these.
const ATTEMPTS: u16 = 50;

/// A scratch directory and what listens there. All of it goes when this does.
pub struct Scratch {
    pub place: Place,
    listeners: Vec<Listener>,
    mounts: Vec<PathBuf>,
    _root: TempDir,
}

#[expect(dead_code, reason = "held open")]
enum Listener {
    Tcp(TcpListener),
    Udp(UdpSocket),
    Stream(UnixListener),
    Datagram(UnixDatagram),
}

impl Scratch {
    /// An empty place.
    pub fn new() -> Self {
        Self::with(&[])
    }

    /// A place with all of `setup`.
    pub fn with(setup: &[Setup]) -> Self {
        Self::within(&std::env::temp_dir(), setup)
    }

    /// A place with all of `setup` where files can be pinned: on a disk.
    pub fn on_disk(setup: &[Setup]) -> Self {
        let candidates = [std::env::temp_dir(), "/var/tmp".into(), "/root".into()];
        let is_disk = |at: &&PathBuf| {
            let system = rustix::fs::statfs(at.as_path());
            system.is_ok_and(|system| tells_every_change(system.f_type as u64))
        };
        let on_disk = candidates.iter().find(is_disk);
        Self::within(on_disk.expect("a directory on a file system such as ext4"), setup)
    }

    fn within(directory: &Path, setup: &[Setup]) -> Self {
        let root =
            tempfile::Builder::new().prefix("agent-guard-test-").tempdir_in(directory).unwrap();
        let path = root.path().canonicalize().unwrap();
        let mut place = Place {
            root_depth: depth(&path),
            root: path,
            actor: std::env::current_exe().unwrap().canonicalize().unwrap(),
            outside: std::process::id(),
            disk: disk(),
            first_port: 0,
        };
        let listeners = listen(setup, &mut place);
        let mut scratch = Self { place, listeners, mounts: Vec::new(), _root: root };
        for thing in setup {
            scratch.make(thing);
        }
        scratch
    }

    /// A path below the root.
    pub fn path(&self, below: &str) -> PathBuf {
        self.place.root.join(below)
    }

    /// Writes a file below the root, with the directories above it.
    pub fn file(&self, below: &str, content: &str) -> PathBuf {
        let path = self.path(below);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    fn bytes(&self, text: &str) -> PathBuf {
        PathBuf::from(std::ffi::OsStr::from_bytes(&unescape(&self.place.fill(text))))
    }

    fn make(&mut self, thing: &Setup) {
        match thing {
            Setup::Dir(at) => make_dirs(&self.bytes(at)),
            Setup::File(at) => {
                let path = self.bytes(at);
                // The way there may lead through `..`, or be too long for one call.
                in_parent(&path, |name| fs::write(name, "content\n")).unwrap();
            }
            Setup::Link { at, to } => {
                let (at, to) = (self.bytes(at), self.bytes(to));
                in_parent(&at, |name| symlink(&to, name)).unwrap();
            }
            Setup::HardLink { at, to } => {
                let (at, to) = (self.bytes(at), self.bytes(to));
                in_parent(&at, |name| fs::hard_link(&to, name)).unwrap();
            }
            Setup::Program(at) => {
                let at = self.bytes(at);
                make_dirs(at.parent().unwrap());
                fs::copy(TRUE, &at).unwrap();
            }
            Setup::Script { at, interpreter } => {
                let (at, interpreter) = (self.bytes(at), self.bytes(interpreter));
                make_dirs(at.parent().unwrap());
                let mut file = fs::File::create(&at).unwrap();
                writeln!(file, "#!{}", interpreter.display()).unwrap();
                file.set_permissions(fs::Permissions::from_mode(0o755)).unwrap();
            }
            Setup::Bind { from, at } => {
                let (from, at) = (self.bytes(from), self.bytes(at));
                rustix::mount::mount_bind(&from, &at).unwrap();
                self.mounts.push(at);
            }
            Setup::Overlay { lower, at } => {
                let (lower, at) = (self.bytes(lower), self.bytes(at));
                let beside = |name: &str| {
                    let path = at.with_extension(name);
                    fs::create_dir_all(&path).unwrap();
                    path
                };
                let (upper, work) = (beside("upper"), beside("work"));
                make_dirs(&at);
                let options = format!(
                    "lowerdir={},upperdir={},workdir={}",
                    lower.display(),
                    upper.display(),
                    work.display()
                );
                let options = std::ffi::CString::new(options).unwrap();
                let flags = rustix::mount::MountFlags::empty();
                rustix::mount::mount("overlay", &at, "overlay", flags, &*options).unwrap();
                self.mounts.push(at);
            }
            // Made before, when the ports were chosen.
            Setup::Listen(_) => {}
            Setup::StreamSocket(at) => {
                let listener = UnixListener::bind_addr(&local(&self.place.fill(at))).unwrap();
                self.listeners.push(Listener::Stream(listener));
            }
            Setup::DatagramSocket(at) => {
                let socket = UnixDatagram::bind_addr(&local(&self.place.fill(at))).unwrap();
                self.listeners.push(Listener::Datagram(socket));
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for mount in self.mounts.iter().rev() {
            let _ = rustix::mount::unmount(mount, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// Components of `path` below the root of its file system.
fn depth(path: &Path) -> usize {
    let mounts = MountTable::open().unwrap().read().unwrap();
    let on_top = mounts
        .iter()
        .filter(|mount| path.starts_with(&mount.mount_point))
        .max_by_key(|mount| mount.mount_point.components().count())
        .unwrap();
    let names = |path: &Path| path.components().count() - 1;
    names(path) - names(&on_top.mount_point) + names(&on_top.root)
}

/// Any block device of this host.
fn disk() -> String {
    let blocks = fs::read_dir("/sys/block").unwrap();
    let mut disks: Vec<String> = blocks
        .map(|entry| format!("/dev/{}", entry.unwrap().file_name().to_str().unwrap()))
        .filter(|disk| fs::File::open(disk).is_ok())
        .collect();
    disks.sort();
    disks.pop().expect("a block device that can be opened")
}

/// Takes a row of ports on which everything in `setup` can listen.
fn listen(setup: &[Setup], place: &mut Place) -> Vec<Listener> {
    let wanted: Vec<&String> = setup
        .iter()
        .filter_map(|thing| if let Setup::Listen(at) = thing { Some(at) } else { None })
        .collect();
    // Below the range from which the kernel gives ports out.
    let start = 10_000 + (std::process::id() % 1000) as u16 * PORTS;
    for attempt in 0..ATTEMPTS {
        static ROW: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
        let row = ROW.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        place.first_port = 10_000 + (start - 10_000 + row * PORTS) % 20_000;
        let bound: io::Result<Vec<Listener>> = wanted
            .iter()
            .map(|at| {
                let (addr, transport) = endpoint_parts(&place.fill(at));
                Ok(match transport {
                    Transport::Tcp => Listener::Tcp(TcpListener::bind(addr)?),
                    Transport::Udp => Listener::Udp(UdpSocket::bind(addr)?),
                })
            })
            .collect();
        match bound {
            Ok(listeners) => return listeners,
            Err(error) if attempt + 1 == ATTEMPTS => panic!("{wanted:?}: {error}"),
            Err(_) => {}
        }
    }
    Vec::new()
}

/// Makes the directories of a path of any length.
fn make_dirs(path: &Path) {
    in_parent(&path.join("x"), |_| Ok(())).unwrap();
}

/// Goes to the directory of `path`, making what is missing on the way, and acts on the last name
/// there. In a thread with a working directory of its own.
fn in_parent(path: &Path, act: impl FnOnce(&Path) -> io::Result<()> + Send) -> io::Result<()> {
    std::thread::scope(|scope| {
        let work = scope.spawn(|| {
            // SAFETY: gives this thread a working directory of its own and nothing else.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }?;
            rustix::process::chdir("/")?;
            for name in path.parent().unwrap().components().skip(1) {
                let name = Path::new(name.as_os_str());
                if name != Path::new("..") && !name.exists() {
                    fs::create_dir(name)?;
                }
                rustix::process::chdir(name)?;
            }
            act(Path::new(path.file_name().unwrap()))
        });
        work.join().unwrap()
    })
}
