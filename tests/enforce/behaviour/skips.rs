//! Programs that the kernel does not run because they are running already on that processor.

use agent_guard::tier::Tier;

use super::{Behaviour, DENY_SECRETS, actor};
use crate::{
    guard::{Run, tier},
    scratch::Scratch,
    support::Setup,
};

pub const PROMISES: &[Behaviour] = &[(
    "what preemption has the kernel skip is told to the last call, and since 6.2 is nothing",
    skips,
)];

/// Below many directories, so that the decision takes its time.
const SECRET: &str = "{root}/secret/{1 x 100}/key";
const OPEN: &str = "{root}/open/{1 x 100}/key";

/// For how many seconds one thread interrupts the other.
const SECONDS: &str = "20";

/// One kernel of the three before [`NONE_SKIPPED`] is tested: where it is fully preemptible it has to skip.
fn skips() {
    let scratch = Scratch::with(&[SECRET, OPEN].map(|path| Setup::File(path.to_owned())));
    // Elsewhere a denied open ends the process at once.
    let target = if tier() == Tier::Lsm { SECRET } else { OPEN };
    let role = ["preempt", target, SECONDS];
    let outcome = Run::under(&scratch.place.fill(DENY_SECRETS)).go(&actor(&scratch, &role));
    outcome.exits(0);
    let [opened, tried] = *outcome
        .text()
        .split_whitespace()
        .map(|number| number.parse().unwrap())
        .collect::<Vec<u64>>()
    else {
        panic!("{}", outcome.text());
    };
    let skipped = outcome.total("skipped");
    println!("{opened} of {tried} were let through, {skipped} calls were skipped");
    assert!(tried > 1000, "{tried}");
    if tier() != Tier::Lsm {
        assert_eq!((opened, skipped), (tried, 0));
        return;
    }
    // Each that was let through was skipped; and what else was skipped was some other hook or task.
    assert!(opened <= skipped, "{opened} opened, {skipped} told to be skipped");
    let denied = outcome.decided().filter(|event| event.by() == "secrets").count() as u64;
    assert_eq!(denied + outcome.lost() + opened, tried);
    assert_eq!(skipped > 0, outcome.stderr.contains("the kernel skipped"), "{}", outcome.stderr);
    let notices = outcome.events.iter().map(|event| &event["unmapped"]["agent_guard"]["skipped"]);
    let told = notices.filter_map(|hooks| hooks.as_array()).flatten();
    assert_eq!(told.map(|hook| hook["skipped"].as_u64().unwrap()).sum::<u64>(), skipped);
    assert_eq!(skipped > 0, kernel() < NONE_SKIPPED && is_fully_preemptible());
}

/// From this version on programs of LSM hooks run whatever runs already.
const NONE_SKIPPED: (u32, u32) = (6, 2);

fn kernel() -> (u32, u32) {
    let release = rustix::system::uname().release().to_str().unwrap().to_owned();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

fn is_fully_preemptible() -> bool {
    std::fs::read_to_string("/proc/cmdline")
        .unwrap()
        .split_whitespace()
        .any(|word| word == "preempt=full")
}
