//! Builds of this workspace, and where cargo put the results.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::toolchain::{Rustc, path_with_cargo_bin};

/// The root of the repository.
pub fn root() -> Result<PathBuf> {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let manifest = manifest.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let root = manifest.parent().map(Path::to_owned);
    root.with_context(|| format!("{} has no parent", manifest.display()))
}

/// A cargo that runs in the repository and builds the kernel programs with `rustc`.
pub fn cargo(rustc: &Rustc, args: &[&str]) -> Result<Command> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(args).current_dir(root()?).env("PATH", path_with_cargo_bin()?);
    rustc.choose_for(&mut cargo);
    Ok(cargo)
}

/// Builds `agent-guard` for release and gives its path.
pub fn agent_guard(rustc: &Rustc) -> Result<PathBuf> {
    executable(rustc, &["build", "--release", "--package=agent-guard", "--bin=agent-guard"])
}

/// Builds the tests that need a kernel and gives the path of their program.
pub fn enforce_tests(rustc: &Rustc) -> Result<PathBuf> {
    executable(
        rustc,
        &["test", "--release", "--package=agent-guard", "--test=enforce", "--no-run"],
    )
}

/// Runs a cargo command that builds one executable and gives its path.
fn executable(rustc: &Rustc, args: &[&str]) -> Result<PathBuf> {
    let output = cargo(rustc, args)?
        .arg("--message-format=json-render-diagnostics")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("cargo {} failed ({})", args.join(" "), output.status);
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    executable_in(&messages).with_context(|| format!("cargo {} named no program", args.join(" ")))
}

/// The last executable that cargo's JSON `messages` name.
fn executable_in(messages: &str) -> Option<PathBuf> {
    let named = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        message.get("executable")?.as_str().map(PathBuf::from)
    });
    named.last()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_found_among_cargos_messages() {
        let messages = "{\"reason\":\"compiler-artifact\",\"executable\":null}\n\
                        {\"reason\":\"compiler-artifact\",\"executable\":\"/t/release/agent-guard\"}\n\
                        {\"reason\":\"build-finished\",\"success\":true}\n";
        assert_eq!(executable_in(messages), Some("/t/release/agent-guard".into()));
        assert_eq!(executable_in("{\"reason\":\"build-finished\"}"), None);
    }
}
