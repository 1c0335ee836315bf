//! A record as it stands in the file: which of its bytes are hashed, and what is signed.
//!
//! `docs/audit.md` specifies every byte of it for whoever verifies a log by other means.

use std::{borrow::Cow, fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use ed25519_dalek::{SIGNATURE_LENGTH, Signature, Signer as _, SigningKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::key::{PublicKey, public_half};
use crate::bytes::hexadecimal;

/// Longest line, bytes with its newline: some ten times an event with the longest names.
pub const MAX_LINE: usize = 1 << 20;

/// Longest `metadata.uid`, bytes: three times what events have.
const MAX_UID: usize = 192;

/// Longest [`Link`], bytes: twice that of a checkpoint whose uid is as long as it may be, with escapes.
const MAX_LINK: usize = 4096;

/// How an event ends: `agent_guard`, `unmapped` and the event itself.
const EVENT_END: &[u8] = b"}}}\n";
const LINK: &[u8] = br#","record_integrity":{"#;
const FINGERPRINT: &[u8] = br#","fingerprint":{"algorithm":"SHA-256","algorithm_id":3,"value":""#;
const FINGERPRINT_END: &[u8] = br#""}"#;
const SIGNATURE: &[u8] = br#","signatures":[{"algorithm":"Ed25519","algorithm_id":99,"value":""#;
const SIGNATURE_END: &[u8] = br#""}]"#;
/// How a record ends: `record_integrity`, and what an event ends with.
const RECORD_END: &[u8] = b"}}}}\n";

/// Digits of a signature in Base64.
const SIGNATURE_DIGITS: usize = SIGNATURE_LENGTH.div_ceil(3) * 4;

/// What stands before the fingerprint in what is signed: no other use of the key signs the same.
const SIGNED: &[u8] = b"agent-guard audit checkpoint v1 ";

/// SHA-256 of a record: of its line, up to where the fingerprint itself begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// What a key signs for it.
    fn signed(&self) -> Vec<u8> {
        [SIGNED, self.to_string().as_bytes()].concat()
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hexadecimal(&self.0))
    }
}

impl FromStr for Fingerprint {
    type Err = ();

    fn from_str(digits: &str) -> Result<Self, ()> {
        from_hexadecimal(digits).map(Self).ok_or(())
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let digits = Cow::<str>::deserialize(deserializer)?;
        digits.parse().map_err(|()| D::Error::custom("no 64 hexadecimal digits"))
    }
}

/// Bytes from lower-case hexadecimal digits, of which there is one way to write them.
pub(super) fn from_hexadecimal<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = nibble(*high)? << 4 | nibble(*low)?;
    }
    Some(bytes)
}

/// The name of a chain: 32 hexadecimal digits, drawn when it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainId(pub(super) [u8; 16]);

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hexadecimal(&self.0))
    }
}

impl Serialize for ChainId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A record's place in its chain: `record_integrity` without fingerprint and signature, in the shape of an
/// attestation of OCSF 1.9.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Link<'a> {
    #[serde(borrow)]
    chain_uid: Cow<'a, str>,
    #[serde(borrow)]
    uid: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authority_uid: Option<PublicKey>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    prev_event: Option<PrevEvent<'a>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PrevEvent<'a> {
    #[serde(borrow)]
    uid: Cow<'a, str>,
    type_uid: u64,
    #[serde(borrow)]
    fingerprint: FingerprintObject<'a>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FingerprintObject<'a> {
    algorithm: Cow<'a, str>,
    algorithm_id: u8,
    value: Fingerprint,
}

/// What a record says of the one before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Previous {
    /// Its `metadata.uid`.
    pub uid: String,
    /// Its `type_uid`.
    pub type_uid: u64,
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
}

/// Where a chain stands: what the next record will say of its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub id: ChainId,
    /// The number of the next record, from 1 on.
    pub next: u64,
    /// The last record; none where the chain has not begun.
    pub last: Option<Previous>,
}

/// An event that has become a record of a chain.
#[derive(Debug)]
pub struct Sealed {
    /// The line, with its newline.
    pub line: Vec<u8>,
    /// The chain with it.
    pub chain: Chain,
}

