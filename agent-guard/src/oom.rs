//! Memory that runs out: an agent that uses it up must not have the kernel end the guard.

use std::{fs, io};

/// The lowest there is: never to be chosen.
const NEVER: &str = "-1000";

/// Keeps this process from being ended when memory runs out. What it starts afterwards inherits that.
///
/// # Errors
/// This process lacks CAP_SYS_RESOURCE.
pub fn exempt() -> io::Result<()> {
    fs::write("/proc/self/oom_score_adj", NEVER)
}
