//! What a probe found: yes, no and why, or could not tell and why.

use std::error::Error;

use serde::Serialize;

use crate::tier::Tier;

/// The answer of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is there and works.
    Yes,
    /// It is not.
    No,
    /// It is not, and nothing needs it.
    Absent,
    /// The probe could not tell.
    Unknown,
}

/// One thing that was probed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was probed.
    pub name: &'static str,
    /// The answer.
    pub state: State,
    /// What was seen, and where.
    pub detail: String,
    /// What to do about it, where the answer is not yes.
    pub remedy: Option<String>,
    /// The tiers that need a yes.
    pub needed_by: &'static [Tier],
}

/// A question, before it is answered.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// What is probed.
    pub name: &'static str,
    /// The tiers that need a yes.
    pub needed_by: &'static [Tier],
}

impl Probe {
    /// It is there.
    pub fn yes(self, detail: impl Into<String>) -> Finding {
        self.answer(State::Yes, detail.into(), None)
    }

    /// It is not there; `remedy` mends that.
    pub fn no(self, detail: impl Into<String>, remedy: impl Into<String>) -> Finding {
        self.answer(State::No, detail.into(), Some(remedy.into()))
    }

    /// The probe failed; `remedy` is how to learn the answer.
    pub fn unknown(self, why: impl Into<String>, remedy: impl Into<String>) -> Finding {
        self.answer(State::Unknown, why.into(), Some(remedy.into()))
    }

    fn answer(self, state: State, detail: String, remedy: Option<String>) -> Finding {
        Finding { name: self.name, state, detail, remedy, needed_by: self.needed_by }
    }
}

/// An error and what caused it on one line, without what the line says already.
pub fn one_line(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn an_error_of_several_lines_and_causes_is_one_line_that_says_nothing_twice() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer\n\n  second")]
        struct Outer(#[source] io::Error);
        let error = Outer(io::Error::other("cause"));
        assert_eq!(one_line(&error), "outer; second: cause");
        #[derive(Debug, thiserror::Error)]
        #[error("outer: {0}")]
        struct Shown(#[source] io::Error);
        assert_eq!(one_line(&Shown(io::Error::other("cause"))), "outer: cause");
    }
}
