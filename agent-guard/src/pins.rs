//! What stays in force without the guard: links and maps, pinned in a directory of their own on bpffs.
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
    maps::{MapData, MapError},
    pin::PinError,
    programs::{ProgramError, ProgramInfo, links::FdLink},
};
use rustix::{
    fs::statfs,
    mount::{MountFlags, mount},
};

use crate::kernel::root_cause;

/// Where bpffs is mounted.
const BPFFS: &str = "/sys/fs/bpf";

/// The directory of every guard's pins.
const ROOT: &str = "/sys/fs/bpf/agent-guard";

/// `BPF_FS_MAGIC` (`include/uapi/linux/magic.h`).
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// Why nothing is pinned.
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

/// The pins of one guard.
#[derive(Debug)]
pub struct Pins {
    directory: PathBuf,
}

impl Pins {
    /// The pins of `id`, which may not be there.
    pub fn of(id: &str) -> Self {
        Self { directory: Path::new(ROOT).join(id) }
    }

    /// Makes their directory, for root alone.
    pub fn create(&self) -> Result<(), PinsError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .map_err(io_error("making", &self.directory))
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
            let path = self.program(spec);
            if let Some(program) = ebpf.program_mut(spec.program) {
                program.pin(&path).map_err(|source| PinsError::Pin { path, source })?;
            }
        }
        Ok(())
    }

    fn program(&self, spec: &HookSpec) -> PathBuf {
        self.directory.join(format!("program-{}", spec.program))
    }

    /// Pins each link under the name of its program. They stay attached until [`Self::remove`].
    pub fn pin_links(&self, links: Vec<(&'static str, FdLink)>) -> Result<Vec<FdLink>, PinsError> {
        let pin = |(program, link): (_, FdLink)| {
            let path = self.directory.join(format!("link-{program}"));
            link.pin(&path).map(FdLink::from).map_err(|source| PinsError::Pin { path, source })
        };
        links.into_iter().map(pin).collect()
    }

    /// Opens the programs that are pinned.
    pub fn programs(&self) -> Result<Vec<(Hook, OwnedFd)>, ProgramError> {
        let pinned = Hook::TABLE.iter().filter(|spec| self.program(spec).exists());
        let open = |spec: &HookSpec| {
            let program = ProgramInfo::from_pin(self.program(spec))?.fd()?;
            Ok((spec.hook, program.as_fd().try_clone_to_owned()?))
        };
        pinned.map(open).collect()
    }

    /// Opens the map of this name.
    pub fn map(&self, name: &str) -> Result<MapData, MapError> {
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
