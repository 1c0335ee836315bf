//! What a reader of a refused policy is told, and what no input can do.

use std::{fmt::Write as _, io::Write as _, path::Path};

use agent_guard_common::limits::MAX_RULES;
use miette::{GraphicalReportHandler, GraphicalTheme};
use proptest::prelude::*;

use serde::de::IgnoredAny;

use super::{notes::Notes, *};
use crate::identity::Identity;

const HEAD: &str = "apiVersion: agent-guard.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {name: a}\n";

fn spec(spec: &str) -> String {
    format!("{HEAD}spec:\n{spec}")
}

fn refusal(text: &str) -> Refusal {
    match Policy::parse("p.yaml", text) {
        Err(PolicyError::Refused(refusal)) => *refusal,
        other => panic!("not refused: {other:?}\n{text}"),
    }
}

fn rendered(error: &PolicyError) -> String {
    let mut out = String::new();
    GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor())
        .with_width(400)
        .render_report(&mut out, error)
        .unwrap();
    out
}

/// Line, column, underlined text, message and help of each problem.
fn told(text: &str) -> Vec<(usize, usize, String, String, String)> {
    let refusal = refusal(text);
    let problem = |problem: &Problem| {
        let (offset, len) = problem.span.expect("a short line");
        let underlined = text.get(offset..offset + len).expect("a span within the file");
        let help = miette::Diagnostic::help(problem).map_or_else(String::new, |h| h.to_string());
        (problem.line, problem.column, underlined.to_owned(), problem.to_string(), help)
    };
    refusal.problems.iter().map(problem).collect()
}

/// Asserts that `text` has one problem, at `line:column`, and what is said of it.
#[track_caller]
fn assert_told(text: &str, at: (usize, usize), underlined: &str, message: &str, help: &str) {
    let told = told(text);
    let [(line, column, found, said, fix)] = &*told else { panic!("not one problem: {told:#?}") };
    assert_eq!(((*line, *column), found.as_str()), (at, underlined), "{told:#?}");
    assert!(said.contains(message), "{said:?} lacks {message:?}");
    assert!(fix.contains(help), "{fix:?} lacks {help:?}");
}

#[test]
fn the_shipped_policy_is_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies/coding-agent.yaml");
    let policy = Policy::load(&path).unwrap_or_else(|error| panic!("{}", rendered(&error)));
    assert_eq!(policy.name.as_str(), "coding-agent");
    assert_eq!(policy.mode, Mode::Enforce);
    for default in [
        policy.egress.default,
        policy.exec.default,
        policy.files.default,
        policy.listen.default,
        policy.unix.default,
    ] {
        assert_eq!(default, Effect::Deny);
    }
    let secrets = policy.files.rules.last().unwrap();
    assert_eq!((secrets.name.as_deref(), secrets.effect), (Some("secrets"), Effect::Deny));
    assert_eq!(secrets.class.as_deref(), Some("secret"));
    assert_eq!(secrets.matcher.access, AccessSet::ReadWrite);
}

#[test]
fn a_pin_is_what_is_written() {
    let pin = |text: &str| {
        let rule = format!("  exec: {{rules: [{{effect: allow, paths: [/a], pin: {text}}}]}}\n");
        Policy::parse("test.yaml", &spec(&rule)).unwrap().exec.rules[0].matcher.pin
    };
    assert_eq!((pin("true"), pin("false")), (Some(Pin::AsLoaded), None));
    let digits = "00ff".repeat(16);
    let bytes: [u8; 32] = std::array::from_fn(|at| if at % 2 == 0 { 0 } else { 0xff });
    assert_eq!(pin(&format!("sha256:{digits}")), Some(Pin::Sha256(bytes)));
    assert_eq!(pin(&format!("'sha256:{}'", digits.to_uppercase())), Some(Pin::Sha256(bytes)));
}

