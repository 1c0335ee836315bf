//! The workloads of this host: which are there, which policy each is to be under, and putting them there.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use agent_guard_common::limits::RING_BYTES;
use anyhow::Context as _;
use aya::{
    maps::{MapData, RingBuf},
    programs::links::FdLink,
};
use tokio::{sync::mpsc, task::spawn_local};

use super::{
    api::{Ask, Peer},
    config::Config,
    policies::{Choice, Loaded, Policies},
    processes,
    stream::Stream,
    view,
};
use crate::{
    cgroup::{self, Cgroup},
    dns::Told,
    event::{Notice, SafeText, WireEvent},
    guard::Guard,
    handover::{self, Held, Keeper},
    identity::Identity,
    kernel::{
        counters::{HookCounts, Skips},
        tables,
    },
    mounts::{self, Mount},
    policy::Policy,
    state_dir,
    workload::{Terms, Workload, compile},
};

/// Everything that is under guard.
pub struct Host {
    config: Config,
    guard: Guard,
    /// Where the canary goes.
    home: Cgroup,
    mounts: Vec<Mount>,
    /// Where the cgroup tree is mounted.
    tree: PathBuf,
    stream: Stream,
    lookups: mpsc::Sender<(u32, Told)>,
    /// By the directory of its cgroup.
    guarded: BTreeMap<PathBuf, Guarded>,
    /// Cgroups that a policy is for, and why they are not under it.
    refused: BTreeMap<PathBuf, String>,
    by_agent: HashMap<u32, PathBuf>,
    /// Events that belong to nobody.
    strays: u64,
}

/// A workload under guard.
struct Guarded {
    workload: Workload<Stream>,
    held: Held,
    /// Why it is not under its policy of today.
    problem: Option<String>,
    /// Whether nothing is allowed to it, because its policy could not be put in force.
    stands_in: bool,
    #[expect(dead_code, reason = "what is attached stays so for as long as they are open")]
    links: Vec<FdLink>,
}

/// What stands against putting a cgroup under a policy of its own.
enum Conflict {
    None,
    /// It is part of a workload under that policy.
    Covered,
    Problem(String),
}

/// Whether a cgroup was there before the daemon looked, or has just been made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It was there.
    Found,
    /// It has just been made: who is in it can wait.
    Made,
}

impl Host {
    /// Puts the tier in force that `config` asks for. Nobody is under guard yet.
    ///
    /// # Errors
    /// It is not to be had.
    pub fn open(
        config: Config,
        mounts: Vec<Mount>,
        stream: Stream,
        lookups: mpsc::Sender<(u32, Told)>,
    ) -> anyhow::Result<Self> {
        let tree =
            mounts::cgroup2(&mounts).context("no cgroup2 file system is mounted")?.to_owned();
        let home = Cgroup::create(&mounts, &format!("daemon-{}", std::process::id()))?;
        let guard = match Guard::establish(config.tier.into(), &home, &mounts) {
            Ok(guard) => guard,
            Err(error) => {
                home.remove()?;
                return Err(error.into());
            }
        };
        Ok(Self {
            config,
            guard,
            home,
            mounts,
            tree,
            stream,
            lookups,
            guarded: BTreeMap::new(),
            refused: BTreeMap::new(),
            by_agent: HashMap::new(),
            strays: 0,
        })
    }

    /// Takes over what another daemon has left, and returns the ring buffer that all events go to.
    ///
    /// # Errors
    /// The kernel refused. Of one agent that could not be taken over it is told, and it stays confined.
    pub async fn adopt(&mut self, policies: &Policies) -> anyhow::Result<RingBuf<MapData>> {
        let mut ring = None;
        for held in handover::abandoned(Keeper::Daemon).context("looking for abandoned agents")? {
            let id = held.id.clone();
            if let Err(error) = self.adopt_one(held, policies, &mut ring).await {
                tracing::error!(
                    "{id} could not be taken over, and stays confined as it is: {error:#}"
                );
            }
        }
        match ring {
            Some(ring) => Ok(ring),
            None => Ok(tables::new_ring(RING_BYTES as u32)?),
        }
    }

