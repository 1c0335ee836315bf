//! Programs that the kernel does not run because they are running already on that processor.

use agent_guard::tier::Tier;

use super::{Behaviour, DENY_SECRETS, actor};
use crate::{
    guard::{Run, tier},
    scratch::Scratch,
    support::Setup,
};

pub const PROMISES: &[Behaviour] = &[(
    "preemption has the kernel skip no decision of tier lsm, and what it skips elsewhere is told",
    preempted,
)];

/// Below many directories, so that the decision takes its time.
const SECRET: &str = "{root}/secret/{1 x 100}/key";
const OPEN: &str = "{root}/open/{1 x 100}/key";

/// For how many seconds one thread interrupts the other.
const SECONDS: &str = "15";

/// The more so on a boot line with `preempt=full`, where the thread is interrupted inside of the program.
fn preempted() {
    let scratch = Scratch::with(&[SECRET, OPEN].map(|path| Setup::File(path.to_owned())));
    // Elsewhere a denied open ends the process at once; each that is allowed is told of.
    let target = if tier() == Tier::Lsm { SECRET } else { OPEN };
    let role = ["preempt", target, SECONDS];
    let outcome = Run::under(&scratch.place.fill(DENY_SECRETS)).go(&actor(&scratch, &role));
    outcome.exits(0);
    let numbers: Vec<u64> =
        outcome.text().split_whitespace().map(|number| number.parse().unwrap()).collect();
    let [opened, tried, interrupted] = numbers[..] else { panic!("{}", outcome.text()) };
    assert!(tried > 1000 && interrupted > 100, "{}", outcome.text());
    assert_eq!(opened, if tier() == Tier::Lsm { 0 } else { tried });
    // Not one is missing that the kernel's own count of what it skipped does not tell of.
    let target = scratch.place.fill(target);
    let decided = outcome.decided().filter(|event| event.path() == Some(&target)).count() as u64;
    let (told, skipped) = (decided + outcome.lost(), outcome.total("skipped"));
    let missing = tried.checked_sub(told).unwrap_or_else(|| panic!("{told} told of {tried}"));
    assert!(missing <= skipped, "{missing} of {tried} are missing, {skipped} told to be skipped");
    assert_eq!(outcome.stderr.contains("the kernel skipped"), skipped > 0, "{}", outcome.stderr);
    // Recent kernels can be preempted in a tracepoint's program, and then skip it: tier `trace` has that hole.
    assert!(tier() != Tier::Lsm || skipped == 0, "{skipped} skipped");
}
