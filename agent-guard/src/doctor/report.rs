//! The report as a person reads it, and as a program does.

use std::fmt::Write as _;

use serde::Serialize;

use super::{
    coverage::Covered,
    finding::{Finding, State},
    host::Kernel,
    programs::HookFinding,
    tiers::TierFinding,
};
use crate::tier::Tier;

/// Everything that was found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The kernel.
    pub kernel: Kernel,
    /// The strongest tier that is to be had.
    pub tier: Option<Tier>,
    /// Whether that tier stops anything.
    pub enforces: bool,
    /// Each tier, strongest first.
    pub tiers: Vec<TierFinding>,
    /// What was probed.
    pub probes: Vec<Finding>,
    /// Each hook of every tier.
    pub hooks: Vec<HookFinding>,
    /// What `tier` covers.
    pub coverage: Vec<Covered>,
}

/// How the table looks.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Whether to use colour.
    pub colour: bool,
    /// Columns to fill.
    pub width: usize,
}

/// Longest wrapped line: beyond it the eye loses the next one.
const MAX_WIDTH: usize = 120;
/// Shortest: narrower terminals wrap by themselves.
const MIN_WIDTH: usize = 60;
/// Columns of what is named at the left.
const NAME: usize = 25;

impl Report {
    /// The table.
    pub fn table(&self, style: Style) -> String {
        let mut page = Page { text: String::new(), style };
        page.line(&format!(
            "agent-guard doctor: kernel {}, {}",
            self.kernel.release, self.kernel.machine
        ));
        self.verdict(&mut page);
        page.heading("Tiers, each tried with a live canary");
        for tier in &self.tiers {
            page.item(tier.state, tier.tier.name(), &tier.detail);
            if !tier.because.is_empty() {
                page.note("because:", &tier.because.join(", "));
            }
        }
        page.heading("Probes");
        for probe in &self.probes {
            page.item(probe.state, probe.name, &probe.detail);
            if let Some(remedy) = &probe.remedy {
                page.note("remedy:", remedy);
            }
        }
        self.hooks(&mut page);
        if let Some(tier) = self.tier {
            page.heading(&format!("Covered by tier {tier}, where the policy denies it"));
            for row in &self.coverage {
                page.row(row.cover.words(), row.action, row.how);
            }
        }
        page.text
    }

    fn verdict(&self, page: &mut Page) {
        page.paragraph(&match (self.tier, self.enforces) {
            (Some(tier), true) => format!("Policies are enforced here at tier {tier}."),
            (Some(tier), false) => {
                format!("NOTHING IS ENFORCED HERE: tier {tier} records what agents do and stops none of it.")
            }
            (None, _) if self.tiers.iter().any(|tier| tier.state == State::Unknown) => {
                "Could not tell whether policies can be enforced here; the remedies say how to learn it.".to_owned()
            }
            (None, _) => "AGENT-GUARD CAN NOT WORK HERE: no tier is to be had.".to_owned(),
        });
    }

    /// Those of the tier at hand; without one, all that were tried.
    fn hooks(&self, page: &mut Page) {
        let shown = |hook: &&HookFinding| match self.tier {
            Some(tier) => hook.serves(tier),
            None => hook.state != State::Unknown,
        };
        let hooks: Vec<&HookFinding> = self.hooks.iter().filter(shown).collect();
        if hooks.is_empty() {
            return;
        }
        let (title, loaded) = match self.tier {
            Some(tier) => (format!("Hooks of tier {tier}"), "loaded and attached"),
            None => ("Hooks".to_owned(), "loaded"),
        };
        page.heading(&title);
        for hook in hooks {
            let (decides, kind) = (hook.decides, hook.kind);
            let detail = match &hook.detail {
                None => format!("{decides} ({kind}): {loaded}"),
                Some(why) => format!("{decides} ({kind}): {why}; without it {}", hook.without_it),
            };
            page.item(hook.state, hook.hook, &detail);
        }
    }
}

struct Page {
    text: String,
    style: Style,
}

impl Page {
    fn line(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }

    fn paragraph(&mut self, text: &str) {
        for line in wrap(text, self.style.width.clamp(MIN_WIDTH, MAX_WIDTH)) {
            self.line(&line);
        }
    }

    fn heading(&mut self, text: &str) {
        let text =
            if self.style.colour { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() };
        self.line(&format!("\n{text}"));
    }

    fn item(&mut self, state: State, name: &str, detail: &str) {
        let (symbol, colour) = match state {
            State::Yes => ('✓', "\x1b[32m"),
            State::No => ('✗', "\x1b[31m"),
            State::Absent => ('–', "\x1b[2m"),
            State::Unknown => ('?', "\x1b[33m"),
        };
        let word = match state {
            State::Yes => "yes",
            State::No => "no",
            State::Absent => "absent",
            State::Unknown => "unknown",
        };
        let detail = if state == State::Unknown {
            format!("could not tell: {detail}")
        } else {
            detail.to_owned()
        };
        let mark = format!("{symbol} {word:<7}");
        let mark = if self.style.colour { format!("{colour}{mark}\x1b[0m") } else { mark };
        self.columns(&format!("{mark} {name:<NAME$}"), 2 + 9 + 1 + NAME + 1, &detail);
    }

    fn note(&mut self, word: &str, text: &str) {
        self.columns(&format!("{:10}{word:<8}", ""), 2 + 10 + 8 + 1, text);
    }

    fn row(&mut self, word: &str, name: &str, text: &str) {
        self.columns(&format!("{word:<12} {name:<37}"), 2 + 12 + 1 + 37 + 1, text);
    }

    /// `left`, which is `indent` columns wide with its margins, and `text` wrapped beside it.
    fn columns(&mut self, left: &str, indent: usize, text: &str) {
        let width = self.style.width.clamp(MIN_WIDTH, MAX_WIDTH);
        // Where too little is left beside it, the text goes below.
        let (indent, below) = if width < indent + 30 { (8, true) } else { (indent, false) };
        let lines = wrap(text, width.saturating_sub(indent));
        let mut lines = lines.iter();
        let first = if below { None } else { lines.next() };
        let start = match first {
            Some(first) => format!("  {left} {first}"),
            None => format!("  {left}"),
        };
        self.line(start.trim_end());
        for line in lines {
            let _ = writeln!(self.text, "{:indent$}{line}", "");
        }
    }
}

/// Breaks `text` at spaces into lines of at most `width` columns; a longer word keeps a line. What
/// would move the cursor is taken out.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let word: String = word.chars().filter(|char| !char.is_control()).collect();
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(&word);
            }
            _ => lines.push(word),
        }
    }
    lines
}
