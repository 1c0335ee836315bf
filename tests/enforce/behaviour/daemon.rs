//! The daemon: which workloads it guards, with which policy, and for how long.

use std::{
    fs,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    process::Stdio,
};

use agent_guard::tier::Tier;
use rustix::process::Signal;
use serde_json::Value;

use super::{ALLOW_ALL, Behaviour, DENY_SECRETS, actor, secret_place};
use crate::{
    actor::{End, Report},
    daemon::Daemon,
    guard::{Decided, Reader, tier},
    scratch::Scratch,
};

pub const PROMISES: &[Behaviour] = &[
    ("a workload that a policy selects is under it while its cgroup is there", selected),
    ("a policy that is changed holds for who runs, and one that is none changes nothing", reloaded),
    (
        "a policy that is for others now takes nobody along, and gives way to one that is",
        reselected,
    ),
    ("a policy is loaded over the control socket whole, or not at all", loaded),
    ("a daemon that is killed changes no verdict, and the next takes its workloads over", killed),
    (
        "a workload that ran before is taken in, and for how long nothing judged it is told",
        found_running,
    ),
    ("nothing is allowed to a workload that two policies are for, until one is", ambiguous),
    ("a workload in another's is under that one's policy, and this is shown", nested),
    ("the daemon does not guard what it is in itself", not_itself),
    ("an agent learns of itself alone over the control socket, and others nothing", control),
    ("there is one daemon", one),
];

/// How an open of the secret ends under a policy that denies it.
fn denied() -> End {
    match tier() {
        Tier::Lsm => End::Errno(libc::EACCES),
        Tier::Trace => End::Signal(libc::SIGKILL),
        Tier::Observe => End::Done,
    }
}

