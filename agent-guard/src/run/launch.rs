//! Starting the command: in its cgroup before its first instruction.

use std::{
    ffi::OsString,
    io::{self, ErrorKind},
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    process::ExitStatus,
};

use tokio::process::{Child, Command};

use super::{descriptors::Inherited, privileges::Privileges};
use crate::signals::Mask;

/// Exit code where the command was found and could not be run, as a shell has it.
const CANNOT_RUN: u8 = 126;
/// Exit code where there is no such command.
const NOT_FOUND: u8 = 127;

/// The command did not start.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}{}", command.to_string_lossy(), self.hint())]
pub struct LaunchError {
    command: OsString,
    source: io::Error,
}

impl LaunchError {
    /// What `run` exits with.
    pub fn exit_code(&self) -> u8 {
        match self.source.kind() {
            ErrorKind::NotFound => NOT_FOUND,
            _ => CANNOT_RUN,
        }
    }

    fn hint(&self) -> &'static str {
        match self.source.kind() {
            ErrorKind::PermissionDenied => {
                " (is it executable, and does the policy allow it under `exec`?)"
            }
            _ => "",
        }
    }
}

/// Starts `command` in the cgroup behind `entrance`, on this process's terminal, with the signals of `mask`
/// blocked and no more than `privileges`. It gets those of the `inherited` descriptors that its policy
/// allows, or all of them where there are none to judge.
pub fn start(
    command: &[OsString],
    entrance: OwnedFd,
    mask: Mask,
    privileges: Privileges,
    inherited: Option<Inherited>,
) -> Result<Child, LaunchError> {
    let (program, arguments) = command
        .split_first()
        .map_or((OsString::new(), &[][..]), |(first, rest)| (first.clone(), rest));
    let mut builder = Command::new(&program);
    builder.args(arguments);
    // SAFETY: between fork and exec this only makes system calls: it sets the signal mask, writes to a
    // descriptor that was opened before, looks at what is open, and gives capabilities up. Nothing of it
    // allocates.
    unsafe {
        // The child enters the cgroup itself, so that even its exec is decided under the policy.
        builder.pre_exec(move || {
            mask.apply()?;
            rustix::io::write(&entrance, b"0")?;
            inherited.as_ref().map_or(Ok(()), Inherited::judge)?;
            privileges.apply()
        });
    }
    builder.spawn().map_err(|source| LaunchError { command: program, source })
}

/// The exit code for how the command ended: its own, or 128 + N for signal N.
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_commands_own() {
        assert_eq!(exit_code(ExitStatus::from_raw(0)), 0);
        assert_eq!(exit_code(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(exit_code(ExitStatus::from_raw(libc::SIGTERM)), 143);
    }

    #[tokio::test]
    async fn a_command_that_does_not_exist_is_127_and_one_that_is_no_program_126() {
        let null =
            || OwnedFd::from(std::fs::OpenOptions::new().write(true).open("/dev/null").unwrap());
        let mask = crate::signals::Signals::collect().unwrap().before();
        // SAFETY: integers and arrays of them, for which zero is a value.
        let nothing_allowed = unsafe { std::mem::zeroed() };
        let privileges = Privileges::of(crate::tier::Tier::Lsm, &nothing_allowed).unwrap();
        let start = |program: &str| start(&[program.into()], null(), mask, privileges, None);
        let missing = start("/no/such/command").unwrap_err();
        assert_eq!(missing.exit_code(), 127);
        let directory = start("/").unwrap_err();
        assert_eq!(directory.exit_code(), 126);
        assert!(directory.to_string().contains("under `exec`"));
    }
}
