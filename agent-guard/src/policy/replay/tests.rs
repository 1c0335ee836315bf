use std::net::IpAddr;

use agent_guard_common::{
    decide::{Reason, Transport},
    event::{Action as Kind, Operation, Outcome},
    table::Effect,
};

use super::*;
use crate::{
    event::{
        Body, Lookup, LookupAnswer, LookupReason, Object, Record, SafeText,
        fixture::{decided, denied, endpoint, file, record, socket},
    },
    policy::{Policy, compile::NoLinks},
};

/// What an audit run under a policy without rules records of these.
pub fn observed(kind: Kind, object: Object) -> Record {
    decided(denied(kind, object), Outcome::Observed, Reason::Default)
}

/// A name that was asked for, and the address that it was said to have.
pub fn looked_up(name: &str, address: &str) -> Record {
    record(Body::Lookup(Lookup {
        name: SafeText::new(name.as_bytes()),
        kind: "A".to_owned(),
        client: ([127, 0, 0, 1], 40_000).into(),
        protocol: 17,
        code: 0,
        answers: vec![LookupAnswer {
            kind: "A".to_owned(),
            data: SafeText::new(address.as_bytes()),
            ttl: 60,
        }],
        withheld: Vec::new(),
        outcome: Outcome::Observed,
        reason: LookupReason::Default,
        rule: None,
    }))
}

pub fn collect(records: &[Record]) -> Actions {
    let mut collector = Collector::default();
    records.iter().for_each(|record| collector.add(record));
    collector.finish()
}

fn texts(actions: &Actions) -> Vec<(String, u64)> {
    actions.actions.iter().map(|action| (action.question.to_string(), action.events)).collect()
}

#[test]
fn an_action_is_one_however_often_and_by_whomever_it_was_done() {
    let actions = collect(&[
        observed(Kind::Read, file(b"/b")),
        observed(Kind::Read, file(b"/a")),
        observed(Kind::Read, file(b"/b")),
        observed(Kind::Truncate, file(b"/b")),
        observed(Kind::Delete, file(b"/b")),
        observed(Kind::Operate, Object::Operation(Operation::Mount, 0)),
        observed(Kind::Operate, Object::Operation(Operation::Mount, 7)),
    ]);
    let due = [("mount", 2), ("read /a", 1), ("read /b", 2), ("write /b", 2)];
    assert_eq!(texts(&actions), due.map(|(text, count)| (text.to_owned(), count)));
    assert_eq!(actions.events(), 7);
}

#[test]
fn a_program_that_is_told_of_as_it_is_opened_is_run_and_its_loader_is_not() {
    let opened = |path: &[u8]| observed(Kind::Load, file(path));
    let loader = b"/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2";
    let actions =
        collect(&[opened(b"/usr/bin/ls"), opened(loader), observed(Kind::Map, file(b"/lib/libc"))]);
    let due = [
        "load /lib/libc",
        "load /usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
        "run /usr/bin/ls",
    ];
    assert_eq!(texts(&actions), due.map(|text| (text.to_owned(), 1)));
}

#[test]
fn names_come_back_byte_by_byte() {
    let actions = collect(&[observed(Kind::Read, file(b"/a\n/\xff\\x"))]);
    let Question::File { path, .. } = &actions.actions[0].question else { panic!() };
    assert_eq!(path, &[Box::from(&b"a\n"[..]), Box::from(&b"\xff\\x"[..])]);
}

#[test]
fn the_agents_own_processes_are_self_and_others_stay_guarded() {
    // 1234 is who acts in these records.
    let other =
        decided(denied(Kind::Read, file(b"/proc/1/environ")), Outcome::Observed, Reason::Guarded);
    let actions = collect(&[
        observed(Kind::Read, file(b"/proc/1234/status")),
        observed(Kind::Read, file(b"/proc/99/stat")),
        observed(Kind::Write, file(b"/proc/1234/task/1234/comm")),
        other,
        observed(Kind::Write, file(b"/proc/1/comm")),
    ]);
    let guarded: Vec<(String, bool)> = actions
        .actions
        .iter()
        .map(|action| match &action.question {
            Question::File { guarded, .. } => (action.question.to_string(), *guarded),
            other => panic!("{other}"),
        })
        .collect();
    let due = [
        ("read /proc/1/environ", true),
        ("read /proc/self/stat", false),
        ("read /proc/self/status", false),
        ("write /proc/1/comm", true),
        ("write /proc/self/task/1234/comm", true),
    ];
    assert_eq!(guarded, due.map(|(text, guarded)| (text.to_owned(), guarded)));
}

#[test]
fn an_address_has_the_name_that_was_told_for_it() {
    let connect = |address| observed(Kind::Connect, endpoint(address, 443, libc::IPPROTO_TCP));
    let at = |mut record: Record, seconds: u64| {
        record.time_ns = seconds * 1_000_000_000;
        record
    };
    let actions = collect(&[
        at(looked_up("a.example", "192.0.2.1"), 1),
        at(connect("192.0.2.1"), 2),
        at(looked_up("b.example.", "192.0.2.1"), 3),
        at(connect("192.0.2.2"), 4),
        at(looked_up("c.example", "192.0.2.2"), 5),
        at(connect("192.0.2.3"), 6),
    ]);
    let connects: Vec<String> = texts(&actions)
        .into_iter()
        .map(|(text, _)| text)
        .filter(|text| text.starts_with('c'))
        .collect();
    let due = [
        "connect 192.0.2.1:443/tcp (a.example)",
        "connect 192.0.2.2:443/tcp (c.example)",
        "connect 192.0.2.3:443/tcp",
    ];
    assert_eq!(connects, due);
}

