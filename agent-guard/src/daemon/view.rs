//! What the daemon shows of itself, as JSON: version 1 of the control protocol.

use serde::{Deserialize, Serialize};

use crate::identity::Container;
pub use crate::kernel::fill::Fill;

/// The daemon and what is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Of the daemon.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// The tier in force.
    pub tier: String,
    /// Stronger tiers that are not to be had, each with its reason.
    pub weaker_because: Vec<String>,
    /// The hooks whose programs were found attached just now.
    pub hooks: Vec<String>,
    /// What is wrong with what is attached, if anything is.
    pub broken: Option<String>,
    /// Workloads under guard.
    pub agents: usize,
    /// Workloads that a policy is for and that are not under it.
    pub refused: usize,
    /// Policies that are good.
    pub policies: usize,
    /// Files of the policy directory that are no policy in force.
    pub problems: usize,
    /// Events since the daemon started.
    pub events: u64,
    /// Events of agents that the daemon does not know, or that made no sense.
    pub strays: u64,
    /// Where events go.
    #[serde(default)]
    pub sinks: Vec<Sink>,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Whether the canary was stopped when it was sent last.
    pub canary_stopped: bool,
    /// What each hook came to, over all workloads, those that are gone included. Hooks that came to nothing are left
    /// out.
    pub counts: Vec<HookCounts>,
    /// Bytes of events that wait to be read.
    pub buffer: Fill,
    /// How full the maps in the kernel are, counted within the last quarter of a minute.
    pub maps: Vec<Fill>,
}

/// A place that events go to. What is counted is counted since the daemon started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sink {
    /// Its name.
    pub name: String,
    /// `file`, `syslog` and so on.
    pub kind: String,
    /// Why nothing is delivered at the moment.
    pub problem: Option<String>,
    /// Lines that the far end has.
    pub delivered: u64,
    /// Deliveries that failed, and were tried again.
    pub retried: u64,
    /// Lines that the far end will never have.
    pub lost: u64,
    /// Bytes that wait in memory.
    pub queue_bytes: u64,
    /// Bytes for which there is room in memory.
    pub queue_room: u64,
    /// Lines that wait on disk.
    pub spooled: u64,
    /// Bytes that wait on disk.
    pub spool_bytes: u64,
    /// Bytes for which there is room on disk.
    pub spool_room: u64,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Actions that were decided.
    pub decided: u64,
    /// Of these, denied.
    pub denied: u64,
    /// Events that were lost.
    pub lost: u64,
    /// Decisions that a failed helper or a bound turned into a denial.
    pub failed: u64,
}

/// What a hook came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookCounts {
    /// Its program.
    pub hook: String,
    /// What it counted.
    #[serde(flatten)]
    pub counts: Counts,
    /// Calls, by whomever, that the kernel did not ask the program about.
    pub skipped: u64,
}

/// A workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// Its name.
    pub name: String,
    /// The path of its cgroup.
    pub cgroup: String,
    /// The container that it lies in, as far as that is known.
    #[serde(default)]
    pub container: Option<Container>,
    /// Its id in the kernel, where it is under guard.
    pub id: Option<u32>,
    /// The policy, where there is one.
    pub policy: Option<String>,
    /// SHA-256 of the policy's file.
    pub revision: Option<String>,
    /// `enforce` or `audit`.
    pub mode: Option<String>,
    /// What is not enforced.
    pub degraded: Vec<String>,
    /// Why it is not under guard, or not under the policy of today.
    pub problem: Option<String>,
    /// What was decided and denied so far.
    pub decided: u64,
    /// Of these, denied.
    pub denied: u64,
    /// Events that were lost.
    pub lost: u64,
    /// Decisions that a failed helper or a bound turned into a denial.
    pub failed: u64,
}

/// A policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Its name; empty where the file is none.
    pub name: String,
    /// Its file.
    pub file: String,
    /// SHA-256 of the file.
    pub revision: Option<String>,
    /// `enforce` or `audit`.
    pub mode: Option<String>,
    /// Workloads under it.
    pub agents: usize,
    /// What is wrong with the file as it is now.
    pub problem: Option<String>,
}

/// What has come of loading a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// Its name.
    pub name: String,
    /// SHA-256 of the file.
    pub revision: String,
    /// The file that it is kept in.
    pub file: String,
    /// Workloads that are under it now, read back from the kernel.
    pub agents: usize,
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What, why, and how to mend it.
    pub error: String,
}
