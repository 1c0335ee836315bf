//! From the text to expectations, or to everything that is wrong with it.

use std::ops::Range;

use agent_guard_common::{event::Operation, table::Effect};

use super::{
    ExpectError, Question,
    schema::{Case, Document},
};
use crate::{
    event::words,
    policy::{
        AccessSet, Fault,
        notes::Notes,
        schema::{Text, read_as},
    },
};

const API_VERSION: &str = "agent-guard.dev/v1alpha1";
const KIND: &str = "PolicyTest";

/// A case that was read.
pub struct Expectation {
    pub question: Question,
    pub effect: Effect,
    pub rule: Option<String>,
    /// 1-based line of the case.
    pub line: usize,
    /// Where the question stands.
    pub at: Range<usize>,
}

/// A file being read, and what was found so far.
pub struct Reader<'a> {
    pub notes: Notes<'a>,
}

impl<'a> Reader<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { notes: Notes::new(text) }
    }

    pub fn refusal(self, name: &str) -> ExpectError {
        ExpectError::Refused(Box::new(self.notes.refusal_of("test", name)))
    }

    /// The policy's file, and the cases. `None` only with a problem noted.
    pub fn document(&mut self, text: &str) -> Option<(String, Vec<Expectation>)> {
        let document: Document = match read_as(text) {
            Ok(document) => document,
            Err(error) => {
                self.notes.yaml_error(error);
                return None;
            }
        };
        let Document { api_version, kind, policy, cases } = document;
        self.notes.exactly("the test", "apiVersion", api_version, API_VERSION);
        self.notes.exactly("the test", "kind", kind, KIND);
        let policy = match policy {
            Some(policy) => Some(policy.value),
            None => self.notes.missing(0..0, "policy", "the test", "coding-agent.yaml"),
        };
        let cases = match cases {
            Some(cases) if !cases.is_empty() => cases,
            Some(_) => return self.notes.refuse(0..0, Fault::EmptyList { field: "cases" }),
            None => {
                let example = "[{open: /etc/passwd, expect: allow}]";
                return self.notes.missing(0..0, "cases", "the test", example);
            }
        };
        let mut read = Vec::with_capacity(cases.len());
        for case in cases {
            let at = self.notes.place(&case.referenced);
            let line = usize::try_from(case.referenced.line()).unwrap_or_default();
            read.extend(self.case(case.value, at, line));
        }
        if self.notes.is_empty() { Some((policy?, read)) } else { None }
    }

    fn case(&mut self, case: Case, at: Range<usize>, line: usize) -> Option<Expectation> {
        let Case { open, access, exec, connect, listen, unix, operation, expect, rule } = case;
        let asked = [&open, &exec, &connect, &listen, &unix, &operation];
        let asked: Vec<&Text> = asked.into_iter().flatten().collect();
        let [one] = asked.as_slice() else {
            return self.notes.refuse(at, Fault::Questions);
        };
        let place = self.notes.place(&one.defined);
        if let (Some(access), None) = (&access, &open) {
            return self.notes.refuse_text(access, Fault::AccessWithoutOpen);
        }
        let effects = [("allow", Effect::Allow), ("deny", Effect::Deny)];
        let effect = match expect {
            None => self.notes.missing(at, "expect", "the case", "deny"),
            Some(text) => self.notes.choice("expect", &text, &effects),
        };
        let accesses = [
            ("read", AccessSet::Read),
            ("write", AccessSet::Write),
            ("read-write", AccessSet::ReadWrite),
        ];
        let access = match access {
            None => Some(AccessSet::Read),
            Some(text) => self.notes.choice("access", &text, &accesses),
        };
        let question = if let Some(path) = open {
            Question::Open(path.value.into(), access?)
        } else if let Some(path) = exec {
            Question::Exec(path.value.into())
        } else if let Some(endpoint) = connect {
            Question::Connect(endpoint.value)
        } else if let Some(address) = listen {
            Question::Listen(address.value)
        } else if let Some(socket) = unix {
            Question::Unix(socket.value)
        } else {
            let known: Vec<_> =
                Operation::ALL.iter().map(|one| (words::operation(*one), *one)).collect();
            Question::Operation(self.notes.choice("operation", &operation?, &known)?)
        };
        let rule = rule.map(|rule| rule.value);
        Some(Expectation { question, effect: effect?, rule, line, at: place })
    }
}
