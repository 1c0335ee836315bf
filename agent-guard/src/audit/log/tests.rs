use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::audit::{
    fixture::{Place, last_line},
    key::beside,
    verify::{Kept, Kind, Known},
};

fn refused(place: &Place, words: &[&str]) {
    let told = place.try_open().unwrap_err().to_string();
    assert!(words.iter().all(|word| told.contains(word)), "{told}");
}

#[test]
fn the_first_start_draws_a_key_for_its_owner_alone_and_writes_the_public_half_beside_it() {
    let place = Place::new();
    let log = place.open();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&place.settings.key), 0o600);
    assert_eq!(mode(&place.settings.directory), 0o700);
    assert_eq!(mode(log.path()), 0o600);
    let public = beside(&place.settings.key, "pub");
    assert_eq!(key::public(public.to_str().unwrap()).unwrap(), log.key());
    assert_eq!(key::public(&log.key().to_string()).unwrap(), log.key());
}

#[test]
fn a_chain_continues_over_restarts_and_files() {
    let mut place = Place::new();
    place.settings.rotate_bytes = 8_000;
    for _ in 0..3 {
        place.log(10);
    }
    assert!(place.files().len() > 3, "{:?}", place.files());
    let report = place.verify();
    assert!(report.intact, "{:?}", report.findings);
    assert_eq!((report.first, report.signed_up_to), (Some(1), report.last));
    // Each file begins with a checkpoint and ends with one.
    for file in place.files() {
        let text = fs::read(&file).unwrap();
        let first = text.split_inclusive(|byte| *byte == b'\n').next().unwrap();
        assert!(Kept::read(first).is_some() && Kept::read(&last_line(&file)).is_some());
    }
    // A file that is missing in the middle is.
    fs::remove_file(&place.files()[1]).unwrap();
    assert!(place.verify().findings.iter().any(|finding| finding.kind == Kind::Missing));
}

#[test]
fn half_a_line_of_a_writer_that_was_killed_is_fenced_off_and_told() {
    let mut place = Place::new();
    let mut log = place.open();
    place.append(&mut log, 3);
    // Killed: no end is written.
    drop(log);
    let [file] = place.files().try_into().unwrap();
    let whole = fs::read(&file).unwrap();
    let half = &whole[whole.len() - 300..whole.len() - 20];
    for torn in [half, b"\0\0\0", b"{"] {
        fs::write(&file, [&whole, torn].concat()).unwrap();
        assert_eq!(place.verify().findings[0].kind, Kind::Torn);
        place.log(2);
        let report = place.verify();
        assert!(report.intact, "{:?}", report.findings);
        let [note] = report.notes.as_slice() else { panic!("{:?}", report.notes) };
        assert!(note.text.contains(&format!("half a line of {} bytes", torn.len())));
        assert_eq!(note.place.line, 5);
        // Nothing was hidden: the bytes stand where they stood, and are held by the checkpoint's hash.
        let mut bytes = fs::read(&file).unwrap();
        bytes[whole.len()] ^= 1;
        fs::write(&file, bytes).unwrap();
        assert_eq!(place.verify().findings[0].kind, Kind::Inserted);
    }
}

#[test]
fn a_record_that_lacks_its_newline_alone_is_a_record() {
    let mut place = Place::new();
    place.log(3);
    let [file] = place.files().try_into().unwrap();
    let mut bytes = fs::read(&file).unwrap();
    bytes.pop();
    fs::write(&file, bytes).unwrap();
    place.log(1);
    let report = place.verify();
    assert!(report.intact && report.notes.is_empty(), "{report:?}");
}

