use agent_guard_common::event::{Action as Kind, Outcome};

use super::*;
use crate::{
    event::{
        Object, Record,
        fixture::{decided, denied, endpoint, file, socket},
    },
    policy::{
        explain::{explain_connect, explain_open, explain_unix},
        replay::tests::{collect, looked_up, observed},
    },
};

fn settings() -> Settings {
    Settings { name: PolicyName::new("made").unwrap(), workspace: None }
}

fn made(records: &[Record]) -> Generated {
    generate(&collect(records), &settings()).unwrap()
}

fn read(path: &str) -> Record {
    observed(Kind::Read, file(path.as_bytes()))
}

fn write(path: &str) -> Record {
    observed(Kind::ReadWrite, file(path.as_bytes()))
}

fn allows(made: &Generated, path: &str, access: AccessSet) -> bool {
    let answer = explain_open(&made.policy, path.as_ref(), access, &NoLinks).unwrap();
    answer.decision.effect == Effect::Allow
}

/// A run of a coding agent in small: sources, a compiler's temporary files, git, Python's library.
fn work() -> Vec<Record> {
    let mut records = vec![
        observed(Kind::Exec, file(b"/usr/bin/gcc-12")),
        observed(Kind::Load, file(b"/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")),
        read("/proc/1234/status"),
        read("/etc/passwd"),
        write("/dev/null"),
        write("/srv/p/.git/objects/0a/tmp_obj_zcvdnh"),
        read("/srv/p/.git/objects/0a/bdf8e92e3056425d4194364b6d00c62e8a6bae"),
        write("/srv/p/.git/index.lock"),
        write("/tmp/ccMVCRMV.o"),
    ];
    records.extend((0..10).map(|at| {
        read(&format!("/usr/lib/python3.11/mod{}.py", "abcdefghij".as_bytes()[at] as char))
    }));
    records.extend(
        (0..10).map(|at| write(&format!("/srv/p/out/{}/x.o", "abcdefghij".as_bytes()[at] as char))),
    );
    records
}

#[test]
fn everything_that_was_done_is_allowed_by_what_is_made() {
    let records = work();
    let made = made(&records);
    assert_eq!(made.left_out, []);
    let judge = Judge::new(&made.policy, &NoLinks).unwrap();
    for action in collect(&records).actions {
        assert_eq!(judge.judge(&action.question).effect, Effect::Allow, "{}", action.question);
    }
}

#[test]
fn the_same_is_made_of_the_same_in_whatever_order() {
    let mut records = work();
    let first = made(&records).text;
    records.reverse();
    assert_eq!(made(&records).text, first);
}

#[test]
fn it_is_no_wider_than_the_places_that_were_used() {
    use AccessSet::{Read, ReadWrite, Write};
    let made = made(&work());
    for (path, access) in [
        // The next run's names.
        ("/tmp/ccAbCdEf.o", ReadWrite),
        ("/srv/p/.git/objects/ff/tmp_obj_AbCdEf", ReadWrite),
        ("/usr/lib/python3.12/modz.py", Read),
        ("/srv/p/out/z/y.o", ReadWrite),
    ] {
        assert!(allows(&made, path, access), "{path}");
    }
    for (path, access) in [
        ("/etc/hostname", Read),
        ("/etc/passwd", Write),
        ("/usr/lib/python3.11/moda.py", Write),
        ("/usr/lib/ruby/x.rb", Read),
        ("/usr/bin/gcc-12", Write),
        ("/srv/p/main.c", Read),
        ("/srv/p/.git/config", Write),
        ("/srv/q", Read),
        ("/srv/p/out/a/.env", Read),
        ("/tmp/other", Read),
        ("/tmp/ccAbCdEf.o/x", Read),
        ("/root/.ssh/id_rsa", Read),
        ("/dev/sda", Read),
        ("/proc/meminfo", Read),
        ("/home/ada/x", Read),
    ] {
        assert!(!allows(&made, path, access), "{path}");
    }
}

