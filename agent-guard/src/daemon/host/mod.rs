//! The workloads of this host: which are there, which policy each is to be under, and putting them there.

mod adopt;
mod arrive;
mod reconcile;
mod shared;
mod totals;
mod views;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use agent_guard_common::table::NO_RING;
use anyhow::Context as _;
use aya::programs::links::FdLink;
use clap::ValueEnum as _;
use tokio::{sync::mpsc, task::spawn_local};

use self::{shared::Shared, totals::Totals};
use super::{config::Config, frozen::Frozen, policies::Loaded, runtimes, stream::Stream};
use crate::{
    cgroup::{self, Cgroup},
    dns::Told,
    event::{SafeText, WireEvent},
    guard::Guard,
    handover::Held,
    identity::{Container, Identity},
    kernel::bindings::Bindings,
    lack::Lack,
    mounts::{self, Mount},
    policy::Policy,
    workload::{Installed, MountNames, Terms, Workload, compile},
};

/// Everything that is under guard.
pub struct Host {
    config: Config,
    guard: Guard,
    bindings: Bindings,
    /// Where the canary goes.
    home: Cgroup,
    mounts: Vec<Mount>,
    mount_names: Arc<MountNames>,
    /// Where the cgroup tree is mounted.
    tree: PathBuf,
    stream: Stream,
    lookups: mpsc::Sender<(u32, Told)>,
    /// The key of the ring buffer that all events go to, once [`Self::adopt`] has one.
    ring: u32,
    shared: Shared,
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
    totals: Totals,
    started: Instant,
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

/// What is known of the container that a workload lies in, and why no more is.
struct Known {
    container: Option<Container>,
    why_not: String,
}

impl Known {
    fn of(container: Container) -> Self {
        let why_not = format!("{} does not say it of its containers", container.runtime);
        Self { container: Some(container), why_not }
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
        let mut guard = match Guard::establish(config.tier.into(), &home, &mounts) {
            Ok(guard) => guard,
            Err(error) => {
                home.remove()?;
                return Err(error.into());
            }
        };
        let bindings = Bindings::open(guard.pins(), &tree)?;
        guard.vouch();
        Ok(Self {
            config,
            guard,
            bindings,
            home,
            mount_names: MountNames::new(&mounts),
            mounts,
            tree,
            stream,
            lookups,
            ring: NO_RING,
            shared: Shared::default(),
            guarded: BTreeMap::new(),
            refused: BTreeMap::new(),
            left_alone: BTreeMap::new(),
            stopped: BTreeSet::new(),
            frozen: BTreeMap::new(),
            by_agent: HashMap::new(),
            strays: 0,
            totals: Totals::default(),
            started: Instant::now(),
        })
    }

