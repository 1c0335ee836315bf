//! The policy is swapped whole: when mounts change, and for another.

use std::{
    collections::BTreeSet,
    fs,
    process::{Child, Stdio},
};

use agent_guard::tier::Tier;
use rustix::{
    mount::{MountFlags, UnmountFlags, mount, unmount},
    process::{Pid, Signal, kill_process},
};
use serde_json::Value;

use super::{Behaviour, DENY_SECRETS, OWN_MACHINE, actor, secret_place};
use crate::{
    actor::End,
    daemon::Daemon,
    guard::{Decided, Reader, Run, tier, wait},
    scratch::Scratch,
    support::Setup,
};

pub const PROMISES: &[Behaviour] = &[
    ("mounts come and go, and not one answer about other files changes", mounts_change),
    ("a policy is swapped over and over under load, and no verdict is of two", swapped),
];

/// Mounts that come and go, one after the other.
const MOUNTS: usize = 8;

fn mounts_change() {
    let scratch = secret_place();
    let point = scratch.path("mounted");
    fs::create_dir(&point).unwrap();
    let role = ["alternate", "{root}/open/file", "{root}/secret/key", "{root}/mounted/number"];
    let running = Run::under(&scratch.place.fill(DENY_SECRETS)).start(&actor(&scratch, &role));
    for number in 1..=MOUNTS {
        mount("tmpfs", &point, "tmpfs", MountFlags::empty(), None).unwrap();
        fs::write(point.join("number"), format!("{number}-")).unwrap();
        // It can be read only under tables that know the new mount.
        running.stdout.wait_for(&format!("seen {number}-"));
        unmount(&point, UnmountFlags::DETACH).unwrap();
    }
    running.signal(Signal::USR1);
    let outcome = running.finish();
    outcome.exits(0);
    let said = outcome.text();
    assert!(!said.contains("ALLOWED FAILED"), "{said}");
    if tier() != Tier::Observe {
        assert!(!said.contains("DENIED SUCCEEDED"), "{said}");
    }
}

/// How often the policy is swapped. Where the processor is emulated each time takes a second and a half.
fn swaps() -> usize {
    if std::env::var_os(OWN_MACHINE).is_some() { 100 } else { 1000 }
}

/// Workloads under it, which open files all the while.
const WORKLOADS: usize = 3;

/// Two policies that say the same of two files, by other rules, and the contrary of two more.
const SIDES: [[&str; 2]; 2] = [["left", "right"], ["right", "left"]];

