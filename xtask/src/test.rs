//! Every test: those of the workspace, and those that need a kernel, on this host and in guests.

use std::{
    ffi::OsString,
    fmt, fs,
    io::{self, BufRead as _, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};

use crate::{
    bench, build, deb,
    process::{command, retry, run, say},
    toolchain::Rustc,
    vm::{Guest, Kernel, PROGRAMS},
};

/// How long the tests may take in one guest: three times what they took on a busy machine.
const GUEST_LIMIT: Duration = Duration::from_secs(3000);
/// A boot line without `bpf`, as some distributions have it: no BPF LSM.
const WITHOUT_BPF: &str = "lsm=landlock,yama,apparmor";
/// A boot line under which the kernel can be preempted wherever it holds no lock.
const PREEMPTIBLE: &str = "preempt=full";
/// The tests that ask what comes of that.
const OF_PREEMPTION: &str = "preemption";
/// What the tests validate events with.
const OCSF_PACKAGES: [&str; 2] = ["ocsf-json-schema==1.2.0", "jsonschema"];
/// Where the fields of ECS are published.
const ECS_PACKAGE: &str = "@elastic/ecs@9.4.0";

/// Which of the tests are wanted.
pub struct Selection {
    pub host: bool,
    pub kernels: Vec<Kernel>,
}

/// Runs the tests and prints a line for each place and the sum; true when all passed.
pub fn run_all(rustc: &Rustc, selection: &Selection) -> Result<bool> {
    let mut results: Vec<(String, Outcome)> = Vec::new();
    let mut add = |place: &str, done: Result<Outcome>| {
        let outcome = done.unwrap_or_else(|error| Outcome {
            counts: Counts::FAILED,
            failures: vec![format!("{error:#}")],
        });
        results.push((place.to_owned(), outcome));
    };

    if selection.host {
        say("Tests of the workspace");
        add("host", workspace(rustc));
        say("Events against the published schema");
        add("host schema", schema(rustc));
    }
    say("Building the tests that need a kernel");
    match build::agent_guard(rustc).and_then(|bin| Ok((bin, build::enforce_tests(rustc)?))) {
        Ok((bin, tests)) => {
            if selection.host {
                say("Tests on this host's kernel");
                add("host trace", on_host(&bin, &tests));
                say("The Debian package");
                add("host package", package(&bin));
            }
            for (place, done) in in_guests(rustc, &tests, &selection.kernels) {
                add(&place, done);
            }
        }
        Err(error) => add("tests that need a kernel", Err(error)),
    }
    if selection.kernels.contains(&bench::USUAL_KERNEL) {
        say("What decisions cost, against the record");
        add(&format!("vm {} cost", bench::USUAL_KERNEL), cost(rustc));
    }

    // Once more, where whoever reads the end of a long log finds it.
    for (place, outcome) in &results {
        for line in &outcome.failures {
            println!("{place} failed | {line}");
        }
    }
    for (place, outcome) in &results {
        println!("{place}: {}", outcome.counts);
    }
    let counts = results.iter().map(|(_, outcome)| outcome.counts);
    let sum = counts.fold(Counts::default(), Counts::plus);
    println!("{sum}");
    Ok(sum.failed == 0)
}

fn workspace(rustc: &Rustc) -> Result<Outcome> {
    counted(&mut build::cargo(rustc, &["test", "--no-fail-fast"])?)
}

/// The tests that hold events against the published schema.
fn schema(rustc: &Rustc) -> Result<Outcome> {
    let (python, fields) = (ocsf_python()?, ecs_fields()?);
    let mut cargo = build::cargo(rustc, &["test", "--package=agent-guard", "--test=ocsf_schema"])?;
    counted(cargo.env("AGENT_GUARD_OCSF_PYTHON", python).env("AGENT_GUARD_ECS", fields))
}

fn on_host(bin: &Path, tests: &Path) -> Result<Outcome> {
    let root = build::root()?;
    let mut tests = Command::new(tests);
    tests
        .env("AGENT_GUARD_TEST_TIER", "trace")
        .env("AGENT_GUARD_BIN", bin)
        .env("AGENT_GUARD_SRC", &root)
        .current_dir(&root);
    counted(&mut tests)
}

/// That the package can be built, installed, upgraded over and removed is one test.
fn package(bin: &Path) -> Result<Outcome> {
    deb::of(bin)?;
    Ok(Outcome { counts: Counts { passed: 1, failed: 0 }, failures: Vec::new() })
}

/// Each figure that tells soon is a test: that it adds no more than the record says.
fn cost(rustc: &Rustc) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    for verdict in bench::against_record(rustc, bench::USUAL_KERNEL, true)? {
        println!("{verdict}");
        if verdict.is_held() {
            outcome.counts.passed += 1;
        } else {
            outcome.counts.failed += 1;
            outcome.failures.push(verdict.to_string());
        }
    }
    Ok(outcome)
}

