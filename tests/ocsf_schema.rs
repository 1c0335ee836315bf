//! Every kind of event, validated against the published schemas: of OCSF here, of ECS in `ecs/`.
//!
//! `AGENT_GUARD_OCSF_PYTHON` names a Python that has `ocsf-json-schema` and `jsonschema`.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "what fails here fails the test, helpers included"
)]

use std::{
    ffi::OsString,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    process::{Command, Output},
    sync::Arc,
    time::{Duration, Instant},
};

use agent_guard::{
    audit::{Log, Settings, key, segment},
    event::{
        AgentIdentity, Body, ContainerIdentity, Context, Decision, Encoder, Endpoint, File,
        HookTotals, Host, Lookup, LookupAnswer, LookupReason, Losses, Notice, Object, PathScope,
        PodIdentity, PolicyIdentity, Process, Record, Rule, SafeText, decode,
    },
    policy::Mode,
    tier::Tier,
};
use agent_guard_common::{
    decide::Reason,
    event::{Action, Operation, Outcome},
    hook::Hook,
};
use bytes::BytesMut;

#[path = "ecs/schema.rs"]
mod ecs;

const OUTCOMES: [Outcome; 4] =
    [Outcome::Allowed, Outcome::Denied, Outcome::Killed, Outcome::Observed];

fn python() -> OsString {
    std::env::var_os("AGENT_GUARD_OCSF_PYTHON").expect(
        "this test needs a Python that has the published schema: `cargo xtask test` makes one; by \
         hand: `python3 -m venv target/ocsf && target/ocsf/bin/pip install ocsf-json-schema==1.2.0 \
         jsonschema`, then set AGENT_GUARD_OCSF_PYTHON to the absolute path of target/ocsf/bin/python",
    )
}

fn validate(lines: &[u8]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("events.jsonl");
    fs::write(&file, lines).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/ocsf/validate.py");
    Command::new(python()).arg(script).arg(file).output().expect("Python can be run")
}

fn encoder() -> Encoder {
    let host = Host { name: "host-1".to_owned(), kernel: "6.12.0".to_owned() };
    Encoder::new(host, 0x0123_4567_89ab_cdef)
}

fn encode(records: &[Record]) -> BytesMut {
    let mut lines = BytesMut::new();
    let mut encoder = encoder();
    for record in records {
        encoder.encode(record, &mut lines).unwrap();
    }
    lines
}

fn contexts() -> [Arc<Context>; 2] {
    let full = Context {
        tier: Tier::Trace,
        mode: Mode::Enforce,
        degraded: vec!["egress by host name".to_owned()],
        agent: AgentIdentity {
            name: "coding-agent".to_owned(),
            id: 3,
            cgroup_id: 4711,
            cgroup: SafeText::new(b"/agent-guard/coding-agent"),
            container: Some(ContainerIdentity {
                runtime: "containerd".to_owned(),
                id: SafeText::new(&[b'0'; 64]),
                name: Some(SafeText::new(b"agent")),
                image: Some(SafeText::new(b"ghcr.io/acme/agent:1")),
                pod: Some(PodIdentity {
                    uid: Some(SafeText::new(b"8f6e1d2c-3b4a-5968-7a8b-9c0d1e2f3a4b")),
                    namespace: SafeText::new(b"agents"),
                    name: SafeText::new(b"coding-1"),
                    service_account: Some(SafeText::new(b"coding")),
                }),
            }),
        },
        policy: Some(PolicyIdentity {
            name: "coding-agent".to_owned(),
            revision: "9f86d081884c7d65".to_owned(),
            file: SafeText::new(b"policies/coding-agent.yaml"),
        }),
    };
    let bare = Context {
        tier: Tier::Observe,
        mode: Mode::Audit,
        degraded: Vec::new(),
        agent: AgentIdentity { container: None, ..full.agent.clone() },
        policy: None,
    };
    [Arc::new(full), Arc::new(bare)]
}

