//! Figures as tables in Markdown.

use std::fmt::Write as _;

use super::{
    figures::{Figures, Setting},
    goals::{COSTS, FLAT, Goal, LANDLOCK, PEERS, SECOND},
    policy::{RULES, USUAL},
    stage::AGENTS,
    work::Work,
};

/// All that a guest's figures say.
pub fn of_guest(figures: &Figures) -> String {
    [source(figures), costs(figures), flatness(figures), peers(figures)].join("\n")
}

/// All that this host's figures say.
pub fn of_host(figures: &Figures) -> String {
    [source(figures), on_host(figures), peers(figures), seconds(figures)].join("\n")
}

/// Where figures come from, in a line.
pub fn source(figures: &Figures) -> String {
    format!("Kernel {}, {}, {}.\n", figures.kernel, figures.date, figures.unit.name())
}

/// What the guard adds, beside Landlock and beside what it may.
pub fn costs(figures: &Figures) -> String {
    costs_of(figures, |_| true)
}

/// The same in short.
pub fn costs_in_short(figures: &Figures) -> String {
    const SHOWN: [Work; 6] =
        [Work::Open2, Work::Open8, Work::Read, Work::Exec, Work::Connect, Work::Deny];
    costs_of(figures, |goal| SHOWN.contains(&goal.work))
}

fn costs_of(figures: &Figures, shown: impl Fn(&Goal) -> bool) -> String {
    let mut text = "| work | bare | Landlock adds | agent-guard adds | goal: at most | |\n\
                    |---|--:|--:|--:|--:|---|\n"
        .to_owned();
    for goal in COSTS.iter().filter(|goal| shown(goal)) {
        let bare = figures.of(goal.work.without_guard(), Setting::Bare);
        let judged = goal.judge(figures);
        let landlock = figures.added(goal.work, LANDLOCK);
        _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} |",
            described(goal),
            shown_number(bare),
            shown_number(landlock.filter(|_| goal.setting != Setting::Beside)),
            shown_number(judged.map(|judged| judged.figure)),
            shown_number(judged.map(|judged| judged.limit)),
            met(*goal, figures),
        );
    }
    text
}

/// What does not grow with rules and agents.
pub fn flatness(figures: &Figures) -> String {
    let mut text = "| work, in all |".to_owned();
    for rules in RULES {
        _ = write!(text, " {} rules |", number(rules));
    }
    _ = writeln!(text, " 1 in {} agents | within 2 % |", number(AGENTS));
    text += "|---|--:|--:|--:|--:|---|\n";
    for work in [Work::Open2, Work::Open8, Work::Open32, Work::Connect] {
        _ = write!(text, "| {} |", work.label());
        for rules in RULES {
            _ = write!(text, " {} |", shown_number(figures.of(work, Setting::Agent { rules })));
        }
        let crowd = figures.of(work, Setting::Crowd { agents: AGENTS });
        let of_work = || FLAT.iter().filter(|goal| goal.work == work);
        let missed = of_work().any(|goal| goal.judge(figures).is_some_and(|it| !it.is_met()));
        let word = match of_work().next() {
            Some(_) if missed => "**missed**",
            Some(_) => "met",
            None => "no goal",
        };
        _ = writeln!(text, " {} | {word} |", shown_number(crowd));
    }
    text
}

/// What is held against other programs.
pub fn peers(figures: &Figures) -> String {
    let mut text =
        "| work | agent-guard | beside | | goal: at most | |\n|---|--:|---|--:|--:|---|\n"
            .to_owned();
    for goal in PEERS {
        let Some(peer) = goal.peer() else { continue };
        let judged = goal.judge(figures);
        _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} |",
            goal.work.label(),
            shown_number(judged.map(|judged| judged.figure)),
            peer.label(),
            shown_number(figures.of(peer, goal.setting)),
            shown_number(judged.map(|judged| judged.limit)),
            met(goal, figures),
        );
    }
    text
}

/// A policy's way into the kernel.
pub fn seconds(figures: &Figures) -> String {
    let mut text = "| work | microseconds |\n|---|--:|\n".to_owned();
    let mut sum = Some(0);
    for goal in SECOND {
        let figure = figures.of(goal.work, goal.setting);
        sum = sum.zip(figure).map(|(sum, figure)| sum + figure);
        _ = writeln!(text, "| {} | {} |", goal.work.label(), micros(figure));
    }
    let met =
        sum.map_or("not measured", |sum| if sum < 1_000_000_000 { "met" } else { "**missed**" });
    _ = writeln!(text, "| together, to take less than 1,000,000: {met} | {} |", micros(sum));
    let swap = figures.of(Work::PolicySwap, Setting::Beside);
    _ = writeln!(text, "| {} | {} |", Work::PolicySwap.label(), micros(swap));
    text
}

