//! What the guard has to say beside the command that it runs.

use std::{
    fmt::Display,
    io::{self, Write},
};

/// Says `text` on a line of its own. In one write, so that what the command says there at the same time
/// does not get into it; and whoever closed stderr does not end the guard, as `eprintln!` would.
pub fn say(text: impl Display) {
    let line = format!("{text}\n");
    let _ = io::stderr().write_all(line.as_bytes());
}
