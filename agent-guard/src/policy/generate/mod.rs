//! A policy made from what was recorded: as tight as it can be read, and wide enough that the same run has no
//! denial under it.
//!
//! Nothing is allowed in silence that the built-in policy denies, that was denied when it was recorded, or that
//! hands the host over: such actions are left out, named, and stay denied whatever patterns come to cover them.
//! What is made is read, compiled and asked about every action before it is given away.

mod draft;
mod files;
mod meet;
mod names;
mod network;
#[cfg(test)]
mod tests;
mod tree;

use std::os::unix::ffi::OsStrExt as _;

use agent_guard_common::{
    decide::{Reason, Request, Transport},
    event::Operation,
    table::Effect,
};
use miette::Diagnostic;
use thiserror::Error;

use self::{
    draft::{Draft, Rules},
    files::{Asked, patterns},
    names::{Detail, Names},
    network::Targets,
};
use super::{
    AccessSet, PathPattern, Policy, PolicyError, PolicyName, SHIPPED_WORKSPACE, ShippedError,
    SocketName,
    compile::{NoLinks, to_std},
    explain::ExplainError,
    replay::{Action, Actions, Judge, Question},
};
use crate::dns::is_internal;

/// The closest patterns, and what is tried where so many do not fit the kernel's tables.
const DETAILS: [Detail; 5] = [
    Detail { many: 8, endings: true, denials: true },
    Detail { many: 8, endings: true, denials: false },
    Detail { many: 8, endings: false, denials: false },
    Detail { many: 4, endings: false, denials: false },
    Detail { many: 2, endings: false, denials: false },
];

/// Operations that hand the kernel over, and the guard with it.
const HAND_OVER: [Operation; 3] = [Operation::Bpf, Operation::Module, Operation::Kexec];

/// What a policy is made as.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its name.
    pub name: PolicyName,
    /// The directory that the built-in policy is to take for its workspace, where one is named.
    pub workspace: Option<std::path::PathBuf>,
}

/// A policy, and what it does not allow.
#[derive(Debug)]
pub struct Generated {
    /// The policy file.
    pub text: String,
    /// The same, read.
    pub policy: Policy,
    /// In the order of the actions.
    pub left_out: Vec<LeftOut>,
}

/// An action that stays denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// What it is.
    pub question: Question,
    /// How many events tell of it.
    pub events: u64,
    /// Why.
    pub why: Why,
}

/// Why an action is left out.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Why {
    /// The built-in policy denies it.
    #[error("the built-in policy denies it, rule `{rule}`")]
    BuiltIn {
        /// By this rule.
        rule: String,
    },
    /// A rule of the policy that it was recorded under did.
    #[error("rule `{rule}` denied it when it was recorded")]
    Recorded {
        /// By this rule.
        rule: String,
    },
    /// It failed.
    #[error("it was denied when it was recorded")]
    Failed,
    /// It hands the kernel over.
    #[error("it hands the kernel over, and the guard with it")]
    HandsOver,
    /// A process outside, under another number each time.
    #[error("it is another process's")]
    OtherProcess,
    /// No rule can name it.
    #[error("a rule has a port from 1 to 65535")]
    NoPort,
    /// Deeper or longer than a pattern may be, or with a byte that none has.
    #[error("no pattern can name it")]
    Unwritable,
    /// A name alone.
    #[error("nothing was connected under that name, so no port is known")]
    NameOnly,
    /// What was made does not allow it.
    #[error("the policy that was made denies it: {verdict}")]
    StillDenied {
        /// What decides.
        verdict: String,
    },
}

