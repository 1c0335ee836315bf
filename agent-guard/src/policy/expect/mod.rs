//! Files of expectations: questions, and what a policy is to answer.

mod reader;
mod schema;
#[cfg(test)]
mod tests;

use std::{
    io,
    path::{Path as StdPath, PathBuf},
};

use agent_guard_common::{
    decide::{Reason, Request},
    event::Operation,
    table::Effect,
};
use miette::Diagnostic;
use serde::Serialize;
use thiserror::Error;

use self::reader::{Expectation, Reader};
use super::{
    AccessSet, Fault, MAX_FILE_BYTES, Policy, PolicyError, Refusal,
    explain::{
        ExplainError, Files, explain_connect, explain_listen, explain_operation, explain_unix,
        locate,
    },
    load::read_path,
    replay::{self, Judge},
};
use crate::event::words;

/// Why expectations were not put to a policy.
#[derive(Debug, Error, Diagnostic)]
pub enum ExpectError {
    /// The file could not be read.
    #[error("cannot read the test {file}")]
    #[diagnostic(help("name a readable file, or `-` for standard input"))]
    Unreadable {
        /// As the caller named it.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// Larger than any, or no text.
    #[error("the test {file} is not UTF-8 text of at most {MAX_FILE_BYTES} bytes")]
    #[diagnostic(help("is this the right file?"))]
    NoText {
        /// As the caller named it.
        file: String,
    },
    /// What is wrong with the file.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Refused(Box<Refusal>),
    /// What is wrong with the policy.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Policy(PolicyError),
    /// The policy can not be compiled.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Explain(ExplainError),
}

/// What came of one expectation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// The file of expectations.
    pub file: String,
    /// 1-based line of the case.
    pub line: usize,
    /// What was asked, such as `read /etc/passwd`.
    pub question: String,
    /// What is expected, with the rule where one is named.
    pub expected: String,
    /// What the policy says, with what decides.
    pub answer: String,
    /// Whether they are the same.
    pub met: bool,
}

/// Reads a file of expectations and puts them to its policy, for paths as they are on this host. A policy's file is
/// looked for from the directory of the test.
///
/// # Errors
/// The file or its policy is refused.
pub fn check(file: &StdPath, files: &impl Files) -> Result<Vec<Answer>, ExpectError> {
    let name = file.display().to_string();
    let bytes =
        read_path(file).map_err(|source| ExpectError::Unreadable { file: name.clone(), source })?;
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    let Some(text) = text else { return Err(ExpectError::NoText { file: name }) };

    let mut reader = Reader::new(&text);
    let Some((policy, cases)) = reader.document(&text) else {
        return Err(reader.refusal(&name));
    };
    let policy = file.parent().map_or_else(|| policy.clone().into(), |base| base.join(&policy));
    let policy = Policy::load(&policy).map_err(ExpectError::Policy)?;
    let judge = Judge::new(&policy, files).map_err(ExpectError::Explain)?;
    let mut answers = Vec::new();
    for expectation in cases {
        match expectation.question.ask(&policy, &judge, files) {
            Ok(said) => answers.push(expectation.answer(&name, said)),
            Err(ExplainError::Compile(error)) => return Err(ExpectError::Explain(error.into())),
            Err(error) => {
                let help = error.help().map(|help| help.to_string()).unwrap_or_default();
                let fault = Fault::NoQuestion { message: error.to_string(), help };
                reader.notes.refuse::<()>(expectation.at, fault);
            }
        }
    }
    if reader.notes.is_empty() { Ok(answers) } else { Err(reader.refusal(&name)) }
}

/// What a case asks.
enum Question {
    Open(PathBuf, AccessSet),
    Exec(PathBuf),
    Connect(String),
    Listen(String),
    Unix(String),
    Operation(Operation),
}

/// What the policy says.
struct Said {
    question: String,
    effect: Effect,
    reason: Reason,
    rule: Option<String>,
}

impl Question {
    /// As `policy explain` answers. Files have all of the policy's paths to be compiled, so that is done once.
    fn ask<F: Files>(
        &self,
        policy: &Policy,
        judge: &Judge<'_, F>,
        files: &F,
    ) -> Result<Said, ExplainError> {
        let file = |path: &StdPath, request| {
            let writes = matches!(request, Request::Write | Request::ReadWrite);
            let (path, guarded) = locate(path, writes, files)?;
            let question = replay::Question::File { path, request, guarded };
            let verdict = judge.judge(&question);
            Ok(Said {
                question: question.to_string(),
                effect: verdict.effect,
                reason: verdict.reason,
                rule: verdict.rule.map(|rule| rule.label),
            })
        };
        let explanation = match self {
            Self::Open(path, AccessSet::Read) => return file(path, Request::Read),
            Self::Open(path, AccessSet::Write) => return file(path, Request::Write),
            Self::Open(path, AccessSet::ReadWrite) => return file(path, Request::ReadWrite),
            Self::Exec(path) => return file(path, Request::Exec),
            Self::Unix(socket) if socket.starts_with('/') => {
                return file(socket.as_ref(), Request::Connect);
            }
            Self::Unix(socket) => explain_unix(policy, socket, files)?,
            Self::Connect(endpoint) => explain_connect(policy, endpoint)?,
            Self::Listen(address) => explain_listen(policy, address)?,
            Self::Operation(operation) => explain_operation(policy, *operation)?,
        };
        Ok(Said {
            question: explanation.question,
            effect: explanation.decision.effect,
            reason: explanation.decision.reason,
            rule: explanation.by.map(|by| by.rule.label),
        })
    }
}

impl Expectation {
    fn answer(&self, file: &str, said: Said) -> Answer {
        let Said { question, effect, reason, rule } = said;
        let shown = |effect, rule: Option<&str>| match rule {
            Some(rule) => format!("{} by `{rule}`", word(effect)),
            None => word(effect).to_owned(),
        };
        let answer = match &rule {
            Some(_) => shown(effect, rule.as_deref()),
            None => format!("{}: {}", word(effect), words::because(reason)),
        };
        Answer {
            file: file.to_owned(),
            line: self.line,
            question,
            expected: shown(self.effect, self.rule.as_deref()),
            answer,
            met: effect == self.effect && (self.rule.is_none() || self.rule == rule),
        }
    }
}

fn word(effect: Effect) -> &'static str {
    match effect {
        Effect::Deny => "deny",
        Effect::Allow => "allow",
    }
}
