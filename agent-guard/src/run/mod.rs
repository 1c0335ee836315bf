//! `agent-guard run`: one command, in its own cgroup, under one policy, for as long as it lives.

mod adopt;
mod descriptors;
mod launch;
mod output;
mod privileges;
mod stderr;

use std::{
    ffi::OsString,
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use aya::maps::{MapData, RingBuf};
use tokio::io::{Interest, unix::AsyncFd};

pub use self::adopt::adopt_all;
use self::{descriptors::Inherited, output::Terminal, privileges::Privileges, stderr::say};
use crate::{
    cgroup::{self, Cgroup},
    event::EventLog,
    guard::{Guard, TierChoice},
    handover::Held,
    kernel::rings::{drain, readable},
    mounts::{Mount, MountTable},
    oom,
    policy::{Mode, compile::Compiled},
    signals::Signals,
    tier::Tier,
    workload::{Installed, MountNames, Terms, Workload, compile},
};

/// How often losses are looked for while nothing else happens.
const LOSS_INTERVAL: Duration = Duration::from_secs(5);

/// What to run, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the command is put under.
    pub terms: Terms,
    /// The tier that is asked for.
    pub tier: TierChoice,
    /// Where events go: a file, or `-` for standard output.
    pub events: Option<PathBuf>,
    /// The command and its arguments; not empty.
    pub command: Vec<OsString>,
}

/// Runs the command and returns the exit code.
///
/// # Errors
/// The guard failed before the command was started.
pub fn run(settings: &Settings) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let outcome = runtime.block_on(guarded(settings));
    stderr::flush();
    outcome
}

async fn guarded(settings: &Settings) -> anyhow::Result<u8> {
    let log = settings.events.as_deref().map(EventLog::open).transpose()?;
    let signals = Signals::collect().context("collecting signals")?;
    adopt::adopt_in_background().context("looking for agents whose guard is gone")?;
    let table = MountTable::open().context("opening the mount table")?;
    let mounts = table.read().context("reading the mount table")?;
    let compiled = compile::as_loaded(&settings.terms.policy, &mounts)?;
    for note in compiled.notes.iter().filter(|note| note.is_warning()) {
        say(format_args!("agent-guard: warning: {note}"));
    }

    let id = format!("{}-{}", settings.terms.agent, std::process::id());
    let mut held = Held::create(&id).context("making the handover")?;
    let cgroup = match Cgroup::create(&mounts, &id) {
        Ok(cgroup) => cgroup,
        Err(error) => {
            held.finish().context("removing the handover")?;
            return Err(error.into());
        }
    };
    let mut place =
        Place { cgroup: &cgroup, mounts: &mounts, table: &table, held: &mut held, agent: None };
    let (outcome, guard) = match Guard::establish(settings.tier, &cgroup, &mounts) {
        Ok(mut guard) => {
            let output = Terminal::new(log);
            let run = under_guard(settings, &mut guard, &mut place, compiled, output, &signals);
            (run.await, Some(guard))
        }
        Err(error) => (Err(error.into()), None),
    };
    let agent = place.agent;
    // Also where the guard failed: what was made is taken away, and whoever was in it ended.
    if let Err(error) = clean_up(cgroup, guard, agent, held) {
        say(format_args!("agent-guard: {error:#}"));
    }
    outcome
}

/// Ends whoever is left, and only then lets go of the programs.
fn clean_up(
    cgroup: Cgroup,
    guard: Option<Guard>,
    agent: Option<u32>,
    held: Held,
) -> anyhow::Result<()> {
    cgroup.remove()?;
    held.finish().context("removing the handover")?;
    guard.map_or(Ok(()), |guard| guard.end(agent))?;
    Ok(())
}

/// Where the agent lives.
struct Place<'a> {
    cgroup: &'a Cgroup,
    mounts: &'a [Mount],
    table: &'a MountTable,
    held: &'a mut Held,
    /// Its id in the kernel, once it has one.
    agent: Option<u32>,
}

async fn under_guard(
    settings: &Settings,
    guard: &mut Guard,
    place: &mut Place<'_>,
    compiled: Compiled,
    output: Terminal,
    signals: &Signals,
) -> anyhow::Result<u8> {
    let terms = settings.terms.clone();
    terms.lacks(guard.tier).map_err(|refusal| anyhow!("{}{refusal}", weaker(guard)))?;
    let has_names = !compiled.names.is_empty();
    let (cgroup, mounts) = (place.cgroup, place.mounts);
    let installed = Installed::write(guard, compiled, cgroup.id())?;
    let names = MountNames::new(mounts);
    let policy = Arc::clone(&installed);
    let prepared = Workload::prepare(terms, guard, cgroup, policy, names, None, output).await;
    if prepared.is_err() {
        installed.discard(guard);
    }
    let mut workload = prepared?;
    place.agent = Some(workload.handover.agent_id);
    let log = settings.events.as_deref().filter(|path| *path != Path::new("-"));
    workload.handover.log = log.map(std::path::absolute).transpose()?;
    let ring = guard.tables.ring(workload.row.ring)?;
    place.held.write(&workload.handover).context("writing the handover")?;
    let privileges = Privileges::of(guard.tier, &workload.row)?;
    announce(settings, guard, &privileges);
    if guard.tier == Tier::Observe && has_names {
        say(
            "agent-guard: warning: tier observe has no DNS proxy: what the policy allows by host name is recorded as denied",
        );
    }
    workload.put_in_force(guard)?;

    let entrance = cgroup.entrance()?.into();
    let inherited = (guard.tier == Tier::Lsm)
        .then(Inherited::of_this_process)
        .transpose()
        .context("listing the descriptors that the command inherits")?;
    let before = signals.before();
    let code = match launch::start(&settings.command, entrance, before, privileges, inherited) {
        Ok(mut child) => {
            // Not before: the command would inherit it.
            if let Err(error) = oom::exempt() {
                tracing::debug!(
                    "the guard is not kept from being ended when memory runs out: {error}"
                );
            }
            let mut session =
                Session { guard, workload, cgroup, table: place.table, ring: readable(ring)? };
            let status = match session.watch(&mut child, signals).await {
                Ok(status) => status,
                Err(error) => {
                    say(format_args!(
                        "agent-guard: the guard can not go on, and the command is ended: {error}"
                    ));
                    child.kill().await?;
                    child.wait().await?
                }
            };
            // The command has run: what fails from here on is told, and changes no exit code.
            if let Err(error) = session.end() {
                say(format_args!("agent-guard: {error:#}"));
            }
            launch::exit_code(status)
        }
        Err(error) => {
            let mut ring = ring;
            drain(&mut ring, usize::MAX, |entry| workload.reporter.take(entry));
            workload.finish(guard)?.finish();
            say(format_args!("agent-guard: {error}"));
            error.exit_code()
        }
    };
    Ok(code)
}

