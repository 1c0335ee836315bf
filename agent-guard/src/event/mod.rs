//! What becomes of a decision after it was made: from the ring buffer to a line.
//!
//! `wire` checks the bytes a kernel program wrote, `resolve` puts names to their numbers, and the
//! [`Record`] that comes out is shown by `ocsf` (JSON, for machines) and `text` (one line, for
//! people). [`EventLog`] writes the JSON and accounts for every line that could not be written.

#[cfg(test)]
mod fixture;
mod log;
mod ocsf;
mod record;
mod resolve;
mod safe_text;
mod sink;
mod text;
mod wire;
pub(crate) mod words;

pub use log::{EventLog, Fault};
pub use ocsf::{Encoder, Host};
pub use record::{
    AgentIdentity, Body, ContainerIdentity, Context, Decision, Endpoint, File, HookTotals, Lookup,
    LookupAnswer, LookupReason, Losses, Notice, Object, PathScope, PodIdentity, PolicyIdentity,
    Process, Record, Rule,
};
pub use resolve::{Mount, Names, resolve};
pub use safe_text::SafeText;
pub use sink::{OpenError, Sink};
pub use text::TextLine;
pub use wire::{WireError, WireEvent};