/// Opens the secret in a cgroup.
fn open_secret(daemon: &Daemon, scratch: &Scratch, cgroup: &str) -> Report {
    let command = actor(scratch, &["open", "{root}/secret/key"]);
    let output = daemon.inside(cgroup, &command).output().unwrap();
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

/// The denials of secrets in the log, once there are as many as that.
fn denials(daemon: &Daemon, count: usize) -> Vec<Value> {
    let of_secrets = |event: &Value| {
        Decided::of(event).is_some_and(|event| event.is_denial() && event.by() == "secrets")
    };
    daemon.until("a denial", || {
        let events = daemon.events();
        let found: Vec<Value> = events.into_iter().filter(of_secrets).collect();
        assert!(found.len() <= count, "{} denials where {count} are due", found.len());
        (found.len() == count).then_some(found)
    })
}

fn selected() {
    let (mut daemon, scratch) = (Daemon::new(), secret_place());
    daemon.policy("coding", "/coding-*", &scratch.place.fill(DENY_SECRETS));
    daemon.start();
    let cgroup = daemon.make("/coding-1");
    fs::create_dir(daemon.cgroup("/other")).unwrap();
    let agent = daemon.agent("/coding-1").unwrap();
    assert_eq!((&agent["policy"], &agent["problem"]), (&"coding".into(), &Value::Null));
    assert_eq!(daemon.agent("/other"), None);

    assert_eq!(open_secret(&daemon, &scratch, "/other").end, End::Done, "the control");
    assert_eq!(open_secret(&daemon, &scratch, "/coding-1").end, denied());
    let denials = denials(&daemon, 1);
    let told = &denials[0]["unmapped"]["agent_guard"];
    assert_eq!(told["agent"]["name"], "coding-1");
    assert_eq!(denials[0]["policy"]["name"], "coding");
    let status = daemon.view(&["status"]);
    assert_eq!((&status["tier"], &status["broken"]), (&tier().name().into(), &Value::Null));
    assert!(status["hooks"].as_array().unwrap().len() > 5, "{status}");

    fs::remove_dir(cgroup).unwrap();
    daemon.until("the end of the workload", || daemon.agent("/coding-1").is_none().then_some(()));
    let events = daemon.events();
    let last = events.last().unwrap();
    assert_eq!(
        (&last["activity_name"], &last["unmapped"]["agent_guard"]["agent"]["name"]),
        (&"Stop".into(), &"coding-1".into())
    );
}

fn reloaded() {
    let (mut daemon, scratch) = (Daemon::new(), secret_place());
    daemon.policy("coding", "/coding", ALLOW_ALL);
    daemon.start();
    daemon.make("/coding");
    let revision = || daemon.agent("/coding").unwrap()["revision"].clone();
    let first = revision();
    assert_eq!(open_secret(&daemon, &scratch, "/coding").end, End::Done);

    // Who runs already is under the new one.
    let sign = scratch.path("sign");
    let script = format!(
        "until [ -e {} ]; do sleep 0.1; done; exec {}",
        sign.display(),
        actor(&scratch, &["open", "{root}/secret/key"]).join(" ")
    );
    let shell = ["/bin/sh", "-c", &script];
    let mut running = daemon.inside("/coding", &shell).stdout(Stdio::piped()).spawn().unwrap();
    daemon.policy("coding", "/coding", &scratch.place.fill(DENY_SECRETS));
    daemon.until("the new policy", || (revision() != first).then_some(()));
    let second = revision();
    assert_eq!(open_secret(&daemon, &scratch, "/coding").end, denied());
    let told =
        daemon.events().into_iter().rfind(|event| event["activity_name"] == "Update").unwrap();
    assert_eq!(told["unmapped"]["agent_guard"]["replaces"], first);
    let said = Reader::of(running.stdout.take().unwrap());
    fs::write(&sign, "").unwrap();
    running.wait().unwrap();
    let report: Report = serde_json::from_slice(&said.finish()).unwrap();
    assert_eq!(report.end, denied());

    daemon.policy("coding", "/coding", "files: {default: maybe}");
    let problem = daemon.until("the problem", || {
        let policies = daemon.view(&["policy", "list"]);
        Some(policies[0]["problem"].as_str()?.to_owned())
    });
    assert!(problem.contains("`maybe`"), "{problem}");
    assert_eq!(daemon.ask(&["policy", "list"]).status.code(), Some(1));
    assert_eq!(daemon.ask(&["status"]).status.code(), Some(1));
    assert_eq!(revision(), second);
    assert_eq!(open_secret(&daemon, &scratch, "/coding").end, denied());

    // A file that is gone widens nothing.
    fs::remove_file(daemon.path("policies/coding.yaml")).unwrap();
    daemon.until("the loss", || {
        daemon.view(&["policy", "list"]).as_array().unwrap().is_empty().then_some(())
    });
    assert_eq!(open_secret(&daemon, &scratch, "/coding").end, denied());
}

fn reselected() {
    let (mut daemon, scratch) = (Daemon::new(), secret_place());
    let deny = scratch.place.fill(DENY_SECRETS);
    daemon.policy("first", "/a", &deny);
    daemon.start();
    daemon.make("/a");
    let problem = || daemon.agent("/a").unwrap()["problem"].as_str().unwrap_or("").to_owned();

    // It is for others from here on, and wider.
    daemon.policy("first", "/b", ALLOW_ALL);
    daemon
        .until("the problem", || problem().contains("no policy is for it any more").then_some(()));
    assert_eq!(open_secret(&daemon, &scratch, "/a").end, denied());

    // A second one takes nothing away from who is under the first.
    daemon.policy("first", "/a", &deny);
    daemon.until("the policy", || problem().is_empty().then_some(()));
    daemon.policy("second", "/a", ALLOW_ALL);
    daemon.until("the problem", || problem().contains("are all for it").then_some(()));
    assert_eq!(daemon.agent("/a").unwrap()["policy"], "first");
    assert_eq!(open_secret(&daemon, &scratch, "/a").end, denied());

    // Until it is the only one.
    daemon.policy("first", "/b", &deny);
    daemon.until("the other", || (daemon.agent("/a")?["policy"] == "second").then_some(()));
    assert_eq!(problem(), "");
    assert_eq!(open_secret(&daemon, &scratch, "/a").end, End::Done);
}

fn loaded() {
    let (mut daemon, scratch) = (Daemon::new(), secret_place());
    daemon.policy("coding", "/coding", ALLOW_ALL);
    daemon.start();
    daemon.make("/coding");
    let load = |text: &str| {
        let file = scratch.file("policy.yaml", text);
        daemon.ask(&["policy", "load", file.to_str().unwrap()])
    };
    let text = daemon.policy_text("coding", "/coding", &scratch.place.fill(DENY_SECRETS));
    let output = load(&text);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("is in force for 1 workload(s), read back from the kernel"), "{said}");
    assert_eq!(open_secret(&daemon, &scratch, "/coding").end, denied());
    assert_eq!(daemon.view(&["policy", "show", "coding"]), text);

    let bad = load(&text.replace("default: allow", "default: maybe"));
    assert_eq!(bad.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&bad.stderr).contains("`maybe`"));
    assert_eq!(daemon.view(&["policy", "show", "coding"]), text);

    // What can not come into force leaves the one before it: here a program that is not the one that
    // is pinned.
    let digest = "0".repeat(64);
    let pins = format!(
        "exec: {{rules: [{{effect: allow, pin: 'sha256:{digest}', paths: [/usr/bin/true]}}]}}"
    );
    let output = load(&daemon.policy_text("coding", "/coding", &pins));
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("did not come into force") && said.contains("/usr/bin/true"), "{said}");
    assert_eq!(daemon.view(&["policy", "show", "coding"]), text);
    assert_eq!(open_secret(&daemon, &scratch, "/coding").end, denied());
    assert_eq!(daemon.agent("/coding").unwrap()["problem"], Value::Null);

    // Nothing of another policy is overwritten.
    daemon.policy("taken", "/nobody", ALLOW_ALL);
    let file = daemon.path("policies/taken.yaml");
    fs::write(&file, fs::read_to_string(&file).unwrap().replace("name: taken", "name: other"))
        .unwrap();
    daemon.until("the policy", || {
        daemon.ask(&["policy", "show", "other"]).status.success().then_some(())
    });
    let output = load(&daemon.policy_text("taken", "/nobody", ALLOW_ALL));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("holds the policy other"), "{said}");

    let output = daemon.ask(&["policy", "unload", "coding"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(open_secret(&daemon, &scratch, "/coding").end, denied());
    assert_eq!(daemon.ask(&["policy", "unload", "coding"]).status.code(), Some(1));
}

fn killed() {
    let (mut daemon, scratch) = (Daemon::new(), secret_place());
    daemon.policy("coding", "/coding", &scratch.place.fill(DENY_SECRETS));
    daemon.start();
    daemon.make("/coding");
    let id = daemon.agent("/coding").unwrap()["id"].clone();
    assert_eq!(open_secret(&daemon, &scratch, "/coding").end, denied());
    denials(&daemon, 1);
    daemon.end(Signal::KILL);
    assert_eq!(open_secret(&daemon, &scratch, "/coding").end, denied());
    let output = daemon.ask(&["status"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no daemon answers"));

    // One that died while a workload waited for its policy lets it go on.
    let cgroup = daemon.cgroup("/coding");
    let note = format!("/run/agent-guard/frozen-{}", fs::metadata(&cgroup).unwrap().ino());
    fs::write(&note, cgroup.as_os_str().as_bytes()).unwrap();
    fs::write(cgroup.join("cgroup.freeze"), "1").unwrap();

    // What nobody was there to read is told, and a policy that has become none meanwhile changes nothing.
    fs::write(daemon.path("policies/coding.yaml"), "spec").unwrap();
    daemon.start();
    assert_eq!(fs::read_to_string(cgroup.join("cgroup.freeze")).unwrap(), "0\n");
    assert!(!std::path::Path::new(&note).exists());
    denials(&daemon, 2);
    let agent = daemon.agent("/coding").unwrap();
    assert_eq!((&agent["id"], &agent["policy"]), (&id, &"coding".into()));
    assert_eq!(open_secret(&daemon, &scratch, "/coding").end, denied());
    denials(&daemon, 3);

    // So it is where it ends in order.
    daemon.end(Signal::TERM);
    assert_eq!(open_secret(&daemon, &scratch, "/coding").end, denied());
    daemon.policy("coding", "/coding", ALLOW_ALL);
    daemon.start();
    assert_eq!(open_secret(&daemon, &scratch, "/coding").end, End::Done);
    assert_eq!(daemon.agent("/coding").unwrap()["id"], id);
}

fn found_running() {
    let (mut daemon, scratch) = (Daemon::new(), secret_place());
    daemon.policy("coding", "/coding", &scratch.place.fill(DENY_SECRETS));
    fs::create_dir(daemon.cgroup("/coding")).unwrap();
    let mut sleeper = daemon.inside("/coding", &["/bin/sleep", "1000"]).spawn().unwrap();
    daemon.start();
    assert_eq!(sleeper.try_wait().unwrap(), None, "who ran before goes on");
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    assert_eq!(open_secret(&daemon, &scratch, "/coding").end, denied());
    let uncovered = daemon.until("the notice", || {
        daemon.events().into_iter().find(|event| event["activity_name"] == "Uncovered")
    });
    let ms = uncovered["unmapped"]["agent_guard"]["uncovered_ms"].as_u64().unwrap();
    assert!(ms > 0 && ms < 600_000, "{ms}");
}

fn ambiguous() {
    let (mut daemon, scratch) = (Daemon::new(), secret_place());
    daemon.policy("one", "/coding", ALLOW_ALL);
    daemon.policy("two", "/cod*", ALLOW_ALL);
    daemon.start();
    daemon.make("/coding");
    let agent = daemon.agent("/coding").unwrap();
    let problem = agent["problem"].as_str().unwrap();
    assert!(problem.contains("the policies one, two are all for it"), "{problem}");
    assert_eq!(daemon.ask(&["agents"]).status.code(), Some(1));
    let run = || daemon.inside("/coding", &["/bin/true"]).status();
    match tier() {
        Tier::Lsm => assert_eq!(run().unwrap_err().raw_os_error(), Some(libc::EACCES)),
        Tier::Trace => assert_eq!(run().unwrap().code(), None),
        Tier::Observe => assert!(run().unwrap().success()),
    }

    fs::remove_file(daemon.path("policies/two.yaml")).unwrap();
    daemon.until("the choice", || (daemon.agent("/coding")?["policy"] == "one").then_some(()));
    assert_eq!(daemon.agent("/coding").unwrap()["problem"], Value::Null);
    assert_eq!(open_secret(&daemon, &scratch, "/coding").end, End::Done);
}

fn nested() {
    let (mut daemon, scratch) = (Daemon::new(), secret_place());
    daemon.policy("outer", "/outer", &scratch.place.fill(DENY_SECRETS));
    daemon.policy("inner", "/outer/inner", ALLOW_ALL);
    daemon.start();
    daemon.make("/outer");
    daemon.make("/outer/inner");
    let problem = daemon.agent("/outer/inner").unwrap()["problem"].clone();
    assert!(problem.as_str().unwrap().contains("policy outer, which holds for it"), "{problem}");
    assert_eq!(open_secret(&daemon, &scratch, "/outer/inner").end, denied());
    // Who is part of a workload is none of its own.
    fs::create_dir(daemon.cgroup("/outer/part")).unwrap();
    assert_eq!(open_secret(&daemon, &scratch, "/outer/part").end, denied());
    assert_eq!(daemon.agent("/outer/part"), None);
}

fn not_itself() {
    let mut daemon = Daemon::new();
    fs::write(
        daemon.path("policies/all.yaml"),
        daemon.policy_text("all", "", ALLOW_ALL).replace(&format!("\"{}\"", daemon.root), "/"),
    )
    .unwrap();
    daemon.start();
    let agents = daemon.view(&["agents"]);
    let [root] = agents.as_array().unwrap().as_slice() else { panic!("{agents}") };
    assert_eq!((&root["cgroup"], &root["id"]), (&"/".into(), &Value::Null));
    assert!(root["problem"].as_str().unwrap().contains("the daemon itself is in it"));
}

fn control() {
    let mut daemon = Daemon::new();
    let unix = if tier() == Tier::Lsm { "\nunix: {default: allow}" } else { "" };
    daemon.policy("coding", "/coding", &format!("{ALLOW_ALL}{unix}"));
    daemon.configure("group = 'nogroup'");
    daemon.start();
    daemon.make("/coding");
    let socket = daemon.path("socket");
    let curl = |path: &str| {
        let url = format!("http://agent-guard{path}");
        ["/usr/bin/curl", "-s", "-S", "--unix-socket", socket.to_str().unwrap(), &url]
            .map(str::to_owned)
            .to_vec()
    };
    let inside = |path: &str| {
        let output = daemon.inside("/coding", &curl(path)).output().unwrap();
        serde_json::from_slice::<Value>(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
    };
    assert_eq!(inside("/v1/self")["policy"], "coding");
    for path in ["/v1/status", "/v1/agents", "/v1/policies", "/v1/policies/coding", "/v1/events"] {
        assert!(inside(path)["error"].as_str().unwrap().contains("alone"), "{path}");
    }

    let outside = |credentials: &[&str], path: &str| {
        let output = std::process::Command::new("/usr/bin/setpriv")
            .args(credentials)
            .args(curl(path))
            .output()
            .unwrap();
        serde_json::from_slice::<Value>(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
    };
    let nobody = ["--reuid=65534", "--regid=1", "--clear-groups"];
    assert!(outside(&nobody, "/v1/status")["error"].as_str().unwrap().contains("for root"));
    assert!(outside(&nobody, "/v1/self")["error"].as_str().unwrap().contains("no agent"));
    for member in [
        ["--reuid=65534", "--regid=65534", "--clear-groups"],
        ["--reuid=1", "--regid=1", "--groups=65534"],
    ] {
        assert_eq!(outside(&member, "/v1/status")["agents"], 1, "{member:?}");
    }
    assert!(
        outside(&["--reuid=0"], "/v1/nothing")["error"]
            .as_str()
            .unwrap()
            .contains("no such request")
    );

    // What happens is followed.
    let mut follower = std::process::Command::new(crate::guard::program())
        .args(["events", "--socket", socket.to_str().unwrap()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = Reader::of(follower.stdout.take().unwrap());
    // Whether it follows already shows by its getting something.
    daemon.until("an event", || {
        daemon.policy(
            "coding",
            "/coding",
            &format!("{ALLOW_ALL}{unix}\n# {:?}", std::time::Instant::now()),
        );
        std::thread::sleep(std::time::Duration::from_millis(500));
        lines.said("\"Update\"").then_some(())
    });
    follower.kill().unwrap();
    follower.wait().unwrap();
}

fn one() {
    let mut daemon = Daemon::new();
    daemon.start();
    let second = daemon.command().output().unwrap();
    assert_eq!(second.status.code(), Some(125));
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains("a daemon runs on this host already (process "), "{said}");
    assert!(daemon.ask(&["status"]).status.success());
    // A socket that was left behind is in nobody's way.
    daemon.end(Signal::KILL);
    assert!(daemon.path("socket").exists());
    daemon.start();
    assert!(daemon.ask(&["status"]).status.success());
}
