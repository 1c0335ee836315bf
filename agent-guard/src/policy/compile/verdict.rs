//! What several patterns say of one path, taken together: deny beats allow, and among equals the
//! first rule of the file gives the name.

use agent_guard_common::table::{ACCESS_KINDS, Access, Effect, NO_RULE, Verdict};

/// What a pattern says of a path that it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Accept {
    /// Id of the rule.
    pub rule: u16,
    /// What the rule says.
    pub effect: Effect,
    /// Which accesses it speaks of, by [`Access`].
    pub access: [bool; ACCESS_KINDS],
    /// The pattern has no wildcard.
    pub exact: bool,
    /// It allows only the files that were pinned.
    pub pinned: bool,
}

/// The strongest that a set of accepts says of each access: the lowest rule id of each kind.
#[derive(Clone, Copy)]
pub struct Strongest {
    deny: [u16; ACCESS_KINDS],
    allow: [u16; ACCESS_KINDS],
    exact: [u16; ACCESS_KINDS],
    pinned: [u16; ACCESS_KINDS],
}

impl Strongest {
    /// Nothing is said.
    pub const NONE: Self = Self {
        deny: [NO_RULE; ACCESS_KINDS],
        allow: [NO_RULE; ACCESS_KINDS],
        exact: [NO_RULE; ACCESS_KINDS],
        pinned: [NO_RULE; ACCESS_KINDS],
    };

    /// Counts in what one pattern says.
    pub fn add(&mut self, accept: &Accept) {
        let low = |cells: &mut [u16; ACCESS_KINDS], rule: u16| {
            for (cell, speaks) in cells.iter_mut().zip(accept.access) {
                if speaks {
                    *cell = rule.min(*cell);
                }
            }
        };
        match accept.effect {
            Effect::Deny => low(&mut self.deny, accept.rule),
            Effect::Allow => {
                low(&mut self.allow, accept.rule);
                if accept.exact {
                    low(&mut self.exact, accept.rule);
                }
                if accept.pinned {
                    low(&mut self.pinned, accept.rule);
                }
            }
        }
    }

    /// Counts in what others say.
    pub fn merge(&mut self, other: &Self) {
        let low = |to: &mut [u16; ACCESS_KINDS], from: &[u16; ACCESS_KINDS]| {
            for (cell, rule) in to.iter_mut().zip(from) {
                *cell = (*rule).min(*cell);
            }
        };
        low(&mut self.deny, &other.deny);
        low(&mut self.allow, &other.allow);
        low(&mut self.exact, &other.exact);
        low(&mut self.pinned, &other.pinned);
    }

    /// Whether adding `other` to this changes no verdict.
    pub fn covers(&self, other: &Self) -> bool {
        let ours = self.deny.iter().zip(&self.allow).zip(&self.pinned);
        let theirs = other.deny.iter().zip(&other.allow).zip(&other.pinned).zip(&other.exact);
        ours.zip(theirs).all(
            |(((our_deny, our_allow), our_pinned), (((deny, allow), pinned), exact))| {
                let denied = *our_deny != NO_RULE;
                let adds_nothing = allow >= our_allow && pinned >= our_pinned && *exact == NO_RULE;
                deny >= our_deny && (denied || adds_nothing)
            },
        )
    }

    /// Verdicts for ordinary objects, by [`Access`].
    pub fn plain(&self) -> [Verdict; ACCESS_KINDS] {
        verdicts(&self.deny, &self.allow, &self.pinned)
    }

    /// Verdicts for guarded objects, by [`Access`]: a pattern with a wildcard allows nothing.
    pub fn guarded(&self) -> [Verdict; ACCESS_KINDS] {
        verdicts(&self.deny, &self.exact, &self.pinned)
    }
}

/// A rule with a pin beats one without: whoever pins a file in one rule does not mean to have it replaced
/// under another.
fn verdicts(
    deny: &[u16; ACCESS_KINDS],
    allow: &[u16; ACCESS_KINDS],
    pinned: &[u16; ACCESS_KINDS],
) -> [Verdict; ACCESS_KINDS] {
    let of = |access: Access| {
        let at = |rules: &[u16; ACCESS_KINDS]| match (access, rules) {
            (Access::Read, [rule, ..])
            | (Access::Write, [_, rule, ..])
            | (Access::Exec, [_, _, rule, _])
            | (Access::Connect, [_, _, _, rule]) => *rule,
        };
        match (at(deny), at(allow), at(pinned)) {
            (NO_RULE, NO_RULE, _) => Verdict::UNMATCHED,
            (NO_RULE, rule, NO_RULE) => Verdict::new(Effect::Allow, rule),
            (NO_RULE, _, rule) => Verdict::pinned(rule),
            (rule, ..) => Verdict::new(Effect::Deny, rule),
        }
    };
    [of(Access::Read), of(Access::Write), of(Access::Exec), of(Access::Connect)]
}
