//! The wire event: what a kernel program writes into the ring buffer.

use crate::{
    limits::{NAME_MAX, PATH_BYTES},
    numbered::numbered,
};

/// What became of the action.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It went on.
    Allowed = 0,
    /// It failed with an error.
    Denied = 1,
    /// The process was killed before it could use what it asked for.
    Killed = 2,
    /// It went on although the policy denies it: `mode: audit`, tier `observe`.
    Observed = 3,
}

numbered! {
    /// What was done, by number on the wire.
    pub enum Action {
        /// A file was opened for reading.
        Read,
        /// A file was opened for writing, created or truncated.
        Write,
        /// A file was opened for both.
        ReadWrite,
        /// A program was run.
        Exec,
        /// A file was opened by the kernel as program or loader.
        Load,
        /// A socket was connected.
        Connect,
        /// A datagram was sent to an address.
        Send,
        /// An io_uring was set up, where the tier can not judge what goes through it.
        IoUring,
        /// A process was made that shares the caller's descriptors, where the tier ends only one of them.
        ShareDescriptors,
        /// A file, directory, link or device node was made.
        Create,
        /// A name was removed.
        Delete,
        /// A name was changed, or exchanged with another.
        Rename,
        /// A second name was given to a file.
        Link,
        /// A file was cut or grown by its name.
        Truncate,
        /// Mode, owner, times, extended attributes or flags of a file were set.
        SetMetadata,
        /// A file was mapped as code.
        Map,
        /// A descriptor that can not be opened by name was received from another process.
        Receive,
        /// A socket was made.
        CreateSocket,
        /// A socket was bound to a local address, or began to listen there.
        Listen,
        /// A connection was accepted.
        Accept,
        /// A UNIX-domain socket was connected, or a datagram sent over it.
        ConnectLocal,
        /// Something was done to the system or to a process outside the agent: see [`Operation`].
        Operate,
        /// A socket was told the way that its packets take, which would lead elsewhere than is judged.
        SourceRoute,
    }
}

numbered! {
    /// What reaches out of an agent without a file or a connection.
    pub enum Operation {
        /// Reading or steering a process outside the agent, or being steered by one: ptrace, its memory,
        /// its descriptors.
        Trace,
        /// Sending a signal to a process outside the agent, or having the kernel send one.
        Signal,
        /// Changing limits, priority or scheduling of a process outside the agent.
        Tune,
        /// Mounting, moving, remounting and unmounting.
        Mount,
        /// Changing the root directory.
        Chroot,
        /// Making a user namespace.
        UserNamespace,
        /// The bpf(2) system call.
        Bpf,
        /// Opening a performance counter.
        Perf,
        /// Loading a kernel module.
        Module,
        /// Loading another kernel, or starting over.
        Kexec,
        /// Typing into a terminal in its user's place, and hanging it up.
        TerminalInput,
        /// Starting a process in another cgroup.
        Cgroup,
        /// Making or entering a namespace that is none of users.
        Namespace,
        /// Opening a file by its handle in place of a name.
        FileHandle,
        /// Setting the clock.
        Clock,
        /// Setting what the whole host has one of: its name, swap, accounting, quotas, I/O ports.
        Host,
        /// Reading and changing the kernel's log.
        KernelLog,
    }
}

/// The fixed part of an event. `path_len` bytes of the path follow.
///
/// The path runs from the object up to the root of its file system: each name ends with a NUL and is
/// padded to [`crate::limits::PATH_ALIGN`] with bytes that mean nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventHeader {
    /// Nanoseconds on `CLOCK_BOOTTIME`.
    pub boot_ns: u64,
    /// cgroup id of the caller.
    pub cgroup: u64,
    /// Inode number of the object, or 0.
    pub inode: u64,
    /// Agent id.
    pub agent: u32,
    /// Policy id.
    pub policy: u32,
    /// Process (thread group) id.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// Process id of the parent.
    pub ppid: u32,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Device of the object's file system, `s_dev`, or 0; of an abstract socket name, which then stands
    /// alone in the path as its bare bytes, [`crate::table::ABSTRACT_DEV`].
    pub dev: u32,
    /// Bytes of the path that follow.
    pub path_len: u32,
    /// Deciding rule, or [`crate::table::NO_RULE`].
    pub rule: u16,
    /// Port of the endpoint, host byte order.
    pub port: u16,
    /// Protocol of the socket (`sk_protocol`).
    pub protocol: u16,
    /// Family of `addr` (`AF_*`), or the one that the caller gave where it could not be judged.
    pub family: u16,
    /// [`crate::hook::Hook`] number.
    pub hook: u8,
    /// [`Action`] number.
    pub action: u8,
    /// [`crate::decide::Reason`] number.
    pub reason: u8,
    /// [`Outcome`] number.
    pub outcome: u8,
    /// [`Operation`] number, for [`Action::Operate`].
    pub operation: u8,
    /// Nothing; keeps the members aligned without padding.
    pub reserved: [u8; 3],
    /// Process (thread group) id of the process that was acted on, or 0.
    pub target: u32,
    /// Address as it was judged, in network byte order; IPv4 in the first four bytes.
    pub addr: [u8; 16],
    /// Name of the thread, NUL-terminated. Chosen by the process: for showing only.
    pub comm: [u8; 16],
}

/// Room for a path: the last name may start just below the bound.
pub const PATH_ROOM: usize = PATH_BYTES + NAME_MAX + 1;

const _: () = assert!(size_of::<EventHeader>() == 112);