fn process(name: &[u8], exe: Option<&[u8]>) -> Process {
    Process {
        pid: 1234,
        tid: 1235,
        ppid: 1,
        uid: 1000,
        gid: 1000,
        cgroup_id: 4711,
        comm: SafeText::new(name),
        exe: exe.map(SafeText::new),
    }
}

fn paths() -> Vec<Vec<u8>> {
    let long = [b"/".as_slice(), &[b'a'; 4095]].concat();
    let worst = [b"/".as_slice(), &[0xff; 4095]].concat();
    [
        &b"/etc/passwd"[..],
        b"/",
        b"",
        b"/new\nline\r",
        b"/\"quotes\" '",
        b"/\x1b[2J",
        b"/\xff\xfe",
        &long,
        &worst,
    ]
    .map(<[u8]>::to_vec)
    .to_vec()
}

fn objects(action: Action) -> Vec<Object> {
    match action {
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
        | Action::Receive
        | Action::ConnectLocal => {
            let scopes = [PathScope::Absolute, PathScope::Filesystem, PathScope::Tail];
            paths()
                .iter()
                .zip(scopes.into_iter().cycle())
                .enumerate()
                .map(|(number, (path, scope))| {
                    let file = File {
                        path: SafeText::new(path),
                        scope,
                        dev: if number == 2 { 0 } else { 8 << 20 | 1 },
                        inode: if number == 2 { 0 } else { u64::MAX },
                    };
                    match action {
                        Action::ConnectLocal => Object::LocalSocket(file),
                        _ => Object::File(file),
                    }
                })
                .collect()
        }
        Action::Connect | Action::Send | Action::CreateSocket | Action::Listen | Action::Accept => {
            [
                (Some(IpAddr::from(Ipv4Addr::LOCALHOST)), 6, libc::AF_INET),
                (Some(Ipv4Addr::UNSPECIFIED.into()), 17, libc::AF_INET),
                (Some(Ipv6Addr::LOCALHOST.into()), 6, libc::AF_INET6),
                (
                    Some(Ipv6Addr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]).into()),
                    132,
                    libc::AF_INET6,
                ),
                (None, 0, libc::AF_VSOCK),
                (None, 17, 99),
            ]
            .map(|(addr, protocol, family)| {
                Object::Endpoint(Endpoint { addr, port: 65535, protocol, family: family as u16 })
            })
            .to_vec()
        }
        Action::IoUring | Action::ShareDescriptors | Action::SourceRoute => {
            vec![Object::Interface("io_uring")]
        }
        Action::Operate => Operation::ALL
            .iter()
            .flat_map(|operation| [0, 77].map(|process| Object::Operation(*operation, process)))
            .collect(),
    }
}

fn hooks(action: Action) -> &'static [Hook] {
    match action {
        Action::Read | Action::ReadWrite => &[Hook::FileOpen, Hook::SysExit, Hook::FileReceive],
        Action::Load => &[Hook::FileOpen, Hook::SysExit],
        Action::Write => &[Hook::FileOpen],
        Action::Exec => &[Hook::BprmCheck, Hook::SchedExec],
        Action::Map => &[Hook::MmapFile, Hook::FileMprotect],
        Action::Create => &[Hook::PathMknod, Hook::PathMkdir, Hook::PathSymlink],
        Action::Delete => &[Hook::PathUnlink, Hook::PathRmdir],
        Action::Rename => &[Hook::PathRename],
        Action::Link => &[Hook::PathLink],
        Action::Truncate => &[Hook::PathTruncate],
        Action::SetMetadata => &[Hook::PathChmod, Hook::InodeSetattr, Hook::InodeSetxattr],
        Action::Receive => &[Hook::FileReceive],
        Action::CreateSocket => &[Hook::SocketCreate],
        Action::Listen => &[Hook::SocketListen, Hook::SocketBind],
        Action::Accept => &[Hook::SocketAccept],
        Action::ConnectLocal => &[Hook::UnixStreamConnect, Hook::UnixMaySend],
        Action::SourceRoute => &[Hook::SocketSetsockopt, Hook::SocketSendmsg],
        Action::Connect => {
            &[Hook::SocketConnect, Hook::Connect4, Hook::Connect6, Hook::FileReceive]
        }
        Action::Send => &[Hook::SocketSendmsg, Hook::NetlinkSend, Hook::Sendmsg4, Hook::Sendmsg6],
        Action::IoUring | Action::ShareDescriptors => &[Hook::SysExit],
        Action::Operate => &[Hook::TaskKill, Hook::SbMount],
    }
}

