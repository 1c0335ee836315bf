//! What recorded actions come to under two policies.

use agent_guard_common::table::Effect;
use serde::Serialize;

use crate::policy::{
    Mode, Policy,
    explain::{ExplainError, Files},
    replay::{Actions, Judge, Verdict},
};

/// What would change for what was recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Recorded {
    /// Both policies' modes: `audit` carries no denial out.
    pub mode: Judged<Mode>,
    /// Denied before, allowed after.
    pub newly_allowed: Vec<Change>,
    /// Allowed before, denied after.
    pub newly_denied: Vec<Change>,
    /// Distinct actions that stay as they are.
    pub unchanged: usize,
    /// Events that were judged.
    pub events: u64,
}

/// Before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Judged<T> {
    /// By the old policy.
    pub old: T,
    /// By the new one.
    pub new: T,
}

/// An action that is decided otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What was done.
    pub action: String,
    /// How many events tell of it.
    pub events: u64,
    /// What decides: a rule, or why none does.
    #[serde(flatten)]
    pub by: Judged<String>,
}

impl Recorded {
    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.newly_allowed.is_empty()
            && self.newly_denied.is_empty()
            && self.mode.old == self.mode.new
    }
}

/// Judges every action by both.
///
/// # Errors
/// One of them can not be compiled.
pub fn diff_recorded(
    old: &Policy,
    new: &Policy,
    actions: &Actions,
    files: &impl Files,
) -> Result<Recorded, ExplainError> {
    let mode = Judged { old: old.mode, new: new.mode };
    let (old, new) = (Judge::new(old, files)?, Judge::new(new, files)?);
    let mut recorded = Recorded {
        mode,
        newly_allowed: Vec::new(),
        newly_denied: Vec::new(),
        unchanged: 0,
        events: actions.events(),
    };
    for action in &actions.actions {
        let (before, after): (Verdict, Verdict) =
            (old.judge(&action.question), new.judge(&action.question));
        let to = match (before.effect, after.effect) {
            (Effect::Deny, Effect::Allow) => &mut recorded.newly_allowed,
            (Effect::Allow, Effect::Deny) => &mut recorded.newly_denied,
            (Effect::Allow, Effect::Allow) | (Effect::Deny, Effect::Deny) => {
                recorded.unchanged += 1;
                continue;
            }
        };
        to.push(Change {
            action: action.question.to_string(),
            events: action.events,
            by: Judged { old: before.to_string(), new: after.to_string() },
        });
    }
    Ok(recorded)
}