/// A guest to run the tests in.
#[derive(Clone, Copy)]
struct Place {
    kernel: Kernel,
    append: &'static str,
    tier: &'static str,
    /// What the names of the tests hold; empty for all.
    only: &'static str,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vm {} {}", self.kernel, self.tier)?;
        if self.only.is_empty() { Ok(()) } else { write!(f, " {}", self.only) }
    }
}

/// Runs the tests in a guest for each kernel at tier `lsm`, in one without `bpf` at tier `trace`, and those of
/// preemption where there is some: as many at once as there are processors, since a guest has one.
fn in_guests(rustc: &Rustc, tests: &Path, kernels: &[Kernel]) -> Vec<(String, Result<Outcome>)> {
    let lsm = Place { kernel: Kernel::V6_12, append: "", tier: "lsm", only: "" };
    let trace = Place { append: WITHOUT_BPF, tier: "trace", ..lsm };
    let preemptible = Place { append: PREEMPTIBLE, only: OF_PREEMPTION, ..lsm };
    let all = kernels.iter().map(|kernel| Place { kernel: *kernel, ..lsm });
    let trace = kernels.contains(&trace.kernel).then_some(trace);
    let preemptible = kernels.iter().map(|kernel| Place { kernel: *kernel, ..preemptible });
    let places: Vec<Place> = all.chain(trace).chain(preemptible).collect();
    let waiting = Mutex::new(places.iter());
    let at_once = thread::available_parallelism().map_or(1, usize::from).min(places.len());
    let work = || {
        let mut done = Vec::new();
        loop {
            let place = waiting.lock().ok().and_then(|mut waiting| waiting.next());
            let Some(place) = place else { return done };
            say(format!("Tests in a guest: {place}"));
            done.push((place.to_string(), in_guest(rustc, tests, place)));
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
        let failed = || vec![("a guest".to_owned(), Err(anyhow!("its thread ended early")))];
        workers.into_iter().flat_map(|worker| worker.join().unwrap_or_else(|_| failed())).collect()
    })
}

/// The tests' command in a guest that has their program, on `tier`.
pub fn guest_command(tests: &Path, tier: &str) -> Result<Vec<OsString>> {
    let name = tests.file_name().context("the tests' program has no name")?;
    Ok(vec![
        "env".into(),
        "AGENT_GUARD_SRC=/src".into(),
        format!("AGENT_GUARD_BIN={PROGRAMS}/agent-guard").into(),
        format!("AGENT_GUARD_TEST_TIER={tier}").into(),
        "AGENT_GUARD_TEST_OWN_MACHINE=1".into(),
        Path::new(PROGRAMS).join(name).into(),
    ])
}

fn in_guest(rustc: &Rustc, tests: &Path, place: &Place) -> Result<Outcome> {
    let mut command = guest_command(tests, place.tier)?;
    command.push(place.only.into());
    let guest = Guest {
        kernel: place.kernel,
        append: place.append.to_owned(),
        icount: false,
        share: None,
        timeout: GUEST_LIMIT,
        programs: vec![tests.to_owned()],
        command,
    };
    let (output, end) = io::pipe()?;
    let prefix = format!("{place} | ");
    let counting = thread::spawn(move || count(output, &prefix, io::stdout()));
    let ended = guest.run(rustc, &end);
    // The counting ends when the pipe does.
    drop(end);
    let outcome = counting.join().map_err(|_| anyhow!("counting failed"))??;
    Ok(outcome.for_exit(ended? == 0))
}

/// Runs a program of tests here, shown on standard output, and counts their results.
fn counted(tests: &mut Command) -> Result<Outcome> {
    let started = tests.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child = started.with_context(|| format!("cannot start {:?}", tests.get_program()))?;
    let output = child.stdout.take().context("the tests' standard output")?;
    let outcome = count(output, "", io::stdout())?;
    Ok(outcome.for_exit(child.wait()?.success()))
}

/// Passes on what tests print `to` there, line by line behind `prefix`, adds up libtest's result lines in
/// it and keeps what it says of failures.
fn count(output: impl Read, prefix: &str, mut to: impl Write) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut in_failures = false;
    let mut lines = BufReader::new(output);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        // In one write, so that lines of several guests stay whole.
        to.write_all(&[prefix.as_bytes(), &line].concat())?;
        let text = String::from_utf8_lossy(&line);
        if let Some(result) = Counts::in_line(&text) {
            outcome.counts = outcome.counts.plus(result);
            in_failures = false;
        }
        in_failures |= text.trim_end() == "failures:";
        if in_failures {
            outcome.failures.push(text.trim_end().to_owned());
        }
        line.clear();
    }
    Ok(outcome)
}

