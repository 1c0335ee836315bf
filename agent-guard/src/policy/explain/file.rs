//! Files: opened and run.

use std::{os::unix::ffi::OsStrExt, path::Path as StdPath};

use agent_guard_common::{
    decide::{Decision, Reason, Request, decide_file},
    guarded::{Node, is_guarded, is_pseudo_terminal},
    table::Effect,
};
use rustix::fs::{major, minor};

use super::{ExplainError, Explanation, audit_note, compile_here, explanation};
use crate::policy::{
    AccessSet, Pin, Policy, Segment,
    compile::{
        Environment, Filesystems, Form, HostLinks, Links, MemoryTables, NoLinks, Path, components,
        follow, forms, to_std,
    },
    pinned::{self, Unfit},
};

/// The host that a question is about.
pub trait Files: Links {
    /// What becomes of a rule's pin at `path`.
    ///
    /// # Errors
    /// Why the file there could not be pinned, and would not run.
    fn pin(&self, path: &StdPath, pin: &Pin) -> Result<(), Unfit>;
    /// Whether no wildcard opens the node at `path`, for writing where `writes`.
    fn is_guarded(&self, path: &StdPath, writes: bool) -> bool;
}

impl Files for HostLinks {
    fn pin(&self, path: &StdPath, pin: &Pin) -> Result<(), Unfit> {
        pinned::check(path, pin)
    }

    fn is_guarded(&self, path: &StdPath, writes: bool) -> bool {
        let (Ok(stat), Ok(system)) = (rustix::fs::lstat(path), rustix::fs::statfs(path)) else {
            return false;
        };
        let rdev = major(stat.st_rdev) << 20 | minor(stat.st_rdev);
        let mode = (stat.st_mode & 0xffff) as u16;
        // What is there now is no terminal of an agent that is to come.
        is_pseudo_terminal(mode, rdev)
            || is_guarded(&Node { magic: system.f_type as u64, mode, rdev }, writes)
    }
}

impl Files for NoLinks {
    fn pin(&self, _path: &StdPath, _pin: &Pin) -> Result<(), Unfit> {
        Ok(())
    }

    fn is_guarded(&self, _path: &StdPath, _writes: bool) -> bool {
        false
    }
}

/// What becomes of opening `path` for `access`.
///
/// # Errors
/// The path is relative, or the policy can not be compiled.
pub fn explain_open(
    policy: &Policy,
    path: &StdPath,
    access: AccessSet,
    files: &impl Files,
) -> Result<Explanation, ExplainError> {
    let (request, verb) = match access {
        AccessSet::Read => (Request::Read, "read"),
        AccessSet::Write => (Request::Write, "write"),
        AccessSet::ReadWrite => (Request::ReadWrite, "read and write"),
    };
    explain_file(policy, path, request, verb, files)
}

/// What becomes of running the program at `path`.
///
/// # Errors
/// As for [`explain_open`].
pub fn explain_exec(
    policy: &Policy,
    path: &StdPath,
    files: &impl Files,
) -> Result<Explanation, ExplainError> {
    explain_file(policy, path, Request::Exec, "run", files)
}

/// Where `path` leads on this host, and whether only a rule without wildcards opens what is there, for writing where
/// `writes`.
///
/// # Errors
/// The path is relative.
pub(in crate::policy) fn locate(
    path: &StdPath,
    writes: bool,
    files: &impl Files,
) -> Result<(Path, bool), ExplainError> {
    if !path.is_absolute() {
        return Err(ExplainError::Relative(path.to_owned()));
    }
    let Place { path, is_guarded } = Place::find(path, writes, files, &mut Vec::new());
    Ok((path, is_guarded))
}

pub(super) fn explain_file(
    policy: &Policy,
    path: &StdPath,
    request: Request,
    verb: &str,
    files: &impl Files,
) -> Result<Explanation, ExplainError> {
    if !path.is_absolute() {
        return Err(ExplainError::Relative(path.to_owned()));
    }
    let mut notes = audit_note(policy);
    let writes = matches!(request, Request::Write | Request::ReadWrite);
    let place = Place::find(path, writes, files, &mut notes);
    let policy = only_paths(policy);
    let filesystems = Filesystems::lexical();
    let environment = Environment { filesystems: &filesystems, links: files };
    let compiled = compile_here(&policy, &environment)?;

    let tables = MemoryTables::new(&compiled);
    let mut decision = match tables.walk(0, &place.path) {
        Ok(state) => decide_file(&tables, &compiled.agent(0, 0), state, request, place.is_guarded),
        Err(reason) => Decision::deny(reason),
    };
    if decision.reason == Reason::Changed
        && let Some(pin) = policy.pin(decision.rule)
    {
        match files.pin(&to_std(&place.path), &pin) {
            Ok(()) => {
                decision = Decision { effect: Effect::Allow, reason: Reason::Rule, ..decision };
                notes.push(
                    "pinned: it runs as it is when the policy is loaded; once it is changed or replaced it does not"
                        .to_owned(),
                );
            }
            Err(why) => notes.push(format!("pinned, and it does not run: {why}")),
        }
    }
    let forms = forms(&policy, &compiled.rules, &environment, &mut Vec::new());
    let matching = forms.iter().filter(|form| speaks_of(form, request) && fits(form, &place.path));
    let matches = matching.map(|form| (form.accept.rule, form.pattern.text.clone()));
    let question = format!("{verb} {}", path.display());
    Ok(explanation(&compiled, question, decision, notes, matches))
}

