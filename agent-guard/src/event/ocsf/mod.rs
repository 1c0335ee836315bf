//! Records as OCSF 1.8.0 JSON, one object a line, with the `host` and `security_control` profiles.
//!
//! | record | class | activity |
//! |---|---|---|
//! | read, write, both | File System Activity 1001 | Read, Update, Update |
//! | create, link, delete, rename | File System Activity 1001 | Create, Create, Delete, Rename |
//! | truncate, metadata | File System Activity 1001 | Update, Set Attributes |
//! | closed interface | Kernel Activity 1003 | Invoke |
//! | exec, load | Process Activity 1007 | Launch |
//! | connect, send, listen, accept, make a socket | Network Activity 4001 | Open, Traffic, Listen; Refuse where denied |
//! | name query | DNS Activity 4003 | Traffic |
//! | start, stop, policy, degradation | Application Lifecycle 6002 | Start, Stop, Update, Other |
//! | operation | Kernel Activity 1003 | Invoke |
//! | lost events, skipped decisions | Application Error 6008 | General Error |
//!
//! | outcome | action | disposition | status |
//! |---|---|---|---|
//! | allowed | Allowed 1 | Allowed 1 | Success 1 |
//! | denied, killed | Denied 2 | Blocked 2 | Failure 2 |
//! | observed | Observed 3 | Logged 17 | Success 1 |
//!
//! What the schema has no place for stands under `unmapped.agent_guard`. Bytes that an agent chose
//! are [`SafeText`](super::SafeText), so a JSON string that a reader has decoded is safe to print.

use std::io;

use agent_guard_common::{
    event::{Action, Outcome},
    hook::Hook,
    table::Effect,
};
use bytes::{BufMut, BytesMut};
use serde::{Deserialize, Serialize};

use self::schema::{
    Activity, Actor, AgentGuard, CONTAINER_PROFILES, Class, ConnectionInfo, Container, Decided,
    Device, DnsAnswer, DnsQuery, DstEndpoint, Event, File as FileEntity, FirewallRule, Group,
    HookLoss, HookSkip, HookTotals, Kernel, Losses, Metadata, PROFILES, ParentProcess, Policy,
    Process as ProcessEntity, Product, Rule, SrcEndpoint, Text, Uid, Unmapped, User, VERSION,
    Value, action, disposition, severity, status,
};
use super::{
    Body, Context, Decision, Endpoint, File, Lookup, Notice, Object, Process, Record, ecs,
    record::DeviceNumber, words,
};
use crate::bytes::random;

mod decode;
mod line;
pub(crate) mod schema;
#[cfg(test)]
mod tests;

pub use decode::{DecodeError, decode};

/// The host that events come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// The release of its kernel, as `uname -r` has it.
    pub kernel: String,
}

impl Host {
    /// This one.
    #[must_use]
    pub fn this() -> Self {
        let system = rustix::system::uname();
        Self {
            name: system.nodename().to_string_lossy().into_owned(),
            kernel: system.release().to_string_lossy().into_owned(),
        }
    }
}

/// How events are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// Open Cybersecurity Schema Framework.
    #[default]
    Ocsf,
    /// Elastic Common Schema, from the same events.
    Ecs,
}

/// Makes lines, of OCSF unless told otherwise. Events are numbered, so that a gap shows in what a reader got.
#[derive(Debug)]
pub struct Encoder {
    host: Host,
    run: u128,
    sequence: u64,
    encoding: Encoding,
}

impl Encoder {
    /// Makes events of `host`. `run` is random: with the number of an event it makes its `uid`.
    #[must_use]
    pub fn new(host: Host, run: u128) -> Self {
        Self { host, run, sequence: 0, encoding: Encoding::default() }
    }

    /// Makes lines of `encoding`.
    #[must_use]
    pub fn in_encoding(self, encoding: Encoding) -> Self {
        Self { encoding, ..self }
    }

    /// Makes events of this host, numbered from 1 on.
    ///
    /// # Errors
    /// No random number is to be had.
    pub fn of_this_host() -> io::Result<Self> {
        Ok(Self::new(Host::this(), u128::from_ne_bytes(random()?)))
    }

