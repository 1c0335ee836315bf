use std::{collections::HashMap, io, path::Path as StdPath};

use agent_guard_common::event::Operation;

use super::*;
use crate::policy::{
    AccessSet, Pin,
    compile::{Links, NoLinks},
    pinned::Unfit,
};

const POLICY: &str = "
apiVersion: agent-guard.dev/v1alpha1
kind: AgentPolicy
metadata: {name: test}
spec:
  egress:
    rules:
      - {name: api, effect: allow, to: ['api.example.com:443']}
      - {name: net, effect: allow, to: ['192.0.2.0/24']}
      - {name: no, effect: deny, to: ['192.0.2.9:443']}
      - {name: wild, effect: allow, to: ['*.wild.example:443']}
      - {name: bad, effect: deny, to: ['bad.wild.example']}
  exec:
    rules:
      [{effect: allow, paths: ['/bin/**']}, {name: tools, effect: allow, paths: ['/opt/*'], pin: true}]
  files:
    rules:
      - {name: work, effect: allow, paths: ['/w/**', '/dev/**', '/proc/**']}
      - {name: secrets, effect: deny, paths: ['**/.env']}
  system:
    rules:
      - {name: tools, effect: allow, operations: [mount, chroot]}
      - {name: no-mounts, effect: deny, operations: [mount]}
";

fn policy() -> Policy {
    Policy::parse("test.yaml", POLICY).unwrap()
}

struct Made;

impl Links for Made {
    fn read_link(&self, path: &StdPath) -> io::Result<Option<PathBuf>> {
        let links = HashMap::from([("/bin", "usr/bin"), ("/usr/bin/sh", "dash"), ("/w/e", ".env")]);
        Ok(links.get(path.to_str().unwrap()).map(PathBuf::from))
    }
}

impl Files for Made {
    fn pin(&self, path: &StdPath, _pin: &Pin) -> Result<(), Unfit> {
        if path == StdPath::new("/opt/tool") { Ok(()) } else { Err(Unfit::OpenForWriting) }
    }

    fn is_guarded(&self, path: &StdPath, _writes: bool) -> bool {
        ["/dev/sda", "/dev/pts/7"].iter().any(|guarded| path == StdPath::new(guarded))
    }
}

fn open(path: &str) -> Explanation {
    explain_open(&policy(), StdPath::new(path), AccessSet::ReadWrite, &Made).unwrap()
}

#[test]
fn a_pinned_program_is_allowed_where_it_could_be_pinned() {
    let run = |path: &str| explain_exec(&policy(), StdPath::new(path), &Made).unwrap();
    let allowed = run("/opt/tool");
    assert_eq!((allowed.decision.effect, allowed.decision.reason), (Effect::Allow, Reason::Rule));
    assert!(allowed.to_string().contains("once it is changed or replaced it does not"));
    let denied = run("/opt/other");
    assert_eq!((denied.decision.effect, denied.decision.reason), (Effect::Deny, Reason::Changed));
    assert_eq!(denied.by.as_ref().unwrap().rule.label, "tools");
    assert!(denied.to_string().contains("open for writing"), "{denied}");
}

#[test]
fn a_denial_names_the_rule_and_those_that_lost() {
    assert_eq!(
        open("/w/x/.env").to_string(),
        "deny: read and write /w/x/.env\n  by files rule `secrets` (line 19): deny `**/.env`\n  also matches: files rule `work` (line 18): allow `/w/**`\n"
    );
}

#[test]
fn a_link_is_judged_by_what_it_points_at_and_said() {
    let by_link = open("/w/e");
    assert_eq!(by_link.decision.effect, Effect::Deny);
    assert_eq!(by_link.notes, ["/w/e is /w/.env here"]);
    assert_eq!(open("/proc/self/root/w/.env").decision, by_link.decision);
    let shell = explain_exec(&policy(), StdPath::new("/bin/sh"), &Made).unwrap();
    assert_eq!(shell.decision.effect, Effect::Allow);
    assert_eq!(shell.notes, ["/bin/sh is /usr/bin/dash here"]);
    assert_eq!(shell.by.unwrap().text, "/bin/**");
}

#[test]
fn guarded_things_are_said_to_be() {
    for path in ["/dev/sda", "/dev/pts/7", "/proc/12/environ", "/proc/kcore"] {
        let found = open(path);
        assert_eq!(found.decision, Decision::deny(Reason::Guarded), "{path}");
        assert!(found.to_string().contains("without wildcards"), "{found}");
        assert_eq!(found.also.len(), 1);
    }
    assert!(open("/dev/pts/7").to_string().contains("those that the agent makes"));
    assert_eq!(open("/dev/pts/8").decision.effect, Effect::Allow, "who makes that is to be seen");
    assert_eq!(open("/proc/self/environ").decision.effect, Effect::Allow);
    assert_eq!(open("/proc/thread-self/environ").decision.effect, Effect::Allow);
}

#[test]
fn nothing_that_matches_is_the_default() {
    let found = open("/etc/passwd");
    assert_eq!((found.decision, found.by), (Decision::deny(Reason::Default), None));
}

