//! `agent-guard daemon`: every workload of this host that a policy selects, under guard for as long as it
//! lives.

pub mod api;
mod cgroups;
pub mod config;
mod exporter;
pub mod fills;
mod frozen;
mod host;
pub mod host_view;
mod http;
mod kept;
mod life;
pub mod metrics;
pub mod peer;
mod policies;
mod processes;
mod runtimes;
mod sinks;
mod stream;
mod trusted;
pub mod view;
mod watch;

use std::{
    fs::{self, File},
    io::{Seek, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use agent_guard_common::{event::EventHeader, limits::RING_BYTES};
use anyhow::{Context as _, bail};
use aya::maps::{MapData, RingBuf};
use rustix::fs::{FlockOperation, flock, inotify::WatchFlags};
use sd_notify::NotifyState;
use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use self::{
    api::{Ask, Call, Failure},
    cgroups::Tree,
    config::Config,
    fills::Fills,
    frozen::Frozen,
    host::Host,
    life::{alive, reload_begins, tell_manager},
    metrics::Snapshot,
    policies::{Changes, Loaded, Policies},
    stream::Stream,
    watch::{Change, Watch},
};
use crate::{
    kernel::{
        fill::Positions,
        rings::{drain, readable},
    },
    mounts::MountTable,
    policy::Policy,
    state_dir,
};

/// How often losses and cgroups that are gone are looked for.
const TICK: Duration = Duration::from_secs(5);

/// How often new cgroups are looked for while the kernel does not tell of them.
const LOOK: Duration = Duration::from_secs(1);

/// How long the policy directory has to be quiet before it is read: an editor writes a file in several steps.
const SETTLE: Duration = Duration::from_millis(100);

/// Name queries of all workloads that wait to be told of. Answers wait behind them.
const MAX_LOOKUPS: usize = 4_096;

/// Requests that wait.
const MAX_CALLS: usize = 64;

/// Events that a full ring buffer holds at most: each has a header.
const MOST_EVENTS: usize = RING_BYTES / size_of::<EventHeader>();

/// Events that are taken before anything else is looked at.
const MAX_EVENTS: usize = 4_096;

/// Runs until it is told to end. What is in force stays so.
///
/// # Errors
/// The tier, the policies or the control socket are not to be had.
pub fn run(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    tokio::task::LocalSet::new().block_on(&runtime, serve(config))
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let _only = claim()?;
    let mut hangup = signal(SignalKind::hangup()).context("collecting signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("collecting signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("collecting signals")?;
    let table = MountTable::open().context("opening the mount table")?;
    let mounts = table.read().context("reading the mount table")?;

    alive();
    let (calls, mut asked) = mpsc::channel(MAX_CALLS);
    let metrics = exporter::bind(&config.metrics)?;
    let stream = Stream::open(&config.sink, &config.spool)?;
    let mut policies = Policies::default();
    // Watched before it is read: nothing that changes in between is missed.
    let mut directory = Watch::new().context("watching directories")?;
    directory
        .add(&config.policies, POLICY_CHANGES)
        .with_context(|| format!("watching the policy directory {}", config.policies.display()))?;
    policies
        .read(&config.policies)
        .with_context(|| format!("reading the policy directory {}", config.policies.display()))?;
    policies.recall(kept::all());
    tell_problems(&policies);

    let (lookup_sender, mut lookups) = mpsc::channel(MAX_LOOKUPS);
    let mut host = Host::open(config.clone(), mounts, stream.clone(), lookup_sender)?;
    let fills = Fills::new(host.pins());
    if let Some(listener) = metrics {
        exporter::serve(listener, calls.clone(), fills.clone())?;
    }
    let ring = host.adopt(&policies).await?;
    let backlog = Positions::of(&ring, RING_BYTES).context("mapping the ring buffer")?;
    let ring = readable(ring)?;
    let mut daemon = Daemon { config, policies, host, ring, backlog, stream, unproven: false };
    let mut tree = Tree::open(daemon.host.tree()).context("watching the cgroup tree")?;
    daemon.host.reconcile(&daemon.policies).await;
    for cgroup in tree.scan() {
        daemon.arrive(&cgroup, None).await;
    }
    // Not before they are under guard.
    daemon.host.thaw_left()?;

    let bindings = daemon.host.bindings()?;
    api::listen(&daemon.config.control, bindings, calls, daemon.stream.followers(), fills)?;
    tell_manager(&[NotifyState::Ready]);
    tracing::info!("ready: {} workload(s) under guard", daemon.host.agents().len());

    let mounted = table.file().try_clone().context("watching the mount table")?;
    // SAFETY: the descriptor moves into the `AsyncFd` and closes with it.
    let mounted = unsafe { AsyncFd::register_with_interest(mounted, Interest::PRIORITY) }?;
    let mut ticks = interval(sd_notify::watchdog_enabled().map_or(TICK, |due| TICK.min(due / 2)));
    let mut looks = interval(LOOK);
    for timer in [&mut ticks, &mut looks] {
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    let mut settled: Option<Instant> = None;
    let mut reloading = false;
    loop {
        let settle = async {
            match settled {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // Cgroups that are made are first: who is in them waits, or runs unguarded.
            biased;
            changes = tree.next() => {
                daemon.follow(changes.context("watching the cgroup tree")?).await;
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {
                reloading = true;
                tell_manager(&reload_begins());
                daemon.stream.reopen();
                settled = Some(Instant::now());
            }
            Some(call) = asked.recv() => daemon.answer(call, &mut tree).await,
            changed = mounted.ready(Interest::PRIORITY) => {
                changed?.clear_ready();
                daemon.host.follow_mounts(table.read().context("reading the mount table")?);
            }
            changes = directory.next() => {
                changes.context("watching the policy directory")?;
                settled = Some(Instant::now() + SETTLE);
            }
            () = settle => {
                settled = None;
                if let Err(error) = daemon.reload(&mut tree).await {
                    tracing::error!("{error:#}");
                }
                if std::mem::take(&mut reloading) {
                    tell_manager(&[NotifyState::Ready]);
                }
            }
            _ = ticks.tick() => {
                daemon.host.tick();
                daemon.stream.tick();
                daemon.host.retry(&daemon.policies).await;
                if daemon.unproven && let Err(error) = daemon.prove() {
                    tracing::error!("{error:#}");
                }
                alive();
            }
            _ = looks.tick(), if tree.is_blind() => {
                let found = tree.scan().into_iter().map(Change::There);
                daemon.follow(found.collect()).await;
            }
            Some((agent, told)) = lookups.recv() => daemon.host.lookup(agent, told),
            ready = daemon.ring.readable_mut() => {
                let mut ready = ready?;
                if drain(ready.get_inner_mut(), MAX_EVENTS, |entry| daemon.host.event(entry)) {
                    ready.clear_ready();
                }
            }
        }
    }
    tell_manager(&[NotifyState::Stopping]);
    daemon.end()
}

/// What of the policy directory is of interest.
const POLICY_CHANGES: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::ATTRIB);

/// The right to be the daemon of this host, for as long as the file is open.
fn claim() -> anyhow::Result<File> {
    let (mut file, path) = state_dir::open("daemon.pid").context("opening the daemon's lock")?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let pid = fs::read_to_string(&path).unwrap_or_default();
        bail!("a daemon runs on this host already (process {}); stop it first", pid.trim());
    }
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

fn tell_problems(policies: &Policies) {
    for (file, problem) in policies.problems() {
        tracing::error!("{} is no policy in force: {problem}", file.display());
    }
}

struct Daemon {
    config: Config,
    policies: Policies,
    host: Host,
    ring: AsyncFd<RingBuf<MapData>>,
    /// How full it is.
    backlog: Positions,
    stream: Stream,
    /// Whether the canary was not stopped when it was sent last.
    unproven: bool,
}

impl Daemon {
    async fn arrive(&mut self, cgroup: &Path, held: Option<Frozen>) {
        self.host.arrive(cgroup, held, &self.policies).await;
    }

    /// Who is in cgroups that were made waits from here on, until it is the turn of each.
    async fn follow(&mut self, changes: Vec<Change>) {
        let hold = |change: Change| {
            let held = match &change {
                Change::There(path) => self.host.hold(path, &self.policies),
                Change::Gone(_) | Change::Unknown => None,
            };
            (change, held)
        };
        for (change, held) in changes.into_iter().map(hold).collect::<Vec<_>>() {
            match change {
                Change::There(path) => self.arrive(&path, held).await,
                Change::Gone(path) if self.host.has_left(&path) => {
                    self.take_events();
                    self.host.leave(&path);
                }
                Change::Gone(_) | Change::Unknown => {}
            }
        }
    }

    /// All that was told by now: what a workload has done is told before it is forgotten. What others tell
    /// meanwhile without an end waits.
    fn take_events(&mut self) {
        drain(self.ring.get_mut(), MOST_EVENTS, |entry| self.host.event(entry));
    }

    /// Reads the policy directory, and puts everybody under the policies as they are now. What comes back is how
    /// many workloads could not be put under theirs.
    async fn reload(&mut self, tree: &mut Tree) -> anyhow::Result<usize> {
        let directory = &self.config.policies;
        let Changes { changed, removed } = self.policies.read(directory).with_context(|| {
            format!(
                "the policy directory {} can not be read; all stays as it is",
                directory.display()
            )
        })?;
        tell_problems(&self.policies);
        if changed.is_empty() && removed.is_empty() {
            return Ok(0);
        }
        self.take_events();
        let troubled = self.host.troubled();
        let failed = self.host.reconcile(&self.policies).await;
        for cgroup in tree.scan() {
            self.arrive(&cgroup, None).await;
        }
        self.prove()?;
        Ok(failed + self.host.troubled().saturating_sub(troubled))
    }

    /// Sends the canary, and remembers where it was not stopped.
    fn prove(&mut self) -> anyhow::Result<()> {
        let proven = self.host.prove();
        self.unproven = proven.is_err();
        proven.context("the canary was not stopped after policies changed")
    }

    async fn answer(&mut self, call: Call, tree: &mut Tree) {
        let Call { ask, reply } = call;
        // Whoever asked may have gone.
        let _ = reply.send(self.carry_out(ask, tree).await);
    }

    async fn carry_out(&mut self, ask: Ask, tree: &mut Tree) -> Result<serde_json::Value, Failure> {
        let refused = |error: anyhow::Error| Failure::Refused(format!("{error:#}"));
        match ask {
            Ask::Status(maps) => api::json(&self.status(maps)),
            Ask::Metrics(maps) => {
                let status = self.status(maps);
                let (agents, others) = self.host.series();
                Ok(metrics::text(Snapshot { status, agents, others }).into())
            }
            Ask::Ready => self.ready().map(|()| "ready".into()).map_err(Failure::Unready),
            Ask::Agents => api::json(&self.host.agents()),
            Ask::Own(cgroup) => match self.host.agent_of(&cgroup) {
                Some(agent) => api::json(&agent),
                None => Err(Failure::Missing("you are in no agent of this daemon".to_owned())),
            },
            Ask::Policies => api::json(&self.host.policies(&self.policies)),
            Ask::Policy(name) => self.text_of(&name),
            Ask::Load(text) => api::json(&self.load(&text, tree).await.map_err(refused)?),
            Ask::Unload(name) => {
                let Some(loaded) = self.policies.get(&name) else { return Err(no_policy(&name)) };
                let file = loaded.file.clone();
                api::json(&self.unload(&file, tree).await.map_err(refused)?)
            }
            Ask::Reload => match self.reload(tree).await.map_err(refused)? {
                0 => api::json(&self.host.policies(&self.policies)),
                failed => Err(Failure::Refused(format!(
                    "{failed} workload(s) stay under the policy as it was; `agent-guard agents` says why"
                ))),
            },
        }
    }

    fn status(&mut self, maps: Vec<view::Fill>) -> view::Status {
        let status = self.host.status(&self.policies);
        let (canary_stopped, buffer) = (!self.unproven, self.backlog.fill());
        view::Status { canary_stopped, buffer, maps, ..status }
    }

    /// Fails where what is attached is not whole, or does not stop the canary.
    fn ready(&self) -> Result<(), String> {
        if self.unproven {
            return Err(
                "the canary was not stopped when policies changed; the log says why".to_owned()
            );
        }
        self.host.read_back().map_err(|error| format!("not in force: {error:#}"))
    }

    fn text_of(&self, name: &str) -> Result<serde_json::Value, Failure> {
        let Some(loaded) = self.policies.get(name) else { return Err(no_policy(name)) };
        let file = &loaded.file;
        let text = fs::read_to_string(file);
        text.map(Into::into)
            .map_err(|error| Failure::Refused(format!("reading {}: {error}", file.display())))
    }

    /// Puts the policy in `text` into the directory, and in force. Where it does not come into force the one
    /// before it stays.
    async fn load(&mut self, text: &str, tree: &mut Tree) -> anyhow::Result<view::Loaded> {
        let policy = Policy::parse("the policy", text)
            .map_err(|error| anyhow::anyhow!("{:?}", miette::Report::new(error)))?;
        let name = policy.name.to_string();
        let file = match self.policies.get(&name) {
            Some(loaded) => loaded.file.clone(),
            None => self.config.policies.join(format!("{name}.yaml")),
        };
        if let Some((other, _)) =
            self.policies.all().find(|(other, loaded)| loaded.file == file && *other != name)
        {
            bail!("{} holds the policy {other}; rename one of them", file.display());
        }
        let revision = policy.revision.clone();
        let loaded = Loaded { policy: Arc::new(policy), file: file.clone(), text: text.into() };
        self.host.admit(&loaded).with_context(|| {
            format!("the policy {name} did not come into force, and what was before it stays")
        })?;
        let before = match fs::read(&file) {
            Ok(before) => Some(before),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).context(format!("reading {}", file.display())),
        };
        put(&file, text.as_bytes())?;
        let (failed, problem) = match self.reload(tree).await {
            Ok(failed) => (failed, self.policies.problems().get(&file).cloned()),
            Err(error) => (0, Some(format!("{error:#}"))),
        };
        if failed == 0 && problem.is_none() {
            let agents = self.host.count_under(&name).1;
            let file = file.display().to_string();
            return Ok(view::Loaded { name, revision, file, agents });
        }
        let told =
            self.host.agents().into_iter().filter(|agent| agent.policy.as_ref() == Some(&name));
        let told: Vec<String> =
            problem.into_iter().chain(told.filter_map(|agent| agent.problem)).collect();
        match before {
            Some(before) => put(&file, &before)?,
            None => fs::remove_file(&file).with_context(|| file.display().to_string())?,
        }
        self.reload(tree).await.context("going back to the policy before it")?;
        bail!(
            "the policy {name} did not come into force, and the one before it stays: {}",
            told.join("; ")
        )
    }

    /// Takes a policy's file out of the directory. Who is under it stays so until it ends.
    async fn unload(&mut self, file: &Path, tree: &mut Tree) -> anyhow::Result<()> {
        fs::remove_file(file).with_context(|| format!("removing {}", file.display()))?;
        self.reload(tree).await.map(drop)
    }

    /// Leaves everybody to the next daemon.
    fn end(mut self) -> anyhow::Result<()> {
        self.take_events();
        let Self { host, stream, config, .. } = self;
        let ended = host.end();
        stream.finish();
        api::close(&config.control.socket);
        ended
    }
}

fn no_policy(name: &str) -> Failure {
    Failure::Missing(format!(
        "there is no policy {name}; `agent-guard policy list` has their names"
    ))
}

/// Writes a file whole, or not at all.
fn put(file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let directory = file.parent().context("a policy file has a directory")?;
    let name = file.file_name().context("a policy file has a name")?.to_string_lossy();
    let half: PathBuf = directory.join(format!(".{name}.new"));
    let write = || {
        let mut out = File::create(&half)?;
        out.write_all(bytes)?;
        out.sync_all()?;
        fs::rename(&half, file)
    };
    write().with_context(|| format!("writing {}", file.display()))
}
