//! Promises of `agent-guard run` beside its answers. A name reads as the promise.

mod around;
mod audit;
mod begin;
mod bounds;
mod clock;
mod clusters;
mod code;
mod containers;
mod daemon;
mod death;
mod descriptors;
mod exit;
mod flood;
mod generated;
mod log;
mod names;
mod operate;
mod pin;
mod podman;
mod remembered;
mod resolvers;
mod rings;
mod scope;
mod shared;
mod signals;
mod sinks;
mod skips;
mod sockets;
mod swap;
mod system;
mod terminals;
mod ways;
mod work;

pub use self::signals::open_terminal;

use agent_guard::tier::Tier;
use libtest_mimic::Trial;

use crate::{
    actor::{End, Report},
    guard::{Outcome, tier},
    names as names_of_others,
    scratch::Scratch,
    support::Setup,
};

/// A promise and its test.
type Behaviour = (&'static str, fn());

/// A trial for every promise.
pub fn trials() -> Vec<Trial> {
    let all = [
        around::PROMISES,
        audit::PROMISES,
        begin::PROMISES,
        bounds::PROMISES,
        code::PROMISES,
        daemon::PROMISES,
        death::PROMISES,
        descriptors::PROMISES,
        exit::PROMISES,
        flood::PROMISES,
        generated::PROMISES,
        log::PROMISES,
        names::PROMISES,
        operate::PROMISES,
        pin::PROMISES,
        remembered::PROMISES,
        resolvers::PROMISES,
        rings::PROMISES,
        scope::PROMISES,
        shared::PROMISES,
        signals::PROMISES,
        sinks::PROMISES,
        clusters::PROMISES,
        skips::PROMISES,
        sockets::PROMISES,
        swap::PROMISES,
        system::PROMISES,
        terminals::PROMISES,
    ];
    all.into_iter()
        .flatten()
        .map(trial)
        .chain(resolvers::trials())
        .chain(work::trials())
        .chain(podman::trials())
        .chain(containers::trials())
        .collect()
}

/// Trials that change what everybody on the machine shares: one by one, after all others, and only where the machine is
/// the tests' own.
pub fn alone() -> Vec<Trial> {
    let own_machine = std::env::var_os(OWN_MACHINE).is_some();
    let promises = bounds::ALONE.iter().chain(remembered::ALONE).chain(clock::PROMISES);
    let trials = promises.map(|promise| trial(promise).with_ignored_flag(!own_machine));
    let other_names = remembered::OTHER_NAMES.iter().map(|promise| {
        trial(promise).with_ignored_flag(!own_machine || !names_of_others::are_to_be_had())
    });
    trials.chain(other_names).collect()
}

/// The environment variable that says that nobody else uses this machine.
const OWN_MACHINE: &str = "AGENT_GUARD_TEST_OWN_MACHINE";

fn trial((name, test): &Behaviour) -> Trial {
    let test = *test;
    Trial::test(*name, move || {
        test();
        Ok(())
    })
}

/// A place with a file that [`DENY_SECRETS`] denies, one that it allows, and a listener on `{p0}`
/// that it denies.
fn secret_place() -> Scratch {
    Scratch::with(&[
        Setup::File("{root}/secret/key".to_owned()),
        Setup::File("{root}/open/file".to_owned()),
        Setup::Listen("127.0.0.1:{p0}/tcp".to_owned()),
    ])
}

/// Everything is allowed but a directory and a port.
const DENY_SECRETS: &str = r#"
egress: {default: allow, rules: [{name: no-port, effect: deny, to: ["127.0.0.1:{p0}"]}]}
exec: {default: allow}
files: {default: allow, rules: [{name: secrets, effect: deny, paths: ["{root}/secret/**"]}]}
"#;

/// Everything is allowed.
pub const ALLOW_ALL: &str =
    "egress: {default: allow}\nexec: {default: allow}\nfiles: {default: allow}";

/// This program in `role`, as a command.
fn actor(scratch: &Scratch, role: &[&str]) -> Vec<String> {
    let program = scratch.place.actor.to_str().unwrap().to_owned();
    let role = role.iter().map(|word| scratch.place.fill(word));
    [program, "actor".to_owned()].into_iter().chain(role).collect()
}

fn reports(outcome: &Outcome) -> Vec<Report> {
    outcome.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Whether the process `pid` runs; one that nobody has waited for yet does not.
fn runs(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        !state.starts_with(['Z', 'X'])
    })
}

/// How a denied open ends on the tier that is tested.
fn is_denied_open(end: End) -> bool {
    match tier() {
        Tier::Lsm => end.is_refusal(),
        Tier::Trace => end == End::Signal(libc::SIGKILL),
        Tier::Observe => end == End::Done,
    }
}

/// How a denied connection ends on the tier that is tested.
fn is_denied_connect(end: End) -> bool {
    match tier() {
        Tier::Lsm | Tier::Trace => end.is_refusal(),
        Tier::Observe => end == End::Done,
    }
}

/// What the log calls a denied connection on the tier that is tested.
fn denied_connect_outcome() -> &'static str {
    match tier() {
        Tier::Lsm | Tier::Trace => "denied",
        Tier::Observe => "observed",
    }
}
