//! Known ways around a guard, as the commands that go them. docs/bypasses.md has the whole list; most of it
//! is held by the corpus and by the other behaviours.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use agent_guard::tier::Tier;

use super::{
    ALLOW_ALL, Behaviour, DENY_SECRETS, secret_place,
    ways::{AtLsm, AtTrace, Way, hold},
};
use crate::guard::{Decided, Run, tier};

pub const PROMISES: &[Behaviour] = &[
    ("an agent gets at nothing that guards write down, whatever its policy allows", state),
    ("a secret is not read by a name or a descriptor that the agent made itself", own_names),
    ("what is no open is judged all the same", no_opens),
    ("a file that takes the place of a denied one is denied", replaced),
    ("a later file of a denied file's inode number is another", reused),
    ("an agent changes nothing in the trees that hold cgroups and pins", trees),
];

const fn shell(command: &'static [&'static str; 2], at_lsm: AtLsm, at_trace: AtTrace) -> Way {
    Way { words: command, at_lsm, at_trace }
}

fn state() {
    let lock = "/run/agent-guard/lock";
    for script in [
        format!("exec cat {lock}"),
        format!("exec flock {lock} true"),
        format!("exec truncate -s 0 {lock}"),
    ] {
        let outcome = Run::under(ALLOW_ALL).go(&["/bin/sh", "-c", &script]);
        let denials: Vec<_> = outcome.decided().filter(Decided::is_denial).collect();
        let [denial] = denials.as_slice() else { panic!("{script}: {} denials", denials.len()) };
        assert_eq!(denial.by(), "state-of-the-guard", "{script}");
        match tier() {
            Tier::Lsm => assert!(![0, 128 + libc::SIGKILL].contains(&outcome.code()), "{script}"),
            Tier::Trace => assert_eq!(outcome.code(), 128 + libc::SIGKILL, "{script}"),
            Tier::Observe => assert_eq!(outcome.code(), 0, "{script}"),
        }
    }
    fs::File::options().read(true).write(true).open(lock).expect("the control");
}

