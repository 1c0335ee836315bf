//! The newest checkpoint of a log: what is to be kept elsewhere.

use super::{
    format::Record,
    lines::{Line, Lines},
    verify::{Files, FilesError},
};

/// The line of the newest checkpoint whose signature is that of the key it names; none where there is none.
///
/// # Errors
/// A file can not be read.
pub fn newest(files: &Files) -> Result<Option<Vec<u8>>, FilesError> {
    for path in files.0.iter().rev() {
        let failed = |source| FilesError::Open { path: path.clone(), source };
        let mut lines = Lines::open(path).map_err(failed)?;
        let mut newest = None;
        while let Some(line) = lines.read_line().map_err(failed)? {
            if let Line::Whole(line) = line
                && Record::looks_signed(line)
                && Record::read(line).is_ok_and(|record| record.signer().is_some())
            {
                newest = Some(line.to_vec());
            }
        }
        if newest.is_some() {
            return Ok(newest);
        }
    }
    Ok(None)
}
