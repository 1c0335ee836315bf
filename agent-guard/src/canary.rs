//! The live canary: before anything is called enforced, a process under a policy that allows nothing
//! tries each kind of action, and must fail.
//!
//! The process is this program again, so that nothing else has to exist on the host. It first does
//! each action outside the policy, where it must succeed, then enters the canary's cgroup and does it
//! again.

use std::{
    fs::{self, File},
    io,
    net::UdpSocket,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::{Command, ExitStatus, Stdio},
};

use crate::tier::Tier;

/// What the canary tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Probe {
    /// Opens a file.
    Open,
    /// Runs a program.
    Exec,
    /// Connects a UDP socket on loopback; nothing is sent.
    Connect,
    /// Sends a datagram on loopback.
    Send,
}

/// Every probe.
pub const PROBES: [Probe; 4] = [Probe::Open, Probe::Exec, Probe::Connect, Probe::Send];

/// How a probe ended inside the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The action went on.
    WentThrough,
    /// It failed with `EACCES` or `EPERM`.
    Refused,
    /// The process was killed.
    Killed,
}

/// Why a tier can not be trusted.
#[derive(Debug, thiserror::Error)]
pub enum CanaryError {
    /// The action did not end as the tier promises.
    #[error("a canary that may do nothing tried to {action}: it {found}, where tier {tier} promises that it {promised}", action = .probe.action(), found = .found.words(), promised = .promised.words())]
    NotEnforced {
        /// What was tried.
        probe: Probe,
        /// Under which tier.
        tier: Tier,
        /// How it ended.
        found: Fate,
        /// How it had to end.
        promised: Fate,
    },
    /// The canary could not do what it has to.
    #[error("the canary that tries to {action} could not do its work: {why}", action = .probe.action())]
    Broken {
        /// What was to be tried.
        probe: Probe,
        /// What went wrong.
        why: String,
    },
}

impl Probe {
    fn action(self) -> &'static str {
        match self {
            Self::Open => "open a file",
            Self::Exec => "run a program",
            Self::Connect => "connect a socket",
            Self::Send => "send a datagram",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Exec => "exec",
            Self::Connect => "connect",
            Self::Send => "send",
        }
    }

    /// How it must end under `tier`.
    fn promised(self, tier: Tier) -> Fate {
        match (tier, self) {
            (Tier::Lsm, _) | (Tier::Trace, Self::Connect | Self::Send) => Fate::Refused,
            (Tier::Trace, Self::Open | Self::Exec) => Fate::Killed,
            (Tier::Observe, _) => Fate::WentThrough,
        }
    }
}

impl Fate {
    fn words(self) -> &'static str {
        match self {
            Self::WentThrough => "went through",
            Self::Refused => "was refused",
            Self::Killed => "was killed",
        }
    }
}

/// Exit codes of the canary process. Success means that the action went through, so that a run that
/// does nothing can not pass for a denial.
const WENT_THROUGH: u8 = 0;
const REFUSED: u8 = 20;
const BROKEN: u8 = 21;

/// Tries every probe in the cgroup at `cgroup`.
pub fn check(tier: Tier, cgroup: &Path) -> Result<(), CanaryError> {
    for probe in PROBES {
        let (found, promised) = (try_probe(probe, cgroup)?, probe.promised(tier));
        if found != promised {
            return Err(CanaryError::NotEnforced { probe, tier, found, promised });
        }
    }
    Ok(())
}

fn try_probe(probe: Probe, cgroup: &Path) -> Result<Fate, CanaryError> {
    let broken = |why: String| CanaryError::Broken { probe, why };
    let output = Command::new("/proc/self/exe")
        .arg0("agent-guard")
        .arg("canary")
        .arg(probe.name())
        .arg(cgroup)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()
        .map_err(|error| broken(error.to_string()))?;
    fate(output.status).ok_or_else(|| {
        broken(format!("{}, {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
    })
}

fn fate(status: ExitStatus) -> Option<Fate> {
    if status.signal() == Some(libc::SIGKILL) {
        return Some(Fate::Killed);
    }
    match status.code().map(u8::try_from) {
        Some(Ok(WENT_THROUGH)) => Some(Fate::WentThrough),
        Some(Ok(REFUSED)) => Some(Fate::Refused),
        _ => None,
    }
}

/// The canary's own side: the hidden command `agent-guard canary`. Returns its exit code.
pub fn main(probe: Probe, cgroup: &Path) -> u8 {
    let outcome = act(probe, Place::Outside)
        .and_then(|()| {
            fs::write(cgroup.join("cgroup.procs"), "0").map_err(|error| (error, Place::Outside))
        })
        .and_then(|()| act(probe, Place::Inside));
    match outcome {
        Ok(()) => WENT_THROUGH,
        Err((error, Place::Inside)) if error.kind() == io::ErrorKind::PermissionDenied => REFUSED,
        Err((error, place)) => {
            eprintln!("{place:?} of the policy: {error}");
            BROKEN
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Outside,
    Inside,
}

fn act(probe: Probe, place: Place) -> Result<(), (io::Error, Place)> {
    let socket = || UdpSocket::bind("127.0.0.1:0");
    let result = match (probe, place) {
        (Probe::Open, _) => File::open("/dev/null").map(drop),
        // That this process runs is the control.
        (Probe::Exec, Place::Outside) => Ok(()),
        (Probe::Exec, Place::Inside) => {
            Err(Command::new("/proc/self/exe").arg0("agent-guard").arg("canary-target").exec())
        }
        (Probe::Connect, _) => {
            unless_down(socket().and_then(|socket| socket.connect("127.0.0.1:9")))
        }
        (Probe::Send, _) => {
            unless_down(socket().and_then(|socket| socket.send_to(b"", "127.0.0.1:9").map(drop)))
        }
    };
    result.map_err(|error| (error, place))
}

/// A network that is down is no refusal: the hooks run before a route is looked for.
fn unless_down(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NetworkUnreachable => Ok(()),
        result => result,
    }
}
