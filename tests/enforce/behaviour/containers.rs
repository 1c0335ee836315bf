//! Real containers under the daemon: each is known by what its runtime says of it, before its first instruction.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Output},
};

use agent_guard::tier::Tier;
use libtest_mimic::Trial;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::{ALLOW_ALL, trial};
use crate::{
    daemon::Daemon,
    guard::{Decided, tier},
};

/// Trials, of which each needs a runtime; ignored, and said to be, where it is not, as in the guests.
pub fn trials() -> Vec<Trial> {
    let promises: [(super::Behaviour, &[&str]); 4] = [
        (("a container of podman's is known by its name and image", podman), &["podman", "crun"]),
        (
            (
                "a container of containerd's is known by its pod, and so is a pod's sandbox",
                containerd,
            ),
            &["containerd", "ctr"],
        ),
        (("a container of Docker's is known by its image", docker), &["../sbin/dockerd"]),
        (
            (
                "nothing is allowed to a container that a policy could be for, until that is known",
                unknown,
            ),
            &[],
        ),
    ];
    let is_there = |program: &&str| Path::new("/usr/bin").join(program).exists();
    let of = |(promise, programs): &(super::Behaviour, &[&str])| {
        trial(promise).with_ignored_flag(!programs.iter().all(is_there))
    };
    promises.iter().map(of).collect()
}

/// What is read of one file, wherever it is, is told. It is not denied: a container's set-up mounts file systems that
/// the guard does not know, and would end there.
const POLICY: &str = "mode: audit
egress: {default: allow}
exec: {default: allow}
files: {default: allow, rules: [{name: secrets, effect: deny, paths: ['**/secret.key']}]}";

const WORK: [&str; 3] = ["/bin/sh", "-c", "echo ran; cat /secret.key"];

/// What container tools look for cgroup v2 in, in mounts of their own.
const MOUNTS: &str = "[ -e /sys/fs/cgroup/cgroup.procs ] || {
    umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; }
    exec \"$@\"";

/// What the runtimes keep, and the file system of an image.
struct Store(TempDir);

impl Store {
    fn new() -> Self {
        let directory =
            tempfile::Builder::new().prefix("agent-guard-containers-").tempdir_in("/var/tmp");
        let store = Self(directory.unwrap());
        let root = store.path("image");
        for below in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
            fs::create_dir_all(root.join(below)).unwrap();
        }
        fs::copy("/usr/bin/busybox", root.join("bin/busybox")).unwrap();
        for tool in ["cat", "sh"] {
            symlink("busybox", root.join("bin").join(tool)).unwrap();
        }
        fs::write(root.join("secret.key"), "secret\n").unwrap();
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(&root).arg("-cf").arg(store.path("image.tar")).arg(".");
        assert!(tar.status().unwrap().success());
        store
    }

    fn path(&self, below: &str) -> PathBuf {
        self.0.path().join(below)
    }

    fn text(&self, below: &str) -> String {
        self.path(below).display().to_string()
    }

    /// A command, in mounts as container tools need them.
    fn command(&self, command: &[&str]) -> Command {
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "sh", "-c", MOUNTS, "sh"]).args(command);
        unshare
    }

    fn output(&self, command: &[&str]) -> Output {
        self.command(command).output().unwrap()
    }

    /// A daemon that looks for containers here, with a policy.
    fn daemon(&self, selector: &str) -> Daemon {
        let daemon = Daemon::new();
        daemon.configure(&format!(
            "[containers]\ncontainerd = ['{}', '{}']\ndocker = '{}'\nstorage = '{}'",
            self.text("state"),
            self.text("exec/containerd/daemon"),
            self.text("docker"),
            self.text("podman"),
        ));
        let spec = POLICY.replace('\n', "\n  ");
        let text = format!(
            "apiVersion: agent-guard.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {{name: coding}}\n\
             spec:\n  selector: {selector}\n  {spec}\n"
        );
        fs::write(daemon.path("policies/coding.yaml"), text).unwrap();
        daemon
    }

    /// Starts a server, and waits until `answers` succeeds.
    fn serve(&self, daemon: &Daemon, server: &[&str], answers: &[&str]) -> Server {
        let log = File::create(self.path("server.log")).unwrap();
        let mut command = self.command(server);
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        daemon.until("the runtime", || {
            Command::new(answers[0])
                .args(&answers[1..])
                .output()
                .unwrap()
                .status
                .success()
                .then_some(())
        });
        Server(child)
    }
}

