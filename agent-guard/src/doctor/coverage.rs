//! What each tier covers, action by action, and how: the same words that SECURITY.md stands on.

use serde::Serialize;

use crate::tier::Tier;

/// What a denial comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cover {
    /// The call fails and has done nothing.
    Refused,
    /// The process is killed before it can use what it asked for.
    Killed,
    /// Some ways are covered, others not; the words say which.
    Partly,
    /// It is recorded and goes on.
    Recorded,
    /// Not covered: the policy does not reach it.
    NotCovered,
}

impl Cover {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Killed => "killed",
            Self::Partly => "partly",
            Self::Recorded => "recorded",
            Self::NotCovered => "NOT COVERED",
        }
    }
}

/// An action, and what a tier makes of it when the policy denies it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Covered {
    /// What is done.
    pub action: &'static str,
    /// What a denial comes to.
    pub cover: Cover,
    /// By which hook, and with which gaps.
    pub how: &'static str,
}

struct Row {
    action: &'static str,
    lsm: (Cover, &'static str),
    trace: (Cover, &'static str),
}

const LATE: &str = "sys_exit, by the file that the call resolved to: it has been created or truncated by then, and other \
                    threads run on until the kill reaches them: one that races the open can read or duplicate the \
                    descriptor";

const ROWS: [Row; 22] = [
    Row {
        action: "connect: TCP, UDP",
        lsm: (Cover::Refused, "socket_connect, EACCES"),
        trace: (Cover::Refused, "cgroup connect4 and connect6, EPERM"),
    },
    Row {
        action: "sendto, sendmsg: UDP",
        lsm: (Cover::Refused, "socket_sendmsg, EACCES"),
        trace: (Cover::Refused, "cgroup sendmsg4 and sendmsg6, EPERM"),
    },
    Row {
        action: "host names",
        lsm: (
            Cover::Refused,
            "the DNS proxy answers allowed names only; cgroup programs send port 53 to it, and the kernel allows \
             what it told while that is valid",
        ),
        trace: (
            Cover::Refused,
            "as on lsm; tier observe has no proxy, and records as denied what a name allows",
        ),
    },
    Row {
        action: "raw, packet, SCTP and ICMP sockets",
        lsm: (
            Cover::Refused,
            "socket_connect and socket_sendmsg, by the socket's own family and protocol",
        ),
        trace: (
            Cover::NotCovered,
            "the cgroup programs see TCP and UDP (and connect of ICMP sockets); raw and packet sockets need \
             CAP_NET_RAW: do not give it to an agent",
        ),
    },
    Row {
        action: "bind, listen, accept",
        lsm: (Cover::NotCovered, "not in this version"),
        trace: (Cover::NotCovered, "not in this version"),
    },
    Row {
        action: "UNIX-domain and netlink sockets",
        lsm: (Cover::NotCovered, "not in this version"),
        trace: (Cover::NotCovered, "not in this version"),
    },
    Row {
        action: "open, openat, openat2 (32-bit too)",
        lsm: (Cover::Refused, "file_open, EACCES"),
        trace: (Cover::Killed, LATE),
    },
    Row {
        action: "creat, open with O_CREAT",
        lsm: (Cover::Refused, "inode_create, before the file exists"),
        trace: (Cover::Killed, "sys_exit, as open"),
    },
    Row {
        action: "open_by_handle_at",
        lsm: (Cover::Refused, "file_open, EACCES"),
        trace: (Cover::Killed, "sys_exit, as open"),
    },
    Row {
        action: "opens and connects by io_uring",
        lsm: (Cover::Refused, "the same hooks run for io_uring's workers"),
        trace: (
            Cover::Killed,
            "io_uring_setup kills the process in mode enforce, whatever the rules say, because what a ring opens passes no \
             tracepoint; a ring made outside of the agent and handed in is not seen",
        ),
    },
    Row {
        action: "fanotify, mq_open, TIOCGPTPEER",
        lsm: (Cover::Refused, "file_open, EACCES"),
        trace: (Cover::NotCovered, "files that these calls open are not judged"),
    },
    Row {
        action: "pidfd_getfd",
        lsm: (
            Cover::NotCovered,
            "not in this version; the kernel asks for ptrace access to the process that it is taken from",
        ),
        trace: (Cover::Killed, "sys_exit, as open"),
    },
    Row {
        action: "descriptors passed over sockets",
        lsm: (Cover::NotCovered, "not in this version"),
        trace: (Cover::NotCovered, "not in this version"),
    },
    Row {
        action: "descriptors inherited at start",
        lsm: (Cover::NotCovered, "what the starter left open stays usable"),
        trace: (Cover::NotCovered, "what the starter left open stays usable"),
    },
    Row {
        action: "execve, execveat",
        lsm: (Cover::Refused, "bprm_check_security, EACCES"),
        trace: (Cover::Killed, "sched_process_exec, before the first instruction"),
    },
    Row {
        action: "scripts",
        lsm: (Cover::Refused, "the script and its interpreter must both be allowed"),
        trace: (
            Cover::Partly,
            "the interpreter is judged as a program; the script only as a file, when the interpreter opens it",
        ),
    },
    Row {
        action: "loaders and libraries",
        lsm: (Cover::Refused, "file_open: the loader that a program names, and each library"),
        trace: (
            Cover::Partly,
            "libraries are judged as opens; the loader that a program names is opened by the kernel and not seen",
        ),
    },
    Row {
        action: "unlink, rename, link, chmod, truncate",
        lsm: (Cover::NotCovered, "not in this version: the agent's user id is the bound"),
        trace: (Cover::NotCovered, "not in this version: the agent's user id is the bound"),
    },
    Row {
        action: "mkdir, mknod, symlink, mount",
        lsm: (
            Cover::NotCovered,
            "not in this version; files on what is mounted are judged when opened",
        ),
        trace: (
            Cover::NotCovered,
            "not in this version; files on what is mounted are judged when opened",
        ),
    },
    Row {
        action: "ptrace, process_vm_readv, signals",
        lsm: (Cover::NotCovered, "not in this version: the kernel's own checks are the bound"),
        trace: (Cover::NotCovered, "not in this version: the kernel's own checks are the bound"),
    },
    Row {
        action: "descriptors shared by two processes",
        lsm: (Cover::Refused, "no descriptor of a denied file comes to be"),
        trace: (
            Cover::Killed,
            "clone with CLONE_FILES and without CLONE_THREAD kills both processes",
        ),
    },
    Row {
        action: "acting from outside of the cgroup",
        lsm: (
            Cover::Refused,
            "task_alloc: the agent sticks to a task and its children, wherever they move",
        ),
        trace: (
            Cover::Partly,
            "the roads out lead through the cgroup tree, whose directories and writes need a rule that names them \
             exactly; whoever is moved out from outside is free",
        ),
    },
];

/// What `tier` covers.
pub fn of(tier: Tier) -> Vec<Covered> {
    ROWS.iter()
        .map(|row| {
            let (cover, how) = match tier {
                Tier::Lsm => row.lsm,
                Tier::Trace => row.trace,
                Tier::Observe => observed(row.trace.0),
            };
            Covered { action: row.action, cover, how }
        })
        .collect()
}

/// `observe` sees what `trace` judges, and stops none of it.
fn observed(trace: Cover) -> (Cover, &'static str) {
    match trace {
        Cover::Refused | Cover::Killed | Cover::Recorded => (Cover::Recorded, "seen, and goes on"),
        Cover::Partly => (Cover::Partly, "seen where tier trace would judge it, and goes on"),
        Cover::NotCovered => (Cover::NotCovered, "not seen"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observe_claims_to_stop_nothing() {
        assert!(
            of(Tier::Observe)
                .iter()
                .all(|row| !matches!(row.cover, Cover::Refused | Cover::Killed))
        );
    }

    #[test]
    fn lsm_kills_nobody_and_every_action_has_its_words() {
        for tier in Tier::ALL {
            assert!(of(tier).iter().all(|row| !row.how.is_empty()));
        }
        assert!(of(Tier::Lsm).iter().all(|row| row.cover != Cover::Killed));
    }
}