#[test]
fn secrets_are_left_out_named_and_stay_denied_under_every_pattern() {
    let mut records: Vec<Record> = (0..12)
        .map(|at| read(&format!("/srv/p/conf/{}", "abcdefghijkl".as_bytes()[at] as char)))
        .collect();
    records.push(read("/srv/p/conf/.env"));
    records.push(read("/root/.aws/credentials"));
    records.push(observed(Kind::Connect, endpoint("169.254.169.254", 80, libc::IPPROTO_TCP)));
    records.push(observed(Kind::ConnectLocal, socket(b"/run/docker.sock")));
    let made = made(&records);
    let left: Vec<String> =
        made.left_out.iter().map(|left| format!("{}: {}", left.question, left.why)).collect();
    let built_in = |what, rule| format!("{what}: the built-in policy denies it, rule `{rule}`");
    let due = [
        built_in("connect /run/docker.sock", "give-the-host-away"),
        built_in("connect 169.254.169.254:80/tcp", "metadata-service"),
        built_in("read /root/.aws/credentials", "secrets"),
        built_in("read /srv/p/conf/.env", "secrets"),
    ];
    assert_eq!(left, due);
    assert!(due.iter().all(|line| made.text.contains(line.split(':').next().unwrap())));
    assert!(allows(&made, "/srv/p/conf/z", AccessSet::Read));
    for secret in ["/srv/p/conf/.env", "/srv/p/conf/id_rsa", "/srv/p/conf/.ssh/x"] {
        assert!(!allows(&made, secret, AccessSet::Read), "{secret}");
    }
}

#[test]
fn what_was_denied_when_it_was_recorded_is_not_allowed_by_what_is_made() {
    let mut records: Vec<Record> = (0..12)
        .map(|at| read(&format!("/srv/p/conf/{}", "abcdefghijkl".as_bytes()[at] as char)))
        .collect();
    records.push(denied(Kind::Read, file(b"/srv/p/conf/failed")));
    records.push(decided(
        denied(Kind::Read, file(b"/srv/p/conf/own")),
        Outcome::Observed,
        Reason::Rule,
    ));
    let made = made(&records);
    let left: Vec<&Why> = made.left_out.iter().map(|left| &left.why).collect();
    assert_eq!(left, [&Why::Failed, &Why::Recorded { rule: "secrets".to_owned() }]);
    assert!(allows(&made, "/srv/p/conf/other", AccessSet::Read));
    assert!(!allows(&made, "/srv/p/conf/failed", AccessSet::Read));
    assert!(!allows(&made, "/srv/p/conf/own", AccessSet::Read));
}

#[test]
fn what_was_read_only_is_not_written_because_its_neighbours_were() {
    let mut records: Vec<Record> = (0..12)
        .map(|at| write(&format!("/srv/p/src/{}", "abcdefghijkl".as_bytes()[at] as char)))
        .collect();
    records.push(read("/srv/p/src/main"));
    let made = made(&records);
    assert!(allows(&made, "/srv/p/src/main", AccessSet::Read));
    assert!(!allows(&made, "/srv/p/src/main", AccessSet::Write));
    assert!(!allows(&made, "/srv/p/src/new", AccessSet::Write));
}

#[test]
fn code_that_the_agent_can_write_is_named_as_a_program() {
    let made = made(&[
        write("/srv/p/a.so"),
        observed(Kind::Map, file(b"/srv/p/a.so")),
        observed(Kind::Map, file(b"/usr/lib/b.so")),
    ]);
    assert_eq!(made.left_out, []);
    let run: Vec<&str> = made
        .policy
        .exec
        .rules
        .iter()
        .filter(|rule| rule.effect == super::super::Effect::Allow)
        .flat_map(|rule| &rule.matcher.paths)
        .map(|path| path.text.as_str())
        .collect();
    assert_eq!(run, ["/srv/p/a.so"]);
    assert!(allows(&made, "/usr/lib/b.so", AccessSet::Read));
}

#[test]
fn a_file_keeps_what_may_be_done_with_it_where_names_are_changed() {
    let only_written = || observed(Kind::Write, file(b"/srv/p/x.lock"));
    let still = made(&[only_written()]);
    assert!(!allows(&still, "/srv/p/x.lock", AccessSet::Read));
    let moved =
        made(&[only_written(), write("/srv/p/x"), observed(Kind::Rename, file(b"/srv/p/x"))]);
    assert!(allows(&moved, "/srv/p/x.lock", AccessSet::ReadWrite));
}

