//! The bytes of a policy file, bounded before they are read.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use super::{Policy, PolicyError};

/// Largest policy file, bytes. The most rules there may be, with a path each, take about as much.
pub const MAX_FILE_BYTES: usize = 4 << 20;

impl Policy {
    /// Reads a policy file; `-` is standard input.
    ///
    /// # Errors
    /// The file cannot be read, has more than [`MAX_FILE_BYTES`], or is refused as by
    /// [`Policy::parse`].
    pub fn load(path: &Path) -> Result<Self, PolicyError> {
        let name = path.display().to_string();
        match read_path(path) {
            Err(source) => Err(PolicyError::Unreadable { file: name, source }),
            Ok(None) => Err(PolicyError::TooLarge { file: name }),
            Ok(Some(bytes)) => Self::parse_bytes(&name, bytes),
        }
    }

    fn parse_bytes(name: &str, bytes: Vec<u8>) -> Result<Self, PolicyError> {
        let text = String::from_utf8(bytes).map_err(|error| {
            let offset = error.utf8_error().valid_up_to();
            let before = error.as_bytes().iter().take(offset);
            let line = 1 + before.filter(|&&byte| byte == b'\n').count();
            PolicyError::NotUtf8 { file: name.to_owned(), offset, line }
        })?;
        Self::parse(name, &text)
    }
}

/// The bytes of a file, or of standard input for `-`; `None` where they are more than a policy may have.
pub(super) fn read_path(path: &Path) -> io::Result<Option<Vec<u8>>> {
    if path == Path::new("-") {
        return read_bounded(io::stdin().lock());
    }
    let file = File::open(path)?;
    // A file that says it is too large is not read at all.
    match file.metadata()?.len() {
        len if len > MAX_FILE_BYTES as u64 => Ok(None),
        _ => read_bounded(file),
    }
}

/// All there is to read, or `None` where it is more than a policy may have.
fn read_bounded(source: impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    source.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() <= MAX_FILE_BYTES).then_some(bytes))
}