/// An event that can not become a record.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum NotAnEvent {
    /// Its form is not that of an event of this guard.
    #[error("the line is no event: one line of OCSF JSON that ends with `unmapped.agent_guard`")]
    Form,
    /// It is longer than any event.
    #[error("the event is longer than a record may be: {0} of {MAX_LINE} bytes")]
    TooLong(usize),
}

#[derive(Deserialize)]
struct Identity<'a> {
    type_uid: u64,
    #[serde(borrow)]
    metadata: Metadata<'a>,
}

#[derive(Deserialize)]
struct Metadata<'a> {
    #[serde(borrow)]
    uid: Cow<'a, str>,
}

impl Chain {
    /// A chain that has not begun.
    #[must_use]
    pub fn new(id: ChainId) -> Self {
        Self { id, next: 1, last: None }
    }

    /// The chain that the record in this line was the last of; none where it is no record.
    #[must_use]
    pub fn after(line: &[u8]) -> Option<Self> {
        let record = Record::read(line).ok()?;
        let identity: Identity<'_> = serde_json::from_slice(line).ok()?;
        let last = Previous {
            uid: identity.metadata.uid.into_owned(),
            type_uid: identity.type_uid,
            fingerprint: record.fingerprint,
        };
        let next = record.sequence.saturating_add(1);
        Some(Self { id: record.chain, next, last: Some(last) })
    }

    /// Makes `event`, a line of OCSF JSON, the next record; signed where a key is given.
    ///
    /// # Errors
    /// It is no event.
    pub fn seal(&self, event: &[u8], key: Option<&SigningKey>) -> Result<Sealed, NotAnEvent> {
        let stem = event.strip_suffix(EVENT_END).ok_or(NotAnEvent::Form)?;
        if stem.contains(&b'\n') {
            return Err(NotAnEvent::Form);
        }
        let identity: Identity<'_> = serde_json::from_slice(event).map_err(|_| NotAnEvent::Form)?;
        if identity.metadata.uid.len() > MAX_UID {
            return Err(NotAnEvent::Form);
        }
        let link = Link {
            chain_uid: self.id.to_string().into(),
            uid: format!("{}-{}", self.id, self.next).into(),
            authority_uid: key.map(public_half),
            prev_event: self.last.as_ref().map(|last| PrevEvent {
                uid: last.uid.as_str().into(),
                type_uid: last.type_uid,
                fingerprint: FingerprintObject {
                    algorithm: "SHA-256".into(),
                    algorithm_id: 3,
                    value: last.fingerprint,
                },
            }),
        };
        let link = serde_json::to_vec(&link).map_err(|_| NotAnEvent::Form)?;
        // Without its braces: the one stands in the constant, the other comes last.
        let link = link.get(1..link.len().saturating_sub(1)).unwrap_or_default();
        let mut line = [stem, LINK, link].concat();
        let fingerprint = Fingerprint::of(&line);
        line.extend_from_slice(FINGERPRINT);
        line.extend_from_slice(fingerprint.to_string().as_bytes());
        line.extend_from_slice(FINGERPRINT_END);
        if let Some(key) = key {
            let signature = key.sign(&fingerprint.signed());
            line.extend_from_slice(SIGNATURE);
            line.extend_from_slice(BASE64.encode(signature.to_bytes()).as_bytes());
            line.extend_from_slice(SIGNATURE_END);
        }
        line.extend_from_slice(RECORD_END);
        if line.len() > MAX_LINE {
            return Err(NotAnEvent::TooLong(line.len()));
        }
        let last = Previous {
            uid: identity.metadata.uid.into_owned(),
            type_uid: identity.type_uid,
            fingerprint,
        };
        let chain = Self { id: self.id, next: self.next.saturating_add(1), last: Some(last) };
        Ok(Sealed { line, chain })
    }
}

