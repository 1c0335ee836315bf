//! Puts names to the numbers of a wire event.

use std::{net::IpAddr, sync::Arc};

use agent_guard_common::{
    event::Action,
    table::{ABSTRACT_DEV, NO_RULE},
};

use super::{
    Body, Context, Decision, Endpoint, File, Object, PathScope, Process, Record, Rule, SafeText,
    WireEvent,
};

/// What the numbers of an event stand for.
pub trait Names {
    /// The agent and the policy with these ids. An event outlives both, so an answer is needed for
    /// ids that are gone, too: a name made from the number, and no policy.
    fn context(&self, agent: u32, policy: u32) -> Arc<Context>;
    /// The rule of a policy; `None` where it is not known any more.
    fn rule(&self, policy: u32, rule: u16) -> Option<Arc<Rule>>;
    /// The host name by which the agent was told `address` under `rule`.
    fn host(&self, address: IpAddr, rule: u16) -> Option<Arc<str>>;
    /// Where the file system `dev` (`s_dev`) is mounted, the mount to show first. Empty: nowhere.
    fn mounts(&self, dev: u32) -> &[Mount];
    /// Nanoseconds from the Unix epoch to the zero of `CLOCK_BOOTTIME`.
    fn boot_time_ns(&self) -> u64;
}

/// A place where a file system is mounted, as `/proc/PID/mountinfo` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The directory of the file system that is mounted there: `/`, or a bind mount's source.
    pub root: Vec<u8>,
    /// Where it is mounted, absolute.
    pub point: Vec<u8>,
}

/// The record of `event`.
#[must_use]
pub fn resolve(event: &WireEvent<'_>, names: &impl Names) -> Record {
    let header = &event.header;
    let rule = (header.rule != NO_RULE).then(|| {
        names.rule(header.policy, header.rule).unwrap_or_else(|| {
            Arc::new(Rule { label: format!("rule {}", header.rule), line: None, class: None })
        })
    });
    let host = event.addr().and_then(|address| names.host(address, header.rule));
    Record {
        time_ns: names.boot_time_ns().saturating_add(header.boot_ns),
        context: names.context(header.agent, header.policy),
        body: Body::Decided {
            process: Process {
                pid: header.pid,
                tid: header.tid,
                ppid: header.ppid,
                uid: header.uid,
                gid: header.gid,
                cgroup_id: header.cgroup,
                comm: SafeText::new(event.comm()),
                exe: None,
            },
            action: event.action,
            object: object(event, names),
            decision: Decision { outcome: event.outcome, reason: event.reason, rule, host },
            hook: event.hook,
        },
    }
}

fn object(event: &WireEvent<'_>, names: &impl Names) -> Object {
    match event.action {
        Action::Read
        | Action::Write
        | Action::ReadWrite
        | Action::Exec
        | Action::Load
        | Action::Map
        | Action::Create
        | Action::Delete
        | Action::Rename
        | Action::Link
        | Action::Truncate
        | Action::SetMetadata
        | Action::Receive => Object::File(file(event, names)),
        Action::ConnectLocal => Object::LocalSocket(local_socket(event, names)),
        Action::Connect | Action::Send | Action::CreateSocket | Action::Listen | Action::Accept => {
            Object::Endpoint(Endpoint {
                // A socket that is being made has none.
                addr: event.addr().filter(|_| event.action != Action::CreateSocket),
                port: event.header.port,
                protocol: event.header.protocol,
                family: event.header.family,
            })
        }
        Action::IoUring => Object::Interface("io_uring"),
        Action::ShareDescriptors => Object::Interface("clone with shared descriptors"),
        Action::SourceRoute => Object::Interface("source routing"),
        Action::Operate => Object::Operation(event.operation, event.header.target),
    }
}

fn local_socket(event: &WireEvent<'_>, names: &impl Names) -> File {
    if event.header.dev != ABSTRACT_DEV {
        return file(event, names);
    }
    let mut name = SafeText::new(b"@");
    event.names.iter().for_each(|bytes| name.push(bytes));
    File { path: name, scope: PathScope::Absolute, dev: 0, inode: 0 }
}

fn file(event: &WireEvent<'_>, names: &impl Names) -> File {
    let (dev, inode) = (event.header.dev, event.header.inode);
    // A walk that failed may have ended anywhere.
    let (path, scope) = if event.reason.is_failure() {
        (join(b"", &event.names), PathScope::Tail)
    } else if event.names.is_empty() && inode == 0 {
        (SafeText::default(), PathScope::Filesystem)
    } else {
        names
            .mounts(dev)
            .iter()
            .find_map(|mount| Some((mounted(mount, &event.names)?, PathScope::Absolute)))
            .unwrap_or_else(|| (rooted(b"", &event.names), PathScope::Filesystem))
    };
    File { path, scope, dev, inode }
}

