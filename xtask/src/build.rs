//! Builds of this workspace, and where cargo put the results.

use std::{
    env,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, anyhow, bail};
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
    let bin = "--bin=agent-guard";
    executable(rustc, "agent-guard", &["build", "--release", "--package=agent-guard", bin])
}

/// Builds the tests that need a kernel and gives the path of their program.
pub fn enforce_tests(rustc: &Rustc) -> Result<PathBuf> {
    executable(
        rustc,
        "enforce",
        &["test", "--release", "--package=agent-guard", "--test=enforce", "--no-run"],
    )
}

/// Builds what `bench` measures the guard's own side with and gives the path of its program.
pub fn bench(rustc: &Rustc) -> Result<PathBuf> {
    executable(rustc, "figures", &["bench", "--package=agent-guard", "--bench=figures", "--no-run"])
}

/// Builds this program for release and gives its path.
pub fn xtask(rustc: &Rustc) -> Result<PathBuf> {
    executable(rustc, "xtask", &["build", "--release", "--package=xtask"])
}

/// Runs a cargo command that builds the executable `name` and gives its path. Silent where nothing is to
/// be built: standard error, too, is wanted as the guest's command wrote it.
fn executable(rustc: &Rustc, name: &str, args: &[&str]) -> Result<PathBuf> {
    let mut child = cargo(rustc, args)?
        .arg("--message-format=json-render-diagnostics")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let said = child.stderr.take().context("cargo's standard error")?;
    let told = thread::spawn(move || {
        for line in BufReader::new(said).lines().map_while(Result::ok) {
            let is_summary = ["Finished ", "Executable "].map(|word| line.trim().starts_with(word));
            if is_summary == [false; 2] {
                eprintln!("{line}");
            }
        }
    });
    let output = child.wait_with_output()?;
    told.join().map_err(|_| anyhow!("reading from cargo failed"))?;
    if !output.status.success() {
        bail!("cargo {} failed ({})", args.join(" "), output.status);
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    executable_in(&messages, name)
        .with_context(|| format!("cargo {} named no program {name}", args.join(" ")))
}

/// The executable of target `name` in cargo's JSON `messages`.
fn executable_in(messages: &str, name: &str) -> Option<PathBuf> {
    messages.lines().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        (message.get("target")?.get("name")? == name).then_some(())?;
        message.get("executable")?.as_str().map(PathBuf::from)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_found_among_cargos_messages() {
        let messages = r#"
            {"target":{"name":"agent-guard"},"executable":null}
            {"target":{"name":"agent-guard"},"executable":"/t/release/agent-guard"}
            {"target":{"name":"enforce"},"executable":"/t/release/deps/enforce-1"}
            {"reason":"build-finished","success":true}"#;
        let named = |name| executable_in(messages, name);
        assert_eq!(named("enforce"), Some("/t/release/deps/enforce-1".into()));
        assert_eq!(named("agent-guard"), Some("/t/release/agent-guard".into()));
        assert_eq!(named("build-script-build"), None);
    }
}