#[test]
fn hosts_go_by_their_names_where_they_were_asked_for() {
    let tcp = |address, port| observed(Kind::Connect, endpoint(address, port, libc::IPPROTO_TCP));
    let made = made(&[
        looked_up("api.example", "192.0.2.1"),
        tcp("192.0.2.1", 443),
        observed(Kind::Connect, endpoint("192.0.2.1", 0, libc::IPPROTO_UDP)),
        tcp("198.51.100.7", 22),
        looked_up("asked.example", "192.0.2.8"),
    ]);
    let allows = |endpoint| {
        explain_connect(&made.policy, endpoint).unwrap().decision.effect == Effect::Allow
    };
    assert!(allows("api.example:443") && allows("198.51.100.7:22"));
    for other in [
        "192.0.2.1:443",
        "api.example:80",
        "api.example:443/udp",
        "198.51.100.7:23",
        "asked.example:443",
    ] {
        assert!(!allows(other), "{other}");
    }
    let left: Vec<(String, &Why)> =
        made.left_out.iter().map(|left| (left.question.to_string(), &left.why)).collect();
    assert_eq!(left, [("resolve asked.example".to_owned(), &Why::NameOnly)]);
}

#[test]
fn a_name_that_leads_inside_comes_with_the_address() {
    let made = made(&[
        looked_up("db.example", "10.0.0.7"),
        observed(Kind::Connect, endpoint("10.0.0.7", 5432, libc::IPPROTO_TCP)),
    ]);
    for end in ["db.example:5432", "10.0.0.7:5432"] {
        let answer = explain_connect(&made.policy, end).unwrap();
        assert_eq!(answer.decision.effect, Effect::Allow, "{end}");
    }
}

#[test]
fn sockets_operations_and_listeners_have_rules_and_what_hands_the_host_over_has_none() {
    let operation = |operation| observed(Kind::Operate, Object::Operation(operation, 0));
    let made = made(&[
        observed(Kind::ConnectLocal, socket(b"/run/postgresql/.s.PGSQL.5432")),
        observed(Kind::ConnectLocal, socket(b"@odd '*\x00")),
        observed(Kind::Listen, endpoint("127.0.0.1", 40_123, libc::IPPROTO_TCP)),
        operation(Operation::Chroot),
        operation(Operation::Bpf),
    ]);
    let unix = |name| explain_unix(&made.policy, name, &NoLinks).unwrap().decision.effect;
    assert_eq!(unix("/run/postgresql/.s.PGSQL.5432"), Effect::Allow);
    assert_eq!(unix(r"@odd '\*\x00"), Effect::Allow);
    assert_eq!(unix("@odd"), Effect::Deny);
    assert!(made.text.contains("- '127.0.0.1:32768-60999/tcp'"), "{}", made.text);
    assert!(made.text.contains("- 'chroot'"));
    let left: Vec<(String, &Why)> =
        made.left_out.iter().map(|left| (left.question.to_string(), &left.why)).collect();
    assert_eq!(left, [("bpf".to_owned(), &Why::HandsOver)]);
}

#[test]
fn names_that_mean_something_to_yaml_or_to_patterns_mean_themselves() {
    let odd = ["/srv/p/it's # not: a comment", "/srv/p/[x]*{y}?", "/srv/p/- a", "/srv/p/größe"];
    let made = made(&odd.map(read));
    for path in odd {
        assert!(allows(&made, path, AccessSet::Read), "{path}");
    }
    assert!(!allows(&made, "/srv/p/[x]z{y}?", AccessSet::Read));
}

#[test]
fn a_workspace_has_its_keys_among_the_secrets() {
    let records = [read("/srv/p/a"), read("/srv/p/tls.pem")];
    let plain = made(&records);
    assert_eq!(plain.left_out, []);
    let settings = Settings { workspace: Some("/srv/p".into()), ..settings() };
    let made = generate(&collect(&records), &settings).unwrap();
    assert_eq!(made.left_out.len(), 1);
    assert!(!allows(&made, "/srv/p/tls.pem", AccessSet::Read));
}

#[test]
fn many_patterns_give_way_until_they_fit_and_secrets_stay_denied() {
    let records: Vec<Record> = (0..400)
        .map(|at| {
            let word: String =
                (0..4).map(|digit| char::from(b'g' + ((at >> (2 * digit)) % 4) as u8)).collect();
            write(&format!("/srv/p/{word}/sub/{word}-1a2b3c4d5e6f7a8b.{word}x"))
        })
        .collect();
    let made = made(&records);
    assert_eq!(made.left_out, []);
    assert!(!allows(&made, "/srv/p/gggg/sub/id_rsa", AccessSet::Read));
    assert!(!allows(&made, "/srv/q", AccessSet::Read));
}

#[test]
fn a_recording_of_nothing_makes_no_policy() {
    assert!(matches!(generate(&collect(&[]), &settings()), Err(GenerateError::Nothing)));
}
