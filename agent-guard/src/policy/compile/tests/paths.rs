use agent_guard_common::{
    decide::{Reason, Request},
    table::{AgentFlag, Effect},
};
use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

const REQUESTS: [Request; 3] = [Request::Read, Request::Write, Request::Exec];

fn allows(compiled: &Compiled, path: &str, request: Request) -> bool {
    decide(compiled, path, request, false).effect == Effect::Allow
}

#[test]
fn a_star_is_one_component_and_two_are_any_number() {
    let policy = policy(
        "files:\n  rules:\n    - {effect: allow, access: [read], paths: ['/one/*', '/deep/**', '/mid/**/end']}",
    );
    let compiled = compile_lexical(&policy);
    let reads = |path| allows(&compiled, path, Request::Read);
    assert!(reads("/one/x") && !reads("/one") && !reads("/one/x/y"));
    assert!(reads("/deep") && reads("/deep/x") && reads("/deep/x/y/z"));
    assert!(reads("/mid/end") && reads("/mid/x/y/end") && !reads("/mid/x/y"));
    assert!(!allows(&compiled, "/one/x", Request::Write));
    assert!(!allows(&compiled, "/one/x", Request::Exec));
}

#[test]
fn code_is_a_program_or_what_can_be_read_and_not_written_unless_a_rule_denies_it() {
    let policy = policy(
        "exec:\n  rules:\n    - {effect: allow, paths: ['/bin/*', '/w/run']}\n    - {effect: deny, paths: ['/lib/not']}\nfiles:\n  rules:\n    - {effect: allow, access: [read], paths: ['/lib/**']}\n    - {effect: allow, paths: ['/w/**']}",
    );
    let compiled = compile_lexical(&policy);
    let loads = |path| allows(&compiled, path, Request::Load);
    assert!(loads("/bin/a") && loads("/w/run") && loads("/lib/a"));
    assert!(!loads("/w/a"), "what can be written");
    assert!(!loads("/x"), "what can not be read");
    assert!(!loads("/lib/not"), "what a rule denies");
    let guarded = decide(&compiled, "/lib/a", Request::Load, true);
    assert_eq!(guarded.reason, Reason::Guarded, "a device is no library");
}

#[test]
fn deny_beats_allow_wherever_it_stands_and_the_first_rule_gives_its_name() {
    let policy = policy(
        "files:\n  default: allow\n  rules:\n    - {effect: allow, paths: ['/w/**']}\n    - {effect: deny, paths: ['**/.env', '**/.env.*']}\n    - {effect: deny, paths: ['/w/.env']}",
    );
    let compiled = compile_lexical(&policy);
    for path in ["/w/.env", "/w/a/.env", "/.env.local", "/w/.env."] {
        let decision = decide(&compiled, path, Request::Read, false);
        assert_eq!((decision.effect, decision.rule), (Effect::Deny, 1), "{path}");
    }
    assert_eq!(decide(&compiled, "/w/.envrc", Request::Read, false).rule, 0);
    assert_eq!(decide(&compiled, "/x", Request::Read, false).reason, Reason::Default);
}

#[test]
fn inner_names_are_lexed_only_where_a_pattern_has_a_glob_inside() {
    let flag = |paths: &str| {
        let policy =
            policy(&format!("files:\n  rules:\n    - {{effect: allow, paths: [{paths}]}}"));
        compile_lexical(&policy).flags & AgentFlag::INNER_GLOBS != 0
    };
    assert!(!flag("'**/*.pem', '/a/*/b*'"));
    assert!(flag("'**/x*/**'"));
    assert!(flag("'/home/a*/x'"));
}

