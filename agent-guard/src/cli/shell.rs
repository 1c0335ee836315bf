//! `agent-guard completions` and `agent-guard man`: what shells and man know of the command line.

use std::{
    fs,
    io::Cursor,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;

use super::output;

/// Print a completion script for a shell
///
/// For bash: `agent-guard completions bash > /etc/bash_completion.d/agent-guard`.
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Write the manual pages into a directory, one for each command
#[derive(Args, Debug)]
pub struct ManArgs {
    /// The directory; it is made where it is not there
    directory: PathBuf,
}

/// Prints the script for a shell.
pub fn completions(args: &CompletionsArgs, command: &Command) -> anyhow::Result<()> {
    let name = command.get_name().to_owned();
    // Hidden commands would be offered too.
    let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
    let mut shown = Command::new(env!("CARGO_PKG_NAME"))
        .version(env!("CARGO_PKG_VERSION"))
        .args(command.get_arguments())
        .subcommands(shown);
    let mut script = Cursor::new(Vec::new());
    clap_complete::generate(args.shell, &mut shown, name, &mut script);
    // For bash clap_complete takes the dash in our name for the end of a command's (4.6.11), and finds no options of
    // any then.
    let script = String::from_utf8(script.into_inner()).context("the script is no text")?;
    let script = script.replace("agent__subcmd__guard", "agent__guard");
    output::write(script.as_bytes()).map(drop)
}

/// Writes `agent-guard.1`, and `agent-guard-COMMAND.1` for each command that is not hidden.
pub fn man(args: &ManArgs, mut command: Command) -> anyhow::Result<()> {
    let directory = &args.directory;
    fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    command = command.disable_help_subcommand(true);
    command.build();
    page(directory, &command)
}

fn page(directory: &Path, command: &Command) -> anyhow::Result<()> {
    // The name that it has with those above it: `agent-guard-policy-check`.
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let file = directory.join(format!("{name}.1"));
    let mut text = Vec::new();
    Man::new(command.clone()).render(&mut text)?;
    fs::write(&file, text).with_context(|| file.display().to_string())?;
    let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
    shown.into_iter().try_for_each(|command| page(directory, command))
}
