//! Inside the guest: what runs as process 1. It mounts what a Debian system has, runs the command
//! with its output on serial ports, reports how it ended, and powers off.
//!
//! The serial ports are wires, not terminals: the command writes to pipes, so that it behaves as
//! it does under a pipe here, and every byte passes as it is.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Write as _},
    os::unix::{ffi::OsStrExt as _, process::CommandExt as _},
    path::Path,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result};
use rustix::{
    mount::{MountFlags, UnmountFlags, mount, unmount},
    process::{Pid, Signal, WaitOptions, kill_process, wait},
    system::{RebootCommand, finit_module, reboot},
    termios::{OptionalActions, tcdrain, tcgetattr, tcsetattr},
};

use super::share;

/// Name of the overlay module among the programs.
pub const OVERLAY: &str = "overlay.ko";

/// Under the root of the source disk: the command's words, each ended by a NUL.
pub const COMMAND_FILE: &str = "target/command";

/// The serial ports, in the order in which QEMU has them; the first is the console.
const STDOUT: &str = "/dev/ttyS1";
const STDERR: &str = "/dev/ttyS2";
const REPORT: &str = "/dev/ttyS3";

/// What the guest reports, each a line.
pub const UP: &str = "up";
pub const EXIT: &str = "exit ";

const PATH: &str =
    "/src/target/release:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// File systems, where they go, and their options. `/proc`, `/sys` and `/dev` are there already.
const MOUNTS: [(&str, &str, &str); 9] = [
    ("devpts", "/dev/pts", "gid=5,mode=620,ptmxmode=666"),
    ("tmpfs", "/dev/shm", "mode=1777"),
    ("tmpfs", "/tmp", "mode=1777"),
    ("tmpfs", "/run", "mode=755"),
    ("cgroup2", "/sys/fs/cgroup", ""),
    ("bpf", "/sys/fs/bpf", "mode=700"),
    ("securityfs", "/sys/kernel/security", ""),
    ("tracefs", "/sys/kernel/tracing", ""),
    ("debugfs", "/sys/kernel/debug", ""),
];

/// Runs as process 1, and returns only where it could not even report.
pub fn main() -> Result<()> {
    let done = run_command();
    if let Err(error) = &done {
        // The console is all that is left to say it on.
        eprintln!("guest: {error:#}");
    }
    rustix::fs::sync();
    reboot(RebootCommand::Restart).context("ending the guest")?;
    Ok(())
}

fn run_command() -> Result<()> {
    for (kind, path, options) in MOUNTS {
        let _ = fs::create_dir(path);
        let options = std::ffi::CString::new(options)?;
        mount(kind, path, kind, MountFlags::empty(), options.as_c_str())
            .with_context(|| format!("mounting {kind} on {path}"))?;
    }
    let words = decode(&fs::read(Path::new("/src").join(COMMAND_FILE)).context(COMMAND_FILE)?);
    let shared = share::mount_in_guest()?;
    let module = Path::new(super::PROGRAMS).join(OVERLAY);
    let module = File::open(&module).with_context(|| module.display().to_string())?;
    finit_module(&module, c"", 0).context("loading the overlay module")?;
    fs::write("/proc/sys/kernel/hostname", "guest")?;
    Command::new("ip").args(["link", "set", "lo", "up"]).status().context("ip")?;

    let mut report = wire(REPORT)?;
    writeln!(report, "{UP}")?;
    let status = run(&words)?;
    if shared {
        unmount("/share", UnmountFlags::empty()).context("unmounting /share")?;
    }
    writeln!(report, "{EXIT}{status}")?;
    tcdrain(&report)?;
    Ok(())
}

/// Runs the command, passes its output on, and gives its exit status when nothing of it is left.
fn run(words: &[OsString]) -> Result<i32> {
    let (program, arguments) = words.split_first().context("no command")?;
    let mut stderr = wire(STDERR)?;
    let started = Command::new(program)
        .args(arguments)
        .current_dir("/src")
        .env_clear()
        .envs([("PATH", PATH), ("HOME", "/root"), ("LANG", "C.UTF-8"), ("TERM", "dumb")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(error) => {
            writeln!(stderr, "{}: {error}", program.display())?;
            tcdrain(&stderr)?;
            return Ok(if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 });
        }
    };
    let stdout = child.stdout.take().context("the command's standard output")?;
    let errors = child.stderr.take().context("the command's standard error")?;
    let wires = [pass_on(stdout, wire(STDOUT)?), pass_on(errors, stderr)];
    let pid = Pid::from_child(&child);
    // Whatever dies in the guest is process 1's to collect.
    let status = loop {
        if let Some((ended, status)) = wait(WaitOptions::empty())?
            && ended == pid
        {
            break status;
        }
    };
    end_all_others();
    for wire in wires {
        wire.join().map_err(|_| anyhow::anyhow!("passing output on failed"))??;
    }
    let signal = status.terminating_signal().map(|signal| 128 + signal);
    status.exit_status().or(signal).context("the command neither exited nor was killed")
}

/// Kills and collects what the command left running, so that its output ends.
fn end_all_others() {
    loop {
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some(pid) = pid.and_then(Pid::from_raw).filter(|pid| !pid.is_init()) {
                // Kernel threads do not mind; what is gone already is as wanted.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        // Children are left until the kernel says that there are none.
        if wait(WaitOptions::empty()).is_err() {
            return;
        }
    }
}

fn pass_on(
    mut from: impl io::Read + Send + 'static,
    mut to: File,
) -> thread::JoinHandle<Result<()>> {
    thread::spawn(move || {
        io::copy(&mut from, &mut to)?;
        tcdrain(&to)?;
        Ok(())
    })
}

/// A serial port on which bytes pass as they are.
fn wire(path: &str) -> Result<File> {
    let port = File::options().write(true).read(true).open(path).context(path.to_owned())?;
    let mut settings = tcgetattr(&port)?;
    settings.make_raw();
    tcsetattr(&port, OptionalActions::Now, &settings)?;
    Ok(port)
}

/// The bytes of [`COMMAND_FILE`] for `words`.
pub fn encode(words: &[OsString]) -> Vec<u8> {
    words.iter().flat_map(|word| [word.as_bytes(), b"\0"].concat()).collect()
}

fn decode(bytes: &[u8]) -> Vec<OsString> {
    let words = bytes.split_inclusive(|byte| *byte == 0);
    let words = words.map(|word| word.strip_suffix(b"\0").unwrap_or(word));
    words.map(|word| OsStr::from_bytes(word).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    #[test]
    fn words_keep_their_boundaries() {
        let words = ["sh", "-c", "a  'b'\n", "", "\u{e9}"].map(OsString::from);
        assert_eq!(decode(&encode(&words)), words);
        let not_text = [OsString::from_vec(vec![0xff, 0xfe])];
        assert_eq!(decode(&encode(&not_text)), not_text);
    }
}