/// A runtime's server, for as long as it is needed; also where the test fails.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // A test that fails is told of; one that fails twice ends the whole program.
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let _ = self.0.wait();
    }
}

fn assert_ran(output: &Output) {
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said, "ran\nsecret\n", "{}", String::from_utf8_lossy(&output.stderr));
}

/// The container that is told of, with its pod; of no other one is told.
fn container(daemon: &Daemon) -> Value {
    daemon.until("the event", || {
        let of_secret =
            |event: &Value| Decided::of(event).is_some_and(|event| event.by() == "secrets");
        let mut told: Vec<Value> = daemon.events().into_iter().filter(of_secret).collect();
        let event = told.pop()?;
        assert!(told.is_empty(), "{told:?}");
        let mut container = event["device"]["container"].clone();
        container["pod"] = event["unmapped"]["agent_guard"]["pod"].clone();
        Some(container)
    })
}

fn podman() {
    let store = Store::new();
    let (root, run) = (store.text("podman"), store.text("run"));
    let podman = |arguments: &[&str]| {
        let always = ["podman", "--cgroup-manager=cgroupfs", "--storage-driver=vfs"];
        let places = ["--root", &root, "--runroot", &run];
        store.output(&[&always[..], &places, arguments].concat())
    };
    let imported = podman(&["import", "--quiet", &store.text("image.tar"), "agent:1"]);
    assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
    let selector = "{images: ['localhost/agent:*'], containerNames: ['coding-*']}";
    let mut daemon = store.daemon(selector);
    daemon.start();
    let run = |name: &str| {
        let limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096", "--pids-limit=0"];
        let of = ["run", "--rm", "--privileged", "--network=none", "--name", name];
        podman(&[&of[..], &limits, &["agent:1"], &WORK].concat())
    };
    assert_ran(&run("coding-1"));
    assert_ran(&run("other"));
    let container = container(&daemon);
    assert_eq!(
        (&container["name"], &container["runtime"], &container["image"]["name"]),
        (&"coding-1".into(), &"podman".into(), &"localhost/agent:1".into())
    );
}

fn containerd() {
    let store = Store::new();
    let (address, image) = (store.text("containerd.sock"), store.text("image"));
    let plugins = ["grpc.v1.cri", "snapshotter.v1.btrfs", "snapshotter.v1.devmapper"];
    let plugins = plugins.map(|plugin| format!("'io.containerd.{plugin}'")).join(", ");
    let text = format!(
        "version = 2\nroot = '{}'\nstate = '{}'\ndisabled_plugins = [{plugins}]\n[grpc]\naddress = '{address}'\n",
        store.text("root"),
        store.text("state"),
    );
    fs::write(store.path("containerd.toml"), text).unwrap();
    let mut daemon = store.daemon("{namespaces: [agents], pods: ['coding-*']}");
    daemon.start();
    let ctr = ["ctr", "--address", &address, "--namespace", "k8s.io"];
    let server = store.serve(
        &daemon,
        &["containerd", "--config", &store.text("containerd.toml")],
        &[&ctr[..], &["version"]].concat(),
    );
    // What Kubernetes's plugin notes; `ctr` itself notes nothing.
    let run = |id: &str, notes: &[(&str, &str)]| {
        let notes = notes.iter().map(|(key, value)| format!("io.kubernetes.cri.{key}={value}"));
        let notes: Vec<String> = notes.flat_map(|note| ["--annotation".to_owned(), note]).collect();
        let notes: Vec<&str> = notes.iter().map(String::as_str).collect();
        // Not every host has cgroup v2's controller of CPUs.
        let of = ["run", "--rm", "--cpu-shares=0", "--rootfs"];
        store.output(&[&ctr[..], &of, &notes, &[&image, &id.repeat(64)], &WORK].concat())
    };
    let pod = |namespace, name| {
        [
            ("container-type", "container"),
            ("container-name", "agent"),
            ("image-name", "ghcr.io/acme/agent:1"),
            ("sandbox-namespace", namespace),
            ("sandbox-name", name),
        ]
    };
    assert_ran(&run("a", &pod("agents", "coding-1")));
    assert_ran(&run("b", &pod("others", "coding-1")));
    let mut sandbox = pod("agents", "coding-1");
    sandbox[0].1 = "sandbox";
    assert_ran(&run("c", &sandbox));
    drop(server);
    let container = container(&daemon);
    assert_eq!(container["orchestrator"], "Kubernetes");
    assert_eq!(container["image"]["name"], "ghcr.io/acme/agent:1");
    assert_eq!(container["pod"], serde_json::json!({"namespace": "agents", "name": "coding-1"}));
}

