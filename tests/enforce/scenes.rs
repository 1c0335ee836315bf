//! The corpus put to the kernel: what really happens, what `decide` says and what the corpus says are
//! one answer, and the log tells of it once.

use std::{
    fs,
    os::unix::ffi::OsStrExt,
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, OnceLock},
};

use agent_guard::tier::Tier;
use libtest_mimic::{Failed, Trial};

use crate::{
    actor::{End, Report, Step},
    guard::{Outcome, Run, tier},
    scratch::Scratch,
    support::{Act, Answer, Call, Case, Effect, Place, Scene, Setup, Tables, scenes},
};

/// A trial for every case; a scene runs when the first of its cases is asked for.
pub fn trials() -> Vec<Trial> {
    let here = |scene: &Scene| scene.lsm_only.is_none() || tier() == Tier::Lsm;
    scenes().into_iter().filter(here).flat_map(of_scene).collect()
}

fn of_scene(scene: Scene) -> Vec<Trial> {
    let scene = Arc::new(Lazy { scene, played: OnceLock::new() });
    let case = |index: usize| {
        let name = format!("{}: {}", scene.scene.name, scene.scene.cases[index].name);
        let scene = Arc::clone(&scene);
        Trial::test(name, move || scene.judge(index).map_err(Failed::from))
    };
    let events = Arc::clone(&scene);
    let whole = Trial::test(format!("{}: no event is lost", scene.scene.name), move || {
        let played = events.played();
        let played = played.as_ref().map_err(Failed::from)?;
        assert_eq!(played.outcome.lost(), 0);
        Ok(())
    });
    let cases = (0..scene.scene.cases.len()).map(case);
    // Only there anything is remembered.
    if tier() == Tier::Lsm && !files(&scene.scene).is_empty() {
        let remembered = Arc::clone(&scene);
        let name = format!("{}: the same once all that is allowed is remembered", scene.scene.name);
        let remembered = Trial::test(name, move || Ok(play_again(&remembered.scene)?));
        return cases.chain([whole, remembered]).collect();
    }
    cases.chain([whole]).collect()
}

/// The names of files that are there when a scene begins.
fn files(scene: &Scene) -> Vec<&str> {
    fn file(thing: &Setup) -> Option<&str> {
        match thing {
            Setup::File(at) | Setup::HardLink { at, .. } => Some(at),
            _ => None,
        }
    }
    scene.setup.iter().filter_map(file).collect()
}

/// Plays a scene with an agent that first opens every file in every way, and again, and is not told of what is
/// allowed, so that it is remembered.
fn play_again(scene: &Scene) -> Result<(), String> {
    let scratch = Scratch::with(&scene.setup);
    let place = &scratch.place;
    let opens = files(scene).into_iter().flat_map(|file| {
        let file = file.to_owned();
        [Act::Read(file.clone()), Act::Write(file.clone()), Act::ReadWrite(file)]
    });
    let opens: Vec<Step> =
        opens.map(|act| Step { act: act.at(place), from: None, call: Call::default() }).collect();
    let plan = [opens.as_slice(), &opens, &steps(scene, place)].concat();
    let outcome = Run::under(&place.fill(&scene.spec))
        .events_to(None)
        .input(serde_json::to_vec(&plan).unwrap())
        .go(&[place.actor.as_os_str(), "actor".as_ref(), "plan".as_ref()]);
    if outcome.code() != 0 {
        return Err(format!("exit {}: {}", outcome.code(), outcome.stderr));
    }
    let audit = scene.policy(place).mode == agent_guard::policy::Mode::Audit;
    let ends = reports(&outcome.stdout, plan.len())?;
    for (case, report) in scene.cases.iter().zip(ends.iter().skip(2 * opens.len())) {
        judge_end(case, &due(case), audit, report.end)
            .map_err(|error| format!("{}: {error}", case.name))?;
    }
    Ok(())
}

struct Lazy {
    scene: Scene,
    played: OnceLock<Result<Played, String>>,
}

/// A scene that was played: each case inside and outside the agent.
struct Played {
    scratch: Scratch,
    tables: Tables,
    inside: Vec<Report>,
    /// Files that a case would make and that were there right after the agent's turn.
    made: Vec<bool>,
    outside: Vec<Report>,
    outcome: Outcome,
}

impl Lazy {
    fn played(&self) -> &Result<Played, String> {
        self.played.get_or_init(|| play(&self.scene))
    }

    fn judge(&self, index: usize) -> Result<(), String> {
        let played = self.played().as_ref()?;
        let case = &self.scene.cases[index];
        let due = due(case);
        if case.kernel_only.is_none() {
            let of_tables = played.tables.answer(case, &played.scratch.place);
            let as_written = Answer { is: case.is, by: case.by.clone() };
            if of_tables != as_written {
                return Err(format!("decide says {of_tables:?}, the corpus {as_written:?}"));
            }
        }
        let audit =
            self.scene.policy(&played.scratch.place).mode == agent_guard::policy::Mode::Audit;
        let report = played.inside[index];
        if case.withheld_on_trace.is_some() && tier() != Tier::Lsm {
            return judge_withheld(played, report);
        }
        judge_end(case, &due, audit, report.end)?;
        judge_events(case, &due, audit, played, report)?;
        judge_control(case, &due, played.outside[index].end)?;
        judge_leftovers(case, &due, audit, played.made[index])
    }
}

/// What is due on this tier.
fn due(case: &Case) -> Answer {
    match (&case.on_trace, tier()) {
        (Some(other), Tier::Trace | Tier::Observe) => Answer { is: other.is, by: other.by.clone() },
        _ => Answer { is: case.is, by: case.by.clone() },
    }
}

