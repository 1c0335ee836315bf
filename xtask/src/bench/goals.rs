//! What is to be reached.

use super::{
    figures::{Figures, Setting},
    policy::{FEW, MANY, USUAL},
    stage::AGENTS,
    work::Work,
};

/// A piece of work and what it may cost at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goal {
    pub work: Work,
    pub setting: Setting,
    limit: Limit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    /// This many more than bare.
    Added(i64),
    /// This many hundredths more than bare.
    Percent(i64),
    /// What Landlock adds.
    Landlock,
    /// In all, a failing open and one that succeeds.
    OneMoreOpen,
    /// In all, so many hundredths of the same under another setting.
    Of(Setting, u64),
    /// In all, so many hundredths of other work.
    OfWork(Work, u64),
    /// In all, this.
    InAll(u64),
}

/// A goal's figure and the most that it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    pub figure: i64,
    pub limit: i64,
}

impl Judgement {
    pub fn is_met(self) -> bool {
        self.figure <= self.limit
    }
}

const AGENT: Setting = Setting::Agent { rules: USUAL };
pub const LANDLOCK: Setting = Setting::Landlock { rules: USUAL };
const MOST_RULES: Setting = Setting::Agent { rules: MANY };
const FEWEST_RULES: Setting = Setting::Agent { rules: FEW };
const MOST_AGENTS: Setting = Setting::Crowd { agents: AGENTS };

const fn goal(work: Work, setting: Setting, limit: Limit) -> Goal {
    Goal { work, setting, limit }
}

/// What the guard may add.
pub const COSTS: [Goal; 23] = [
    goal(Work::Open2, AGENT, Limit::Added(350)),
    goal(Work::Open8, AGENT, Limit::Added(350)),
    goal(Work::Open32, AGENT, Limit::Added(350)),
    goal(Work::Cold2, AGENT, Limit::Landlock),
    goal(Work::Cold8, AGENT, Limit::Landlock),
    goal(Work::Stat, AGENT, Limit::Added(20)),
    goal(Work::Read, AGENT, Limit::Added(20)),
    goal(Work::Write, AGENT, Limit::Added(20)),
    goal(Work::Connect, MOST_RULES, Limit::Percent(5)),
    goal(Work::Exec, AGENT, Limit::Percent(2)),
    goal(Work::Deny, AGENT, Limit::OneMoreOpen),
    goal(Work::Rename, AGENT, Limit::Landlock),
    goal(Work::Create, AGENT, Limit::Landlock),
    goal(Work::Mkdir, AGENT, Limit::Landlock),
    goal(Work::Git, AGENT, Limit::Percent(2)),
    goal(Work::Python, AGENT, Limit::Percent(2)),
    goal(Work::Compile, AGENT, Limit::Percent(2)),
    goal(Work::Cargo, AGENT, Limit::Percent(2)),
    goal(Work::Open2, Setting::Beside, Limit::Added(250)),
    goal(Work::Open8, Setting::Beside, Limit::Added(250)),
    goal(Work::Stat, Setting::Beside, Limit::Added(20)),
    goal(Work::Read, Setting::Beside, Limit::Added(20)),
    goal(Work::Write, Setting::Beside, Limit::Added(20)),
];

/// What must not grow.
pub const FLAT: [Goal; 5] = [
    goal(Work::Open2, MOST_RULES, Limit::Of(FEWEST_RULES, 102)),
    goal(Work::Open8, MOST_RULES, Limit::Of(FEWEST_RULES, 102)),
    goal(Work::Open32, MOST_RULES, Limit::Of(FEWEST_RULES, 102)),
    goal(Work::Open2, MOST_AGENTS, Limit::Of(AGENT, 102)),
    goal(Work::Open8, MOST_AGENTS, Limit::Of(AGENT, 102)),
];

