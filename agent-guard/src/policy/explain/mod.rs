//! What a policy would answer, and why: the kernel's own decision over tables compiled here, without
//! privileges, for paths as they are named on this host.

mod connect;
mod file;
mod listen;
mod operation;
#[cfg(test)]
mod tests;
mod unix;

use std::{fmt, path::PathBuf};

use agent_guard_common::{
    decide::{Decision, Reason},
    table::Effect,
};
use miette::Diagnostic;
use thiserror::Error;

pub use self::{
    connect::explain_connect,
    file::{Files, explain_exec, explain_open},
    listen::explain_listen,
    operation::explain_operation,
    unix::explain_unix,
};
pub(super) use self::{
    connect::{by_name, host, written},
    file::locate,
};
use super::{
    Mode, Policy, TargetError,
    compile::{CompileError, Compiled, Environment, RuleRef, compile},
};

/// Why a question has no answer.
#[derive(Debug, Error, Diagnostic)]
pub enum ExplainError {
    /// The policy can not be compiled.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Compile(#[from] CompileError),
    /// A path without a beginning.
    #[error("`{}` is no absolute path", .0.display())]
    #[diagnostic(help("a policy has no current directory: begin the path with `/`"))]
    Relative(PathBuf),
    /// Not `HOST:PORT`.
    #[error("`{text}` is no endpoint: {source}")]
    #[diagnostic(help("write HOST:PORT, HOST:PORT/tcp or HOST:PORT/udp"))]
    Endpoint {
        /// What was asked.
        text: String,
        /// What is wrong with it.
        source: TargetError,
    },
    /// More than one address, port or protocol.
    #[error("`{0}` is not one endpoint")]
    #[diagnostic(help("write one host and one port: HOST:PORT, HOST:PORT/tcp or HOST:PORT/udp"))]
    Many(String),
    /// No path and no abstract name.
    #[error("`{0}` is no UNIX-domain socket")]
    #[diagnostic(help("write an absolute path, or `@` and an abstract name"))]
    Socket(String),
}

/// A decision with its grounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What was asked, such as `read /etc/passwd`.
    pub question: String,
    /// What the kernel would decide.
    pub decision: Decision,
    /// The rule that decided.
    pub by: Option<Match>,
    /// What was found out on the way.
    pub notes: Vec<String>,
    /// The other rules that match, in the order of the file.
    pub also: Vec<Match>,
}

/// A rule that matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// The rule.
    pub rule: RuleRef,
    /// What it says.
    pub effect: Effect,
    /// Its first entry that matches, as written.
    pub text: String,
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let effect = word(self.effect);
        write!(f, "{}: {effect} `{}`", self.rule, self.text)
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", word(self.decision.effect), self.question)?;
        match &self.by {
            Some(by) => writeln!(f, "  by {by}")?,
            None => writeln!(f, "  {}", grounds(self.decision.reason))?,
        }
        for note in &self.notes {
            writeln!(f, "  note: {note}")?;
        }
        for other in &self.also {
            writeln!(f, "  also matches: {other}")?;
        }
        Ok(())
    }
}

fn word(effect: Effect) -> &'static str {
    match effect {
        Effect::Deny => "deny",
        Effect::Allow => "allow",
    }
}

fn grounds(reason: Reason) -> &'static str {
    match reason {
        Reason::Rule => "by a rule",
        Reason::Default => "no rule matches: the section's `default` holds",
        Reason::Guarded => {
            "guarded (a device, the kernel's memory, another process or another's terminal): only a rule that names it without wildcards allows it"
        }
        Reason::TooDeep => "the path has more components than the kernel side walks",
        Reason::TooLong => "the path is longer than the kernel side walks",
        Reason::UnknownFilesystem => "its file system is not known to the policy",
        Reason::Pipe => "a pipe or anonymous memory: whoever made it could",
        Reason::Detached => "it hangs in no tree of files",
        Reason::Protocol => "of a family or protocol that agents do not have",
        Reason::Interface => "an interface that is closed to agents",
        Reason::NoPolicy => "there is no policy in the kernel",
        Reason::Differs => "the policy says different things of the two places",
        Reason::Own => "it is the agent's own",
        Reason::Alias => "the file has another name, which is denied",
        Reason::Diverted => "the guard's DNS proxy answers in place of the name server",
        Reason::Changed => "nothing is there that could be pinned",
        Reason::Failed => "the tables are broken",
    }
}

fn audit_note(policy: &Policy) -> Vec<String> {
    match policy.mode {
        Mode::Enforce => Vec::new(),
        Mode::Audit => {
            vec!["`mode: audit`: a denial is recorded, and the action goes on".to_owned()]
        }
    }
}

/// Compiles under a key that need not be secret: nobody attacks these tables.
pub(super) fn compile_here(
    policy: &Policy,
    environment: &Environment<'_>,
) -> Result<Compiled, ExplainError> {
    let mut key = [0x9e37_79b9_7f4a_7c15, 0xc2b2_ae3d_27d4_eb4f_u64];
    loop {
        match compile(policy, environment, key) {
            Err(CompileError::HashCollision) => key = key.map(|half| half.rotate_left(7) ^ 0xa5),
            compiled => return Ok(compiled?),
        }
    }
}

/// Puts the deciding rule apart from the others. `matches` are ids and entries; the first entry of
/// each rule is shown.
fn explanation(
    compiled: &Compiled,
    question: String,
    decision: Decision,
    notes: Vec<String>,
    matches: impl Iterator<Item = (u16, String)>,
) -> Explanation {
    let mut found: Vec<(u16, String)> = matches.collect();
    found.sort_by_key(|(rule, _)| *rule);
    found.dedup_by_key(|(rule, _)| *rule);
    let (mut by, mut also) = (None, Vec::new());
    for (id, text) in found {
        let Some(rule) = compiled.rules.get(usize::from(id)) else { continue };
        let found = Match { rule: rule.to_ref(), effect: rule.effect, text };
        if id == decision.rule {
            by = Some(found);
        } else {
            also.push(found);
        }
    }
    Explanation { question, decision, by, notes, also }
}
