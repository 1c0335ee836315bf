//! One QEMU process from boot to end.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::io::{FdFlags, fcntl_setfd};

use super::{guest, image, share};
use crate::process::say;

/// How long a guest may take until it reports itself: 2 to 5 s on an idle machine, and more than a
/// minute was seen on one with four times as much to do as it has processors.
const BOOT_LIMIT: Duration = Duration::from_secs(180);
/// How long a guest that has reported the end may take to power off.
const OFF_LIMIT: Duration = Duration::from_secs(20);
/// How much of the console is shown when something went wrong.
const CONSOLE_LINES: usize = 30;
const MEMORY_MIB: u32 = 2048;
/// An interrupt for each serial port. By default two ports share one, on whose edge a port can wait for
/// ever once the other has lowered it: a guest that writes to both then hangs.
const SERIAL_INTERRUPTS: [u8; 4] = [4, 3, 5, 7];
/// A timed-out command's exit status, as of timeout(1).
const TIMED_OUT: u8 = 124;

/// What a guest is made of.
pub struct Machine<'a> {
    pub kernel: &'a Path,
    /// What QEMU calls the processor.
    pub processor: &'static str,
    pub root: &'a Path,
    pub source: &'a Path,
    pub share: Option<&'a Path>,
    pub append: &'a str,
    pub icount: bool,
    pub scratch: &'a Path,
}

/// How a guest ended.
pub enum Outcome {
    /// Before it reported itself: the command was not started.
    NotUp {
        why: String,
        console: String,
    },
    /// The command ran and exited so.
    Ended(u8),
    TimedOut {
        console: String,
    },
    /// While the command ran.
    Died {
        console: String,
    },
}

impl Outcome {
    /// The exit status to pass on.
    pub fn status(self, timeout: Duration) -> Result<u8> {
        match self {
            Self::Ended(status) => Ok(status),
            Self::TimedOut { console } => {
                say(format!(
                    "the command took longer than {timeout:?}; the console's end:\n{console}"
                ));
                Ok(TIMED_OUT)
            }
            Self::Died { console } => bail!("the guest died under the command:\n{console}"),
            Self::NotUp { why, console } => bail!("the guest did not come up: {why}\n{console}"),
        }
    }
}

impl Machine<'_> {
    /// Boots, and passes on what the command writes until the guest ends: its standard output `to`
    /// there.
    pub fn run(&self, timeout: Duration, to: impl AsFd) -> Result<Outcome> {
        let (console, console_end) = wire()?;
        let (stdout, stdout_end) = wire()?;
        let (stderr, stderr_end) = wire()?;
        let (report, report_end) = wire()?;
        let ends = [console_end, stdout_end, stderr_end, report_end];
        let mut qemu = Qemu::start(self, &ends)?;
        // Closed here, so that the wires end when QEMU does.
        drop(ends);

        let console = thread::spawn(move || read_console(console));
        let stdout = pass_on(stdout, to)?;
        let stderr = pass_on(stderr, io::stderr())?;
        let (send, reports) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(report).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });

        let why = match reports.recv_timeout(BOOT_LIMIT) {
            Ok(line) if line == guest::UP => None,
            Ok(line) => Some(format!("it reported {line:?}")),
            Err(RecvTimeoutError::Timeout) => Some(format!("no report within {BOOT_LIMIT:?}")),
            Err(RecvTimeoutError::Disconnected) => Some("QEMU ended".to_owned()),
        };
        if let Some(why) = why {
            qemu.end()?;
            return Ok(Outcome::NotUp { why, console: joined(console)? });
        }
        let ended = reports.recv_timeout(timeout);
        let status = match &ended {
            Ok(line) => exit_status(line),
            Err(_) => None,
        };
        if status.is_some() {
            qemu.wait(OFF_LIMIT)?;
        }
        qemu.end()?;
        // All that the command wrote is out before its status is.
        joined(stdout)??;
        joined(stderr)??;
        let console = joined(console)?;
        Ok(match (status, ended) {
            (Some(status), _) => Outcome::Ended(status),
            (None, Err(RecvTimeoutError::Timeout)) => Outcome::TimedOut { console },
            (None, _) => Outcome::Died { console },
        })
    }

    fn qemu_arguments(&self) -> Vec<String> {
        let share =
            if self.share.is_some() { format!("{}=1 ", share::VARIABLE) } else { String::new() };
        let kernel_line = format!(
            "root={} rootwait rw init={} console=ttyS0 quiet panic=-1 {share}{}",
            image::ROOT_PARTITION,
            image::INIT_PATH,
            self.append
        );
        let mut arguments: Vec<String> = [
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-cpu",
            self.processor,
        ]
        .map(str::to_owned)
        .into();
        arguments.extend(["-m".to_owned(), MEMORY_MIB.to_string()]);
        // One processor: attaching a program patches kernel code that others may be running, and QEMU's
        // emulation of two has been caught by such a patch half-way (`Oops: int3` in
        // `bpf_lsm_socket_connect` and in `syscall_exit_to_user_mode_prepare`, on 6.12).
        arguments.extend(["-accel", "tcg", "-smp", "1"].map(str::to_owned));
        if self.icount {
            arguments.extend(["-icount", "shift=0,sleep=off,align=off"].map(str::to_owned));
        }
        arguments.extend(["-kernel".to_owned(), self.kernel.display().to_string()]);
        arguments.extend(["-append".to_owned(), kernel_line]);
        let disks = [("root", Some(self.root), "on"), ("source", Some(self.source), "on")];
        for (name, path, snapshot) in disks.into_iter().chain([("share", self.share, "off")]) {
            let Some(path) = path else { continue };
            // A comma in a path is written twice.
            let path = path.display().to_string().replace(',', ",,");
            arguments.extend([
                "-drive".to_owned(),
                format!(
                    "file={path},if=none,id={name},format=raw,snapshot={snapshot},cache=unsafe"
                ),
                "-device".to_owned(),
                format!("nvme,drive={name},serial={name}"),
            ]);
        }
        arguments
    }
}

