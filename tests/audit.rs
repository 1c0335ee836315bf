//! The audit log by its command line, and by a verifier of another make.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use agent_guard::{
    audit::{Log, Settings, segment},
    event::Host,
};
use serde_json::Value;
use tempfile::TempDir;

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Writes so many events, and ends in order.
    fn write(&self, events: std::ops::Range<u64>) {
        let settings = Settings {
            directory: self.path("log"),
            key: self.path("audit.key"),
            checkpoint_records: 10,
            checkpoint_every: Duration::from_secs(60),
            rotate_bytes: 30_000,
        };
        let host = Host { name: "host".to_owned(), kernel: "6.12.0".to_owned() };
        let mut log = Log::open(settings, host, Instant::now()).unwrap();
        for number in events {
            let line = event(number);
            log.append(line.as_bytes(), Instant::now()).unwrap();
        }
        log.close().unwrap();
    }

    fn files(&self) -> Vec<PathBuf> {
        let segments = segment::all(&self.path("log")).unwrap();
        segments.into_iter().map(|segment| segment.path).collect()
    }

    fn verify(&self, options: &[&str]) -> Output {
        let log = self.text("log");
        agent_guard(&[&["audit", "verify", &log], options].concat())
    }

    /// By `tests/audit/verify.py`.
    fn verify_otherwise(&self) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/audit/verify.py");
        let mut python = Command::new("python3");
        python.arg(script).arg(self.path("audit.key.pub")).args(self.files());
        python.output().expect("python3 can be run")
    }

    /// What both say: whether it is intact, and what of it is not.
    #[track_caller]
    fn both(&self) -> (bool, String) {
        let (own, other) = (self.verify(&[]), self.verify_otherwise());
        let (own_text, other_text) = (text(&own.stdout), text(&other.stderr));
        assert_eq!(own.status.success(), other.status.success(), "{own_text}{other_text}");
        (own.status.success(), format!("{own_text}{other_text}"))
    }
}

fn event(number: u64) -> String {
    format!(
        "{{\"time\":1795000000123,\"type_uid\":100102,\"file\":{{\"path\":\"/ö/\\\"{}\"}},\
         \"metadata\":{{\"uid\":\"run-{number}\"}},\"unmapped\":{{\"agent_guard\":{{\"tier\":\"lsm\",\
         \"decision\":{{}}}}}}}}\n",
        "x".repeat(700)
    )
    .replace("{}}}}\n", "{\"reason\":\"rule\"}}}}\n")
}