/// The absolute path of what `names` lead to from the leaf up, where `mount` shows it.
fn mounted(mount: &Mount, names: &[&[u8]]) -> Option<SafeText> {
    let mut below = names;
    for expected in mount.root.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        let (name, rest) = below.split_last()?;
        below = if *name == expected { rest } else { return None };
    }
    Some(rooted(mount.point.strip_suffix(b"/").unwrap_or(&mount.point), below))
}

/// As [`join`], where no names at all mean the root itself.
fn rooted(base: &[u8], names: &[&[u8]]) -> SafeText {
    if base.is_empty() && names.is_empty() { SafeText::new(b"/") } else { join(base, names) }
}

fn join(base: &[u8], names: &[&[u8]]) -> SafeText {
    let len = names.iter().fold(base.len(), |len, name| len + 1 + name.len());
    let mut path = SafeText::with_capacity(len);
    path.push(base);
    for name in names.iter().rev() {
        path.push_component(name);
    }
    path
}

#[cfg(test)]
mod tests {
    use agent_guard_common::{
        decide::Reason,
        event::{EventHeader, Operation, Outcome},
    };
    use proptest::prelude::*;

    use super::{
        super::{
            fixture::context,
            wire::tests::{HEADER, wire},
        },
        *,
    };

    const DISK: u32 = HEADER.dev;

    struct Known {
        mounts: Vec<Mount>,
    }

    impl Known {
        fn mounted(mounts: &[(&str, &str)]) -> Self {
            let mount = |(root, point): &(&str, &str)| Mount {
                root: root.as_bytes().to_vec(),
                point: point.as_bytes().to_vec(),
            };
            Self { mounts: mounts.iter().map(mount).collect() }
        }
    }

    impl Names for Known {
        fn context(&self, agent: u32, _: u32) -> Arc<Context> {
            let mut context = context();
            context.agent.id = agent;
            Arc::new(context)
        }
        fn rule(&self, _: u32, rule: u16) -> Option<Arc<Rule>> {
            (rule == 3).then(|| {
                Arc::new(Rule { label: "secrets".to_owned(), line: Some(31), class: None })
            })
        }
        fn host(&self, _: IpAddr, rule: u16) -> Option<Arc<str>> {
            (rule == 4).then(|| "api.example.com".into())
        }
        fn mounts(&self, dev: u32) -> &[Mount] {
            if dev == DISK { &self.mounts } else { &[] }
        }
        fn boot_time_ns(&self) -> u64 {
            1_000
        }
    }

    fn file_of(header: EventHeader, names: &[&[u8]], mounts: &[(&str, &str)]) -> File {
        let bytes = wire(header, names);
        let record = resolve(&WireEvent::parse(&bytes).unwrap(), &Known::mounted(mounts));
        match record.body {
            Body::Decided { object: Object::File(file), .. } => file,
            other => panic!("{other:?}"),
        }
    }

    fn path_of(names: &[&[u8]], mounts: &[(&str, &str)]) -> (String, PathScope) {
        let file = file_of(HEADER, names, mounts);
        (file.path.to_string(), file.scope)
    }

    #[test]
    fn names_from_the_leaf_up_become_a_path_from_the_root_down() {
        for (mounts, path) in [
            (("/", "/"), "/home/a/.env"),
            (("/", "/mnt/disk"), "/mnt/disk/home/a/.env"),
            (("/home", "/srv"), "/srv/a/.env"),
            (("/home/a/.env", "/run/secret"), "/run/secret"),
        ] {
            let found = path_of(&[b".env", b"a", b"home"], &[mounts]);
            assert_eq!(found, (path.to_owned(), PathScope::Absolute), "{mounts:?}");
        }
    }

    #[test]
    fn the_root_has_a_path_too() {
        assert_eq!(path_of(&[], &[("/", "/")]), ("/".to_owned(), PathScope::Absolute));
        assert_eq!(path_of(&[], &[("/", "/mnt")]), ("/mnt".to_owned(), PathScope::Absolute));
        assert_eq!(path_of(&[], &[]), ("/".to_owned(), PathScope::Filesystem));
    }

