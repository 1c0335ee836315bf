//! Two places are alike only where every decision at them, and below them, is the same.

use agent_guard_common::decide::{Moved, Request, alike};
use proptest::{collection::vec, prelude::*};

use super::{
    MemoryTables, Path, compile_lexical, decide_in,
    paths::{any_path, any_policy},
    policy,
};

const REQUESTS: [Request; 5] =
    [Request::Read, Request::Write, Request::ReadWrite, Request::Exec, Request::Load];

fn is_alike(spec: &str, one: &str, other: &str, moved: Moved) -> bool {
    let compiled = compile_lexical(&policy(spec));
    let tables = MemoryTables::new(&compiled);
    let at = |path: &str| tables.walk(0, &super::components(path.as_bytes())).unwrap();
    alike(&tables, &compiled.agent(1, 1), at(one), at(other), moved)
}

const FILE: Moved = Moved { directory: false, guarded: false };
const DEVICE: Moved = Moved { directory: false, guarded: true };
const DIRECTORY: Moved = Moved { directory: true, guarded: false };

#[test]
fn rules_that_say_the_same_make_no_difference() {
    let spec = r#"
files:
  rules:
    - {effect: allow, paths: ["/a/**", "/b/**"]}
    - {effect: allow, paths: ["/c/**"]}
    - {effect: allow, paths: ["/a/exact"]}
    - {effect: deny, paths: ["**/.env"]}
"#;
    assert!(is_alike(spec, "/a/x", "/b/x", FILE));
    assert!(is_alike(spec, "/a/x", "/c/x", DIRECTORY));
    assert!(is_alike(spec, "/a/x", "/c/x/y/z", DIRECTORY));
    assert!(!is_alike(spec, "/a", "/c", DIRECTORY), "a device called /a/exact");
    assert!(is_alike(spec, "/a/exact", "/a/x", FILE));
    assert!(!is_alike(spec, "/a/exact", "/a/x", DEVICE));
    assert!(!is_alike(spec, "/a/.env", "/a/x", FILE));
}

#[test]
fn what_is_denied_below_one_place_alone_tells_them_apart() {
    let spec = r#"
files:
  default: allow
  rules: [{effect: deny, paths: ["/a/b/c/d/secret"]}]
"#;
    assert!(!is_alike(spec, "/a/b", "/x", DIRECTORY));
    assert!(is_alike(spec, "/a/b", "/x", FILE));
    assert!(is_alike(spec, "/a/b/c/e", "/x", DIRECTORY));
}

#[test]
fn a_denial_by_a_rule_is_not_one_by_default() {
    let spec = r#"
files:
  rules: [{effect: allow, access: [write], paths: ["/a/*"]}, {effect: deny, access: [read], paths: ["/a/x"]}]
"#;
    assert!(!is_alike(spec, "/a/x", "/a/y", FILE));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn places_that_are_alike_decide_alike_here_and_below(
        policy in any_policy(),
        places in vec(any_path(4), 6),
        below in vec(any_path(4), 12),
    ) {
        let compiled = compile_lexical(&policy);
        let tables = MemoryTables::new(&compiled);
        let agent = compiled.agent(1, 1);
        let decide = |path: &Path, request, guarded| {
            decide_in(&tables, &compiled, 0, path, (request, guarded)).effect
        };
        for (one, other) in places.iter().zip(&places[1..]) {
            let states = [one, other].map(|place| tables.walk(0, place).unwrap());
            for request in REQUESTS {
                for guarded in [false, true] {
                    let moved = Moved { directory: false, guarded };
                    if alike(&tables, &agent, states[0], states[1], moved) {
                        prop_assert_eq!(
                            decide(one, request, guarded), decide(other, request, guarded),
                            "{:?} {:?} {:?}", one, other, request
                        );
                    }
                    if !alike(&tables, &agent, states[0], states[1], DIRECTORY) {
                        continue;
                    }
                    for path in &below {
                        let [a, b] = [one, other].map(|place| [&place[..], path].concat());
                        prop_assert_eq!(
                            decide(&a, request, guarded), decide(&b, request, guarded),
                            "{:?} {:?} {:?}", a, b, request
                        );
                    }
                }
            }
        }
    }
}