fn own_names() {
    use AtTrace::Same;
    let ways = [
        shell(
            &["shell", "ln -sfn {root}/secret/key {root}/open/link; exec cat {root}/open/link"],
            AtLsm::Denied("secrets"),
            Same,
        ),
        shell(
            &["shell", "ln -sfn {root}/secret {root}/open/dir; cd {root}/open/dir; exec cat key"],
            AtLsm::Denied("secrets"),
            Same,
        ),
        shell(
            &[
                "shell",
                "exec python3 -c 'import os; path = os.open(\"{root}/secret/key\", os.O_PATH)
open(\"/proc/self/fd/%d\" % path).read()'",
            ],
            AtLsm::Denied("secrets"),
            Same,
        ),
        shell(
            &[
                "shell",
                "exec python3 -c 'import os; path = os.open(\"{root}/secret\", os.O_PATH)
os.read(os.open(\"key\", os.O_RDONLY, dir_fd=path), 9)'",
            ],
            AtLsm::Denied("secrets"),
            Same,
        ),
        shell(
            &[
                "shell",
                "exec python3 -c 'import ctypes; ctypes.CDLL(None).prctl(15, b\"dpkg\")
open(\"{root}/secret/key\").read()'",
            ],
            AtLsm::Denied("secrets"),
            Same,
        ),
        // The kernel goes by the lower half of a call's number.
        shell(
            &[
                "shell",
                "exec python3 -c 'import ctypes, sys; call = ctypes.CDLL(None).syscall
sys.exit(call(ctypes.c_long(257 | 1 << 32), -100, b\"{root}/secret/key\", 0) < 0)'",
            ],
            AtLsm::Denied("secrets"),
            Same,
        ),
        shell(&["shell", "exec cat {root}/open/file"], AtLsm::Allowed, Same),
    ];
    hold(&secret_place(), DENY_SECRETS, &ways);
}

fn no_opens() {
    use AtTrace::Unseen;
    let ways = [
        // A capability set is an attribute that every file system has, and that root may give inside too.
        shell(
            &[
                "shell",
                "exec python3 -c 'import os, struct
os.setxattr(\"{root}/secret/key\", \"security.capability\", struct.pack(\"<5I\", 0x2000000, 0, 0, 0, 0))'",
            ],
            AtLsm::Denied("secrets"),
            Unseen,
        ),
        shell(
            &["shell", "exec mknod {root}/open/disk-$$ b 7 0"],
            AtLsm::Denied("guarded"),
            Unseen,
        ),
        shell(
            &["shell", "exec mknod {root}/open/memory-$$ c 1 1"],
            AtLsm::Denied("guarded"),
            Unseen,
        ),
        shell(
            &[
                "shell",
                "exec python3 -c 'import socket; s = socket.socket()
s.bind((\"127.0.0.1\", 0)); s.listen()'",
            ],
            AtLsm::Denied("default"),
            Unseen,
        ),
        shell(&["shell", "exec mknod {root}/open/null-$$ c 1 3"], AtLsm::Allowed, Unseen),
    ];
    hold(&secret_place(), DENY_SECRETS, &ways);
}

/// Waits inside an agent under [`DENY_SECRETS`] while `meanwhile` happens outside, then reads `path`. Gives
/// what denied that.
fn read_after(root: &Path, path: &str, meanwhile: impl FnOnce()) -> Vec<String> {
    let (go, root_text) = (root.join("open/go"), root.to_str().unwrap());
    let policy = DENY_SECRETS.replace("{root}", root_text).replace("{p0}", "9");
    let script = format!(
        "echo ready; until [ -e {} ]; do sleep 0.05; done; exec cat {root_text}/{path}",
        go.display()
    );
    let running = Run::under(&policy).start(&["/bin/sh", "-c", &script]);
    running.stdout.wait_for("ready");
    meanwhile();
    fs::write(go, "").unwrap();
    let outcome = running.finish();
    let denials: Vec<String> =
        outcome.decided().filter(Decided::is_denial).map(|event| event.by().to_owned()).collect();
    let was_read = outcome.text().contains("CANARY");
    assert_eq!(was_read, denials.is_empty() || tier() == Tier::Observe, "{}", outcome.stderr);
    denials
}

/// On a disk, where the inode numbers of removed files come back.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new() -> Self {
        let root = tempfile::Builder::new().prefix("agent-guard-test-").tempdir_in("/srv").unwrap();
        for directory in ["secret", "open"] {
            fs::create_dir(root.path().join(directory)).unwrap();
        }
        fs::write(root.path().join("secret/key"), "CANARY").unwrap();
        Self(root)
    }

    fn path(&self, below: &str) -> PathBuf {
        self.0.path().join(below)
    }
}

fn replaced() {
    let disk = Disk::new();
    let denials = read_after(disk.0.path(), "secret/key", || {
        fs::write(disk.path("secret/new"), "CANARY").unwrap();
        fs::rename(disk.path("secret/new"), disk.path("secret/key")).unwrap();
    });
    assert_eq!(denials, ["secrets"]);
}

fn reused() {
    for names in [1, 2] {
        let disk = Disk::new();
        // A denied file with an allowed name is remembered by its inode.
        fs::hard_link(disk.path("secret/key"), disk.path("open/alias")).unwrap();
        let number = fs::metadata(disk.path("secret/key")).unwrap().ino();
        let denials = read_after(disk.0.path(), "open/later", || {
            fs::remove_file(disk.path("secret/key")).unwrap();
            fs::remove_file(disk.path("open/alias")).unwrap();
            let made = (0..10_000).map(|at| disk.path(&format!("open/{at}")));
            let same = made.into_iter().find(|path| {
                fs::write(path, "CANARY").unwrap();
                fs::metadata(path).unwrap().ino() == number
            });
            fs::rename(same.expect("the number comes back"), disk.path("open/later")).unwrap();
            if names == 2 {
                fs::hard_link(disk.path("open/later"), disk.path("open/second")).unwrap();
            }
        });
        assert!(denials.is_empty(), "with {names} names: {denials:?}");
    }
}

/// Directories of bpffs that a test made, removed with this.
struct Pins([PathBuf; 2]);

impl Drop for Pins {
    fn drop(&mut self) {
        for pin in &self.0 {
            let _ = fs::remove_dir(pin);
        }
    }
}

fn trees() {
    if tier() != Tier::Lsm {
        // Removing and making directories is not seen there: SECURITY.md says so.
        return;
    }
    let pins = Pins(["a", "b"].map(|name| {
        PathBuf::from(format!("/sys/fs/bpf/agent-guard-test-{}-{name}", std::process::id()))
    }));
    for pin in &pins.0 {
        fs::create_dir(pin).unwrap();
    }
    let ways = [
        shell(
            &["shell", "exec rmdir $(ls -d /sys/fs/bpf/agent-guard-test-*-? | head -n 1)"],
            AtLsm::Denied("guarded"),
            AtTrace::Unseen,
        ),
        shell(
            &["shell", "mkdir /sys/fs/bpf/made-$$ && exec rmdir /sys/fs/bpf/made-$$"],
            AtLsm::Denied("guarded"),
            AtTrace::Unseen,
        ),
        shell(
            &[
                "shell",
                "d=/sys/fs/cgroup$(sed -n s/^0:://p /proc/self/cgroup)/made-$$; mkdir $d && exec rmdir $d",
            ],
            AtLsm::Denied("guarded"),
            AtTrace::Unseen,
        ),
        shell(
            &["shell", "exec sh -c 'echo 0 > /sys/fs/cgroup/cgroup.procs'"],
            AtLsm::Denied("guarded"),
            AtTrace::Same,
        ),
    ];
    hold(&secret_place(), DENY_SECRETS, &ways);
}
