use agent_guard_common::{decide::Reason, event::Operation};
use bytes::BytesMut;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::event::{
    Encoder, Encoding, Notice, SafeText,
    fixture::{decided, denied, endpoint, file, host, record, socket},
};

fn line(record: &Record) -> String {
    let mut out = BytesMut::new();
    Encoder::new(host(), 0xab).in_encoding(Encoding::Ecs).encode(record, &mut out).unwrap();
    String::from_utf8(out.to_vec()).unwrap()
}

fn document(record: &Record) -> Value {
    serde_json::from_str(&line(record)).unwrap()
}

#[test]
fn a_denied_read_says_who_what_why_and_how_it_ended() {
    let document =
        document(&decided(denied(Action::Read, file(b"/w/.env")), Outcome::Killed, Reason::Rule));
    assert_eq!(document["@timestamp"], "2026-11-18T11:06:40.123Z");
    assert_eq!(document["event"]["category"], json!(["file"]));
    assert_eq!(document["event"]["type"], json!(["access"]));
    assert_eq!(document["event"]["action"], "file-read");
    assert_eq!(document["event"]["outcome"], "failure");
    assert_eq!(document["event"]["reason"], "a rule matches");
    assert_eq!(document["file"], json!({"name": ".env", "path": "/w/.env", "inode": "99"}));
    assert_eq!(document["process"]["pid"], 1234);
    assert_eq!(document["process"]["thread"]["name"], "cat");
    assert_eq!(document["user"]["id"], "0");
    assert_eq!(document["rule"], json!({"name": "secrets", "ruleset": "coder", "version": "abc"}));
    assert_eq!(document["agent_guard"]["agent"]["name"], "coder");
    assert_eq!(document["agent_guard"]["decision"]["outcome"], "killed");
}

#[test]
fn a_refused_connection_is_told_from_an_open_one() {
    let connect = || denied(Action::Connect, endpoint("10.0.0.1", 443, libc::IPPROTO_TCP));
    let refused = document(&connect());
    assert_eq!(refused["event"]["type"], json!(["connection", "denied"]));
    assert_eq!(refused["log"]["level"], "warning");
    let open = document(&decided(connect(), Outcome::Allowed, Reason::Rule));
    assert_eq!(open["event"]["type"], json!(["connection", "allowed"]));
    assert_eq!(open["destination"], json!({"address": "10.0.0.1", "ip": "10.0.0.1", "port": 443}));
    assert_eq!(open["network"]["transport"], "tcp");
    assert_eq!(open["network"]["direction"], "egress");
    let observed = document(&decided(connect(), Outcome::Observed, Reason::Default));
    assert_eq!(observed["event"]["type"], json!(["connection", "allowed"]));
    assert_eq!(observed["event"]["outcome"], "success");
    assert_eq!(observed["agent_guard"]["decision"]["effect"], "deny");
}

#[test]
fn a_program_that_is_run_is_the_process_and_what_ran_before_is_kept() {
    let mut exec = denied(Action::Exec, file(b"/usr/bin/curl"));
    if let Body::Decided { process, .. } = &mut exec.body {
        process.exe = Some(SafeText::new(b"/bin/sh"));
    }
    let process = document(&exec)["process"].take();
    assert_eq!(process["executable"], "/usr/bin/curl");
    assert_eq!(process["name"], "curl");
    assert_eq!(process["previous"]["executable"], "/bin/sh");
}

#[test]
fn a_socket_without_an_address_is_called_by_its_name() {
    let named = document(&denied(Action::ConnectLocal, socket(b"/run/x.sock")));
    assert_eq!(named["destination"], json!({"address": "/run/x.sock"}));
    assert_eq!(named["file"]["type"], "socket");
    assert_eq!(named["network"], json!({"direction": "internal", "transport": "unix"}));
    let unnamed = document(&denied(Action::ConnectLocal, socket(b"")));
    assert_eq!(unnamed["destination"]["address"], "unnamed socket");
}

#[test]
fn an_operation_is_called_as_in_the_policy() {
    let event = document(&denied(Action::Operate, Object::Operation(Operation::Module, 0)));
    assert_eq!(event["event"]["action"], "module");
    assert_eq!(event["event"]["category"], json!(["driver"]));
}

#[test]
fn an_agent_in_a_container_is_told_of_with_it_and_its_pod() {
    let mut denial = denied(Action::Read, file(b"/f"));
    assert!(document(&denial).get("container").is_none());
    let text = |text: &str| SafeText::new(text.as_bytes());
    let mut context = (*denial.context).clone();
    context.agent.container = Some(ContainerIdentity {
        runtime: "cri-o".to_owned(),
        id: text("c0ffee"),
        name: Some(text("agent")),
        image: Some(text("quay.io/acme/agent:1")),
        pod: Some(PodIdentity {
            uid: Some(text("u1")),
            namespace: text("agents"),
            name: text("coding-1"),
            service_account: Some(text("coding")),
        }),
    });
    denial.context = context.into();
    let document = document(&denial);
    let image = json!({"name": "quay.io/acme/agent:1"});
    let due = json!({"id": "c0ffee", "name": "agent", "image": image, "runtime": "cri-o"});
    assert_eq!(document["container"], due);
    let pod = json!({"type": "pod", "name": "coding-1", "id": "u1"});
    let due = json!({"type": "kubernetes", "namespace": "agents", "resource": pod});
    assert_eq!(document["orchestrator"], due);
    assert_eq!(document["agent_guard"]["pod"]["service_account"], "coding");
}

#[test]
fn a_notice_has_no_process_and_says_its_message() {
    let told = document(&record(Body::Notice(Notice::Uncovered { ms: 7 })));
    assert!(told.get("process").is_none());
    assert!(told["message"].is_string());
    assert_eq!(told["agent_guard"]["uncovered_ms"], 7);
}

#[test]
fn events_are_numbered_as_in_ocsf() {
    let read = denied(Action::Read, file(b"/a"));
    let (mut ecs, mut ocsf) = (BytesMut::new(), BytesMut::new());
    let mut encoder = Encoder::new(host(), 0xab).in_encoding(Encoding::Ecs);
    let mut other = Encoder::new(host(), 0xab);
    for number in 1..=2 {
        ecs.clear();
        ocsf.clear();
        encoder.encode(&read, &mut ecs).unwrap();
        other.encode(&read, &mut ocsf).unwrap();
        let ecs: Value = serde_json::from_slice(&ecs).unwrap();
        let ocsf: Value = serde_json::from_slice(&ocsf).unwrap();
        assert_eq!(ecs["event"]["sequence"], number);
        assert_eq!(ecs["event"]["id"], ocsf["metadata"]["uid"]);
        assert_eq!(ecs["agent_guard"], ocsf["unmapped"]["agent_guard"]);
    }
}

proptest! {
    #[test]
    fn any_name_is_one_valid_line(name in proptest::collection::vec(any::<u8>(), 0..64)) {
        let line = line(&denied(Action::Read, file(&name)));
        prop_assert_eq!(line.matches('\n').count(), 1);
        prop_assert!(!line.trim_end_matches('\n').chars().any(char::is_control));
        let document: Value = serde_json::from_str(&line).unwrap();
        let path = document["file"]["path"].as_str().unwrap_or_default();
        let shown = SafeText::new(&name);
        prop_assert_eq!(path, shown.as_str());
    }
}
