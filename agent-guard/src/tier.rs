//! How strongly a host can enforce.

use std::fmt;

use crate::policy::{Mode, Policy, SectionKind};

/// A tier, strongest first. The names are a contract.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// BPF LSM programs: a denied call fails.
    Lsm,
    /// Raw tracepoints and cgroup programs: a denied connection fails, a denied open or exec kills
    /// the process before it can use what it asked for.
    Trace,
    /// The programs of `trace` that only record.
    Observe,
}

impl Tier {
    /// All tiers, strongest first.
    pub const ALL: [Self; 3] = [Self::Lsm, Self::Trace, Self::Observe];

    /// The tier's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lsm => "lsm",
            Self::Trace => "trace",
            Self::Observe => "observe",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a policy can ask for and a tier lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Lack {
    /// Denials are recorded and not carried out
    Enforce,
    /// Listening is not judged
    Listen,
    /// UNIX-domain sockets are not judged
    Unix,
}

impl Lack {
    /// Its name on the command line and in events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Listen => "listen",
            Self::Unix => "unix",
        }
    }

    /// What `policy` asks for and `tier` lacks.
    pub fn of(tier: Tier, policy: &Policy) -> Vec<Self> {
        let written = |section| policy.written.contains(&section);
        let asked = [
            (Self::Enforce, policy.mode == Mode::Enforce && tier == Tier::Observe),
            (Self::Listen, written(SectionKind::Listen) && tier != Tier::Lsm),
            (Self::Unix, written(SectionKind::Unix) && tier != Tier::Lsm),
        ];
        asked.into_iter().filter_map(|(lack, is)| is.then_some(lack)).collect()
    }

    /// What the policy asks for, and what the tier does instead.
    pub fn words(self) -> &'static str {
        match self {
            Self::Enforce => "asks for `mode: enforce`, and this tier enforces nothing",
            Self::Listen => "has a section `listen`, and this tier does not judge listening",
            Self::Unix => "has a section `unix`, and this tier does not judge UNIX-domain sockets",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tier_lacks_what_the_policy_has_and_it_does_not_judge() {
        let of = |tier, spec: &str| {
            let text = format!(
                "apiVersion: agent-guard.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {{name: a}}\nspec: {{{spec}}}\n"
            );
            Lack::of(tier, &Policy::parse("p.yaml", &text).unwrap())
        };
        let sockets = "listen: {default: deny}, unix: {default: allow}, mode: audit";
        assert_eq!(of(Tier::Lsm, sockets), []);
        assert_eq!(of(Tier::Trace, sockets), [Lack::Listen, Lack::Unix]);
        assert_eq!(of(Tier::Observe, sockets), [Lack::Listen, Lack::Unix]);
        assert_eq!(of(Tier::Trace, "unix: {}"), [Lack::Unix]);
        assert_eq!(of(Tier::Trace, "egress: {}"), []);
        assert_eq!(of(Tier::Observe, "egress: {}"), [Lack::Enforce]);
    }
}