    /// Appends `record` to `out`: one JSON object and a newline.
    ///
    /// # Errors
    /// Where `out` can not grow; it is then as it was before.
    pub fn encode(&mut self, record: &Record, out: &mut BytesMut) -> io::Result<()> {
        self.sequence += 1;
        let event = match &record.body {
            Body::Decided { process, action, object, decision, hook } => {
                self.decided(record, process, *action, object, decision, *hook)
            }
            Body::Lookup(lookup) => self.lookup(record, lookup),
            Body::Notice(notice) => self.notice(record, notice),
        };
        match self.encoding {
            Encoding::Ocsf => append_line(out, &event),
            Encoding::Ecs => append_line(out, &ecs::document(record, event)),
        }
    }

    fn decided<'a>(
        &'a self,
        record: &'a Record,
        process: &'a Process,
        action: Action,
        object: &'a Object,
        decision: &'a Decision,
        hook: Hook,
    ) -> Event<'a> {
        let context = &*record.context;
        let result = Outcomes::of(decision.outcome);
        let effect = match decision.effect() {
            Effect::Allow => "allow",
            Effect::Deny => "deny",
        };
        let rule = decision.rule.as_deref();
        let mut event = self.event(
            record,
            activity(action, hook, decision.outcome),
            result.severity,
            result.status,
        );
        result.put_into(&mut event);
        event.status_detail = Some(words::because(decision.reason));
        event.actor = Some(Actor { process: actor(process) });
        event.policy = policy(context, Some(decision.outcome != Outcome::Observed));
        let mut decided = Decided {
            outcome: words::outcome(decision.outcome),
            effect,
            reason: words::reason(decision.reason),
            hook: Some(hook.spec().name),
            access: words::access(action),
            rule: rule.map(rule_entity),
            cgroup_id: Some(process.cgroup_id),
            host: decision.host.as_deref(),
            withheld: Vec::new(),
            path_scope: None,
            device: None,
            operation: None,
            target_pid: None,
        };
        match object {
            Object::File(file) => {
                decided.path_scope = Some(file.scope.name());
                decided.device = (file.dev != 0).then_some(Text(DeviceNumber(file.dev)));
                if matches!(action, Action::Exec | Action::Load | Action::Map) {
                    event.process = Some(launched(process, file));
                } else {
                    event.file = Some(FileEntity::new(&file.path, FileEntity::UNKNOWN, file.inode));
                }
            }
            Object::Endpoint(endpoint) => {
                event.dst_endpoint = Some(dst_endpoint(endpoint));
                event.connection_info = Some(connection_info(action, endpoint));
                event.firewall_rule = rule.map(|rule| FirewallRule { name: &rule.label, effect });
            }
            Object::LocalSocket(socket) => {
                decided.path_scope = Some(socket.scope.name());
                decided.device = (socket.dev != 0).then_some(Text(DeviceNumber(socket.dev)));
                event.dst_endpoint = Some(DstEndpoint {
                    ip: None,
                    name: Some(match socket.path.is_empty() {
                        true => "unnamed socket".into(),
                        false => socket.path.as_str().into(),
                    }),
                    port: None,
                });
                event.connection_info = Some(ConnectionInfo::UNIX);
                event.firewall_rule = rule.map(|rule| FirewallRule { name: &rule.label, effect });
            }
            Object::Interface(name) => {
                event.kernel = Some(Kernel { name, type_id: Kernel::SYSTEM_CALL });
            }
            Object::Operation(operation, process) => {
                let name = words::operation(*operation);
                event.kernel = Some(Kernel { name, type_id: Kernel::SYSTEM_CALL });
                decided.operation = Some(name);
                decided.target_pid = (*process != 0).then_some(*process);
            }
        }
        event.unmapped.agent_guard.decision = Some(decided);
        event
    }

    fn lookup<'a>(&'a self, record: &'a Record, lookup: &'a Lookup) -> Event<'a> {
        let result = Outcomes::of(lookup.outcome);
        let (rcode_id, rcode) = words::response_code(lookup.code);
        let status = if rcode_id == 0 { result.status } else { status::FAILURE };
        let activity = Class::DNS.activity(6, "Traffic");
        let mut event = self.event(record, activity, result.severity, status);
        result.put_into(&mut event);
        event.status_detail = Some(words::lookup_because(lookup.reason));
        event.policy = policy(&record.context, Some(lookup.outcome != Outcome::Observed));
        event.query =
            Some(DnsQuery { hostname: lookup.name.as_str(), kind: &lookup.kind, class: INTERNET });
        event.answers = lookup
            .answers
            .iter()
            .map(|answer| DnsAnswer {
                rdata: &answer.data,
                kind: &answer.kind,
                class: INTERNET,
                ttl: answer.ttl,
            })
            .collect();
        event.rcode_id = Some(rcode_id);
        event.rcode = Some(rcode);
        let (ip, port) = (lookup.client.ip(), lookup.client.port());
        event.src_endpoint = Some(SrcEndpoint { ip: Text(ip), port });
        event.connection_info = Some(ConnectionInfo {
            direction_id: 4,
            direction: "Local",
            protocol_num: lookup.protocol.into(),
            protocol_name: words::protocol(lookup.protocol),
            protocol_ver_id: if ip.is_ipv4() { 4 } else { 6 },
        });
        let effect = if lookup.outcome == Outcome::Allowed { "allow" } else { "deny" };
        let rule = lookup.rule.as_deref();
        event.firewall_rule = rule.map(|rule| FirewallRule { name: &rule.label, effect });
        event.unmapped.agent_guard.decision = Some(Decided {
            outcome: words::outcome(lookup.outcome),
            effect,
            reason: words::lookup_reason(lookup.reason),
            hook: None,
            access: &[],
            rule: rule.map(rule_entity),
            cgroup_id: None,
            operation: None,
            target_pid: None,
            host: None,
            withheld: lookup.withheld.iter().copied().map(Text).collect(),
            path_scope: None,
            device: None,
        });
        event
    }

    fn notice<'a>(&'a self, record: &'a Record, notice: &'a Notice) -> Event<'a> {
        let (activity, severity, status) = match notice {
            Notice::Started => {
                (Class::LIFECYCLE.activity(3, "Start"), severity::INFORMATIONAL, status::SUCCESS)
            }
            Notice::Adopted => {
                (Class::LIFECYCLE.activity(5, "Restart"), severity::MEDIUM, status::SUCCESS)
            }
            Notice::Stopped { .. } => {
                (Class::LIFECYCLE.activity(4, "Stop"), severity::INFORMATIONAL, status::SUCCESS)
            }
            Notice::PolicyLoaded { .. } => {
                (Class::LIFECYCLE.activity(8, "Update"), severity::INFORMATIONAL, status::SUCCESS)
            }
            Notice::Uncovered { .. } => {
                (Class::LIFECYCLE.activity(99, "Uncovered"), severity::MEDIUM, status::FAILURE)
            }
            Notice::Degraded => {
                (Class::LIFECYCLE.activity(99, "Degraded"), severity::MEDIUM, status::FAILURE)
            }
            Notice::EventsLost(_) | Notice::DecisionsSkipped(_) => {
                (Class::ERROR.activity(1, "General Error"), severity::MEDIUM, status::FAILURE)
            }
        };
        let mut event = self.event(record, activity, severity, status);
        event.message = Some(notice.to_string());
        event.policy = policy(&record.context, None);
        let extra = &mut event.unmapped.agent_guard;
        match notice {
            Notice::Started | Notice::Adopted | Notice::Degraded => event.app = Some(Product::SELF),
            Notice::Uncovered { ms } => {
                event.app = Some(Product::SELF);
                extra.uncovered_ms = Some(*ms);
            }
            Notice::Stopped { totals } => {
                event.app = Some(Product::SELF);
                extra.totals = Some(totals.iter().map(hook_totals).collect());
            }
            Notice::PolicyLoaded { replaces } => {
                event.app = Some(Product::SELF);
                extra.replaces = replaces.as_deref();
            }
            Notice::EventsLost(losses) => extra.losses = Some(lost(losses)),
            Notice::DecisionsSkipped(hooks) => {
                let skip = |(hook, skipped): &(Hook, u64)| HookSkip {
                    hook: hook.spec().name,
                    skipped: *skipped,
                };
                extra.skipped = Some(hooks.iter().map(skip).collect());
            }
        }
        event
    }

    fn event<'a>(
        &'a self,
        record: &'a Record,
        activity: Activity,
        severity: Value,
        status: Value,
    ) -> Event<'a> {
        let context = &*record.context;
        let container = context.agent.container.as_ref();
        Event {
            time: record.time_ns / 1_000_000,
            class_uid: activity.class.uid,
            class_name: activity.class.name,
            category_uid: activity.category_uid(),
            activity_id: activity.id,
            activity_name: activity.name,
            type_uid: activity.type_uid(),
            severity_id: severity.0,
            severity: severity.1,
            action_id: None,
            action: None,
            disposition_id: None,
            disposition: None,
            status_id: status.0,
            status: status.1,
            status_detail: None,
            message: None,
            actor: None,
            process: None,
            file: None,
            query: None,
            answers: Vec::new(),
            rcode_id: None,
            rcode: None,
            src_endpoint: None,
            dst_endpoint: None,
            connection_info: None,
            kernel: None,
            app: None,
            policy: None,
            firewall_rule: None,
            device: Device::linux(
                &self.host.name,
                &self.host.kernel,
                container.map(Container::new),
            ),
            metadata: Metadata {
                version: VERSION,
                product: Product::SELF,
                profiles: if container.is_some() { CONTAINER_PROFILES } else { PROFILES },
                uid: Uid { run: self.run, sequence: self.sequence },
                sequence: self.sequence,
            },
            unmapped: Unmapped {
                agent_guard: AgentGuard {
                    uncovered_ms: None,
                    agent: &context.agent,
                    pod: container.and_then(|container| container.pod.as_ref()),
                    tier: context.tier.name(),
                    mode: context.mode.name(),
                    degraded: &context.degraded,
                    policy_file: context.policy.as_ref().map(|policy| &policy.file),
                    decision: None,
                    replaces: None,
                    totals: None,
                    losses: None,
                    skipped: None,
                },
            },
        }
    }
}

