//! `/run/agent-guard`: what guards tell each other. Gone after a boot, as all that is in the kernel.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

/// The directory.
pub const PATH: &str = "/run/agent-guard";

/// The file in it that is locked by whoever changes what all guards share.
const TURN: &str = "lock";

/// Makes the directory, for root alone.
///
/// # Errors
/// What the kernel said.
pub fn create() -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(PATH)
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