    #[test]
    fn the_first_mount_that_holds_the_file_is_shown() {
        let mounts = [("/other", "/a"), ("/hom", "/b"), ("/home", "/c"), ("/", "/d")];
        let found = path_of(&[b"f", b"home"], &mounts);
        assert_eq!(found, ("/c/f".to_owned(), PathScope::Absolute));
    }

    #[test]
    fn a_file_mounted_nowhere_is_never_given_an_absolute_path() {
        let names: [&[u8]; 2] = [b"passwd", b"etc"];
        assert_eq!(path_of(&names, &[]), ("/etc/passwd".to_owned(), PathScope::Filesystem));
        assert_eq!(path_of(&names, &[("/srv", "/")]).1, PathScope::Filesystem);
        let elsewhere = EventHeader { dev: 99, ..HEADER };
        assert_eq!(file_of(elsewhere, &names, &[("/", "/")]).scope, PathScope::Filesystem);
    }

    #[test]
    fn a_walk_that_was_given_up_is_never_shown_as_whole() {
        let given_up = EventHeader { reason: Reason::TooDeep as u8, ..HEADER };
        let file = file_of(given_up, &[b"passwd", b"etc"], &[("/", "/")]);
        assert_eq!((file.path.as_str(), file.scope), ("/etc/passwd", PathScope::Tail));
    }

    #[test]
    fn an_abstract_name_is_shown_whole_whatever_its_bytes() {
        let name = b"a/b\0\xff\n\\".as_slice();
        let header = EventHeader {
            action: Action::ConnectLocal as u8,
            dev: ABSTRACT_DEV,
            inode: 0,
            path_len: name.len() as u32,
            ..HEADER
        };
        for name in [name, b""] {
            let mut bytes = wire(EventHeader { path_len: 0, ..header }, &[]);
            let len = std::mem::offset_of!(EventHeader, path_len);
            bytes[len..len + 4].copy_from_slice(&(name.len() as u32).to_ne_bytes());
            bytes.extend_from_slice(name);
            let record = resolve(&WireEvent::parse(&bytes).unwrap(), &Known::mounted(&[]));
            let Body::Decided { object: Object::LocalSocket(socket), .. } = record.body else {
                panic!("{:?}", record.body)
            };
            assert_eq!(socket.path.to_bytes(), [b"@", name].concat());
            assert_eq!((socket.scope, socket.dev), (PathScope::Absolute, 0));
        }
    }

    #[test]
    fn time_rule_and_agent_are_named() {
        let known = Known::mounted(&[]);
        let of = |rule| {
            let header = EventHeader { rule, outcome: Outcome::Killed as u8, ..HEADER };
            resolve(&WireEvent::parse(&wire(header, &[b"a"])).unwrap(), &known)
        };
        let record = of(3);
        assert_eq!(record.time_ns, 1_001);
        assert_eq!(record.context.agent.id, 1);
        let rule = |record: Record| match record.body {
            Body::Decided { decision, .. } => decision.rule.map(|rule| rule.label.clone()),
            Body::Notice(_) | Body::Lookup(_) => None,
        };
        assert_eq!(rule(record).as_deref(), Some("secrets"));
        assert_eq!(rule(of(4)).as_deref(), Some("rule 4"), "a rule that is gone keeps its number");
        assert_eq!(rule(of(NO_RULE)), None);
    }

    #[test]
    fn an_operation_keeps_its_kind_and_its_target() {
        let header = EventHeader {
            action: Action::Operate as u8,
            operation: Operation::Signal as u8,
            target: 77,
            ..HEADER
        };
        let bytes = wire(header, &[]);
        let record = resolve(&WireEvent::parse(&bytes).unwrap(), &Known::mounted(&[]));
        let Body::Decided { object, .. } = record.body else { panic!("{record:?}") };
        assert_eq!(object, Object::Operation(Operation::Signal, 77));
    }

    proptest! {
        #[test]
        fn the_bytes_of_a_path_come_back(
            names in proptest::collection::vec(
                proptest::collection::vec(
                    any::<u8>().prop_filter("no name holds these", |b| *b != 0 && *b != b'/'),
                    1..40,
                ),
                1..12,
            ),
        ) {
            let leaf_first: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
            let file = file_of(HEADER, &leaf_first, &[("/", "/")]);
            let mut expected = Vec::new();
            for name in leaf_first.iter().rev() {
                expected.push(b'/');
                expected.extend_from_slice(name);
            }
            prop_assert_eq!(file.path.to_bytes(), expected);
        }
    }
}
