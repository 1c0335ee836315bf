//! Each promise of SPECIFICATION.md, and each way around in docs/bypasses.md, has its number and names tests
//! that are there.
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
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A line that begins with a number, and what it names in code type.
struct Promise {
    number: usize,
    tests: Vec<String>,
}

/// Where they stand.
const LISTS: [&str; 2] = ["SPECIFICATION.md", "docs/bypasses.md"];

fn promises(list: &str) -> Vec<Promise> {
    let text = fs::read_to_string(root().join(list)).unwrap();
    let promise = |line: &str| {
        let (number, rest) = line.split_once(". ")?;
        // Its own words may hold code too; what follows its last full stop names tests.
        let tests = rest.rsplit(". `").next()?;
        let tests = format!("`{tests}");
        let tests = tests.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        Some(Promise { number: number.parse().ok()?, tests })
    };
    text.lines().filter_map(promise).collect()
}

/// The sources of all tests, in one text.
fn sources(directory: &Path, text: &mut String) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn every_promise_names_a_test_that_is_there() {
    let mut text = String::new();
    sources(&root().join("tests"), &mut text);
    sources(&root().join("agent-guard/src"), &mut text);
    sources(&root().join("agent-guard-common/src"), &mut text);
    let is_test = |name: &str| {
        root().join("tests/corpus").join(format!("{name}.yaml")).exists()
            || text.contains(&format!("\"{name}\""))
            // A test of properties takes what they are held against.
            || text.contains(&format!("fn {name}("))
    };
    for (list, promise) in
        LISTS.iter().flat_map(|list| promises(list).into_iter().map(move |promise| (list, promise)))
    {
        let number = promise.number;
        assert!(!promise.tests.is_empty(), "{list} {number} names no test");
        for test in promise.tests {
            assert!(is_test(&test), "{list} {number}: there is no test `{test}`");
        }
    }
}

#[test]
fn promises_are_numbered_one_after_the_other() {
    for list in LISTS {
        let numbers: Vec<usize> = promises(list).iter().map(|promise| promise.number).collect();
        assert_eq!(numbers, (1..=numbers.len()).collect::<Vec<_>>(), "{list}");
        assert!(!numbers.is_empty(), "{list}");
    }
}
