//! The command line where it needs no privileges: words, exit codes, and what goes to which stream.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]
#![expect(clippy::unwrap_used, reason = "a test: what it does not expect, it fails by")]

use std::{
    fs,
    io::Write,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

const GOOD: &str = "apiVersion: agent-guard.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {name: good}\nspec:\n  files: {default: deny}\n";

/// An id that is nobody's.
const NOBODY: u32 = 65534;

fn agent_guard(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agent-guard"));
    command.args(arguments).env_remove("NO_COLOR").stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    agent_guard(arguments).output().unwrap()
}

fn with_input(arguments: &[&str], input: &[u8]) -> Output {
    let mut command = agent_guard(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Who refuses early does not read on.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Fails unless the command exited with `code`, said nothing on standard output and all of `words`
/// on standard error.
#[track_caller]
fn refused(output: &Output, code: i32, words: &[&str]) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert_eq!(text(&output.stdout), "");
    for word in words {
        assert!(said.contains(word), "`{word}` is not in: {said}");
    }
}

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

fn check(file: &Path) -> Output {
    run(&["policy", "check", file.to_str().unwrap()])
}

#[test]
fn a_good_policy_is_said_to_be_good_on_standard_output() {
    let files = Files::new();
    let output = check(&files.write("good.yaml", GOOD));
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains("good"));
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn a_policy_may_come_from_standard_input() {
    let output = with_input(&["policy", "check", "-"], GOOD.as_bytes());
    assert_eq!(output.status.code(), Some(0));
    refused(&with_input(&["policy", "check", "-"], b"kind: x"), 1, &["-"]);
    refused(&with_input(&["policy", "check", "-"], b""), 1, &[]);
}

#[test]
fn every_problem_of_a_policy_is_told_with_its_place_and_its_fix() {
    let files = Files::new();
    let bad = GOOD.replace(
        "files: {default: deny}",
        "files: {default: maybe, rule: []}\n  egress: {rules: [{effect: allow, to: [\"10.0.0.0/33\"]}]}",
    );
    let output = check(&files.write("bad.yaml", bad));
    refused(&output, 1, &["bad.yaml", "maybe", "rule", "10.0.0.0/33"]);
}

#[test]
fn what_is_no_policy_is_refused_at_once_and_in_words() {
    let files = Files::new();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let twice = GOOD.replace("kind: AgentPolicy", "kind: AgentPolicy\nkind: AgentPolicy");
    let cases: [(&str, Vec<u8>); 6] = [
        ("empty", Vec::new()),
        ("deep", deep.into_bytes()),
        ("twice", twice.into_bytes()),
        ("binary", vec![0xff; 64]),
        ("tabs", b"spec:\n\t- x\n".to_vec()),
        ("other", b"apiVersion: v1\nkind: Pod\n".to_vec()),
    ];
    for (name, content) in cases {
        refused(&check(&files.write(name, content)), 1, &[name]);
    }
}

#[test]
fn a_policy_of_100_megabytes_is_refused_without_being_read() {
    let files = Files::new();
    let path = files.0.path().join("huge");
    fs::File::create(&path).unwrap().set_len(100 << 20).unwrap();
    refused(&check(&path), 1, &["huge", "4194304 bytes"]);
}

#[test]
fn a_policy_that_can_not_be_read_is_named() {
    let files = Files::new();
    refused(&run(&["policy", "check", "/no/such/file"]), 1, &["/no/such/file"]);
    refused(&check(files.0.path()), 1, &[files.0.path().to_str().unwrap()]);
}

#[test]
fn a_message_has_no_colour_where_it_is_not_for_a_terminal() {
    let files = Files::new();
    let output = check(&files.write("bad.yaml", "spec: 1"));
    assert!(!text(&output.stderr).contains('\x1b'));
}

#[test]
fn bad_usage_exits_with_2() {
    for arguments in [
        &["run"][..],
        &["run", "--policy", "p.yaml"],
        &["run", "--policy", "p.yaml", "--"],
        &["run", "--tier", "strong", "--", "true"],
        &["run", "--mode", "maybe", "--", "true"],
        &["run", "--agent", "Not A Name", "--", "true"],
        &["run", "--allow-degraded", "all", "--", "true"],
        &["policy", "check"],
        &["policy", "no-such-command"],
        &["no-such-command"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert_eq!(text(&output.stdout), "", "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
    assert_eq!(run(&[]).status.code(), Some(2));
}

#[test]
fn every_command_explains_itself_on_standard_output() {
    for arguments in [
        &["--help"][..],
        &["help"],
        &["run", "--help"],
        &["policy", "--help"],
        &["policy", "check", "--help"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(text(&output.stdout).contains("Usage: agent-guard"), "{arguments:?}");
        assert_eq!(text(&output.stderr), "", "{arguments:?}");
    }
    for (arguments, word) in [
        (&["--help"][..], "policy check"),
        (&["run", "--help"], "--tier"),
        (&["run", "--help"], "125"),
        (&["run", "--help"], "--allow-degraded"),
    ] {
        assert!(
            text(&run(arguments).stdout).contains(word),
            "{arguments:?} says nothing of {word}"
        );
    }
}

#[test]
fn the_version_is_told() {
    let output = run(&["--version"]);
    assert_eq!(text(&output.stdout), concat!("agent-guard ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn run_needs_root_and_says_so_before_the_command_starts() {
    let files = Files::new();
    let directory = files.0.path();
    fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).unwrap();
    let policy = files.write("p.yaml", GOOD);
    // Where nobody may go to a build directory, the program is taken to where they may.
    let program = directory.join("agent-guard");
    fs::copy(env!("CARGO_BIN_EXE_agent-guard"), &program).unwrap();
    let started = directory.join("started");
    let mut command = Command::new(&program);
    command.args(["run", "--policy", policy.to_str().unwrap(), "--", "touch"]).arg(&started);
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    refused(&command.output().unwrap(), 125, &["root", "sudo"]);
    assert!(!started.exists());
}

#[test]
fn a_bad_policy_ends_run_before_anything_else() {
    let files = Files::new();
    let bad = files.write("bad.yaml", "kind: x");
    let output = run(&["run", "--policy", bad.to_str().unwrap(), "--", "true"]);
    refused(&output, 125, &["bad.yaml"]);
}

#[test]
fn an_operation_is_asked_by_its_name_and_the_names_are_told() {
    let files = Files::new();
    let policy = files.write(
        "p.yaml",
        GOOD.replace(
            "files: {default: deny}",
            "system: {rules: [{effect: allow, operations: [chroot]}]}",
        ),
    );
    let ask = |operation: &str| {
        run(&["policy", "explain", policy.to_str().unwrap(), "--operation", operation])
    };
    let (allowed, denied) = (ask("chroot"), ask("mount"));
    assert_eq!((allowed.status.code(), denied.status.code()), (Some(0), Some(1)));
    assert!(text(&allowed.stdout).starts_with("allow: chroot\n  by system rule `system[0]`"));
    assert!(text(&denied.stdout).starts_with("deny: mount\n  no rule matches"));
    refused(&ask("reboot"), 2, &["reboot", "user-namespace", "terminal-input"]);
}

#[test]
fn name_servers_are_addresses_and_few() {
    let asked = |options: &[&str]| run(&[&["run"], options, &["--", "true"]].concat());
    for server in ["dns.example", "192.0.2.1:0", "0.0.0.0", "192.0.2.1:70000"] {
        refused(&asked(&["--dns-upstream", server]), 2, &["--dns-upstream", server]);
    }
    let four = ["--dns-upstream", "192.0.2.1"].repeat(4);
    refused(&asked(&four), 2, &["more than 3"]);
    refused(&asked(&["--dns-internal", "lan"]), 2, &["--dns-internal"]);
}

#[test]
fn bash_completes_commands_options_and_their_values() {
    let files = Files::new();
    let output = run(&["completions", "bash"]);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    let script = files.write("completions", &output.stdout);
    let completed = |words: &[&str]| {
        let line = format!(
            "source {}; COMP_WORDS=(agent-guard {}); COMP_CWORD={}; _agent__guard agent-guard '{}' \"${{COMP_WORDS[COMP_CWORD-1]}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            script.display(),
            words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" "),
            words.len(),
            words.last().unwrap(),
        );
        let output = Command::new("bash").args(["--norc", "-c", &line]).output().unwrap();
        text(&output.stdout).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(completed(&["doc"]), ["doctor"]);
    assert_eq!(completed(&["policy", "ch"]), ["check"]);
    assert_eq!(completed(&["run", "--tie"]), ["--tier"]);
    assert_eq!(completed(&["run", "--tier", ""]), ["auto", "lsm", "trace", "observe"]);
    assert!(completed(&["can"]).iter().all(|word| word.is_empty()), "hidden commands stay so");
    refused(&run(&["completions", "tcsh"]), 2, &["tcsh", "bash"]);
}

#[test]
fn every_command_has_a_manual_page_that_man_reads_without_a_word() {
    let files = Files::new();
    let directory = files.0.path().join("man");
    let output = run(&["man", directory.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let mut pages: Vec<PathBuf> =
        fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.sort();
    let names: Vec<&str> =
        pages.iter().map(|page| page.file_name().unwrap().to_str().unwrap()).collect();
    for name in ["agent-guard.1", "agent-guard-run.1", "agent-guard-policy-check.1"] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    assert!(!names.iter().any(|name| name.contains("canary")), "{names:?}");
    for page in pages {
        let mut groff = Command::new("groff");
        let output = groff.args(["-man", "-Tutf8", "-ww", "-z"]).arg(&page).output().unwrap();
        assert!(output.status.success(), "{}", page.display());
        assert_eq!(text(&output.stderr), "", "{}", page.display());
    }
}

#[test]
fn top_wants_a_terminal() {
    refused(&run(&["top"]), 1, &["needs a terminal", "agent-guard status"]);
    refused(&run(&["top", "--interval", "0"]), 2, &["--interval"]);
}

#[test]
fn systemd_finds_nothing_to_mend_in_the_unit() {
    let files = Files::new();
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd/agent-guard.service");
    // The program stands where this was built, and not yet where it is installed.
    let installed = fs::read_to_string(unit).unwrap();
    assert!(installed.contains("ExecStart=/usr/local/bin/agent-guard daemon\n"));
    let here = installed.replace("/usr/local/bin/agent-guard", env!("CARGO_BIN_EXE_agent-guard"));
    let unit = files.write("agent-guard.service", here);
    let mut verify = Command::new("systemd-analyze");
    let output = verify.args(["verify", "--man=no"]).arg(&unit).output().unwrap();
    let said = text(&output.stderr);
    // Units of the host that are not well are nothing to us.
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("agent-guard")).collect();
    assert!(ours.is_empty(), "{said}");
    assert!(output.status.success(), "{said}");
}

/// A line as `run --events` writes it.
fn event(action: &str, path: &str) -> String {
    let (class, activity, access) = match action {
        "read" => (1001, 2, "read"),
        _ => (1001, 3, "write"),
    };
    let agent = r#""agent":{"name":"coder","id":1,"cgroup_id":7,"cgroup":"/coder"},"tier":"lsm","mode":"audit""#;
    let decision = format!(
        r#""decision":{{"outcome":"observed","reason":"default","hook":"file_open","access":["{access}"],"path_scope":"absolute"}}"#
    );
    format!(
        r#"{{"time":1795000000123,"class_uid":{class},"activity_id":{activity},"actor":{{"process":{{"pid":9,"name":"cat"}}}},"file":{{"path":"{path}"}},"unmapped":{{"agent_guard":{{{agent},{decision}}}}}}}"#
    ) + "\n"
}

fn policy_of(rules: &str) -> String {
    GOOD.replace("files: {default: deny}", &format!("files: {{rules: [{rules}]}}"))
}

#[test]
fn policies_are_compared_by_what_was_recorded_and_by_their_rules() {
    let files = Files::new();
    let work = "{name: work, effect: allow, paths: ['/w/**']}";
    let secrets = "{name: secrets, effect: deny, paths: ['**/.env']}";
    let old = files.write("old.yaml", policy_of(work));
    let new = files.write("new.yaml", policy_of(&format!("{work}, {secrets}")));
    let events =
        [event("read", "/w/a"), event("read", "/w/.env"), "nonsense\n".to_owned()].concat();
    let events = files.write("events.jsonl", events + &event("read", "/w/.env"));
    let [old, new, events] = [&old, &new, &events].map(|path| path.to_str().unwrap());

    let same = run(&["policy", "diff", old, old]);
    assert_eq!((same.status.code(), text(&same.stdout)), (Some(0), ""));
    let rules = run(&["policy", "diff", old, new]);
    assert_eq!(rules.status.code(), Some(1));
    assert!(text(&rules.stdout).starts_with("added: files rule `secrets`\n  + deny\n"));

    let recorded = run(&["policy", "diff", old, new, "--events", events, "-o", "json"]);
    assert_eq!(recorded.status.code(), Some(1));
    assert!(text(&recorded.stderr).contains("1 line(s) were passed over: 1 no event"));
    let recorded: serde_json::Value = serde_json::from_slice(&recorded.stdout).unwrap();
    assert_eq!(recorded["newly_denied"][0]["action"], "read /w/.env");
    assert_eq!(recorded["newly_denied"][0]["events"], 2);
    assert_eq!(recorded["newly_denied"][0]["new"], "files rule `secrets` (line 5)");
    assert_eq!(
        (&recorded["unchanged"], &recorded["newly_allowed"]),
        (&1.into(), &serde_json::json!([]))
    );
    let table = run(&["policy", "diff", old, old, "--events", events]);
    assert_eq!(table.status.code(), Some(0));
    assert!(text(&table.stdout).contains("0 newly denied, 2 unchanged: actions of 3 events"));

    refused(&run(&["policy", "diff", old, "/no/such"]), 2, &["/no/such"]);
    refused(&run(&["policy", "diff", old, new, "--events", "/no/such"]), 2, &["/no/such"]);
}

#[test]
fn a_policy_is_made_of_a_recording_and_passes_its_own_check() {
    let files = Files::new();
    let lines = [event("read", "/w/a"), event("write", "/w/b"), event("read", "/root/.ssh/id_rsa")];
    let events = files.write("events.jsonl", lines.concat());
    let from = events.to_str().unwrap();
    let made = run(&["policy", "generate", "--from", from, "--name", "made"]);
    assert_eq!(made.status.code(), Some(0), "{}", text(&made.stderr));
    let told = "read /root/.ssh/id_rsa (1): the built-in policy denies it, rule `secrets`";
    assert!(text(&made.stderr).contains(told), "{}", text(&made.stderr));
    assert!(text(&made.stdout).contains(&format!("#   {told}")));
    assert_eq!(with_input(&["policy", "check", "-"], &made.stdout).status.code(), Some(0));
    let again = with_input(
        &["policy", "generate", "--from", "-", "--name", "made"],
        lines.concat().as_bytes(),
    );
    assert_eq!(text(&again.stdout), text(&made.stdout));
    let ask = |path: &str, access: &str| {
        let question = ["policy", "explain", "-", "--open", path, "--access", access];
        with_input(&question, &made.stdout).status.code()
    };
    assert_eq!(
        (ask("/w/a", "read"), ask("/w/a", "write"), ask("/w/b", "write")),
        (Some(0), Some(1), Some(0))
    );
    assert_eq!(ask("/root/.ssh/id_rsa", "read"), Some(1));
    refused(
        &with_input(&["policy", "generate", "--from", "-"], b""),
        1,
        &["no action", "--mode audit"],
    );
}

#[test]
fn a_policy_is_held_to_what_is_expected_of_it() {
    let files = Files::new();
    files.write("p.yaml", policy_of("{name: work, effect: allow, paths: ['/w/**']}"));
    let head = "apiVersion: agent-guard.dev/v1alpha1\nkind: PolicyTest\npolicy: p.yaml\ncases:\n";
    let test = |name: &str, case: &str| {
        let file = files.write(name, format!("{head}  - {case}\n"));
        run(&["policy", "test", file.to_str().unwrap()])
    };
    let met = test("good.yaml", "{open: /w/a, expect: allow, rule: work}");
    assert_eq!((met.status.code(), text(&met.stdout)), (Some(0), "1 cases, 0 not as expected\n"));
    let other = test("other.yaml", "{open: /x, expect: allow}");
    assert_eq!(other.status.code(), Some(1));
    let said = text(&other.stdout);
    assert!(
        said.contains(
            "other.yaml:5: read /x\n  expected allow\n  answered deny: no rule matches\n"
        ),
        "{said}"
    );
    refused(&test("bad.yaml", "{open: /x, expect: perhaps}"), 2, &["bad.yaml:5:", "perhaps"]);
}

#[test]
fn events_of_files_are_shown_where_they_fit() {
    let lines = [event("read", "/w/a"), event("write", "/x/b")];
    let show = |options: &[&str]| {
        let arguments = [&["events", "--from", "-"], options].concat();
        let output = with_input(&arguments, lines.concat().as_bytes());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout).to_owned()
    };
    assert_eq!(show(&[]), lines.concat());
    assert_eq!(show(&["--path", "/x/**", "--denied", "--class", "file"]), lines[1]);
    for none in
        [["--agent", "other"], ["--class", "dns"], ["--since", "1h"], ["--outcome", "allowed"]]
    {
        assert_eq!(show(&none), "", "{none:?}");
    }
    assert_eq!(show(&["--until", "2026-11-19T00:00:00Z", "--agent", "cod*"]), lines.concat());
    let table = show(&["-o", "table", "--path", "/w/*"]);
    assert!(table.starts_with("2026-11-18T"), "{table}");
    assert!(
        table.contains(" coder: observed open /w/a (read) by cat[9]: no rule matches"),
        "{table}"
    );
    refused(&run(&["events", "--from", "/no/such"]), 1, &["/no/such"]);
    refused(&run(&["events", "--since", "yesterday"]), 2, &["--since", "10m"]);
    refused(&run(&["events", "--path", "relative"]), 2, &["--path"]);
}

/// A control socket that knows one workload and one denial.
fn control_socket(files: &Files) -> PathBuf {
    use std::{io::Read as _, os::unix::net::UnixListener, thread, time::Duration};
    const STATUS: &str = r#"{"version":"0.1.0","pid":1,"tier":"lsm","weaker_because":[],"hooks":[],"broken":null,
        "agents":1,"refused":0,"policies":1,"problems":0,"events":0,"strays":0,"uptime_s":1,"canary_stopped":true,
        "counts":[],"buffer":{"name":"events","used":0,"capacity":8},"maps":[]}"#;
    const AGENTS: &str = r#"[{"name":"coding","cgroup":"/coding","id":1,"policy":"p","revision":"r","mode":"enforce",
        "degraded":[],"problem":null,"decided":5,"denied":1,"lost":0,"failed":0}]"#;
    const DENIAL: &str =
        "{\"action_id\":2,\"activity_name\":\"Read\",\"file\":{\"path\":\"/secret\"}}\n";
    let path = files.0.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut request = [0; 1024];
                let length = stream.read(&mut request).unwrap();
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                let body = match request.split(' ').nth(1).unwrap() {
                    "/v1/status" => STATUS,
                    "/v1/agents" => AGENTS,
                    _ => {
                        let _ = write!(stream, "HTTP/1.1 200 OK\r\n\r\n{DENIAL}");
                        // As long as the test is there.
                        return thread::sleep(Duration::from_secs(600));
                    }
                };
                let length = body.len();
                let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
            });
        }
    });
    path
}

