//! The workloads of this host: which are there, which policy each is to be under, and putting them there.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
};

use agent_guard_common::limits::RING_BYTES;
use anyhow::Context as _;
use aya::{
    maps::{MapData, RingBuf},
    programs::links::FdLink,
};
use clap::ValueEnum as _;
use tokio::{sync::mpsc, task::spawn_local};

use super::{
    config::Config,
    frozen::Frozen,
    kept,
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
        bindings::Bindings,
        counters::{HookCounts, Skips},
        tables,
    },
    lack::Lack,
    mounts::{self, Mount},
    policy::Policy,
    workload::{Terms, Workload, compile},
};

/// Everything that is under guard.
pub struct Host {
    config: Config,
    guard: Guard,
    bindings: Bindings,
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
    /// Cgroups that another daemon has left and that could not be taken over, and why.
    left_alone: BTreeMap<PathBuf, String>,
    /// Cgroups in which nobody runs on because nothing could be put in force.
    stopped: BTreeSet<PathBuf>,
    /// What was frozen here, for however long.
    frozen: BTreeMap<PathBuf, Frozen>,
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

impl Guarded {
    /// Whether it is under this policy, as it is.
    fn is_under(&self, loaded: &Loaded) -> bool {
        let in_force = &self.workload.handover.policy;
        *loaded.policy.name == *in_force.name() && loaded.policy.revision == in_force.revision()
    }
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
        let bindings = Bindings::open(guard.pins(), &tree)?;
        Ok(Self {
            config,
            guard,
            bindings,
            home,
            mounts,
            tree,
            stream,
            lookups,
            guarded: BTreeMap::new(),
            refused: BTreeMap::new(),
            left_alone: BTreeMap::new(),
            stopped: BTreeSet::new(),
            frozen: BTreeMap::new(),
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
            super::alive();
            let path = held.read().ok().flatten().map(|handover| handover.cgroup);
            let id = held.id.clone();
            if let Err(error) = self.adopt_one(held, policies, &mut ring).await {
                let problem = format!(
                    "it stays confined as a daemon left it, and nobody reads its events: {error:#}; end it, and start it again"
                );
                tracing::error!("{id}: {problem}");
                if let Some(path) = path {
                    self.left_alone.insert(path, problem);
                }
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
        if cgroup::is_gone(&handover.cgroup, handover.cgroup_id) {
            if handover.programs == self.guard.programs() {
                self.guard.let_go(handover.cgroup_id, agent)?;
            }
            return held.finish().context("removing the handover");
        }
        anyhow::ensure!(
            handover.programs == self.guard.programs(),
            "it is under the programs {}, and the daemon's are {}",
            handover.programs,
            self.guard.programs()
        );
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
            None => kept::get(name),
        };
        let loaded = loaded.context("neither its policy nor the copy of it is there")?;
        let terms = self.terms(handover.agent.clone(), &loaded);
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

    fn terms(&self, agent: String, loaded: &Loaded) -> Terms {
        let lacks = self.config.allow_degraded.iter().map(|lack| lack.0);
        Terms {
            agent,
            policy: loaded.policy.as_ref().clone(),
            policy_file: loaded.file.display().to_string(),
            // What allows nothing is the best that there is on every tier.
            allow_degraded: match *loaded.policy.name == *Policy::NOTHING {
                true => Lack::value_variants().to_vec(),
                false => lacks.collect(),
            },
            tell_allowed: self.stream.takes_all(),
            dns_upstreams: self.config.dns.upstreams.clone(),
            dns_internal: self.config.dns.internal.clone(),
        }
    }

    /// Fails where `policy` could not be put in force for anybody here.
    ///
    /// # Errors
    /// Why.
    pub fn admit(&self, loaded: &Loaded) -> anyhow::Result<()> {
        let terms = self.terms(String::new(), loaded);
        terms.lacks(self.guard.tier).map_err(anyhow::Error::msg)?;
        compile::as_loaded(&terms.policy, &self.mounts).map(drop)
    }

    /// Lets who is in a new cgroup wait, if a policy is for it.
    pub fn hold(&self, path: &Path, policies: &Policies) -> Option<Frozen> {
        let name = self.name(path);
        let is_new = !self.guarded.contains_key(path) && !path.starts_with(self.home.path());
        if !is_new || policies.choose(&Identity::of(&name)) == Choice::None {
            return None;
        }
        if !matches!(self.conflict(path, None), Conflict::None) {
            return None;
        }
        Frozen::hold(path).unwrap_or_else(|error| {
            tracing::debug!("{} can not wait: {error:#}", path.display());
            None
        })
    }

    /// Puts the cgroup at `path` under the policy that is for it, if one is, and lets go on who was `held` for that.
    /// Where it can not be, nothing is allowed to who is in it; and where not even that can be, nobody in it runs on.
    pub async fn arrive(
        &mut self,
        path: &Path,
        held: Option<Frozen>,
        policies: &Policies,
        ring: &RingBuf<MapData>,
    ) {
        if let Some(held) = held.or_else(|| self.frozen.remove(path)) {
            self.frozen.insert(path.to_owned(), held);
        }
        match self.settle(path, policies, ring).await {
            Ok(()) => {
                self.refused.remove(path);
            }
            Err(problem) => self.refuse(path, problem),
        }
        let stays = self.refused.contains_key(path) && self.stopped.contains(path);
        if !stays && let Some(Err(error)) = self.frozen.remove(path).map(Frozen::release) {
            tracing::error!("{} can not be thawed: {error:#}", path.display());
        }
    }

    /// As [`Self::arrive`], without what was held for it. What comes back is why it is not under guard.
    async fn settle(
        &mut self,
        path: &Path,
        policies: &Policies,
        ring: &RingBuf<MapData>,
    ) -> Result<(), String> {
        self.stopped.remove(path);
        if path.starts_with(self.home.path()) {
            return Ok(());
        }
        if let Some(guarded) = self.guarded.get(path) {
            if !cgroup::is_gone(path, guarded.workload.handover.cgroup_id) {
                return Ok(());
            }
            // Another one has its name.
            self.leave(path);
        }
        let name = self.name(path);
        let chosen = match policies.choose(&Identity::of(&name)) {
            Choice::None => return Ok(()),
            Choice::Several(names) => Err(format!(
                "the policies {} are all for it, so nothing is allowed; let one selector cover it",
                names.join(", ")
            )),
            Choice::One(policy) => policies.get(policy).ok_or_else(|| policy.to_owned()),
        };
        match self.conflict(path, chosen.as_ref().ok().copied()) {
            Conflict::None => {}
            Conflict::Covered => return Ok(()),
            Conflict::Problem(problem) => return Err(problem),
        }
        let put = match chosen {
            Ok(loaded) => self.put_under(path, &name, loaded, ring).await,
            Err(problem) => Err(anyhow::Error::msg(problem)),
        };
        let Err(error) = put else { return Ok(()) };
        if !path.exists() {
            return Ok(());
        }
        let problem = format!("{error:#}");
        tracing::error!(
            "{} is not under its policy, and nothing is allowed to it: {problem}",
            shown(&name)
        );
        match self.put_under(path, &name, &Loaded::stand_in(), ring).await {
            Ok(()) => {
                if let Some(guarded) = self.guarded.get_mut(path) {
                    (guarded.stands_in, guarded.problem) = (true, Some(problem));
                }
                Ok(())
            }
            Err(_) if !path.exists() => Ok(()),
            Err(error) => {
                if let Ok(Some(frozen)) = Frozen::hold(path) {
                    self.frozen.insert(path.to_owned(), frozen);
                }
                self.stopped.insert(path.to_owned());
                let is_frozen = cgroup::is_frozen(path).unwrap_or(false);
                let what = if is_frozen { "it is frozen" } else { "it runs unguarded" };
                Err(format!(
                    "{what}, for not even nothing could be allowed to it: {error:#}; {problem}"
                ))
            }
        }
    }

    /// Lets go on what a daemon has left frozen that died, but for what is not under guard now.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn thaw_left(&mut self) -> anyhow::Result<()> {
        for left in Frozen::left().context("looking for cgroups that wait")? {
            match self.stopped.contains(left.cgroup()) {
                true => drop(self.frozen.insert(left.cgroup().to_owned(), left)),
                false => left.release().context("letting a cgroup go on that was left frozen")?,
            }
        }
        Ok(())
    }

    /// Tries again what could not be put under its policy.
    pub async fn retry(&mut self, policies: &Policies, ring: &RingBuf<MapData>) {
        for path in self.refused.keys().cloned().collect::<Vec<_>>() {
            match path.exists() {
                true => self.arrive(&path, None, policies, ring).await,
                false => self.leave(&path),
            }
        }
        let standing_in = self.guarded.iter().filter(|(_, guarded)| guarded.stands_in);
        for path in standing_in.map(|(path, _)| path.clone()).collect::<Vec<_>>() {
            self.review(&path, policies).await;
        }
    }

    /// How many workloads are not under their policy.
    pub fn troubled(&self) -> usize {
        self.refused.len() + self.guarded.values().filter(|guarded| guarded.stands_in).count()
    }

    /// Puts every workload under the policy that is for it now, and says for how many that failed.
    pub async fn reconcile(&mut self, policies: &Policies) -> usize {
        for (name, loaded) in policies.all() {
            if let Err(error) = kept::keep(loaded) {
                tracing::error!("no copy of the policy {name} could be kept: {error}");
            }
        }
        let mut failed = 0;
        for path in self.guarded.keys().cloned().collect::<Vec<_>>() {
            super::alive();
            failed += usize::from(!self.review(&path, policies).await);
        }
        failed
    }

    /// Puts a workload under the policy that is for it now. False where that failed.
    async fn review(&mut self, path: &Path, policies: &Policies) -> bool {
        let Some(mut guarded) = self.guarded.remove(path) else { return true };
        let name = self.name(path);
        let before = guarded.problem.take();
        let holding = guarded.workload.handover.policy.name().to_owned();
        let holds = match guarded.stands_in {
            true => "nothing is allowed".to_owned(),
            false => format!("policy {holding} stays in force as it was"),
        };
        let mut is_done = true;
        guarded.problem = match policies.choose(&Identity::of(&name)) {
            Choice::None => Some(format!("no policy is for it any more; {holds}")),
            Choice::Several(names) => Some(format!(
                "the policies {} are all for it; {holds}; let one selector cover it",
                names.join(", ")
            )),
            Choice::One(chosen) => match policies.get(chosen) {
                Some(loaded) if !guarded.is_under(loaded) => {
                    let renewed = self.renew(&mut guarded, loaded).await;
                    is_done = renewed.is_ok();
                    guarded.stands_in &= !is_done;
                    renewed.err().map(|error| {
                        format!("policy {chosen} could not be put in force, and {holds}: {error:#}")
                    })
                }
                _ => None,
            },
        };
        if let Some(problem) = &guarded.problem
            && guarded.problem != before
        {
            tracing::error!("{}: {problem}", shown(&name));
        }
        self.guarded.insert(path.to_owned(), guarded);
        is_done
    }

    async fn renew(&mut self, guarded: &mut Guarded, loaded: &Loaded) -> anyhow::Result<()> {
        let Guarded { workload, held, .. } = guarded;
        let terms = self.terms(workload.terms.agent.clone(), loaded);
        let compiled = compile::as_loaded(&terms.policy, &self.mounts)?;
        let renewed = workload.set_policy(terms, &mut self.guard, compiled).await;
        forward(&self.lookups, workload);
        held.write(&workload.handover).context("writing the handover")?;
        renewed
    }

    /// What stands against putting the cgroup at `path` under a policy of its own.
    fn conflict(&self, path: &Path, loaded: Option<&Loaded>) -> Conflict {
        if self.home.path().starts_with(path) {
            return Conflict::Problem(
                "the daemon itself is in it; select something below".to_owned(),
            );
        }
        if let Some(problem) = self.left_alone.get(path) {
            return Conflict::Problem(problem.clone());
        }
        if let Some(outer) = self.outer(path) {
            let holding = outer.workload.handover.policy.name();
            // Under the same policy it is part of that workload.
            if loaded.is_some_and(|loaded| *loaded.policy.name == *holding) {
                return Conflict::Covered;
            }
            return Conflict::Problem(format!(
                "it lies in a workload under policy {holding}, which holds for it, and no other does"
            ));
        }
        // Where that can not be told it is found out when it is put under a policy.
        if self.bindings.is_in_agent(&self.name(path)).unwrap_or(false) {
            return Conflict::Problem("another guard looks after it".to_owned());
        }
        match self.inner(path) {
            None => Conflict::None,
            Some(inner) => Conflict::Problem(format!(
                "{} in it is under guard by itself, and what is around that is not, until it ends",
                shown(&self.name(inner))
            )),
        }
    }

    fn refuse(&mut self, path: &Path, problem: String) {
        if self.refused.get(path) != Some(&problem) {
            tracing::error!("{} is not under guard: {problem}", shown(&self.name(path)));
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
        let cgroup = Cgroup::existing(path, &self.mounts)?;
        let mut held =
            Held::create(&format!("daemon-{}", cgroup.id())).context("making the handover")?;
        match self.guard_it(&cgroup, name, loaded, ring, &mut held).await {
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
        loaded: &Loaded,
        ring: &RingBuf<MapData>,
        held: &mut Held,
    ) -> anyhow::Result<(Workload<Stream>, Vec<FdLink>)> {
        let compiled = compile::as_loaded(&loaded.policy, &self.mounts)?;
        let terms = self.terms(agent_name(name), loaded);
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

    /// Whether a workload is known by this path whose cgroup is gone.
    pub fn has_left(&self, path: &Path) -> bool {
        let guarded = self.guarded.get(path);
        guarded.is_some_and(|guarded| cgroup::is_gone(path, guarded.workload.handover.cgroup_id))
    }

    /// Forgets a cgroup that is gone.
    pub fn leave(&mut self, path: &Path) {
        self.refused.remove(path);
        self.left_alone.remove(path);
        self.stopped.remove(path);
        if let Some(Err(error)) = self.frozen.remove(path).map(Frozen::release) {
            tracing::debug!("{}: {error:#}", path.display());
        }
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

    /// Compiles every policy anew, for mounts that have changed.
    pub fn follow_mounts(&mut self, mounts: Vec<Mount>) {
        self.mounts = mounts;
        for (path, guarded) in &mut self.guarded {
            super::alive();
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
        let gone = self.guarded.keys().filter(|path| self.has_left(path));
        for path in gone.cloned().collect::<Vec<_>>() {
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

    /// Which cgroups are agents', of whatever guard.
    ///
    /// # Errors
    /// The map is not there.
    pub fn bindings(&self) -> anyhow::Result<Bindings> {
        Ok(Bindings::open(self.guard.pins(), &self.tree)?)
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
            cgroup: shown(&self.name(path)),
            problem: Some(shown(problem)),
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
            cgroup: shown(&self.name(path)),
            id: Some(handover.agent_id),
            policy: Some(handover.policy.name().to_owned()),
            revision: Some(handover.policy.revision().to_owned()),
            mode: Some(handover.mode.name().to_owned()),
            degraded: handover.degraded.clone(),
            problem: problem.as_deref().map(shown),
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
    shown(name)
}

/// Text that whoever made a cgroup chose: printable, and on one line.
fn shown(text: &str) -> String {
    SafeText::new(text.as_bytes()).to_string()
}

/// Digits of a container's id that its tools show.
const SHORT_ID: usize = 12;
