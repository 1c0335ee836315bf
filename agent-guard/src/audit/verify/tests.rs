use std::{fs, io::Cursor};

use proptest::prelude::*;

use super::*;
use crate::audit::{Chain, fixture::Place as Log, lines::Lines};

fn lines(log: &[u8]) -> Vec<Vec<u8>> {
    log.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}

fn verify(log: &[u8], known: Known) -> Report {
    let mut verifier = Verifier::new(known);
    verifier.file("log".to_owned());
    let mut lines = Lines::new(Box::new(Cursor::new(log.to_vec())));
    while let Some(line) = lines.read_line().unwrap() {
        verifier.line(&line);
    }
    verifier.finish()
}

/// Kinds, lines and numbers.
fn found(report: &Report) -> Vec<(Kind, u64, Option<u64>)> {
    assert_eq!(report.intact, report.findings.is_empty());
    let all = report.findings.iter();
    all.map(|finding| (finding.kind, finding.place.line, finding.sequence)).collect()
}

fn findings(lines: &[Vec<u8>]) -> Vec<(Kind, u64, Option<u64>)> {
    found(&verify(&lines.concat(), Known::default()))
}

/// What is kept of a log elsewhere: its last checkpoint.
fn head(log: &[u8]) -> Kept {
    lines(log).iter().rev().find_map(|line| Kept::read(line)).unwrap()
}

#[test]
fn a_log_as_it_was_written_is_intact() {
    let log = Log::new().log(10);
    let report = verify(&log, Known::default());
    assert_eq!(found(&report), []);
    // Ten events; a checkpoint at the start, two after four events each, one at the end.
    assert_eq!((report.records, report.checkpoints), (14, 4));
    assert_eq!((report.first, report.last, report.signed_up_to), (Some(1), Some(14), Some(14)));
    assert!(!report.trusted);
    let known = Known { keys: report.keys.clone(), ..Known::default() };
    assert!(verify(&log, known).trusted);
}

#[test]
fn every_change_is_told_once_and_with_its_place() {
    let whole = lines(&Log::new().log(10));
    let changed = |change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut lines = whole.clone();
        change(&mut lines);
        findings(&lines)
    };
    let at = |kind, line, sequence| (kind, line, Some(sequence));
    assert_eq!(changed(&|log| log[4][30] ^= 1), [at(Kind::Altered, 5, 5)]);
    assert_eq!(changed(&|log| drop(log.remove(4))), [at(Kind::Missing, 5, 5)]);
    assert_eq!(changed(&|log| drop(log.drain(3..9))), [at(Kind::Missing, 4, 4)]);
    assert_eq!(
        changed(&|log| log.swap(4, 5)),
        [at(Kind::Missing, 5, 5), at(Kind::Misplaced, 6, 5)]
    );
    assert_eq!(changed(&|log| log.insert(5, log[4].clone())), [at(Kind::Misplaced, 6, 5)]);
    assert_eq!(changed(&|log| log.insert(5, b"{}\n".to_vec())), [(Kind::Inserted, 6, None)]);
    assert_eq!(
        changed(&|log| {
            let copy = log[2..8].to_vec();
            log.splice(9..9, copy);
        }),
        [at(Kind::Misplaced, 10, 3)]
    );
    assert_eq!(
        changed(&|log| {
            log.truncate(10);
            log[9].truncate(40);
        }),
        [at(Kind::Torn, 10, 10)]
    );
    assert_eq!(changed(&|log| log[0][30] ^= 1)[0], (Kind::Altered, 1, Some(1)));
    assert_eq!(changed(&|log| drop(log.remove(0))), [at(Kind::Missing, 1, 2)]);
    assert_eq!(changed(&Vec::clear), [(Kind::Unsigned, 0, None)]);
}

#[test]
fn a_record_that_was_made_anew_does_not_fit_the_next() {
    let mut lines = lines(&Log::new().log(10));
    // With all that can be made without the key.
    let chain = Chain::after(&lines[3]).unwrap();
    let event = Log::new().event();
    lines[4] = chain.seal(&event, None).unwrap().line;
    assert_eq!(findings(&lines), [(Kind::Replaced, 6, Some(6))]);
}

