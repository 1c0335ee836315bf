//! What the kernel's verifier spends on each program, held against the record in `tests/verifier`.
//!
//! A program that grows costs every start of the guard, and one that nears a bound of the verifier is
//! refused by the next kernel. `cargo xtask verifier --write` makes the record anew.

use std::{collections::BTreeMap, fmt, fs, path::Path, process::Command};

use agent_guard::{
    kernel::verifier::{Cost, costs},
    tier::Tier,
};
use libtest_mimic::Trial;

use crate::{guard::tier, support::repository};

/// Growth that is let pass, in percent of the instructions: less than what a new function or loop takes.
const GROWTH: u32 = 3;

/// Bytes of stack that functions may use which call one another, or a single one where the kernel does not
/// tell of calls. The kernel's bound is 512.
const STACK: u32 = 448;

/// Names the directory where the record is to be written, in place of the comparison.
const WRITE_TO: &str = "AGENT_GUARD_VERIFIER_RECORD_TO";

const REMEDY: &str = "where that is meant, make the record anew: `cargo xtask verifier --write`";

pub fn trials() -> Vec<Trial> {
    let test = |name, test: fn()| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    };
    let mut trials = vec![test(
        "what the record of the verifier's costs does not know, and what outgrew it, is named",
        growth_is_named,
    )];
    if tier() == Tier::Lsm {
        trials.push(test("no program costs the verifier more than the record says", kept));
    }
    trials
}

/// Prints what this kernel's verifier spends: in a process of its own, which can not open anything
/// meanwhile.
pub fn print_costs() {
    let of_tier = |tier: Tier| {
        let costs = costs(tier).unwrap_or_else(|error| panic!("{error:?}"));
        costs.into_iter().map(move |(spec, cost)| (format!("{tier}/{}", spec.program), cost))
    };
    print!("{}", Record([Tier::Lsm, Tier::Trace].into_iter().flat_map(of_tier).collect()));
}

fn kept() {
    let program = std::env::current_exe().unwrap();
    let told = Command::new(program).args(["actor", "verifier"]).output().unwrap();
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let now = String::from_utf8(told.stdout).unwrap();
    let file = format!("{}.txt", series());
    if let Some(directory) = std::env::var_os(WRITE_TO) {
        return fs::write(Path::new(&directory).join(file), now).unwrap();
    }
    let file = repository().join("tests/verifier").join(file);
    let recorded = fs::read_to_string(&file)
        .unwrap_or_else(|error| panic!("{}: {error}; {REMEDY}", file.display()));
    let problems = Record::parse(&recorded).problems_of(&Record::parse(&now));
    assert!(problems.is_empty(), "{}\n{REMEDY}", problems.join("\n"));
}

/// The first two numbers of the kernel's release.
fn series() -> String {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    release.split(['.', '-', '+']).take(2).collect::<Vec<_>>().join(".")
}

/// Costs by program.
struct Record(BTreeMap<String, Cost>);

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# What the verifier of kernel {} spends on each program:", series())?;
        writeln!(
            f,
            "# instructions; states in total and at once; bytes of stack of functions that call"
        )?;
        writeln!(f, "# one another, at most, where this kernel tells, and of each function.")?;
        for (program, cost) in &self.0 {
            let Cost { instructions, total_states, peak_states, stack, chain } = cost;
            let chain = chain.map_or_else(|| "-".to_owned(), |chain| chain.to_string());
            let stack: Vec<String> = stack.iter().map(u32::to_string).collect();
            writeln!(
                f,
                "{program:26} {instructions:>7} {total_states:>5} {peak_states:>5} {chain:>4}  {}",
                stack.join("+")
            )?;
        }
        Ok(())
    }
}

impl Record {
    fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let row = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [program, instructions, total_states, peak_states, chain, stack] = words[..] else {
                panic!("{line:?}: not a line of the record")
            };
            let number = |word: &str| word.parse().unwrap_or_else(|_| panic!("{line:?}: {word:?}"));
            let cost = Cost {
                instructions: number(instructions),
                total_states: number(total_states),
                peak_states: number(peak_states),
                stack: stack.split('+').map(number).collect(),
                chain: (chain != "-").then(|| number(chain)),
            };
            (program.to_owned(), cost)
        };
        Self(lines.map(row).collect())
    }

    /// What is to be said against the costs `now`.
    fn problems_of(&self, now: &Self) -> Vec<String> {
        let mut problems = Vec::new();
        for (program, cost) in &now.0 {
            let stack = cost.chain.or(cost.stack.iter().max().copied()).unwrap();
            if stack > STACK {
                problems.push(format!("{program}: {stack} bytes of stack, more than {STACK}"));
            }
            let Some(recorded) = self.0.get(program) else {
                problems.push(format!("{program}: not in the record"));
                continue;
            };
            let (is, was) = (cost.instructions, recorded.instructions);
            if u64::from(is) * 100 > u64::from(was) * u64::from(100 + GROWTH) {
                problems.push(format!(
                    "{program}: {is} instructions are verified where the record has {was}, more than {GROWTH} % more"
                ));
            }
        }
        let gone = self.0.keys().filter(|program| !now.0.contains_key(*program));
        problems.extend(
            gone.map(|program| format!("{program}: in the record, and no program of this kernel")),
        );
        problems
    }
}

fn growth_is_named() {
    let record = Record::parse("# words\nkept 1000 9 8 - 64+0\ngone 10 1 1 32 0\n");
    assert_eq!(Record::parse(&record.to_string()).0, record.0);
    let problems = |now| record.problems_of(&Record::parse(now));
    let within = format!("kept {} 90 80 - 0+{STACK}\ngone 1 1 1 {STACK} 500", 1000 + 10 * GROWTH);
    assert_eq!(problems(&within), [""; 0]);
    let beyond =
        format!("deep 1 1 1 {} 0\nkept {} 9 8 - 0+{}", STACK + 1, 1001 + 10 * GROWTH, STACK + 1);
    let told = problems(&beyond);
    let due = [
        "deep: 449 bytes of stack",
        "deep: not in the record",
        "kept: 449 bytes of stack",
        "kept: 1031 instructions are verified where the record has 1000",
        "gone: in the record",
    ];
    assert_eq!(told.len(), due.len(), "{told:?}");
    assert!(told.iter().zip(due).all(|(told, due)| told.starts_with(due)), "{told:?}");
}
