//! Records as JSON of the Elastic Common Schema 9.4, one document a line.
//!
//! | record | `event.category` | `event.type` |
//! |---|---|---|
//! | read, receive | file | access |
//! | write, both, truncate, rename, metadata | file | change |
//! | create, link; delete | file | creation; deletion |
//! | exec | process | start |
//! | load, map | library | start |
//! | connect, send, accept, a UNIX-domain socket | network | connection, and allowed or denied |
//! | listen, make a socket | network | info, and allowed or denied |
//! | name query | network | protocol, and allowed or denied |
//! | operation, closed interface | process, host, driver, file | by what it does |
//! | start, stop, adoption, time uncovered | session | start, end, info |
//! | policy, degradation | configuration | change, info |
//! | lost events, skipped decisions | host | info |
//!
//! What is no matter of the schema, the number of an event and what stands under `agent_guard`, is the
//! same as in OCSF, where it stands under `unmapped.agent_guard`.

use std::{
    net::IpAddr,
    time::{Duration, UNIX_EPOCH},
};

use agent_guard_common::event::{Action, Outcome};

use self::{
    kind::Kind,
    schema::{
        Address, Container, Dns, DnsAnswer, DnsQuestion, Document, Ecs, EventFields, File, Host,
        Id, Image, Library, Log, Network, Orchestrator, Os, Parent, Previous, Process, Resource,
        Rule, Software, Thread,
    },
};
use super::{
    Body, ContainerIdentity, Endpoint, Lookup, Object, PodIdentity, Record,
    ocsf::schema::{Event, File as OcsfFile, Text, status},
    words,
};

mod kind;
mod schema;
#[cfg(test)]
mod tests;

/// `event`, which was made of `record`, in the fields of ECS.
pub fn document<'a>(record: &'a Record, event: Event<'a>) -> Document<'a> {
    let kind = Kind::of(&record.body);
    let mut document = Document {
        timestamp: Text(humantime::format_rfc3339_millis(
            UNIX_EPOCH + Duration::from_nanos(record.time_ns),
        )),
        ecs: Ecs::NAMED,
        message: event.message,
        event: EventFields {
            kind: "event",
            category: [kind.category],
            types: kind.types,
            action: kind.action,
            outcome: if event.status_id == status::FAILURE.0 { "failure" } else { "success" },
            reason: event.status_detail,
            severity: event.severity_id,
            id: event.metadata.uid,
            sequence: event.metadata.sequence,
            module: "agent_guard",
            dataset: "agent_guard.events",
        },
        log: Log { level: kind.level },
        agent: Software::SELF,
        host: Host {
            name: event.device.hostname,
            hostname: event.device.hostname,
            os: Os { kind: "linux", kernel: event.device.os.kernel_release },
        },
        container: None,
        orchestrator: None,
        process: None,
        user: None,
        group: None,
        file: None,
        dll: None,
        source: None,
        destination: None,
        network: None,
        dns: None,
        rule: rule(record, kind.rule),
        agent_guard: event.unmapped.agent_guard,
    };
    if let Some(identity) = &record.context.agent.container {
        document.container = Some(container(identity));
        document.orchestrator = identity.pod.as_ref().map(orchestrator);
    }
    match &record.body {
        Body::Decided { process, action, object, decision, .. } => {
            document.process = Some(asker(process));
            document.user = Some(Id { id: Text(process.uid) });
            document.group = Some(Id { id: Text(process.gid) });
            put_object(&mut document, *action, object);
            if let (Some(far), Some(host)) = (&mut document.destination, &decision.host) {
                far.domain = Some(host);
            }
        }
        Body::Lookup(lookup) => put_lookup(&mut document, lookup),
        Body::Notice(_) => {}
    }
    document
}

fn container(identity: &ContainerIdentity) -> Container<'_> {
    let ContainerIdentity { runtime, id, name, image, pod: _ } = identity;
    Container { id, name: name.as_ref(), image: image.as_ref().map(|name| Image { name }), runtime }
}

fn orchestrator(pod: &PodIdentity) -> Orchestrator<'_> {
    Orchestrator {
        kind: "kubernetes",
        namespace: &pod.namespace,
        resource: Resource { kind: "pod", name: &pod.name, id: pod.uid.as_ref() },
    }
}

fn rule<'a>(record: &'a Record, decided: Option<&'a super::Rule>) -> Option<Rule<'a>> {
    let policy = record.context.policy.as_ref();
    let rule = Rule {
        name: decided.map(|rule| rule.label.as_str()),
        category: decided.and_then(|rule| rule.class.as_deref()),
        ruleset: policy.map(|policy| policy.name.as_str()),
        version: policy.map(|policy| policy.revision.as_str()),
    };
    (decided.is_some() || policy.is_some()).then_some(rule)
}