#[test]
fn a_name_that_is_both_a_literal_and_fits_a_glob_is_denied_by_either() {
    let policy = policy(
        "files:\n  rules:\n    - {effect: allow, paths: ['/w/**', '/w/key.pem/x']}\n    - {effect: deny, paths: ['**/*.pem']}",
    );
    let compiled = compile_lexical(&policy);
    assert!(!allows(&compiled, "/w/key.pem", Request::Read));
    assert!(!allows(&compiled, "/w/other.pem", Request::Read));
    assert!(allows(&compiled, "/w/key.pem/x", Request::Read));
    assert!(allows(&compiled, "/w/other.pem/x", Request::Read));
}

#[test]
fn a_star_matches_newlines_and_bytes_that_are_no_text() {
    let policy = policy(
        "files:\n  default: allow\n  rules:\n    - {effect: deny, paths: ['**/a*z', '**/*\\xff*']}",
    );
    let compiled = compile_lexical(&policy);
    for name in [&b"a\nz"[..], b"a\xc3\x28z", b"az", b"\xff", b"q\xffq"] {
        let path = vec![b"d"[..].into(), name.into()];
        let decision = decide_at(&compiled, 0, &path, Request::Read, false);
        assert_eq!(decision.effect, Effect::Deny, "{}", name.escape_ascii());
    }
    assert!(allows(&compiled, "/d/bz", Request::Read));
}

#[test]
fn a_guarded_object_needs_a_rule_that_names_it() {
    let policy = policy(
        "files:\n  default: allow\n  rules:\n    - {effect: allow, paths: ['/dev/**', '/dev/sda']}\n    - {effect: deny, paths: ['/dev/sd*b']}",
    );
    let compiled = compile_lexical(&policy);
    assert_eq!(decide(&compiled, "/dev/sda", Request::Read, true).effect, Effect::Allow);
    assert_eq!(decide(&compiled, "/dev/sdc", Request::Read, true), Decision::deny(Reason::Guarded));
    assert_eq!(decide(&compiled, "/dev/sdb", Request::Read, true).reason, Reason::Rule);
}

#[test]
fn kernel_memory_needs_a_rule_that_names_it_even_under_default_allow() {
    let wild = compile_lexical(&policy(
        "files:\n  default: allow\n  rules:\n    - {effect: allow, paths: ['/proc/**', '/proc/*', '/proc/k*']}",
    ));
    for name in ["kcore", "kallsyms", "kmsg", "sysrq-trigger", "vmcore"] {
        let path = format!("/proc/{name}");
        assert!(!allows(&wild, &path, Request::Read), "{path}");
        assert!(!allows(&wild, &path, Request::Write), "{path}");
    }
    assert!(allows(&wild, "/proc/meminfo", Request::Read));
    assert!(allows(&wild, "/elsewhere/kcore", Request::Read));
    let named = compile_lexical(&policy(
        "files:\n  rules:\n    - {effect: allow, access: [read], paths: ['/proc/kcore']}",
    ));
    assert!(allows(&named, "/proc/kcore", Request::Read));
    assert!(!allows(&named, "/proc/kcore", Request::Write));
}

#[test]
fn a_thread_is_its_process() {
    let policy = policy(
        "files:\n  rules:\n    - {effect: allow, access: [read], paths: ['/proc/thread-self/status']}",
    );
    let compiled = compile_lexical(&policy);
    assert!(allows(&compiled, "/proc/self/task/41/status", Request::Read));
    assert!(!allows(&compiled, "/proc/self/status", Request::Read));
}

#[test]
fn the_root_itself_is_a_place() {
    let compiled = compile_lexical(&policy(
        "files:\n  rules:\n    - {effect: allow, access: [read], paths: ['/']}",
    ));
    assert!(allows(&compiled, "/", Request::Read));
    assert!(!allows(&compiled, "/x", Request::Read));
}

#[test]
fn an_audit_policy_says_so_to_the_kernel() {
    let compiled = compile_lexical(&policy("mode: audit"));
    assert_eq!(compiled.flags, AgentFlag::AUDIT);
}

