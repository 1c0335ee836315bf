//! What becomes of a decision after it was made: from the ring buffer to a line.
//!
//! `wire` checks the bytes a kernel program wrote, `resolve` puts names to their numbers, and the
//! [`Record`] that comes out is shown by `ocsf` and `ecs` (JSON, for machines) and `text` (one line,
//! for people). [`EventLog`] writes the JSON and accounts for every line that could not be written.

mod ecs;
mod filter;
#[cfg(test)]
pub(crate) mod fixture;
mod log;
mod ocsf;
mod record;
mod recording;
mod resolve;
mod safe_text;
mod sink;
mod text;
mod wire;
pub(crate) mod words;

pub use filter::{EventClass, EventFilter};
pub use log::{EventLog, Fault};
pub(crate) use ocsf::schema;
pub use ocsf::{DecodeError, Encoder, Encoding, Host, decode};
pub use record::{
    AgentIdentity, Body, ContainerIdentity, Context, Decision, Endpoint, File, HookTotals, Lookup,
    LookupAnswer, LookupReason, Losses, Notice, Object, PathScope, PodIdentity, PolicyIdentity,
    Process, Record, Rule,
};
pub use recording::{Entry, MAX_LINE, Recording, Skipped};
pub use resolve::{Mount, Names, resolve};
pub use safe_text::SafeText;
pub use sink::{OpenError, Sink};
pub use text::TextLine;
pub use wire::{WireError, WireEvent};
