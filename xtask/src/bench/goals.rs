//! What is to be reached, and the table that says whether it is.

use std::fmt::Write as _;

use super::{
    figures::{Figures, Setting},
    stage::{RULES, USUAL_RULES},
    work::Work,
};

/// What a piece of work may cost at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    /// This many instructions more than bare.
    Added(i64),
    /// This many hundredths more than bare.
    Percent(i64),
    /// What Landlock adds.
    Landlock,
    /// In all, a failing open and one that succeeds.
    OneMoreOpen,
}

const AGENT: Setting = Setting::Agent { rules: USUAL_RULES };
const LANDLOCK: Setting = Setting::Landlock { rules: USUAL_RULES };

const GOALS: [(Work, Setting, Goal); 20] = [
    (Work::Open2, AGENT, Goal::Added(350)),
    (Work::Open8, AGENT, Goal::Added(350)),
    (Work::Open32, AGENT, Goal::Added(350)),
    (Work::Cold2, AGENT, Goal::Landlock),
    (Work::Cold8, AGENT, Goal::Landlock),
    (Work::Stat, AGENT, Goal::Added(20)),
    (Work::Read, AGENT, Goal::Added(20)),
    (Work::Write, AGENT, Goal::Added(20)),
    (Work::Connect, Setting::Agent { rules: 10_000 }, Goal::Percent(5)),
    (Work::Exec, AGENT, Goal::Percent(2)),
    (Work::Deny, AGENT, Goal::OneMoreOpen),
    (Work::Rename, AGENT, Goal::Landlock),
    (Work::Create, AGENT, Goal::Landlock),
    (Work::Mkdir, AGENT, Goal::Landlock),
    (Work::Git, AGENT, Goal::Percent(2)),
    (Work::Python, AGENT, Goal::Percent(2)),
    (Work::Open2, Setting::Outsider, Goal::Added(250)),
    (Work::Stat, Setting::Outsider, Goal::Added(20)),
    (Work::Read, Setting::Outsider, Goal::Added(20)),
    (Work::Write, Setting::Outsider, Goal::Added(20)),
];

impl Goal {
    /// The most that may be added.
    fn limit(self, figures: &Figures, work: Work) -> Option<i64> {
        let bare = |work| figures.of(work, Setting::Bare).map(u64::cast_signed);
        match self {
            Self::Added(limit) => Some(limit),
            Self::Percent(percent) => Some(bare(work)? * percent / 100),
            Self::Landlock => figures.added(work, LANDLOCK),
            Self::OneMoreOpen => bare(Work::Open2),
        }
    }
}

/// What was added, where the bare work is another one.
fn added(figures: &Figures, work: Work, setting: Setting) -> Option<i64> {
    if work != Work::Deny {
        return figures.added(work, setting);
    }
    let bare = figures.of(Work::Fail, Setting::Bare)?.cast_signed();
    Some(figures.of(work, setting)?.cast_signed() - bare)
}

/// All figures and goals, as a table in Markdown.
pub fn table(figures: &Figures) -> String {
    let mut text = format!("Kernel {}, {}\n\n", figures.kernel, figures.date);
    text += "| work | bare | Landlock adds | agent adds | goal | |\n|---|---|---|---|---|---|\n";
    for (work, setting, goal) in GOALS {
        let bare = figures.of(if work == Work::Deny { Work::Fail } else { work }, Setting::Bare);
        let (added, limit) = (added(figures, work, setting), goal.limit(figures, work));
        let met = match (added, limit) {
            (Some(added), Some(limit)) if added <= limit => "met",
            (Some(_), Some(_)) => "**missed**",
            _ => "not measured",
        };
        let beside = if setting == Setting::Outsider { ", beside an agent" } else { "" };
        _ = writeln!(
            text,
            "| {work:?}{beside} | {} | {} | {} | {} | {met} |",
            shown(bare),
            shown(figures.added(work, LANDLOCK)),
            shown(added),
            shown(limit),
        );
    }
    text += "\n| work | rules | agent adds |\n|---|---|---|\n";
    for work in [Work::Open2, Work::Open8, Work::Open32, Work::Connect] {
        for rules in RULES {
            let added = figures.added(work, Setting::Agent { rules });
            _ = writeln!(text, "| {work:?} | {rules} | {} |", shown(added));
        }
    }
    text
}

fn shown(figure: Option<impl ToString>) -> String {
    figure.map_or_else(|| "–".to_owned(), |figure| figure.to_string())
}
