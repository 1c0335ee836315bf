//! The files that patterns match on disk, at the time when a policy is loaded.

use std::{
    ffi::OsStr,
    fs::{self, File, Metadata, OpenOptions},
    io,
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    path::{Path as StdPath, PathBuf},
};

use super::{
    Segment,
    compile::{Filesystems, components},
};

/// A search that met a bound.
#[derive(Debug)]
pub struct CutOff {
    /// Where it ended.
    pub at: PathBuf,
    /// The bound.
    pub bound: usize,
}

/// A walk through trees on disk.
pub struct Search<'a> {
    filesystems: &'a Filesystems,
    bound: usize,
    /// Entries that may still be looked at.
    left: usize,
    /// Directories that could not be read.
    pub unreadable: Vec<(PathBuf, io::Error)>,
}

impl<'a> Search<'a> {
    /// One that looks at `bound` directory entries.
    pub fn new(filesystems: &'a Filesystems, bound: usize) -> Self {
        Self { filesystems, bound, left: bound, unreadable: Vec::new() }
    }

    /// Gives `found` the regular file at `start`, or those below it as far as `patterns` lead. No link is
    /// followed.
    pub fn below<E: From<CutOff>>(
        &mut self,
        start: PathBuf,
        patterns: &[&[Segment]],
        mut found: impl FnMut(&StdPath, &Metadata) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut waiting = vec![(start, patterns.to_vec())];
        while let Some((path, patterns)) = waiting.pop() {
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            if metadata.is_file() {
                found(&path, &metadata)?;
                continue;
            }
            let names = components(path.as_os_str().as_bytes());
            if !metadata.is_dir() || !self.filesystems.is_on_disk(&names) {
                continue;
            }
            let entries = match fs::read_dir(&path) {
                Ok(entries) => entries,
                Err(error) => {
                    self.unreadable.push((path, error));
                    continue;
                }
            };
            for entry in entries.flatten() {
                if self.left == 0 {
                    return Err(CutOff { at: path, bound: self.bound }.into());
                }
                self.left -= 1;
                let below = follow(&patterns, entry.file_name().as_bytes());
                let Ok(kind) = entry.file_type() else { continue };
                let ends = |rest: &&[Segment]| matches!(rest, [] | [Segment::AnyDepth]);
                if kind.is_dir() && !below.is_empty() || kind.is_file() && below.iter().any(ends) {
                    waiting.push((entry.path(), below));
                }
            }
        }
        Ok(())
    }
}

/// Opens a file for reading, and nothing that it links to; waits for nobody.
pub fn open_itself(path: &StdPath) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC);
    options.open(path)
}

/// A pattern's names before its first wildcard, as a path, and the rest of it.
pub fn split(segments: &[Segment]) -> (PathBuf, &[Segment]) {
    let mut path = PathBuf::from("/");
    let mut rest = segments;
    while let [Segment::Literal(name), behind @ ..] = rest {
        path.push(OsStr::from_bytes(name));
        rest = behind;
    }
    (path, rest)
}

/// What is left of `patterns` behind a component called `name`.
fn follow<'a>(patterns: &[&'a [Segment]], name: &[u8]) -> Vec<&'a [Segment]> {
    let mut below = Vec::new();
    let mut waiting = patterns.to_vec();
    while let Some(pattern) = waiting.pop() {
        let Some((first, rest)) = pattern.split_first() else { continue };
        let fits = match first {
            Segment::Literal(literal) => **literal == *name,
            Segment::Glob(glob) => glob.matches(name),
            Segment::AnyOne => true,
            Segment::AnyDepth => {
                below.push(pattern);
                waiting.push(rest);
                false
            }
        };
        if fits {
            below.push(rest);
        }
    }
    below
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::PathPattern;

    fn rest_of(pattern: &str) -> Vec<Segment> {
        PathPattern::parse(pattern).unwrap().segments
    }

    #[test]
    fn a_pattern_is_followed_no_further_than_it_leads() {
        let ssh = rest_of("/home/*/.ssh/**");
        let (prefix, rest) = split(&ssh);
        assert_eq!(prefix, StdPath::new("/home"));
        let user = follow(&[rest], b"ann");
        assert!(follow(&user, b"src").is_empty());
        let keys = follow(&user, b".ssh");
        assert!(
            !follow(&keys, b"id").is_empty() && !follow(&follow(&keys, b"d"), b"id").is_empty()
        );
    }

    #[test]
    fn a_name_at_any_depth_is_looked_for_in_every_directory() {
        let env = rest_of("**/.env");
        let everywhere = follow(&[&env], b"dir");
        assert_eq!(everywhere, vec![&env[..]]);
        assert!(follow(&everywhere, b".env").iter().any(|rest| rest.is_empty()));
    }
}
