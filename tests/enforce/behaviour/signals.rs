//! Signals and the terminal.

use std::{
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{ALLOW_ALL, Behaviour, DENY_SECRETS, actor, secret_place};
use crate::{
    guard::{PATIENCE, Reader, Run, wait},
    scratch::Scratch,
};

pub const PROMISES: &[Behaviour] = &[
    ("signals to the guard reach the command", reach_the_command),
    ("a command that a forwarded signal kills gives its exit code", killed_by_forwarded),
    ("the command has the terminal, and its interrupt once", interrupt_once),
    ("the command is told when the terminal goes away", hang_up),
    ("a command that takes the terminal or holds it does not hold the guard up", held_terminal),
];

fn reach_the_command() {
    let scratch = Scratch::new();
    let running = Run::under(ALLOW_ALL).start(&actor(&scratch, &["await-signals", "4"]));
    running.stdout.wait_for("ready");
    for signal in [Signal::TERM, Signal::HUP, Signal::USR1, Signal::INT] {
        running.signal(signal);
        running.stdout.wait_for(&format!("got {}", signal.as_raw()));
    }
    running.finish().exits(0);
}

fn killed_by_forwarded() {
    let running = Run::under(ALLOW_ALL).start(&["/bin/sh", "-c", "echo ready; exec sleep 100000"]);
    running.stdout.wait_for("ready");
    running.signal(Signal::TERM);
    running.finish().exits(143);
}

/// The terminal sends its interrupt to guard and command alike, and the guard must not send it again.
/// What is sent to the guard afterwards tells that it has had the time to.
fn interrupt_once() {
    let scratch = Scratch::new();
    let (controller, terminal) = open_terminal();
    let run = Run::under(ALLOW_ALL);
    let mut keyboard = File::from(controller.try_clone().unwrap());
    let command = run.command(&actor(&scratch, &["terminal"]));
    let (child, screen) = start_on_terminal(command, controller, terminal);
    let guard = Pid::from_child(&child);

    assert_eq!(screen.wait_for("terminal"), "true true true");
    screen.wait_for("ready");
    keyboard.write_all(&[0x03]).unwrap();
    // What the terminal echoes for it tells that it has sent the signal.
    screen.wait_for_text("^C");
    kill_process(guard, Signal::USR1).unwrap();
    screen.wait_for_text("interrupts 1\r\n");
    assert_eq!(wait(child).code(), Some(0));
}

fn hang_up() {
    let scratch = Scratch::new();
    let (controller, terminal) = open_terminal();
    let run = Run::under(ALLOW_ALL);
    let mut command = run.command(&actor(&scratch, &["await-signals", "1"]));
    command.stdin(terminal).stdout(Stdio::piped());
    lead_session(&mut command);
    let mut child = command.spawn().unwrap();
    drop(command);
    let said = Reader::of(child.stdout.take().unwrap());
    said.wait_for("ready");
    drop(controller);
    assert_eq!(said.wait_for("got"), libc::SIGHUP.to_string());
    assert_eq!(wait(child).code(), Some(0));
}

/// Each denial is logged, though nobody can write to the terminal.
fn held_terminal() {
    let scratch = secret_place();
    let events = scratch.path("events");
    let (controller, terminal) = open_terminal();
    let run = Run::under(&scratch.place.fill(DENY_SECRETS)).events_to(Some(&events));
    let guard = run.command(&actor(&scratch, &["hold-terminal", "{root}/secret/key"]));
    // Whose group has its parent in the same session can be stopped by the terminal.
    let mut command = Command::new("/bin/sh");
    command.args(["-m", "-c", "\"$0\" \"$@\""]).arg(guard.get_program()).args(guard.get_args());
    let (child, screen) = start_on_terminal(command, controller, terminal);
    let denials = || {
        let text = std::fs::read_to_string(&events).unwrap_or_default();
        text.lines().filter(|line| line.contains("\"name\":\"secrets\"")).count()
    };
    let start = Instant::now();
    for number in 1..=2 {
        while denials() < number {
            assert!(start.elapsed() < PATIENCE, "the guard waits for the terminal");
            std::thread::sleep(Duration::from_millis(20));
        }
        // The role goes on when this is there.
        scratch.file(&format!("told{number}"), "");
    }
    assert_eq!(wait(child).code(), Some(0));
    drop(screen);
}

/// Has `command` lead a session whose terminal is its standard input.
pub fn lead_session(command: &mut Command) {
    // SAFETY: between fork and exec only setsid and ioctl are called.
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
            Ok(())
        });
    }
}

/// Starts `command` as the leader of a session on this terminal, and gives what it shows at its other end.
pub fn start_on_terminal(
    mut command: Command,
    other_end: OwnedFd,
    terminal: OwnedFd,
) -> (Child, Reader) {
    let end = || terminal.try_clone().unwrap();
    command.stdin(end()).stdout(end()).stderr(end());
    lead_session(&mut command);
    let child = command.spawn().unwrap();
    // The last of this side, so that the screen ends when the command does.
    drop((command, terminal));
    (child, Reader::of(File::from(other_end)))
}

/// Both ends of a new terminal.
pub fn open_terminal() -> (OwnedFd, OwnedFd) {
    let (mut controller, mut terminal) = (-1, -1);
    // SAFETY: room for two descriptors; no name, settings or size.
    let made = unsafe {
        use std::ptr::{null, null_mut};
        libc::openpty(&mut controller, &mut terminal, null_mut(), null(), null())
    };
    assert_eq!(made, 0, "{}", io::Error::last_os_error());
    // SAFETY: fresh from the kernel.
    let own = |fd| unsafe { OwnedFd::from_raw_fd(fd) };
    let (controller, terminal) = (own(controller), own(terminal));
    for fd in [&controller, &terminal] {
        // SAFETY: a descriptor and a flag.
        unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    (controller, terminal)
}