#[test]
fn a_log_that_was_written_anew_by_another_key_is_found_by_the_key_and_by_what_was_kept() {
    let (log, other) = (Log::new().log(10), Log::new().log(10));
    let known = |log: &[u8]| Known { keys: verify(log, Known::default()).keys, ..Known::default() };
    assert_eq!(found(&verify(&other, known(&other))), []);
    assert_eq!(found(&verify(&other, known(&log))), [(Kind::Key, 14, None)]);
    let kept = Known { expected: vec![head(&log)], ..Known::default() };
    let kinds: Vec<_> = found(&verify(&other, kept)).into_iter().map(|found| found.0).collect();
    assert_eq!(kinds, [Kind::Foreign, Kind::Expected, Kind::Unsigned]);
}

#[test]
fn an_end_that_was_cut_off_is_found_by_what_was_kept() {
    let log = Log::new().log(10);
    let mut cut = lines(&log);
    cut.truncate(8);
    assert_eq!(findings(&cut), []);
    let kept = Known { expected: vec![head(&log)], ..Known::default() };
    let report = verify(&cut.concat(), kept.clone());
    assert_eq!(found(&report), [(Kind::Expected, 8, Some(14))]);
    assert!(report.findings[0].text.contains("the log ends with record 8"));
    let report = verify(&log, kept);
    assert!(report.intact && report.trusted);
}

#[test]
fn a_log_may_begin_behind_a_checkpoint_that_is_named() {
    let log = Log::new().log(10);
    let whole = lines(&log);
    // The sixth line is the first checkpoint after the start.
    let since = Known { since: Kept::read(&whole[5]), ..Known::default() };
    assert_eq!(since.since.as_ref().unwrap().sequence, 6);
    for from in [0, 3, 5, 6] {
        let report = verify(&whole[from..].concat(), since.clone());
        assert_eq!(found(&report), [], "from line {from}");
        assert!(report.trusted);
    }
    let late = verify(&whole[7..].concat(), since.clone());
    assert_eq!(found(&late), [(Kind::Missing, 1, Some(8)), (Kind::Expected, 7, Some(6))]);
    let other = Log::new().log(10);
    assert!(!verify(&lines(&other)[6..].concat(), since).intact);
}

#[test]
fn a_signature_that_is_not_the_keys_is_found() {
    let mut lines = lines(&Log::new().log(10));
    let (one, other) = (lines[5].clone(), lines[10].clone());
    let signature = |line: &[u8]| {
        let text = str::from_utf8(line).unwrap();
        let (_, digits) = text.split_once("\"Ed25519\",\"algorithm_id\":99,\"value\":\"").unwrap();
        digits.split('"').next().unwrap().to_owned()
    };
    let text = String::from_utf8(one.clone()).unwrap();
    lines[5] = text.replace(&signature(&one), &signature(&other)).into_bytes();
    assert_eq!(findings(&lines), [(Kind::Signature, 6, Some(6))]);

    // A checkpoint whose signature was taken away is no record.
    let stripped = text.split(",\"signatures\"").next().unwrap().to_owned() + "}}}}\n";
    lines[5] = stripped.into_bytes();
    assert_eq!(findings(&lines), [(Kind::Altered, 6, Some(6))]);
}

#[test]
fn another_chain_is_told_of_once() {
    let (mut log, other) = (lines(&Log::new().log(10)), lines(&Log::new().log(3)));
    let count = other.len();
    log.splice(5..5, other);
    assert!(count > 3);
    assert_eq!(findings(&log), [(Kind::Foreign, 6, Some(1))]);
}

#[test]
fn findings_are_bounded_and_the_rest_is_counted() {
    let mut log = Log::new().log(2);
    for _ in 0..MAX_FINDINGS + 10 {
        log.extend_from_slice(b"x\n");
    }
    let report = verify(&log, Known::default());
    assert_eq!(report.findings.len(), MAX_FINDINGS);
    assert_eq!(report.findings.len() as u64 + report.more_findings, MAX_FINDINGS as u64 + 10);
}

