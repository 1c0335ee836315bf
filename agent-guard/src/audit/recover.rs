//! What an earlier writer left: where the chain stands, and with which key it goes on.

use std::{io, path::PathBuf};

use super::{
    checkpoint::{Read, Torn},
    format::{Chain, Record},
    key::PublicKey,
    lines::{Line, Lines},
    segment::Segment,
};

/// What was found.
#[derive(Debug)]
pub enum Found {
    /// No record, but maybe half of one.
    Nothing(Option<Torn>),
    /// A chain that goes on.
    Chain {
        /// Where it stands.
        chain: Box<Chain>,
        /// The key that signs its next checkpoint.
        key: PublicKey,
        /// Half a line at the end of the last file.
        torn: Option<Torn>,
    },
    /// Files from which none can go on.
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// Looks through the newest files, up to one with a record and one with a checkpoint. Only the last record and
/// the last checkpoint are compared with their fingerprints: `audit verify` is for all of them.
///
/// # Errors
/// A file can not be read.
pub fn recover(segments: &[Segment]) -> io::Result<Found> {
    let mut torn = None;
    let mut chain: Option<Box<Chain>> = None;
    for (age, segment) in segments.iter().rev().enumerate() {
        let damaged = |why| Ok(Found::Damaged { file: segment.path.clone(), why });
        let tail = Tail::of(segment)?;
        match tail.torn {
            Some(left) if age == 0 => torn = Some(left),
            Some(_) => return damaged("it ends within a line"),
            None => {}
        }
        if let (None, Some(last)) = (&chain, &tail.last) {
            chain = Chain::after(last).map(Box::new);
            if chain.is_none() {
                return damaged("its last line is no record");
            }
        }
        if let (Some(chain), Some(signed)) = (chain.take_if(|_| tail.signed.is_some()), tail.signed)
        {
            let signer = Record::read(&signed).ok().and_then(|record| record.signer());
            let (Some(key), Some(read)) = (signer, Read::of(&signed)) else {
                return damaged("its last checkpoint is not as it was written");
            };
            let key = read.checkpoint().next_key.unwrap_or(key);
            return Ok(Found::Chain { chain, key, torn });
        }
    }
    match (chain, segments.first()) {
        (Some(_), Some(first)) => Ok(Found::Damaged {
            file: first.path.clone(),
            why: "no checkpoint is in it or after it",
        }),
        _ => Ok(Found::Nothing(torn)),
    }
}

/// What a file ends with.
#[derive(Default)]
struct Tail {
    /// The last whole line.
    last: Option<Vec<u8>>,
    /// The last that looks signed.
    signed: Option<Vec<u8>>,
    /// What comes behind the last newline.
    torn: Option<Torn>,
}

impl Tail {
    fn of(segment: &Segment) -> io::Result<Self> {
        let mut tail = Self::default();
        // One buffer for all of them: files are long.
        let mut last = Vec::new();
        let mut lines = Lines::open(&segment.path)?;
        while let Some(line) = lines.read_line()? {
            match line {
                Line::Whole(line) => {
                    last.clear();
                    last.extend_from_slice(line);
                    if Record::looks_signed(line) {
                        tail.signed = Some(line.to_vec());
                    }
                }
                Line::Torn(line) => {
                    // Where nothing but the newline is missing it is a record, once it has one.
                    let whole = [line, b"\n"].concat();
                    match Record::read(&whole) {
                        Ok(_) => last = whole,
                        Err(_) => tail.torn = Some(Torn::of(line)),
                    }
                }
                // No record, and the last line says so.
                Line::TooLong => last = vec![b'\n'],
            }
        }
        tail.last = (!last.is_empty()).then_some(last);
        Ok(tail)
    }
}