fn judge_end(case: &Case, due: &Answer, audit: bool, end: End) -> Result<(), String> {
    let goes_on = due.is == Effect::Allow || audit || tier() == Tier::Observe;
    let as_due = match tier() {
        _ if goes_on => end == End::Done,
        Tier::Trace if !case.act.is_network() => end == End::Signal(libc::SIGKILL),
        _ => end.is_refusal(),
    };
    if as_due { Ok(()) } else { Err(format!("{:?} inside the agent, due is {due:?}", end)) }
}

fn judge_events(
    case: &Case,
    due: &Answer,
    audit: bool,
    played: &Played,
    report: Report,
) -> Result<(), String> {
    let events = played.outcome.decided_by(report.pid);
    let told: Vec<String> = events
        .iter()
        .map(|e| format!("{} {:?} {:?} by {}", e.outcome(), e.access(), e.path(), e.by()))
        .collect();
    let denials: Vec<_> = events.iter().filter(|event| event.is_denial()).collect();
    match (due.is, denials.as_slice()) {
        (Effect::Deny, [denial]) => {
            let outcome = match tier() {
                _ if audit => "observed",
                Tier::Observe => "observed",
                Tier::Trace if !case.act.is_network() => "killed",
                Tier::Trace | Tier::Lsm => "denied",
            };
            if denial.by() != due.by || denial.outcome() != outcome {
                return Err(format!("told {told:?}, due is {outcome} by {}", due.by));
            }
        }
        (Effect::Allow, []) => {
            let first = events.first().ok_or("no event tells of it")?;
            if first.by() != due.by || first.outcome() != "allowed" {
                return Err(format!("told {told:?}, due is allowed by {}", due.by));
            }
            let alone = events.len() == 1 || matches!(case.act, Act::Exec(_));
            if !alone {
                return Err(format!("told {told:?}, due is one event"));
            }
        }
        _ => return Err(format!("told {told:?}, due is {due:?}, told once")),
    }
    Ok(())
}

/// What the command lacks the capability for fails, and there is nothing to judge or to tell.
fn judge_withheld(played: &Played, report: Report) -> Result<(), String> {
    let told = played.outcome.decided_by(report.pid).len();
    if report.end.is_refusal() && told == 0 {
        return Ok(());
    }
    Err(format!("{:?} inside the agent, {told} events; due is a refusal by the kernel", report.end))
}

/// What is denied inside works outside: it is the guard that denies.
fn judge_control(case: &Case, due: &Answer, end: End) -> Result<(), String> {
    if due.is == Effect::Allow || case.no_control.is_some() || end == End::Done {
        return Ok(());
    }
    Err(format!("{end:?} outside the agent too, so its denial proves nothing"))
}

/// A file that may not be made is not left behind, where the tier can prevent it.
fn judge_leftovers(case: &Case, due: &Answer, audit: bool, made: bool) -> Result<(), String> {
    let Act::Create(_) = &case.act else { return Ok(()) };
    let prevented = due.is == Effect::Deny && !audit && tier() == Tier::Lsm;
    match (prevented, made) {
        (true, true) => Err("the file was made all the same".to_owned()),
        (false, false) => Err("the file was not made".to_owned()),
        _ => Ok(()),
    }
}

fn play(scene: &Scene) -> Result<Played, String> {
    let scratch = Scratch::with(&scene.setup);
    let place = &scratch.place;
    let tables = Tables::of_this_host(scene, place);
    let steps = steps(scene, place);
    let plan = serde_json::to_vec(&steps).unwrap();

    let outcome = Run::under(&place.fill(&scene.spec)).input(plan.clone()).go(&[
        place.actor.as_os_str(),
        "actor".as_ref(),
        "plan".as_ref(),
    ]);
    if outcome.code() != 0 {
        return Err(format!("exit {}: {}", outcome.code(), outcome.stderr));
    }
    let made = scene.cases.iter().map(|case| match &case.act {
        Act::Create(_) => Path::new(std::ffi::OsStr::from_bytes(&case.path(place))).exists(),
        _ => false,
    });
    let made = made.collect();
    let inside = reports(&outcome.stdout, steps.len())?;
    let outside = reports(&outside(place.actor.as_os_str(), &plan), steps.len())?;
    Ok(Played { tables, inside, made, outside, outcome, scratch })
}

/// What the cases of a scene try.
fn steps(scene: &Scene, place: &Place) -> Vec<Step> {
    let step = |case: &Case| Step {
        act: case.act.at(place),
        from: case.from.as_deref().map(|from| place.fill(from)),
        call: case.call,
    };
    scene.cases.iter().map(step).collect()
}

fn outside(actor: &std::ffi::OsStr, plan: &[u8]) -> Vec<u8> {
    let input = tempfile::NamedTempFile::new().unwrap();
    fs::write(input.path(), plan).unwrap();
    let output = Command::new(actor)
        .args(["actor", "plan"])
        .stdin(Stdio::from(input.reopen().unwrap()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn reports(lines: &[u8], count: usize) -> Result<Vec<Report>, String> {
    let text = std::str::from_utf8(lines).map_err(|error| error.to_string())?;
    let reports: Result<Vec<Report>, _> = text.lines().map(serde_json::from_str).collect();
    let reports = reports.map_err(|error| format!("{error}: {text}"))?;
    if reports.len() == count {
        Ok(reports)
    } else {
        Err(format!("{} of {count} actions were reported", reports.len()))
    }
}