    async fn adopt_one(
        &mut self,
        held: Held,
        policies: &Policies,
        ring: &mut Option<RingBuf<MapData>>,
    ) -> anyhow::Result<()> {
        let Some(handover) = held.read()? else {
            return held.finish().context("removing the handover");
        };
        let agent = handover.agent_id;
        anyhow::ensure!(
            handover.programs == self.guard.programs(),
            "it is under the programs {}, and the daemon's are {}: end it, and start it again",
            handover.programs,
            self.guard.programs()
        );
        if cgroup::is_gone(&handover.cgroup, handover.cgroup_id) {
            self.guard.let_go(handover.cgroup_id, agent)?;
            return held.finish().context("removing the handover");
        }
        match ring {
            Some(ring) => self.guard.tables.set_ring(agent, ring)?,
            None => *ring = Some(self.guard.tables.ring(agent)?),
        }
        let path = handover.cgroup.clone();
        let name = handover.policy.name();
        let stands_in = name == Policy::NOTHING;
        let loaded = match policies.get(name) {
            _ if stands_in => Some(Loaded::stand_in()),
            Some(loaded) => Some(loaded.clone()),
            None => kept(name),
        };
        let Loaded { policy, file } =
            loaded.context("neither its policy nor the copy of it is there")?;
        let terms = self.terms(handover.agent.clone(), policy.as_ref().clone(), &file);
        let compiled = compile::as_loaded(&terms.policy, &self.mounts)?;
        let (guard, mounts) = (&mut self.guard, &self.mounts);
        let links = guard.taken_in(handover.cgroup_id)?;
        let mut workload =
            Workload::adopt(terms, handover, guard, compiled, mounts, self.stream.clone()).await?;
        forward(&self.lookups, &mut workload);
        let problem = stands_in.then(|| "its policy could not be put in force".to_owned());
        let mut guarded = Guarded { workload, held, problem, stands_in, links };
        guarded.held.write(&guarded.workload.handover).context("writing the handover")?;
        self.by_agent.insert(agent, path.clone());
        self.guarded.insert(path, guarded);
        Ok(())
    }

    fn terms(&self, agent: String, policy: Policy, file: &Path) -> Terms {
        Terms {
            agent,
            policy,
            policy_file: file.display().to_string(),
            allow_degraded: self.config.allow_degraded.iter().map(|lack| lack.0).collect(),
            tell_allowed: self.stream.takes_all(),
            dns_upstreams: self.config.dns.upstreams.clone(),
            dns_internal: self.config.dns.internal.clone(),
        }
    }

    /// Puts the cgroup at `path` under the policy that is for it, if one is. Where that can not be, nothing is
    /// allowed to who is in it; and where not even that can be, nobody in it runs on.
    pub async fn arrive(
        &mut self,
        path: &Path,
        arrival: Arrival,
        policies: &Policies,
        ring: &RingBuf<MapData>,
    ) {
        if path.starts_with(self.home.path()) {
            return;
        }
        let name = self.name(path);
        let chosen = match policies.choose(&Identity::of(&name)) {
            Choice::None => {
                self.refused.remove(path);
                return;
            }
            Choice::Several(names) => Err(format!(
                "the policies {} are all for it, so nothing is allowed; let one selector cover it",
                names.join(", ")
            )),
            Choice::One(policy) => policies.get(policy).ok_or_else(String::new),
        };
        if let Some(guarded) = self.guarded.get(path) {
            if let (true, Ok(loaded)) = (guarded.stands_in, chosen) {
                self.relieve(path, loaded).await;
            }
            return;
        }
        match self.conflict(path, chosen.as_ref().ok().copied()) {
            Conflict::None => {}
            Conflict::Covered => return,
            Conflict::Problem(problem) => return self.refuse(path, problem),
        }
        let mut frozen = arrival == Arrival::Made && cgroup::freeze(path, true).is_ok();
        let put = match chosen {
            Ok(loaded) => self.put_under(path, &name, loaded, ring).await,
            Err(problem) => Err(anyhow::Error::msg(problem)),
        };
        self.refused.remove(path);
        if let Err(error) = put
            && path.exists()
        {
            let problem = format!("{error:#}");
            tracing::error!(
                "{} is not under its policy, and nothing is allowed to it: {problem}",
                path.display()
            );
            match self.put_under(path, &name, &Loaded::stand_in(), ring).await {
                Ok(()) => {
                    if let Some(guarded) = self.guarded.get_mut(path) {
                        (guarded.stands_in, guarded.problem) = (true, Some(problem));
                    }
                }
                Err(_) if !path.exists() => {}
                Err(error) => {
                    let stopped = cgroup::freeze(path, true);
                    frozen = false;
                    let what = if stopped.is_ok() { "it is frozen" } else { "it runs unguarded" };
                    self.refuse(path, format!("{what}, for not even nothing could be allowed to it: {error:#}; {problem}"));
                }
            }
        }
        if frozen && let Err(error) = cgroup::freeze(path, false) {
            tracing::error!("{} can not be thawed: {error}", path.display());
        }
    }