#[test]
fn top_draws_on_a_terminal_and_gives_it_back() {
    use std::io::Read as _;
    let files = Files::new();
    let socket = control_socket(&files);
    let line = format!(
        "stty rows 24 cols 80; {} top --socket {}; stty -a | grep -o ' icanon'",
        env!("CARGO_BIN_EXE_agent-guard"),
        socket.display()
    );
    let mut script = Command::new("script");
    script.args(["-qefc", &line, "/dev/null"]).env("TERM", "xterm");
    script.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = script.spawn().unwrap();
    let mut said = child.stdout.take().unwrap();
    let mut screen = Vec::new();
    let mut part = [0; 4096];
    let mut pressed = false;
    loop {
        let length = said.read(&mut part).unwrap();
        if length == 0 {
            break;
        }
        screen.extend_from_slice(&part[..length]);
        let text = String::from_utf8_lossy(&screen);
        if !pressed && text.contains("coding") && text.contains("/secret") {
            child.stdin.as_mut().unwrap().write_all(b"q").unwrap();
            pressed = true;
        }
    }
    let text = String::from_utf8_lossy(&screen).into_owned();
    assert!(child.wait().unwrap().success(), "{text}");
    assert!(text.contains("guard,") && text.contains("RECENT"), "{text}");
    // The other screen was left, and the terminal reads lines again.
    assert!(text.contains("\x1b[?1049h") && text.contains("\x1b[?1049l"), "{text}");
    assert!(text.trim_end().ends_with("icanon"), "{text}");
}
