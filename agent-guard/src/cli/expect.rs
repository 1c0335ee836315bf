//! `agent-guard policy test`

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use super::{
    Failure,
    output::{self, Format},
};
use crate::policy::{
    compile::HostLinks,
    expect::{Answer, check},
};

/// Exit code where a policy says something else than is expected.
const DIFFERENT: u8 = 1;
/// Exit code where expectations could not be put to a policy.
const FAILED: u8 = 2;

/// Hold policies to what is expected of them, by the same decision that the kernel makes; needs no root
///
/// A test is a YAML file of questions and answers (docs/policy.md). Exits 0 where every answer is as expected, 1 where one is not, 2 where a test or its policy is refused.
#[derive(Args, Debug)]
pub struct TestArgs {
    /// Files of expectations
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// How the answers are written; the table has only those that are not as expected
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// Puts all of them.
pub fn run(args: &TestArgs) -> Result<ExitCode, Failure> {
    let links = HostLinks::default();
    let mut answers = Vec::new();
    for file in &args.files {
        answers.extend(check(file, &links).map_err(|error| Failure::diagnostic(error, FAILED))?);
    }
    output::print(args.output, &answers, || shown(&answers))
        .map_err(|error| Failure::new(&error, FAILED))?;
    let met = answers.iter().all(|answer| answer.met);
    Ok(if met { ExitCode::SUCCESS } else { ExitCode::from(DIFFERENT) })
}

fn shown(answers: &[Answer]) -> String {
    let mut text = String::new();
    let mut failed = 0;
    for Answer { file, line, question, expected, answer, met } in answers {
        if !met {
            failed += 1;
            text.push_str(&format!(
                "{file}:{line}: {question}\n  expected {expected}\n  answered {answer}\n"
            ));
        }
    }
    text + &format!("{} cases, {failed} not as expected\n", answers.len())
}
