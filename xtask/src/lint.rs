//! What the compiler does not insist on: format, lints, and the terms of dependencies.

use anyhow::{Context as _, Result, bail};

use crate::{
    build::{self, cargo},
    process::{command, output, retry, run, say},
    toolchain::{Rustc, cargo_tool, nightly},
};

const CARGO_DENY: &str = "0.20";

/// Runs all checks; fails at the first that does not hold.
pub fn run_all(rustc: &Rustc) -> Result<()> {
    say("Format");
    run(&mut cargo(rustc, &["fmt", "--all", "--check"])?)
        .context("`cargo fmt --all` mends the format")?;
    say("Lints of the host's side");
    run(&mut cargo(rustc, &["clippy", "--all-targets", "--", "-D", "warnings"])?)?;
    // `--all-targets` leaves out what `cargo test` does not run by itself.
    let schema = ["clippy", "--package=agent-guard", "--test=ocsf_schema", "--", "-D", "warnings"];
    run(&mut cargo(rustc, &schema)?)?;
    kernel_side(rustc)?;
    dependencies(rustc)
}

/// Clippy on the kernel programs, for their own target.
fn kernel_side(rustc: &Rustc) -> Result<()> {
    if *rustc != Rustc::Nightly {
        say(format!("SKIPPED: lints of the kernel's side, which need clippy of {}", nightly()));
        return Ok(());
    }
    say("Lints of the kernel's side");
    let installed = output(&mut command(
        "rustup",
        ["component", "list", "--installed", "--toolchain", nightly()],
    ))?;
    if !installed.contains("clippy") {
        retry("rustup component add clippy", || {
            run(&mut command("rustup", ["component", "add", "clippy", "--toolchain", nightly()]))
        })?;
    }
    let root = build::root()?;
    run(command("rustup", ["run", nightly(), "cargo", "clippy", "--release"])
        .args(["--package=agent-guard-ebpf", "--target=bpfel-unknown-none", "-Zbuild-std=core"])
        .arg("--target-dir")
        .arg(root.join("target/clippy-bpf"))
        .args(["--", "-D", "warnings"])
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("RUSTC")
        .current_dir(root))
}

/// cargo-deny by `deny.toml`: licences, sources, versions, and known vulnerabilities.
fn dependencies(rustc: &Rustc) -> Result<()> {
    let found = output(cargo_tool("cargo-deny").arg("--version")).unwrap_or_default();
    if !found.starts_with(&format!("cargo-deny {CARGO_DENY}.")) {
        say(format!("Building cargo-deny {CARGO_DENY} (some minutes)"));
        retry("cargo install cargo-deny", || {
            run(&mut command(
                "cargo",
                ["install", "cargo-deny", "--locked", "--force", "--version", CARGO_DENY],
            ))
        })?;
    }
    say("Dependencies");
    let deny =
        |args: &[&str]| -> Result<()> { run(&mut cargo(rustc, &[&["deny"], args].concat())?) };
    let mut checks = vec!["check", "bans", "licenses", "sources"];
    match deny(&["fetch", "db"]) {
        Ok(()) => checks.push("advisories"),
        Err(error) => say(format!(
            "SKIPPED: known vulnerabilities of dependencies. The advisory database could not be \
             fetched: {error:#}"
        )),
    }
    if let Err(error) = deny(&checks) {
        bail!("deny.toml is not kept: {error:#}");
    }
    Ok(())
}