/// Every action with every object, outcome, reason and hook; every notice; each with and without
/// what is optional.
fn every_record() -> Vec<Record> {
    let rules = [
        Rule { label: "secrets".to_owned(), line: Some(31), class: Some("secret".to_owned()) },
        Rule { label: "files[2]".to_owned(), line: None, class: None },
    ]
    .map(Arc::new);
    let mut records = Vec::new();
    let mut add = |context: &Arc<Context>, body| {
        records.push(Record { time_ns: 1_795_000_000_123_456_789, context: context.clone(), body });
    };
    let mut reasons = Reason::ALL.iter().copied().cycle();
    let [full, bare] = contexts();
    for action in Action::ALL.iter().copied() {
        for outcome in OUTCOMES {
            for hook in hooks(action) {
                for object in objects(action) {
                    let reason = reasons.next().unwrap();
                    let rule = rules.get(reason as usize).cloned();
                    let (context, name, exe) = match outcome {
                        Outcome::Allowed => (&bare, &b"\xff\x1b\n\""[..], None),
                        _ => (&full, &b"cat"[..], Some(&b"/usr/bin/cat"[..])),
                    };
                    add(
                        context,
                        Body::Decided {
                            process: process(name, exe),
                            action,
                            object,
                            decision: Decision {
                                outcome,
                                reason,
                                rule,
                                host: (outcome == Outcome::Allowed).then(|| "api.example".into()),
                            },
                            hook: *hook,
                        },
                    );
                }
            }
        }
    }
    for (number, reason) in LookupReason::ALL.into_iter().enumerate() {
        for outcome in OUTCOMES {
            let answer = |kind: &str, data: &[u8]| LookupAnswer {
                kind: kind.to_owned(),
                data: SafeText::new(data),
                ttl: u32::MAX,
            };
            let lookup = Lookup {
                name: SafeText::new([&b"api.example"[..], b"", b"\xff\n\x1b.x"][number % 3]),
                kind: ["AAAA", "", "TYPE65280"][number % 3].to_owned(),
                client: ["127.0.0.1:40000", "[::1]:53"][number % 2].parse().unwrap(),
                protocol: [6, 17][number % 2],
                code: u16::try_from(number * 3).unwrap(),
                answers: vec![answer("CNAME", b"a\n"), answer("AAAA", b"2001:db8::1")],
                withheld: vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
                outcome,
                reason,
                rule: rules.get(number).cloned(),
            };
            add([&full, &bare][number % 2], Body::Lookup(lookup));
        }
    }
    for context in [&full, &bare] {
        let totals: Vec<_> = Hook::TABLE
            .iter()
            .map(|spec| HookTotals {
                hook: spec.hook,
                decided: 9,
                denied: 2,
                lost: 1,
                failed: 0,
                skipped: 3,
            })
            .collect();
        // More than any count comes to: what readers hold numbers in has a sign.
        let unwritten = i64::MAX.cast_unsigned();
        let losses = Losses { hooks: vec![(Hook::FileOpen, 12)], malformed: 1, unwritten };
        for notice in [
            Notice::Started,
            Notice::Adopted,
            Notice::Uncovered { ms: 1_500 },
            Notice::Stopped { totals },
            Notice::Stopped { totals: Vec::new() },
            Notice::PolicyLoaded { replaces: None },
            Notice::PolicyLoaded { replaces: Some("00ff".to_owned()) },
            Notice::Degraded,
            Notice::EventsLost(losses),
            Notice::DecisionsSkipped(vec![(Hook::FileOpen, 2)]),
        ] {
            add(context, Body::Notice(notice));
        }
    }
    records
}

