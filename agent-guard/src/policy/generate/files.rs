//! Path rules: what was read, written, run and connected to, as patterns.

use std::collections::BTreeMap;

use agent_guard_common::decide::Request;

use super::{
    names::{Names, Use},
    tree::{Covered, Done, Tree},
};
use crate::policy::{
    PathPattern,
    compile::{Path, to_std},
};
use std::os::unix::ffi::OsStrExt as _;

/// What was asked of one path.
pub struct Asked<'a> {
    /// The path.
    pub path: &'a Path,
    /// What was asked.
    pub request: Request,
    /// Only a rule without wildcards opens it.
    pub guarded: bool,
    /// Events.
    pub events: u64,
}

/// Patterns by what they allow.
#[derive(Debug, Default)]
pub struct Patterns {
    /// Read and not written.
    pub read: Vec<Covered>,
    /// Written and not read.
    pub write: Vec<Covered>,
    /// Both.
    pub read_write: Vec<Covered>,
    /// Run, or mapped as code from where the agent writes.
    pub run: Vec<Covered>,
    /// UNIX-domain sockets of others.
    pub sockets: Vec<Covered>,
}

/// The patterns for all of it. Where names of files were `moved`, what is written is read too: a file keeps what may
/// be done with it.
pub fn patterns(asked: &[Asked<'_>], names: Names<'_>, moved: bool) -> Patterns {
    let mut accesses: BTreeMap<&Path, Done> = BTreeMap::new();
    let mut exact: BTreeMap<String, Done> = BTreeMap::new();
    let mut run: BTreeMap<String, Done> = BTreeMap::new();
    let mut sockets: BTreeMap<String, Done> = BTreeMap::new();
    for Asked { path, request, guarded, events } in asked {
        let (reads, writes) = match request {
            Request::Read => (*events, 0),
            Request::Write => (0, *events),
            Request::ReadWrite => (*events, *events),
            Request::Load => continue,
            Request::Exec => {
                add(&mut run, path, Use::Run, names, *events);
                continue;
            }
            Request::Connect => {
                add(&mut sockets, path, Use::Write, names, *events);
                continue;
            }
        };
        let done = if *guarded {
            exact.entry(exactly(path)).or_default()
        } else {
            accesses.entry(path).or_default()
        };
        done.reads += reads;
        done.writes += writes;
    }

    let mut written = Tree::default();
    for (path, done) in &accesses {
        let place = names.pattern(path, if done.writes > 0 { Use::Write } else { Use::Read });
        match done {
            Done { writes: 0, .. } => written.bar(&place),
            Done { reads: 0, writes } if moved => {
                written.insert(&place, Done { reads: *writes, writes: *writes });
            }
            done => written.insert(&place, *done),
        }
    }
    let (both, write): (Vec<_>, Vec<_>) =
        written.fold(names.detail).into_iter().partition(|covered| covered.done.reads > 0);

    let mut read = Tree::default();
    let covered_by = |path: &Path, patterns: &[PathPattern]| {
        let path = to_std(path);
        patterns.iter().any(|pattern| pattern.matches(path.as_os_str().as_bytes()))
    };
    let readable = parsed(&both);
    for (path, done) in accesses {
        if done.writes == 0 && !covered_by(path, &readable) {
            read.insert(&names.pattern(path, Use::Read), done);
        }
    }
    // Code that the agent can write needs a rule under `exec`; other code is read.
    let writable = [parsed(&write), readable].concat();
    let code = asked.iter().filter(|asked| asked.request == Request::Load);
    for Asked { path, events, .. } in code {
        if covered_by(path, &writable) {
            add(&mut run, path, Use::Run, names, *events);
        } else {
            read.insert(&names.pattern(path, Use::Read), Done { reads: *events, writes: 0 });
        }
    }

    let mut patterns = Patterns {
        read: read.fold(names.detail),
        write,
        read_write: both,
        run: listed(run),
        sockets: listed(sockets),
    };
    for (pattern, done) in exact {
        let of_kind = match done {
            Done { writes: 0, .. } => &mut patterns.read,
            Done { reads: 0, .. } => &mut patterns.write,
            _ => &mut patterns.read_write,
        };
        of_kind.push(Covered { pattern, done });
    }
    patterns
}

fn add(to: &mut BTreeMap<String, Done>, path: &Path, used: Use, names: Names<'_>, events: u64) {
    let names = names.pattern(path, used);
    to.entry(format!("/{}", names.join("/"))).or_default().reads += events;
}

/// The pattern without a wildcard. A thread is found under another number every time, and as `thread-self` always.
pub fn exactly(path: &Path) -> String {
    let names = match path.as_slice() {
        [proc, own, task, thread, rest @ ..]
            if **proc == *b"proc"
                && **own == *b"self"
                && **task == *b"task"
                && thread.iter().all(u8::is_ascii_digit) =>
        {
            [&[proc.clone(), b"thread-self".as_slice().into()], rest].concat()
        }
        path => path.to_vec(),
    };
    let names: Vec<String> = names.iter().map(|name| super::names::escape(name)).collect();
    format!("/{}", names.join("/"))
}

fn listed(patterns: BTreeMap<String, Done>) -> Vec<Covered> {
    patterns.into_iter().map(|(pattern, done)| Covered { pattern, done }).collect()
}

fn parsed(patterns: &[Covered]) -> Vec<PathPattern> {
    patterns.iter().filter_map(|covered| PathPattern::parse(&covered.pattern).ok()).collect()
}
