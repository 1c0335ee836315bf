//! Operations.

use agent_guard_common::{decide::decide_operation, event::Operation};

use super::{ExplainError, Explanation, audit_note, compile_here, explanation};
use crate::{
    event::words,
    policy::{
        Policy, Rule,
        compile::{Environment, Filesystems, NoLinks, system_id},
    },
};

/// What becomes of `operation`.
///
/// # Errors
/// The policy can not be compiled.
pub fn explain_operation(
    policy: &Policy,
    operation: Operation,
) -> Result<Explanation, ExplainError> {
    let name = words::operation(operation);
    let notes = audit_note(policy);
    let policy = only_system(policy);
    let filesystems = Filesystems::lexical();
    let environment = Environment { filesystems: &filesystems, links: &NoLinks };
    let compiled = compile_here(&policy, &environment)?;
    let decision = decide_operation(&compiled.agent(0, 0), operation);
    let rules = policy.system.rules.iter().enumerate();
    let matches = rules
        .filter(|(_, rule)| rule.matcher.contains(&operation))
        .map(|(index, _)| (system_id(&policy, index), name.to_owned()));
    Ok(explanation(&compiled, name.to_owned(), decision, notes, matches))
}

/// The policy with the same rule numbers, no paths and nothing to resolve.
fn only_system(policy: &Policy) -> Policy {
    let mut policy = policy.clone();
    policy.egress.rules.iter_mut().for_each(|rule| rule.matcher.clear());
    policy.exec.rules.iter_mut().for_each(|rule| rule.matcher.paths.clear());
    policy.files.rules.iter_mut().for_each(|Rule { matcher, .. }| matcher.paths.clear());
    policy
}