#[test]
fn every_field_reaches_the_policy() {
    let policy = Policy::parse(
        "p.yaml",
        &spec(concat!(
            "  mode: audit\n",
            "  selector: {cgroups: [\"/agents/coding-*\"], units: [a@*.service], containers: ['4f*']}\n",
            "  egress:\n",
            "    default: allow\n",
            "    rules:\n",
            "      - {name: meta, effect: deny, to: [\"169.254.169.254\", \"*:25\"], class: spam-1}\n",
            "  files:\n",
            "    rules:\n",
            "      - effect: allow\n",
            "        access: [read]\n",
            "        paths:\n",
            "          - /usr/**\n",
            "      - {effect: allow, access: [write], paths: [/a]}\n",
            "      - {effect: deny, access: [write, read, read], paths: [/b]}\n",
        )),
    )
    .unwrap();
    assert_eq!(policy.mode, Mode::Audit);
    let covers = |cgroup| policy.selector.covers(&Identity::of(cgroup));
    let container = format!("/agents/coding-1/a@1.service/docker-4f{}.scope", "0".repeat(62));
    // It names a cgroup that has none below.
    assert_eq!((covers(&container), covers("/agents/coding-1")), (Fit::No, Fit::No));
    assert_eq!(policy.selector.cgroups[0].text, "/agents/coding-*");
    assert!(policy.selector.units[0].matches("a@1.service"));
    assert!(policy.selector.containers[0].matches("4f00"));
    assert_eq!(policy.exec, Section::default());
    assert_eq!(policy.egress.default, Effect::Allow);
    let [meta] = &*policy.egress.rules else { panic!("{:?}", policy.egress) };
    assert_eq!((meta.effect, meta.line), (Effect::Deny, 10));
    assert_eq!(meta.class.as_deref(), Some("spam-1"));
    assert_eq!(meta.matcher.len(), 3);
    assert_eq!(meta.label(SectionKind::Egress, 0), "meta");
    let access: Vec<_> = policy.files.rules.iter().map(|rule| rule.matcher.access).collect();
    assert_eq!(access, [AccessSet::Read, AccessSet::Write, AccessSet::ReadWrite]);
    let lines: Vec<_> = policy.files.rules.iter().map(|rule| rule.line).collect();
    assert_eq!(lines, [13, 17, 18]);
    assert_eq!(policy.files.rules[2].label(SectionKind::Files, 2), "files[2]");
}

#[test]
fn what_is_left_out_is_denied() {
    for text in [HEAD.to_owned() + "spec: {}", spec("  egress:\n  exec: {rules: }\n  files: {}\n")]
    {
        let policy = Policy::parse("p.yaml", &text).unwrap();
        assert_eq!(policy.mode, Mode::Enforce);
        assert_eq!(policy.egress, Section::default());
        assert_eq!(policy.exec, Section::default());
        assert_eq!(policy.files, Section::default());
        assert_eq!(policy.files.default, Effect::Deny);
    }
}

#[test]
fn the_section_system_names_operations_and_is_known_to_be_there() {
    let parse = |text| Policy::parse("p.yaml", &spec(text)).unwrap();
    let is_written = |text| parse(text).written.contains(&SectionKind::System);
    assert!(!is_written("  mode: audit\n") && is_written("  system: {}\n"));
    assert_eq!(parse("  system: {}\n").system, Section::default());
    let policy =
        parse("  system: {rules: [{effect: allow, operations: [trace, user-namespace]}]}\n");
    let rules = policy.system.rules;
    assert_eq!(rules[0].matcher, [Operation::Trace, Operation::UserNamespace]);
    assert_eq!(rules[0].label(SectionKind::System, 0), "system[0]");
}