/// A record, as it was read.
#[derive(Debug)]
pub struct Record {
    /// The chain that it is of.
    pub chain: ChainId,
    /// Its number in it.
    pub sequence: u64,
    /// The fingerprint of the one before; none in the first.
    pub previous: Option<Fingerprint>,
    /// Its own, which is that of its bytes.
    pub fingerprint: Fingerprint,
    /// Who signed it, and how, where it is a checkpoint.
    pub signature: Option<(PublicKey, Signature)>,
}

impl Record {
    /// Whether a line has the end of a signed record, by which checkpoints are found quickly.
    #[must_use]
    pub fn looks_signed(line: &[u8]) -> bool {
        line.strip_suffix(RECORD_END).is_some_and(|line| line.ends_with(SIGNATURE_END))
    }

    /// The key that signed it, where it is a checkpoint and the signature is that key's.
    #[must_use]
    pub fn signer(&self) -> Option<PublicKey> {
        let (key, signature) = self.signature.as_ref()?;
        key.0.verify_strict(&self.fingerprint.signed(), signature).ok().map(|()| *key)
    }
}

/// A line that is no record as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// It has not the form of a record.
    Form,
    /// Its bytes are not those of its fingerprint. The number is the one that it claims.
    Altered(Option<u64>),
}

impl Record {
    /// Reads a line, with its newline. Its signature is not verified.
    ///
    /// # Errors
    /// It is no record, or was altered.
    pub fn read(line: &[u8]) -> Result<Self, Broken> {
        let (body, value, signature) = split(line).ok_or(Broken::Form)?;
        let at = body.len().saturating_sub(MAX_LINK);
        let link = body.get(at..).unwrap_or_default();
        let link = link.windows(LINK.len()).rposition(|window| window == LINK).and_then(|found| {
            let link = link.get(found + LINK.len() - 1..)?;
            Some([link, b"}"].concat())
        });
        let link = link.as_deref().and_then(read_link);
        if Fingerprint::of(body) != value {
            return Err(Broken::Altered(link.map(|link| link.1)));
        }
        let ((chain, key, previous), sequence) = link.ok_or(Broken::Form)?;
        // Who signed stands in what is signed: both are there, or neither.
        let signature = match (key, signature) {
            (Some(key), Some(signature)) => Some((key, signature)),
            (None, None) => None,
            _ => return Err(Broken::Form),
        };
        Ok(Self { chain, sequence, previous, fingerprint: value, signature })
    }
}

/// The bytes that are hashed, the fingerprint, and the signature.
fn split(line: &[u8]) -> Option<(&[u8], Fingerprint, Option<Signature>)> {
    let line = line.strip_suffix(RECORD_END)?;
    let (line, signature) = match line.strip_suffix(SIGNATURE_END) {
        None => (line, None),
        Some(line) => {
            let (line, digits) =
                line.split_at_checked(line.len().checked_sub(SIGNATURE_DIGITS)?)?;
            let bytes: [u8; SIGNATURE_LENGTH] = BASE64.decode(digits).ok()?.try_into().ok()?;
            (line.strip_suffix(SIGNATURE)?, Some(Signature::from_bytes(&bytes)))
        }
    };
    let line = line.strip_suffix(FINGERPRINT_END)?;
    let (line, digits) = line.split_at_checked(line.len().checked_sub(64)?)?;
    let value = str::from_utf8(digits).ok()?.parse().ok()?;
    Some((line.strip_suffix(FINGERPRINT)?, value, signature))
}

type Place = (ChainId, Option<PublicKey>, Option<Fingerprint>);

fn read_link(json: &[u8]) -> Option<(Place, u64)> {
    let link: Link<'_> = serde_json::from_slice(json).ok()?;
    let chain = ChainId(from_hexadecimal(&link.chain_uid)?);
    let number = link.uid.strip_prefix(&*link.chain_uid)?.strip_prefix('-')?;
    let sequence: u64 = number.parse().ok()?;
    // One way to write it, and 0 is none.
    if sequence == 0 || number != sequence.to_string() {
        return None;
    }
    let previous = match link.prev_event {
        Some(prev) if prev.fingerprint.algorithm_id != 3 => return None,
        prev => prev.map(|prev| prev.fingerprint.value),
    };
    Some(((chain, link.authority_uid, previous), sequence))
}