#[test]
fn a_compressed_file_is_verified_and_a_damaged_one_is_found() {
    use std::io::Write as _;
    let mut log = Log::new();
    let bytes = log.log(10);
    let [file] = log.files().try_into().unwrap();
    let compressed = file.with_extension("jsonl.gz");
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&bytes).unwrap();
    let mut gzip = encoder.finish().unwrap();
    fs::remove_file(&file).unwrap();
    fs::write(&compressed, &gzip).unwrap();
    let report = log.verify();
    assert!(report.intact && report.records == 14, "{report:?}");
    let middle = gzip.len() / 2;
    gzip[middle] ^= 0x10;
    fs::write(&compressed, &gzip).unwrap();
    assert!(!log.verify().intact);
    gzip.truncate(middle);
    fs::write(&compressed, &gzip).unwrap();
    assert!(log.verify().findings.iter().any(|finding| finding.kind == Kind::Unreadable));
}

/// One change of a log.
#[derive(Clone, Debug)]
enum Change {
    Flip { byte: prop::sample::Index, bit: u8 },
    Remove(prop::sample::Index),
    Swap(prop::sample::Index, prop::sample::Index),
    Duplicate(prop::sample::Index, prop::sample::Index),
    Truncate(prop::sample::Index),
    Splice { at: prop::sample::Index, from: prop::sample::Index, many: usize },
    Insert(prop::sample::Index, Vec<u8>),
}

fn changes() -> impl Strategy<Value = Change> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        4 => (index(), 0_u8..8).prop_map(|(byte, bit)| Change::Flip { byte, bit }),
        1 => index().prop_map(Change::Remove),
        1 => (index(), index()).prop_map(|(one, other)| Change::Swap(one, other)),
        1 => (index(), index()).prop_map(|(what, to)| Change::Duplicate(what, to)),
        1 => index().prop_map(Change::Truncate),
        1 => (index(), index(), 1_usize..5)
            .prop_map(|(at, from, many)| Change::Splice { at, from, many }),
        1 => (index(), proptest::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(at, line)| Change::Insert(at, line)),
    ]
}

impl Change {
    /// Makes it, and returns the first line, from 1 on, where the log is not as it was.
    fn make(&self, log: &mut Vec<u8>, other: &[u8]) -> u64 {
        let before = log.clone();
        let mut all = lines(log);
        match self {
            Self::Flip { byte, bit } => {
                log[byte.index(before.len())] ^= 1 << bit;
                all = lines(log);
            }
            Self::Remove(line) => drop(all.remove(line.index(all.len()))),
            Self::Swap(one, other) => {
                all.swap(one.index(before_lines(&before)), other.index(before_lines(&before)))
            }
            Self::Duplicate(what, to) => {
                let line = all[what.index(all.len())].clone();
                all.insert(to.index(before_lines(&before) + 1), line);
            }
            Self::Truncate(at) => {
                log.truncate(at.index(before.len()));
                all = lines(log);
            }
            Self::Splice { at, from, many } => {
                let other = lines(other);
                let from = from.index(other.len());
                let piece = other[from..(from + many).min(other.len())].to_vec();
                let at = at.index(all.len() + 1);
                all.splice(at..at, piece);
            }
            Self::Insert(at, line) => {
                let line = [line.as_slice(), b"\n"].concat();
                all.insert(at.index(before_lines(&before) + 1), line);
            }
        }
        *log = all.concat();
        let before = lines(&before);
        let same = before.iter().zip(&all).take_while(|(before, after)| before == after).count();
        same as u64 + 1
    }
}

fn before_lines(log: &[u8]) -> usize {
    lines(log).len()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn any_single_change_is_found_where_it_is(change in changes()) {
        // The same for all cases: keys and logs are slow to make.
        static LOGS: std::sync::LazyLock<[Vec<u8>; 2]> =
            std::sync::LazyLock::new(|| [Log::new().log(12), Log::new().log(9)]);
        let [log, other] = &*LOGS;
        let mut changed = log.clone();
        let line = change.make(&mut changed, other);
        let known = Known { expected: vec![head(log)], ..Known::default() };
        let report = verify(&changed, known);
        if changed == *log {
            prop_assert!(report.intact);
            return Ok(());
        }
        prop_assert!(!report.intact, "{change:?}");
        let first = report.findings.iter().map(|finding| finding.place.line).min();
        // What was cut off at the end of a line is missed behind the last that is there.
        let end = lines(&changed).len() as u64;
        prop_assert_eq!(first, Some(line.min(end)), "{:?}: {:?}", change, report.findings);
    }
}