#[test]
fn names_that_share_a_hash_ask_for_another_key() {
    // Under the zero key nothing is mixed: these differ in what the hash forgets.
    let policy = policy(
        "files:\n  rules:\n    - {effect: allow, paths: ['/aaaaaaaa', '/\\x45aa\\xe1eaa\\xe1']}",
    );
    let filesystems = Filesystems::lexical();
    let environment = Environment { filesystems: &filesystems, links: &NoLinks };
    let refused = super::super::compile(&policy, &environment, [0; 2]);
    assert!(matches!(refused, Err(super::super::CompileError::HashCollision)));
    assert!(super::super::compile(&policy, &environment, KEY).is_ok());
}

fn pattern() -> impl Strategy<Value = String> {
    let component = select(vec![
        "a", "b", "c.k", "proc", "kcore", "*", "**", "*.k", "a*", "*a*b*", "b*b", "**", "*",
    ]);
    vec(component, 0..5).prop_map(|components| {
        // `***` is no pattern, and `**` twice in a row is the same as once.
        format!("/{}", components.join("/"))
    })
}

pub fn section(rule: impl Strategy<Value = String> + 'static) -> impl Strategy<Value = String> {
    (select(vec!["allow", "deny"]), vec(rule, 0..7)).prop_map(|(default, rules)| {
        let rules: String = rules.iter().map(|rule| format!("\n    - {rule}")).collect();
        let rules = if rules.is_empty() { " []".to_owned() } else { rules };
        format!("\n  default: {default}\n  rules:{rules}")
    })
}

pub fn any_policy() -> impl Strategy<Value = Policy> {
    let paths =
        || vec(pattern(), 1..4).prop_map(|paths| format!("paths: ['{}']", paths.join("', '")));
    let effect = || select(vec!["allow", "deny"]);
    let access = select(vec!["[read]", "[write]", "[read, write]"]);
    let file = (effect(), access, paths()).prop_map(|(effect, access, paths)| {
        format!("{{effect: {effect}, access: {access}, {paths}}}")
    });
    let exec =
        (effect(), paths()).prop_map(|(effect, paths)| format!("{{effect: {effect}, {paths}}}"));
    (section(file), section(exec), vec(proptest::bool::ANY, 7)).prop_map(|(files, exec, pinned)| {
        let mut policy = policy(&format!("files:{files}\nexec:{exec}"));
        // Here, because files to pin are looked for, and some of these patterns begin anywhere.
        for (rule, pinned) in policy.exec.rules.iter_mut().zip(pinned) {
            rule.matcher.pin =
                (pinned && rule.effect == policy::Effect::Allow).then_some(policy::Pin::AsLoaded);
        }
        policy
    })
}

pub fn any_path(depth: usize) -> impl Strategy<Value = Path> {
    let names = ["a", "b", "c.k", "a.k", "ab", "aab", "bab", "bb", "z", "proc", "kcore", "\n"];
    vec(select(names.to_vec()), 0..depth)
        .prop_map(|names| names.iter().map(|name| name.as_bytes().into()).collect())
}

fn is_kernel_memory(path: &Path) -> bool {
    path.len() == 2 && *path[0] == *b"proc" && *path[1] == *b"kcore"
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn tables_decide_as_the_patterns_do(
        policy in any_policy(),
        paths in vec(any_path(6), 20),
    ) {
        let compiled = compile_lexical(&policy);
        let tables = MemoryTables::new(&compiled);
        for path in &paths {
            for request in REQUESTS {
                for guarded in [false, true] {
                    let found = decide_in(&tables, &compiled, 0, path, (request, guarded));
                    let kernel_memory = is_kernel_memory(path);
                    let due =
                        naive(&policy, &[(path.clone(), true)], request, guarded || kernel_memory);
                    prop_assert_eq!(
                        (found.effect, found.rule), (due.effect, due.rule),
                        "{:?} {:?} guarded={}", path, request, guarded
                    );
                    if !kernel_memory {
                        prop_assert_eq!(found.reason, due.reason);
                    }
                }
            }
        }
    }
}
