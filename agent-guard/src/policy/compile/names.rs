//! Egress rules with host names: what they say of a name, for the DNS proxy and for `policy explain`.

use std::collections::HashMap;

use agent_guard_common::table::{Effect, NO_RULE, Verdict};

use super::rules::egress_id;
use crate::policy::{Host, HostName, Policy, PortRange, Protocols};

/// The name that stands for loopback without being asked for.
pub const LOCALHOST: &str = "localhost";

/// The rules that speak of names.
#[derive(Clone, Debug)]
pub struct NameRules {
    /// By name, with `*` for each label that may be any.
    grants: HashMap<String, Vec<Grant>>,
    /// Most labels that a pattern leaves open.
    most_open: usize,
    default: Effect,
}

/// What a rule says of the addresses of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Rule and effect.
    pub verdict: Verdict,
    /// The ports that it speaks of.
    pub ports: PortRange,
    /// The protocols that it speaks of.
    pub protocols: Protocols,
}

/// What the rules say of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    /// It may be resolved.
    Allowed {
        /// The first rule that allows it, or [`NO_RULE`] where the default does.
        rule: u16,
        /// What its addresses are good for.
        grants: Vec<Grant>,
        /// The pattern that covers it, where no rule names it in full.
        wildcard: Option<String>,
    },
    /// It may not.
    Denied {
        /// The first rule that denies it, or [`NO_RULE`] where no rule allows it.
        rule: u16,
    },
}

impl NameRules {
    /// The rules of `policy` that speak of names.
    #[must_use]
    pub fn new(policy: &Policy) -> Self {
        let mut grants: HashMap<String, Vec<Grant>> = HashMap::new();
        let mut most_open = 0;
        for (index, rule) in policy.egress.rules.iter().enumerate() {
            let verdict = Verdict::new(rule.effect.into(), egress_id(index));
            for target in &rule.matcher {
                let key = match &target.host {
                    Host::Net(_) => continue,
                    Host::Name(name) if name.as_str() == LOCALHOST => continue,
                    Host::Name(name) => name.to_string(),
                    Host::Below(labels, name) => {
                        most_open = most_open.max(*labels);
                        pattern(*labels, name.as_str())
                    }
                };
                let grant = Grant { verdict, ports: target.ports, protocols: target.protocols };
                grants.entry(key).or_default().push(grant);
            }
        }
        Self { grants, most_open, default: policy.egress.default.into() }
    }

    /// Whether no rule speaks of a name: then the agent needs no DNS proxy.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.grants.is_empty()
    }

    /// What the rules say of `name`. A deny of every port over both protocols keeps it from being
    /// resolved; of some, it goes with the addresses.
    #[must_use]
    pub fn judge(&self, name: &HostName) -> Judged {
        let exact = self.grants.get(name.as_str());
        let mut grants: Vec<Grant> = exact.into_iter().flatten().copied().collect();
        let mut wildcard = None;
        let mut rest = name.as_str();
        for open in 1..=self.most_open {
            let Some((_, base)) = rest.split_once('.') else { break };
            let key = pattern(open, base);
            if let Some(more) = self.grants.get(&key) {
                grants.extend(more);
                wildcard.get_or_insert(key);
            }
            rest = base;
        }
        grants.sort_by_key(|grant| grant.verdict.rule());
        let first =
            |effect| grants.iter().find(move |grant| grant.verdict.effect() == Some(effect));
        let denied = grants.iter().find(|grant| {
            grant.verdict.effect() == Some(Effect::Deny)
                && grant.ports == PortRange::FULL
                && grant.protocols == Protocols::Both
        });
        match (denied, first(Effect::Allow), self.default) {
            (Some(grant), ..) => Judged::Denied { rule: grant.verdict.rule() },
            (None, None, Effect::Deny) => Judged::Denied {
                rule: first(Effect::Deny).map_or(NO_RULE, |grant| grant.verdict.rule()),
            },
            (None, allowed, _) => Judged::Allowed {
                rule: allowed.map_or(NO_RULE, |grant| grant.verdict.rule()),
                wildcard: wildcard.filter(|_| exact.is_none()),
                grants,
            },
        }
    }
}

fn pattern(open: usize, base: &str) -> String {
    let mut pattern = "*.".repeat(open);
    pattern.push_str(base);
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::compile::tests::policy;

    fn rules(egress: &str) -> NameRules {
        NameRules::new(&policy(&format!("egress:\n{egress}")))
    }

    fn judge(rules: &NameRules, name: &str) -> Judged {
        rules.judge(&HostName::parse(name).unwrap())
    }

    /// The rule that allows, or nothing.
    fn allowed(rules: &NameRules, name: &str) -> Option<u16> {
        match judge(rules, name) {
            Judged::Allowed { rule, .. } => Some(rule),
            Judged::Denied { .. } => None,
        }
    }

    #[test]
    fn a_star_is_one_label_and_never_the_name_itself() {
        let rules = rules(
            "  rules:\n    - {effect: allow, to: ['*.example.com:443']}\n    - {effect: allow, to: ['*.*.deep.org']}",
        );
        for name in ["a.example.com", "A.EXAMPLE.com"] {
            assert_eq!(allowed(&rules, name), Some(0), "{name}");
        }
        assert_eq!(allowed(&rules, "a.b.deep.org"), Some(1));
        for name in [
            "example.com",
            "a.b.example.com",
            "aexample.com",
            "a.deep.org",
            "x.a.b.deep.org",
            "com",
        ] {
            assert_eq!(allowed(&rules, name), None, "{name}");
        }
    }

    #[test]
    fn a_deny_of_everything_beats_every_allow() {
        let rules = rules(
            "  rules:\n    - {effect: allow, to: ['*.example.com', 'bad.example.com']}\n    - {effect: deny, to: ['bad.example.com']}",
        );
        assert_eq!(judge(&rules, "bad.example.com"), Judged::Denied { rule: 1 });
        assert_eq!(allowed(&rules, "good.example.com"), Some(0));
    }

    #[test]
    fn a_deny_of_some_ports_goes_with_the_addresses() {
        let rules = rules(
            "  rules:\n    - {effect: deny, to: ['api.example.com:25']}\n    - {effect: allow, to: ['api.example.com']}",
        );
        let Judged::Allowed { rule, grants, wildcard } = judge(&rules, "api.example.com") else {
            panic!("denied");
        };
        let effects: Vec<_> = grants.iter().map(|grant| grant.verdict.effect()).collect();
        assert_eq!((rule, wildcard), (1, None));
        assert_eq!(effects, [Some(Effect::Deny), Some(Effect::Allow)]);
    }

    #[test]
    fn the_default_speaks_of_names_that_no_rule_names() {
        let open = rules("  default: allow\n  rules:\n    - {effect: deny, to: ['bad.example']}");
        assert_eq!(allowed(&open, "other.example"), Some(NO_RULE));
        assert_eq!(judge(&open, "bad.example"), Judged::Denied { rule: 0 });
        let closed = rules("  rules:\n    - {effect: allow, to: ['good.example']}");
        assert_eq!(judge(&closed, "other.example"), Judged::Denied { rule: NO_RULE });
    }

    #[test]
    fn addresses_and_localhost_need_no_proxy() {
        let rules =
            rules("  rules:\n    - {effect: allow, to: ['10.0.0.1', 'localhost:80', '*:443']}");
        assert!(rules.is_empty());
    }
}