fn asker(process: &super::Process) -> Process<'_> {
    let program = process.exe.as_ref().map(|path| OcsfFile::new(path, 0, 0));
    Process {
        pid: process.pid,
        name: program.as_ref().map_or(process.comm.as_str(), |program| program.name),
        executable: program.map(|program| program.path),
        thread: Thread { id: process.tid, name: process.comm.as_str() },
        parent: Parent { pid: process.ppid },
        previous: None,
        real_user: Id { id: Text(process.uid) },
        real_group: Id { id: Text(process.gid) },
    }
}

fn put_object<'a>(document: &mut Document<'a>, action: Action, object: &'a Object) {
    match object {
        Object::File(file) => {
            let OcsfFile { name, path, uid, .. } = OcsfFile::new(&file.path, 0, file.inode);
            match action {
                // The same process with another program, as others tell of the start of one.
                Action::Exec => {
                    if let Some(process) = &mut document.process {
                        let executable = process.executable.replace(path);
                        process.previous = executable.map(|executable| Previous { executable });
                        process.name = name;
                    }
                }
                Action::Load | Action::Map => document.dll = Some(Library { name, path }),
                _ => {}
            }
            document.file = Some(File { name, path, inode: uid, kind: None });
        }
        Object::LocalSocket(socket) => {
            let OcsfFile { name, path, uid, .. } = OcsfFile::new(&socket.path, 0, socket.inode);
            document.file = Some(File { name, path, inode: uid, kind: Some("socket") });
            document.destination = Some(Address {
                address: if path.is_empty() { "unnamed socket" } else { path }.into(),
                ..Address::default()
            });
            document.network = Some(Network { transport: Some("unix"), ..Network::INTERNAL });
        }
        Object::Endpoint(endpoint) => {
            document.destination = Some(far_end(endpoint));
            document.network = Some(network(action, endpoint));
        }
        Object::Interface(_) | Object::Operation(..) => {}
    }
}

/// The end that takes the connection: of an agent that listens, its own.
fn far_end(endpoint: &Endpoint) -> Address<'_> {
    let Some(ip) = endpoint.addr else {
        let family = match words::family(endpoint.family) {
            Some(name) => format!("address family {name}"),
            None => format!("address family {}", endpoint.family),
        };
        return Address { address: family.into(), ..Address::default() };
    };
    Address {
        address: ip.to_string().into(),
        ip: Some(ip),
        port: Some(endpoint.port),
        domain: None,
    }
}

fn network(action: Action, endpoint: &Endpoint) -> Network {
    let inbound = matches!(action, Action::Listen | Action::Accept);
    let local = |ip: IpAddr| ip.is_loopback() || (!inbound && ip.is_unspecified());
    Network {
        direction: match inbound {
            _ if endpoint.addr.is_some_and(local) => "internal",
            true => "ingress",
            false => "egress",
        },
        iana_number: Some(Text(endpoint.protocol)),
        transport: words::protocol(endpoint.protocol),
        kind: endpoint.addr.map(version),
        protocol: None,
    }
}

fn version(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "ipv4" } else { "ipv6" }
}

fn put_lookup<'a>(document: &mut Document<'a>, lookup: &'a Lookup) {
    let client = lookup.client;
    document.source = Some(Address {
        address: client.ip().to_string().into(),
        ip: Some(client.ip()),
        port: Some(client.port()),
        domain: None,
    });
    document.network = Some(Network {
        iana_number: Some(Text(lookup.protocol)),
        transport: words::protocol(lookup.protocol),
        kind: Some(version(client.ip())),
        protocol: Some("dns"),
        ..Network::INTERNAL
    });
    let answers = lookup.answers.iter();
    document.dns = Some(Dns {
        kind: "answer",
        question: DnsQuestion { name: lookup.name.as_str(), kind: &lookup.kind, class: "IN" },
        answers: answers
            .clone()
            .map(|answer| DnsAnswer {
                data: &answer.data,
                kind: &answer.kind,
                class: "IN",
                ttl: answer.ttl,
            })
            .collect(),
        resolved_ip: answers.filter_map(|answer| answer.data.as_str().parse().ok()).collect(),
        response_code: response_code(lookup.code),
    });
}

/// A DNS response code as its registry calls it.
fn response_code(code: u16) -> std::borrow::Cow<'static, str> {
    match code {
        0 => "NOERROR".into(),
        1 => "FORMERR".into(),
        2 => "SERVFAIL".into(),
        3 => "NXDOMAIN".into(),
        4 => "NOTIMP".into(),
        5 => "REFUSED".into(),
        16 => "BADVERS".into(),
        other => format!("RCODE{other}").into(),
    }
}

/// Whether what was asked for went on.
fn passed(outcome: Outcome) -> bool {
    match outcome {
        Outcome::Allowed | Outcome::Observed => true,
        Outcome::Denied | Outcome::Killed => false,
    }
}
