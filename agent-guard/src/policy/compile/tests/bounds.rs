use std::fmt::Write;

use agent_guard_common::{
    decide::Request,
    limits::{MAX_DEPTH, MAX_INTERVALS, MAX_RULES, OWN_RULES, PATH_BYTES},
};

use super::{
    super::{CompileError, MAX_PREFIXES},
    *,
};

fn try_compile(policy: &Policy) -> Result<Compiled, CompileError> {
    let filesystems = Filesystems::lexical();
    let environment = Environment { filesystems: &filesystems, links: &NoLinks };
    super::super::compile(policy, &environment, KEY)
}

fn files(paths: impl Iterator<Item = String>) -> Policy {
    let mut spec = "files:\n  rules:\n".to_owned();
    for path in paths {
        writeln!(spec, "    - {{effect: allow, paths: ['{path}']}}").unwrap();
    }
    policy(&spec)
}

#[test]
fn ten_thousand_path_rules_cost_ten_times_a_thousand() {
    let size = |count: usize| {
        let literal = (0..count - 10).map(|n| format!("/srv/app{}/conf{n}/main", n % 50));
        let wild = (0..10).map(|n| format!("**/.secret{n}"));
        compile_lexical(&files(literal.chain(wild))).path_size()
    };
    let (small, large) = (size(1000), size(10_000));
    assert!(large.0 <= small.0 * 10 && large.1 <= small.1 * 10, "{small:?} {large:?}");
}

#[test]
fn ten_thousand_networks_take_ten_thousand_rows() {
    let mut spec = "egress:\n  rules:\n".to_owned();
    for n in 0..10_000 {
        let (high, low) = (n >> 8, n & 255);
        writeln!(spec, "    - {{effect: allow, to: ['10.{high}.{low}.0/24:443']}}").unwrap();
    }
    let compiled = compile_lexical(&policy(&spec));
    assert_eq!((compiled.prefixes.len(), compiled.intervals.len()), (10_000, 10_000));
}

#[test]
fn rules_that_cover_directories_everywhere_do_not_multiply() {
    let policy = files((0..60).map(|n| format!("**/dir{n}/**")));
    let (states, _) = compile_lexical(&policy).path_size();
    assert!(states < 100, "{states}");
}

#[test]
fn patterns_that_multiply_are_refused_by_name() {
    let policy = files((0..40).map(|n| format!("**/d{n}/*/*/*/*/*/x")));
    let Err(CompileError::Paths { patterns, .. }) = try_compile(&policy) else {
        panic!("it was compiled");
    };
    assert_eq!(patterns.len(), 3);
    assert!(patterns[0].contains("**/d0/*/*/*/*/*/x"), "{patterns:?}");
}

#[test]
fn name_globs_that_multiply_are_refused_by_name() {
    let policy = files((0..12).map(|n| format!("/d/*a{n}*b*c*")));
    match try_compile(&policy) {
        Err(CompileError::Globs { example, .. } | CompileError::GlobsUnbounded { example }) => {
            assert_eq!(example, "`*a0*b*c*`");
        }
        _ => panic!("it was compiled"),
    }
}

#[test]
fn three_hundred_endings_fit_the_glob_table() {
    let policy = files((0..300).map(|n| format!("**/*.x{n}")));
    assert!(try_compile(&policy).is_ok());
}

#[test]
fn port_ranges_under_one_prefix_are_refused_above_their_bound() {
    let ports = |count: u32| {
        let mut spec = "egress:\n  rules:\n".to_owned();
        for n in 1..=count {
            writeln!(spec, "    - {{effect: allow, to: ['10.0.0.1:{}']}}", n * 2).unwrap();
        }
        policy(&spec)
    };
    let full = try_compile(&ports(MAX_INTERVALS)).unwrap();
    assert_eq!(full.prefixes[0].ports.count, MAX_INTERVALS);
    let Err(CompileError::Intervals { prefix, rule, .. }) = try_compile(&ports(MAX_INTERVALS + 1))
    else {
        panic!("it was compiled");
    };
    assert_eq!((prefix.as_str(), rule.line), ("10.0.0.1/32", 7 + MAX_INTERVALS as usize));
}

#[test]
fn prefixes_are_refused_above_their_bound() {
    let base = policy("egress:\n  rules:\n    - {effect: allow, to: ['10.0.0.1']}");
    let with = |count: usize| {
        let mut policy = base.clone();
        let target = policy.egress.rules[0].matcher[0].clone();
        policy.egress.rules[0].matcher = (0..count as u32)
            .map(|n| {
                // Every other address: none adds nothing to another.
                let addr = std::net::Ipv4Addr::from_bits(n * 2);
                let net = ipnet::Ipv4Net::new(addr, 32).unwrap();
                policy::Target { host: policy::Host::Net(net.into()), ..target.clone() }
            })
            .collect();
        policy
    };
    assert_eq!(try_compile(&with(MAX_PREFIXES)).unwrap().intervals.len(), 1);
    assert!(matches!(try_compile(&with(MAX_PREFIXES + 1)), Err(CompileError::Egress { .. })));
}

#[test]
fn rules_are_refused_above_the_number_of_ids() {
    let base = policy("egress:\n  rules:\n    - {effect: allow, to: ['10.0.0.1']}");
    let with = |count: usize| {
        let mut policy = base.clone();
        policy.egress.rules = vec![policy.egress.rules[0].clone(); count];
        policy
    };
    assert!(try_compile(&with(MAX_RULES + OWN_RULES)).is_ok());
    let beyond = with(MAX_RULES + OWN_RULES + 1);
    assert!(matches!(try_compile(&beyond), Err(CompileError::Rules { .. })));
}

#[test]
fn a_path_at_the_bounds_is_judged_and_one_beyond_is_denied() {
    let compiled = compile_lexical(&policy("files:\n  default: allow"));
    let read = |path: &Path| decide_at(&compiled, 0, path, Request::Read, false);
    let deep = |count| vec![b"d"[..].into(); count];
    assert_eq!(read(&deep(MAX_DEPTH)).effect, Effect::Allow);
    assert_eq!(read(&deep(MAX_DEPTH + 1)), Decision::deny(Reason::TooDeep));

    // 255 bytes and the NUL take 256: after sixteen of them the bound is reached, not passed.
    let long = |count| vec![[b'n'; 255][..].into(); count];
    assert_eq!(PATH_BYTES, 16 * 256);
    assert_eq!(read(&long(17)).effect, Effect::Allow);
    assert_eq!(read(&long(18)), Decision::deny(Reason::TooLong));
}
