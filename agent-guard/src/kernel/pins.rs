//! What stays in force without a process: programs, links and maps, pinned on bpffs.
//!
//! A link that is pinned keeps its program attached, and the program its maps, whatever becomes of the
//! process that made them.

use std::{
    fs,
    io::{self, ErrorKind},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::{Path, PathBuf},
};

use agent_guard_common::hook::{Hook, HookSpec};
use aya::{
    Ebpf,
    maps::{Map, MapData, MapError},
    pin::PinError,
    programs::{
        ProgramError, ProgramInfo,
        links::{FdLink, LinkError, PinnedLink},
    },
};
use rustix::{
    fs::statfs,
    mount::{MountFlags, mount},
};

use super::root_cause;

/// Where bpffs is mounted.
pub(super) const BPFFS: &str = "/sys/fs/bpf";

/// The directory of everything that is pinned.
pub const ROOT: &str = "/sys/fs/bpf/agent-guard";

/// What the directory of a cgroup's links begins with; it ends with the cgroup's id.
const CGROUP: &str = "cgroup-";

/// `BPF_FS_MAGIC` (`include/uapi/linux/magic.h`).
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// Why something is not pinned, or what is pinned can not be used.
#[derive(Debug, thiserror::Error)]
pub enum PinsError {
    /// bpffs is not there and could not be mounted.
    #[error(
        "no BPF file system is mounted on {BPFFS}, and it could not be mounted: {0}; mount it with `mount -t bpf bpf {BPFFS}`"
    )]
    NoBpffs(io::Error),
    /// A directory or a pin could not be made, read or removed.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
    /// The kernel refused to pin.
    #[error("pinning {path}: {}", root_cause(source))]
    Pin {
        /// As which file.
        path: PathBuf,
        /// The kernel's word.
        source: PinError,
    },
    /// A pinned program could not be opened.
    #[error("opening {path}: {}", root_cause(source))]
    Program {
        /// As which file.
        path: PathBuf,
        /// The kernel's word.
        source: ProgramError,
    },
    /// A pinned link could not be opened.
    #[error("opening {path}: {}", root_cause(source))]
    Link {
        /// As which file.
        path: PathBuf,
        /// The kernel's word.
        source: LinkError,
    },
}

/// Mounts bpffs where it is missing; systemd does it everywhere else.
pub fn mount_bpffs() -> Result<(), PinsError> {
    let is_there = || {
        let found = statfs(BPFFS).map(|found| found.f_type.cast_unsigned());
        found.is_ok_and(|kind| kind == BPF_FS_MAGIC)
    };
    if is_there() {
        return Ok(());
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("bpf", BPFFS, "bpf", flags, Some(c"mode=700"))
        .map_err(|error| PinsError::NoBpffs(error.into()))
}

/// A directory of pins.
#[derive(Clone, Debug)]
pub struct Pins {
    directory: PathBuf,
}

impl Pins {
    /// The directory `name`, which may not be there.
    pub fn of(name: &str) -> Self {
        Self { directory: Path::new(ROOT).join(name) }
    }

    /// The directory in it of what is attached to one cgroup alone.
    pub fn of_cgroup(&self, id: u64) -> Self {
        Self { directory: self.directory.join(format!("{CGROUP}{id}")) }
    }

    /// Removes what is attached to cgroups that are gone.
    pub fn sweep(&self, has_gone: impl Fn(u64) -> bool) -> Result<(), PinsError> {
        let failed = |source| io_error("reading", &self.directory)(source);
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let cgroup = name.to_str().and_then(|name| name.strip_prefix(CGROUP)?.parse().ok());
            if let Some(id) = cgroup.filter(|id| has_gone(*id)) {
                self.of_cgroup(id).remove()?;
            }
        }
        Ok(())
    }

    /// Whether the directory is there.
    pub fn exists(&self) -> bool {
        self.directory.exists()
    }

    /// Makes the directory, for root alone.
    pub fn create(&self) -> Result<(), PinsError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .map_err(io_error("making", &self.directory))
    }

    /// Moves the directory to where `other` is to be.
    pub fn rename_to(self, other: &Self) -> Result<(), PinsError> {
        fs::rename(&self.directory, &other.directory).map_err(io_error("renaming", &self.directory))
    }

    /// Pins every map of `ebpf` under its name.
    pub fn pin_maps(&self, ebpf: &Ebpf) -> Result<(), PinsError> {
        for (name, map) in ebpf.maps() {
            // Read-only data has the name of its section, and bpffs takes no dots.
            let path = self.directory.join(format!("map-{}", name.replace('.', "-")));
            map.pin(&path).map_err(|source| PinsError::Pin { path, source })?;
        }
        Ok(())
    }

    /// Pins the programs of these hooks under their names.
    pub fn pin_programs(
        &self,
        ebpf: &mut Ebpf,
        hooks: &[&'static HookSpec],
    ) -> Result<(), PinsError> {
        for spec in hooks {
            let path = self.program_path(spec);
            if let Some(program) = ebpf.program_mut(spec.program) {
                program.pin(&path).map_err(|source| PinsError::Pin { path, source })?;
            }
        }
        Ok(())
    }

    /// Where the program of a hook is pinned.
    pub fn program_path(&self, spec: &HookSpec) -> PathBuf {
        self.directory.join(format!("program-{}", spec.program))
    }

    fn link_path(&self, spec: &HookSpec) -> PathBuf {
        self.directory.join(format!("link-{}", spec.program))
    }

    /// Pins the link of a hook's program. It stays attached until [`Self::remove`].
    pub fn pin_link(&self, spec: &HookSpec, link: FdLink) -> Result<FdLink, PinsError> {
        let path = self.link_path(spec);
        link.pin(&path).map(FdLink::from).map_err(|source| PinsError::Pin { path, source })
    }

    /// The hooks whose programs are pinned.
    pub fn hooks(&self) -> impl Iterator<Item = &'static HookSpec> {
        Hook::TABLE.iter().filter(|spec| self.program_path(spec).exists())
    }

    /// Opens the link of a hook's program.
    pub fn link(&self, spec: &HookSpec) -> Result<FdLink, PinsError> {
        let path = self.link_path(spec);
        PinnedLink::from_pin(&path)
            .map(FdLink::from)
            .map_err(|source| PinsError::Link { path, source })
    }

    /// Opens the program of a hook.
    pub fn program(&self, spec: &HookSpec) -> Result<(ProgramInfo, OwnedFd), PinsError> {
        let path = self.program_path(spec);
        let open = || {
            let info = ProgramInfo::from_pin(&path)?;
            let fd = info.fd()?.as_fd().try_clone_to_owned()?;
            Ok((info, fd))
        };
        open().map_err(|source| PinsError::Program { path: path.clone(), source })
    }

    /// Opens the map of this name as the type that its declaration has.
    pub fn map<T: TryFrom<Map, Error = MapError>>(&self, name: &str) -> Result<T, MapError> {
        T::try_from(Map::from_map_data(self.map_data(name)?)?)
    }

    /// Opens the map of this name, whatever is in it.
    pub fn map_data(&self, name: &str) -> Result<MapData, MapError> {
        MapData::from_pin(self.directory.join(format!("map-{name}")))
    }

    /// Removes them all. A link that nobody holds open is detached by that.
    pub fn remove(&self) -> Result<(), PinsError> {
        match fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(io_error("removing", &self.directory)(error))
            }
            _ => {
                // The last one to go closes the door; whoever is not the last finds it not empty.
                let _ = fs::remove_dir(ROOT);
                Ok(())
            }
        }
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PinsError {
    let path = path.to_owned();
    move |source| PinsError::Io { action, path, source }
}
