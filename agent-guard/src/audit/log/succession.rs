//! Which key signs, and how another one comes in its place.

use std::{fs, io, path::Path};

use ed25519_dalek::SigningKey;

use super::{LogError, Settings};
use crate::audit::key::{self, KeyError, PublicKey};

/// The key that the chain goes on with; drawn where there is neither a chain nor a key.
pub fn signing_key(
    settings: &Settings,
    expected: Option<PublicKey>,
) -> Result<SigningKey, LogError> {
    let (path, log) = (&settings.key, &settings.directory);
    let optional = |path: &Path| match key::load(path) {
        Err(KeyError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        loaded => loaded.map(Some),
    };
    let own = optional(path)?;
    let Some(expected) = expected else {
        return match own {
            Some(key) => Ok(key),
            None => {
                let key = key::create(path)?;
                tracing::info!(
                    "the audit log's key was drawn: {} (public half: {})",
                    key::public_half(&key),
                    key::beside(path, "pub").display()
                );
                Ok(key)
            }
        };
    };
    let is_due = |key: &SigningKey| key::public_half(key) == expected;
    if let Some(key) = own.as_ref().filter(|key| is_due(key)) {
        return Ok(key.clone());
    }
    // A writer that died between the old key's last signature and the exchange of the files.
    if let Some(key) = optional(&key::beside(path, "next"))?.filter(is_due) {
        put_in_place(path, &expected)?;
        return Ok(key);
    }
    let (path, log, expected) = (path.clone(), log.clone(), Box::new(expected));
    Err(match own {
        None => LogError::KeyMissing { path, log, expected },
        Some(key) => {
            let found = Box::new(key::public_half(&key));
            LogError::WrongKey { path, log, found, expected }
        }
    })
}

/// Puts the key that waits beside the old one in its place: nobody can sign with the old one any more.
pub fn put_in_place(path: &Path, public: &PublicKey) -> Result<(), KeyError> {
    let waiting = key::beside(path, "next");
    fs::rename(&waiting, path)
        .map_err(|source| KeyError::File { path: path.to_owned(), source })?;
    // It says what stands beside the key now.
    let _ = fs::remove_file(key::beside(&waiting, "pub"));
    key::publish(path, public)
}
