//! Fuzzing: each target of `fuzz/` for a bounded time, from the seeds that are kept.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};

use crate::{
    build,
    process::{command, output, retry, run, say},
    toolchain::{Rustc, cargo_tool},
};

const CARGO_FUZZ: &str = "0.13";

/// The targets, and the longest input of each in bytes: a log of a few records; a policy with a few rules; a header
/// and the longest path; a conversation of more names than a wildcard lets out; a request with more than its head may
/// have.
const TARGETS: [(&str, usize); 5] =
    [("audit", 16_384), ("policy", 4096), ("wire_event", 8192), ("dns", 4096), ("control", 16_384)];

/// Fuzzes every target for `seconds`; fails with the first input that breaks a promise.
pub fn run_all(rustc: &Rustc, seconds: u64) -> Result<()> {
    install()?;
    let root = build::root()?;
    for (target, longest) in TARGETS {
        say(format!("Fuzzing {target} for {seconds} s"));
        let corpus = root.join("target/fuzz-corpus").join(target);
        plant(&root.join("fuzz/seeds").join(target), &corpus)?;
        let mut fuzz = cargo_tool("cargo-fuzz");
        fuzz.args(["run", "--fuzz-dir"]).arg(root.join("fuzz"));
        // Beside what else is built: the repository is copied into guests without it.
        fuzz.arg("--target-dir").arg(root.join("target/fuzz")).arg(target).arg(&corpus);
        fuzz.args(["--", "-print_final_stats=1", "-timeout=30"])
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-max_len={longest}"))
            // Sanitizers are an unstable option of the stable compiler too.
            .env("RUSTC_BOOTSTRAP", "1")
            .current_dir(&root);
        rustc.choose_for(&mut fuzz);
        run(&mut fuzz).with_context(|| {
            format!(
                "{target}: the input is kept below fuzz/artifacts; make it a test, then mend it"
            )
        })?;
    }
    Ok(())
}

fn install() -> Result<()> {
    let found = output(cargo_tool("cargo-fuzz").arg("--version")).unwrap_or_default();
    if found.starts_with(&format!("cargo-fuzz {CARGO_FUZZ}.")) {
        return Ok(());
    }
    say(format!("Building cargo-fuzz {CARGO_FUZZ} (about a minute)"));
    retry("cargo install cargo-fuzz", || {
        run(&mut command(
            "cargo",
            ["install", "cargo-fuzz", "--locked", "--force", "--version", CARGO_FUZZ],
        ))
    })
}

/// Puts the seeds into the corpus. What is no text is kept as hexadecimal digits, in files named so.
fn plant(seeds: &Path, corpus: &Path) -> Result<()> {
    fs::create_dir_all(corpus).with_context(|| corpus.display().to_string())?;
    for entry in fs::read_dir(seeds).with_context(|| seeds.display().to_string())? {
        let path = entry?.path();
        let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
        let bytes = match path.extension().is_some_and(|extension| extension == "hex") {
            true => from_hex(&bytes).with_context(|| path.display().to_string())?,
            false => bytes,
        };
        let name = path.file_stem().context("a seed without a name")?;
        fs::write(corpus.join(name), bytes)?;
    }
    Ok(())
}

fn from_hex(text: &[u8]) -> Result<Vec<u8>> {
    let digits: Vec<u8> = text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let pairs = digits.chunks(2).map(|pair| {
        let pair = str::from_utf8(pair)?;
        if pair.len() < 2 {
            bail!("an odd number of digits");
        }
        Ok(u8::from_str_radix(pair, 16)?)
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_seeds_are_bytes_and_may_be_broken_into_lines() {
        assert_eq!(from_hex(b"00 ff\n10\n").unwrap(), [0, 0xff, 0x10]);
        assert!(from_hex(b"0").is_err() && from_hex(b"zz").is_err());
    }
}