    /// What the workload in the cgroup of this name is put under.
    fn terms(&self, cgroup: &str, container: Option<Container>, loaded: &Loaded) -> Terms {
        let lacks = self.config.allow_degraded.iter().map(|lack| lack.0);
        Terms {
            agent: agent_name(cgroup, container.as_ref()),
            container,
            policy: Arc::clone(&loaded.policy),
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
        let terms = self.terms("", None, loaded);
        terms.lacks(self.guard.tier).map_err(anyhow::Error::msg)?;
        compile::as_loaded(&terms.policy, &self.mounts).map(drop)
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
        self.count(path);
        let Some(guarded) = self.guarded.remove(path) else { return };
        let Guarded { mut workload, held, .. } = guarded;
        let (agent, cgroup) = (workload.handover.agent_id, workload.handover.cgroup_id);
        self.by_agent.remove(&agent);
        self.totals.leave(agent);
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
        (self.mount_names, self.mounts) = (MountNames::new(&mounts), mounts);
        self.shared.doubt();
        let mut under: BTreeMap<u32, Vec<PathBuf>> = BTreeMap::new();
        for (path, guarded) in &self.guarded {
            under.entry(guarded.workload.row.policy).or_default().push(path.clone());
        }
        let mut moves = Vec::new();
        for paths in under.into_values() {
            super::alive();
            match paths.first().map(|first| self.remount(first)) {
                Some(Ok(installed)) => {
                    moves.extend(paths.into_iter().map(|path| (path, Arc::clone(&installed))));
                }
                Some(Err(error)) => paths.iter().for_each(|path| tell_stale(path, &error)),
                None => {}
            }
        }
        self.move_to(moves);
    }

    /// The policy of the workload at `path`, installed for the mounts as they are now.
    fn remount(&mut self, path: &Path) -> anyhow::Result<Arc<Installed>> {
        let workload = &self.guarded.get(path).context("it has left")?.workload;
        let policy = Arc::clone(&workload.terms.policy);
        let mut compiled = compile::for_mounts(&policy, &self.mounts)?;
        if let Some(installed) = workload.installed() {
            installed.pin_in(&mut compiled);
        }
        let installed = Installed::write(&mut self.guard, compiled, self.home.id())?;
        self.shared.remounted(&policy, &installed);
        Ok(installed)
    }

    /// Puts workloads under their policies for other mounts, all at once.
    fn move_to(&mut self, moves: Vec<(PathBuf, Arc<Installed>)>) {
        let row = |(path, installed): &(PathBuf, Arc<Installed>)| {
            let workload = &self.guarded.get(path)?.workload;
            Some((workload.handover.agent_id, workload.row_under(installed)))
        };
        let rows: Vec<_> = moves.iter().filter_map(row).collect();
        match self.guard.tables.set_agents(&rows) {
            Ok(set) => {
                for ((path, installed), set) in moves.iter().zip(set) {
                    match (set, self.guarded.get_mut(path)) {
                        (Ok(()), Some(Guarded { workload, .. })) => {
                            let names = Arc::clone(&self.mount_names);
                            workload.remounted(Arc::clone(installed), names);
                        }
                        (Err(error), _) => tell_stale(path, &error.into()),
                        (Ok(()), None) => {}
                    }
                }
            }
            Err(error) => {
                let error = error.into();
                moves.iter().for_each(|(path, _)| tell_stale(path, &error));
            }
        }
        moves.into_iter().for_each(|(_, installed)| self.give_back(installed));
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
        // One whose cgroup has just gone has still to be told of.
        let own: HashSet<u64> =
            self.guarded.values().map(|guarded| guarded.workload.handover.cgroup_id).collect();
        if let Err(error) = self.guard.tidy(&self.mounts, |id| own.contains(&id)) {
            tracing::error!("what other guards left can not be taken out: {error}");
        }
    }

    /// Where the cgroup tree is mounted.
    pub fn tree(&self) -> &Path {
        &self.tree
    }

    /// Which cgroups are agents', of whatever guard.
    ///
    /// # Errors
    /// The map is not there.
    pub fn bindings(&self) -> anyhow::Result<Bindings> {
        Ok(Bindings::open(self.guard.pins(), &self.tree)?)
    }

    /// Sends the canary.
    ///
    /// # Errors
    /// It came through.
    pub fn prove(&mut self) -> anyhow::Result<()> {
        Ok(self.guard.prove_again(&self.home, &self.mounts)?)
    }

    /// Leaves everybody confined as they are, to the next daemon.
    ///
    /// # Errors
    /// The daemon's own cgroup could not be taken away.
    pub fn end(self) -> anyhow::Result<()> {
        self.home.remove()?;
        Ok(self.guard.end(None)?)
    }

    /// Finds out what the container is that a workload lies in, if it does.
    async fn find_out(&self, identity: &Identity<'_>) -> Known {
        match runtimes::look_up(&self.config.containers, identity).await {
            Ok(None) => Known { container: None, why_not: "it is in no container".to_owned() },
            Ok(Some(container)) => Known::of(container),
            Err(why_not) => Known { container: None, why_not },
        }
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
}

fn tell_stale(path: &Path, error: &anyhow::Error) {
    tracing::error!(
        "the mounts changed, and the policy of {} could not be adapted; files on new mounts stay denied: {error:#}",
        path.display()
    );
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
fn agent_name(cgroup: &str, container: Option<&Container>) -> String {
    if let Some(label) = container.and_then(Container::label) {
        return shown(&label);
    }
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
