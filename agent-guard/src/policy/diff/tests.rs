use agent_guard_common::event::Action;

use super::*;
use crate::{
    event::fixture::file,
    policy::{
        Policy,
        compile::NoLinks,
        replay::tests::{collect, observed},
    },
};

fn policy(spec: &str) -> Policy {
    let head =
        "apiVersion: agent-guard.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {name: p}\nspec:\n";
    Policy::parse("p.yaml", &format!("{head}{spec}")).unwrap()
}

const OLD: &str = "  files:
    rules:
      - {name: work, effect: allow, paths: [/w/**, /x/**]}
      - {effect: allow, paths: [/u]}
      - {name: gone, effect: allow, paths: [/g]}
";

const NEW: &str = "  mode: audit
  files:
    default: allow
    rules:
      - {name: secrets, effect: deny, class: secret, paths: ['**/.env']}
      - {name: work, effect: allow, access: [read], paths: [/x/**, /w/**]}
      - {effect: allow, paths: [/u]}
";

#[test]
fn rules_are_the_same_by_their_names_whatever_their_order() {
    assert_eq!(diff_rules(&policy(OLD), &policy(OLD)), []);
    let found: Vec<(Kind, String, Vec<String>, Vec<String>)> =
        diff_rules(&policy(OLD), &policy(NEW))
            .into_iter()
            .map(|one| (one.kind, one.what, one.removed, one.added))
            .collect();
    let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
    let due = [
        (Kind::Changed, "mode", lines(&["enforce"]), lines(&["audit"])),
        (Kind::Changed, "files default", lines(&["deny"]), lines(&["allow"])),
        (
            Kind::Removed,
            "files rule `gone`",
            lines(&["allow", "/g", "access read and write"]),
            lines(&[]),
        ),
        (
            Kind::Added,
            "files rule `secrets`",
            lines(&[]),
            lines(&["deny", "class secret", "**/.env", "access read and write"]),
        ),
        (
            Kind::Changed,
            "files rule `work`",
            lines(&["access read and write"]),
            lines(&["access read"]),
        ),
    ];
    assert_eq!(
        found,
        due.map(|(kind, what, removed, added)| (kind, what.to_owned(), removed, added))
    );
}

#[test]
fn a_selector_that_changes_is_told() {
    let with = policy("  selector: {cgroups: [/agents/*]}\n");
    let found = diff_rules(&policy("  {}\n"), &with);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].what.as_str(), found[0].kind), ("selector", Kind::Changed));
    assert_eq!(found[0].added, ["cgroup /agents/*"]);
}

#[test]
fn recorded_actions_are_told_once_with_what_decides() {
    let read = |path: &[u8]| observed(Action::Read, file(path));
    let actions = collect(&[
        read(b"/w/a"),
        read(b"/w/a"),
        read(b"/w/.env"),
        read(b"/elsewhere"),
        observed(Action::Write, file(b"/w/a")),
    ]);
    let enforced = NEW.replace("  mode: audit\n", "");
    let diff = diff_recorded(&policy(OLD), &policy(&enforced), &actions, &NoLinks).unwrap();
    let told = |changes: &[Change]| -> Vec<(String, u64, String, String)> {
        let one = |change: &Change| {
            (change.action.clone(), change.events, change.by.old.clone(), change.by.new.clone())
        };
        changes.iter().map(one).collect()
    };
    let own = |(action, events, old, new): (&str, u64, &str, &str)| {
        (action.to_owned(), events, old.to_owned(), new.to_owned())
    };
    assert_eq!(told(&diff.newly_allowed), [own(("read /elsewhere", 1, "default", "default"))]);
    let work = "files rule `work` (line 7)";
    let secrets = "files rule `secrets` (line 8)";
    assert_eq!(told(&diff.newly_denied), [own(("read /w/.env", 1, work, secrets))]);
    assert_eq!((diff.unchanged, diff.events), (2, 5));
    assert!(!diff.is_empty());
    let same = diff_recorded(&policy(OLD), &policy(OLD), &actions, &NoLinks).unwrap();
    assert!(same.is_empty());
    let audited = diff_recorded(&policy(&enforced), &policy(NEW), &actions, &NoLinks).unwrap();
    assert!(audited.newly_allowed.is_empty() && !audited.is_empty());
}