fn docker() {
    let store = Store::new();
    let host = format!("unix://{}", store.text("docker.sock"));
    let mut daemon = store.daemon("{images: ['docker.io/library/agent:*']}");
    daemon.start();
    let server = store.serve(
        &daemon,
        &[
            "dockerd",
            "--host",
            &host,
            "--data-root",
            &store.text("docker"),
            "--exec-root",
            &store.text("exec"),
            "--pidfile",
            &store.text("docker.pid"),
            "--storage-driver=vfs",
            "--bridge=none",
            "--iptables=false",
            "--ip6tables=false",
        ],
        &["docker", "--host", &host, "version"],
    );
    let docker =
        |arguments: &[&str]| store.output(&[&["docker", "--host", &host], arguments].concat());
    for image in ["agent:1", "other:1"] {
        let imported = docker(&["import", &store.text("image.tar"), image]);
        assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
    }
    let run = |image| docker(&[&["run", "--rm", "--network=none", image][..], &WORK].concat());
    assert_ran(&run("agent:1"));
    assert_ran(&run("other:1"));
    // By its id alone it could be the same.
    let id = docker(&["images", "--no-trunc", "--quiet", "other:1"]).stdout;
    let output = run(String::from_utf8(id).unwrap().trim());
    if tier() != Tier::Observe {
        assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    }
    drop(server);
    assert_eq!(container(&daemon)["runtime"], "docker");
}

fn unknown() {
    let store = Store::new();
    let mut daemon = store.daemon("{images: ['docker.io/library/agent:*']}");
    daemon.start();
    let id = "d".repeat(64);
    daemon.make(&format!("/{id}"));
    let agent = daemon.agent(&format!("/{id}")).unwrap();
    let problem = agent["problem"].as_str().unwrap();
    assert!(
        problem.contains("it can not be told") && problem.contains("`containers`"),
        "{problem}"
    );
    assert_eq!(daemon.ask(&["agents"]).status.code(), Some(1));
    let run = || daemon.inside(&format!("/{id}"), &["/bin/true"]).status();
    match tier() {
        Tier::Lsm => assert_eq!(run().unwrap_err().raw_os_error(), Some(libc::EACCES)),
        Tier::Trace => assert_eq!(run().unwrap().code(), None),
        Tier::Observe => assert!(run().unwrap().success()),
    }
    // What is no container has no image.
    fs::create_dir(daemon.cgroup("/plain")).unwrap();
    assert!(daemon.inside("/plain", &["/bin/true"]).status().unwrap().success());
    assert_eq!(daemon.agent("/plain"), None);

    // Another policy that is for it for sure changes nothing, until the first can not be for it.
    daemon.policy("other", "/*", ALLOW_ALL);
    daemon.until("the other policy", || {
        let problem = daemon.agent(&format!("/{id}"))?["problem"].as_str()?.to_owned();
        problem.contains("coding, other").then_some(())
    });
    fs::remove_file(daemon.path("policies/coding.yaml")).unwrap();
    daemon.until("the choice", || {
        (daemon.agent(&format!("/{id}"))?["policy"] == "other").then_some(())
    });
    assert!(run().unwrap().success());
}
