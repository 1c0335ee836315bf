//! Files of recorded events, as commands take them.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use crate::{
    event::{Body, Entry, Record, Recording, Skipped},
    policy::replay::{Actions, Collector, MAX_ACTIONS, Unasked},
};

/// Reads every event of `files`, one file after the other; `-` is standard input. Ends early where `take` says that
/// it has enough. Lines that hold no event are told of on stderr.
///
/// # Errors
/// A file can not be read, or what `take` says.
pub fn read(
    files: &[PathBuf],
    mut take: impl FnMut(&Entry<'_>) -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let mut skipped = Skipped::default();
    'files: for file in files {
        let mut recording = Recording::new(open(file)?);
        loop {
            let entry =
                recording.next_entry().with_context(|| format!("reading {}", file.display()))?;
            let Some(entry) = entry else { break };
            if !take(&entry)? {
                skipped += recording.skipped();
                break 'files;
            }
        }
        skipped += recording.skipped();
    }
    if skipped.total() > 0 {
        eprintln!("agent-guard: {skipped}");
    }
    Ok(())
}

fn open(file: &Path) -> anyhow::Result<Box<dyn BufRead>> {
    if file == Path::new("-") {
        return Ok(Box::new(io::stdin().lock()));
    }
    let opened = File::open(file).with_context(|| {
        format!("opening the events {}; name a file of event lines", file.display())
    })?;
    Ok(Box::new(BufReader::new(opened)))
}

/// Every distinct action in `files`, of one agent where one is named. What is not among them is told of on stderr.
///
/// # Errors
/// A file can not be read.
pub fn actions(files: &[PathBuf], agent: Option<&str>) -> anyhow::Result<Actions> {
    let mut collector = Collector::default();
    read(files, |entry| {
        if is_of(&entry.record, agent) {
            collector.add(&entry.record);
        }
        Ok(true)
    })?;
    let actions = collector.finish();
    for (why, count) in &actions.unasked {
        if matches!(why, Unasked::Nameless | Unasked::Closed) {
            eprintln!("agent-guard: {count} event(s) {why}");
        }
    }
    if actions.beyond > 0 {
        eprintln!(
            "agent-guard: {} event(s) are of further actions: more than {MAX_ACTIONS} are not judged",
            actions.beyond
        );
    }
    if actions.lost > 0 {
        eprintln!(
            "agent-guard: the recording lacks {} event(s), which were lost when it was made",
            actions.lost
        );
    }
    Ok(actions)
}

/// Whether it tells of the agent, or of losses of everybody's.
fn is_of(record: &Record, agent: Option<&str>) -> bool {
    agent.is_none_or(|name| record.context.agent.name == name)
        && !matches!(record.body, Body::Notice(crate::event::Notice::Started))
}