#[test]
fn a_shared_list_may_be_an_alias() {
    let text = spec(
        "  exec: {rules: [{effect: deny, paths: &p [/a, /b]}]}\n  files: {rules: [{effect: deny, paths: *p}]}\n",
    );
    let policy = Policy::parse("p.yaml", &text).unwrap();
    assert_eq!(policy.files.rules[0].matcher.paths, policy.exec.rules[0].matcher.paths);
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_change_nothing() {
    let text = format!("\u{feff}{}", spec("  mode: audit\n").replace('\n', "\r\n"));
    assert_eq!(Policy::parse("p.yaml", &text).unwrap().mode, Mode::Audit);
    let wrong = text.replace("audit", "adit");
    assert_told(&wrong, (5, 9), "adit", "`adit` is no mode", "did you mean `audit`?");
}

#[test]
fn the_report_shows_file_line_column_text_and_fix() {
    let text =
        spec("  files:\n    rules:\n      - {effect: allow, paths: [\"/usr/**\", \"/tmp/\"]}\n");
    let error = Policy::parse("agent.yaml", &text).unwrap_err();
    assert_eq!(error.to_string(), "agent.yaml:7:49: the policy is refused");
    let shown = rendered(&error);
    for part in [
        "the path ends in `/`",
        "[agent.yaml:7:49]",
        "7 │       - {effect: allow, paths: [\"/usr/**\", \"/tmp/\"]}",
        "help: write `/tmp` for the entry itself, or `/tmp/**` for it and all below it",
    ] {
        assert!(shown.contains(part), "{part:?} is not in\n{shown}");
    }
}

/// The spec, the line and column, the underlined text, a part of the message, a part of the help.
type Case = (&'static str, (usize, usize), &'static str, &'static str, &'static str);

#[test]
fn each_mistake_is_told_where_it_stands_and_how_to_mend_it() {
    let cases: &[Case] = &[
        ("  mode: enforced\n", (5, 9), "enforced", "no mode", "did you mean `enforce`?"),
        ("  mode: off\n", (5, 9), "off", "no mode", "one of `enforce`, `audit`"),
        ("  mode:\n", (5, 7), ":", "a text is due", "write one value"),
        ("  egres: {}\n", (5, 3), "egres", "no field `egres`", "did you mean `egress`?"),
        ("  foo: {}\n", (5, 3), "foo", "no field `foo`", "one of `mode`, `selector`, `egress`"),
        ("  listen: {rules: [{effect: deny, to: [a]}]}\n", (5, 35), "to", "no field `to`", "`on`"),
        (
            "  listen: {rules: [{effect: allow, on: [\"localhost:3000\"]}]}\n",
            (5, 42),
            "localhost",
            "a name",
            "write the address",
        ),
        (
            "  unix: {rules: [{effect: allow, paths: [run/x]}]}\n",
            (5, 42),
            "run/x",
            "relative",
            "start it with `/`",
        ),
        (
            "  unix: {rules: [{effect: allow, paths: [\"@\"]}]}\n",
            (5, 43),
            "@",
            "without a name",
            "every abstract socket",
        ),
        (
            "  unix: {rules: [{effect: allow, paths: [\"@a**\"]}]}\n",
            (5, 45),
            "**",
            "beside other text",
            "single `*`",
        ),
        ("  selector: {cgroups: [agents]}\n", (5, 24), "agents", "no cgroup path", "root"),
        ("  selector: {cgroups: [/a//b]}\n", (5, 26), "//", "empty component", "single `/`"),
        ("  selector: {units: [a/b]}\n", (5, 22), "a/b", "no name of a unit", "agent@*.service"),
        ("  selector: {containers: ['']}\n", (5, 27), "''", "no name of a container", "4f6a*"),
        ("  selector: {pods: [a/b]}\n", (5, 21), "a/b", "no name of a pod", "coding-*"),
        ("  selector: {serviceAccounts: [a/b]}\n", (5, 32), "a/b", "service account", "coding"),
        ("  selector: {labels: {app: ''}}\n", (5, 28), "''", "label's value", "coding-*"),
        (
            "  selector: {images: [agent]}\n",
            (5, 23),
            "agent",
            "no image in full",
            "`docker.io/library/agent:*`",
        ),
        ("  selector: {images: ['a.io/b[1]']}\n", (5, 30), "[", "not a wildcard", "`\\[`"),
        ("  exec: []\n", (5, 9), "[", "a map is due", "field: value"),
        (
            "  system: {rules: [{effect: allow, operations: [reboot]}]}\n",
            (5, 49),
            "reboot",
            "`reboot` is no operation",
            "one of `trace`, `signal`, `tune`, `mount`, `chroot`, `user-namespace`",
        ),
        (
            "  system: {rules: [{effect: allow, operations: [chrot]}]}\n",
            (5, 49),
            "chrot",
            "no operation",
            "did you mean `chroot`?",
        ),
        (
            "  system: {rules: [{effect: allow}]}\n",
            (5, 20),
            "{",
            "no `operations`",
            "operations: [mount, chroot]",
        ),
        (
            "  exec: {rules: [{effect: allow, pin: yes, paths: [/a]}]}\n",
            (5, 39),
            "yes",
            "`yes` is no pin",
            "write `true`",
        ),
        (
            "  exec: {rules: [{effect: allow, pin: \"sha256:ab\", paths: [/a]}]}\n",
            (5, 39),
            "\"sha256:ab\"",
            "`sha256:ab` is no pin",
            "64 hexadecimal digits",
        ),
        (
            "  exec: {rules: [{effect: deny, pin: true, paths: [/a]}]}\n",
            (5, 38),
            "true",
            "this rule denies",
            "remove `pin`",
        ),
        (
            "  exec: {rules: [{effect: allow, pin: true, paths: [\"**/a\"]}]}\n",
            (5, 53),
            "\"**/a\"",
            "begins anywhere",
            "begin it with a directory",
        ),
        (
            "  files: {rules: [{effect: allow, pin: true, paths: [/a]}]}\n",
            (5, 35),
            "pin",
            "no field `pin`",
            "`paths`",
        ),
        ("  exec: {default: ask}\n", (5, 19), "ask", "cannot hold a call", "write `deny`"),
        ("  exec: {default: Deny}\n", (5, 19), "Deny", "no default", "did you mean `deny`?"),
        ("  exec: {rules: {a: b}}\n", (5, 17), "{", "a list is due", "`- …`"),
        ("  exec: {rules: [a]}\n", (5, 18), "a", "a map is due", "field: value"),
        (
            "  exec:\n    rules:\n      - paths: [/a]\n",
            (7, 9),
            "paths",
            "has no `effect`",
            "add `effect: deny`",
        ),
        ("  exec: {rules: [{effect: deny}]}\n", (5, 18), "{", "has no `paths`", "add `paths: "),
        (
            "  exec: {rules: [{effect: deny, paths: []}]}\n",
            (5, 18),
            "{",
            "`paths` is an empty list",
            "at least one",
        ),
        ("  exec: {rules: [{effect: deny, paths: /a}]}\n", (5, 40), "/a", "a list is due", "`- …`"),
        (
            "  exec: {rules: [{effect: deny, paths: [[/a]]}]}\n",
            (5, 41),
            "[",
            "a text is due",
            "one value",
        ),
        (
            "  exec: {rules: [{effect: deny, paths: [~]}]}\n",
            (5, 41),
            "~",
            "a text is due",
            "one value",
        ),
        ("  exec: {rules: [{effect: deny, to: [a]}]}\n", (5, 33), "to", "no field `to`", "`paths`"),
        (
            "  exec: {rules: [{effect: deny, paths: [/a], access: [read]}]}\n",
            (5, 46),
            "access",
            "no field",
            "`paths`",
        ),
        (
            "  exec: {rules: [{effect: block, paths: [/a]}]}\n",
            (5, 27),
            "block",
            "no effect",
            "`allow`, `deny`",
        ),
        (
            "  exec: {rules: [{effect: ask, paths: [/a]}]}\n",
            (5, 27),
            "ask",
            "cannot hold a call",
            "write `deny`",
        ),
        (
            "  exec: {rules: [{effect: deny, class: Top, paths: [/a]}]}\n",
            (5, 40),
            "Top",
            "no class",
            "`secret`",
        ),
        (
            "  exec: {rules: [{effect: deny, name: \"a\\nb\", paths: [/a]}]}\n",
            (5, 39),
            "\"a\\nb\"",
            r"`a\nb` is no rule name",
            "printable",
        ),
        (
            "  exec: {rules: [{effect: deny, name: 'a ', paths: [/a]}]}\n",
            (5, 39),
            "'a '",
            "no rule name",
            "no space at the ends",
        ),
        (
            "  files: {rules: [{effect: deny, access: [], paths: [/a]}]}\n",
            (5, 42),
            "[",
            "`access` is an empty list",
            "at least one",
        ),
        (
            "  files: {rules: [{effect: deny, access: read, paths: [/a]}]}\n",
            (5, 42),
            "read",
            "a list is due",
            "`- …`",
        ),
        (
            "  files: {rules: [{effect: deny, access: [raed], paths: [/a]}]}\n",
            (5, 43),
            "raed",
            "no access",
            "did you mean `read`?",
        ),
        (
            "  files: {rules: [{effect: deny, access: [exec], paths: [/a]}]}\n",
            (5, 43),
            "exec",
            "no access",
            "`read`, `write`",
        ),
        // The part of the value that is at fault, quotes and columns of the file counted in.
        (
            "  exec: {rules: [{effect: deny, paths: [\"/ü/a?\"]}]}\n",
            (5, 46),
            "?",
            "not a wildcard",
            r"write `\?`",
        ),
        (
            "  exec: {rules: [{effect: deny, paths: [~/.ssh]}]}\n",
            (5, 41),
            "~",
            "`~` is not expanded",
            "`/home/*/.ssh`",
        ),
        (
            "  egress: {rules: [{effect: deny, to: ['a:1', 'b:99999']}]}\n",
            (5, 50),
            "99999",
            "`99999` is no port",
            "65535",
        ),
        (
            "  egress: {rules: [{effect: allow, to: [\"api*.openai.com:443\"]}]}\n",
            (5, 42),
            "api*.openai.com",
            "not a whole label",
            "one label before",
        ),
        (
            "  egress: {rules: [{effect: allow, to: [10.0.0.1/8]}]}\n",
            (5, 41),
            "10.0.0.1",
            "address bits",
            "write `10.0.0.0/8`",
        ),
        // Spelled otherwise than it reads: all of it.
        (
            "  exec: {rules: [{effect: deny, paths: [\"/\\x61//b\"]}]}\n",
            (5, 41),
            "\"/\\x61//b\"",
            "empty component",
            "single `/`",
        ),
        // YAML itself.
        (
            "  mode: audit\n  mode: audit\n",
            (6, 3),
            "mode",
            "`mode` stands here a second time",
            "keep one",
        ),
        ("  exec: {<<: {default: deny}}\n", (5, 10), "<<", "merge keys", "write the fields out"),
        ("  mode: *audit\n", (5, 9), "*audit", "unknown anchor", "YAML"),
        ("  mode: !secret audit\n", (5, 17), "audit", "unsupported tag", "YAML"),
        ("  mode: !!binary YXVkaXQ=\n", (5, 18), "YXVkaXQ=", "no mode", "`audit`"),
        ("\tmode: audit\n", (5, 2), "mode", "tab", "spaces"),
        (
            "  mode: audit\n---\nkind: b\n",
            (7, 1),
            "kind",
            "a second YAML document",
            "one file holds one policy",
        ),
    ];
    for (text, at, underlined, message, help) in cases {
        assert_told(&spec(text), *at, underlined, message, help);
    }
}

#[test]
fn what_every_policy_has_must_be_there() {
    let whole = spec("  mode: audit\n");
    let cases = [
        (
            "apiVersion: agent-guard.dev/v1alpha1\n",
            "no `apiVersion`",
            "add `apiVersion: agent-guard.dev/v1alpha1`",
        ),
        ("kind: AgentPolicy\n", "no `kind`", "add `kind: AgentPolicy`"),
        ("metadata: {name: a}\n", "`metadata` has no `name`", "add `name: coding-agent`"),
        ("spec:\n  mode: audit\n", "no `spec`", "add `spec: "),
    ];
    for (line, message, help) in cases {
        let first = whole.replace(line, "");
        let told = told(&first);
        let [(1, 1, _, said, fix)] = &*told else { panic!("{told:?}") };
        assert!(said.contains(message) && fix.contains(help), "{told:?}");
    }
    let cases = [
        (
            "v1alpha1",
            "v1",
            (1, 13),
            "agent-guard.dev/v1",
            "did you mean `agent-guard.dev/v1alpha1`?",
        ),
        ("AgentPolicy", "Pod", (2, 7), "Pod", "write `AgentPolicy`"),
        ("name: a", "name: A_b", (3, 18), "A_b", "`coding-agent`"),
        ("name: a", "name: ''", (3, 18), "''", "`coding-agent`"),
    ];
    for (old, new, at, underlined, help) in cases {
        assert_told(&whole.replacen(old, new, 1), at, underlined, "is no ", help);
    }
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_the_file() {
    let text = spec(concat!(
        "  mode: never\n",
        "  egress:\n",
        "    rules:\n",
        "      - {effect: allow, to: [\"127.1\", \"a:0\"]}\n",
        "      - {effect: ask, to: [\"a:1\"], class: \"\"}\n",
        "  files:\n",
        "    rules:\n",
        "      - {paths: [tmp]}\n",
    ));
    let lines: Vec<_> = told(&text).into_iter().map(|(line, ..)| line).collect();
    assert_eq!(lines, [5, 8, 8, 9, 9, 12, 12]);
    let error = Policy::parse("p.yaml", &text).unwrap_err();
    assert_eq!(error.to_string(), "p.yaml:5:9: the policy is refused, 7 problems");
    assert_eq!(rendered(&error).matches("help: ").count(), 7);
}

#[test]
fn more_mistakes_than_are_shown_are_counted() {
    let count = |paths: usize| {
        let paths = "x, ".repeat(paths);
        refusal(&spec(&format!("  exec: {{rules: [{{effect: deny, paths: [{paths}]}}]}}\n")))
    };
    assert_eq!((count(Refusal::SHOWN).problems.len(), count(Refusal::SHOWN).omitted), (20, 0));
    let refusal = count(Refusal::SHOWN + 1);
    assert_eq!((refusal.problems.len(), refusal.omitted), (20, 1));
    assert!(refusal.to_string().ends_with("the first 20 of 21 problems"), "{refusal}");
}

#[test]
fn no_text_that_is_no_policy_gets_through() {
    let deep = format!("a: {}", "[".repeat(100_000));
    let blocks: String = (0..2000).fold(String::new(), |mut text, depth| {
        writeln!(text, "{}a:", " ".repeat(depth)).unwrap();
        text
    });
    let cases = [
        ("", "empty"),
        ("\n# nothing\n", "empty"),
        ("~", "empty"),
        ("---\n...\n", "empty"),
        ("hello", "a map is due"),
        ("- a\n- b\n", "a map is due"),
        ("{", "YAML"),
        ("kind: \"AgentPolicy\n", "YAML"),
        ("\u{1}\u{2}\u{3}", "YAML"),
        ("kind: \u{1b}[31m", "YAML"),
        (&deep, ""),
        (&blocks, ""),
        ("kind: &a [*a]", ""),
    ];
    for (text, message) in cases {
        let refusal = refusal(text);
        let said = refusal.problems[0].to_string();
        assert!(said.contains(message), "{said}");
    }
}

#[test]
fn nesting_is_bounded_wherever_it_stands() {
    // Read into a form that takes anything, so that only the bound on depth can refuse it.
    let nested = |depth: usize| {
        let text = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        schema::read_as::<IgnoredAny>(&text).is_ok()
    };
    assert!(nested(schema::MAX_DEPTH));
    assert!(!nested(schema::MAX_DEPTH + 1));
    assert!(!nested(100_000));
}

#[test]
fn an_alias_bomb_is_refused_before_it_goes_off() {
    let bomb = |levels: usize| {
        let mut text = "- &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..levels {
            let aliases = vec![format!("*a{}", level - 1); 9].join(", ");
            writeln!(text, "- &a{level} [{aliases}]").unwrap();
        }
        schema::read_as::<IgnoredAny>(&text)
    };
    assert!(bomb(2).is_ok());
    let began = std::time::Instant::now();
    let mut notes = Notes::new("");
    notes.yaml_error(bomb(12).unwrap_err());
    let fault = &notes.refusal("p.yaml").problems[0].fault;
    assert!(matches!(fault, Fault::Excess { .. }), "{fault:?}");
    assert!(began.elapsed().as_secs() < 5);
}

#[test]
fn rules_and_patterns_are_bounded() {
    let rules = |count: usize| {
        spec(&format!(
            "  exec:\n    rules:\n{}",
            "    - {effect: deny, paths: [/a]}\n".repeat(count)
        ))
    };
    let policy = Policy::parse("p.yaml", &rules(MAX_RULES)).unwrap();
    assert_eq!(policy.exec.rules.len(), MAX_RULES);
    assert_told(
        &rules(MAX_RULES + 1),
        (7 + MAX_RULES, 7),
        "{",
        "more than 65000 rules",
        "patterns",
    );

    let paths = |count: usize| {
        let paths = "        - /a\n".repeat(count);
        spec(&format!("  exec:\n    rules:\n    - effect: deny\n      paths:\n{paths}"))
    };
    let policy = Policy::parse("p.yaml", &paths(MAX_PATTERNS)).unwrap();
    assert_eq!(policy.exec.rules[0].matcher.paths.len(), MAX_PATTERNS);
    assert_told(&paths(MAX_PATTERNS + 1), (7, 7), "effect", "more than 131072 paths", "`/usr/**`");
}

#[test]
fn labels_hold_at_their_last_length() {
    let rule = |name: usize, class: usize| {
        let (name, class) = ("n".repeat(name), "c".repeat(class));
        let rule = format!("{{effect: deny, name: {name}, class: {class}, paths: [/a]}}");
        Policy::parse("p.yaml", &spec(&format!("  exec: {{rules: [{rule}]}}\n"))).is_ok()
    };
    assert!(rule(MAX_RULE_NAME, MAX_CLASS));
    assert!(!rule(MAX_RULE_NAME + 1, MAX_CLASS));
    assert!(!rule(MAX_RULE_NAME, MAX_CLASS + 1));
    assert!(PolicyName::new(&"a".repeat(PolicyName::MAX)).is_some());
    assert!(PolicyName::new(&"a".repeat(PolicyName::MAX + 1)).is_none());
    assert!(
        ["", "-a", "a-", "A", "a.b", "a b", "ä"].into_iter().all(|n| PolicyName::new(n).is_none())
    );
}

#[test]
fn a_file_is_read_up_to_its_bound_and_not_beyond() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.yaml");
    let write = |bytes: &[u8]| std::fs::write(&path, bytes).unwrap();
    let text = spec("  mode: audit\n");
    let padded = |len: usize| format!("{text}#{}", "x".repeat(len - text.len() - 1));

    write(padded(MAX_FILE_BYTES).as_bytes());
    assert_eq!(Policy::load(&path).unwrap().mode, Mode::Audit);
    write(padded(MAX_FILE_BYTES + 1).as_bytes());
    assert!(matches!(Policy::load(&path), Err(PolicyError::TooLarge { .. })));
    assert!(matches!(
        Policy::parse("p", &padded(MAX_FILE_BYTES + 1)),
        Err(PolicyError::TooLarge { .. })
    ));

    // 100 MB, and an end that never comes: neither is read whole.
    std::fs::File::create(&path).unwrap().set_len(100_000_000).unwrap();
    assert!(matches!(Policy::load(&path), Err(PolicyError::TooLarge { .. })));
    assert!(matches!(Policy::load(Path::new("/dev/zero")), Err(PolicyError::TooLarge { .. })));
}