/// Appends `event` and a newline to `out`, which is as it was before where that fails.
fn append_line(out: &mut BytesMut, event: &impl Serialize) -> io::Result<()> {
    let start = out.len();
    if let Err(error) = serde_json::to_writer(Appender(out), event) {
        out.truncate(start);
        return Err(error.into());
    }
    out.put_u8(b'\n');
    Ok(())
}

/// Appends whole pieces. A line is made of hundreds of small ones, and with `BytesMut`'s own writer,
/// which may take less than it is given, encoding takes half as long again.
struct Appender<'a>(&'a mut BytesMut);

impl io::Write for Appender<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Outcomes {
    action: Value,
    disposition: Value,
    status: Value,
    severity: Value,
}

impl Outcomes {
    fn put_into(&self, event: &mut Event<'_>) {
        event.action_id = Some(self.action.0);
        event.action = Some(self.action.1);
        event.disposition_id = Some(self.disposition.0);
        event.disposition = Some(self.disposition.1);
    }

    fn of(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Allowed => Self {
                action: action::ALLOWED,
                disposition: disposition::ALLOWED,
                status: status::SUCCESS,
                severity: severity::INFORMATIONAL,
            },
            Outcome::Denied | Outcome::Killed => Self {
                action: action::DENIED,
                disposition: disposition::BLOCKED,
                status: status::FAILURE,
                severity: severity::MEDIUM,
            },
            Outcome::Observed => Self {
                action: action::OBSERVED,
                disposition: disposition::LOGGED,
                status: status::SUCCESS,
                severity: severity::LOW,
            },
        }
    }
}

