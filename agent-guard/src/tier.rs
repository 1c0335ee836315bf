//! How strongly a host can enforce.

use std::fmt;

/// A tier, strongest first. The names are a contract.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// BPF LSM programs: a denied call fails.
    Lsm,
    /// Raw tracepoints and cgroup programs: a denied connection fails, a denied open or exec kills
    /// the process before it can use what it asked for.
    Trace,
    /// The programs of `trace` that only record.
    Observe,
}

impl Tier {
    /// All tiers, strongest first.
    pub const ALL: [Self; 3] = [Self::Lsm, Self::Trace, Self::Observe];

    /// The tier's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lsm => "lsm",
            Self::Trace => "trace",
            Self::Observe => "observe",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