#[test]
fn half_a_line_and_nothing_else_is_fenced_off_too() {
    let mut place = Place::new();
    fs::create_dir(&place.settings.directory).unwrap();
    fs::set_permissions(&place.settings.directory, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(segment::path(&place.settings.directory, 1), "{\"time\"").unwrap();
    place.log(1);
    let report = place.verify();
    assert!(report.intact && report.notes.len() == 1, "{report:?}");
}

#[test]
fn what_is_damaged_is_left_as_it_is_and_another_chain_begins() {
    let mut place = Place::new();
    place.log(3);
    let [file] = place.files().try_into().unwrap();
    let mut bytes = fs::read(&file).unwrap();
    let end = bytes.len() - 400;
    bytes[end] ^= 1;
    fs::write(&file, &bytes).unwrap();
    place.log(3);
    assert_eq!(fs::read(&file).unwrap(), bytes);
    let kinds: Vec<_> = place.verify().findings.iter().map(|finding| finding.kind).collect();
    assert_eq!(kinds, [Kind::Altered, Kind::Foreign]);
}

#[test]
fn a_log_has_one_writer() {
    let place = Place::new();
    let log = place.open();
    refused(&place, &["another process writes the audit log", "its own directory"]);
    drop(log);
    place.open();
}

#[test]
fn a_key_that_others_can_read_is_none() {
    let place = Place::new();
    drop(place.open());
    fs::set_permissions(&place.settings.key, fs::Permissions::from_mode(0o640)).unwrap();
    refused(&place, &["audit.key", "mode 640", "chmod 600"]);
}

#[test]
fn what_is_no_key_is_refused() {
    let place = Place::new();
    fs::write(&place.settings.key, "-----BEGIN PRIVATE KEY-----\n").unwrap();
    fs::set_permissions(&place.settings.key, fs::Permissions::from_mode(0o600)).unwrap();
    refused(&place, &["audit.key", "holds no Ed25519 private key", "keygen"]);
}

#[test]
fn without_the_key_of_a_log_no_other_one_is_drawn() {
    let mut place = Place::new();
    place.log(1);
    fs::remove_file(&place.settings.key).unwrap();
    refused(&place, &["audit.key is missing", "is signed by ed25519:", "move the log away"]);
    fs::remove_file(beside(&place.settings.key, "pub")).unwrap();
    key::create(&place.settings.key).unwrap();
    refused(&place, &["goes on with ed25519:", "audit.key.next"]);
    assert!(key::create(&place.settings.key).unwrap_err().to_string().contains("written over"));
}

#[test]
fn a_directory_that_others_may_write_to_holds_no_log() {
    let place = Place::new();
    fs::create_dir(&place.settings.directory).unwrap();
    fs::set_permissions(&place.settings.directory, fs::Permissions::from_mode(0o777)).unwrap();
    refused(&place, &["others than its writer", "mode 777", "chmod 700"]);
}

#[test]
fn a_key_follows_another_by_the_signature_of_the_old_one() {
    let mut place = Place::new();
    let mut log = place.open();
    let old = log.key();
    place.append(&mut log, 2);
    let waiting = beside(&place.settings.key, "next");
    let next = key::public_half(&key::create(&waiting).unwrap());
    log.reopen();
    assert_eq!(log.key(), next);
    assert!(!waiting.exists());
    let report = place.verify_with(Known { keys: vec![next], ..Known::default() });
    assert!(
        report.intact && report.trusted,
        "before anything else is signed: {:?}",
        report.findings
    );
    place.append(&mut log, 2);
    log.close().unwrap();
    drop(log);
    place.log(2);
    // Who trusts the old one trusts the new one, and who trusts the new one what it has taken over.
    for key in [old, next] {
        let report = place.verify_with(Known { keys: vec![key], ..Known::default() });
        assert!(report.intact && report.trusted, "{:?}", report.findings);
        assert_eq!(report.keys, [old, next]);
    }
}

#[test]
fn a_writer_that_died_between_two_keys_goes_on_with_the_new_one() {
    let mut place = Place::new();
    let mut log = place.open();
    place.append(&mut log, 1);
    let waiting = beside(&place.settings.key, "next");
    let next = key::create(&waiting).unwrap();
    log.checkpoint(Reason::Key, None, Some(key::public_half(&next))).unwrap();
    drop(log);
    let mut log = place.open();
    assert_eq!(log.key(), key::public_half(&next));
    assert!(!waiting.exists());
    log.close().unwrap();
    assert!(place.verify().intact);
}

#[test]
fn a_record_waits_for_its_checkpoint_no_longer_than_is_set() {
    let mut place = Place::new();
    let mut log = place.open();
    let start = Instant::now();
    assert_eq!(log.due(), None);
    log.append(&place.event(), start).unwrap();
    log.append(&place.event(), start + Duration::from_secs(30)).unwrap();
    assert_eq!(log.due(), Some(start + Duration::from_secs(60)));
    log.tick(start + Duration::from_secs(59));
    assert_eq!(place.verify().signed_up_to, Some(1));
    log.tick(start + Duration::from_secs(60));
    assert_eq!((log.due(), place.verify().signed_up_to), (None, Some(4)));
}

#[test]
fn a_clock_that_goes_back_is_noted_and_breaks_nothing() {
    let place = Place::new();
    let mut log = place.open();
    let checkpoint =
        Checkpoint { reason: Reason::Interval, records: 0, next_key: None, torn: None };
    let event = checkpoint.event(&log.chain, &log.path, &log.host).unwrap();
    let event = String::from_utf8(event).unwrap();
    // 1970.
    let (_, rest) = event.split_once(',').unwrap();
    let sealed =
        log.chain.seal(format!("{{\"time\":1000,{rest}").as_bytes(), Some(&log.key)).unwrap();
    log.sink.write_line(&sealed.line).unwrap();
    log.chain = sealed.chain;
    log.close().unwrap();
    let report = place.verify();
    assert!(report.intact, "{:?}", report.findings);
    assert!(report.notes[0].text.starts_with("the clock had gone back by"), "{:?}", report.notes);
    assert_eq!(report.notes[0].place.line, 2);
}

#[test]
fn a_file_that_was_moved_away_is_ended_and_the_next_begins() {
    let mut place = Place::new();
    let mut log = place.open();
    place.append(&mut log, 1);
    let moved = place.settings.directory.join("moved");
    fs::rename(log.path(), &moved).unwrap();
    log.reopen();
    place.append(&mut log, 1);
    log.close().unwrap();
    let files = [moved, place.settings.directory.clone()];
    let files = crate::audit::verify::Files::of(&files).unwrap();
    let report = crate::audit::verify::verify(&files, Known::default()).unwrap();
    assert!(report.intact, "{:?}", report.findings);
}

#[test]
fn what_is_no_event_is_refused_and_leaves_no_trace() {
    let mut place = Place::new();
    let mut log = place.open();
    let before = place.bytes();
    let long = format!("{{\"x\":\"{}\",\"a\":{{\"b\":{{}}}}\n", "x".repeat(crate::audit::MAX_LINE));
    for line in ["", "\n", "{}\n", "{\"a\":{\"b\":{}}}\n", "{\n\"a\":{\"b\":{}}}\n", &long] {
        let refusal = log.append(line.as_bytes(), Instant::now()).unwrap_err();
        assert!(matches!(refusal, AppendError::Event(_)), "{refusal}");
    }
    assert_eq!(place.bytes(), before);
    place.append(&mut log, 1);
}
