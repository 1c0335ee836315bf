//! What ECS calls an event: its category, types and action. Consumers rely on these: change none.

use agent_guard_common::{
    event::{Action, Operation, Outcome},
    hook::Hook,
};

use super::{super::Rule, passed};
use crate::event::{Body, Notice, words};

/// The names of an event, and what else its body decides.
pub struct Kind<'a> {
    pub category: &'static str,
    pub types: &'static [&'static str],
    pub action: &'static str,
    pub level: &'static str,
    pub rule: Option<&'a Rule>,
}

impl<'a> Kind<'a> {
    pub fn of(body: &'a Body) -> Self {
        match body {
            Body::Decided { action, decision, object, hook, .. } => {
                let (category, types) = match object {
                    super::Object::Operation(operation, _) => operated(*operation),
                    _ => acted(*action, *hook, passed(decision.outcome)),
                };
                let action = match object {
                    super::Object::Operation(operation, _) => words::operation(*operation),
                    _ => name(*action),
                };
                let level = level(decision.outcome);
                Self { category, types, action, level, rule: decision.rule.as_deref() }
            }
            Body::Lookup(lookup) => Self {
                category: "network",
                types: match passed(lookup.outcome) {
                    true => &["protocol", "allowed"],
                    false => &["protocol", "denied"],
                },
                action: "dns-query",
                level: level(lookup.outcome),
                rule: lookup.rule.as_deref(),
            },
            Body::Notice(notice) => told(notice),
        }
    }
}

fn level(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Allowed => "info",
        Outcome::Observed => "notice",
        Outcome::Denied | Outcome::Killed => "warning",
    }
}

fn told(notice: &Notice) -> Kind<'static> {
    let (category, types, action, level): (_, &[_], _, _) = match notice {
        Notice::Started => ("session", &["start"], "agent-start", "info"),
        Notice::Stopped { .. } => ("session", &["end"], "agent-stop", "info"),
        Notice::Adopted => ("session", &["info"], "agent-adopt", "warning"),
        Notice::Uncovered { .. } => ("session", &["info"], "agent-uncovered", "warning"),
        Notice::PolicyLoaded { .. } => ("configuration", &["change"], "policy-load", "info"),
        Notice::Degraded => ("configuration", &["info"], "policy-degraded", "warning"),
        Notice::EventsLost(_) => ("host", &["info"], "events-lost", "warning"),
        Notice::DecisionsSkipped(_) => ("host", &["info"], "decisions-skipped", "warning"),
    };
    Kind { category, types, action, level, rule: None }
}

fn acted(action: Action, hook: Hook, passed: bool) -> (&'static str, &'static [&'static str]) {
    match action {
        Action::Read | Action::Write | Action::ReadWrite if hook == Hook::FileReceive => {
            ("file", &["access"])
        }
        Action::Read | Action::Receive => ("file", &["access"]),
        Action::Write
        | Action::ReadWrite
        | Action::Truncate
        | Action::Rename
        | Action::SetMetadata => ("file", &["change"]),
        Action::Create | Action::Link => ("file", &["creation"]),
        Action::Delete => ("file", &["deletion"]),
        Action::Exec => ("process", &["start"]),
        Action::Load | Action::Map => ("library", &["start"]),
        Action::Connect | Action::Send | Action::Accept | Action::ConnectLocal => match passed {
            true => ("network", &["connection", "allowed"]),
            false => ("network", &["connection", "denied"]),
        },
        Action::Listen | Action::CreateSocket => match passed {
            true => ("network", &["info", "allowed"]),
            false => ("network", &["info", "denied"]),
        },
        Action::IoUring | Action::ShareDescriptors | Action::SourceRoute | Action::Operate => {
            ("host", &["access"])
        }
    }
}

fn operated(operation: Operation) -> (&'static str, &'static [&'static str]) {
    match operation {
        Operation::Trace => ("process", &["access"]),
        Operation::Signal
        | Operation::Tune
        | Operation::Cgroup
        | Operation::UserNamespace
        | Operation::Namespace => ("process", &["change"]),
        Operation::Module => ("driver", &["start"]),
        Operation::FileHandle => ("file", &["access"]),
        Operation::Bpf | Operation::Perf | Operation::TerminalInput | Operation::KernelLog => {
            ("host", &["access"])
        }
        Operation::Mount
        | Operation::Chroot
        | Operation::Kexec
        | Operation::Clock
        | Operation::Host => ("host", &["change"]),
    }
}

fn name(action: Action) -> &'static str {
    match action {
        Action::Read => "file-read",
        Action::Write => "file-write",
        Action::ReadWrite => "file-read-write",
        Action::Create => "file-create",
        Action::Delete => "file-delete",
        Action::Rename => "file-rename",
        Action::Link => "file-link",
        Action::Truncate => "file-truncate",
        Action::SetMetadata => "file-set-metadata",
        Action::Exec => "exec",
        Action::Load => "load",
        Action::Map => "map",
        Action::Receive => "descriptor-receive",
        Action::Connect => "connect",
        Action::Send => "send",
        Action::CreateSocket => "socket-create",
        Action::Listen => "listen",
        Action::Accept => "accept",
        Action::ConnectLocal => "connect-local",
        Action::Operate => "operate",
        Action::IoUring => "io-uring",
        Action::ShareDescriptors => "share-descriptors",
        Action::SourceRoute => "source-route",
    }
}
