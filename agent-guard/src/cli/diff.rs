//! `agent-guard policy diff`

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use super::{
    Failure,
    output::{self, Format, table},
    recordings,
};
use crate::policy::{
    Policy,
    compile::HostLinks,
    diff::{Difference, Kind, Recorded, diff_recorded, diff_rules},
};

/// Exit code where the policies differ, as diff(1) has it.
const DIFFERENT: u8 = 1;
/// Exit code where that could not be found out.
const FAILED: u8 = 2;

/// Show what changes from one policy to another; needs no root
///
/// With --events: what would be newly allowed and newly denied of what was recorded, each action once. Without: the rules that were added, removed and changed. Exits 0 where nothing changes, 1 where something does, 2 where that could not be found out.
#[derive(Args, Debug)]
pub struct DiffArgs {
    /// Policy file, `-` for stdin
    old: PathBuf,

    /// Policy file
    new: PathBuf,

    /// File of events to judge by both, `-` for stdin; may be repeated
    #[arg(long, value_name = "FILE")]
    events: Vec<PathBuf>,

    /// Only what this agent did
    #[arg(long, value_name = "NAME", requires = "events")]
    agent: Option<String>,

    /// How the answer is written
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// Compares the policies.
pub fn run(args: &DiffArgs) -> Result<ExitCode, Failure> {
    let failed = |error: anyhow::Error| Failure::new(&error, FAILED);
    let load = |file| Policy::load(file).map_err(|error| Failure::diagnostic(error, FAILED));
    let (old, new) = (load(&args.old)?, load(&args.new)?);
    let same = if args.events.is_empty() {
        let differences = diff_rules(&old, &new);
        output::print(args.output, &differences, || of_rules(&differences)).map_err(failed)?;
        differences.is_empty()
    } else {
        let actions = recordings::actions(&args.events, args.agent.as_deref()).map_err(failed)?;
        let recorded = diff_recorded(&old, &new, &actions, &HostLinks::default())
            .map_err(|error| Failure::diagnostic(error, FAILED))?;
        output::print(args.output, &recorded, || of_recorded(&recorded)).map_err(failed)?;
        recorded.is_empty()
    };
    Ok(if same { ExitCode::SUCCESS } else { ExitCode::from(DIFFERENT) })
}

fn of_rules(differences: &[Difference]) -> String {
    let mut text = String::new();
    for Difference { kind, what, removed, added } in differences {
        let kind = match kind {
            Kind::Added => "added",
            Kind::Removed => "removed",
            Kind::Changed => "changed",
        };
        text.push_str(&format!("{kind}: {what}\n"));
        text.extend(removed.iter().map(|line| format!("  - {line}\n")));
        text.extend(added.iter().map(|line| format!("  + {line}\n")));
    }
    text
}

fn of_recorded(recorded: &Recorded) -> String {
    let Recorded { mode, newly_allowed, newly_denied, unchanged, events } = recorded;
    let rows = [("newly allowed", newly_allowed), ("newly denied", newly_denied)];
    let rows = rows.into_iter().flat_map(|(change, changes)| {
        changes.iter().map(move |one| {
            let [old, new] = [&one.by.old, &one.by.new].map(Clone::clone);
            [change.to_owned(), one.events.to_string(), one.action.clone(), old, new]
        })
    });
    let mut text = match recorded.newly_allowed.len() + recorded.newly_denied.len() {
        0 => String::new(),
        _ => table(["CHANGE", "EVENTS", "ACTION", "BY, OLD", "BY, NEW"], rows),
    };
    if mode.old != mode.new {
        text.push_str(&format!("mode: {} before, {} after\n", mode.old.name(), mode.new.name()));
    }
    text + &format!(
        "{} newly allowed, {} newly denied, {unchanged} unchanged: actions of {events} events\n",
        newly_allowed.len(),
        newly_denied.len(),
    )
}
