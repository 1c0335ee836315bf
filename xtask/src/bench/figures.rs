//! What was measured, as it is kept in files.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::work::Work;

/// Under what a piece of work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Setting {
    /// Nothing: no program of the guard is in the kernel.
    Bare,
    /// Landlock, with this many rules.
    Landlock { rules: u32 },
    /// Inside an agent whose policy has this many rules.
    Agent { rules: u32 },
    /// Outside, while an agent runs.
    Outsider,
}

/// One figure: instructions that a call of `work` takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figure {
    pub work: Work,
    pub setting: Setting,
    pub instructions: u64,
}

/// All figures of one kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// `uname -r`
    pub kernel: String,
    /// Year, month and day.
    pub date: String,
    pub figures: Vec<Figure>,
}

impl Figures {
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, text).with_context(|| path.display().to_string())
    }

    pub fn of(&self, work: Work, setting: Setting) -> Option<u64> {
        let found =
            self.figures.iter().find(|figure| figure.work == work && figure.setting == setting);
        found.map(|figure| figure.instructions)
    }

    /// Instructions that `setting` adds to the bare work.
    pub fn added(&self, work: Work, setting: Setting) -> Option<i64> {
        let bare = self.of(work, Setting::Bare)?.cast_signed();
        Some(self.of(work, setting)?.cast_signed() - bare)
    }
}
