//! Containers of podman's: one is where a run starts its agent; and none is started by an agent.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use agent_guard::tier::Tier;
use libtest_mimic::Trial;
use tempfile::TempDir;

use super::trial;
use crate::guard::{self, Decided, Run, parse_events, tier};

/// Trials that need podman; ignored, and said to be, where it is not.
pub fn trials() -> Vec<Trial> {
    let here = Path::new(PODMAN).exists() && Path::new(BUSYBOX).exists();
    let promises: [super::Behaviour; 2] = [
        (
            "a run that podman starts in a container confines its agent, and denies nothing else",
            inside,
        ),
        ("under the shipped policy an agent starts no container", refused),
    ];
    promises.iter().map(|promise| trial(promise).with_ignored_flag(!here)).collect()
}

const PODMAN: &str = "/usr/bin/podman";
const BUSYBOX: &str = "/usr/bin/busybox";

/// What a container has: a shell with its tools, this command with its libraries, a policy, and some work.
const LIBRARIES: [&str; 6] = [
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/x86_64-linux-gnu/libc.so.6",
    "/lib/x86_64-linux-gnu/libm.so.6",
    "/lib/x86_64-linux-gnu/libgcc_s.so.1",
    "/lib/x86_64-linux-gnu/libssl.so.3",
    "/lib/x86_64-linux-gnu/libcrypto.so.3",
];

const POLICY: &str = r#"
exec: {rules: [{effect: allow, paths: ["/bin/**"]}]}
files:
  rules:
    - {effect: allow, access: [read], paths: ["/", "/bin/**", "/lib/**", "/lib64/**", "/etc/**"]}
    - {effect: allow, paths: ["/work/**", "/dev/null"]}
    - {name: secrets, effect: deny, paths: ["**/.env"]}
"#;

/// Ordinary work, and then what the policy denies.
const WORK: &str = "cd /work
ls / > list; grep -q work list
mkdir -p a/b; echo one > a/b/f; cp a/b/f g; mv g h; ln h i; rm a/b/f; rmdir a/b a
cat h i | sort | tee sorted > /dev/null; chmod 600 h
(sleep 0 & wait); sh -c 'exec true'
echo done
cat .env || echo $?";

/// An image store, and the image in it.
struct Store {
    directory: TempDir,
}

impl Store {
    fn with_image() -> Self {
        let directory =
            tempfile::Builder::new().prefix("agent-guard-podman-").tempdir_in("/var/tmp");
        let store = Self { directory: directory.unwrap() };
        let image = store.path("image");
        for below in ["bin", "etc", "lib64", "lib/x86_64-linux-gnu", "run", "sys", "tmp", "work"] {
            fs::create_dir_all(image.join(below)).unwrap();
        }
        fs::copy(BUSYBOX, image.join("bin/busybox")).unwrap();
        for tool in "cat chmod cp grep ln ls mkdir mv rm rmdir sh sleep sort tee true".split(' ') {
            symlink("busybox", image.join("bin").join(tool)).unwrap();
        }
        fs::copy(guard::program(), image.join("bin/agent-guard")).unwrap();
        for library in LIBRARIES {
            fs::copy(library, image.join(library.trim_start_matches('/'))).unwrap();
        }
        fs::write(image.join("policy.yaml"), crate::support::policy_text(POLICY)).unwrap();
        fs::write(image.join("work/.env"), "secret\n").unwrap();
        let tar = store.path("image.tar");
        let mut make = Command::new("tar");
        make.arg("-C").arg(&image).arg("-cf").arg(&tar).arg(".");
        assert!(make.status().unwrap().success());
        store.podman(&["import", "--quiet", tar.to_str().unwrap(), "agent:1"]);
        store
    }

    fn path(&self, below: &str) -> PathBuf {
        self.directory.path().join(below)
    }

    /// Runs podman on this store, in mounts of its own where cgroup v2 lies where container tools look for it.
    fn podman(&self, arguments: &[&str]) -> Output {
        const MOUNTS: &str = "[ -e /sys/fs/cgroup/cgroup.procs ] || {
            umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; }
            exec \"$@\"";
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "sh", "-c", MOUNTS, "sh", PODMAN, "--cgroup-manager=cgroupfs"]);
        // By copies: not every file system that a test may lie on can be the layer of an overlay.
        unshare.args(["--storage-driver=vfs", "--root"]).arg(self.path("store"));
        unshare.arg("--runroot").arg(self.path("run"));
        let output = unshare.args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "podman {arguments:?}: {said}");
        output
    }
}

fn inside() {
    let store = Store::with_image();
    // As the host sees it: its cgroups, processes and pins. Limits as low as any host has.
    let container = [
        "run",
        "--rm",
        "--quiet",
        "--privileged",
        "--network=host",
        "--pid=host",
        "--cgroupns=host",
        "--pids-limit=0",
        "--ulimit=nofile=1024:1024",
        "--ulimit=nproc=4096:4096",
        "--volume=/sys/fs/bpf:/sys/fs/bpf",
        "--volume=/run/agent-guard:/run/agent-guard",
        "agent:1",
    ];
    let run = [
        "/bin/agent-guard",
        "run",
        "--tier",
        tier().name(),
        "--allow-degraded",
        "enforce",
        "--policy",
        "/policy.yaml",
        "--events",
        "-",
        "--",
        "/bin/sh",
        "-e",
        "-c",
        WORK,
    ];
    fs::create_dir_all("/run/agent-guard").unwrap();
    let output = store.podman(&[&container[..], &run[..]].concat());
    let said = String::from_utf8(output.stdout).unwrap();
    let (events, printed): (Vec<&str>, Vec<&str>) =
        said.lines().partition(|line| line.starts_with('{'));
    let events = parse_events(&events.join("\n"));
    let denials: Vec<Decided<'_>> =
        events.iter().filter_map(Decided::of).filter(Decided::is_denial).collect();
    let told: Vec<_> = denials.iter().map(|event| (event.path(), event.by())).collect();
    assert_eq!(told, [(Some("/work/.env"), "secrets")]);
    let ends = match tier() {
        Tier::Lsm => ["done", "1"],
        Tier::Trace => ["done", "137"],
        Tier::Observe => ["done", "secret"],
    };
    assert_eq!(printed, ends);
}

/// It would have to mount file systems that the guard does not know, with capabilities that lead out.
fn refused() {
    let workspace =
        tempfile::Builder::new().prefix("agent-guard-podman-").tempdir_in("/srv").unwrap();
    let run = Run::under_the_shipped_policy(workspace.path());
    let run = match tier() {
        Tier::Lsm => run,
        Tier::Trace | Tier::Observe => run.with(&["--allow-degraded", "listen,unix"]),
    };
    let outcome = run.go(&["/usr/bin/env", "podman", "--version"]);
    let denials: Vec<_> = outcome.decided().filter(Decided::is_denial).collect();
    match tier() {
        Tier::Lsm => outcome.exits(126),
        Tier::Trace => outcome.exits(137),
        Tier::Observe => outcome.exits(0),
    };
    assert!(!denials.is_empty());
    assert_eq!((denials[0].path(), denials[0].by()), (Some(PODMAN), "run-elsewhere"));
}
