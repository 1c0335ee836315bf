//! `agent-guard run`: one command, in its own cgroup, under one policy, for as long as it lives.

mod adopt;
mod descriptors;
mod launch;
mod names;
mod privileges;
mod proxy;
mod report;
mod stderr;

use std::{
    ffi::OsString,
    fs::File,
    io::{self, IsTerminal},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use agent_guard_common::table::{Agent, AgentFlag, ChangeTime};
use anyhow::{Context as _, anyhow, bail};
use aya::maps::{MapData, RingBuf};
use ipnet::IpNet;
use miette::Diagnostic;
use tokio::io::{Interest, unix::AsyncFd};

pub use self::adopt::adopt_all;
use self::{
    descriptors::Inherited, names::RunNames, privileges::Privileges, proxy::Plan, report::Reporter,
    stderr::say,
};
use crate::{
    bytes::random,
    cgroup::{self, Cgroup},
    dns,
    event::{Encoder, EventLog, Host, Notice, Sink},
    guard::{Guard, TierChoice},
    handover::{Handover, Held, PolicyName, RuleName},
    kernel::counters::Counters,
    lack::Lack,
    mounts::{Mount, MountTable},
    oom,
    policy::{
        Mode, Policy, aliases,
        compile::{CompileError, Compiled, Environment, Filesystems, HostLinks, compile},
        pinned::{self, PinError},
    },
    signals::Signals,
    tier::Tier,
};

/// How often losses are looked for while nothing else happens.
const LOSS_INTERVAL: Duration = Duration::from_secs(5);

/// Keys that are drawn before a policy whose names collide under every one of them is given up: once
/// is already a chance of one in 2^40.
const KEY_DRAWS: usize = 4;

/// What to run, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The policy.
    pub policy: Policy,
    /// How the policy is called in messages and events: its file.
    pub policy_file: String,
    /// Name of the agent.
    pub agent: String,
    /// The tier that is asked for.
    pub tier: TierChoice,
    /// What the tier may lack although the policy asks for it.
    pub allow_degraded: Vec<Lack>,
    /// Where events go: a file, or `-` for standard output.
    pub events: Option<PathBuf>,
    /// The name servers that the DNS proxy asks; none: those of this host.
    pub dns_upstreams: Vec<SocketAddr>,
    /// Internal networks that host names may lead to.
    pub dns_internal: Vec<IpNet>,
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
    let log = settings.events.as_deref().map(open_log).transpose()?;
    let signals = Signals::collect().context("collecting signals")?;
    adopt::adopt_in_background().context("looking for agents whose guard is gone")?;
    let table = MountTable::open().context("opening the mount table")?;
    let mounts = table.read().context("reading the mount table")?;
    let mut compiled = compile_policy(&settings.policy, &mounts)?;
    take_pins(&settings.policy, &mounts, &mut compiled).map_err(|error| with_remedy(&error))?;
    for note in compiled.notes.iter().filter(|note| note.is_warning()) {
        say(format_args!("agent-guard: warning: {note}"));
    }

    let id = format!("{}-{}", settings.agent, std::process::id());
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
            let run = under_guard(settings, &mut guard, &mut place, compiled, log, &signals);
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
    log: Option<EventLog<File>>,
    signals: &Signals,
) -> anyhow::Result<u8> {
    let (cgroup, table) = (place.cgroup, place.table);
    let lacks = Lack::of(guard.tier, &settings.policy);
    if !lacks.iter().all(|lack| settings.allow_degraded.contains(lack)) {
        bail!("{}{}", weaker(guard), refusal(guard.tier, &lacks));
    }
    let names = match guard.tier {
        Tier::Lsm | Tier::Trace => Plan::new(settings, &compiled).await?,
        Tier::Observe => None,
    };
    let dns_ports = names.as_ref().map_or([0; 2], Plan::ports);
    let policy = guard.tables.write_policy(&compiled, cgroup.id())?;
    let agent = agent(settings, &compiled, cgroup, policy, dns_ports);
    let privileges = Privileges::of(guard.tier, &agent)?;
    let id = guard.tables.add_agent(agent)?;
    place.agent = Some(id);
    let ring = guard.tables.make_ring(id)?;
    let counters = guard.counters(id)?;
    guard.tables.bind_cgroup(cgroup.id(), id)?;

    let handover = handover(settings, guard, &counters, &compiled, place, &lacks)?;
    place.held.write(&handover).context("writing the handover")?;
    let run_names = RunNames::new(handover.context(), handover.rules(), place.mounts);
    let mut reporter = Reporter::new(run_names, log);
    announce(settings, guard, &privileges);
    if names.is_none() && !compiled.names.is_empty() {
        say(
            "agent-guard: warning: tier observe has no DNS proxy: what the policy allows by host name is recorded as denied",
        );
    }
    let names = names.map(|plan| plan.start(guard.pins(), cgroup.id())).transpose()?;
    if let Some(proxy) = &names {
        reporter.names().set_leases(Arc::clone(&proxy.book));
    }
    reporter.notice(Notice::Started);
    reporter.notice(Notice::PolicyLoaded { replaces: None });
    if !lacks.is_empty() {
        reporter.notice(Notice::Degraded);
    }

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
            let mut session = Session {
                guard,
                id,
                counters,
                settings,
                cgroup,
                table,
                names,
                dns_ports,
                pins: compiled.pins,
                reporter,
                ring: readable(ring)?,
            };
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
            while let Some(entry) = ring.next() {
                reporter.take(&entry);
            }
            warn_of_unwritten(reporter.finish(&counters.read()?));
            say(format_args!("agent-guard: {error}"));
            error.exit_code()
        }
    };
    Ok(code)
}