/// The Python that has the OCSF validator, in a virtual environment under `target`.
fn ocsf_python() -> Result<PathBuf> {
    let venv = build::root()?.join("target/ocsf");
    let python = venv.join("bin/python");
    // Written last, so that half an installation is not taken for one.
    let done = venv.join("installed");
    let packages = OCSF_PACKAGES.join(" ");
    if fs::read_to_string(&done).is_ok_and(|installed| installed == packages) {
        return Ok(python);
    }
    say(format!("Installing {packages} in {} (validates events in tests)", venv.display()));
    run(command("/usr/bin/python3", ["-m", "venv", "--clear"]).arg(&venv))?;
    retry("pip install", || {
        run(Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .args(OCSF_PACKAGES))
    })?;
    fs::write(&done, packages)?;
    Ok(python)
}

/// The directory that has the fields of ECS, under `target`.
fn ecs_fields() -> Result<PathBuf> {
    let directory = build::root()?.join("target/ecs");
    // Written last, as in `ocsf_python`.
    let done = directory.join("installed");
    if fs::read_to_string(&done).is_ok_and(|installed| installed == ECS_PACKAGE) {
        return Ok(directory);
    }
    say(format!("Installing {ECS_PACKAGE} in {} (validates events in tests)", directory.display()));
    fs::create_dir_all(&directory)?;
    retry("npm install", || {
        run(command("npm", ["install", "--silent", "--ignore-scripts", "--no-audit", "--prefix"])
            .arg(&directory)
            .arg(ECS_PACKAGE))
    })?;
    fs::write(&done, ECS_PACKAGE)?;
    Ok(directory)
}

/// What tests in one place came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    counts: Counts,
    /// The lines that tell of failures, in libtest's words.
    failures: Vec<String>,
}

impl Outcome {
    /// Tests that said nothing, or that failed without saying so, count as one failure.
    fn for_exit(mut self, success: bool) -> Self {
        if self.counts.failed == 0 && (!success || self.counts.passed == 0) {
            self.counts = self.counts.plus(Counts::FAILED);
            self.failures.push("the tests' program failed, or ran no test".to_owned());
        }
        self
    }
}

/// How many tests passed and failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
}

impl Counts {
    /// A place where the tests could not be run: that is a failure, and never a skip.
    const FAILED: Self = Self { passed: 0, failed: 1 };

    fn plus(self, other: Self) -> Self {
        Self { passed: self.passed + other.passed, failed: self.failed + other.failed }
    }

    /// The numbers in libtest's `test result: ok. 5 passed; 0 failed; …`.
    fn in_line(line: &str) -> Option<Self> {
        let result = line.strip_prefix("test result: ")?;
        let number = |of: &str| {
            let before = result.split(';').find_map(|part| part.trim().strip_suffix(of))?;
            before.split_whitespace().last()?.parse().ok()
        };
        Some(Self { passed: number(" passed")?, failed: number(" failed")? })
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libtests_result_lines_are_added_up() {
        let output = "running 2 tests\ntest result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; \
                      0 filtered out; finished in 0.01s\nno newline \u{1b}\n\
                      test result: FAILED. 3 passed; 4 failed; 0 ignored; 0 measured; 0 filtered out\n";
        let mut passed_on = Vec::new();
        let outcome = count(output.as_bytes(), "", &mut passed_on).unwrap();
        assert_eq!(outcome.counts, Counts { passed: 5, failed: 4 });
        assert_eq!(passed_on, output.as_bytes());
    }

    #[test]
    fn a_guests_lines_say_whose_they_are() {
        let mut passed_on = Vec::new();
        let output = &b"test a ... ok\ntest result: ok. 1 passed; 0 failed"[..];
        let outcome = count(output, "vm 6.1 lsm | ", &mut passed_on).unwrap();
        assert_eq!(outcome.counts, Counts { passed: 1, failed: 0 });
        let lines = "vm 6.1 lsm | test a ... ok\nvm 6.1 lsm | test result: ok. 1 passed; 0 failed";
        assert_eq!(passed_on, lines.as_bytes());
    }

    #[test]
    fn what_is_said_of_failures_is_kept() {
        let output = "running 1 test\ntest a ... FAILED\n\nfailures:\n\n---- a ----\nwhy\n\nfailures:\n    \
                      a\n\ntest result: FAILED. 0 passed; 1 failed\nrunning 1 test\n";
        let outcome = count(output.as_bytes(), "", io::sink()).unwrap();
        let kept = ["failures:", "", "---- a ----", "why", "", "failures:", "    a", ""];
        assert_eq!(outcome.failures, kept);
    }

    fn passed(passed: u64, failed: u64) -> Outcome {
        Outcome { counts: Counts { passed, failed }, failures: Vec::new() }
    }

    #[test]
    fn tests_that_said_nothing_have_failed() {
        assert_eq!(Outcome::default().for_exit(true).counts, Counts::FAILED);
        assert_eq!(passed(3, 0).for_exit(true), passed(3, 0));
    }

    #[test]
    fn an_exit_status_of_failure_is_never_a_pass() {
        assert_eq!(passed(3, 0).for_exit(false).counts.failed, 1);
        assert_eq!(passed(3, 2).for_exit(false).counts.failed, 2);
    }
}
