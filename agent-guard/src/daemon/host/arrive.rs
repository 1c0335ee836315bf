//! Putting the cgroups that come under the policies that are for them.

use std::{path::Path, sync::Arc};

use anyhow::Context as _;
use aya::programs::links::FdLink;

use super::{Guarded, Host, Known, forward, shown};
use crate::{
    cgroup::{self, Cgroup},
    daemon::{
        frozen::Frozen,
        policies::{Choice, Loaded, Policies},
        processes,
        stream::Stream,
    },
    event::Notice,
    handover::{Held, Keeper},
    identity::{Container, Identity},
    workload::{Installed, Workload},
};

/// What stands against putting a cgroup under a policy of its own.
enum Conflict {
    None,
    /// It is part of a workload under that policy.
    Covered,
    Problem(String),
}

impl Host {
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
    pub async fn arrive(&mut self, path: &Path, held: Option<Frozen>, policies: &Policies) {
        if let Some(held) = held.or_else(|| self.frozen.remove(path)) {
            self.frozen.insert(path.to_owned(), held);
        }
        match self.settle(path, policies).await {
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
    async fn settle(&mut self, path: &Path, policies: &Policies) -> Result<(), String> {
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
        let identity = Identity::of(&name);
        if policies.choose(&identity) == Choice::None {
            return Ok(());
        }
        let Known { container, why_not } = self.find_out(&identity).await;
        let chosen = match policies.choose(&identity.with(container.as_ref())) {
            Choice::None => return Ok(()),
            // It is part of that one, whatever it is.
            Choice::Unknown(_) if self.outer(path).is_some() => return Ok(()),
            Choice::Unknown(names) => Err(format!(
                "nothing is allowed, for it can not be told whether it is what the selector of {} asks for: {why_not}",
                names.join(", ")
            )),
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
            Ok(loaded) => self.put_under(path, container.clone(), loaded).await,
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
        match self.put_under(path, container, &Loaded::stand_in()).await {
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
        container: Option<Container>,
        loaded: &Loaded,
    ) -> anyhow::Result<()> {
        let cgroup = Cgroup::existing(path, &self.mounts)?;
        let mut held =
            Held::create(&format!("daemon-{}", cgroup.id())).context("making the handover")?;
        match self.guard_it(&cgroup, container, loaded, &mut held).await {
            Ok((workload, links)) => {
                let guarded = Guarded { workload, held, problem: None, stands_in: false, links };
                self.keep(path, guarded);
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
        container: Option<Container>,
        loaded: &Loaded,
        held: &mut Held,
    ) -> anyhow::Result<(Workload<Stream>, Vec<FdLink>)> {
        let installed = self.install(loaded)?;
        let put = self.put_in_force(cgroup, container, loaded, &installed, held).await;
        self.give_back(installed);
        put
    }

    async fn put_in_force(
        &mut self,
        cgroup: &Cgroup,
        container: Option<Container>,
        loaded: &Loaded,
        installed: &Arc<Installed>,
        held: &mut Held,
    ) -> anyhow::Result<(Workload<Stream>, Vec<FdLink>)> {
        let terms = self.terms(&self.name(cgroup.path()), container, loaded);
        let links = self.guard.take_in(cgroup, &self.mounts)?;
        let (mounts, stream) = (Arc::clone(&self.mount_names), self.stream.clone());
        let (guard, installed, ring) = (&mut self.guard, Arc::clone(installed), Some(self.ring));
        let prepared =
            Workload::prepare(terms, guard, cgroup, installed, mounts, ring, stream).await;
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
}
