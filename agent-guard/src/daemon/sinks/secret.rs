//! Secrets: they stand in files of their own that others can not read, and are shown nowhere.

use std::{
    fmt,
    fs::File,
    io::Read as _,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

/// Longest secret, bytes: keys of any kind are shorter.
const MOST: u64 = 64 << 10;

/// What stood in a file.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl Secret {
    /// Reads it, without the newline at its end.
    ///
    /// # Errors
    /// It can not be read, or others could read or change it.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let told = || format!("the secret in {}", path.display());
        let file = File::open(path).with_context(told)?;
        let kind = file.metadata().with_context(told)?;
        let own = rustix::process::geteuid().as_raw();
        if !kind.is_file() || !(kind.uid() == own || kind.uid() == 0) || kind.mode() & 0o027 != 0 {
            bail!(
                "{} has to be in a file of root's that others can not read, nor its group write: chown root and chmod 0600 it",
                told()
            );
        }
        let mut text = String::new();
        file.take(MOST + 1).read_to_string(&mut text).with_context(told)?;
        if text.len() as u64 > MOST {
            bail!("{} has more than {MOST} bytes", told());
        }
        let text = text.trim_end_matches(['\r', '\n']);
        match text.is_empty() {
            true => bail!("{} is empty", told()),
            false => Ok(Self(text.to_owned())),
        }
    }

    /// The text, to be given to nobody but the far end.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// A secret that is read anew when it is asked for: it may have been renewed.
#[derive(Clone, Debug)]
pub struct SecretFile(PathBuf);

impl SecretFile {
    /// # Errors
    /// See [`Secret::read`].
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        Secret::read(path)?;
        Ok(Self(path.to_owned()))
    }

    /// # Errors
    /// See [`Secret::read`].
    pub fn read(&self) -> anyhow::Result<Secret> {
        Secret::read(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn a_secret_that_others_can_read_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, "hunter2\n").unwrap();
        for (mode, is_secret) in
            [(0o600, true), (0o640, true), (0o644, false), (0o660, false), (0o602, false)]
        {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(Secret::read(&path).is_ok(), is_secret, "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let secret = Secret::read(&path).unwrap();
        assert_eq!((secret.reveal(), format!("{secret:?}")), ("hunter2", "(secret)".to_owned()));
        fs::write(&path, "x".repeat(MOST as usize)).unwrap();
        assert!(Secret::read(&path).is_ok());
        fs::write(&path, "x".repeat(MOST as usize + 1)).unwrap();
        assert!(Secret::read(&path).unwrap_err().to_string().contains("65536 bytes"));
        fs::write(&path, "\n").unwrap();
        assert!(Secret::read(&path).unwrap_err().to_string().contains("is empty"));
        assert!(Secret::read(dir.path()).is_err());
    }
}
