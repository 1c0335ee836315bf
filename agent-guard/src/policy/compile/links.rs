//! Symbolic links in patterns.
//!
//! Rules name paths, the kernel sees files: where `/bin` is a link to `/usr/bin`, no file is called
//! `/bin/sh`. The names before a pattern's first wildcard are followed when the policy is loaded, and
//! the pattern then stands for both paths.

use std::{
    cell::RefCell,
    collections::HashMap,
    ffi::OsStr,
    io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path as StdPath, PathBuf},
};

use super::mounts::{Path, components};
use crate::policy::Segment;

/// Links followed in one path: what the kernel follows, too.
const MAX_LINKS: usize = 40;

/// Reads symbolic links.
pub trait Links {
    /// Where the link at `path` points; `None` where there is none. No component before the last is
    /// a link.
    ///
    /// # Errors
    /// It could not be found out.
    fn read_link(&self, path: &StdPath) -> io::Result<Option<PathBuf>>;
}

/// The links of this host, each read once.
#[derive(Default)]
pub struct HostLinks {
    known: RefCell<HashMap<PathBuf, Option<PathBuf>>>,
}

impl Links for HostLinks {
    fn read_link(&self, path: &StdPath) -> io::Result<Option<PathBuf>> {
        if let Some(target) = self.known.borrow().get(path) {
            return Ok(target.clone());
        }
        let target = match std::fs::read_link(path) {
            Ok(target) => Some(target),
            Err(error) => match error.kind() {
                // There, and no link; or not there.
                io::ErrorKind::InvalidInput
                | io::ErrorKind::NotFound
                | io::ErrorKind::NotADirectory => None,
                _ => return Err(error),
            },
        };
        self.known.borrow_mut().insert(path.to_owned(), target.clone());
        Ok(target)
    }
}

/// A host without links: paths are what they say.
pub struct NoLinks;

impl Links for NoLinks {
    fn read_link(&self, _path: &StdPath) -> io::Result<Option<PathBuf>> {
        Ok(None)
    }
}

/// A path without links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Followed {
    /// Where it leads.
    pub path: Path,
    /// The links on the way, each by a path without links.
    pub links: Vec<Path>,
}

/// Follows every link in `path`, the last component included.
///
/// # Errors
/// A link can not be read, or there are more than 40.
pub fn follow(path: &[Box<[u8]>], links: &dyn Links) -> io::Result<Followed> {
    let mut followed = Followed { path: Path::new(), links: Vec::new() };
    let mut rest: Path = path.iter().rev().cloned().collect();
    while let Some(name) = rest.pop() {
        match &*name {
            b"." => continue,
            b".." => {
                followed.path.pop();
                continue;
            }
            _ => followed.path.push(name),
        }
        if is_process(&followed.path) {
            followed.path.extend(rest.into_iter().rev());
            return Ok(followed);
        }
        let Some(target) = links.read_link(&to_std(&followed.path))? else { continue };
        if followed.links.len() == MAX_LINKS {
            return Err(io::Error::other(format!(
                "more than {MAX_LINKS} symbolic links in one path"
            )));
        }
        followed.links.push(followed.path.clone());
        followed.path.pop();
        let target = target.into_os_string().into_vec();
        if target.starts_with(b"/") {
            followed.path.clear();
        }
        rest.extend(components(&target).into_iter().rev());
    }
    Ok(followed)
}

/// The links in a process's own directory under `/proc` differ from process to process, and patterns
/// speak of all of them.
fn is_process(path: &[Box<[u8]>]) -> bool {
    match path {
        [proc, process] if **proc == *b"proc" => {
            **process == *b"self"
                || **process == *b"thread-self"
                || process.iter().all(u8::is_ascii_digit)
        }
        _ => false,
    }
}

/// `components` as an absolute path of the standard library.
pub fn to_std(components: &[Box<[u8]>]) -> PathBuf {
    let mut path = PathBuf::from("/");
    path.extend(components.iter().map(|name| StdPath::new(OsStr::from_bytes(name))));
    path
}

/// The pattern with the links before its first wildcard followed, and these links. `None` where there
/// are none.
///
/// # Errors
/// As for [`follow`].
pub fn follow_pattern(
    segments: &[Segment],
    links: &dyn Links,
) -> io::Result<Option<(Vec<Segment>, Vec<Path>)>> {
    let literal = |segment: &Segment| match segment {
        Segment::Literal(name) => Some(name.clone()),
        Segment::Glob(_) | Segment::AnyOne | Segment::AnyDepth => None,
    };
    let names: Path = segments.iter().map_while(literal).collect();
    let followed = follow(&names, links)?;
    if followed.links.is_empty() {
        return Ok(None);
    }
    let wild = segments.get(names.len()..).unwrap_or_default();
    let segments =
        followed.path.into_iter().map(Segment::Literal).chain(wild.iter().cloned()).collect();
    Ok(Some((segments, followed.links)))
}
