//! UNIX-domain sockets of others.

use std::path::Path as StdPath;

use agent_guard_common::decide::{Decision, Request, decide_file};

use super::{
    ExplainError, Explanation, audit_note, compile_here, explanation,
    file::{Files, explain_file},
};
use crate::policy::{
    Policy, Segment, SocketName,
    compile::{Environment, Filesystems, MemoryTables, NoLinks, abstract_names},
};

/// What becomes of connecting to the socket of another at `name`: a path, or `@` and an abstract name
/// with the escapes of patterns.
///
/// # Errors
/// It is neither, or the policy can not be compiled.
pub fn explain_unix(
    policy: &Policy,
    name: &str,
    files: &impl Files,
) -> Result<Explanation, ExplainError> {
    let not_one = || ExplainError::Socket(name.to_owned());
    let Some(stripped) = name.strip_prefix('@') else {
        if !name.starts_with('/') {
            return Err(not_one());
        }
        return explain_file(policy, StdPath::new(name), Request::Connect, "connect", files);
    };
    let bytes: &[u8] = match SocketName::parse(name) {
        Ok(SocketName::Abstract(pattern)) => match pattern.segments.as_slice() {
            [Segment::Literal(bytes)] => &bytes.clone(),
            _ => return Err(not_one()),
        },
        _ if stripped.is_empty() => b"",
        _ => return Err(not_one()),
    };

    let policy = without_addresses(policy);
    let filesystems = Filesystems::lexical();
    let environment = Environment { filesystems: &filesystems, links: &NoLinks };
    let compiled = compile_here(&policy, &environment)?;
    let tables = MemoryTables::new(&compiled);
    let decision = match tables.walk_abstract(bytes) {
        Ok(state) => decide_file(&tables, &compiled.agent(0, 0), state, Request::Connect, false),
        Err(reason) => Decision::deny(reason),
    };
    let matches = abstract_names(&policy).filter_map(|(pattern, accept)| {
        let fits = match pattern.segments.as_slice() {
            [Segment::Literal(literal)] => **literal == *bytes,
            [Segment::Glob(glob)] => glob.matches(bytes),
            [Segment::AnyOne] => true,
            _ => false,
        };
        fits.then(|| (accept.rule, pattern.text.clone()))
    });
    let question = format!("connect {name}");
    Ok(explanation(&compiled, question, decision, audit_note(&policy), matches))
}

/// The policy with the same rule numbers and nothing to resolve.
fn without_addresses(policy: &Policy) -> Policy {
    let mut policy = policy.clone();
    policy.egress.rules.iter_mut().for_each(|rule| rule.matcher.clear());
    policy
}
