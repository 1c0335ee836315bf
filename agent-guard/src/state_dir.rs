//! `/run/agent-guard`: what guards tell each other. Gone after a boot, as all that is in the kernel.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt},
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
///
/// Its file says whether entries of maps rest: were freed, and may still be held by a program that ran then. It is
/// empty while some may, also where it was just made: what is cut off or never written errs on the safe side.
#[derive(Debug)]
pub struct Turn(File);

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

    /// Whether entries rest.
    ///
    /// # Errors
    /// The file can not be read.
    pub fn has_resting(&self) -> io::Result<bool> {
        Ok(self.0.metadata()?.len() == 0)
    }

    /// Says that entries rest from here on. To be said before the first is freed.
    ///
    /// # Errors
    /// The file could not be cut; then nothing may be freed.
    pub fn begin_rest(&self) -> io::Result<()> {
        self.0.set_len(0)
    }

    /// Says that none rests any more: every program has ended that ran when the last was freed.
    ///
    /// # Errors
    /// The file could not be written; then the next one waits once more.
    pub fn end_rest(&self) -> io::Result<()> {
        self.0.write_all_at(b"nothing rests\n", 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_freed_rests_until_somebody_has_waited() {
        let turn = Turn(tempfile::tempfile().unwrap());
        assert!(
            turn.has_resting().unwrap(),
            "nobody knows what was freed before the file was made"
        );
        turn.end_rest().unwrap();
        assert!(!turn.has_resting().unwrap());
        turn.begin_rest().unwrap();
        assert!(turn.has_resting().unwrap());
        turn.begin_rest().unwrap();
        turn.end_rest().unwrap();
        assert!(!turn.has_resting().unwrap(), "one wait is for all that was freed before");
    }
}