    /// Puts a workload to which nothing was allowed under its policy.
    async fn relieve(&mut self, path: &Path, loaded: &Loaded) {
        let Some(mut guarded) = self.guarded.remove(path) else { return };
        match self.renew_one(&mut guarded, loaded).await {
            Ok(()) => (guarded.stands_in, guarded.problem) = (false, None),
            Err(error) => guarded.problem = Some(format!("{error:#}")),
        }
        self.guarded.insert(path.to_owned(), guarded);
    }

    /// What stands against putting the cgroup at `path` under a policy of its own.
    fn conflict(&self, path: &Path, loaded: Option<&Loaded>) -> Conflict {
        if self.home.path().starts_with(path) {
            return Conflict::Problem(
                "the daemon itself is in it; select something below".to_owned(),
            );
        }
        if let Some(outer) = self.outer(path) {
            let holding = outer.workload.handover.policy.name();
            // Under the same policy it is part of that workload.
            if loaded.is_some_and(|loaded| loaded.policy.name.to_string() == holding) {
                return Conflict::Covered;
            }
            return Conflict::Problem(format!(
                "it lies in a workload under policy {holding}, which holds for it, and no other does"
            ));
        }
        match self.inner(path) {
            None => Conflict::None,
            Some(inner) => Conflict::Problem(format!(
                "{} in it is under guard by itself; end that first",
                inner.display()
            )),
        }
    }

    fn refuse(&mut self, path: &Path, problem: String) {
        if self.refused.get(path) != Some(&problem) {
            tracing::error!("{} is not under guard: {problem}", path.display());
        }
        self.refused.insert(path.to_owned(), problem);
    }

    /// The workload that a cgroup lies in.
    fn outer(&self, path: &Path) -> Option<&Guarded> {
        path.ancestors().skip(1).find_map(|above| self.guarded.get(above))
    }

    /// A cgroup below that is a workload.
    fn inner(&self, path: &Path) -> Option<&Path> {
        let behind = self.guarded.range(path.to_owned()..).skip_while(|(inner, _)| *inner == path);
        behind.map(|(inner, _)| inner.as_path()).next().filter(|inner| inner.starts_with(path))
    }

    async fn put_under(
        &mut self,
        path: &Path,
        name: &str,
        loaded: &Loaded,
        ring: &RingBuf<MapData>,
    ) -> anyhow::Result<()> {
        let policy = loaded.policy.as_ref().clone();
        if loaded.file.is_absolute() {
            keep(&policy.name.to_string(), &loaded.file).context("keeping a copy of the policy")?;
        }
        let cgroup = Cgroup::existing(path, &self.mounts)?;
        if let Some(agent) = self.guard.tables.agent_of_cgroup(cgroup.id())? {
            anyhow::bail!("another guard looks after it (agent {agent})");
        }
        let mut held =
            Held::create(&format!("daemon-{}", cgroup.id())).context("making the handover")?;
        match self.guard_it(&cgroup, name, policy, &loaded.file, ring, &mut held).await {
            Ok((workload, links)) => {
                self.by_agent.insert(workload.handover.agent_id, path.to_owned());
                let guarded = Guarded { workload, held, problem: None, stands_in: false, links };
                self.guarded.insert(path.to_owned(), guarded);
                Ok(())
            }
            Err(error) => {
                held.finish().context("removing the handover")?;
                Err(error)
            }
        }
    }