/// The class of the names that are asked for.
const INTERNET: &str = "IN";

fn rule_entity(rule: &super::Rule) -> Rule<'_> {
    Rule { name: &rule.label, line: rule.line, class: rule.class.as_deref() }
}

fn activity(action: Action, hook: Hook, outcome: Outcome) -> Activity {
    let refused = matches!(outcome, Outcome::Denied | Outcome::Killed);
    match action {
        Action::Read | Action::Write | Action::ReadWrite if hook == Hook::FileReceive => {
            Class::FILE.activity(14, "Open")
        }
        Action::Read => Class::FILE.activity(2, "Read"),
        Action::Create | Action::Link => Class::FILE.activity(1, "Create"),
        Action::Write | Action::ReadWrite | Action::Truncate => Class::FILE.activity(3, "Update"),
        Action::Delete => Class::FILE.activity(4, "Delete"),
        Action::Rename => Class::FILE.activity(5, "Rename"),
        Action::SetMetadata => Class::FILE.activity(6, "Set Attributes"),
        Action::Receive => Class::FILE.activity(14, "Open"),
        Action::Exec | Action::Load | Action::Map => Class::PROCESS.activity(1, "Launch"),
        Action::Connect
        | Action::Send
        | Action::CreateSocket
        | Action::Listen
        | Action::Accept
        | Action::ConnectLocal
            if refused =>
        {
            Class::NETWORK.activity(5, "Refuse")
        }
        Action::Connect | Action::CreateSocket | Action::Accept | Action::ConnectLocal => {
            Class::NETWORK.activity(1, "Open")
        }
        Action::Send => Class::NETWORK.activity(6, "Traffic"),
        Action::Listen => Class::NETWORK.activity(7, "Listen"),
        Action::IoUring | Action::ShareDescriptors | Action::SourceRoute | Action::Operate => {
            Class::KERNEL.activity(4, "Invoke")
        }
    }
}

