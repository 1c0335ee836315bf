//! io_uring: whoever carries a request out, it is judged as the agent's.

use std::{fs::File, os::fd::OwnedFd};

use super::{
    Behaviour, DENY_SECRETS,
    ways::{AtLsm, AtTrace, Way, hold_with},
};
use crate::{passing::serve, scratch::Scratch, support::Setup};

pub const PROMISES: &[Behaviour] =
    &[("what goes through io_uring is judged, whoever of the kernel carries it out", rings)];

macro_rules! way {
    ($at_lsm:expr, $($words:expr),*) => {
        Way { words: &["ring", $($words),*], at_lsm: $at_lsm, at_trace: AtTrace::Closed("interface") }
    };
}

macro_rules! opens_and_connects {
    ($($how:literal),*) => {
        [$(
            way!(AtLsm::Denied("secrets"), "open", $how, "{root}/secret/key"),
            way!(AtLsm::Allowed, "open", $how, "{root}/open/file"),
            way!(AtLsm::Denied("no-port"), "connect", $how, "127.0.0.1:{p0}"),
            way!(AtLsm::Allowed, "connect", $how, "127.0.0.1:{p1}"),
        )*]
    };
}

macro_rules! receives {
    ($($how:literal),*) => {
        [$(
            way!(AtLsm::Denied("secrets"), "receive", $how, "{root}/socket", "secret"),
            way!(AtLsm::Allowed, "receive", $how, "{root}/socket", "open"),
        )*]
    };
}

fn rings() {
    let scratch = Scratch::with(&[
        Setup::File("{root}/secret/key".to_owned()),
        Setup::File("{root}/open/file".to_owned()),
        Setup::Listen("127.0.0.1:{p0}/tcp".to_owned()),
        Setup::Listen("127.0.0.1:{p1}/tcp".to_owned()),
    ]);
    let file = |path: &str| OwnedFd::from(File::open(scratch.path(path)).unwrap());
    let things = [("secret", file("secret/key")), ("open", file("open/file"))];
    serve(&scratch.path("socket"), things.into());
    let opens_and_connects =
        opens_and_connects!("plain", "worker", "poller", "pollers-worker", "personality", "direct");
    let receives = receives!("plain", "worker", "poller");
    let ways: Vec<Way> = opens_and_connects.into_iter().chain(receives).collect();
    // What is received comes over a socket of the outside's.
    let spec = format!("{DENY_SECRETS}unix: {{default: allow}}\n");
    hold_with(&["--allow-degraded", "unix"], &scratch, &spec, &ways);
}
