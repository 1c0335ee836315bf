use std::fs;

use super::*;
use crate::policy::{Problem, compile::NoLinks};

const POLICY: &str = "apiVersion: agent-guard.dev/v1alpha1
kind: AgentPolicy
metadata: {name: p}
spec:
  egress: {rules: [{name: api, effect: allow, to: ['api.example:443']}]}
  files:
    rules:
      - {name: work, effect: allow, paths: ['/w/**']}
      - {name: secrets, effect: deny, paths: ['**/.env']}
";

fn check_cases(cases: &str) -> Result<Vec<Answer>, ExpectError> {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("p.yaml"), POLICY).unwrap();
    let text = format!(
        "apiVersion: agent-guard.dev/v1alpha1\nkind: PolicyTest\npolicy: p.yaml\ncases:\n{cases}"
    );
    let file = directory.path().join("t.yaml");
    fs::write(&file, text).unwrap();
    check(&file, &NoLinks)
}

fn problems(cases: &str) -> Vec<String> {
    match check_cases(cases) {
        Err(ExpectError::Refused(refusal)) => {
            assert!(refusal.to_string().contains("the test is refused"), "{refusal}");
            let shown = |problem: &Problem| {
                format!("{}:{} {}", problem.line, problem.column, problem.fault)
            };
            refusal.problems.iter().map(shown).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_expected_is_held_against_what_the_policy_says() {
    let answers = check_cases(
        "  - {open: /w/a, access: read-write, expect: allow, rule: work}
  - {open: /w/.env, expect: allow}
  - {open: /w/.env, expect: deny, rule: work}
  - {open: /x, expect: deny}
  - {open: /x, expect: deny, rule: work}
  - {exec: /bin/sh, expect: deny}
  - {connect: 'api.example:443', expect: allow, rule: api}
  - {listen: '127.0.0.1:80', expect: deny}
  - {unix: '@x', expect: deny}
  - {operation: mount, expect: deny}
",
    )
    .unwrap();
    let failed: Vec<(usize, &str, &str)> = answers
        .iter()
        .filter(|answer| !answer.met)
        .map(|answer| (answer.line, answer.expected.as_str(), answer.answer.as_str()))
        .collect();
    let due = [
        (6, "allow", "deny by `secrets`"),
        (7, "deny by `work`", "deny by `secrets`"),
        (9, "deny by `work`", "deny: no rule matches"),
    ];
    assert_eq!(failed, due);
    assert_eq!(answers.len(), 10);
    assert_eq!(answers[0].question, "read and write /w/a");
}

#[test]
fn every_problem_is_told_with_its_place() {
    let found = problems(
        "  - {open: /a, exec: /b, expect: allow}
  - {open: /a}
  - {open: /a, expect: perhaps}
  - {exec: /a, access: read, expect: deny}
  - {operation: fly, expect: deny}
  - {expect: deny}
",
    );
    let places: Vec<&str> = found.iter().map(|one| one.split(' ').next().unwrap()).collect();
    assert_eq!(places, ["5:5", "6:5", "7:24", "8:24", "9:17", "10:5"], "{found:?}");
    assert!(found[0].contains("one question") && found[1].contains("`expect`"), "{found:?}");
}

#[test]
fn a_question_that_is_none_is_told_where_it_stands() {
    let found = problems("  - {open: /w/a, expect: allow}\n  - {open: w/a, expect: allow}\n");
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("6:12 ") && found[0].contains("`w/a`"), "{found:?}");
    let found = problems("  - {connect: 'api.example', expect: allow}\n");
    assert!(found[0].starts_with("5:15 "), "{found:?}");
}

#[test]
fn a_field_that_does_not_exist_ends_the_reading() {
    let found = problems("  - {opne: /w/a, expect: allow}\n");
    assert!(found[0].starts_with("5:") && found[0].contains("`opne`"), "{found:?}");
    assert!(matches!(check_cases("  []\n"), Err(ExpectError::Refused(_))));
}

#[test]
fn the_shipped_policy_is_what_its_expectations_say() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/tests/coding-agent.yaml");
    let answers = check(file.as_ref(), &NoLinks).unwrap();
    let failed: Vec<&Answer> = answers.iter().filter(|answer| !answer.met).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(answers.len() > 30);
}
