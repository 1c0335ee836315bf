//! Reads a log from its first line to its last, and tells every place where it is not as it was written.
//!
//! One pass, one line in memory. After a finding it goes on from the record that it has, so that one change is
//! told once and what comes behind it is still verified.

mod report;
mod run;
#[cfg(test)]
mod tests;

use super::{
    checkpoint::{Read, Torn},
    format::{Broken, ChainId, Fingerprint, Record},
    key::PublicKey,
    lines::Line,
};
pub use report::{Finding, Kind, MAX_FINDINGS, Note, Place, Report};
pub use run::{Files, FilesError, verify};

/// A checkpoint that was kept elsewhere.
#[derive(Clone, Debug)]
pub struct Kept {
    chain: ChainId,
    sequence: u64,
    fingerprint: Fingerprint,
    /// Who signed it.
    pub key: PublicKey,
}

impl Kept {
    /// The checkpoint in this line; none where it is none, or its signature is wrong.
    #[must_use]
    pub fn read(line: &[u8]) -> Option<Self> {
        let record = Record::read(line).ok()?;
        let key = record.signer()?;
        Some(Self {
            chain: record.chain,
            sequence: record.sequence,
            fingerprint: record.fingerprint,
            key,
        })
    }
}

/// What is known of a log from elsewhere.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Keys that are trusted.
    pub keys: Vec<PublicKey>,
    /// A checkpoint that the log may begin at, or right behind.
    pub since: Option<Kept>,
    /// Checkpoints that have to be in it.
    pub expected: Vec<Kept>,
}

/// A record that others are compared with.
#[derive(Clone, Copy)]
struct Last {
    sequence: u64,
    fingerprint: Fingerprint,
}

/// A line that is no record, until the next record tells what it comes to.
struct Pending {
    place: Place,
    claims: Option<u64>,
    /// Its bytes, without its newline; none where it was too long.
    bytes: Option<Torn>,
    ends: bool,
}

/// Records that stand where they do not belong, one behind the other.
struct Stray {
    chain: ChainId,
    first: u64,
    last: u64,
    from: Place,
    to: Place,
}

/// Verifies lines, in the order of the log.
pub struct Verifier {
    report: Report,
    known: Known,
    /// Which of `known.expected` were not met.
    unmet: Vec<Kept>,
    place: Place,
    last: Option<Last>,
    /// Where `last` stands.
    last_place: Place,
    key: Option<PublicKey>,
    pending: Vec<Pending>,
    stray: Option<Stray>,
}

impl Verifier {
    /// Begins.
    #[must_use]
    pub fn new(known: Known) -> Self {
        let unmet = known.expected.iter().chain(&known.since).cloned().collect();
        // What is kept elsewhere says which chain is meant.
        let chain = known.since.iter().chain(&known.expected).map(|kept| kept.chain).next();
        Self {
            report: Report { chain, ..Report::default() },
            known,
            unmet,
            place: Place::default(),
            last: None,
            last_place: Place::default(),
            key: None,
            pending: Vec::new(),
            stray: None,
        }
    }

    /// The lines from here on are those of another file.
    pub fn file(&mut self, name: String) {
        self.place = Place { file: name, line: 0 };
    }

    /// The file can not be read on.
    pub fn unreadable(&mut self, why: &str) {
        let text = format!("the file can not be read on behind this line: {why}");
        self.report.find(Kind::Unreadable, self.place.clone(), None, text);
    }

    /// The next line.
    pub fn line(&mut self, line: &Line<'_>) {
        self.place.line += 1;
        let (bytes, ends) = match line {
            Line::Whole(bytes) => (Some(*bytes), true),
            Line::Torn(bytes) => (Some(*bytes), false),
            Line::TooLong => (None, true),
        };
        match bytes.filter(|_| ends).map(|bytes| (bytes, Record::read(bytes))) {
            Some((bytes, Ok(record))) => self.record(&record, bytes),
            broken => {
                let claims = match broken {
                    Some((_, Err(Broken::Altered(claims)))) => claims,
                    _ => None,
                };
                self.end_stray();
                // Beyond what is told one by one they all are what the first are.
                if self.pending.len() > MAX_FINDINGS {
                    self.report.more_findings += 1;
                    return;
                }
                let bytes = bytes.map(|bytes| Torn::of(bytes.strip_suffix(b"\n").unwrap_or(bytes)));
                self.pending.push(Pending { place: self.place.clone(), claims, bytes, ends });
            }
        }
    }

