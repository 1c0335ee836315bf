//! The compiler against its promises, most of them stated a second time in the simplest way that is
//! right.

mod bounds;
mod egress;
mod links;
mod mounts;
mod paths;
mod subtree;
mod system;

use std::{collections::HashMap, io};

use agent_guard_common::{
    decide::{Decision, Reason, Request, decide_file},
    table::{Effect, NO_RULE},
};

use super::{Compiled, Environment, Filesystems, MemoryTables, NoLinks, Path, components};
use crate::policy::{self, PathPattern, Policy, Segment};

pub const KEY: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xc2b2_ae3d_27d4_eb4f];

/// A policy of the given sections, as YAML under `spec`.
pub fn policy(spec: &str) -> Policy {
    let text = format!(
        "apiVersion: agent-guard.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {{name: test}}\nspec:\n  {}\n",
        spec.trim().replace('\n', "\n  ")
    );
    Policy::parse("test.yaml", &text).unwrap_or_else(|error| panic!("{error:?}\n{text}"))
}

/// Compiles for paths as they are written, on a host without links.
pub fn compile_lexical(policy: &Policy) -> Compiled {
    compile_on(policy, &Filesystems::lexical())
}

pub fn compile_on(policy: &Policy, filesystems: &Filesystems) -> Compiled {
    let environment = Environment { filesystems, links: &NoLinks };
    super::compile(policy, &environment, KEY).unwrap_or_else(|error| panic!("{error:?}"))
}

pub fn decide(compiled: &Compiled, path: &str, request: Request, guarded: bool) -> Decision {
    decide_at(compiled, 0, &components(path.as_bytes()), request, guarded)
}

pub fn decide_at(
    compiled: &Compiled,
    dev: u32,
    path: &Path,
    request: Request,
    guarded: bool,
) -> Decision {
    decide_in(&MemoryTables::new(compiled), compiled, dev, path, (request, guarded))
}

/// As [`decide_at`], for those who ask the same tables often.
pub fn decide_in(
    tables: &MemoryTables<'_>,
    compiled: &Compiled,
    dev: u32,
    path: &Path,
    (request, guarded): (Request, bool),
) -> Decision {
    match tables.walk(dev, path) {
        Ok(state) => decide_file(tables, &compiled.agent(1, 1), state, request, guarded),
        Err(reason) => Decision::deny(reason),
    }
}

/// Whether a pattern matches, by definition.
pub fn matches(segments: &[Segment], path: &[Box<[u8]>]) -> bool {
    match (segments, path) {
        ([], _) => path.is_empty(),
        ([Segment::AnyDepth, rest @ ..], _) => {
            (0..=path.len()).any(|taken| matches(rest, &path[taken..]))
        }
        (_, []) => false,
        ([segment, rest @ ..], [name, below @ ..]) => {
            let fits = match segment {
                Segment::Literal(literal) => literal == name,
                Segment::Glob(glob) => glob_matches(glob.pieces(), name),
                Segment::AnyOne | Segment::AnyDepth => true,
            };
            fits && matches(rest, below)
        }
    }
}

fn glob_matches(pieces: &[Box<[u8]>], name: &[u8]) -> bool {
    match pieces {
        [] => false,
        [last] => **last == *name,
        [first, rest @ ..] => name
            .strip_prefix(&**first)
            .is_some_and(|name| (0..=name.len()).any(|taken| glob_matches(rest, &name[taken..]))),
    }
}

/// The path patterns of one kind of access with id and effect of their rules.
pub fn patterns(policy: &Policy, request: Request) -> Vec<(u16, policy::Effect, &PathPattern)> {
    let exec_base = policy.egress.rules.len();
    let file_base = exec_base + policy.exec.rules.len();
    let mut found = Vec::new();
    if request == Request::Exec {
        for (index, rule) in policy.exec.rules.iter().enumerate() {
            found.extend(
                rule.matcher.paths.iter().map(|p| ((exec_base + index) as u16, rule.effect, p)),
            );
        }
    } else {
        for (index, rule) in policy.files.rules.iter().enumerate() {
            let access = rule.matcher.access;
            if if request == Request::Read { access.read() } else { access.write() } {
                let paths = rule.matcher.paths.iter();
                found.extend(paths.map(|p| ((file_base + index) as u16, rule.effect, p)));
            }
        }
    }
    found
}

/// The decision over a file with these names, each reachable or not, by definition.
pub fn naive(policy: &Policy, names: &[(Path, bool)], request: Request, guarded: bool) -> Decision {
    let mut denied = None;
    let mut allowed = None;
    let mut pinned = None;
    for (rule, effect, pattern) in patterns(policy, request) {
        let pins = request == Request::Exec && policy.pin(rule).is_some();
        let exact = pattern.segments.iter().all(|s| matches!(s, Segment::Literal(_)));
        for (name, reachable) in names {
            if !matches(&pattern.segments, name) {
                continue;
            }
            match effect {
                policy::Effect::Deny => denied = denied.or(Some(rule)),
                policy::Effect::Allow if *reachable && pins => {
                    pinned = pinned.or(Some(rule));
                    allowed = allowed.or((exact || !guarded).then_some(rule));
                }
                policy::Effect::Allow if *reachable && (exact || !guarded) => {
                    allowed = allowed.or(Some(rule));
                }
                policy::Effect::Allow => {}
            }
        }
    }
    let default = if request == Request::Exec { policy.exec.default } else { policy.files.default };
    match (denied, allowed, pinned) {
        (Some(rule), ..) => Decision { effect: Effect::Deny, rule, reason: Reason::Rule },
        (None, Some(_), Some(rule)) => {
            Decision { effect: Effect::Deny, rule, reason: Reason::Changed }
        }
        (None, Some(rule), None) => Decision { effect: Effect::Allow, rule, reason: Reason::Rule },
        (None, None, _) if guarded => Decision::deny(Reason::Guarded),
        (None, None, _) => {
            Decision { effect: default.into(), rule: NO_RULE, reason: Reason::Default }
        }
    }
}