#[test]
fn a_relative_path_is_refused() {
    let asked = explain_open(&policy(), StdPath::new("x"), AccessSet::Read, &NoLinks);
    assert!(matches!(asked, Err(ExplainError::Relative(_))));
}

#[test]
fn a_host_name_is_judged_by_name() {
    let asked = |text| {
        let answer = explain_connect(&policy(), text).unwrap();
        (answer.decision.effect, answer.by.map(|by| by.rule.label), answer.also.len())
    };
    assert_eq!(asked("API.example.com:443"), (Effect::Allow, Some("api".into()), 0));
    assert_eq!(asked("api.example.com:80"), (Effect::Deny, None, 0));
    assert_eq!(asked("a.wild.example:443"), (Effect::Allow, Some("wild".into()), 0));
    assert_eq!(asked("bad.wild.example:443"), (Effect::Deny, Some("bad".into()), 1));
    assert_eq!(asked("wild.example:443"), (Effect::Deny, None, 0));
    assert_eq!(asked("localhost:443"), (Effect::Deny, None, 0));
    assert_eq!(asked("192.0.2.9:443"), (Effect::Deny, Some("no".into()), 1));
}

#[test]
fn an_endpoint_is_one_host_and_one_port() {
    for text in ["*.example.com:1", "192.0.2.0/24:1", "192.0.2.1", "192.0.2.1:1-2", "*:443"] {
        let asked = explain_connect(&policy(), text);
        assert!(matches!(asked, Err(ExplainError::Many(_))), "{text}");
    }
    assert!(matches!(explain_connect(&policy(), "a b"), Err(ExplainError::Endpoint { .. })));
    let udp = explain_connect(&policy(), "192.0.2.1:53/udp").unwrap();
    assert_eq!(udp.question, "connect 192.0.2.1:53/udp");
}

#[test]
fn an_operation_is_answered_by_its_rule() {
    let ask = |operation| explain_operation(&policy(), operation).unwrap();
    assert_eq!(
        ask(Operation::Mount).to_string(),
        "deny: mount\n  by system rule `no-mounts` (line 23): deny `mount`\n  also matches: system rule `tools` (line 22): allow `mount`\n"
    );
    assert_eq!(ask(Operation::Chroot).decision.effect, Effect::Allow);
    assert_eq!(ask(Operation::Trace).decision, Decision::deny(Reason::Default));
}

const SOCKETS: &str = "
apiVersion: agent-guard.dev/v1alpha1
kind: AgentPolicy
metadata: {name: test}
spec:
  listen:
    rules:
      - {name: all, effect: allow, on: ['*:3000']}
      - {name: one, effect: deny, on: ['10.0.0.1:3000/udp']}
  unix:
    rules:
      - {name: sockets, effect: allow, paths: ['/run/*.sock', '@x*']}
";

#[test]
fn listening_is_explained_for_every_address_at_once_too() {
    let policy = Policy::parse("test.yaml", SOCKETS).unwrap();
    let listen = |address: &str| explain_listen(&policy, address).unwrap().to_string();
    assert_eq!(
        listen("127.0.0.1:3000"),
        "allow: listen 127.0.0.1:3000/tcp\n  by listen rule `all` (line 8): allow `*:3000`\n"
    );
    assert_eq!(
        listen("[::]:3000/udp"),
        "deny: listen [::]:3000/udp\n  by listen rule `one` (line 9): deny `10.0.0.1:3000/udp`\n  note: every address, of IPv4 too: a denial of any one of them holds\n  also matches: listen rule `all` (line 8): allow `*:3000`\n"
    );
    assert_eq!(
        listen("127.0.0.1:3001"),
        "deny: listen 127.0.0.1:3001/tcp\n  no rule matches: the section's `default` holds\n"
    );
    for none in ["*:3000", "127.0.0.1", "localhost:3000", "10.0.0.0/8:80"] {
        assert!(explain_listen(&policy, none).is_err(), "{none}");
    }
}

#[test]
fn sockets_are_explained_by_path_and_by_abstract_name() {
    let policy = Policy::parse("test.yaml", SOCKETS).unwrap();
    let unix = |name: &str| explain_unix(&policy, name, &Made).unwrap().to_string();
    assert_eq!(
        unix("/run/a.sock"),
        "allow: connect /run/a.sock\n  by unix rule `sockets` (line 12): allow `/run/*.sock`\n"
    );
    assert_eq!(
        unix(r"@x/\x00"),
        "allow: connect @x/\\x00\n  by unix rule `sockets` (line 12): allow `@x*`\n"
    );
    let denied = "  no rule matches: the section's `default` holds\n";
    assert_eq!(unix("@y"), format!("deny: connect @y\n{denied}"));
    assert_eq!(unix("/run/sub/a.sock"), format!("deny: connect /run/sub/a.sock\n{denied}"));
    for none in ["run/a.sock", "@x*"] {
        assert!(explain_unix(&policy, none, &Made).is_err(), "{none}");
    }
}