#[test]
fn what_no_policy_speaks_of_is_counted_and_not_asked() {
    let own = decided(denied(Kind::ConnectLocal, socket(b"/s")), Outcome::Allowed, Reason::Own);
    let deep = decided(denied(Kind::Read, file(b"/a")), Outcome::Denied, Reason::TooDeep);
    let made = denied(Kind::Send, endpoint("192.0.2.1", 1, libc::IPPROTO_SCTP));
    let notice = record(Body::Notice(crate::event::Notice::Started));
    let actions = collect(&[own, deep, made, notice]);
    assert!(actions.actions.is_empty());
    let each = [Unasked::Notice, Unasked::Free, Unasked::Nameless, Unasked::Closed];
    assert_eq!(actions.unasked, each.map(|why| (why, 1)).into());
}

#[test]
fn recorded_actions_are_judged_as_the_kernel_would() {
    let policy = Policy::parse(
        "p.yaml",
        "apiVersion: agent-guard.dev/v1alpha1
kind: AgentPolicy
metadata: {name: test}
spec:
  egress:
    rules:
      - {name: api, effect: allow, to: ['api.example:443']}
      - {name: no, effect: deny, to: ['192.0.2.9']}
  exec: {rules: [{effect: allow, paths: ['/bin/*']}]}
  files:
    rules:
      - {name: all, effect: allow, paths: ['/**']}
      - {name: exact, effect: allow, paths: ['/dev/kvm']}
      - {name: secrets, effect: deny, paths: ['**/.env']}
  listen: {rules: [{effect: allow, on: ['127.0.0.1:8000-8999']}]}
  unix: {rules: [{effect: allow, paths: ['@bus-*', '/run/x']}]}
  system: {rules: [{effect: allow, operations: [chroot]}]}
",
    )
    .unwrap();
    let judge = Judge::new(&policy, &NoLinks).unwrap();
    let tcp = |kind, address| observed(kind, endpoint(address, 443, libc::IPPROTO_TCP));
    for (records, effect, by) in [
        (vec![observed(Kind::Read, file(b"/w/a"))], Effect::Allow, "files rule `all` (line 12)"),
        (
            vec![observed(Kind::Read, file(b"/w/.env"))],
            Effect::Deny,
            "files rule `secrets` (line 14)",
        ),
        (vec![observed(Kind::Read, file(b"/dev/sda"))], Effect::Deny, "a device"),
        (
            vec![observed(Kind::Read, file(b"/dev/kvm"))],
            Effect::Allow,
            "files rule `exact` (line 13)",
        ),
        (vec![observed(Kind::Write, file(b"/proc/sys/vm/swappiness"))], Effect::Deny, "a device"),
        (vec![observed(Kind::Exec, file(b"/bin/ls"))], Effect::Allow, "exec rule `exec[0]`"),
        (vec![observed(Kind::Exec, file(b"/usr/bin/ls"))], Effect::Deny, "default"),
        (vec![tcp(Kind::Connect, "192.0.2.1")], Effect::Deny, "default"),
        (
            vec![tcp(Kind::Connect, "192.0.2.1"), looked_up("api.example", "192.0.2.1")],
            Effect::Allow,
            "egress rule `api`",
        ),
        (
            vec![tcp(Kind::Connect, "192.0.2.9"), looked_up("api.example", "192.0.2.9")],
            Effect::Deny,
            "egress rule `no`",
        ),
        (vec![looked_up("other.example", "192.0.2.7")], Effect::Deny, "default"),
        (vec![tcp(Kind::Listen, "127.0.0.1")], Effect::Deny, "default"),
        (vec![observed(Kind::ConnectLocal, socket(b"@bus-1"))], Effect::Allow, "unix rule"),
        (vec![observed(Kind::ConnectLocal, socket(b"/run/x"))], Effect::Allow, "unix rule"),
        (
            vec![observed(Kind::Operate, Object::Operation(Operation::Bpf, 0))],
            Effect::Deny,
            "default",
        ),
    ] {
        let actions = collect(&records);
        let verdict = judge.judge(&actions.actions[0].question);
        assert_eq!(verdict.effect, effect, "{}: {verdict}", actions.actions[0].question);
        assert!(verdict.to_string().contains(by), "{}: {verdict}", actions.actions[0].question);
    }
}

#[test]
fn a_connection_to_the_wildcard_is_one_to_loopback() {
    let actions = collect(&[observed(Kind::Connect, endpoint("::", 80, libc::IPPROTO_TCP))]);
    let due = Question::Connect {
        address: IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
        port: 80,
        transport: Transport::Tcp,
        name: None,
    };
    assert_eq!(actions.actions[0].question, due);
}