fn warn_of_unwritten(lines: u64) {
    if lines > 0 {
        say(format_args!("agent-guard: {lines} event(s) could not be written and are lost"));
    }
}

fn readable(ring: RingBuf<MapData>) -> anyhow::Result<AsyncFd<RingBuf<MapData>>> {
    // SAFETY: the descriptor belongs to the map that moves into the `AsyncFd`, and closes with it.
    unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
        .context("watching the ring buffer")
}

/// A command that is running.
struct Session<'a> {
    guard: &'a mut Guard,
    id: u32,
    counters: Counters,
    settings: &'a Settings,
    cgroup: &'a Cgroup,
    table: &'a MountTable,
    names: Option<proxy::Running>,
    dns_ports: [u16; 2],
    /// Taken once: what changes while the agent runs is not pinned anew.
    pins: Vec<((u32, u64), ChangeTime)>,
    reporter: Reporter,
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
                    let ring = ready.get_inner_mut();
                    while let Some(entry) = ring.next() {
                        self.reporter.take(&entry);
                    }
                    ready.clear_ready();
                }
                changed = mounts.ready(Interest::PRIORITY) => {
                    changed?.clear_ready();
                    self.follow_mounts();
                }
                signal = signals.next() => forward(pid, signal?),
                told = next_lookup(&mut self.names) => self.reporter.lookup(told),
                _ = losses.tick() => self.tick(),
            }
        }
    }

    /// What is looked for from time to time.
    fn tick(&mut self) {
        if let Some(names) = &self.names {
            names.sweep();
        }
        match self.counters.read() {
            Ok(counts) => self.reporter.account(&counts),
            Err(error) => {
                say(format_args!("agent-guard: the counters can not be read: {error}"));
            }
        }
    }

    /// Ends what the command left behind, while the programs are still in force, and the report.
    fn end(mut self) -> anyhow::Result<()> {
        if self.cgroup.is_populated()? {
            say("agent-guard: the command left processes behind; they are ended with it");
        }
        cgroup::kill(self.cgroup.path())?;
        for told in self.names.take().map(proxy::Running::end).unwrap_or_default() {
            self.reporter.lookup(told);
        }
        let ring = self.ring.get_mut();
        while let Some(entry) = ring.next() {
            self.reporter.take(&entry);
        }
        warn_of_unwritten(self.reporter.finish(&self.counters.read()?));
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
        let mut compiled = compile_policy(&self.settings.policy, &mounts)?;
        compiled.pins.clone_from(&self.pins);
        let policy = self.guard.tables.write_policy(&compiled, self.cgroup.id())?;
        let agent = agent(self.settings, &compiled, self.cgroup, policy, self.dns_ports);
        self.guard.tables.set_agent(self.id, agent)?;
        self.reporter.names().set_mounts(&mounts);
        Ok(())
    }
}

/// The next query that was answered; never, where there is no proxy.
async fn next_lookup(names: &mut Option<proxy::Running>) -> dns::Told {
    if let Some(names) = names
        && let Some(told) = names.next().await
    {
        return told;
    }
    std::future::pending().await
}

/// The agent under `policy`. What is allowed is told only where somebody records it.
fn agent(
    settings: &Settings,
    compiled: &Compiled,
    cgroup: &Cgroup,
    policy: u32,
    dns_ports: [u16; 2],
) -> Agent {
    let mut agent = Agent { dns_ports, ..compiled.agent(cgroup.id(), policy) };
    if settings.events.is_some() {
        agent.flags |= AgentFlag::LOG_ALLOWED;
    }
    agent
}

