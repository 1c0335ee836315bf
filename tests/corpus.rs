//! The corpus put to `decide` on tables in memory: no kernel, no privileges. `enforce` puts the same
//! cases to the kernel and demands the same answers.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

#[expect(
    dead_code,
    unused_imports,
    reason = "what lies around and how it is tried matters to a kernel alone"
)]
mod support;

use support::{Answer, Place, Tables, scenes};

#[test]
fn decide_answers_every_case_as_the_corpus_says() {
    let place = Place::imagined();
    let mut wrong = Vec::new();
    let mut asked = 0;
    for scene in scenes() {
        let tables = Tables::lexical(&scene, &place);
        for case in scene.cases.iter().filter(|case| case.kernel_only.is_none()) {
            asked += 1;
            let due = Answer { is: case.is, by: case.by.clone() };
            let found = tables.answer(case, &place);
            if found != due {
                wrong.push(format!("{}: {}: {found:?}, due {due:?}", scene.name, case.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(asked > 100, "the corpus was not found: {asked} cases");
}

#[test]
fn no_two_cases_of_a_file_have_one_name() {
    for scene in scenes() {
        let mut names: Vec<&str> = scene.cases.iter().map(|case| case.name.as_str()).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{}", scene.name);
    }
}
