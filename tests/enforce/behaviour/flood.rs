//! A flood of denials: more than anybody can read.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::Path,
    time::{Duration, Instant},
};

use agent_guard::tier::Tier;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{Behaviour, DENY_SECRETS, actor, denied_connect_outcome, is_denied_open, secret_place};
use crate::{
    actor::Report,
    guard::{PATIENCE, Run, lost, tier},
};

pub const PROMISES: &[Behaviour] =
    &[("a flood is denied and counted to the last event, and so is what comes after it", flood)];

/// Denials while the guard reads, and then while it stands still: together a million, most of which no ring buffer
/// holds. Connections, because nothing is killed for one on any tier.
const READ: u64 = 100_000;
const UNREAD: u64 = 900_000;

/// By how many KiB a flood may let the guard's memory grow: the ring buffer, mapped twice, and what reads it.
const GROWTH_KIB: u64 = 32 << 10;

fn flood() {
    let scratch = secret_place();
    let policy = scratch.place.fill(DENY_SECRETS);
    let (events, stop) = (scratch.path("events"), scratch.file("stop", ""));
    let role = [
        "flood",
        "127.0.0.1:{p0}",
        "{root}/secret/key",
        &READ.to_string(),
        "{root}/other",
        &UNREAD.to_string(),
        stop.to_str().unwrap(),
    ];
    // Not where the run looks for them: they are read one by one.
    let run = Run::under(&policy).events_to(None).with(&["--events", events.to_str().unwrap()]);
    let running = run.start(&actor(&scratch, &role));
    let pid: i32 = running.stdout.wait_for("ready").parse().unwrap();
    let go = || kill_process(Pid::from_raw(pid).unwrap(), Signal::USR1).unwrap();
    let before = peak_kib(running.child.id());

    // Another agent is judged meanwhile, and its guard is told.
    go();
    running.stdout.wait_for("flooding");
    let key = scratch.path("secret/key");
    let other = Run::under(&policy).go(&[Path::new("/bin/cat"), key.as_path()]);
    let denials: Vec<_> = other.decided().filter(|event| event.is_denial()).collect();
    assert_eq!((denials.len(), denials[0].by(), other.lost()), (1, "secrets", 0));
    assert_eq!(other.text().is_empty(), tier() != Tier::Observe);
    scratch.file("other", "");
    let read = Part::of(&running.stdout.wait_for("part 1"));

    running.signal(Signal::STOP);
    go();
    let unread = Part::of(&running.stdout.wait_for("part 2"));
    running.signal(Signal::CONT);
    let generated = read.tried + unread.tried;
    assert!(generated >= READ + UNREAD, "{generated}");
    let through = if tier() == Tier::Observe { generated } else { 0 };
    assert_eq!(read.through + unread.through, through);

    let mut account = Account::of(&events);
    account.wait_for(generated);
    let growth = peak_kib(running.child.id()) - before;
    go();
    let outcome = running.finish();
    outcome.exits(0);
    let after: Report = serde_json::from_str(outcome.text().lines().last().unwrap()).unwrap();
    assert!(is_denied_open(after.end), "{after:?}");
    account.read();
    assert_eq!((account.after, account.odd), (1, 0));
    assert!(account.lost > 0, "a ring buffer held {generated} events");
    // Exactly, in the end as well.
    assert_eq!(account.received + account.lost, generated);
    assert_eq!(account.denied, generated + 1);
    assert!(outcome.stderr.contains("lost"), "nothing on stderr tells of the loss");
    assert!(growth < GROWTH_KIB, "the guard grew by {growth} KiB");
}

/// What the agent says of a part of the flood.
struct Part {
    through: u64,
    tried: u64,
}

impl Part {
    fn of(said: &str) -> Self {
        let (through, tried) = said.split_once(" of ").unwrap();
        Self { through: through.parse().unwrap(), tried: tried.parse().unwrap() }
    }
}

/// The most memory that a process has had so far.
fn peak_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}

/// What a log tells of a flood, read line by line.
struct Account {
    log: BufReader<File>,
    line: String,
    /// Denials by the rule of the flood, and those of them that ended as none should.
    received: u64,
    odd: u64,
    lost: u64,
    /// Denials by the other rule.
    after: u64,
    /// As the last event counts them.
    denied: u64,
}

impl Account {
    fn of(log: &Path) -> Self {
        let log = BufReader::new(File::open(log).unwrap());
        Self { log, line: String::new(), received: 0, odd: 0, lost: 0, after: 0, denied: 0 }
    }

    /// Reads on until `count` events are told of, or told to be lost.
    fn wait_for(&mut self, count: u64) {
        let start = Instant::now();
        loop {
            self.read();
            let told = self.received + self.lost;
            if told >= count {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{told} of {count} events are accounted for");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Reads what has come. A line that is being written stays for the next time.
    fn read(&mut self) {
        while self.log.read_line(&mut self.line).unwrap() > 0 && self.line.ends_with('\n') {
            let line = std::mem::take(&mut self.line);
            self.take(&line);
        }
    }

    fn take(&mut self, line: &str) {
        if line.contains("{\"name\":\"no-port\"") {
            self.received += 1;
            let due = format!("\"outcome\":\"{}\"", denied_connect_outcome());
            self.odd += u64::from(!line.contains(&due));
            return;
        }
        self.after += u64::from(line.contains("{\"name\":\"secrets\""));
        let told = ["\"losses\":", "\"totals\":"];
        if told.iter().any(|told| line.contains(told)) {
            let event: Value = serde_json::from_str(line).unwrap();
            let totals = event["unmapped"]["agent_guard"]["totals"].as_array();
            let denied = |hook: &Value| hook["denied"].as_u64().unwrap();
            self.denied += totals.map_or(0, |totals| totals.iter().map(denied).sum());
            self.lost += lost(&[event]);
        }
    }
}
