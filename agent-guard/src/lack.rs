//! What a policy can ask for and a tier lack: the words of `--allow-degraded`.

use clap::ValueEnum;

use crate::{
    policy::{Mode, Policy, SectionKind},
    tier::Tier,
};

/// Something that a tier can lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Lack {
    /// Denials are recorded and not carried out
    Enforce,
    /// Listening is not judged
    Listen,
    /// UNIX-domain sockets are not judged
    Unix,
    /// The section `system` is not judged; capabilities that lead out are withheld all the same
    System,
}

impl Lack {
    /// Everything that `policy` asks for and `tier` lacks.
    pub fn of(tier: Tier, policy: &Policy) -> Vec<Self> {
        let unjudged = |section| tier != Tier::Lsm && policy.written.contains(&section);
        let lacks = |lack: &Self| match lack {
            Self::Enforce => tier == Tier::Observe && policy.mode == Mode::Enforce,
            Self::Listen => unjudged(SectionKind::Listen),
            Self::Unix => unjudged(SectionKind::Unix),
            Self::System => unjudged(SectionKind::System),
        };
        Self::value_variants().iter().copied().filter(lacks).collect()
    }

    /// Its word on the command line and in events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Listen => "listen",
            Self::Unix => "unix",
            Self::System => "system",
        }
    }

    /// What is wrong, and how to mend it other than by running without.
    pub fn problem(self, tier: Tier) -> String {
        match self {
            Self::Enforce => format!(
                "the policy asks for `mode: enforce`, and tier {tier} enforces nothing; use `--mode audit`"
            ),
            Self::Listen | Self::Unix | Self::System => format!(
                "the policy has a section `{}`, and tier {tier} has no hooks for it; remove the section",
                self.name()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(spec: &str) -> Policy {
        let text = format!(
            "apiVersion: agent-guard.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {{name: test}}\nspec: {{{spec}}}\n"
        );
        Policy::parse("test.yaml", &text).unwrap()
    }

    #[test]
    fn a_tier_lacks_only_what_the_policy_asks_for() {
        for (tier, spec, lacks) in [
            (Tier::Lsm, "system: {}", &[][..]),
            (Tier::Trace, "system: {}", &[Lack::System]),
            (Tier::Trace, "listen: {default: deny}, unix: {}", &[Lack::Listen, Lack::Unix]),
            (Tier::Trace, "mode: enforce", &[]),
            (Tier::Observe, "mode: audit", &[]),
            (Tier::Observe, "mode: audit, system: {}", &[Lack::System]),
            (Tier::Observe, "system: {default: allow}", &[Lack::Enforce, Lack::System]),
        ] {
            assert_eq!(Lack::of(tier, &policy(spec)), lacks, "{tier} {spec}");
        }
    }

    #[test]
    fn the_word_in_events_is_the_word_on_the_command_line() {
        for lack in Lack::value_variants() {
            assert_eq!(lack.to_possible_value().unwrap().get_name(), lack.name());
        }
    }
}
