//! What a policy says of each operation.

use agent_guard_common::{
    event::Operation,
    table::{NO_RULE, OPERATIONS, Verdict},
};

use super::rules::system_id;
use crate::policy::{self, Policy};

/// The verdict on each operation, by number: deny beats allow, among equals the first rule of the file
/// gives the name, and where none speaks the section's default holds, which is to deny.
pub fn verdicts(policy: &Policy) -> [Verdict; OPERATIONS] {
    let default = policy.system.default.into();
    let mut verdicts = [Verdict::new(default, NO_RULE); OPERATIONS];
    for (verdict, operation) in verdicts.iter_mut().zip(Operation::ALL) {
        let first = |effect| {
            policy
                .system
                .rules
                .iter()
                .position(|rule| rule.effect == effect && rule.matcher.contains(operation))
        };
        let decides = first(policy::Effect::Deny).or_else(|| first(policy::Effect::Allow));
        if let Some(index) = decides
            && let Some(rule) = policy.system.rules.get(index)
        {
            *verdict = Verdict::new(rule.effect.into(), system_id(policy, index));
        }
    }
    verdicts
}
