//! Holds what is added against the record.

use std::fmt;

use anyhow::{Result, ensure};

use super::{
    figures::{Figures, Setting},
    work::Work,
};

/// Hundredths more than the record that are let pass.
const PERCENT: i64 = 3;
/// Instructions more that are let pass: a field of a kernel structure that moves, or a hash chain that is longer by
/// one, comes to some dozens in a call, and of little 3 % are nothing.
const SLACK: i64 = 50;
/// The part of the bare work that is let pass in place of the slack, where two counts of the same differ by that much
/// from boot to boot, because sockets, names and pages lie otherwise.
const WOBBLE: i64 = 100;

/// What is added to a piece of work, then and now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    work: Work,
    setting: Setting,
    recorded: i64,
    now: i64,
    /// The most that passes.
    limit: i64,
}

impl Verdict {
    pub fn is_held(&self) -> bool {
        self.now <= self.limit
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { work, setting, recorded, now, limit } = self;
        let word = if self.is_held() { "ok" } else { "DEARER" };
        write!(
            f,
            "{word}: {} ({setting}): {now} instructions, {recorded} in the record, at most {limit}",
            work.label()
        )
    }
}

/// Compares every figure of `now` that is not the bare work with the record.
///
/// # Errors
/// A figure that the record does not have, or nothing to compare.
pub fn compare(now: &Figures, record: &Figures) -> Result<Vec<Verdict>> {
    let mut verdicts = Vec::new();
    for (work, settings) in &now.figures {
        for setting in settings.keys().filter(|setting| is_ours(*work, **setting)) {
            let of = |figures: &Figures| match work.is_of_own_side() {
                true => figures.of(*work, *setting).map(u64::cast_signed),
                false => figures.added(*work, *setting),
            };
            let (Some(now_adds), Some(recorded)) = (of(now), of(record)) else {
                anyhow::bail!(
                    "the record of kernel {} has no {work:?} under {setting}: make it anew with `cargo xtask bench --write`",
                    record.kernel
                )
            };
            let slack = match now.of(*work, Setting::Bare) {
                Some(bare) if wobbles(*work) => SLACK.max(bare.cast_signed() / WOBBLE),
                _ => SLACK,
            };
            let limit = recorded + recorded.max(0) * PERCENT / 100 + slack;
            verdicts.push(Verdict {
                work: *work,
                setting: *setting,
                recorded,
                now: now_adds,
                limit,
            });
        }
    }
    ensure!(!verdicts.is_empty(), "nothing was measured that could be compared");
    Ok(verdicts)
}

fn wobbles(work: Work) -> bool {
    use Work::{Cargo, Compile, Connect, Create, Exec, Git, Mkdir, Python, Rename};
    matches!(work, Connect | Exec | Rename | Create | Mkdir | Git | Python | Compile | Cargo)
}

/// Whether a figure is the guard's doing, and the same each time.
fn is_ours(work: Work, setting: Setting) -> bool {
    match setting {
        Setting::Bare => matches!(work, Work::Event | Work::EventToFile),
        Setting::Landlock { .. } => false,
        Setting::Beside => !work.waits(),
        Setting::Agent { .. } | Setting::Crowd { .. } => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::count::Clock;

    fn figures_of(work: Work, bare: u64, agent: u64) -> Figures {
        let mut figures = Figures::here(Clock::Instructions).unwrap();
        figures.add(work, Setting::Bare, bare);
        figures.add(work, Setting::Agent { rules: 10 }, agent);
        figures
    }

    fn figures(bare: u64, agent: u64) -> Figures {
        figures_of(Work::Open2, bare, agent)
    }

    fn held_of(work: Work, bare: u64, agent: u64) -> bool {
        let (now, record) = (figures_of(work, bare, agent), figures_of(work, bare, bare + 1_000));
        let verdicts = compare(&now, &record).unwrap();
        let [verdict] = verdicts.as_slice() else { panic!("{verdicts:?}") };
        verdict.is_held()
    }

    fn held(bare: u64, agent: u64) -> bool {
        held_of(Work::Open2, bare, agent)
    }

    #[test]
    fn what_adds_up_to_three_hundredths_and_the_slack_more_passes() {
        assert!(held(5_000, 6_000));
        assert!(held(5_000, 6_000 + 30 + 50));
        assert!(!held(5_000, 6_000 + 30 + 50 + 1));
    }

    #[test]
    fn what_wobbles_may_do_so_by_a_hundredth_of_itself() {
        assert!(held_of(Work::Connect, 12_000, 13_000 + 30 + 120));
        assert!(!held_of(Work::Connect, 12_000, 13_000 + 30 + 120 + 1));
        assert!(!held_of(Work::Open32, 12_000, 13_000 + 30 + 120));
    }

    #[test]
    fn a_kernel_that_is_slower_itself_is_no_matter() {
        let verdicts = compare(&figures(7_000, 8_000), &figures(5_000, 6_000)).unwrap();
        assert!(verdicts.iter().all(Verdict::is_held));
        let verdicts = compare(&figures(4_000, 6_000), &figures(5_000, 6_000)).unwrap();
        assert!(!verdicts.iter().all(Verdict::is_held));
    }

    #[test]
    fn a_record_without_the_figure_is_an_error() {
        let mut record = figures(5_000, 6_000);
        record.figures.clear();
        let error = compare(&figures(5_000, 6_000), &record).unwrap_err();
        assert!(error.to_string().contains("bench --write"), "{error}");
    }

    #[test]
    fn nothing_measured_is_an_error() {
        let mut nothing = figures(1, 1);
        nothing.figures.clear();
        assert!(compare(&nothing, &figures(1, 1)).is_err());
    }
}
