//! A log that shows whether it was changed: each record carries the hash of the one before, and signed
//! checkpoints stand among them.
//!
//! `format` is the bytes of a record, `checkpoint` the event that is signed. [`Log`] writes, [`Verifier`]
//! reads. What a log can show, and what not, is in `docs/audit.md`.

mod checkpoint;
#[cfg(test)]
mod fixture;
mod format;
pub mod head;
pub mod key;
mod lines;
mod log;
mod recover;
pub mod segment;
pub mod verify;

pub use checkpoint::{Checkpoint, Reason, Torn};
pub use format::{Chain, ChainId, Fingerprint, MAX_LINE, NotAnEvent, Record, Sealed};
pub use key::PublicKey;
pub use lines::{Line, Lines};
pub use log::{AppendError, Log, LogError, Settings};
pub use verify::{Report, Verifier};