/// Passes a signal on. A command that is gone does not mind.
fn forward(pid: Option<u32>, signal: libc::c_int) {
    let pid = pid.and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
    let signal = rustix::process::Signal::from_named_raw(signal);
    if let (Some(pid), Some(signal)) = (pid, signal) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

fn compile_policy(policy: &Policy, mounts: &[Mount]) -> anyhow::Result<Compiled> {
    let filesystems = Filesystems::from_table(mounts);
    let links = HostLinks::default();
    let environment = Environment { filesystems: &filesystems, links: &links };
    for _ in 0..KEY_DRAWS {
        match compile(policy, &environment, draw_key()?) {
            Err(CompileError::HashCollision) => {}
            compiled => {
                let mut compiled = compiled?;
                aliases::find(policy, &environment, &mut compiled);
                return Ok(compiled);
            }
        }
    }
    Err(CompileError::HashCollision.into())
}

/// An error with how to mend it.
fn with_remedy(error: &impl Diagnostic) -> anyhow::Error {
    match error.help() {
        Some(help) => anyhow!("{error}; {help}"),
        None => anyhow!("{error}"),
    }
}

/// Pins the files that are there now.
fn take_pins(policy: &Policy, mounts: &[Mount], compiled: &mut Compiled) -> Result<(), PinError> {
    let filesystems = Filesystems::from_table(mounts);
    let links = HostLinks::default();
    pinned::take(policy, &Environment { filesystems: &filesystems, links: &links }, compiled)
}

fn draw_key() -> anyhow::Result<[u64; 2]> {
    let bytes: [u8; 16] = random().context("drawing a key")?;
    let (low, high) = bytes.split_at(8);
    Ok([u64::from_ne_bytes(low.try_into()?), u64::from_ne_bytes(high.try_into()?)])
}

fn open_log(path: &Path) -> anyhow::Result<EventLog<File>> {
    let out = if path == Path::new("-") { Sink::stdout()? } else { Sink::file(path)? };
    let system = rustix::system::uname();
    let host = Host {
        name: system.nodename().to_string_lossy().into_owned(),
        kernel: system.release().to_string_lossy().into_owned(),
    };
    let [high, low] = draw_key()?;
    Ok(EventLog::new(Encoder::new(host, u128::from(high) << 64 | u128::from(low)), out))
}

/// Why a policy does not run on a tier, and how it does all the same.
fn refusal(tier: Tier, lacks: &[Lack]) -> String {
    let problems: Vec<String> = lacks.iter().map(|lack| lack.problem(tier)).collect();
    let names: Vec<&str> = lacks.iter().map(|lack| lack.name()).collect();
    let (problems, names) = (problems.join("\n"), names.join(","));
    format!("{problems}\n`--allow-degraded {names}` runs without it all the same")
}

/// What a successor has to know, should this process die.
fn handover(
    settings: &Settings,
    guard: &Guard,
    counters: &Counters,
    compiled: &Compiled,
    place: &Place<'_>,
    lacks: &[Lack],
) -> anyhow::Result<Handover> {
    let cgroup = place.cgroup;
    let log = settings.events.as_deref().filter(|path| *path != Path::new("-"));
    Ok(Handover {
        agent: settings.agent.clone(),
        programs: guard.programs().to_owned(),
        agent_id: place.agent.context("the agent has no id")?,
        cgroup_id: cgroup.id(),
        cgroup: cgroup.path().to_owned(),
        tier: guard.tier,
        mode: settings.policy.mode,
        degraded: lacks.iter().map(|lack| lack.name().to_owned()).collect(),
        policy: PolicyName::new(
            settings.policy.name.to_string(),
            settings.policy.revision.clone(),
            settings.policy_file.clone(),
        ),
        rules: names::rules(&compiled.rules).iter().map(|rule| RuleName::from(&**rule)).collect(),
        skipped: counters.skipped().to_vec(),
        log: log.map(std::path::absolute).transpose()?,
    })
}

/// What is in force, in one line; what is not, and why, in one more for each stronger tier.
fn announce(settings: &Settings, guard: &Guard, privileges: &Privileges) {
    let mode = match settings.policy.mode {
        Mode::Enforce => "enforce",
        Mode::Audit => "audit: denials are recorded and nothing is blocked",
    };
    let for_people = io::stderr().is_terminal();
    if for_people {
        let weaker = weaker(guard);
        if !weaker.is_empty() {
            say(weaker.trim_end());
        }
    }
    say(format_args!(
        "agent-guard: {} under policy {} ({}), tier {}, mode {mode}",
        settings.agent, settings.policy.name, settings.policy_file, guard.tier
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
