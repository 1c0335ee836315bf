//! The key that signs checkpoints: a file for its owner alone, and the public half beside it.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    str::FromStr,
};

use ed25519_dalek::{
    SigningKey, VerifyingKey,
    pkcs8::{
        DecodePrivateKey as _, EncodePrivateKey as _, KeypairBytes,
        spki::{DecodePublicKey as _, EncodePublicKey as _, der::pem::LineEnding},
    },
};
use rustix::fs::OFlags;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use thiserror::Error;

use super::format::from_hexadecimal;
use crate::bytes::{hexadecimal, random};

/// Largest key file, bytes: some thirty times what one takes.
const MAX_BYTES: u64 = 4096;

/// What is before the digits of a public key.
const SCHEME: &str = "ed25519:";

/// A public key: `ed25519:` and 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey(pub(super) VerifyingKey);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", hexadecimal(self.0.as_bytes()))
    }
}

impl FromStr for PublicKey {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let bytes = text.strip_prefix(SCHEME).and_then(from_hexadecimal).ok_or(())?;
        VerifyingKey::from_bytes(&bytes).map(Self).map_err(|_| ())
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(|()| D::Error::custom("no public key: ed25519: and 64 digits"))
    }
}

/// The public half of a key.
#[must_use]
pub fn public_half(key: &SigningKey) -> PublicKey {
    PublicKey(key.verifying_key())
}

/// Why there is no key.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The file can not be read, or not be made.
    #[error("the audit key {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is there already, and nothing is written over a key.
    #[error(
        "{0} is there already and is not written over: what it signed could not be continued. For \
         another key in its place, `agent-guard audit keygen --next`"
    )]
    Exists(PathBuf),
    /// Others can read it, so others can sign.
    #[error(
        "the audit key {path} can be read or changed by others (mode {mode:o}, owner {owner}): \
         whoever has read it can sign as this host. Draw another one, or `chmod 600` and `chown` it \
         where nobody has"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// The id of its owner.
        owner: u32,
    },
    /// It holds no key.
    #[error(
        "{0} holds no Ed25519 private key in PEM (PKCS #8); `agent-guard audit keygen` makes one"
    )]
    NotPrivate(PathBuf),
    /// It holds no public key.
    #[error(
        "`{0}` is no public key: `ed25519:` and 64 hexadecimal digits, or a file that holds that or PEM"
    )]
    NotPublic(String),
}

/// Reads a private key.
///
/// # Errors
/// The file is not to be had, is not its owner's alone, or holds no key.
pub fn load(path: &Path) -> Result<SigningKey, KeyError> {
    let text = read(path, |file| {
        let metadata = file.metadata()?;
        let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
        let exposed = mode & 0o077 != 0 || owner != rustix::process::geteuid().as_raw();
        Ok(exposed.then(|| KeyError::Exposed { path: path.to_owned(), mode, owner }))
    })?;
    SigningKey::from_pkcs8_pem(&text).map_err(|_| KeyError::NotPrivate(path.to_owned()))
}

fn read(
    path: &Path,
    refuse: impl FnOnce(&File) -> io::Result<Option<KeyError>>,
) -> Result<String, KeyError> {
    let failed = |source| KeyError::File { path: path.to_owned(), source };
    // A FIFO would keep whoever opens it waiting.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed)?;
    if let Some(refusal) = refuse(&file).map_err(failed)? {
        return Err(refusal);
    }
    let mut text = String::new();
    file.take(MAX_BYTES).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// Draws a key and writes it to `path`, for its owner alone, and the public half beside it.
///
/// # Errors
/// There is a file already, or it can not be written.
pub fn create(path: &Path) -> Result<SigningKey, KeyError> {
    let failed = |path: &Path, source| KeyError::File { path: path.to_owned(), source };
    let key = SigningKey::from_bytes(&random().map_err(|error| failed(path, error.into()))?);
    // Without the public half in it: OpenSSL reads no other form.
    let pem = KeypairBytes { secret_key: key.to_bytes(), public_key: None }
        .to_pkcs8_pem(LineEnding::LF)
        .map_err(|error| failed(path, io::Error::other(error)))?;
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|error| failed(path, error))?;
    }
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = made.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => KeyError::Exists(path.to_owned()),
        _ => failed(path, error),
    })?;
    let written = file.write_all(pem.as_bytes()).and_then(|()| file.sync_all());
    if let Err(error) = written {
        // Half a key is none.
        let _ = fs::remove_file(path);
        return Err(failed(path, error));
    }
    publish(path, &public_half(&key))?;
    Ok(key)
}

/// Writes the public half of the key at `path` beside it.
///
/// # Errors
/// It can not be written.
pub fn publish(path: &Path, key: &PublicKey) -> Result<(), KeyError> {
    let public = beside(path, "pub");
    let failed = |source| KeyError::File { path: public.clone(), source };
    let pem = key.0.to_public_key_pem(LineEnding::LF);
    let pem = pem.map_err(|error| failed(io::Error::other(error)))?;
    fs::write(&public, pem).map_err(failed)
}

/// The file beside a key that has `suffix` more in its name.
#[must_use]
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// A public key as it is given on a command line: itself, or a file that holds it.
///
/// # Errors
/// It is neither.
pub fn public(given: &str) -> Result<PublicKey, KeyError> {
    if let Ok(key) = given.parse() {
        return Ok(key);
    }
    if given.starts_with(SCHEME) {
        return Err(KeyError::NotPublic(given.to_owned()));
    }
    let text = read(Path::new(given), |_| Ok(None))?;
    text.trim()
        .parse()
        .ok()
        .or_else(|| VerifyingKey::from_public_key_pem(&text).ok().map(PublicKey))
        .ok_or_else(|| KeyError::NotPublic(given.to_owned()))
}
