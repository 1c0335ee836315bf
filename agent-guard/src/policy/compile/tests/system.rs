//! Operations.

use agent_guard_common::{
    decide::{Decision, Reason, decide_operation},
    event::Operation,
    table::{Effect, NO_RULE},
};

use super::{compile_lexical, policy};

fn decide(spec: &str, operation: Operation) -> Decision {
    decide_operation(&compile_lexical(&policy(spec)).agent(1, 1), operation)
}

#[test]
fn without_a_section_every_operation_is_denied() {
    for operation in Operation::ALL {
        for spec in ["files: {default: allow}", "system: {}"] {
            assert_eq!(decide(spec, *operation), Decision::deny(Reason::Default));
        }
    }
}

#[test]
fn the_default_holds_where_no_rule_speaks() {
    let allowed = Decision { effect: Effect::Allow, rule: NO_RULE, reason: Reason::Default };
    let spec = "system: {default: allow, rules: [{effect: deny, operations: [bpf]}]}";
    for operation in Operation::ALL.iter().filter(|one| **one != Operation::Bpf) {
        assert_eq!(decide(spec, *operation), allowed);
    }
    let denied = Decision { effect: Effect::Deny, rule: 0, reason: Reason::Rule };
    assert_eq!(decide(spec, Operation::Bpf), denied);
}

#[test]
fn deny_beats_allow_and_the_first_of_equals_is_named() {
    let spec = "
egress: {rules: [{effect: allow, to: [\"10.0.0.1\"]}]}
exec: {rules: [{effect: allow, paths: [/bin/sh]}]}
files: {rules: [{effect: allow, paths: [/etc]}]}
system:
  rules:
    - {effect: allow, operations: [mount, chroot]}
    - {effect: deny, operations: [mount]}
    - {effect: allow, operations: [chroot]}
    - {effect: deny, operations: [mount]}";
    let rule = |effect, rule| Decision { effect, rule, reason: Reason::Rule };
    assert_eq!(decide(spec, Operation::Mount), rule(Effect::Deny, 4));
    assert_eq!(decide(spec, Operation::Chroot), rule(Effect::Allow, 3));
    assert_eq!(decide(spec, Operation::Trace), Decision::deny(Reason::Default));
}

#[test]
fn memory_that_nobody_wrote_denies() {
    // SAFETY: integers and arrays of them, for which zero is a value.
    let agent = unsafe { std::mem::zeroed() };
    for operation in Operation::ALL {
        assert_eq!(decide_operation(&agent, *operation).effect, Effect::Deny);
    }
}
