//! Ordinary work goes on under the shipped policy, and nothing of it is denied.
//!
//! Each piece of work is a script of `tests/work`, which fails by its exit code. Its head may say
//! `# needs: PROGRAM[|OTHER] …`, `# tier: NAME`, and `# denied: RULE-OR-REASON` for a denial that belongs to it.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::Path,
    sync::OnceLock,
};

use agent_guard::tier::Tier;
use libtest_mimic::{Failed, Trial};

use crate::{
    guard::{Decided, Outcome, Run, tier},
    network::{in_own_network, serve_http},
};

/// What is done, the name of its script, and that.
type Work = (&'static str, &'static str, &'static str);

macro_rules! work {
    ($($does:literal: $script:literal,)*) => {
        &[$(($does, $script, include_str!(concat!("../../work/", $script, ".sh")))),*]
    };
}

const WORK: &[Work] = work! {
    "a repository is made, changed, rebased, packed and cloned": "git",
    "python uses its library, threads, processes and a database": "python",
    "a package is installed into a virtual environment and run": "python-packages",
    "a test suite runs": "pytest",
    "a program in C is built by four jobs and run": "make",
    "a crate with a build script is built, tested and run": "cargo",
    "a package of node is installed and run": "npm",
    "editors save in place, by rename and with a backup": "editors",
    "vim saves with its swap file beside": "vim",
    "archives are written and read, trees copied and searched": "archives",
    "a shell on a terminal has pipes, jobs and signals": "shell",
    "a key is made in the workspace": "keys",
    "servers listen on loopback, and allowed ones are reached": "network",
    "files are locked, mapped, watched, linked and sent": "files",
    "tools ask what system they are on": "system",
    "processes are listed, without those of others": "processes",
};

/// A trial for each piece of work, all of which is done in one run. What lacks its programs here is ignored,
/// and said to be.
pub fn trials() -> Vec<Trial> {
    let here = |(_, _, script): &&Work| said(script, "tier").all(|name| name == tier().name());
    WORK.iter().filter(here).map(of).collect()
}

fn of((does, name, script): &'static Work) -> Trial {
    let test = move || judge(name, script).map_err(Failed::from);
    Trial::test(format!("under the shipped policy {does}"), test)
        .with_ignored_flag(!is_to_be_done(script))
}

fn is_to_be_done(script: &str) -> bool {
    let is_there = |programs: String| programs.split('|').any(|one| Path::new(one).exists());
    said(script, "needs").all(is_there) && said(script, "tier").all(|name| name == tier().name())
}

/// The words behind `# key:` in the head of a script.
fn said(script: &str, key: &str) -> impl Iterator<Item = String> {
    let prefix = format!("# {key}: ");
    let head = script.lines().take_while(|line| line.starts_with('#'));
    let lines = head.filter_map(|line| line.strip_prefix(&prefix));
    let words: Vec<String> = lines.flat_map(str::split_whitespace).map(str::to_owned).collect();
    words.into_iter()
}

/// The day's work.
struct Day {
    outcome: Outcome,
    /// What each piece of work printed.
    printed: HashMap<&'static str, String>,
}

fn judge(name: &str, script: &str) -> Result<(), String> {
    static DAY: OnceLock<Day> = OnceLock::new();
    let day = DAY.get_or_init(work);
    let events = day.events_of(name);
    let denials: Vec<&Decided<'_>> = events.iter().filter(|event| event.is_denial()).collect();
    let told: Vec<String> = denials
        .iter()
        .map(|event| {
            format!("{} {:?} {} by {}", event.hook(), event.path(), event.endpoint(), event.by())
        })
        .collect();
    let ended = format!("{name} ended with 0");
    if !day.outcome.text().lines().any(|line| line == ended) {
        let printed = day.printed.get(name).map_or("", String::as_str);
        return Err(format!("{printed}\n{told:#?}"));
    }
    let by: BTreeSet<String> = denials.iter().map(|event| event.by().to_owned()).collect();
    if by != said(script, "denied").collect() {
        return Err(format!("denied: {told:#?}"));
    }
    if events.is_empty() || day.outcome.lost() != 0 {
        return Err(format!("{} events, {} lost", events.len(), day.outcome.lost()));
    }
    Ok(())
}

impl Day {
    /// What was decided between the moment at which `name` began and the next piece of work did: each
    /// begins by opening a file.
    fn events_of(&self, name: &str) -> Vec<Decided<'_>> {
        let begins = |event: &Decided<'_>| {
            let below = event.path().and_then(|path| path.rsplit_once("/begin/"));
            below.map(|(_, name)| name.to_owned())
        };
        let mut at_work = None;
        self.outcome
            .decided()
            .filter(|event| {
                at_work = begins(event).or(at_work.take());
                at_work.as_deref() == Some(name)
            })
            .collect()
    }
}

/// Does all work under the policy that is built in, which is the shipped one for the directory at hand: none
/// below `/tmp`, where another rule allows all of this.
fn work() -> Day {
    let workspace =
        tempfile::Builder::new().prefix("agent-guard-work-").tempdir_in("/srv").unwrap();
    let at = |below: &str| workspace.path().join(below);
    let to_do: Vec<&Work> = WORK.iter().filter(|(_, _, script)| is_to_be_done(script)).collect();
    fs::create_dir(at("begin")).unwrap();
    for (_, name, script) in &to_do {
        fs::write(at("begin").join(name), "").unwrap();
        fs::create_dir_all(at(name).join("home")).unwrap();
        fs::write(at(name).join("work.sh"), script).unwrap();
    }
    fs::write(at("begin/end"), "").unwrap();
    let names: Vec<&str> = to_do.iter().map(|(_, name, _)| *name).collect();
    let script = format!(
        "for name in {}; do
            : < begin/$name
            (cd $name && HOME=$PWD/home timeout 300 sh -eu work.sh < /dev/null > printed 2>&1)
            echo $name ended with $?
        done
        : < begin/end",
        names.join(" ")
    );
    let command = ["/usr/bin/env", "-i", "PATH=/usr/bin:/bin", "LANG=C.UTF-8", "sh", "-c", &script];
    let outcome = in_own_network(|| {
        // The development server that the policy allows.
        serve_http("127.0.0.1:8080", |_| "hello\n".to_owned());
        let run = Run::under_the_shipped_policy(workspace.path());
        let run = match tier() {
            Tier::Lsm => run,
            Tier::Trace | Tier::Observe => run.with(&["--allow-degraded", "listen,unix"]),
        };
        run.go(&command)
    });
    let printed = |name| (name, fs::read_to_string(at(name).join("printed")).unwrap_or_default());
    outcome.exits(0);
    Day { outcome, printed: names.into_iter().map(printed).collect() }
}
