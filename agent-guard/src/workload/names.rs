//! What the numbers in an agent's events stand for.

use std::{
    collections::HashMap,
    net::IpAddr,
    os::unix::ffi::OsStrExt,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::time::{ClockId, clock_gettime};

use crate::{
    dns::LeaseBook,
    event::{Context, Mount as NamedMount, Names, Rule},
    mounts::Mount,
    policy::compile::RuleInfo,
};

/// Names of one agent: its context, its rules, and the mounts that it sees.
pub struct AgentNames {
    policy: PolicyNames,
    /// What was in force before, of which events may still come, with its id.
    before: Option<(u32, PolicyNames)>,
    mounts: Arc<MountNames>,
    leases: Option<Arc<Mutex<LeaseBook>>>,
    boot_time_ns: u64,
}

/// Names under one policy.
struct PolicyNames {
    context: Arc<Context>,
    rules: Arc<[Arc<Rule>]>,
}

/// Where each file system is mounted, by `s_dev`, for all agents that are told of.
#[derive(Debug, Default)]
pub struct MountNames(HashMap<u32, Vec<NamedMount>>);

impl MountNames {
    /// Of a mount table.
    pub fn new(mounts: &[Mount]) -> Arc<Self> {
        let mut names: HashMap<u32, Vec<NamedMount>> = HashMap::new();
        for mount in mounts {
            let named = NamedMount {
                root: mount.root.as_os_str().as_bytes().to_vec(),
                point: mount.mount_point.as_os_str().as_bytes().to_vec(),
            };
            names.entry(mount.dev).or_default().push(named);
        }
        Arc::new(Self(names))
    }
}

impl AgentNames {
    /// Names for the events of an agent in `context` under these rules, by id. The ids depend on the
    /// policy file alone, so they outlive a change of mounts.
    pub fn new(context: Arc<Context>, rules: Arc<[Arc<Rule>]>, mounts: Arc<MountNames>) -> Self {
        Self {
            policy: PolicyNames { context, rules },
            before: None,
            mounts,
            leases: None,
            boot_time_ns: boot_time_ns(),
        }
    }

    /// Takes a changed mount table over.
    pub fn set_mounts(&mut self, mounts: Arc<MountNames>) {
        self.mounts = mounts;
    }

    /// Takes over what tells which host an address was leased for.
    pub fn set_leases(&mut self, leases: Arc<Mutex<LeaseBook>>) {
        self.leases = Some(leases);
    }

    /// The context of notices.
    pub fn own_context(&self) -> Arc<Context> {
        Arc::clone(&self.policy.context)
    }

    /// Takes over another policy, in place of the one that has the id `before`.
    pub fn set_policy(&mut self, context: Arc<Context>, rules: Arc<[Arc<Rule>]>, before: u32) {
        let policy = std::mem::replace(&mut self.policy, PolicyNames { context, rules });
        self.before = Some((before, policy));
    }

    fn policy(&self, id: u32) -> &PolicyNames {
        match &self.before {
            Some((before, policy)) if *before == id => policy,
            _ => &self.policy,
        }
    }
}

/// Compiled rules, as events call them.
pub fn rules(compiled: &[RuleInfo]) -> Arc<[Arc<Rule>]> {
    let rule = |rule: &RuleInfo| Rule {
        label: rule.label.clone(),
        line: u32::try_from(rule.line).ok().filter(|line| *line > 0),
        class: rule.class.clone(),
    };
    compiled.iter().map(|info| Arc::new(rule(info))).collect()
}

impl Names for AgentNames {
    fn context(&self, _agent: u32, policy: u32) -> Arc<Context> {
        Arc::clone(&self.policy(policy).context)
    }

    fn rule(&self, policy: u32, rule: u16) -> Option<Arc<Rule>> {
        self.policy(policy).rules.get(usize::from(rule)).map(Arc::clone)
    }

    fn host(&self, address: IpAddr, rule: u16) -> Option<Arc<str>> {
        let book = self.leases.as_ref()?;
        book.lock().unwrap_or_else(PoisonError::into_inner).host(address, rule)
    }

    fn mounts(&self, dev: u32) -> &[NamedMount] {
        self.mounts.0.get(&dev).map_or(&[], Vec::as_slice)
    }

    fn boot_time_ns(&self) -> u64 {
        self.boot_time_ns
    }
}

/// Nanoseconds from the Unix epoch to the zero of the boot clock, as of now.
fn boot_time_ns() -> u64 {
    let nanos = |clock| {
        let time = clock_gettime(clock);
        i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
    };
    u64::try_from(nanos(ClockId::Realtime) - nanos(ClockId::Boottime)).unwrap_or(0)
}