/// What an agent adds to work on this host.
pub fn on_host(figures: &Figures) -> String {
    let mut text = "| work | bare, µs | as an agent, µs | |\n|---|--:|--:|--:|\n".to_owned();
    for (work, settings) in &figures.figures {
        for (setting, agent) in settings {
            let (Setting::Agent { .. }, Some(bare)) = (setting, settings.get(&Setting::Bare))
            else {
                continue;
            };
            let tenths = (agent * 1_000 / bare).cast_signed() - 1_000;
            _ = writeln!(
                text,
                "| {} | {} | {} | {}{}.{} % |",
                work.label(),
                micros(Some(*bare)),
                micros(Some(*agent)),
                if tenths < 0 { "−" } else { "+" },
                tenths.abs() / 10,
                tenths.abs() % 10,
            );
        }
    }
    text
}

/// What an agent adds on each kernel, with what Landlock adds behind it.
pub fn kernels(all: &[Figures]) -> String {
    let mut text = "| work |".to_owned() + &heads(all);
    for goal in COSTS.iter().filter(|goal| goal.setting != Setting::Beside) {
        _ = write!(text, "| {} |", goal.work.label());
        for figures in all {
            let added = shown_number(figures.added(goal.work, goal.setting));
            let landlock = shown_number(figures.added(goal.work, LANDLOCK));
            _ = write!(text, " {added} ({landlock}) |");
        }
        text += "\n";
    }
    text
}

/// The goals that are missed on any of these kernels, with what each comes to.
pub fn missed(all: &[Figures]) -> String {
    let goals = || COSTS.iter().chain(&FLAT).chain(&PEERS);
    let is_missed = |goal: &Goal, figures| goal.judge(figures).is_some_and(|it| !it.is_met());
    let missed: Vec<&Goal> =
        goals().filter(|goal| all.iter().any(|figures| is_missed(goal, figures))).collect();
    if missed.is_empty() {
        return format!("All {} goals are met on every kernel.\n", goals().count());
    }
    let mut text = format!(
        "Of {} goals these {} are missed; in brackets what was to be reached:\n\n| work |",
        goals().count(),
        missed.len()
    );
    text += &heads(all);
    for goal in missed {
        _ = write!(text, "| {} |", described(goal));
        for figures in all {
            let Some(judged) = goal.judge(figures) else {
                text += " – |";
                continue;
            };
            let (figure, limit) = (number(judged.figure), number(judged.limit));
            let figure = if judged.is_met() { figure } else { format!("**{figure}**") };
            _ = write!(text, " {figure} ({limit}) |");
        }
        text += "\n";
    }
    text
}

/// The end of a table's head, with a column for each kernel.
fn heads(all: &[Figures]) -> String {
    let kernels: String = all.iter().map(|figures| format!(" {} |", figures.kernel)).collect();
    format!("{kernels}\n|---|{}\n", "--:|".repeat(all.len()))
}

/// A goal's work, and under what it is done where that is not the usual.
fn described(goal: &Goal) -> String {
    let under = match goal.setting {
        Setting::Agent { rules } if rules != USUAL => format!(", {} rules", number(rules)),
        Setting::Crowd { agents } => format!(", 1 in {} agents", number(agents)),
        Setting::Beside if goal.peer().is_none() => ", by no agent, beside one".to_owned(),
        _ => String::new(),
    };
    format!("{}{under}", goal.work.label())
}

fn met(goal: Goal, figures: &Figures) -> &'static str {
    match goal.judge(figures) {
        Some(judged) if judged.is_met() => "met",
        Some(_) => "**missed**",
        None => "not measured",
    }
}

/// Nanoseconds as microseconds with two digits behind the point.
fn micros(nanos: Option<u64>) -> String {
    match nanos {
        Some(nanos) => format!("{}.{:02}", number(nanos / 1_000), nanos / 10 % 100),
        None => "–".to_owned(),
    }
}

fn shown_number(figure: Option<impl Into<i128>>) -> String {
    figure.map_or_else(|| "–".to_owned(), number)
}

/// With a comma behind every third digit.
fn number(figure: impl Into<i128>) -> String {
    let figure = figure.into();
    let digits = figure.unsigned_abs().to_string();
    let mut text = if figure < 0 { "−".to_owned() } else { String::new() };
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_groups_of_three_digits() {
        let shown = [0_i64, 999, 1_000, 1_234_567, -1_000].map(number);
        assert_eq!(shown, ["0", "999", "1,000", "1,234,567", "−1,000"]);
    }
}