/// A QEMU process, killed when it is dropped.
struct Qemu(Child);

impl Qemu {
    /// Starts it with `ends` as its serial ports; what it says itself goes to the first, the
    /// console.
    fn start(machine: &Machine<'_>, ends: &[OwnedFd]) -> Result<Self> {
        // Dies with us, however we end.
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]).args(machine.qemu_arguments());
        for ((index, end), irq) in ends.iter().enumerate().zip(SERIAL_INTERRUPTS) {
            let fd = end.as_raw_fd();
            qemu.args(["-chardev", &format!("socket,id=wire{index},fd={fd}")]);
            qemu.args([
                "-device",
                &format!("isa-serial,chardev=wire{index},index={index},irq={irq}"),
            ]);
        }
        let console = ends.first().context("no console")?.try_clone()?;
        qemu.env("TMPDIR", machine.scratch)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(console);
        Ok(Self(qemu.spawn().context("cannot start QEMU")?))
    }

    /// Waits until it ends by itself, at most `limit`.
    fn wait(&mut self, limit: Duration) -> Result<()> {
        let start = Instant::now();
        while self.0.try_wait()?.is_none() && start.elapsed() < limit {
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// A wire to a serial port: our end, and the one that QEMU inherits.
fn wire() -> Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = UnixStream::pair().context("a socket for a serial port")?;
    fcntl_setfd(&theirs, FdFlags::empty())?;
    Ok((ours, theirs.into()))
}

/// Passes on what comes by `from`. Where nobody reads it any more, it is read all the same, so
/// that the guest can go on.
fn pass_on(mut from: UnixStream, to: impl AsFd) -> Result<JoinHandle<Result<()>>> {
    let mut to = File::from(to.as_fd().try_clone_to_owned()?);
    Ok(thread::spawn(move || {
        let passed = io::copy(&mut from, &mut to);
        if passed.is_err() {
            io::copy(&mut from, &mut io::sink())?;
        }
        to.flush()?;
        Ok(())
    }))
}

/// The last lines of what comes by `console`, without control characters.
fn read_console(mut console: UnixStream) -> String {
    let mut bytes = Vec::new();
    // What came before an error is as good.
    let _ = console.read_to_end(&mut bytes);
    tail(&String::from_utf8_lossy(&bytes))
}

fn tail(console: &str) -> String {
    let lines = console.lines().map(|line| line.replace(char::is_control, ""));
    // QEMU says for each feature of the processor that it does not emulate it.
    let told = |line: &String| !line.is_empty() && !line.contains("TCG doesn't support");
    let lines: Vec<String> = lines.filter(told).collect();
    let last = lines.len().saturating_sub(CONSOLE_LINES);
    lines.into_iter().skip(last).map(|line| format!("  | {line}\n")).collect()
}

fn joined<T>(thread: JoinHandle<T>) -> Result<T> {
    thread.join().map_err(|_| anyhow::anyhow!("a thread that reads from the guest failed"))
}

/// The exit status in the guest's last report.
fn exit_status(line: &str) -> Option<u8> {
    line.strip_prefix(guest::EXIT)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine<'static> {
        Machine {
            kernel: Path::new("/k"),
            processor: "EPYC",
            root: Path::new("/r"),
            source: Path::new("/a,b"),
            share: None,
            append: "lsm=landlock,yama",
            icount: false,
            scratch: Path::new("/tmp"),
        }
    }

    #[test]
    fn what_the_caller_appends_is_last_on_the_kernels_line() {
        let arguments = machine().qemu_arguments();
        assert!(arguments.iter().any(|word| word.ends_with(" lsm=landlock,yama")));
        assert!(!arguments.iter().any(|word| word.contains(share::VARIABLE)));
    }

    #[test]
    fn only_the_share_keeps_what_is_written() {
        let arguments = Machine { share: Some(Path::new("/s")), ..machine() }.qemu_arguments();
        let kept: Vec<&String> =
            arguments.iter().filter(|word| word.contains("snapshot=off")).collect();
        assert_eq!(kept.len(), 1);
        assert!(kept.iter().all(|word| word.starts_with("file=/s,")));
        assert!(arguments.iter().any(|word| word.starts_with("file=/a,,b,")));
    }

    #[test]
    fn the_exit_status_is_read_from_the_report() {
        assert_eq!(exit_status("exit 137"), Some(137));
        assert_eq!(exit_status("exit 256"), None);
        assert_eq!(exit_status("up"), None);
    }

    #[test]
    fn the_consoles_end_is_shown_without_control_characters() {
        let console: String = (0..100).map(|n| format!("\u{1b}line {n}\r\n\r\n")).collect();
        let shown = tail(&console);
        assert_eq!(shown.lines().count(), CONSOLE_LINES);
        assert!(shown.ends_with("  | line 99\n"), "{shown}");
    }
}
