//! Records for tests.

use std::sync::Arc;

use agent_guard_common::{
    decide::Reason,
    event::{Action, Outcome},
    hook::Hook,
};

use crate::{policy::Mode, tier::Tier};

use super::{
    AgentIdentity, Body, Context, Decision, Endpoint, File, Host, Object, PathScope,
    PolicyIdentity, Process, Record, Rule, SafeText,
};

pub fn context() -> Context {
    Context {
        tier: Tier::Lsm,
        mode: Mode::Enforce,
        degraded: Vec::new(),
        agent: AgentIdentity {
            name: "coder".to_owned(),
            id: 1,
            cgroup_id: 7,
            cgroup: SafeText::new(b"/coder"),
            container: None,
        },
        policy: Some(PolicyIdentity {
            name: "coder".to_owned(),
            revision: "abc".to_owned(),
            file: SafeText::new(b"policy.yaml"),
        }),
    }
}

pub fn host() -> Host {
    Host { name: "host".to_owned(), kernel: "6.12.0".to_owned() }
}

pub fn record(body: Body) -> Record {
    Record { time_ns: 1_795_000_000_123_456_789, context: Arc::new(context()), body }
}

/// A denial by the default.
pub fn denied(action: Action, object: Object) -> Record {
    record(Body::Decided {
        process: Process {
            pid: 1234,
            tid: 1234,
            ppid: 1,
            uid: 0,
            gid: 0,
            cgroup_id: 7,
            comm: SafeText::new(b"cat"),
            exe: None,
        },
        action,
        object,
        decision: Decision {
            outcome: Outcome::Denied,
            reason: Reason::Default,
            rule: None,
            host: None,
        },
        hook: Hook::FileOpen,
    })
}

/// The same record, decided otherwise.
pub fn decided(mut record: Record, outcome: Outcome, reason: Reason) -> Record {
    if let Body::Decided { decision, .. } = &mut record.body {
        let secrets =
            || Arc::new(Rule { label: "secrets".to_owned(), line: Some(31), class: None });
        let by_rule = matches!(reason, Reason::Rule | Reason::Changed);
        *decision = Decision { outcome, reason, rule: by_rule.then(secrets), host: None };
    }
    record
}

pub fn file(path: &[u8]) -> Object {
    scoped(path, PathScope::Absolute)
}

pub fn socket(name: &[u8]) -> Object {
    let path = SafeText::new(name);
    Object::LocalSocket(File { path, scope: PathScope::Absolute, dev: 0, inode: 0 })
}

pub fn scoped(path: &[u8], scope: PathScope) -> Object {
    Object::File(File { path: SafeText::new(path), scope, dev: 8 << 20 | 1, inode: 99 })
}

pub fn endpoint(addr: &str, port: u16, protocol: i32) -> Object {
    Object::Endpoint(Endpoint {
        addr: Some(addr.parse().unwrap()),
        port,
        protocol: protocol.try_into().unwrap(),
        family: 0,
    })
}