    /// Ends.
    #[must_use]
    pub fn finish(mut self) -> Report {
        self.end_stray();
        let next = self.last.map(|last| last.sequence.saturating_add(1));
        self.broken(next);
        let end = self.place.clone();
        for kept in std::mem::take(&mut self.unmet) {
            let text = match self.report.last {
                Some(last) if last < kept.sequence => format!(
                    "the log ends with record {last}, and the checkpoint {} that is kept elsewhere is not in \
                     it: its end is missing",
                    kept.sequence
                ),
                _ => format!(
                    "the checkpoint {} that is kept elsewhere is not in the log",
                    kept.sequence
                ),
            };
            self.report.find(Kind::Expected, end.clone(), Some(kept.sequence), text);
        }
        match (self.report.records, self.report.checkpoints) {
            (0, _) => {
                let text = "no record is in it".to_owned();
                self.report.find(Kind::Unsigned, end.clone(), None, text);
            }
            (_, 0) => {
                let text = "no checkpoint is in it: nobody answers for a single record".to_owned();
                self.report.find(Kind::Unsigned, end.clone(), None, text);
            }
            _ => {}
        }
        let trusted: Vec<&PublicKey> = self
            .known
            .keys
            .iter()
            .chain(self.known.since.iter().chain(&self.known.expected).map(|kept| &kept.key))
            .collect();
        self.report.trusted = self.report.keys.iter().any(|key| trusted.contains(&key));
        if !trusted.is_empty() && !self.report.trusted && !self.report.keys.is_empty() {
            let keys: Vec<String> = self.report.keys.iter().map(PublicKey::to_string).collect();
            let text = format!("it is signed by {}, which is not trusted", keys.join(", "));
            self.report.find(Kind::Key, end, None, text);
        }
        self.report.intact = self.report.findings.is_empty();
        self.report
    }

    fn record(&mut self, record: &Record, line: &[u8]) {
        let chain = *self.report.chain.get_or_insert(record.chain);
        if chain != record.chain {
            return self.stray(record);
        }
        let Record { sequence, fingerprint, .. } = *record;
        let due = self.last.map(|last| last.sequence.saturating_add(1));
        if due.is_some_and(|due| sequence < due) {
            return self.stray(record);
        }
        self.end_stray();
        let goes_on = record.previous == self.last.map(|last| last.fingerprint);
        let read = record.signature.is_some().then(|| Read::of(line)).flatten();
        match due {
            None => self.begin(record, read.as_ref()),
            Some(due) if due == sequence && goes_on => self.between(read.as_ref()),
            Some(due) if due == sequence => {
                self.broken(None);
                let text = format!(
                    "record {sequence} goes on from another record than the one at {}: one of the two was \
                     replaced",
                    self.last_place
                );
                self.report.find(Kind::Replaced, self.place.clone(), Some(sequence), text);
            }
            Some(due) => self.gap(due, sequence),
        }
        self.meet(sequence, fingerprint);
        self.last = Some(Last { sequence, fingerprint });
        self.last_place.clone_from(&self.place);
        self.report.records += 1;
        self.report.first.get_or_insert(sequence);
        self.report.last = Some(sequence);
        if record.signature.is_some() {
            self.signed(record, read.as_ref());
        }
    }

    /// The first record that is there.
    fn begin(&mut self, record: &Record, read: Option<&Read>) {
        let sequence = record.sequence;
        if sequence == 1 && record.previous.is_none() && read.is_some() {
            return self.between(read);
        }
        self.broken(None);
        let since = self.known.since.as_ref();
        let behind = since.is_some_and(|since| {
            since.sequence.checked_add(1) == Some(sequence)
                && record.previous == Some(since.fingerprint)
        });
        if behind {
            let met = self.known.since.as_ref().map(|since| since.fingerprint);
            return self.unmet.retain(|kept| Some(kept.fingerprint) != met);
        }
        if since.is_some_and(|since| sequence <= since.sequence) {
            // Whether that one comes is asked where all that is expected is.
            return;
        }
        let (kind, text) = match sequence {
            1 => (Kind::Unsigned, "the chain does not begin with a signed checkpoint".to_owned()),
            _ => (
                Kind::Missing,
                format!(
                    "the log begins with record {sequence}: the {} before it are not there. Where they were \
                     taken away on purpose, name the last checkpoint before it, or its own first one, by --since",
                    sequence - 1
                ),
            ),
        };
        self.report.find(kind, self.place.clone(), Some(sequence), text);
    }