    async fn guard_it(
        &mut self,
        cgroup: &Cgroup,
        name: &str,
        policy: Policy,
        file: &Path,
        ring: &RingBuf<MapData>,
        held: &mut Held,
    ) -> anyhow::Result<(Workload<Stream>, Vec<FdLink>)> {
        let compiled = compile::as_loaded(&policy, &self.mounts)?;
        let terms = self.terms(agent_name(name), policy, file);
        let links = self.guard.take_in(cgroup, &self.mounts)?;
        let (guard, mounts) = (&mut self.guard, &self.mounts);
        let prepared =
            Workload::prepare(terms, guard, cgroup, compiled, mounts, self.stream.clone()).await;
        let mut workload = match prepared {
            Ok(workload) => workload,
            Err(error) => {
                guard.detach(cgroup.id())?;
                return Err(error);
            }
        };
        workload.handover.keeper = Keeper::Daemon;
        let agent = workload.handover.agent_id;
        let mut put = || {
            guard.tables.set_ring(agent, ring)?;
            held.write(&workload.handover).context("writing the handover")?;
            anyhow::Ok(workload.put_in_force(guard)?)
        };
        if let Err(error) = put() {
            self.guard.let_go(cgroup.id(), agent)?;
            return Err(error);
        }
        if let Some(age) = processes::oldest(cgroup.path()) {
            let ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
            workload.reporter.notice(Notice::Uncovered { ms });
        }
        forward(&self.lookups, &mut workload);
        Ok((workload, links))
    }

    /// Forgets a cgroup that is gone.
    pub fn leave(&mut self, path: &Path) {
        self.refused.remove(path);
        let Some(guarded) = self.guarded.remove(path) else { return };
        let Guarded { mut workload, held, .. } = guarded;
        let (agent, cgroup) = (workload.handover.agent_id, workload.handover.cgroup_id);
        self.by_agent.remove(&agent);
        workload.end_lookups();
        let ended = workload
            .finish(&self.guard)
            .map(drop)
            .map_err(anyhow::Error::from)
            .and(self.guard.let_go(cgroup, agent).map_err(anyhow::Error::from))
            .and(held.finish().context("removing the handover"));
        if let Err(error) = ended {
            tracing::error!("taking {} out of the kernel: {error:#}", path.display());
        }
    }

    /// Puts every workload under `name` under the policy as it is now, and says of how many that failed.
    pub async fn renew(&mut self, name: &str, policies: &Policies) -> usize {
        let Some(loaded) = policies.get(name) else { return 0 };
        if let Err(error) = keep(name, &loaded.file) {
            tracing::error!("no copy of the policy {name} could be kept: {error}");
        }
        let mut failed = 0;
        for path in self.under(name).map(|(path, _)| path.clone()).collect::<Vec<_>>() {
            let Some(mut guarded) = self.guarded.remove(&path) else { continue };
            let problem = self.renew_one(&mut guarded, loaded).await.err();
            guarded.problem = problem.map(|error| {
                failed += 1;
                tracing::error!("{} stays under the policy as it was: {error:#}", path.display());
                format!("the policy in force is not the one of today: {error:#}")
            });
            self.guarded.insert(path, guarded);
        }
        failed
    }

    async fn renew_one(&mut self, guarded: &mut Guarded, loaded: &Loaded) -> anyhow::Result<()> {
        let Guarded { workload, held, .. } = guarded;
        let policy = loaded.policy.as_ref().clone();
        let terms = self.terms(workload.terms.agent.clone(), policy, &loaded.file);
        let compiled = compile::as_loaded(&terms.policy, &self.mounts)?;
        workload.set_policy(terms, &mut self.guard, compiled).await?;
        forward(&self.lookups, workload);
        held.write(&workload.handover).context("writing the handover")
    }

    /// Compiles every policy anew, for mounts that have changed.
    pub fn follow_mounts(&mut self, mounts: Vec<Mount>) {
        self.mounts = mounts;
        for (path, guarded) in &mut self.guarded {
            if let Err(error) = guarded.workload.follow_mounts(&mut self.guard, &self.mounts) {
                tracing::error!(
                    "the mounts changed, and the policy of {} could not be adapted; files on new mounts stay denied: {error:#}",
                    path.display()
                );
            }
        }
    }

    /// Takes an entry of the ring buffer.
    pub fn event(&mut self, bytes: &[u8]) {
        let taken = WireEvent::parse(bytes).ok().and_then(|event| {
            let path = self.by_agent.get(&event.header.agent)?;
            self.guarded.get_mut(path)?.workload.reporter.event(&event);
            Some(())
        });
        if taken.is_none() {
            self.strays = self.strays.saturating_add(1);
        }
    }

    /// Takes what came of a name query.
    pub fn lookup(&mut self, agent: u32, told: Told) {
        let path = self.by_agent.get(&agent);
        if let Some(guarded) = path.and_then(|path| self.guarded.get_mut(path)) {
            guarded.workload.reporter.lookup(told);
        }
    }