#[test]
fn a_file_that_is_no_text_or_no_file_is_told_apart() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"kind: a\nname: \xff\n").unwrap();
    let error = Policy::load(file.path()).unwrap_err();
    assert!(matches!(error, PolicyError::NotUtf8 { offset: 14, line: 2, .. }), "{error:?}");
    assert!(rendered(&error).contains(r"`\xNN`"));

    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path().to_owned(), dir.path().join("none")] {
        let error = Policy::load(&path).unwrap_err();
        assert!(matches!(error, PolicyError::Unreadable { .. }), "{error:?}");
        assert!(rendered(&error).contains(path.to_str().unwrap()));
    }
}

#[test]
fn a_report_sends_nothing_to_the_terminal_but_text() {
    let text = spec("  mode: \"a\u{202e}b\\e\" # \u{9b}31m\r\n");
    let shown = rendered(&Policy::parse("p.yaml", &text).unwrap_err());
    let hidden = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
    assert!(!shown.contains(hidden), "{shown:?}");
}

#[test]
fn of_a_line_too_long_to_show_the_place_is_told() {
    let paths = vec!["/some/path"; 1000].join(", ");
    let long = format!("{{effect: deny, paths: [{paths}]}}");
    let long_wrong = format!("{{effect: deny, paths: [{paths}, x]}}");
    let wrong = "{effect: deny, paths: [x]}".to_owned();
    for (rules, place) in [
        ([&long_wrong, &wrong], "line 7, column 12032: the path is relative"),
        ([&long, &wrong], "line 8, column 32: the path is relative"),
        ([&wrong, &long], "line 7, column 32: the path is relative"),
    ] {
        let [one, two] = rules;
        let text = spec(&format!("  exec:\n    rules:\n      - {one}\n      - {two}\n"));
        let shown = rendered(&Policy::parse("p.yaml", &text).unwrap_err());
        assert!(shown.len() < 1000, "{shown}");
        assert!(shown.contains(place), "{shown}");
    }
}

proptest! {
    #[test]
    fn no_bytes_panic_the_parser(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&bytes).unwrap();
        if let Err(error) = Policy::load(file.path()) {
            rendered(&error);
        }
    }

    /// A policy with one place overwritten by whatever YAML might stumble over.
    #[test]
    fn no_spoiled_policy_panics_the_parser(at: prop::sample::Index, spoiler in "[\\[\\]{}:,&*!|>'\"%@`#\n\t ~\\-?ü\u{feff}]{0,6}|\\PC{0,6}") {
        let mut text = spec("  mode: audit\n  egress: {default: deny, rules: [{effect: allow, to: [\"10.0.0.0/8:1-2/tcp\", \"é.example\"]}]}\n  files:\n    rules:\n      - {effect: deny, paths: [\"**/.env\", '/é/*']}\n");
        let at = at.index(text.len());
        if text.is_char_boundary(at) {
            let end = text.ceil_char_boundary((at + spoiler.len()).min(text.len()));
            text.replace_range(at..end, &spoiler);
        }
        if let Err(error) = Policy::parse("p.yaml", &text) {
            rendered(&error);
        }
    }
}
