//! The way back: from a line that [`Encoder`](super::Encoder) wrote to its record.
//!
//! A file of events may be anybody's, so nothing in it is trusted: names are unescaped and escaped anew, numbers
//! and words must be known, and what else a line holds is passed over.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use agent_guard_common::{
    decide::Reason,
    event::{Action, Operation, Outcome},
    hook::Hook,
};
use thiserror::Error;

use super::line::{AgentGuard, Decided, FileEntity, Line, ProcessEntity, RuleEntity};
use crate::{
    event::{
        AgentIdentity, Body, ContainerIdentity, Context, Decision, Endpoint, File, HookTotals,
        Lookup, LookupAnswer, LookupReason, Losses, Notice, Object, PathScope, PodIdentity,
        PolicyIdentity, Process, Record, Rule, SafeText, words,
    },
    policy::Mode,
    tier::Tier,
};

/// Why a line is no record.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// Not a JSON object, or a field of another type than events have.
    #[error("it is no event: {0}")]
    Json(#[from] serde_json::Error),
    /// Somebody else's event.
    #[error("it is not an event of this guard")]
    Foreign,
    /// A word or number that this version does not write, or none where one is due.
    #[error("this version knows no such {0}")]
    Unknown(&'static str),
}

/// Reads a line, with or without its newline.
///
/// # Errors
/// It is none of this guard's, or not one that this version writes.
pub fn decode(line: &[u8]) -> Result<Record, DecodeError> {
    let line: Line = serde_json::from_slice(line)?;
    let Some(own) = line.unmapped.as_ref().and_then(|unmapped| unmapped.agent_guard.as_ref())
    else {
        return Err(DecodeError::Foreign);
    };
    let body = match (&own.decision, line.class_uid) {
        (Some(decided), DNS) => Body::Lookup(lookup(&line, decided)?),
        (Some(decided), _) => decided_body(&line, decided)?,
        (None, _) => Body::Notice(notice(&line, own)?),
    };
    let time_ns = line.time.saturating_mul(1_000_000);
    Ok(Record { time_ns, context: Arc::new(context(&line, own)?), body })
}

const FILE: u16 = 1001;
const KERNEL: u16 = 1003;
const PROCESS: u16 = 1007;
const NETWORK: u16 = 4001;
const DNS: u16 = 4003;
const LIFECYCLE: u16 = 6002;
const ERROR: u16 = 6008;

fn unknown<T>(what: &'static str) -> Result<T, DecodeError> {
    Err(DecodeError::Unknown(what))
}

/// The one of `all` that is called `word`.
fn named<T: Copy>(
    all: &[T],
    name: impl Fn(T) -> &'static str,
    word: &str,
    what: &'static str,
) -> Result<T, DecodeError> {
    all.iter().copied().find(|one| name(*one) == word).ok_or(DecodeError::Unknown(what))
}

fn context(line: &Line, own: &AgentGuard) -> Result<Context, DecodeError> {
    Ok(Context {
        tier: named(&Tier::ALL, Tier::name, &own.tier, "tier")?,
        mode: named(&[Mode::Enforce, Mode::Audit], Mode::name, &own.mode, "mode")?,
        degraded: own.degraded.iter().map(|what| safe(what).to_string()).collect(),
        agent: AgentIdentity {
            name: safe(&own.agent.name).to_string(),
            id: own.agent.id,
            cgroup_id: own.agent.cgroup_id,
            cgroup: safe(&own.agent.cgroup),
            container: container(line, own),
        },
        policy: line.policy.as_ref().map(|policy| PolicyIdentity {
            name: safe(&policy.name).to_string(),
            revision: safe(&policy.uid).to_string(),
            file: safe(own.policy_file.as_deref().unwrap_or_default()),
        }),
    })
}

fn container(line: &Line, own: &AgentGuard) -> Option<ContainerIdentity> {
    let container = line.device.as_ref()?.container.as_ref()?;
    let text = |text: &Option<String>| text.as_deref().map(safe);
    Some(ContainerIdentity {
        runtime: safe(&container.runtime).to_string(),
        id: safe(&container.uid),
        name: text(&container.name),
        image: container.image.as_ref().map(|image| safe(&image.name)),
        pod: own.pod.as_ref().map(|pod| PodIdentity {
            uid: text(&container.pod_uuid),
            namespace: safe(&pod.namespace),
            name: safe(&pod.name),
            service_account: text(&pod.service_account),
        }),
    })
}

/// Text as it stands in an event: its bytes, escaped anew.
fn safe(text: &str) -> SafeText {
    SafeText::from_escaped(text)
}

fn decided_body(line: &Line, decided: &Decided) -> Result<Body, DecodeError> {
    let Some(hook) = decided.hook.as_deref() else { return unknown("hook") };
    let hook = hook_named(hook)?;
    let action = action(line, decided, hook)?;
    let Some(actor) = &line.actor else { return unknown("process") };
    Ok(Body::Decided {
        process: process(&actor.process, decided)?,
        action,
        object: object(line, decided, action)?,
        decision: Decision {
            outcome: outcome(&decided.outcome)?,
            reason: named(Reason::ALL, words::reason, &decided.reason, "reason")?,
            rule: decided.rule.as_ref().map(rule),
            host: decided.host.as_deref().map(|host| safe(host).as_str().into()),
        },
        hook,
    })
}

fn hook_named(name: &str) -> Result<Hook, DecodeError> {
    let spec = Hook::TABLE.iter().find(|spec| spec.name == name);
    spec.map(|spec| spec.hook).ok_or(DecodeError::Unknown("hook"))
}

fn outcome(word: &str) -> Result<Outcome, DecodeError> {
    const ALL: [Outcome; 4] =
        [Outcome::Allowed, Outcome::Denied, Outcome::Killed, Outcome::Observed];
    named(&ALL, words::outcome, word, "outcome")
}

fn rule(rule: &RuleEntity) -> Arc<Rule> {
    Arc::new(Rule {
        label: safe(&rule.name).to_string(),
        line: rule.line,
        class: rule.class.as_deref().map(|class| safe(class).to_string()),
    })
}

/// What was asked for: the class and activity say most of it, the access and the hook the rest.
fn action(line: &Line, decided: &Decided, hook: Hook) -> Result<Action, DecodeError> {
    let has = |word: &str| decided.access.iter().any(|access| access == word);
    let opened = || match (has("read"), has("write")) {
        (true, true) => Ok(Action::ReadWrite),
        (true, false) => Ok(Action::Read),
        (false, true) => Ok(Action::Write),
        (false, false) => unknown("access"),
    };
    match (line.class_uid, line.activity_id) {
        (FILE, 1) if hook == Hook::PathLink => Ok(Action::Link),
        (FILE, 1) => Ok(Action::Create),
        (FILE, 3) if hook == Hook::PathTruncate => Ok(Action::Truncate),
        (FILE, 14) if decided.access.is_empty() => Ok(Action::Receive),
        (FILE, 2 | 3 | 14) => opened(),
        (FILE, 4) => Ok(Action::Delete),
        (FILE, 5) => Ok(Action::Rename),
        (FILE, 6) => Ok(Action::SetMetadata),
        (PROCESS, 1) if has("load") => Ok(Action::Load),
        (PROCESS, 1) if has("map") => Ok(Action::Map),
        (PROCESS, 1) => Ok(Action::Exec),
        (NETWORK, 1 | 5 | 6 | 7) => Ok(network_action(line, hook)),
        (KERNEL, 4) if decided.operation.is_some() => Ok(Action::Operate),
        (KERNEL, 4) => Ok(interface(line)?.0),
        _ => unknown("class and activity"),
    }
}

/// A refusal is the same activity for all of them, so the hook says which.
fn network_action(line: &Line, hook: Hook) -> Action {
    let is_local = line.connection_info.as_ref().is_some_and(|info| info.protocol_num == UNIX);
    match hook {
        _ if is_local => Action::ConnectLocal,
        Hook::SocketCreate => Action::CreateSocket,
        Hook::SocketBind | Hook::SocketListen => Action::Listen,
        Hook::SocketAccept => Action::Accept,
        Hook::SocketSendmsg | Hook::NetlinkSend | Hook::Sendmsg4 | Hook::Sendmsg6 => Action::Send,
        _ => Action::Connect,
    }
}

/// The schema's number for what no protocol of the internet carries.
const UNIX: i32 = -1;

/// The interfaces that are closed as a whole.
const INTERFACES: [(Action, &str); 3] = [
    (Action::IoUring, "io_uring"),
    (Action::ShareDescriptors, "clone with shared descriptors"),
    (Action::SourceRoute, "source routing"),
];

fn interface(line: &Line) -> Result<(Action, &'static str), DecodeError> {
    let name = line.kernel.as_ref().map(|kernel| kernel.name.as_str()).unwrap_or_default();
    let found = INTERFACES.iter().find(|(_, known)| *known == name);
    found.copied().ok_or(DecodeError::Unknown("interface"))
}

fn process(entity: &ProcessEntity, decided: &Decided) -> Result<Process, DecodeError> {
    let user = entity.user.as_ref();
    Ok(Process {
        pid: entity.pid,
        tid: entity.ptid.unwrap_or(entity.pid),
        ppid: entity.parent_process.as_ref().map(|parent| parent.pid).unwrap_or_default(),
        uid: number(user.map(|user| user.uid.as_str()), "user")?,
        gid: number(user.and_then(|user| user.groups.first()).map(|group| &*group.uid), "group")?,
        cgroup_id: decided.cgroup_id.unwrap_or_default(),
        comm: safe(entity.name.as_deref().unwrap_or_default()),
        exe: entity.file.as_ref().map(|file| safe(&file.path)),
    })
}

fn number<T: std::str::FromStr + Default>(
    text: Option<&str>,
    what: &'static str,
) -> Result<T, DecodeError> {
    text.map_or(Ok(T::default()), |text| text.parse().map_err(|_| DecodeError::Unknown(what)))
}

fn object(line: &Line, decided: &Decided, action: Action) -> Result<Object, DecodeError> {
    Ok(match action {
        Action::Exec | Action::Load | Action::Map => {
            let program = line.process.as_ref().and_then(|process| process.file.as_ref());
            Object::File(file(program, decided)?)
        }
        Action::Read
        | Action::Write
        | Action::ReadWrite
        | Action::Create
        | Action::Delete
        | Action::Rename
        | Action::Link
        | Action::Truncate
        | Action::SetMetadata
        | Action::Receive => Object::File(file(line.file.as_ref(), decided)?),
        Action::ConnectLocal => Object::LocalSocket(local_socket(line, decided)?),
        Action::Connect | Action::Send | Action::CreateSocket | Action::Listen | Action::Accept => {
            Object::Endpoint(endpoint(line)?)
        }
        Action::Operate => {
            let name = decided.operation.as_deref().unwrap_or_default();
            let operation = named(Operation::ALL, words::operation, name, "operation")?;
            Object::Operation(operation, decided.target_pid.unwrap_or_default())
        }
        Action::IoUring | Action::ShareDescriptors | Action::SourceRoute => {
            Object::Interface(interface(line)?.1)
        }
    })
}

fn file(entity: Option<&FileEntity>, decided: &Decided) -> Result<File, DecodeError> {
    let Some(entity) = entity else { return unknown("file") };
    Ok(File {
        path: safe(&entity.path),
        scope: scope(decided)?,
        dev: device(decided)?,
        inode: number(entity.uid.as_deref(), "inode")?,
    })
}

fn scope(decided: &Decided) -> Result<PathScope, DecodeError> {
    const ALL: [PathScope; 3] = [PathScope::Absolute, PathScope::Filesystem, PathScope::Tail];
    named(&ALL, PathScope::name, decided.path_scope.as_deref().unwrap_or_default(), "path scope")
}

fn device(decided: &Decided) -> Result<u32, DecodeError> {
    let Some(text) = &decided.device else { return Ok(0) };
    let parts = text.split_once(':').and_then(|(major, minor)| {
        let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
        (major < 1 << 12 && minor < 1 << 20).then_some(major << 20 | minor)
    });
    parts.ok_or(DecodeError::Unknown("device"))
}

fn local_socket(line: &Line, decided: &Decided) -> Result<File, DecodeError> {
    let name = line.dst_endpoint.as_ref().and_then(|end| end.name.as_deref());
    let path = match name.unwrap_or_default() {
        "unnamed socket" => SafeText::default(),
        name => safe(name),
    };
    Ok(File { path, scope: scope(decided)?, dev: device(decided)?, inode: 0 })
}

fn endpoint(line: &Line) -> Result<Endpoint, DecodeError> {
    let Some(end) = &line.dst_endpoint else { return unknown("endpoint") };
    let protocol = line.connection_info.as_ref().map(|info| info.protocol_num);
    let Ok(protocol) = u16::try_from(protocol.unwrap_or_default()) else {
        return unknown("protocol");
    };
    let addr = match &end.ip {
        None => None,
        Some(ip) => Some(ip.parse().map_err(|_| DecodeError::Unknown("address"))?),
    };
    let family = match (addr, &end.name) {
        (Some(IpAddr::V4(_)), _) => libc::AF_INET as u16,
        (Some(IpAddr::V6(_)), _) => libc::AF_INET6 as u16,
        (None, name) => family(name.as_deref().unwrap_or_default())?,
    };
    Ok(Endpoint { addr, port: end.port.unwrap_or_default(), protocol, family })
}

/// The number of what the encoder calls an `address family`.
fn family(name: &str) -> Result<u16, DecodeError> {
    /// More than there are families.
    const FAMILIES: u16 = 256;
    let Some(name) = name.strip_prefix("address family ") else { return unknown("endpoint") };
    let known = (0..FAMILIES).find(|number| words::family(*number) == Some(name));
    known.or_else(|| name.parse().ok()).ok_or(DecodeError::Unknown("address family"))
}

fn lookup(line: &Line, decided: &Decided) -> Result<Lookup, DecodeError> {
    let Some(query) = &line.query else { return unknown("query") };
    let Some(client) = &line.src_endpoint else { return unknown("source") };
    let ip: IpAddr = client.ip.parse().map_err(|_| DecodeError::Unknown("address"))?;
    let answers = line.answers.iter().map(|answer| LookupAnswer {
        kind: safe(&answer.kind).to_string(),
        data: safe(&answer.rdata),
        ttl: answer.ttl,
    });
    let withheld = decided.withheld.iter().map(|address| address.parse());
    let protocol = line.connection_info.as_ref().map(|info| info.protocol_num).unwrap_or_default();
    Ok(Lookup {
        name: safe(&query.hostname),
        kind: safe(&query.kind).to_string(),
        client: SocketAddr::new(ip, client.port),
        protocol: u16::try_from(protocol).map_err(|_| DecodeError::Unknown("protocol"))?,
        code: line.rcode_id.unwrap_or_default(),
        answers: answers.collect(),
        withheld: withheld
            .collect::<Result<_, _>>()
            .map_err(|_| DecodeError::Unknown("address"))?,
        outcome: outcome(&decided.outcome)?,
        reason: named(&LookupReason::ALL, words::lookup_reason, &decided.reason, "reason")?,
        rule: decided.rule.as_ref().map(rule),
    })
}

fn notice(line: &Line, own: &AgentGuard) -> Result<Notice, DecodeError> {
    let notice = match (line.class_uid, line.activity_id) {
        (LIFECYCLE, 3) => Notice::Started,
        (LIFECYCLE, 4) => {
            let totals = own.totals.iter().flatten().map(|totals| {
                Ok(HookTotals {
                    hook: hook_named(&totals.hook)?,
                    decided: totals.decided,
                    denied: totals.denied,
                    lost: totals.lost,
                    failed: totals.failed,
                    skipped: totals.skipped,
                })
            });
            Notice::Stopped { totals: totals.collect::<Result<_, DecodeError>>()? }
        }
        (LIFECYCLE, 5) => Notice::Adopted,
        (LIFECYCLE, 8) => {
            let replaces = own.replaces.as_deref().map(|revision| safe(revision).to_string());
            Notice::PolicyLoaded { replaces }
        }
        (LIFECYCLE, 99) => match own.uncovered_ms {
            Some(ms) => Notice::Uncovered { ms },
            None => Notice::Degraded,
        },
        (ERROR, 1) => match (&own.losses, &own.skipped) {
            (Some(losses), _) => Notice::EventsLost(Losses {
                hooks: counted(losses.hooks.iter().map(|loss| (&loss.hook, loss.lost)))?,
                malformed: losses.malformed,
                unwritten: losses.unwritten,
            }),
            (None, Some(hooks)) => {
                let hooks = hooks.iter().map(|skip| (&skip.hook, skip.skipped));
                Notice::DecisionsSkipped(counted(hooks)?)
            }
            (None, None) => return unknown("error"),
        },
        _ => return unknown("class and activity"),
    };
    Ok(notice)
}

fn counted<'a>(
    hooks: impl Iterator<Item = (&'a String, u64)>,
) -> Result<Vec<(Hook, u64)>, DecodeError> {
    hooks.map(|(name, count)| Ok((hook_named(name)?, count))).collect()
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::event::{
        Encoder,
        fixture::{decided, denied, endpoint, file, host, record, socket},
    };

    fn line(record: &Record) -> BytesMut {
        let mut line = BytesMut::new();
        Encoder::new(host(), 1).encode(record, &mut line).unwrap();
        line
    }

    #[test]
    fn a_line_becomes_the_record_that_it_was_made_from() {
        let records = [
            denied(Action::Read, file(b"/w/.env")),
            decided(denied(Action::Exec, file(b"/a\n\xff")), Outcome::Killed, Reason::Rule),
            denied(Action::Send, endpoint("2001:db8::1", 53, libc::IPPROTO_UDP)),
            denied(Action::ConnectLocal, socket(b"@\xe2\x80\xae")),
            record(Body::Notice(Notice::Uncovered { ms: 7 })),
        ];
        for mut record in records {
            // Written are milliseconds; sockets go by their names.
            record.time_ns -= record.time_ns % 1_000_000;
            if let Body::Decided { hook, object, action, .. } = &mut record.body {
                *hook = match action {
                    Action::Send => Hook::SocketSendmsg,
                    Action::ConnectLocal => Hook::UnixMaySend,
                    _ => *hook,
                };
                if let Object::Endpoint(end) = object {
                    end.family = libc::AF_INET6 as u16;
                }
            }
            assert_eq!(decode(&line(&record)).unwrap(), record);
        }
    }

    #[test]
    fn a_forged_name_does_not_reach_the_terminal() {
        let written = line(&denied(Action::Read, file(b"/harmless")));
        let text = String::from_utf8(written.to_vec()).unwrap();
        let forged = text.replace("/harmless", "/\\u001b[2J\\u202e");
        let Body::Decided { object: Object::File(file), .. } =
            decode(forged.as_bytes()).unwrap().body
        else {
            panic!("{forged}")
        };
        assert_eq!(file.path.as_str(), r"/\x1b[2J\xe2\x80\xae");
    }

    #[test]
    fn what_is_not_written_by_this_version_is_told_from_what_is_broken() {
        let text = String::from_utf8(line(&denied(Action::Read, file(b"/a"))).to_vec()).unwrap();
        let unknown = text.replace("\"file_open\"", "\"file_of_tomorrow\"");
        assert!(matches!(decode(unknown.as_bytes()), Err(DecodeError::Unknown("hook"))));
        let foreign = r#"{"time":1,"class_uid":1001,"activity_id":2,"unmapped":{"other":1}}"#;
        assert!(matches!(decode(foreign.as_bytes()), Err(DecodeError::Foreign)));
        assert!(matches!(decode(b"{\"time\":"), Err(DecodeError::Json(_))));
        assert!(matches!(decode(b"[]"), Err(DecodeError::Json(_))));
    }
}
