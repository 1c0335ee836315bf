//! What was measured, as it is kept in files.

use std::{collections::BTreeMap, fmt, fs, path::Path, str::FromStr};

use anyhow::{Context as _, Result};
use rustix::system::uname;
use serde::{Deserialize, Serialize};

use super::{count::Clock, work::Work};
use crate::process::{command, output};

/// Under what a piece of work is done. It is written as one word, so that a figure is one line of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Setting {
    /// Nothing: no program of the guard is in the kernel.
    Bare,
    /// Landlock, with this many rules.
    Landlock { rules: u32 },
    /// Outside of every agent, while one runs.
    Beside,
    /// Inside an agent whose policy has this many rules.
    Agent { rules: u32 },
    /// The same, as one of this many agents.
    Crowd { agents: u32 },
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bare => f.write_str("bare"),
            Self::Landlock { rules } => write!(f, "landlock-{rules}"),
            Self::Beside => f.write_str("beside"),
            Self::Agent { rules } => write!(f, "agent-{rules}"),
            Self::Crowd { agents } => write!(f, "crowd-{agents}"),
        }
    }
}

impl From<Setting> for String {
    fn from(setting: Setting) -> Self {
        setting.to_string()
    }
}

impl TryFrom<String> for Setting {
    type Error = String;

    fn try_from(word: String) -> Result<Self, String> {
        word.parse()
    }
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let unknown = || format!("{word:?} is no setting of a measurement");
        let (kind, number) = match word.split_once('-') {
            Some((kind, number)) => (kind, Some(number.parse().map_err(|_| unknown())?)),
            None => (word, None),
        };
        match (kind, number) {
            ("bare", None) => Ok(Self::Bare),
            ("landlock", Some(rules)) => Ok(Self::Landlock { rules }),
            ("beside", None) => Ok(Self::Beside),
            ("agent", Some(rules)) => Ok(Self::Agent { rules }),
            ("crowd", Some(agents)) => Ok(Self::Crowd { agents }),
            _ => Err(unknown()),
        }
    }
}

/// All figures of one kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// `uname -r`
    pub kernel: String,
    /// Year, month and day.
    pub date: String,
    /// What they count, for one call.
    pub unit: Clock,
    pub figures: BTreeMap<Work, BTreeMap<Setting, u64>>,
}

impl Figures {
    /// None yet, of the kernel that runs here, today.
    pub fn here(unit: Clock) -> Result<Self> {
        let kernel = uname().release().to_string_lossy().into_owned();
        let date = output(&mut command("date", ["--utc", "+%Y-%m-%d"]))?.trim().to_owned();
        Ok(Self { kernel, date, unit, figures: BTreeMap::new() })
    }

    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, text).with_context(|| path.display().to_string())
    }

    /// Adds a figure; of two for the same, the lesser stays.
    pub fn add(&mut self, work: Work, setting: Setting, figure: u64) {
        let known = self.figures.entry(work).or_default().entry(setting).or_insert(figure);
        *known = figure.min(*known);
    }

    pub fn of(&self, work: Work, setting: Setting) -> Option<u64> {
        self.figures.get(&work)?.get(&setting).copied()
    }

    /// What `setting` adds to the bare work.
    pub fn added(&self, work: Work, setting: Setting) -> Option<i64> {
        let bare = self.of(work.without_guard(), Setting::Bare)?.cast_signed();
        Some(self.of(work, setting)?.cast_signed() - bare)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_come_back_from_a_file_as_they_were() {
        let mut figures = Figures {
            kernel: "6.12".to_owned(),
            date: "2026-11-21".to_owned(),
            unit: Clock::Instructions,
            figures: BTreeMap::new(),
        };
        let settings = [
            Setting::Bare,
            Setting::Landlock { rules: 10 },
            Setting::Beside,
            Setting::Agent { rules: 1_000 },
            Setting::Crowd { agents: 7 },
        ];
        for (setting, figure) in settings.into_iter().zip(1..) {
            figures.add(Work::Open2, setting, figure);
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("figures.json");
        figures.write(&path).unwrap();
        assert_eq!(Figures::read(&path).unwrap(), figures);
        assert!(fs::read_to_string(&path).unwrap().contains("\n      \"agent-1000\": 4"));
    }

    #[test]
    fn a_setting_that_is_none_is_refused() {
        for word in ["", "agent", "agent-", "agent-x", "bare-1", "agent-1-2", "agents-1"] {
            assert!(word.parse::<Setting>().is_err(), "{word}");
        }
    }

    #[test]
    fn what_is_added_to_a_denial_is_added_to_an_open_that_fails() {
        let mut figures = Figures::here(Clock::Instructions).unwrap();
        figures.add(Work::Fail, Setting::Bare, 100);
        figures.add(Work::Deny, Setting::Beside, 130);
        assert_eq!(figures.added(Work::Deny, Setting::Beside), Some(30));
    }
}
