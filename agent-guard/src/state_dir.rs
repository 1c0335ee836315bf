//! `/run/agent-guard`: what guards tell each other. Gone after a boot, as all that is in the kernel.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

/// The directory.
pub const PATH: &str = "/run/agent-guard";

/// The file in it that is locked by whoever changes what all guards share.
const TURN: &str = "lock";

/// Who may do what with the directory: root everything, others reach what they know the name of, as the
/// daemon's socket. All else in it is root's alone.
const MODE: u32 = 0o711;

/// Makes the directory.
///
/// # Errors
/// What the kernel said.
pub fn create() -> io::Result<()> {
    let made = DirBuilder::new().mode(MODE).create(PATH);
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    // Whatever the caller's mask is.
    fs::set_permissions(PATH, Permissions::from_mode(MODE))
}

/// Opens a file in it, made where it is missing.
///
/// # Errors
/// What the kernel said.
pub fn open(name: &str) -> io::Result<(File, PathBuf)> {
    create()?;
    let path = Path::new(PATH).join(name);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    Ok((options.open(&path)?, path))
}

/// The right to change what all guards of this host share. One has it at a time.
#[derive(Debug)]
pub struct Turn(#[expect(dead_code, reason = "it is locked for as long as it is open")] File);

impl Turn {
    /// Waits for it.
    ///
    /// # Errors
    /// The file could not be made or locked.
    pub fn take() -> io::Result<Self> {
        let (file, _) = open(TURN)?;
        flock(&file, FlockOperation::LockExclusive)?;
        Ok(Self(file))
    }
}
