//! `agent-guard audit`

use std::{
    fmt::Write as _,
    io::Read as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};

use super::{
    Failure, amiss, done,
    output::{self, Format},
};
use crate::audit::{
    MAX_LINE, head, key,
    verify::{Files, Finding, Kept, Known, Note, Report, verify},
};

#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    Verify(VerifyArgs),
    /// Print the newest checkpoint of a log, one signed line, to be kept where this host can not change it
    ///
    /// `audit verify --expect` then shows whether the end of the log was cut off, or the log was written anew.
    Head {
        /// The log's directory, or its files, the oldest first
        #[arg(required = true, value_name = "DIR|FILE")]
        log: Vec<PathBuf>,
    },
    /// Draw a key to sign a log with; prints its public half, which is written beside it too
    ///
    /// The daemon does so itself where the key is missing. No key is written over.
    Keygen {
        /// The file of the private key, mode 0600; the public half goes to FILE.pub
        #[arg(value_name = "FILE")]
        key: PathBuf,
        /// Draw the successor of the key in FILE: at SIGHUP, or its next start, the daemon has the old key sign that the new one follows, and puts it in its place
        #[arg(long)]
        next: bool,
    },
}

/// Verify a log: every record altered, removed, moved, inserted or cut off, with file, line and number; exits 1 where there is one
///
/// Without --key, --expect or --since it shows that the log is of one piece, and not who wrote it. Needs no root.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// The log's directory, or its files, the oldest first, plain or gzip; `-` for stdin
    #[arg(required = true, value_name = "DIR|FILE")]
    log: Vec<PathBuf>,

    /// A key that is trusted: `ed25519:` and digits, or a file with the public half; several for several
    #[arg(long, value_name = "PUBLIC KEY")]
    key: Vec<String>,

    /// A file with a checkpoint, as `audit head` printed it, that has to be in the log; several for several
    #[arg(long, value_name = "FILE")]
    expect: Vec<PathBuf>,

    /// A file with a checkpoint that the log may begin at, or right behind: what came before was taken away on purpose
    #[arg(long, value_name = "FILE")]
    since: Option<PathBuf>,

    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

pub fn run(command: &AuditCommand) -> Result<ExitCode, Failure> {
    match command {
        AuditCommand::Verify(args) => amiss(verified(args)),
        AuditCommand::Head { log } => done(newest(log)),
        AuditCommand::Keygen { key, next } => done(keygen(key, *next)),
    }
}

fn verified(args: &VerifyArgs) -> anyhow::Result<bool> {
    let known = Known {
        keys: args.key.iter().map(|given| key::public(given)).collect::<Result<_, _>>()?,
        since: args.since.as_ref().map(kept).transpose()?,
        expected: args.expect.iter().map(kept).collect::<Result<_, _>>()?,
    };
    let report = verify(&Files::of(&args.log)?, known)?;
    output::print(args.output, &report, || in_words(&report))?;
    Ok(report.intact)
}

fn kept(file: &PathBuf) -> anyhow::Result<Kept> {
    let mut line = Vec::new();
    let opened = std::fs::File::open(file);
    let read = opened.and_then(|opened| opened.take(MAX_LINE as u64 + 1).read_to_end(&mut line));
    read.with_context(|| format!("reading the checkpoint {}", file.display()))?;
    Kept::read(&line).with_context(|| {
        format!(
            "{} is no checkpoint as `agent-guard audit head` prints it, or is not as it was signed",
            file.display()
        )
    })
}

fn newest(log: &[PathBuf]) -> anyhow::Result<()> {
    match head::newest(&Files::of(log)?)? {
        Some(line) => output::write(&line).map(drop),
        None => bail!("no signed checkpoint is in it"),
    }
}

fn keygen(path: &Path, next: bool) -> anyhow::Result<()> {
    let path = match next {
        true => {
            // Nothing follows what is not there.
            key::load(path)?;
            key::beside(path, "next")
        }
        false => path.to_owned(),
    };
    let key = key::create(&path)?;
    output::write(format!("{}\n", key::public_half(&key)).as_bytes()).map(drop)
}

fn in_words(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    for Finding { kind, place, sequence, text: what } in &report.findings {
        let number = sequence.map_or_else(String::new, |sequence| format!(" record {sequence}:"));
        let _ = writeln!(text, "{place}:{number} {}: {what}", kind.name());
    }
    if report.more_findings > 0 {
        let _ = writeln!(text, "and {} more", report.more_findings);
    }
    for Note { place, text: what } in &report.notes {
        let _ = writeln!(text, "{place}: note: {what}");
    }
    let verdict = if report.intact { "intact" } else { "NOT INTACT" };
    let chain = report.chain.map_or_else(|| "none".to_owned(), |chain| chain.to_string());
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let _ = writeln!(
        text,
        "{verdict}: {} record(s), numbers {} to {}, {} checkpoint(s), chain {chain}",
        report.records,
        number(report.first),
        number(report.last),
        report.checkpoints,
    );
    if let (Some(last), Some(signed)) = (report.last, report.signed_up_to) {
        let _ = match last.saturating_sub(signed) {
            0 => writeln!(text, "signed to its end"),
            unsigned => writeln!(
                text,
                "signed up to record {signed}; the last {unsigned} are not yet: whoever may write the file could \
                 have made them"
            ),
        };
    }
    for key in &report.keys {
        let _ = writeln!(text, "signed by {key}");
    }
    if !report.trusted && !report.keys.is_empty() {
        let _ = writeln!(
            text,
            "nobody vouches for the key: --key, --expect or --since says which one is trusted"
        );
    }
    text
}
