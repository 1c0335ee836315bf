use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const ROOM: u64 = 64 << 20;

fn entry(number: u64) -> Entry {
    Entry { line: format!("{{\"n\":{number}}}\n").into(), tells: 0 }
}

fn entries(numbers: std::ops::Range<u64>) -> Vec<Entry> {
    numbers.map(entry).collect()
}

/// Entries of 4 KiB: 256 of them fill a file.
fn large(numbers: std::ops::Range<u64>) -> Vec<Entry> {
    let pad = "x".repeat(4096 - HEADER);
    numbers
        .map(|number| Entry { line: format!("{number:08}{}", &pad[8..]).into(), tells: 0 })
        .collect()
}

fn open(dir: &TempDir) -> (Spool, u64) {
    Spool::open(&dir.path().join("spool"), ROOM).unwrap()
}

fn files(dir: &TempDir) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir.path().join("spool"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| !path.ends_with(POSITION))
        .collect();
    files.sort();
    files
}

/// Takes everything out, some at a time.
fn drain(spool: &mut Spool) -> (Vec<Entry>, u64) {
    let (mut all, mut lost) = (Vec::new(), 0);
    while !spool.is_empty() {
        let (some, missing) = spool.peek(100, usize::MAX).unwrap();
        lost += missing;
        spool.forget(some.len() as u64).unwrap();
        all.extend(some);
    }
    (all, lost)
}

#[test]
fn entries_come_out_in_order_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, lost) = open(&dir);
    assert_eq!((spool.is_empty(), lost), (true, 0));
    spool.append(&entries(0..3)).unwrap();
    spool.append(&[Entry { tells: 7, ..entry(3) }]).unwrap();
    assert_eq!(spool.peek(2, usize::MAX).unwrap(), (entries(0..2), 0));
    spool.forget(1).unwrap();
    spool.append(&entries(4..6)).unwrap();
    assert_eq!(spool.peek(9, 0).unwrap().0, entries(1..2), "one however large it is");
    assert_eq!(spool.len(), 5);
    let (rest, lost) = drain(&mut spool);
    assert_eq!((rest.len(), rest[2].tells, lost), (5, 7, 0));
    assert_eq!((files(&dir).len(), spool.bytes()), (0, 0));
    spool.append(&entries(6..7)).unwrap();
    assert_eq!(drain(&mut spool).0, entries(6..7));
}

#[test]
fn it_goes_on_where_the_last_one_stopped() {
    let dir = tempfile::tempdir().unwrap();
    for step in 0..4 {
        let (mut spool, lost) = open(&dir);
        assert_eq!((spool.len(), lost), (step * 200, 0));
        spool.append(&large(step * 300..step * 300 + 300)).unwrap();
        assert_eq!(spool.peek(100, usize::MAX).unwrap().0, large(step * 100..step * 100 + 100));
        spool.forget(100).unwrap();
    }
    let (mut spool, _) = open(&dir);
    assert_eq!(drain(&mut spool), (large(400..1200), 0));
}

#[test]
fn room_is_bounded_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, _) = Spool::open(&dir.path().join("spool"), 3 * SEGMENT).unwrap();
    for at in 0..12 {
        assert_eq!(
            spool.room_for(&large(0..100)),
            if at < 7 { 100 } else { (768 - at * 64).min(100) as usize }
        );
        spool.append(&large(at * 64..at * 64 + 64)).unwrap();
    }
    assert_eq!((spool.bytes(), spool.room_for(&entries(0..1))), (3 * SEGMENT, 0));
    assert_eq!(files(&dir).len(), 3);
    spool.forget(256).unwrap();
    assert_eq!((spool.bytes(), files(&dir).len()), (2 * SEGMENT, 2));
    assert_eq!(spool.room_for(&large(0..300)), 256);
}

#[test]
fn what_a_crash_has_torn_is_found_and_the_rest_is_whole() {
    for cut in 1..HEADER as u64 + 8 {
        let dir = tempfile::tempdir().unwrap();
        let (mut spool, _) = open(&dir);
        spool.append(&entries(0..3)).unwrap();
        drop(spool);
        let file = OpenOptions::new().write(true).open(&files(&dir)[0]).unwrap();
        file.set_len(file.metadata().unwrap().len() - cut).unwrap();
        let (mut spool, lost) = open(&dir);
        assert_eq!((spool.len(), lost), (2, 1), "{cut} bytes");
        spool.append(&entries(8..9)).unwrap();
        drop(spool);
        assert_eq!(drain(&mut open(&dir).0), ([entries(0..2), entries(8..9)].concat(), 0));
    }
}