    /// What is looked for from time to time: cgroups that are gone, losses, expired leases.
    pub fn tick(&mut self) {
        let gone = |(path, guarded): (&PathBuf, &Guarded)| {
            cgroup::is_gone(path, guarded.workload.handover.cgroup_id).then(|| path.clone())
        };
        for path in self.guarded.iter().filter_map(gone).collect::<Vec<_>>() {
            self.leave(&path);
        }
        let skips = match self.guard.skips() {
            Ok(skips) => skips,
            Err(error) => return tracing::error!("{error}"),
        };
        for guarded in self.guarded.values_mut() {
            guarded.workload.tick(&self.guard, &skips);
        }
    }

    /// Sends the canary.
    ///
    /// # Errors
    /// It came through.
    pub fn prove(&mut self) -> anyhow::Result<()> {
        Ok(self.guard.send_canary(&self.home, &self.mounts)?)
    }

    /// Leaves everybody confined as they are, to the next daemon.
    ///
    /// # Errors
    /// The daemon's own cgroup could not be taken away.
    pub fn end(self) -> anyhow::Result<()> {
        self.home.remove()?;
        Ok(self.guard.end(None)?)
    }

    /// The path of a cgroup from the root of the tree.
    fn name(&self, path: &Path) -> String {
        super::cgroups::name(&self.tree, path)
    }

    /// The workloads under the policy of this name.
    fn under(&self, name: &str) -> impl Iterator<Item = (&PathBuf, &Guarded)> {
        self.guarded
            .iter()
            .filter(move |(_, guarded)| guarded.workload.handover.policy.name() == name)
    }

    /// How many workloads are under the policy of this name, and how many of these under it as it is now.
    pub fn count_under(&self, name: &str) -> (usize, usize) {
        let current = |(_, guarded): &(&PathBuf, &Guarded)| guarded.problem.is_none();
        (self.under(name).count(), self.under(name).filter(current).count())
    }

    /// Whether `peer` may ask for it.
    ///
    /// # Errors
    /// It may not; why.
    pub fn may(&self, peer: &Peer, ask: &Ask) -> Result<(), String> {
        let Some(cgroup) = &peer.cgroup else {
            return Err("whose request this is can not be told: its process has ended".to_owned());
        };
        if *ask == Ask::Own {
            return Ok(());
        }
        match self.is_in_agent(cgroup) {
            Ok(false) => {}
            Ok(true) => return Err("an agent may ask for `/v1/self` alone".to_owned()),
            Err(error) => return Err(format!("whose request this is can not be told: {error:#}")),
        }
        match peer.administers {
            true => Ok(()),
            false => Err(
                "this is for root, and for the group that `control.group` in the configuration names"
                    .to_owned(),
            ),
        }
    }

