//! Rules by id: one row of numbers over all sections, because a table cell has room for a number.

use agent_guard_common::{
    limits::{MAX_RULES, OWN_RULES},
    table::Effect,
};

use super::error::{CompileError, RuleRef};
use crate::policy::{self, Policy, Rule, SectionKind};

/// What an event says of the rule that decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleInfo {
    /// Its name, or its place such as `files[2]`.
    pub label: String,
    /// The section that it stands in.
    pub section: SectionKind,
    /// What it says.
    pub effect: Effect,
    /// Its class.
    pub class: Option<String>,
    /// 1-based line in the policy file.
    pub line: usize,
}

impl RuleInfo {
    /// The rule as messages name it.
    #[must_use]
    pub fn to_ref(&self) -> RuleRef {
        RuleRef { label: self.label.clone(), section: self.section, line: self.line }
    }
}

impl From<policy::Effect> for Effect {
    fn from(effect: policy::Effect) -> Self {
        match effect {
            policy::Effect::Deny => Self::Deny,
            policy::Effect::Allow => Self::Allow,
        }
    }
}

/// All rules: egress, exec, files, listen, unix, system, each in the order of the file.
///
/// # Errors
/// [`CompileError::Rules`] where there are more than ids.
pub fn number_rules(policy: &Policy) -> Result<Vec<RuleInfo>, CompileError> {
    fn rows<M>(section: SectionKind, rules: &[Rule<M>]) -> impl Iterator<Item = RuleInfo> {
        rules.iter().enumerate().map(move |(index, rule)| RuleInfo {
            label: rule.label(section, index),
            section,
            effect: rule.effect.into(),
            class: rule.class.clone(),
            line: rule.line,
        })
    }
    let rules: Vec<RuleInfo> = rows(SectionKind::Egress, &policy.egress.rules)
        .chain(rows(SectionKind::Exec, &policy.exec.rules))
        .chain(rows(SectionKind::Files, &policy.files.rules))
        .chain(rows(SectionKind::Listen, &policy.listen.rules))
        .chain(rows(SectionKind::Unix, &policy.unix.rules))
        .chain(rows(SectionKind::System, &policy.system.rules))
        .collect();
    if rules.len() > MAX_RULES + OWN_RULES {
        return Err(CompileError::Rules { count: rules.len() });
    }
    Ok(rules)
}

/// The rule with this id, as messages name it. Every id comes from [`number_rules`].
pub fn rule_ref(rules: &[RuleInfo], id: u16) -> RuleRef {
    rules.get(usize::from(id)).map_or_else(
        || RuleRef { label: format!("#{id}"), section: SectionKind::Files, line: 0 },
        RuleInfo::to_ref,
    )
}

/// Id of the egress rule at `index`.
pub fn egress_id(index: usize) -> u16 {
    id(index)
}

/// Id of the exec rule at `index`.
pub fn exec_id(policy: &Policy, index: usize) -> u16 {
    id(policy.egress.rules.len() + index)
}

/// Id of the files rule at `index`.
pub fn file_id(policy: &Policy, index: usize) -> u16 {
    id(policy.egress.rules.len() + policy.exec.rules.len() + index)
}

/// Id of the listen rule at `index`.
pub fn listen_id(policy: &Policy, index: usize) -> u16 {
    id(policy.egress.rules.len() + policy.exec.rules.len() + policy.files.rules.len() + index)
}

/// Id of the unix rule at `index`.
pub fn unix_id(policy: &Policy, index: usize) -> u16 {
    listen_id(policy, policy.listen.rules.len() + index)
}

/// Id of the system rule at `index`.
pub fn system_id(policy: &Policy, index: usize) -> u16 {
    unix_id(policy, policy.unix.rules.len() + index)
}

/// [`number_rules`] has refused what does not fit.
fn id(number: usize) -> u16 {
    const _: () = assert!(MAX_RULES + OWN_RULES < u16::MAX as usize);
    u16::try_from(number).unwrap_or(u16::MAX - 1)
}