/// Why there is no policy.
#[derive(Debug, Error, Diagnostic)]
pub enum GenerateError {
    /// Nothing was recorded.
    #[error("the recording has no action that a policy is asked about")]
    #[diagnostic(help(
        "record one with `agent-guard run --mode audit --policy FILE --events EVENTS -- COMMAND`"
    ))]
    Nothing,
    /// Its workspace is too much for the built-in policy.
    #[error(transparent)]
    Shipped(#[from] ShippedError),
    /// Even with the widest patterns it does not fit the kernel's tables.
    #[error("a policy for this recording can not be had: {0}")]
    #[diagnostic(help("record less at a time, or take one agent of it (`--agent`)"))]
    Tables(#[source] ExplainError),
    /// Even so it is more than a policy may be.
    #[error("a policy for this recording can not be had: {0}")]
    #[diagnostic(help("record less at a time, or take one agent of it (`--agent`)"))]
    Text(#[source] PolicyError),
}

/// Makes a policy that allows what `actions` hold.
///
/// # Errors
/// There is nothing in them, or no policy can hold it.
pub fn generate(actions: &Actions, settings: &Settings) -> Result<Generated, GenerateError> {
    if actions.actions.is_empty() {
        return Err(GenerateError::Nothing);
    }
    let shipped = built_in(actions, settings)?;
    let (mut kept, mut left_out) = select(actions, denials(&shipped));
    let mut made = Err(GenerateError::Nothing);
    for detail in DETAILS {
        made = fit(actions, settings, &shipped, &mut kept, &mut left_out, detail);
        if made.is_ok() {
            break;
        }
    }
    made
}

/// The built-in policy, without its workspace where the agent had another that nobody names.
fn built_in(actions: &Actions, settings: &Settings) -> Result<Policy, ShippedError> {
    if let Some(workspace) = &settings.workspace {
        return Policy::shipped(workspace);
    }
    let workspace = PathPattern::parse(&format!("{SHIPPED_WORKSPACE}/**"));
    let is_there = |action: &Action| match (&action.question, &workspace) {
        (Question::File { path, .. }, Ok(workspace)) => {
            workspace.matches(to_std(path).as_os_str().as_bytes())
        }
        _ => false,
    };
    let mut policy = Policy::shipped(SHIPPED_WORKSPACE.as_ref())?;
    if !actions.actions.iter().any(is_there) {
        for rule in &mut policy.files.rules {
            rule.matcher.paths.retain(|path| !path.text.starts_with(SHIPPED_WORKSPACE));
        }
    }
    Ok(policy)
}

/// What the built-in policy denies, and nothing else.
fn denials(shipped: &Policy) -> Policy {
    let mut policy = shipped.clone();
    draft::only_denials(&mut policy);
    policy.egress.default = super::Effect::Allow;
    policy.exec.default = super::Effect::Allow;
    policy.files.default = super::Effect::Allow;
    policy.listen.default = super::Effect::Allow;
    policy.unix.default = super::Effect::Allow;
    policy.system.default = super::Effect::Allow;
    policy
}

fn select(actions: &Actions, denials: Policy) -> (Vec<&Action>, Vec<LeftOut>) {
    let judge = Judge::new(&denials, &NoLinks).ok();
    let mut targets = Targets::default();
    for action in &actions.actions {
        if let Question::Connect { name: Some(name), port, transport, .. } = &action.question {
            targets.name(name, *port, *transport, action.events);
        }
    }
    let (mut kept, mut left_out) = (Vec::new(), Vec::new());
    for action in &actions.actions {
        let verdict = judge.as_ref().map(|judge| judge.judge(&action.question));
        let built_in = match verdict {
            // Without a judge everything is.
            None => Some("all".to_owned()),
            Some(verdict) if verdict.effect == Effect::Deny && verdict.reason == Reason::Rule => {
                verdict.rule.map(|rule| rule.label)
            }
            Some(_) => None,
        };
        match why(action, built_in, &targets) {
            None => kept.push(action),
            Some(why) => left_out.push(LeftOut {
                question: action.question.clone(),
                events: action.events,
                why,
            }),
        }
    }
    (kept, left_out)
}

fn why(action: &Action, built_in: Option<String>, targets: &Targets) -> Option<Why> {
    if let Some(rule) = built_in {
        return Some(Why::BuiltIn { rule });
    }
    if let Some(rule) = &action.denied_by {
        return Some(Why::Recorded { rule: rule.clone() });
    }
    if action.denied == action.events {
        return Some(Why::Failed);
    }
    match &action.question {
        Question::Operation(operation) if HAND_OVER.contains(operation) => Some(Why::HandsOver),
        Question::File { path, guarded: true, .. } if is_process(path) => Some(Why::OtherProcess),
        Question::File { path, .. } if PathPattern::parse(&files::exactly(path)).is_err() => {
            Some(Why::Unwritable)
        }
        Question::AbstractSocket(name) if SocketName::parse(&abstract_name(name)).is_err() => {
            Some(Why::Unwritable)
        }
        // C libraries try which address has a route; that is allowed where the name is.
        Question::Connect {
            port: 0 | u16::MAX, transport: Transport::Udp, name: Some(_), ..
        } => None,
        Question::Connect { port: 0, .. } | Question::Listen { port: 0, .. } => Some(Why::NoPort),
        Question::Resolve(name) if !targets.has_name(name) => Some(Why::NameOnly),
        _ => None,
    }
}

fn abstract_name(name: &[u8]) -> String {
    format!("@{}", names::escape(name))
}

fn is_process(path: &[Box<[u8]>]) -> bool {
    matches!(path, [proc, pid, ..] if **proc == *b"proc" && pid.iter().all(u8::is_ascii_digit))
}

/// The policy in this detail, once it says of every action what it should.
fn fit(
    actions: &Actions,
    settings: &Settings,
    shipped: &Policy,
    kept: &mut Vec<&Action>,
    left_out: &mut Vec<LeftOut>,
    detail: Detail,
) -> Result<Generated, GenerateError> {
    /// What is left out, once by what is made and once by what keeps it so.
    const ROUNDS: usize = 3;
    let mut held = Vec::new();
    let mut made = None;
    for _ in 0..ROUNDS {
        let draft = Draft {
            name: &settings.name,
            actions,
            distinct: kept.len(),
            rules: rules(actions, kept, detail),
            shipped,
            all_denials: detail.denials,
            held: &held,
            left_out,
        };
        let text = draft.write();
        let policy =
            Policy::parse("the policy that was made", &text).map_err(GenerateError::Text)?;
        let judge = Judge::new(&policy, &NoLinks).map_err(GenerateError::Tables)?;
        let before = (kept.len(), held.len());
        kept.retain(|action| {
            let verdict = judge.judge(&action.question);
            let allowed = verdict.effect == Effect::Allow || is_probe(&action.question);
            if !allowed {
                left_out.push(LeftOut {
                    question: action.question.clone(),
                    events: action.events,
                    why: Why::StillDenied { verdict: verdict.to_string() },
                });
            }
            allowed
        });
        let covered =
            left_out.iter().filter(|left| judge.judge(&left.question).effect == Effect::Allow);
        held.extend(covered.filter_map(|left| held_back(&left.question)).collect::<Vec<_>>());
        held.sort();
        held.dedup();
        let done = before == (kept.len(), held.len());
        made = Some((text, policy));
        if done {
            break;
        }
    }
    let (text, policy) = made.ok_or(GenerateError::Nothing)?;
    left_out.sort_by_cached_key(|left| left.question.to_string());
    Ok(Generated { text, policy, left_out: std::mem::take(left_out) })
}

/// Whether it is a C library's trial of an address that a name led to.
fn is_probe(question: &Question) -> bool {
    matches!(
        question,
        Question::Connect { port: 0 | u16::MAX, transport: Transport::Udp, name: Some(_), .. }
    )
}

/// The denial that keeps a file from what a pattern would allow: the access and the path.
fn held_back(question: &Question) -> Option<(&'static str, String)> {
    let Question::File { path, request, .. } = question else { return None };
    let access = match request {
        Request::Read => AccessSet::Read.words(),
        Request::Write => AccessSet::Write.words(),
        Request::ReadWrite => AccessSet::ReadWrite.words(),
        Request::Exec | Request::Load | Request::Connect => return None,
    };
    Some((access, files::exactly(path)))
}

impl AccessSet {
    fn words(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::ReadWrite => "read, write",
        }
    }
}

fn rules(actions: &Actions, kept: &[&Action], detail: Detail) -> Rules {
    let (mut egress, mut listen) = (Targets::default(), Targets::default());
    let mut asked = Vec::new();
    let mut abstract_sockets = Vec::new();
    let mut operations = Vec::new();
    for action in kept {
        let events = action.events;
        match &action.question {
            Question::File { path, request, guarded } => {
                asked.push(Asked { path, request: *request, guarded: *guarded, events });
            }
            Question::AbstractSocket(name) => {
                abstract_sockets.push((abstract_name(name), events));
            }
            question if is_probe(question) => {}
            Question::Connect { address, port, transport, name } => match name {
                Some(name) => {
                    egress.name(name, *port, *transport, events);
                    // The proxy leaves internal addresses out unless a rule lists them.
                    if is_internal(*address) {
                        egress.address(*address, *port, *transport, 0);
                    }
                }
                None => egress.address(*address, *port, *transport, events),
            },
            Question::Listen { address, port, transport } => {
                listen.address(*address, *port, *transport, events);
            }
            Question::Operation(operation) => operations.push((*operation, events)),
            // A rule for its connections lets it be resolved.
            Question::Resolve(_) => {}
        }
    }
    Rules {
        files: patterns(&asked, Names { pids: &actions.pids, detail }, actions.moves),
        egress: egress.list(),
        listen: listen.list(),
        abstract_sockets,
        operations,
    }
}