#[test]
fn every_event_is_valid() {
    let records = every_record();
    let output = validate(&encode(&records));
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    assert_eq!(stdout.trim_end(), format!("{} events, 0 errors", records.len()));
}

#[test]
fn every_record_of_an_audit_log_is_valid() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings {
        directory: dir.path().join("log"),
        key: dir.path().join("key"),
        checkpoint_records: 100,
        checkpoint_every: Duration::from_secs(3_600),
        rotate_bytes: 4 << 20,
    };
    let host = || Host { name: "host-1".to_owned(), kernel: "6.12.0".to_owned() };
    let open = || Log::open(settings.clone(), host(), Instant::now()).unwrap();
    let records = every_record();
    let mut log = open();
    for line in encode(&records).split_inclusive(|byte| *byte == b'\n') {
        log.append(line, Instant::now()).unwrap();
    }
    key::create(&key::beside(&settings.key, "next")).unwrap();
    log.reopen();
    // Killed within a line.
    let path = log.path().to_owned();
    drop(log);
    let torn = [fs::read(&path).unwrap(), b"{\"time\":".to_vec()].concat();
    fs::write(&path, torn).unwrap();
    open().close().unwrap();

    let mut lines = Vec::new();
    for segment in segment::all(&settings.directory).unwrap() {
        lines.extend(fs::read(segment.path).unwrap());
    }
    let whole: Vec<&[u8]> = lines
        .split_inclusive(|byte| *byte == b'\n')
        .filter(|line| *line != b"{\"time\":\n")
        .collect();
    for reason in ["start", "interval", "rotation", "continued", "key", "stop"] {
        let said = format!("\"checkpoint\":{{\"reason\":\"{reason}\"");
        assert!(str::from_utf8(&lines).unwrap().contains(&said), "no checkpoint for {reason}");
    }
    let output = validate(&whole.concat());
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}{}", &stderr[..stderr.len().min(4_000)]);
    assert_eq!(stdout.trim_end(), format!("{} events, 0 errors", whole.len()));
    assert!(whole.len() > records.len());
}

#[test]
fn every_event_can_be_read_back() {
    let records = every_record();
    let lines = encode(&records);
    let read: Vec<Record> = lines
        .split_inclusive(|byte| *byte == b'\n')
        .map(|line| decode(line).unwrap_or_else(|error| panic!("{error}: {}", line.escape_ascii())))
        .collect();
    assert_eq!(read.len(), records.len());
    assert_eq!(encode(&read), lines);
}

#[test]
fn broken_events_are_found() {
    let lines = encode(&every_record()[..1]);
    let line = std::str::from_utf8(&lines).unwrap();
    for (whole, broken, message) in [
        ("\"action_id\":1", "\"action_id\":7", "7 is not one of"),
        ("\"severity_id\":1,", "", "'severity_id' is a required property"),
        ("\"status_id\":1", "\"stranger\":1,\"status_id\":1", "'stranger' was unexpected"),
        (
            "\"disposition\":\"Allowed\"",
            "\"disposition\":\"Blocked\"",
            "disposition_id 1 is 'Allowed'",
        ),
        ("\"type_uid\":100102", "\"type_uid\":100103", "class_uid * 100 + activity_id"),
        ("\"time\":", "\"time\":1,\"time\":", "a key comes twice"),
        ("\"1.8.0\"", "\"1.7.0\"", "metadata.version"),
        ("\n", "", "the line has no end"),
    ] {
        assert!(line.contains(whole), "{whole} stands nowhere in {line}");
        let output = validate(line.replacen(whole, broken, 1).as_bytes());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "not found: {broken}");
        assert!(stderr.contains(message), "{broken}: {stderr}");
    }
    let twice = format!("{line}{line}");
    assert!(String::from_utf8_lossy(&validate(twice.as_bytes()).stderr).contains("is not unique"));
    assert!(!validate(b"").status.success(), "an empty log proves nothing");
}