fn agent_guard(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agent-guard"));
    command.args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn lines(file: &Path) -> Vec<Vec<u8>> {
    fs::read(file).unwrap().split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}

#[test]
fn a_verifier_of_another_make_comes_to_the_same() {
    let place = Place::new();
    place.write(0..35);
    place.write(35..60);
    assert!(place.files().len() > 2, "{:?}", place.files());
    assert!(place.both().0);

    // Killed within a line.
    let last = place.files().pop().unwrap();
    let whole = fs::read(&last).unwrap();
    fs::write(&last, [&whole[..], b"{\"time\":17"].concat()).unwrap();
    assert!(!place.both().0);
    place.write(60..70);
    assert!(place.both().0);

    let file = place.files().remove(1);
    let good = lines(&file);
    let flip = |line: usize, from_end: usize| {
        let mut bad = good.clone();
        let at = bad[line].len() - 1 - from_end;
        bad[line][at] ^= 1;
        bad
    };
    let mut bad: Vec<Vec<Vec<u8>>> =
        [600, 300, 120, 100, 90, 40, 8, 4, 1].map(|at| flip(4, at)).to_vec();
    bad.push(flip(0, 60));
    bad.push([&good[..4], &good[5..]].concat());
    bad.push([&good[..5], &good[4..]].concat());
    bad.push([&good[..4], &[good[5].clone(), good[4].clone()], &good[6..]].concat());
    bad.push([&good[..4], &[b"{}\n".to_vec()], &good[4..]].concat());
    bad.push(good[1..].to_vec());
    for changed in bad {
        assert_ne!(changed, good);
        fs::write(&file, changed.concat()).unwrap();
        let (intact, said) = place.both();
        assert!(!intact);
        let named = file.file_name().unwrap().to_str().unwrap();
        assert!(said.contains(&format!("{named}:")), "{said}");
    }
    fs::write(&file, good.concat()).unwrap();
    assert!(place.both().0);
}

#[test]
fn a_change_is_told_with_file_line_and_number() {
    let place = Place::new();
    place.write(0..35);
    let file = place.files().remove(0);
    let mut bad = lines(&file);
    bad[6][40] ^= 1;
    fs::write(&file, bad.concat()).unwrap();
    let output = place.verify(&[]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stdout);
    let due = format!("{}:7: record 7: altered: ", file.display());
    assert!(said.starts_with(&due), "{said}");
    assert!(said.contains("NOT INTACT"), "{said}");
    let json = place.verify(&["-o", "json"]);
    assert_eq!(json.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&json.stdout).unwrap();
    let finding = &report["findings"][0];
    assert_eq!((&finding["kind"], &finding["line"]), (&"altered".into(), &7.into()));
    assert_eq!((&finding["sequence"], &report["intact"]), (&7.into(), &false.into()));
}

#[test]
fn the_head_that_was_kept_shows_an_end_that_was_cut_off() {
    let place = Place::new();
    place.write(0..35);
    let log = place.text("log");
    let head = agent_guard(&["audit", "head", &log]);
    assert!(head.status.success());
    assert_eq!(head.stdout, *lines(&place.files().pop().unwrap()).last().unwrap());
    let kept = place.text("kept");
    fs::write(&kept, &head.stdout).unwrap();
    let output = place.verify(&["--expect", &kept]);
    assert!(output.status.success());
    assert!(!text(&output.stdout).contains("nobody vouches"));

    let last = place.files().pop().unwrap();
    let mut cut = lines(&last);
    cut.truncate(cut.len() - 3);
    fs::write(&last, cut.concat()).unwrap();
    assert!(place.verify(&[]).status.success());
    let output = place.verify(&["--expect", &kept]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("its end is missing"), "{}", text(&output.stdout));
}

#[test]
fn old_files_may_be_taken_away_where_the_checkpoint_before_is_kept() {
    let place = Place::new();
    place.write(0..60);
    let files = place.files();
    let since = place.text("since");
    fs::write(&since, lines(&files[0]).last().unwrap()).unwrap();
    fs::remove_file(&files[0]).unwrap();
    let output = place.verify(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("--since"));
    assert!(place.verify(&["--since", &since]).status.success());
    // What is compressed is read as it is.
    assert!(Command::new("gzip").arg(&files[1]).status().unwrap().success());
    assert!(place.verify(&["--since", &since]).status.success());
}

#[test]
fn a_key_is_drawn_for_its_owner_and_never_written_over() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::new();
    let key = place.text("audit.key");
    let drawn = agent_guard(&["audit", "keygen", &key]);
    assert!(drawn.status.success());
    let public = text(&drawn.stdout).trim().to_owned();
    assert!(public.starts_with("ed25519:") && public.len() == 72, "{public}");
    let mode = fs::metadata(&key).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // OpenSSL reads both halves.
    let openssl = Command::new("openssl").args(["pkey", "-pubout", "-in", &key]).output().unwrap();
    assert_eq!(text(&openssl.stdout), fs::read_to_string(place.path("audit.key.pub")).unwrap());
    let again = agent_guard(&["audit", "keygen", &key]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("not written over"), "{}", text(&again.stderr));
    assert!(agent_guard(&["audit", "keygen", "--next", &key]).status.success());
    assert!(place.path("audit.key.next").exists());

    place.write(0..3);
    let (own, file) = (place.verify(&["--key", &public]), place.text("audit.key.pub"));
    assert!(own.status.success(), "the successor is named by the key that was");
    assert!(place.verify(&["--key", &file]).status.success());
}

#[test]
fn what_can_not_be_verified_is_an_error_that_says_why() {
    let place = Place::new();
    place.write(0..3);
    let other = place.text("other.key");
    assert!(agent_guard(&["audit", "keygen", &other]).status.success());
    let other_public = format!("{other}.pub");
    let wrong = place.verify(&["--key", &other_public]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(text(&wrong.stdout).contains("which is not trusted"), "{}", text(&wrong.stdout));

    fs::create_dir(place.path("empty")).unwrap();
    fs::write(place.path("zstd"), b"\x28\xb5\x2f\xfd....").unwrap();
    let (empty, zstd, missing) = (place.text("empty"), place.text("zstd"), place.text("missing"));
    let log = place.text("log");
    for (arguments, words) in [
        (vec!["verify", empty.as_str()], "holds no audit log"),
        (vec!["verify", &missing], "missing"),
        (vec!["verify", &zstd], "only gzip is read"),
        (vec!["verify", &log, "--key", "ed25519:00"], "64 hexadecimal digits"),
        (vec!["verify", &log, "--key", &zstd], "zstd"),
        (vec!["verify", &log, "--expect", &zstd], "is no checkpoint"),
        (vec!["head", &empty], "holds no audit log"),
        (vec!["keygen", "--next", &missing], "missing"),
    ] {
        let output = agent_guard(&[&["audit"], arguments.as_slice()].concat());
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
    assert_eq!(agent_guard(&["audit", "verify"]).status.code(), Some(2));
}
