//! The event that is signed: Event Log Activity 1008 of OCSF, about the log itself.

use std::{
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::{
    format::{Chain, Fingerprint},
    key::PublicKey,
};
use crate::event::{
    Host, SafeText,
    schema::{Activity, Class, Device, File, Product, VERSION, severity, status},
};

/// Why a checkpoint was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// The log is written from here on.
    Start,
    /// It was time, or enough records had come.
    Interval,
    /// The file ends here, and another one goes on.
    Rotation,
    /// A file begins here that goes on with an earlier one.
    Continued,
    /// Another key signs from here on.
    Key,
    /// The log is not written any more.
    Stop,
}

/// What a checkpoint says beside its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Why it was made.
    pub reason: Reason,
    /// Records since the one before it.
    pub records: u64,
    /// The key that signs all later ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_key: Option<PublicKey>,
    /// The line before it, which is no record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub torn: Option<Torn>,
}

/// Half a line that a writer left when it was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Torn {
    /// How long it is, bytes, without the newline that was put behind it.
    pub bytes: u64,
    /// SHA-256 of these.
    pub sha256: Fingerprint,
}

impl Torn {
    /// Of these bytes.
    #[must_use]
    pub fn of(line: &[u8]) -> Self {
        Self { bytes: line.len() as u64, sha256: Fingerprint::of(line) }
    }
}

/// A checkpoint, as it was read.
#[derive(Debug, Deserialize)]
pub struct Read {
    /// Milliseconds since the Unix epoch.
    pub time: u64,
    unmapped: ReadUnmapped,
}

#[derive(Debug, Deserialize)]
struct ReadUnmapped {
    agent_guard: ReadOwn,
}

#[derive(Debug, Deserialize)]
struct ReadOwn {
    checkpoint: Checkpoint,
}

impl Read {
    /// Reads a line that is a signed record; none where it is no checkpoint.
    #[must_use]
    pub fn of(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }

    /// What it says.
    #[must_use]
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.unmapped.agent_guard.checkpoint
    }
}

#[derive(Serialize)]
struct Event<'a> {
    time: u64,
    class_uid: u16,
    class_name: &'static str,
    category_uid: u16,
    activity_id: u16,
    activity_name: &'static str,
    type_uid: u32,
    severity_id: u8,
    severity: &'static str,
    status_id: u8,
    status: &'static str,
    message: &'static str,
    log_name: &'static str,
    log_provider: &'static str,
    log_type_id: u8,
    log_type: &'static str,
    file: File<'a>,
    device: Device<'a>,
    metadata: Metadata,
    unmapped: Unmapped<'a>,
}

#[derive(Serialize)]
struct Metadata {
    version: &'static str,
    product: Product,
    profiles: [&'static str; 1],
    uid: String,
    sequence: u64,
}

#[derive(Serialize)]
struct Unmapped<'a> {
    agent_guard: Own<'a>,
}

#[derive(Serialize)]
struct Own<'a> {
    checkpoint: &'a Checkpoint,
}

impl Checkpoint {
    /// The event that says it, a line of JSON: about the log in `file`, where `chain` stands, made now.
    ///
    /// # Errors
    /// It is no JSON, which can not be.
    pub fn event(&self, chain: &Chain, file: &Path, host: &Host) -> serde_json::Result<Vec<u8>> {
        let activity = self.reason.activity();
        let path = SafeText::new(file.as_os_str().as_encoded_bytes());
        let mut line = serde_json::to_vec(&Event {
            time: now_ms(),
            class_uid: activity.class.uid,
            class_name: activity.class.name,
            category_uid: activity.category_uid(),
            activity_id: activity.id,
            activity_name: activity.name,
            type_uid: activity.type_uid(),
            severity_id: severity::INFORMATIONAL.0,
            severity: severity::INFORMATIONAL.1,
            status_id: status::SUCCESS.0,
            status: status::SUCCESS.1,
            message: self.reason.words(),
            log_name: "agent-guard audit log",
            log_provider: Product::SELF.name,
            log_type_id: 2,
            log_type: "Application",
            file: File::new(&path, File::REGULAR, 0),
            device: Device::linux(&host.name, &host.kernel, None),
            metadata: Metadata {
                version: VERSION,
                product: Product::SELF,
                profiles: ["host"],
                uid: format!("{}-{}", chain.id, chain.next),
                sequence: chain.next,
            },
            unmapped: Unmapped { agent_guard: Own { checkpoint: self } },
        })?;
        line.push(b'\n');
        Ok(line)
    }
}

impl Reason {
    fn activity(self) -> Activity {
        match self {
            Self::Start => Class::EVENT_LOG.activity(6, "Start"),
            Self::Rotation => Class::EVENT_LOG.activity(5, "Rotate"),
            Self::Stop => Class::EVENT_LOG.activity(7, "Stop"),
            Self::Interval | Self::Continued | Self::Key => {
                Class::EVENT_LOG.activity(99, "Checkpoint")
            }
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Start => "the audit log is written from here on",
            Self::Interval => "the audit log up to here is signed",
            Self::Rotation => "the audit log goes on in another file",
            Self::Continued => "the audit log goes on from an earlier file",
            Self::Key => "another key signs the audit log from here on",
            Self::Stop => "the audit log is not written any more",
        }
    }
}

/// The wall clock, which may jump: milliseconds since the Unix epoch.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