/// A command that is running.
struct Session<'a> {
    guard: &'a mut Guard,
    workload: Workload<Terminal>,
    cgroup: &'a Cgroup,
    table: &'a MountTable,
    ring: AsyncFd<RingBuf<MapData>>,
}

impl Session<'_> {
    /// Reads events, passes signals on and follows the mount table until the command ends.
    async fn watch(
        &mut self,
        child: &mut tokio::process::Child,
        signals: &Signals,
    ) -> io::Result<std::process::ExitStatus> {
        let pid = child.id();
        let mounts = self.table.file().try_clone()?;
        // SAFETY: the descriptor moves into the `AsyncFd` and closes with it.
        let mounts = unsafe { AsyncFd::register_with_interest(mounts, Interest::PRIORITY) }?;
        let mut losses = tokio::time::interval(LOSS_INTERVAL);
        loop {
            tokio::select! {
                status = child.wait() => return status,
                ready = self.ring.readable_mut() => {
                    let mut ready = ready?;
                    let reporter = &mut self.workload.reporter;
                    drain(ready.get_inner_mut(), usize::MAX, |entry| reporter.take(entry));
                    ready.clear_ready();
                }
                changed = mounts.ready(Interest::PRIORITY) => {
                    changed?.clear_ready();
                    self.follow_mounts();
                }
                signal = signals.next() => forward(pid, signal?),
                told = self.workload.next_lookup() => self.workload.reporter.lookup(told),
                _ = losses.tick() => self.tick(),
            }
        }
    }

    fn tick(&mut self) {
        match self.guard.skips() {
            Ok(skips) => self.workload.tick(self.guard, &skips),
            Err(error) => say(format_args!("agent-guard: {error}")),
        }
    }

    /// Ends what the command left behind, while the programs are still in force, and the report.
    fn end(mut self) -> anyhow::Result<()> {
        if self.cgroup.is_populated()? {
            say("agent-guard: the command left processes behind; they are ended with it");
        }
        cgroup::kill(self.cgroup.path())?;
        self.workload.end_lookups();
        drain(self.ring.get_mut(), usize::MAX, |entry| self.workload.reporter.take(entry));
        self.workload.finish(self.guard)?.finish();
        Ok(())
    }

    /// Compiles the policy for the mounts as they are now, and swaps it in whole. Where that fails the
    /// policy in force stays: it denies what lies on mounts that it does not know.
    fn follow_mounts(&mut self) {
        if let Err(error) = self.try_follow_mounts() {
            say(format_args!(
                "agent-guard: the mounts changed, and the policy could not be adapted; files on new mounts stay denied: {error:#}"
            ));
        }
    }

    fn try_follow_mounts(&mut self) -> anyhow::Result<()> {
        let mounts = self.table.read()?;
        self.workload.follow_mounts(self.guard, &mounts)
    }
}

/// Passes a signal on. A command that is gone does not mind.
fn forward(pid: Option<u32>, signal: libc::c_int) {
    let pid = pid.and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
    let signal = rustix::process::Signal::from_named_raw(signal);
    if let (Some(pid), Some(signal)) = (pid, signal) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// What is in force, in one line; what is not, and why, in one more for each stronger tier.
fn announce(settings: &Settings, guard: &Guard, privileges: &Privileges) {
    let mode = match settings.terms.policy.mode {
        Mode::Enforce => "enforce",
        Mode::Audit => "audit: denials are recorded and nothing is blocked",
    };
    let terms = &settings.terms;
    let for_people = io::stderr().is_terminal();
    if for_people {
        let weaker = weaker(guard);
        if !weaker.is_empty() {
            say(weaker.trim_end());
        }
    }
    say(format_args!(
        "agent-guard: {} under policy {} ({}), tier {}, mode {mode}",
        terms.agent, terms.policy.name, terms.policy_file, guard.tier
    ));
    if for_people {
        say(format_args!("agent-guard: the command's capabilities: {privileges}"));
    }
}

/// A line for each stronger tier that is not in force.
fn weaker(guard: &Guard) -> String {
    let line = |(tier, error): &(Tier, _)| {
        format!("agent-guard: tier {tier} is not to be had here: {error}\n")
    };
    guard.weaker_because.iter().map(line).collect()
}
