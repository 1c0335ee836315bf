//! Which tiers this host offers: the live canary answers, the probes explain.

use serde::Serialize;

use super::{
    cgroups::OwnCgroup,
    finding::{Finding, State, one_line},
    programs,
};
use crate::{
    guard::{Guard, NoTier, TierChoice, TierError},
    kernel::load::LoadError,
    programs::ProgramsError,
    tier::Tier,
};

/// How a tier's canary ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Canary {
    /// What is denied was denied.
    Passed,
    /// It was not, or the tier could not be put in force.
    Failed(String),
    /// It was not sent: this process may not load programs, which says nothing about the host.
    NoRight,
    /// It was not sent: neither it nor an agent can be given a cgroup.
    NoCgroup,
}

/// A tier, and whether it is to be had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TierFinding {
    /// Which.
    pub tier: Tier,
    /// Whether it is to be had.
    pub state: State,
    /// What its canary met.
    pub detail: String,
    /// Names of the probes that explain it.
    pub because: Vec<&'static str>,
    /// What to do about it; in the order of the probes.
    pub remedies: Vec<String>,
}

/// Puts each tier in force for a moment, for nobody but its canary.
pub fn send_canaries(own: Option<&OwnCgroup>, allowed: bool) -> [(Tier, Canary); 3] {
    Tier::ALL.map(|tier| (tier, send(tier, own, allowed)))
}

fn send(tier: Tier, own: Option<&OwnCgroup>, allowed: bool) -> Canary {
    if !allowed {
        return Canary::NoRight;
    }
    let Some((own, cgroup)) = own.and_then(|own| Some((own, own.cgroup()?))) else {
        return Canary::NoCgroup;
    };
    match Guard::establish(TierChoice::Only(tier), cgroup, &own.mounts) {
        Ok(guard) => match guard.end(None) {
            Ok(()) => Canary::Passed,
            Err(error) => Canary::Failed(why(&error)),
        },
        Err(NoTier(errors)) => {
            let errors: Vec<String> = errors.iter().map(|(_, error)| why(error)).collect();
            Canary::Failed(errors.join("; "))
        }
    }
}

fn why(error: &TierError) -> String {
    match error {
        TierError::Programs(ProgramsError::Load(
            error @ LoadError::Program { hook, decides, .. },
        )) => {
            format!(
                "the program for {hook} ({decides}) is refused: {}",
                programs::refusal(error).why
            )
        }
        other => one_line(other),
    }
}

/// The verdict on each tier.
pub fn judge(canaries: &[(Tier, Canary)], probes: &[Finding]) -> Vec<TierFinding> {
    canaries.iter().map(|(tier, canary)| judge_one(*tier, canary, probes)).collect()
}

fn judge_one(tier: Tier, canary: &Canary, probes: &[Finding]) -> TierFinding {
    let against: Vec<&Finding> = probes
        .iter()
        .filter(|probe| probe.needed_by.contains(&tier) && probe.state != State::Yes)
        .collect();
    let (state, detail) = match canary {
        Canary::Passed => (State::Yes, promise(tier).to_owned()),
        Canary::Failed(why) => (State::No, why.clone()),
        Canary::NoRight => (State::Unknown, "this process has no right to try".to_owned()),
        Canary::NoCgroup => (State::No, "an agent can not be given a cgroup of its own".to_owned()),
    };
    if state == State::Yes {
        return TierFinding { tier, state, detail, because: Vec::new(), remedies: Vec::new() };
    }
    let mut remedies: Vec<String> = Vec::new();
    for remedy in against.iter().filter_map(|probe| probe.remedy.as_ref()) {
        if !remedies.contains(remedy) {
            remedies.push(remedy.clone());
        }
    }
    if remedies.is_empty() {
        remedies.push("no probe explains this: report it with this output (`-o json`)".to_owned());
    }
    TierFinding {
        tier,
        state,
        detail,
        because: against.iter().map(|probe| probe.name).collect(),
        remedies,
    }
}

/// What a passed canary has shown.
fn promise(tier: Tier) -> &'static str {
    match tier {
        Tier::Lsm => "its canary was refused every open, exec, connect and send",
        Tier::Trace => {
            "its canary was refused every connect and send, and killed at every open and exec"
        }
        Tier::Observe => {
            "its programs run and hinder nobody: what an agent does is recorded, nothing is blocked"
        }
    }
}

/// The strongest tier that is to be had.
pub fn strongest(tiers: &[TierFinding]) -> Option<Tier> {
    tiers.iter().find(|finding| finding.state == State::Yes).map(|finding| finding.tier)
}

/// Whether a tier stops anything.
pub fn enforces(tier: Tier) -> bool {
    match tier {
        Tier::Lsm | Tier::Trace => true,
        Tier::Observe => false,
    }
}
