//! What is shown of an event: owned, typed, and free of raw bytes.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use agent_guard_common::{
    decide::Reason,
    event::{Action, Operation, Outcome},
    hook::Hook,
    table::Effect,
};
use serde::Serialize;

use super::SafeText;
use crate::{identity::Container, policy::Mode, tier::Tier};

/// One event: a decision about an agent, or something that happened to the guard itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Nanoseconds since the Unix epoch.
    pub time_ns: u64,
    /// Under what it happened.
    pub context: Arc<Context>,
    /// What happened.
    pub body: Body,
}

impl Record {
    /// Whether the guard tells of itself.
    #[must_use]
    pub fn is_notice(&self) -> bool {
        matches!(self.body, Body::Notice(_))
    }
}

/// What a [`Record`] tells of.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// An agent's action was decided.
    Decided {
        /// Who asked.
        process: Process,
        /// What was asked for.
        action: Action,
        /// Of what.
        object: Object,
        /// What came of it.
        decision: Decision,
        /// Where in the kernel it was decided.
        hook: Hook,
    },
    /// An agent asked for a name.
    Lookup(Lookup),
    /// The guard tells of itself.
    Notice(Notice),
}

/// A name query, as the DNS proxy answered it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// The name that was asked for; empty where it was not read.
    pub name: SafeText,
    /// The type of record, such as `AAAA`; empty where it was not read.
    pub kind: String,
    /// Where it came from.
    pub client: SocketAddr,
    /// IP protocol number of the transport (`IPPROTO_*`).
    pub protocol: u16,
    /// The code that it was answered with (`RCODE`).
    pub code: u16,
    /// What was told.
    pub answers: Vec<LookupAnswer>,
    /// Addresses that were not told, because they are internal and no rule lists them.
    pub withheld: Vec<IpAddr>,
    /// What became of it.
    pub outcome: Outcome,
    /// Why.
    pub reason: LookupReason,
    /// The rule that decided, where one did.
    pub rule: Option<Arc<Rule>>,
}

/// A record of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupAnswer {
    /// Its type, such as `CNAME`.
    pub kind: String,
    /// Its data: an address, the name that an alias stands for.
    pub data: SafeText,
    /// Seconds for which it holds.
    pub ttl: u32,
}

/// Why a query was answered as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupReason {
    /// A rule speaks of the name.
    Rule,
    /// No rule does.
    Default,
    /// Something else than addresses was asked for.
    QueryType,
    /// A label under a wildcard is so long that it may carry data.
    LongLabel,
    /// Too many queries, or too many names under one wildcard.
    Rate,
    /// All addresses are internal, and no rule lists them.
    Internal,
    /// The addresses could not be given to the kernel.
    Lease,
    /// No name server answered, or none with a result.
    Unanswered,
    /// It is no query that is answered.
    Malformed,
    /// Too many queries are under way.
    Busy,
}

impl LookupReason {
    /// Every one.
    pub const ALL: [Self; 10] = [
        Self::Rule,
        Self::Default,
        Self::QueryType,
        Self::LongLabel,
        Self::Rate,
        Self::Internal,
        Self::Lease,
        Self::Unanswered,
        Self::Malformed,
        Self::Busy,
    ];
}

/// What all events of one agent under one policy share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// How denials are carried out.
    pub tier: Tier,
    /// Whether denials are carried out.
    pub mode: Mode,
    /// What the policy asks for and this tier lacks, by `--allow-degraded`. Empty: nothing.
    pub degraded: Vec<String>,
    /// Whose actions these are.
    pub agent: AgentIdentity,
    /// What they are judged by; `None` where the policy is not known any more.
    pub policy: Option<PolicyIdentity>,
}

/// An agent: a cgroup and everything below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AgentIdentity {
    /// Its name, as given on the command line.
    pub name: String,
    /// Its id in the kernel's tables.
    pub id: u32,
    /// The id of its cgroup.
    pub cgroup_id: u64,
    /// The directory of its cgroup.
    pub cgroup: SafeText,
    /// The container that it is in, where that is known. It stands in a place of its own.
    #[serde(skip)]
    pub container: Option<ContainerIdentity>,
}

/// A container, as whoever started it called it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerIdentity {
    /// Who runs it.
    pub runtime: String,
    /// Its id.
    pub id: SafeText,
    /// Its name.
    pub name: Option<SafeText>,
    /// Its image.
    pub image: Option<SafeText>,
    /// The pod that it is part of.
    pub pod: Option<PodIdentity>,
}

/// A pod of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PodIdentity {
    /// Its uid, where that is known; it stands in a place of its own.
    #[serde(skip)]
    pub uid: Option<SafeText>,
    /// Its namespace.
    pub namespace: SafeText,
    /// Its name.
    pub name: SafeText,
    /// Its service account, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account: Option<SafeText>,
}

impl From<&Container> for ContainerIdentity {
    fn from(container: &Container) -> Self {
        let safe = |text: &String| SafeText::new(text.as_bytes());
        Self {
            runtime: container.runtime.to_string(),
            id: safe(&container.id),
            name: container.name.as_ref().map(safe),
            image: container.image.as_ref().map(safe),
            pod: container.pod.as_ref().map(|pod| PodIdentity {
                uid: pod.uid.as_ref().map(safe),
                namespace: safe(&pod.namespace),
                name: safe(&pod.name),
                service_account: pod.service_account.as_ref().map(safe),
            }),
        }
    }
}

