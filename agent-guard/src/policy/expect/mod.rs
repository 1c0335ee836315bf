//! Files of expectations: questions, and what a policy is to answer.

mod reader;
mod schema;
#[cfg(test)]
mod tests;

use std::{
    io,
    path::{Path as StdPath, PathBuf},
};

use agent_guard_common::{event::Operation, table::Effect};
use miette::Diagnostic;
use serde::Serialize;
use thiserror::Error;

use self::reader::{Expectation, Reader};
use super::{
    AccessSet, Fault, MAX_FILE_BYTES, Policy, PolicyError, Refusal,
    explain::{
        ExplainError, Explanation, Files, explain_connect, explain_exec, explain_listen,
        explain_open, explain_operation, explain_unix,
    },
    load::read_path,
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
    let mut answers = Vec::new();
    for expectation in cases {
        match expectation.question.ask(&policy, files) {
            Ok(explanation) => answers.push(expectation.answer(&name, &explanation)),
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

impl Question {
    fn ask(&self, policy: &Policy, files: &impl Files) -> Result<Explanation, ExplainError> {
        match self {
            Self::Open(path, access) => explain_open(policy, path, *access, files),
            Self::Exec(path) => explain_exec(policy, path, files),
            Self::Connect(endpoint) => explain_connect(policy, endpoint),
            Self::Listen(address) => explain_listen(policy, address),
            Self::Unix(socket) => explain_unix(policy, socket, files),
            Self::Operation(operation) => explain_operation(policy, *operation),
        }
    }
}

impl Expectation {
    fn answer(&self, file: &str, explanation: &Explanation) -> Answer {
        let by = explanation.by.as_ref().map(|by| by.rule.label.as_str());
        let decision = explanation.decision;
        let shown = |effect, rule: Option<&str>| match rule {
            Some(rule) => format!("{} by `{rule}`", word(effect)),
            None => word(effect).to_owned(),
        };
        let answer = match by {
            Some(_) => shown(decision.effect, by),
            None => format!("{}: {}", word(decision.effect), words::because(decision.reason)),
        };
        Answer {
            file: file.to_owned(),
            line: self.line,
            question: explanation.question.clone(),
            expected: shown(self.effect, self.rule.as_deref()),
            answer,
            met: decision.effect == self.effect
                && (self.rule.is_none() || self.rule.as_deref() == by),
        }
    }
}

fn word(effect: Effect) -> &'static str {
    match effect {
        Effect::Deny => "deny",
        Effect::Allow => "allow",
    }
}
