//! Looking after agents whose guard is gone. Nothing about their verdicts has changed: the programs are
//! pinned. What was missing is somebody who reads their events, and takes away what they leave.

use std::{
    io,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use aya::maps::{Map, RingBuf};

use super::{
    RunNames,
    handover::{self, Handover, Held},
    open_log, readable,
    report::Reporter,
    stderr::{self, say},
    warn_of_unwritten,
};
use crate::{cgroup, event::Notice, kernel::counters::Counters, mounts::MountTable, pins::Pins};

/// How often the agent is looked at: whether it has ended, and what was lost.
const INTERVAL: Duration = Duration::from_secs(1);

/// `agent-guard adopt`: looks after every abandoned agent until the last has ended.
///
/// # Errors
/// One of them can not be looked after; the others are all the same.
pub fn adopt_all() -> anyhow::Result<()> {
    let abandoned = handover::abandoned().context("looking for abandoned agents")?;
    if abandoned.is_empty() {
        say("agent-guard: no agent is without its guard");
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let tasks = tokio::task::LocalSet::new();
    let results = tasks.block_on(&runtime, async {
        let all: Vec<_> =
            abandoned.into_iter().map(|held| tokio::task::spawn_local(adopt(held))).collect();
        let mut results = Vec::new();
        for task in all {
            results.push(task.await);
        }
        results
    });
    stderr::flush();
    results.into_iter().try_for_each(|result| result.context("an adoption ended early")?)
}

/// Starts `agent-guard adopt` beside this process where an agent is without its guard, and says so.
///
/// # Errors
/// It could not be found out, or started.
pub fn adopt_in_background() -> io::Result<()> {
    // Taken and given back at once: the new process takes them for itself.
    let abandoned = handover::abandoned()?;
    if abandoned.is_empty() {
        return Ok(());
    }
    for held in &abandoned {
        say(format_args!(
            "agent-guard: the guard of {} is gone; the agent stayed confined, and `agent-guard adopt` looks after it from here on",
            held.id
        ));
    }
    drop(abandoned);
    let mut command = Command::new("/proc/self/exe");
    command.arg0("agent-guard").arg("adopt");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: between fork and exec only setsid is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| rustix::process::setsid().map(drop).map_err(io::Error::from));
    }
    command.spawn().map(drop)
}

async fn adopt(held: Held) -> anyhow::Result<()> {
    let id = held.id.clone();
    adopt_one(held).await.with_context(|| format!("adopting {id}"))
}

async fn adopt_one(held: Held) -> anyhow::Result<()> {
    let pins = Pins::of(&held.id);
    // Without one the guard died before it had started the agent.
    if let Some(handover) = held.read()? {
        follow(&handover, &pins).await?;
    }
    pins.remove()?;
    held.finish().context("removing the handover")
}

/// Reads the agent's events until no process of it is left, and removes its cgroup.
async fn follow(handover: &Handover, pins: &Pins) -> anyhow::Result<()> {
    let mounts = MountTable::open()?.read().context("reading the mount table")?;
    let names = RunNames::new(handover.context(), handover.rules(), &mounts);
    let log = handover.log.as_deref().map(open_log).transpose()?;
    let mut reporter = Reporter::new(names, log);
    let mut counters = Counters::new(Map::from_map_data(pins.map("COUNTERS")?)?, pins.programs()?)?;
    counters.resume(handover.baseline.clone());
    let mut ring = readable(RingBuf::try_from(Map::from_map_data(pins.map("EVENTS")?)?)?)?;

    reporter.notice(Notice::Adopted);
    reporter.account(&counters.read()?);
    let mut ticks = tokio::time::interval(INTERVAL);
    while cgroup::is_populated(&handover.cgroup)? {
        tokio::select! {
            ready = ring.readable_mut() => {
                let mut ready = ready?;
                while let Some(entry) = ready.get_inner_mut().next() {
                    reporter.take(&entry);
                }
                ready.clear_ready();
            }
            _ = ticks.tick() => reporter.account(&counters.read()?),
        }
    }
    while let Some(entry) = ring.get_mut().next() {
        reporter.take(&entry);
    }
    warn_of_unwritten(reporter.finish(&counters.read()?));
    cgroup::end(&handover.cgroup)?;
    Ok(())
}
