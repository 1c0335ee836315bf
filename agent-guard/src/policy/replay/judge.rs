//! What one policy says of many questions: the kernel's own decision, over tables that are compiled once.

use std::{fmt, net::IpAddr};

use agent_guard_common::{
    decide::{
        Decision, Endpoint, Reason, Request, decide_connect, decide_file, decide_listen,
        decide_operation,
    },
    table::{Agent, Effect, NO_RULE},
};

use super::Question;
use crate::{
    event::words,
    policy::{
        Policy,
        compile::{
            Compiled, Environment, Filesystems, Judged, MemoryTables, RuleRef, rule_ref, to_std,
        },
        explain::{ExplainError, Files, by_name, compile_here},
    },
};

/// Answers questions.
pub struct Judge<'a, F> {
    policy: &'a Policy,
    compiled: Compiled,
    agent: Agent,
    files: &'a F,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What is said.
    pub effect: Effect,
    /// Why.
    pub reason: Reason,
    /// The rule that decides.
    pub rule: Option<RuleRef>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.rule, self.reason) {
            (Some(rule), Reason::Rule) => write!(f, "{rule}"),
            (Some(rule), reason) => write!(f, "{rule}: {}", words::because(reason)),
            (None, Reason::Default) => f.write_str("default"),
            (None, reason) => f.write_str(words::because(reason)),
        }
    }
}

impl<'a, F: Files> Judge<'a, F> {
    /// Compiles `policy`, whose patterns may name links of `files`.
    ///
    /// # Errors
    /// It can not be compiled.
    pub fn new(policy: &'a Policy, files: &'a F) -> Result<Self, ExplainError> {
        let filesystems = Filesystems::lexical();
        let compiled =
            compile_here(policy, &Environment { filesystems: &filesystems, links: files })?;
        let agent = compiled.agent(0, 0);
        Ok(Self { policy, compiled, agent, files })
    }

    /// What the policy says of `question`.
    #[must_use]
    pub fn judge(&self, question: &Question) -> Verdict {
        let Decision { effect, rule, reason } = self.decide(question);
        let rule = (rule != NO_RULE).then(|| rule_ref(&self.compiled.rules, rule));
        Verdict { effect, reason, rule }
    }

    fn decide(&self, question: &Question) -> Decision {
        let tables = MemoryTables::new(&self.compiled);
        match question {
            Question::File { path, request, guarded } => match tables.walk(0, path) {
                Ok(state) => {
                    let decision = decide_file(&tables, &self.agent, state, *request, *guarded);
                    self.as_pinned(decision, path)
                }
                Err(reason) => Decision::deny(reason),
            },
            Question::AbstractSocket(name) => match tables.walk_abstract(name) {
                Ok(state) => decide_file(&tables, &self.agent, state, Request::Connect, false),
                Err(reason) => Decision::deny(reason),
            },
            Question::Connect { address, port, transport, name } => {
                let endpoint = match address {
                    IpAddr::V4(address) => Endpoint::v4(address.octets(), *port, *transport),
                    IpAddr::V6(address) => Endpoint::v6(address.octets(), *port, *transport),
                };
                let decision = decide_connect(&tables, &self.agent, &endpoint, false);
                match name {
                    // What rules say of the address comes before what its name says.
                    Some(name) if decision.reason == Reason::Default => {
                        by_name(&self.compiled, name, *port, *transport)
                    }
                    _ => decision,
                }
            }
            Question::Resolve(name) => {
                let (effect, rule) = match self.compiled.names.judge(name) {
                    Judged::Denied { rule } => (Effect::Deny, rule),
                    Judged::Allowed { rule, .. } => (Effect::Allow, rule),
                };
                let reason = if rule == NO_RULE { Reason::Default } else { Reason::Rule };
                Decision { effect, rule, reason }
            }
            Question::Listen { address, port, transport } => {
                let endpoint = match address {
                    IpAddr::V4(address) => Endpoint::own_v4(address.octets(), *port, *transport),
                    IpAddr::V6(address) => Endpoint::own_v6(address.octets(), *port, *transport),
                };
                decide_listen(&tables, &self.agent, &endpoint)
            }
            Question::Operation(operation) => decide_operation(&self.agent, *operation),
        }
    }

    /// A pin holds for the file as it is now.
    fn as_pinned(&self, decision: Decision, path: &[Box<[u8]>]) -> Decision {
        match (decision.reason, self.policy.pin(decision.rule)) {
            (Reason::Changed, Some(pin)) if self.files.pin(&to_std(path), &pin).is_ok() => {
                Decision { effect: Effect::Allow, reason: Reason::Rule, ..decision }
            }
            _ => decision,
        }
    }
}
