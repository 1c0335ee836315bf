//! Ways to do something, tried one after the other in one run, and outside of any agent.

use agent_guard::tier::Tier;

use super::{actor, reports};
use crate::{
    actor::{End, Report},
    guard::{Decided, Outcome, Run, tier},
    scratch::Scratch,
};

/// One way, as the words of a role, and what it comes to at tier `lsm`.
pub struct Way {
    pub words: &'static [&'static str],
    pub at_lsm: AtLsm,
    pub at_trace: AtTrace,
}

pub enum AtLsm {
    Allowed,
    /// By this rule, or for this reason.
    Denied(&'static str),
}

#[derive(Clone, Copy)]
pub enum AtTrace {
    /// Killed where it is denied, for the same reason.
    Same,
    /// Killed in any case, for this reason.
    Closed(&'static str),
    /// Not judged there: it goes on, and nothing tells of it.
    Unseen,
}

/// Tries every way under `spec`. What is denied ends in one event; outside it succeeds.
#[track_caller]
pub fn hold(scratch: &Scratch, spec: &str, ways: &[Way]) -> Outcome {
    hold_with(&[], scratch, spec, ways)
}

/// As [`hold`], with other options for `run`.
#[track_caller]
pub fn hold_with(options: &[&str], scratch: &Scratch, spec: &str, ways: &[Way]) -> Outcome {
    let words: Vec<&str> = ways
        .iter()
        .flat_map(|way| ["--"].into_iter().chain(way.words.iter().copied()))
        .skip(1)
        .collect();
    let command = actor(scratch, &[&["each"], words.as_slice()].concat());
    let outside = std::process::Command::new(&command[0]).args(&command[1..]).output().unwrap();
    let outside = String::from_utf8(outside.stdout).unwrap();
    let outside: Vec<Report> =
        outside.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let outcome = Run::under(&scratch.place.fill(spec)).with(options).go(&command);
    outcome.exits(0);
    let inside = reports(&outcome);
    assert_eq!((outside.len(), inside.len()), (ways.len(), ways.len()), "{}", outcome.stderr);

    let wrong: Vec<String> = ways
        .iter()
        .zip(outside)
        .zip(inside)
        .filter_map(|((way, outside), inside)| {
            let control = match outside.end {
                End::Done => Ok(()),
                end => Err(format!("{end:?} outside of the agent")),
            };
            let judged = control.and_then(|()| judge(way, inside, &outcome));
            judged.err().map(|why| format!("{:?}: {why}", way.words))
        })
        .collect();
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), outcome.stderr);
    outcome
}

fn judge(way: &Way, report: Report, outcome: &Outcome) -> Result<(), String> {
    let denials: Vec<Decided<'_>> =
        outcome.decided().filter(|event| event.is_denial() && is_of(event, report.pid)).collect();
    let by: Vec<&str> = denials.iter().map(Decided::by).collect();
    let due = match (&way.at_lsm, way.at_trace, tier()) {
        (AtLsm::Denied(by), _, Tier::Lsm) => Some(*by),
        (AtLsm::Allowed, _, Tier::Lsm) | (_, AtTrace::Unseen, _) => None,
        (_, AtTrace::Closed(by), _) => Some(by),
        (AtLsm::Denied(by), AtTrace::Same, _) => Some(*by),
        (AtLsm::Allowed, AtTrace::Same, _) => None,
    };
    let ended_as_due = match (due, tier()) {
        (None, _) | (_, Tier::Observe) => report.end == End::Done,
        (Some(_), Tier::Trace) => report.end == End::Signal(libc::SIGKILL),
        (Some(_), Tier::Lsm) => matches!(report.end, End::Errno(_)),
    };
    if ended_as_due && by == Vec::from_iter(due) {
        Ok(())
    } else {
        Err(format!("{:?}, denied by {by:?}, due is {due:?}", report.end))
    }
}

/// Whether the process `pid` or a child of it did it.
fn is_of(event: &Decided<'_>, pid: u32) -> bool {
    let process = &event.event["actor"]["process"];
    [&process["pid"], &process["parent_process"]["pid"]].into_iter().any(|found| *found == pid)
}