/// What is held against another program.
pub const PEERS: [Goal; 3] = [
    goal(Work::Event, Setting::Bare, Limit::OfWork(Work::EventBySerde, 200)),
    goal(Work::EventToFile, Setting::Bare, Limit::OfWork(Work::EventToFileBySerde, 200)),
    goal(Work::Run, Setting::Beside, Limit::OfWork(Work::Bubblewrap, 100)),
];

/// What is held against the clock, in nanoseconds: the parts of a second.
pub const SECOND: [Goal; 3] = [
    goal(Work::PolicyParse, Setting::Beside, Limit::InAll(1_000_000_000)),
    goal(Work::PolicyCompile, Setting::Beside, Limit::InAll(1_000_000_000)),
    goal(Work::PolicyInstall, Setting::Beside, Limit::InAll(1_000_000_000)),
];

impl Goal {
    /// How `figures` stand to it; `None` where they lack what is needed.
    pub fn judge(self, figures: &Figures) -> Option<Judgement> {
        let of = |work, setting| figures.of(work, setting).map(u64::cast_signed);
        let hundredths = |figure: i64, part: u64| figure * part.cast_signed() / 100;
        let in_all = of(self.work, self.setting);
        let added = figures.added(self.work, self.setting);
        let (figure, limit) = match self.limit {
            Limit::Added(limit) => (added?, limit),
            Limit::Percent(percent) => (added?, of(self.work, Setting::Bare)? * percent / 100),
            Limit::Landlock => (added?, figures.added(self.work, LANDLOCK)?),
            Limit::OneMoreOpen => (added?, of(Work::Open2, Setting::Bare)?),
            Limit::Of(other, part) => (in_all?, hundredths(of(self.work, other)?, part)),
            Limit::OfWork(other, part) => (in_all?, hundredths(of(other, self.setting)?, part)),
            Limit::InAll(limit) => (in_all?, limit.cast_signed()),
        };
        Some(Judgement { figure, limit })
    }

    /// What it is held against, where that is other work.
    pub fn peer(self) -> Option<Work> {
        match self.limit {
            Limit::OfWork(other, _) => Some(other),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::count::Clock;

    fn figures(of: &[(Work, Setting, u64)]) -> Figures {
        let mut figures = Figures::here(Clock::Instructions).unwrap();
        for (work, setting, figure) in of {
            figures.add(*work, *setting, *figure);
        }
        figures
    }

    fn judged(limit: Limit, of: &[(Work, Setting, u64)]) -> Option<(i64, i64, bool)> {
        let judgement = goal(Work::Open2, AGENT, limit).judge(&figures(of))?;
        Some((judgement.figure, judgement.limit, judgement.is_met()))
    }

    #[test]
    fn a_goal_is_met_up_to_its_limit() {
        let of = |agent| [(Work::Open2, Setting::Bare, 1_000), (Work::Open2, AGENT, agent)];
        assert_eq!(judged(Limit::Added(20), &of(1_020)), Some((20, 20, true)));
        assert_eq!(judged(Limit::Added(20), &of(1_021)), Some((21, 20, false)));
        assert_eq!(judged(Limit::Percent(2), &of(1_020)), Some((20, 20, true)));
        assert_eq!(judged(Limit::Percent(2), &of(1_021)), Some((21, 20, false)));
        assert_eq!(judged(Limit::Of(Setting::Bare, 102), &of(1_020)), Some((1_020, 1_020, true)));
    }

    #[test]
    fn landlock_is_held_against_what_it_adds() {
        let of = [
            (Work::Open2, Setting::Bare, 1_000),
            (Work::Open2, LANDLOCK, 1_100),
            (Work::Open2, AGENT, 1_100),
        ];
        assert_eq!(judged(Limit::Landlock, &of), Some((100, 100, true)));
    }

    #[test]
    fn what_was_not_measured_is_not_judged() {
        let of = [(Work::Open2, AGENT, 1_000)];
        assert_eq!(judged(Limit::Added(20), &of), None);
        assert_eq!(judged(Limit::OfWork(Work::Open8, 100), &of), None);
    }
}
