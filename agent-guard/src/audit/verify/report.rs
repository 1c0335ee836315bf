//! What verification found.

use std::fmt;

use serde::Serialize;

use crate::audit::{PublicKey, format::ChainId};

/// Findings that are told one by one; the rest is counted.
pub const MAX_FINDINGS: usize = 1_000;

/// What is wrong at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The bytes of a line are not those that were written.
    Altered,
    /// A line that was never written stands between two records that belong together.
    Inserted,
    /// Records that were there are not.
    Missing,
    /// A record stands where it does not belong: moved, or there twice.
    Misplaced,
    /// A record goes on from another one than the one before it, of the same number.
    Replaced,
    /// A record of another chain.
    Foreign,
    /// The log ends within a line.
    Torn,
    /// A checkpoint's signature is not that of its key.
    Signature,
    /// A checkpoint is signed by another key than is due, or no key is one that is trusted.
    Key,
    /// A checkpoint that is kept elsewhere is not in the log.
    Expected,
    /// Nothing in the log is signed, or nothing is in it.
    Unsigned,
    /// A file can not be read on.
    Unreadable,
}

impl Kind {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Altered => "altered",
            Self::Inserted => "inserted",
            Self::Missing => "missing",
            Self::Misplaced => "misplaced",
            Self::Replaced => "replaced",
            Self::Foreign => "foreign",
            Self::Torn => "torn",
            Self::Signature => "signature",
            Self::Key => "key",
            Self::Expected => "expected",
            Self::Unsigned => "unsigned",
            Self::Unreadable => "unreadable",
        }
    }
}

/// A line of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The file, as it was named.
    pub file: String,
    /// The line, from 1 on; 0 before the first.
    pub line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Something wrong, or worth knowing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is.
    pub kind: Kind,
    /// Where.
    #[serde(flatten)]
    pub place: Place,
    /// The number of the record, where it is known.
    pub sequence: Option<u64>,
    /// In words.
    pub text: String,
}

/// Something that is worth knowing, and not wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Note {
    /// Where.
    #[serde(flatten)]
    pub place: Place,
    /// In words.
    pub text: String,
}

/// What is in a log, and what is wrong with it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Whether nothing is wrong.
    pub intact: bool,
    /// The chain.
    pub chain: Option<ChainId>,
    /// Records of it.
    pub records: u64,
    /// The numbers of the first and the last.
    pub first: Option<u64>,
    /// See `first`.
    pub last: Option<u64>,
    /// Checkpoints whose signatures are right.
    pub checkpoints: u64,
    /// The number of the last of these.
    pub signed_up_to: Option<u64>,
    /// When that was made, by the writer's clock: milliseconds since the Unix epoch.
    pub signed_at: Option<u64>,
    /// The keys that signed, in turn.
    pub keys: Vec<PublicKey>,
    /// Whether one of these is known from elsewhere. Where not, whoever wrote the log can have made them all.
    pub trusted: bool,
    /// What is wrong, in the order of the log.
    pub findings: Vec<Finding>,
    /// Findings that are not told one by one.
    pub more_findings: u64,
    /// What is worth knowing.
    pub notes: Vec<Note>,
}

impl Report {
    pub(super) fn find(&mut self, kind: Kind, place: Place, sequence: Option<u64>, text: String) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(Finding { kind, place, sequence, text });
        } else {
            self.more_findings += 1;
        }
    }

    /// Likewise bounded: an agent can not make notes, but whoever changes the log can.
    pub(super) fn note(&mut self, place: Place, text: String) {
        if self.notes.len() < MAX_FINDINGS {
            self.notes.push(Note { place, text });
        }
    }
}