fn swapped() {
    // Where nothing is blocked an open says nothing of the policy.
    if tier() == Tier::Observe {
        return;
    }
    let files = ["open/file", "secret/key", "left/file", "right/file"];
    let setup = files.map(|file| Setup::File(format!("{{root}}/{file}")));
    let (mut daemon, scratch) = (Daemon::new(), Scratch::with(&setup));
    for [side, other] in SIDES {
        let text = daemon.policy_text("sides", "/*", &scratch.place.fill(&spec(side, other)));
        fs::write(daemon.path(side), text).unwrap();
    }
    daemon.policy("sides", "/*", &scratch.place.fill(&spec("left", "right")));
    daemon.start();
    let role = files.map(|file| format!("{{root}}/{file}"));
    let role: Vec<&str> = ["changes"].into_iter().chain(role.iter().map(String::as_str)).collect();
    let start = |number| {
        let name = format!("/{number}");
        daemon.make(&name);
        let mut command = daemon.inside(&name, &actor(&scratch, &role));
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let said = Reader::of(child.stdout.take().unwrap());
        said.wait_for_text("right/file");
        (child, said)
    };
    let running: Vec<(Child, Reader)> = (0..WORKLOADS).map(start).collect();
    let load = |side: &str| {
        let loaded = daemon.ask(&["policy", "load", daemon.path(side).to_str().unwrap()]);
        assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
    };
    for [_, side] in SIDES.into_iter().cycle().take(swaps()) {
        load(side);
    }
    let said: Vec<String> = running.into_iter().map(ended).collect();
    for number in 0..WORKLOADS {
        fs::remove_dir(daemon.cgroup(&format!("/{number}"))).unwrap();
    }
    let skipped = daemon.until("the end of all", || skipped(&daemon.events()));
    // At tier `lsm` nothing is.
    assert!(tier() != Tier::Lsm || skipped == 0, "{skipped} skipped");
    for said in said {
        let changes = |file: &str| said.lines().filter(|line| line.contains(file)).count();
        assert_eq!(changes("open/file"), 1, "{said}");
        // What the kernel skips goes on, and the next is denied again.
        assert!(changes("secret/key") <= 1 + 2 * skipped, "{skipped} skipped: {said}");
        for file in ["left/file", "right/file"] {
            // A verdict that was none of the policies' would be two changes more.
            let most = swaps() + 1 + 2 * skipped;
            assert!((swaps() / 10..=most).contains(&changes(file)), "{} of {file}", changes(file));
        }
        let opened = said.lines().find(|line| line.contains("open/file")).unwrap();
        assert!(opened.ends_with(&format!("{:?}", End::Done)), "{opened}");
    }
    let told = daemon.events();
    let by = |event: &Decided<'_>| event.by().to_owned();
    let denials: BTreeSet<(String, String)> = told
        .iter()
        .filter_map(|event| {
            let decided = Decided::of(event).filter(Decided::is_denial)?;
            Some((event["policy"]["uid"].as_str()?.to_owned(), by(&decided)))
        })
        .collect();
    // Each policy's own rules, under its own revision.
    assert_eq!(denials.len(), 4, "{denials:?}");
    let revisions: BTreeSet<&String> = denials.iter().map(|(revision, _)| revision).collect();
    for revision in revisions {
        let rules = denials.iter().filter(|(of, _)| of == revision).map(|(_, rule)| rule.as_str());
        let rules: Vec<&str> = rules.collect();
        assert!(
            SIDES.iter().any(|[side, _]| {
                rules == [format!("secrets-of-{side}"), format!("{side}-closed")]
                    || rules == [format!("{side}-closed"), format!("secrets-of-{side}")]
            }),
            "{denials:?}"
        );
    }
}

/// Ends a workload, and returns what it said.
fn ended((child, said): (Child, Reader)) -> String {
    kill_process(Pid::from_child(&child), Signal::USR1).unwrap();
    wait(child);
    String::from_utf8(said.finish()).unwrap()
}

/// How many decisions the kernel skipped, once all workloads have ended.
fn skipped(events: &[Value]) -> Option<usize> {
    let totals = events.iter().filter_map(|event| {
        let totals = event["unmapped"]["agent_guard"]["totals"].as_array()?;
        Some(totals.iter().filter_map(|hook| hook["skipped"].as_u64()).sum::<u64>())
    });
    let totals: Vec<u64> = totals.collect();
    (totals.len() == WORKLOADS).then(|| totals.into_iter().max().unwrap() as usize)
}

/// Denies the files on its own side, and the secrets.
fn spec(side: &str, other: &str) -> String {
    // The one has rules that the other lacks, so that nothing has the same number in both.
    let more = if side == "left" { "" } else { "{effect: allow, paths: [\"/srv/*/a*c/**\"]}, " };
    format!(
        "egress: {{default: allow}}\nexec: {{default: allow}}\nfiles: {{default: deny, rules: [{more}\
         {{effect: allow, paths: [\"/**\"]}}, \
         {{name: secrets-of-{side}, effect: deny, paths: [\"{{root}}/secret/**\"]}}, \
         {{name: {side}-closed, effect: deny, paths: [\"{{root}}/{side}/*\"]}}, \
         {{effect: allow, paths: [\"{{root}}/{other}/**\"]}}]}}\n"
    )
}
