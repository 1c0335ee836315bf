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

const ROWS: &[Row] = &[
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
        action: "other socket families and protocols",
        lsm: (
            Cover::Refused,
            "socket_create: only TCP, UDP, UNIX-domain and route netlink can be had; socket_connect, socket_sendmsg and netlink_send for sockets made elsewhere",
        ),
        trace: (
            Cover::Partly,
            "raw and packet sockets fail, as CAP_NET_RAW is withheld; of others the cgroup programs see connect of ICMP \
             sockets only",
        ),
    },
    Row {
        action: "connections that were handed in",
        lsm: (
            Cover::Partly,
            "socket_sendmsg, by the far end; what is read from them is not judged, and before kernel 6.5 sendfile and splice \
             into one are not seen",
        ),
        trace: (Cover::NotCovered, "a socket of another cgroup is not seen"),
    },
    Row {
        action: "source routes of IP packets",
        lsm: (
            Cover::Partly,
            "socket_setsockopt and socket_sendmsg; of sendmmsg only the first of several messages to one address is seen",
        ),
        trace: (Cover::NotCovered, "packets may be sent by way of any host"),
    },
    Row {
        action: "listen, accept: TCP; bind: UDP",
        lsm: (Cover::Refused, "socket_listen, socket_accept and socket_bind, EACCES"),
        trace: (Cover::NotCovered, "no hook of this tier sees it"),
    },
    Row {
        action: "UNIX-domain sockets of others",
        lsm: (
            Cover::Refused,
            "unix_stream_connect and unix_may_send, EACCES; connections that were handed in stay usable",
        ),
        trace: (Cover::NotCovered, "no hook of this tier sees it"),
    },
    Row {
        action: "changing the network by netlink",
        lsm: (Cover::Refused, "netlink_send: of route netlink, and there only queries"),
        trace: (Cover::NotCovered, "the kernel's own checks are the bound"),
    },
    Row {
        action: "open, openat, openat2 (32-bit too)",
        lsm: (Cover::Refused, "file_open, EACCES"),
        trace: (Cover::Killed, LATE),
    },
    Row {
        action: "creat, open with O_CREAT",
        lsm: (Cover::Refused, "path_mknod, before the file exists"),
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
            Cover::Refused,
            "ptrace_access_check, from processes outside; file_receive, as an open",
        ),
        trace: (Cover::Killed, "sys_exit, as open"),
    },
    Row {
        action: "descriptors passed over sockets",
        lsm: (
            Cover::Refused,
            "file_receive, as an open or a connection; the message comes without the descriptor",
        ),
        trace: (Cover::NotCovered, "not in this version"),
    },
    Row {
        action: "descriptors inherited at start",
        lsm: (
            Cover::Refused,
            "file_open: each is opened again inside the agent, and closed where that is refused; what a process \
             has open that is moved into the cgroup stays open",
        ),
        trace: (Cover::NotCovered, "what the starter left open stays usable"),
    },
    Row {
        action: "execve, execveat",
        lsm: (Cover::Refused, "bprm_check_security, EACCES"),
        trace: (Cover::Killed, "sched_process_exec, before the first instruction"),
    },
    Row {
        action: "programs changed since they were pinned",
        lsm: (
            Cover::Refused,
            "bprm_check_security, file_open, mmap_file and file_mprotect, by inode and change time, EACCES; what runs or \
             is mapped already goes on",
        ),
        trace: (
            Cover::Partly,
            "sched_process_exec: programs are killed before the first instruction; scripts and libraries are not held to \
             pins",
        ),
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
        lsm: (
            Cover::Refused,
            "file_open: the loader that a program names, and each library; mmap_file and file_mprotect: what is \
             mapped as code; anonymous memory may be code",
        ),
        trace: (
            Cover::Partly,
            "libraries are judged as opens; the loader that a program names is opened by the kernel and not seen",
        ),
    },
    Row {
        action: "mkdir, mknod, symlink, unlink, truncate",
        lsm: (Cover::Refused, "the path_* hooks, EACCES, also for io_uring"),
        trace: (Cover::NotCovered, "the agent's user id is the bound"),
    },
    Row {
        action: "rename, exchange, hard links",
        lsm: (
            Cover::Refused,
            "path_rename and path_link at both places: EACCES, or EXDEV where the policy says different things of them",
        ),
        trace: (Cover::NotCovered, "the agent's user id is the bound"),
    },
    Row {
        action: "hard links made before",
        lsm: (
            Cover::Partly,
            "files that deny rules name are found on disk when the policy is loaded and denied by their inode; links that \
             others make later are not seen",
        ),
        trace: (Cover::Partly, "as tier lsm, for what is judged there"),
    },
    Row {
        action: "chmod, chown, utime, setxattr, flags",
        lsm: (Cover::Refused, "path_chmod, path_chown, inode_set*, file_ioctl, EACCES"),
        trace: (Cover::NotCovered, "the agent's user id is the bound"),
    },
    Row {
        action: "ptrace, memory of processes outside",
        lsm: (Cover::Refused, "ptrace_access_check and ptrace_traceme, EPERM"),
        trace: (
            Cover::Partly,
            "CAP_SYS_PTRACE is withheld, so processes of other users and of more capabilities are out of reach; others \
             of the agent's user without any are not",
        ),
    },
    Row {
        action: "signals to processes outside",
        lsm: (
            Cover::Refused,
            "task_kill, EPERM; file_fcntl and file_ioctl, where the kernel would be made to send one",
        ),
        trace: (
            Cover::NotCovered,
            "the kernel's own checks are the bound: a root agent can kill the guard",
        ),
    },
    Row {
        action: "limits and priorities of others",
        lsm: (
            Cover::Refused,
            "task_setrlimit, task_setscheduler, task_setnice, task_setioprio and task_movememory, EPERM",
        ),
        trace: (
            Cover::Partly,
            "CAP_SYS_NICE and CAP_SYS_RESOURCE are withheld; limits can be lowered",
        ),
    },
    Row {
        action: "mount, umount, pivot_root, chroot",
        lsm: (
            Cover::Refused,
            "sb_mount and its like, path_chroot, EPERM; capable where they have no hook",
        ),
        trace: (
            Cover::Refused,
            "CAP_SYS_ADMIN and CAP_SYS_CHROOT are withheld, EPERM; nothing tells",
        ),
    },
    Row {
        action: "user namespaces",
        lsm: (Cover::Refused, "userns_create, EPERM"),
        trace: (
            Cover::NotCovered,
            "no hook: inside one an agent has every capability, over what belongs to it",
        ),
    },
    Row {
        action: "bpf, performance counters",
        lsm: (Cover::Refused, "bpf and perf_event_open, EPERM"),
        trace: (
            Cover::Partly,
            "CAP_BPF and CAP_PERFMON are withheld; what the kernel leaves to everybody is not covered",
        ),
    },
    Row {
        action: "kernel modules, kexec, reboot",
        lsm: (
            Cover::Refused,
            "CAP_SYS_MODULE and CAP_SYS_BOOT are withheld, EPERM; kernel_read_file, kernel_load_data and capable besides",
        ),
        trace: (
            Cover::Refused,
            "CAP_SYS_MODULE and CAP_SYS_BOOT are withheld, EPERM; nothing tells",
        ),
    },
    Row {
        action: "namespaces, clock, host name, swap",
        lsm: (
            Cover::Refused,
            "the capabilities are withheld, EPERM; capable besides; quotas, accounting, I/O ports and vhangup too",
        ),
        trace: (Cover::Refused, "the capabilities are withheld, EPERM; nothing tells"),
    },
    Row {
        action: "the kernel's log",
        lsm: (Cover::Refused, "syslog, EPERM; CAP_SYSLOG is withheld besides"),
        trace: (
            Cover::Partly,
            "CAP_SYSLOG is withheld, without which a kernel with sysctl kernel.dmesg_restrict=1 refuses",
        ),
    },
    Row {
        action: "typing into a terminal",
        lsm: (Cover::Refused, "file_ioctl: TIOCSTI and TIOCLINUX, EPERM"),
        trace: (
            Cover::NotCovered,
            "no hook; recent kernels can forbid it: sysctl dev.tty.legacy_tiocsti=0",
        ),
    },
    Row {
        action: "terminals of others under a wildcard",
        lsm: (
            Cover::Refused,
            "file_open and the other file hooks; whose it is file_ioctl notes, EACCES",
        ),
        trace: (
            Cover::Killed,
            "sys_exit, as for files; one that others make at this moment can be taken",
        ),
    },
    Row {
        action: "descriptors shared by two processes",
        lsm: (Cover::Refused, "no descriptor of a denied file comes to be"),
        trace: (
            Cover::Killed,
            "clone with CLONE_FILES and without CLONE_THREAD kills the new process",
        ),
    },
    Row {
        action: "acting from outside of the cgroup",
        lsm: (
            Cover::Refused,
            "task_alloc: the agent sticks to a task and its children, wherever they move, and none starts elsewhere",
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