/// A policy and the version of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyIdentity {
    /// `metadata.name`.
    pub name: String,
    /// Hash of the file, in hexadecimal.
    pub revision: String,
    /// The file, as given on the command line.
    pub file: SafeText,
}

/// The process that asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Process (thread group) id.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// Process id of the parent.
    pub ppid: u32,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Id of the cgroup it is in: the agent's own or one below it.
    pub cgroup_id: u64,
    /// Name of the thread. Chosen by the process: for showing only.
    pub comm: SafeText,
    /// Its program, where known.
    pub exe: Option<SafeText>,
}

/// What an action is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A file, directory, device or program.
    File(File),
    /// The end of a connection that was judged: the far one, or where the agent is reached.
    Endpoint(Endpoint),
    /// A UNIX-domain socket: its path, or `@` and its abstract name; empty where it has neither.
    LocalSocket(File),
    /// A kernel interface as a whole, by its name.
    Interface(&'static str),
    /// The system, or the process with this id where it is not 0.
    Operation(Operation, u32),
}

/// A file, by its place and its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its path from the root that `scope` names; empty where no path is known.
    pub path: SafeText,
    /// What the path starts from.
    pub scope: PathScope,
    /// `s_dev` of its file system (major << 20 | minor), or 0.
    pub dev: u32,
    /// Inode number, or 0.
    pub inode: u64,
}

/// What a path starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathScope {
    /// The root directory, as the guard sees it.
    Absolute,
    /// The root of its file system, which is mounted nowhere that the guard knows of.
    Filesystem,
    /// Somewhere above: the walk to the root was given up.
    Tail,
}

/// An end of a connection, as it was judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The address, where its family is IPv4 or IPv6. An IPv4-mapped one is IPv4.
    pub addr: Option<IpAddr>,
    /// Port; 0 where there is none.
    pub port: u16,
    /// IP protocol number (`IPPROTO_*`).
    pub protocol: u16,
    /// Address family (`AF_*`).
    pub family: u16,
}

/// How an action was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What became of it.
    pub outcome: Outcome,
    /// Why.
    pub reason: Reason,
    /// The rule that decided, where one did.
    pub rule: Option<Arc<Rule>>,
    /// The host name that led to the address, where the rule names hosts.
    pub host: Option<Arc<str>>,
}

impl Decision {
    /// What was decided; carried out unless the outcome is [`Outcome::Observed`].
    #[must_use]
    pub fn effect(&self) -> Effect {
        match self.outcome {
            Outcome::Allowed => Effect::Allow,
            Outcome::Denied | Outcome::Killed | Outcome::Observed => Effect::Deny,
        }
    }
}

/// A rule, as events call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name, or its place, such as `files[2]`.
    pub label: String,
    /// 1-based line in the policy file, where known.
    pub line: Option<u32>,
    /// The class of data it protects.
    pub class: Option<String>,
}

/// What the guard tells of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// An agent is under guard from here on.
    Started,
    /// The agent was found running, and nothing had judged it before.
    Uncovered {
        /// How long its oldest process had run, in milliseconds.
        ms: u64,
    },
    /// The agent has ended, or is not guarded any more.
    Stopped {
        /// What every attached hook has counted for all of the run.
        totals: Vec<HookTotals>,
    },
    /// The guard that started this agent is gone, and another one looks after it.
    Adopted,
    /// A policy is in the kernel.
    PolicyLoaded {
        /// The revision that it takes the place of.
        replaces: Option<String>,
    },
    /// Part of the policy is not enforced; [`Context::degraded`] names it.
    Degraded,
    /// Events were lost since the last such notice.
    EventsLost(Losses),
    /// The kernel did not ask the program of a hook, so often since the last such notice. What the
    /// program would have decided went on.
    DecisionsSkipped(Vec<(Hook, u64)>),
}

/// Totals of one hook, as the kernel counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HookTotals {
    /// The hook.
    pub hook: Hook,
    /// Actions that were decided.
    pub decided: u64,
    /// Of these, denied.
    pub denied: u64,
    /// Events that did not fit the ring buffer.
    pub lost: u64,
    /// Decisions that a failed helper or a bound turned into a denial.
    pub failed: u64,
    /// Actions for which the kernel did not run the program, of whoever.
    pub skipped: u64,
}

/// How many events were lost, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Those that did not fit the ring buffer, by hook; hooks without any are left out.
    pub hooks: Vec<(Hook, u64)>,
    /// Those whose bytes made no sense ([`super::WireError`]).
    pub malformed: u64,
    /// Lines that could not be written.
    pub unwritten: u64,
}

impl Losses {
    /// Whether nothing was lost.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.total() == 0
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        let hooks = self.hooks.iter().map(|(_, lost)| *lost);
        hooks.fold(self.malformed.saturating_add(self.unwritten), u64::saturating_add)
    }
}

/// A device number as `major:minor`.
pub(crate) struct DeviceNumber(pub u32);

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0 >> 20, self.0 & 0xf_ffff)
    }
}
