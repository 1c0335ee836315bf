//! Running other programs: their standard output goes to our standard error, because ours belongs
//! to the command a caller asked for.

use std::{
    ffi::OsStr,
    io,
    os::fd::AsFd as _,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

/// How often a download is tried before it is given up.
pub const ATTEMPTS: u32 = 4;
/// The pause after the first failed attempt; each later one is twice as long.
pub const FIRST_PAUSE: Duration = Duration::from_secs(3);

/// Tells the user what is about to happen and why.
pub fn say(message: impl AsRef<str>) {
    eprintln!("==> {}", message.as_ref());
}

/// A command with `args`.
pub fn command<I, S>(program: &str, args: I) -> Command
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new(program);
    command.args(args);
    command
}

/// Runs a command to its end, shown on standard error; fails unless it exits with 0.
pub fn run(command: &mut Command) -> Result<()> {
    let stderr = io::stderr().as_fd().try_clone_to_owned().context("standard error")?;
    let status = command
        .stdin(Stdio::null())
        .stdout(stderr)
        .status()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", shown(command));
    }
    Ok(())
}

/// What a command prints on standard output; fails, with what it said on standard error, unless it
/// exits with 0.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{} failed ({}): {}", shown(command), output.status, said.trim());
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("{} printed something that is not UTF-8", shown(command)))
}

/// Does `action` until it works, at most [`ATTEMPTS`] times, pausing longer each time.
pub fn retry<T>(what: &str, action: impl FnMut() -> Result<T>) -> Result<T> {
    retry_after(FIRST_PAUSE, what, action)
}

fn retry_after<T>(
    mut pause: Duration,
    what: &str,
    mut action: impl FnMut() -> Result<T>,
) -> Result<T> {
    for attempt in 1..ATTEMPTS {
        match action() {
            Ok(value) => return Ok(value),
            Err(error) => say(format!(
                "{what} failed (attempt {attempt} of {ATTEMPTS}), trying again in {pause:?}: {error:#}"
            )),
        }
        thread::sleep(pause);
        pause *= 2;
    }
    action().with_context(|| format!("{what} failed {ATTEMPTS} times; is the network up?"))
}

/// The command line for a message.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_that_works_the_last_time_is_a_success() {
        let mut calls = 0;
        let result = retry_after(Duration::ZERO, "a download", || {
            calls += 1;
            if calls < ATTEMPTS { bail!("refused") } else { Ok(calls) }
        });
        assert_eq!(result.unwrap(), ATTEMPTS);
    }

    #[test]
    fn a_download_that_never_works_says_why_after_the_last_attempt() {
        let mut calls = 0;
        let error = retry_after(Duration::ZERO, "a download", || -> Result<()> {
            calls += 1;
            bail!("refused")
        })
        .unwrap_err();
        assert_eq!(calls, ATTEMPTS);
        assert!(format!("{error:#}").contains("refused"));
    }

    #[test]
    fn a_failure_names_the_command_and_what_it_said() {
        let error = output(&mut command("sh", ["-c", "echo broken >&2; exit 3"])).unwrap_err();
        let message = format!("{error:#}");
        assert!(message.contains("sh -c") && message.contains("broken"), "{message}");
    }
}