/// Where a path leads on this host.
struct Place {
    path: Path,
    is_guarded: bool,
}

impl Place {
    fn find(path: &StdPath, writes: bool, files: &impl Files, notes: &mut Vec<String>) -> Self {
        let mut rest = components(path.as_os_str().as_bytes());
        let mut followed = loop {
            let path = match follow(&rest, files) {
                Ok(followed) => followed.path,
                Err(error) => {
                    notes.push(format!("symbolic links were not followed: {error}"));
                    break rest;
                }
            };
            // A process's `root` leads to the file itself, whoever's it is.
            match path.as_slice() {
                [proc, _, root, below @ ..] if is(proc, "proc") && is(root, "root") => {
                    rest = below.to_vec();
                }
                _ => break path,
            }
        };
        let end = to_std(&followed);
        if end != path {
            notes.push(format!("{} is {} here", path.display(), end.display()));
        }

        let mut is_guarded = files.is_guarded(&end, writes);
        match followed.as_slice() {
            [proc, thread, ..] if is(proc, "proc") && is(thread, "thread-self") => {
                let process = ["self", "task", "0"].map(|name| name.as_bytes().into());
                followed.splice(1..2, process);
            }
            [proc, process, ..] if is(proc, "proc") && process.iter().all(u8::is_ascii_digit) => {
                is_guarded = true;
                notes.push(
                    "judged as another process's entry; those of the agent's own processes are /proc/self"
                        .to_owned(),
                );
            }
            [dev, pts, _] if is_guarded && is(dev, "dev") && is(pts, "pts") => notes.push(
                "judged as another's terminal; those that the agent makes, and the one that it is started from, take no exact rule"
                    .to_owned(),
            ),
            _ => {}
        }
        if let [proc, process, link @ ..] = followed.as_slice()
            && is(proc, "proc")
            && is(process, "self")
            && let [link, ..] = link
            && ["cwd", "exe", "fd", "map_files"].iter().any(|name| is(link, name))
        {
            notes.push(
                "where this leads differs from process to process; the file it leads to is what is judged"
                    .to_owned(),
            );
        }
        Self { path: followed, is_guarded }
    }
}

fn is(component: &[u8], name: &str) -> bool {
    component == name.as_bytes()
}

fn speaks_of(form: &Form<'_>, request: Request) -> bool {
    let [read, write, exec, connect] = form.accept.access;
    match request {
        Request::Read => read,
        Request::Write => write,
        Request::ReadWrite => read || write,
        Request::Exec => exec,
        Request::Load => read || exec,
        Request::Connect => connect,
    }
}

/// Whether a pattern matches, one component of the path after the other.
fn fits(form: &Form<'_>, path: &[Box<[u8]>]) -> bool {
    let segments = form.segments.as_slice();
    // Places in the pattern that are reached; a `**` may stand for nothing.
    let enter = |reached: &mut Vec<usize>| {
        reached.sort_unstable();
        reached.dedup();
        let mut at = 0;
        while let Some(place) = reached.get(at).copied() {
            if segments.get(place) == Some(&Segment::AnyDepth) && !reached.contains(&(place + 1)) {
                reached.push(place + 1);
            }
            at += 1;
        }
    };
    let mut reached = vec![0];
    enter(&mut reached);
    for name in path {
        let step = |place: &usize| match segments.get(*place) {
            Some(Segment::Literal(literal)) => (literal == name).then_some(place + 1),
            Some(Segment::Glob(glob)) => glob.matches(name).then_some(place + 1),
            Some(Segment::AnyOne) => Some(place + 1),
            Some(Segment::AnyDepth) => Some(*place),
            None => None,
        };
        reached = reached.iter().filter_map(step).collect();
        enter(&mut reached);
    }
    reached.contains(&segments.len())
}

/// The policy with the same rule numbers and nothing to resolve.
fn only_paths(policy: &Policy) -> Policy {
    let mut policy = policy.clone();
    policy.egress.rules.iter_mut().for_each(|rule| rule.matcher.clear());
    policy
}