fn actor(process: &Process) -> ProcessEntity<'_> {
    ProcessEntity {
        pid: process.pid,
        ptid: Some(process.tid),
        name: Some(process.comm.as_str()),
        file: process.exe.as_ref().map(|path| FileEntity::new(path, FileEntity::EXECUTABLE, 0)),
        user: Some(User { uid: Text(process.uid), groups: [Group { uid: Text(process.gid) }] }),
        parent_process: Some(ParentProcess { pid: process.ppid }),
    }
}

/// What `process` becomes when it runs `program`: the same process with another program.
fn launched<'a>(process: &Process, program: &'a File) -> ProcessEntity<'a> {
    let file = FileEntity::new(&program.path, FileEntity::EXECUTABLE, program.inode);
    ProcessEntity {
        pid: process.pid,
        ptid: None,
        name: Some(file.name),
        file: Some(file),
        user: None,
        parent_process: None,
    }
}

/// The end that takes the connection: of an agent that listens, its own.
fn dst_endpoint(endpoint: &Endpoint) -> DstEndpoint<'_> {
    DstEndpoint {
        ip: endpoint.addr.map(Text),
        name: endpoint.addr.is_none().then(|| match words::family(endpoint.family) {
            Some(name) => format!("address family {name}").into(),
            None => format!("address family {}", endpoint.family).into(),
        }),
        port: endpoint.addr.map(|_| endpoint.port),
    }
}

fn connection_info(action: Action, endpoint: &Endpoint) -> ConnectionInfo {
    let inbound = matches!(action, Action::Listen | Action::Accept);
    let local =
        endpoint.addr.is_some_and(|addr| addr.is_loopback() || (!inbound && addr.is_unspecified()));
    let (direction_id, direction) = match (local, inbound) {
        (true, _) => (4, "Local"),
        (false, true) => (1, "Inbound"),
        (false, false) => (2, "Outbound"),
    };
    ConnectionInfo {
        direction_id,
        direction,
        protocol_num: endpoint.protocol.into(),
        protocol_name: words::protocol(endpoint.protocol),
        protocol_ver_id: match endpoint.addr {
            Some(addr) if addr.is_ipv4() => 4,
            Some(_) => 6,
            None => 99,
        },
    }
}

fn policy(context: &Context, is_applied: Option<bool>) -> Option<Policy<'_>> {
    let policy = context.policy.as_ref()?;
    Some(Policy { name: &policy.name, uid: &policy.revision, is_applied })
}

fn hook_totals(totals: &super::HookTotals) -> HookTotals {
    HookTotals {
        hook: totals.hook.spec().name,
        decided: totals.decided,
        denied: totals.denied,
        lost: totals.lost,
        failed: totals.failed,
        skipped: totals.skipped,
    }
}

fn lost(losses: &super::Losses) -> Losses {
    Losses {
        hooks: losses
            .hooks
            .iter()
            .map(|(hook, lost)| HookLoss { hook: hook.spec().name, lost: *lost })
            .collect(),
        malformed: losses.malformed,
        unwritten: losses.unwritten,
    }
}
