//! A line on its way to a sink.

use bytes::Bytes;

/// Longest line, bytes: many times what an event takes. What is longer is lost.
pub const MAX_LINE: usize = 1 << 20;

/// A line, and what is lost with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// A JSON object and a newline.
    pub line: Bytes,
    /// How many lost lines it tells of; 0 for all but the notices of a loss.
    pub tells: u64,
}

impl Entry {
    /// Bytes that it takes in memory, about.
    #[must_use]
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.line.len()
    }
}
