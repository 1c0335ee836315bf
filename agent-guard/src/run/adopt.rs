//! Looking after agents whose guard is gone. Nothing about their verdicts has changed: the programs are
//! pinned. What was missing is somebody who reads their events, and takes away what they leave.

use std::{
    io,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    time::Duration,
};

use super::{
    output::Terminal,
    stderr::{self, say},
};
use crate::{
    cgroup,
    event::{EventLog, Notice},
    guard::Guard,
    handover::{self, Handover, Held, Keeper},
    kernel::rings::{drain, readable},
    mounts::MountTable,
    workload::{AgentNames, MountNames, Reporter},
};
use anyhow::Context as _;

/// How often the agent is looked at: whether it has ended, and what was lost.
const INTERVAL: Duration = Duration::from_secs(1);

/// `agent-guard adopt`: looks after every abandoned agent until the last has ended.
///
/// # Errors
/// One of them can not be looked after; the others are all the same.
pub fn adopt_all() -> anyhow::Result<()> {
    let abandoned = handover::abandoned(Keeper::Run).context("looking for abandoned agents")?;
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
    let abandoned = handover::abandoned(Keeper::Run)?;
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
    // Without one the guard died before it had started the agent.
    let Some(handover) = held.read()? else {
        return held.finish().context("removing the handover");
    };
    let guard = Guard::adopt(handover.programs.clone(), handover.tier, handover.cgroup_id)?;
    follow(&handover, &guard).await?;
    held.finish().context("removing the handover")?;
    Ok(guard.end(Some(handover.agent_id))?)
}

/// Reads the agent's events until no process of it is left, and removes its cgroup.
async fn follow(handover: &Handover, guard: &Guard) -> anyhow::Result<()> {
    let mounts = MountTable::open()?.read().context("reading the mount table")?;
    let names = AgentNames::new(handover.context(), handover.rules(), MountNames::new(&mounts));
    let log = handover.log.as_deref().map(EventLog::open).transpose()?;
    let mut reporter = Reporter::new(names, Terminal::new(log));
    let counts = || guard.counts(handover.agent_id, &handover.skipped, &guard.skips()?);
    let ring = guard.tables.agent(handover.agent_id)?.ring;
    let mut ring = readable(guard.tables.ring(ring)?)?;

    reporter.notice(Notice::Adopted);
    reporter.account(&counts()?);
    let mut ticks = tokio::time::interval(INTERVAL);
    while cgroup::is_populated(&handover.cgroup)? {
        tokio::select! {
            ready = ring.readable_mut() => {
                let mut ready = ready?;
                drain(ready.get_inner_mut(), usize::MAX, |entry| reporter.take(entry));
                ready.clear_ready();
            }
            _ = ticks.tick() => reporter.account(&counts()?),
        }
    }
    drain(ring.get_mut(), usize::MAX, |entry| reporter.take(entry));
    reporter.finish(&counts()?).finish();
    cgroup::end(&handover.cgroup)?;
    Ok(())
}