    /// Whether the cgroup at this path of the tree is an agent's, of whatever guard, or lies in one.
    fn is_in_agent(&self, cgroup: &str) -> anyhow::Result<bool> {
        // Out of the daemon's sight, where that is in a cgroup namespace of its own.
        anyhow::ensure!(!cgroup.split('/').any(|name| name == ".."), "its cgroup is {cgroup}");
        let path = self.tree.join(cgroup.trim_start_matches('/'));
        for above in path.ancestors().take_while(|above| above.starts_with(&self.tree)) {
            if self.guard.tables.agent_of_cgroup(fs::metadata(above)?.ino())?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What is in force, read back from the kernel.
    pub fn status(&self, policies: &Policies) -> view::Status {
        let (hooks, broken) = match self.guard.read_back() {
            Ok(hooks) => (hooks.into_iter().map(str::to_owned).collect(), None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        let weaker = self.guard.weaker_because.iter();
        view::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            tier: self.guard.tier.to_string(),
            weaker_because: weaker.map(|(tier, error)| format!("{tier}: {error}")).collect(),
            hooks,
            broken,
            agents: self.guarded.len(),
            refused: self.refused.len(),
            policies: policies.all().count(),
            problems: policies.problems().len(),
            events: self.stream.records(),
            strays: self.strays,
        }
    }

    /// Every workload that a policy is for.
    pub fn agents(&self) -> Vec<view::Agent> {
        let skips = self.guard.skips().unwrap_or_default();
        let guarded = self.guarded.iter().map(|(path, guarded)| self.agent(path, guarded, &skips));
        let refused = self.refused.iter().map(|(path, problem)| view::Agent {
            name: agent_name(&self.name(path)),
            cgroup: self.name(path),
            problem: Some(problem.clone()),
            ..view::Agent::default()
        });
        guarded.chain(refused).collect()
    }

    /// The workload that the cgroup at this path of the tree lies in.
    pub fn agent_of(&self, cgroup: &str) -> Option<view::Agent> {
        let path = self.tree.join(cgroup.trim_start_matches('/'));
        let skips = self.guard.skips().unwrap_or_default();
        let (path, guarded) =
            path.ancestors().find_map(|above| self.guarded.get_key_value(above))?;
        Some(self.agent(path, guarded, &skips))
    }

    fn agent(&self, path: &Path, guarded: &Guarded, skips: &Skips) -> view::Agent {
        let Guarded { workload, problem, .. } = guarded;
        let handover = &workload.handover;
        let counts = self.guard.counts(handover.agent_id, &handover.skipped, skips);
        let counts = counts.unwrap_or_default();
        let sum = |of: fn(&HookCounts) -> u64| counts.iter().map(|(_, counts)| of(counts)).sum();
        view::Agent {
            name: handover.agent.clone(),
            cgroup: self.name(path),
            id: Some(handover.agent_id),
            policy: Some(handover.policy.name().to_owned()),
            revision: Some(handover.policy.revision().to_owned()),
            mode: Some(handover.mode.name().to_owned()),
            degraded: handover.degraded.clone(),
            problem: problem.clone(),
            decided: sum(|counts| counts.decided),
            denied: sum(|counts| counts.denied),
            lost: sum(|counts| counts.lost),
        }
    }

    /// Every policy, and every file that is none.
    pub fn policies(&self, policies: &Policies) -> Vec<view::Policy> {
        let good = policies.all().map(|(name, loaded)| view::Policy {
            name: name.to_owned(),
            file: loaded.file.display().to_string(),
            revision: Some(loaded.policy.revision.clone()),
            mode: Some(loaded.policy.mode.name().to_owned()),
            agents: self.count_under(name).0,
            problem: policies.problems().get(&loaded.file).cloned(),
        });
        let is_known = |file: &Path| policies.all().any(|(_, loaded)| loaded.file == file);
        let bad = policies.problems().iter().filter(|(file, _)| !is_known(file));
        let bad = bad.map(|(file, problem)| view::Policy {
            file: file.display().to_string(),
            problem: Some(problem.clone()),
            ..view::Policy::default()
        });
        good.chain(bad).collect()
    }
}

/// Passes on what the workload's proxy tells.
fn forward(lookups: &mpsc::Sender<(u32, Told)>, workload: &mut Workload<Stream>) {
    let Some(mut told) = workload.take_lookups() else { return };
    let (agent, sender) = (workload.handover.agent_id, lookups.clone());
    spawn_local(async move {
        while let Some(told) = told.recv().await {
            if sender.send((agent, told)).await.is_err() {
                return;
            }
        }
    });
}

/// How a workload is called: its container, its unit, or the last part of its cgroup's path.
fn agent_name(cgroup: &str) -> String {
    let identity = Identity::of(cgroup);
    let last = cgroup.rsplit('/').next().unwrap_or(cgroup);
    let container = identity.container.and_then(|container| container.id.get(..SHORT_ID));
    let name = container.or(identity.unit).unwrap_or(last);
    SafeText::new(name.as_bytes()).to_string()
}

/// Digits of a container's id that its tools show.
const SHORT_ID: usize = 12;

/// Where the last good policies are kept, for a daemon that finds their files changed or gone.
const KEPT: &str = "policies";

fn kept_path(name: &str) -> PathBuf {
    Path::new(state_dir::PATH).join(KEPT).join(format!("{name}.yaml"))
}

/// Keeps a copy of the policy in `file`.
fn keep(name: &str, file: &Path) -> io::Result<()> {
    let path = kept_path(name);
    let directory = path.parent().unwrap_or(Path::new(state_dir::PATH));
    fs::create_dir_all(directory)?;
    let half = directory.join(format!(".{name}"));
    fs::copy(file, &half)?;
    fs::rename(half, path)
}

/// The copy of the policy that was in force last.
fn kept(name: &str) -> Option<Loaded> {
    let file = kept_path(name);
    Some(Loaded { policy: Arc::new(Policy::load(&file).ok()?), file })
}
