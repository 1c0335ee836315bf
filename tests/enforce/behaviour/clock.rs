//! Somebody sets the clock. Nothing that has an end by time gains or loses any.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
};

use agent_guard::tier::Tier;
use rustix::{
    process::{Pid, Signal, kill_process},
    time::{ClockId, Timespec, clock_gettime, clock_settime},
};

use super::{
    Behaviour, actor,
    names::{Place, RULES, SERVER},
    pin, reports,
};
use crate::{
    actor::End,
    guard::{Run, Running, tier},
    scratch::Scratch,
};

/// Not beside others: they would see the clock jump too.
pub const PROMISES: &[Behaviour] = &[
    ("what a host name opened stays open as long as before when the clock is set", leases),
    ("a pin holds when the clock is set, and a change made in the past ends it", pins),
    ("the times of events do not jump when the clock is set", times),
];

const DAY: i64 = 24 * 60 * 60;

/// The clock of the host, off by as much as was asked for; right again when this goes.
struct Clock {
    offset: i64,
}

impl Clock {
    fn right() -> Self {
        Self { offset: 0 }
    }

    fn set(&mut self, offset: i64) {
        let due = self.shift(offset).unwrap();
        let reached = clock_gettime(ClockId::Realtime).tv_sec;
        assert!((reached - due).abs() < 60, "the clock was not set");
    }

    fn shift(&mut self, offset: i64) -> rustix::io::Result<i64> {
        let now = clock_gettime(ClockId::Realtime);
        let tv_sec = now.tv_sec + offset - self.offset;
        clock_settime(ClockId::Realtime, Timespec { tv_sec, ..now })?;
        self.offset = offset;
        Ok(tv_sec)
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        if self.offset != 0 {
            // A test that fails is told of; one that fails twice ends the whole program.
            let _ = self.shift(0);
        }
    }
}

fn leases() {
    if tier() == Tier::Observe {
        // Where there is no proxy there are no leases.
        return;
    }
    let mut clock = Clock::right();
    let connect = "connect 127.0.0.1:{p0}/tcp";
    let ask = format!("udp {SERVER} api.example A");
    let place = Place::new(60);
    let start = |place: &Place, steps: &[&str]| place.run(RULES).start(&place.command(steps));

    // A minute is not over because a day seems to be.
    let running =
        start(&place, &[&ask, "await {root}/ahead", connect, "await {root}/behind", connect]);
    said(&running, "awaiting", &place.scratch.path("ahead"));
    clock.set(DAY);
    place.scratch.file("ahead", "");
    said(&running, "awaiting", &place.scratch.path("behind"));
    clock.set(-DAY);
    place.scratch.file("behind", "");
    let outcome = running.finish();
    outcome.exits(0);
    assert_eq!(outcome.text().matches("connected\n").count(), 2, "{}", outcome.text());
    clock.set(0);

    // And does not last for a day more: the least that an answer holds, and the time that it is kept beyond.
    let place = Place::new(1);
    let running =
        start(&place, &[&ask, connect, "await {root}/behind", "wait 11", connect, &ask, connect]);
    said(&running, "awaiting", &place.scratch.path("behind"));
    clock.set(-DAY);
    place.scratch.file("behind", "");
    let outcome = running.finish();
    outcome.exits(0);
    let ends: Vec<&str> =
        outcome.text().lines().filter(|line| ["connected", "refused"].contains(line)).collect();
    assert_eq!(ends, ["connected", "refused", "connected"], "{}", outcome.text());
}

#[track_caller]
fn said(running: &Running, word: &str, path: &Path) {
    running.stdout.wait_for(&format!("{word} {}", path.display()));
}

fn pins() {
    let mut clock = Clock::right();
    let scratch = pin::place(&["kept", "changed"]);
    let role = ["run-again", "{root}/sign", "{root}/tools/kept", "{root}/tools/changed"];
    let running = Run::under(&scratch.place.fill(pin::SPEC)).start(&actor(&scratch, &role));
    let pid: i32 = running.stdout.wait_for("ready").parse().unwrap();
    clock.set(-DAY);
    let changed = scratch.path("tools/changed");
    fs::set_permissions(&changed, Permissions::from_mode(0o755)).unwrap();
    assert!(Command::new(&changed).status().unwrap().success(), "the control");
    clock.set(DAY);
    scratch.file("sign", "");
    kill_process(Pid::from_raw(pid).unwrap(), Signal::USR1).unwrap();
    let mut outcome = running.finish();
    outcome.exits(0);
    let text = outcome.text().lines().filter(|line| !line.starts_with("ready"));
    outcome.stdout = text.collect::<Vec<_>>().join("\n").into_bytes();
    let ends: Vec<End> = reports(&outcome).iter().map(|report| report.end).collect();
    let denied = match tier() {
        Tier::Lsm => End::Errno(libc::EACCES),
        Tier::Trace => End::Signal(libc::SIGKILL),
        Tier::Observe => End::Done,
    };
    assert_eq!(ends, [End::Done, End::Done, End::Done, denied]);
    let denials: Vec<_> = outcome.decided().filter(|event| event.is_denial()).collect();
    assert_eq!((denials.len(), denials[0].reason()), (1, "changed"));
}

fn times() {
    let mut clock = Clock::right();
    let scratch = Scratch::new();
    let script = format!(
        "cat /dev/null; echo ready; until [ -e {0} ]; do sleep 0.1; done; cat /dev/null",
        scratch.path("set").display()
    );
    let running = Run::under(super::ALLOW_ALL).start(&["/bin/sh", "-c", &script]);
    running.stdout.wait_for("ready");
    clock.set(-DAY);
    scratch.file("set", "");
    let outcome = running.finish();
    outcome.exits(0);
    let times: Vec<i64> =
        outcome.events.iter().map(|event| event["time"].as_i64().unwrap()).collect();
    let (least, most) = (times.iter().min().unwrap(), times.iter().max().unwrap());
    assert!(most - least < DAY * 1000 / 2, "{least} to {most}");
}