    /// Two records that belong together: what stood between them was inserted, or is half a line that the second
    /// tells of.
    fn between(&mut self, read: Option<&Read>) {
        let fenced = read.and_then(|read| read.checkpoint().torn);
        if let (Some(torn), [pending]) = (fenced, self.pending.as_slice())
            && pending.bytes == Some(torn)
        {
            let text = format!(
                "half a line of {} bytes, left by a writer that was killed, and told of by the checkpoint behind it",
                torn.bytes
            );
            self.report.note(pending.place.clone(), text);
            self.pending.clear();
        }
        for pending in std::mem::take(&mut self.pending) {
            let text =
                "this line is no record of the log: it was put between two that belong together";
            self.report.find(Kind::Inserted, pending.place, None, text.to_owned());
        }
    }

    /// Numbers that are due and do not come.
    fn gap(&mut self, due: u64, found: u64) {
        let missing = found.saturating_sub(due);
        let altered = u64::try_from(self.pending.len()).unwrap_or(u64::MAX);
        self.broken((altered <= missing).then_some(due));
        if altered >= missing {
            return;
        }
        let (first, last) = (due.saturating_add(altered), found.saturating_sub(1));
        let text = match altered {
            0 if first == last => format!("record {first}, which was before this line, is missing"),
            0 => format!("records {first} to {last}, which were before this line, are missing"),
            _ => format!(
                "of records {due} to {last}, which were before this line, {} are missing and the rest is altered",
                missing - altered
            ),
        };
        self.report.find(Kind::Missing, self.place.clone(), Some(first), text);
    }

    /// Tells of the lines that are no records; they stand where those from `due` on do, where that is known.
    fn broken(&mut self, due: Option<u64>) {
        for (pending, age) in std::mem::take(&mut self.pending).into_iter().zip(0_u64..) {
            let sequence = due.map(|due| due.saturating_add(age)).or(pending.claims);
            let (kind, text) = match (&pending.bytes, pending.ends) {
                (_, false) => (Kind::Torn, "the file ends within this line"),
                (None, _) => (Kind::Altered, "the line is longer than a record may be"),
                _ => (Kind::Altered, "the line is not as it was written"),
            };
            self.report.find(kind, pending.place, sequence, text.to_owned());
        }
    }

    /// A record that does not belong here. Those in a row are told of together.
    fn stray(&mut self, record: &Record) {
        self.broken(None);
        let sequence = record.sequence;
        if let Some(stray) = &mut self.stray
            && stray.chain == record.chain
            && stray.last.checked_add(1) == Some(sequence)
            && stray.to.file == self.place.file
        {
            stray.last = sequence;
            stray.to.clone_from(&self.place);
            return;
        }
        self.end_stray();
        self.stray = Some(Stray {
            chain: record.chain,
            first: sequence,
            last: sequence,
            from: self.place.clone(),
            to: self.place.clone(),
        });
    }

    fn end_stray(&mut self) {
        let Some(Stray { chain, first, last, from, to }) = self.stray.take() else { return };
        let what = match first == last {
            true => format!("record {first}"),
            false => format!("records {first} to {last}, down to line {},", to.line),
        };
        let (kind, text) = match self.report.chain == Some(chain) {
            true => {
                (Kind::Misplaced, format!("{what} does not belong here: moved, or there twice"))
            }
            false => (Kind::Foreign, format!("{what} of another chain, {chain}")),
        };
        self.report.find(kind, from, Some(first), text);
    }

    fn meet(&mut self, sequence: u64, fingerprint: Fingerprint) {
        if self.unmet.is_empty() {
            return;
        }
        let chain = self.report.chain;
        self.unmet.retain(|kept| {
            (kept.sequence, kept.fingerprint) != (sequence, fingerprint)
                || Some(kept.chain) != chain
        });
    }

    fn signed(&mut self, record: &Record, read: Option<&Read>) {
        let Some((key, _)) = record.signature else { return };
        let (place, sequence) = (self.place.clone(), Some(record.sequence));
        let Some(read) = read.filter(|_| record.signer().is_some()) else {
            let text = format!("the signature is not one of {key}, or of no checkpoint");
            return self.report.find(Kind::Signature, place, sequence, text);
        };
        let due = self.key.replace(read.checkpoint().next_key.unwrap_or(key));
        if let Some(due) = due.filter(|due| *due != key) {
            let text =
                format!("it is signed by {key}, and {due}, which was due, named no such successor");
            return self.report.find(Kind::Key, place, sequence, text);
        }
        if let Some(before) = self.report.signed_at.filter(|before| *before > read.time) {
            let text = format!(
                "the clock had gone back by {} ms since the checkpoint before",
                before - read.time
            );
            self.report.note(place, text);
        }
        if !self.report.keys.contains(&key) {
            self.report.keys.push(key);
        }
        self.report.checkpoints += 1;
        self.report.signed_up_to = sequence;
        self.report.signed_at = Some(read.time);
    }
}