#[test]
fn what_is_corrupted_is_stepped_over_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(&dir);
    for at in 0..4 {
        spool.append(&large(at * 256..at * 256 + 256)).unwrap();
    }
    drop(spool);
    let files = files(&dir);
    let damage = |file: &Path, at: u64| {
        let file = OpenOptions::new().write(true).open(file).unwrap();
        file.write_all_at(b"\xff\xff\xff\xff", at).unwrap();
    };
    // A line, a length of a file in the middle, a whole file, and lines of the last.
    damage(&files[0], 4096 * 10 + 100);
    damage(&files[1], 4096 * 200);
    fs::remove_file(&files[2]).unwrap();
    damage(&files[3], 100);
    damage(&files[3], 4096 * 100 + 100);
    let (mut spool, lost) = open(&dir);
    assert_eq!((spool.len(), lost), (1024, 0));
    let (rest, lost) = drain(&mut spool);
    let whole = [large(0..10), large(11..456), large(457..512), large(769..868), large(869..1024)];
    let whole = whole.concat();
    assert!(rest == whole);
    assert_eq!(lost as usize, 1024 - whole.len());
}

#[test]
fn a_position_that_is_gone_has_entries_come_twice_and_loses_none() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(&dir);
    spool.append(&entries(0..9)).unwrap();
    spool.forget(4).unwrap();
    drop(spool);
    fs::write(dir.path().join("spool").join(POSITION), "torn").unwrap();
    assert_eq!(drain(&mut open(&dir).0), (entries(0..9), 0));
}

#[test]
fn what_is_owed_is_told_by_the_next_once() {
    let dir = tempfile::tempdir().unwrap();
    open(&dir).0.owe(5).unwrap();
    let (mut spool, _) = open(&dir);
    assert_eq!((spool.take_owed(), spool.take_owed()), (5, 0));
    spool.append(&entries(0..1)).unwrap();
    drain(&mut spool);
    assert_eq!(open(&dir).0.take_owed(), 0);
}

#[test]
fn a_directory_of_others_and_a_link_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let spool = dir.path().join("spool");
    let refused = || Spool::open(&spool, ROOM).unwrap_err().to_string();
    drop(open(&dir));
    assert_eq!(spool.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    fs::set_permissions(&spool, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(refused().contains("nobody else owns or may write to"));
    let moved = dir.path().join("moved");
    fs::rename(&spool, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, &spool).unwrap();
    assert!(refused().contains("the spool"));
}

#[test]
fn what_does_not_fit_the_disk_is_not_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(&dir);
    spool.append(&entries(0..2)).unwrap();
    // A file that takes nothing stands for a full disk.
    spool.segments.back_mut().unwrap().close_for_writing();
    spool.append(&entries(2..4)).unwrap_err();
    assert_eq!(spool.len(), 2);
    assert_eq!(spool.peek(9, usize::MAX).unwrap().0, entries(0..2));
    // It goes on in another file.
    spool.append(&entries(4..5)).unwrap();
    assert_eq!(drain(&mut spool).0, [entries(0..2), entries(4..5)].concat());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever has become of the files: what comes out is what was put in, in order, and what does not is counted.
    #[test]
    fn whatever_is_damaged_what_comes_out_was_put_in_and_the_rest_is_counted(
        damages in prop::collection::vec((0_usize..4, 0_u64..SEGMENT, any::<[u8; 9]>()), 1..6),
        forgotten in 0_u64..300,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (mut spool, _) = open(&dir);
        for at in 0..4 {
            spool.append(&large(at * 256..at * 256 + 256)).unwrap();
        }
        // The last entry is whole: how many are missing behind the last that is, nobody knows.
        spool.append(&large(1024..1025)).unwrap();
        spool.forget(forgotten).unwrap();
        drop(spool);
        let files = files(&dir);
        for (file, at, bytes) in damages {
            let Some(path) = files.get(file.min(files.len().saturating_sub(2))) else { continue };
            let file = OpenOptions::new().write(true).open(path).unwrap();
            file.write_all_at(&bytes, at.min(SEGMENT - 9)).unwrap();
        }
        let (mut spool, torn) = open(&dir);
        let (rest, lost) = drain(&mut spool);
        prop_assert_eq!(torn, 0);
        prop_assert_eq!(rest.len() as u64 + lost, 1025 - forgotten);
        let all = large(forgotten..1025);
        let mut left = all.iter();
        prop_assert!(rest.iter().all(|entry| left.any(|other| other == entry)));
    }
}
