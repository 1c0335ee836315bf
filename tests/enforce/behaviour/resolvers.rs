//! The DNS proxy between real programs: resolvers of many kinds inside, name servers from Debian behind it.

use std::{
    collections::BTreeSet,
    fs,
    net::IpAddr,
    ops::RangeInclusive,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use agent_guard::tier::Tier;
use libtest_mimic::Trial;
use serde_json::Value;
use tempfile::TempDir;

use super::Behaviour;
use crate::{
    guard::{Outcome, Run, tier},
    name_servers::{NameServer, Program, Zone, silent, slow},
    network::{in_own_network, ip, serve_http},
};

pub const PROMISES: &[Behaviour] = &[
    ("an answer that does not fit is asked for again over TCP, on both sides", does_not_fit),
    ("a rule for a name and TCP alone is enough to fetch by that name", by_tcp_alone),
    ("a slow name server is waited for", waits),
    ("a name server that is dead is passed over", passes_over),
    ("where every name server is dead programs are told, and go on", all_dead),
    ("a name that moves is followed, and what it left closes", follows),
    ("addresses that take turns are open, each as long as it was told", rotates),
];

/// A program that resolves names, and connects by them.
struct Client {
    promise: &'static str,
    /// What it is run by; `{}` is the file that has it.
    command: &'static [&'static str],
    file: (&'static str, &'static str),
    /// How many of a hundred addresses it makes use of.
    takes: RangeInclusive<usize>,
    connects_to_all: bool,
}

macro_rules! source {
    ($file:literal) => {
        ($file, include_str!(concat!("../clients/", $file)))
    };
}

const CLIENTS: &[Client] = &[
    Client {
        promise: "getaddrinfo of glibc resolves what the policy allows, whatever server is behind",
        command: &["sh", "{}", "getent"],
        file: source!("lookup.sh"),
        takes: 32..=32,
        connects_to_all: false,
    },
    Client {
        promise: "glibc with larger messages resolves what the policy allows, likewise",
        command: &["env", "RES_OPTIONS=edns0 single-request-reopen trust-ad", "sh", "{}", "getent"],
        file: source!("lookup.sh"),
        takes: 32..=32,
        connects_to_all: false,
    },
    Client {
        promise: "glibc over TCP resolves what the policy allows, likewise",
        command: &["env", "RES_OPTIONS=use-vc", "sh", "{}", "getent"],
        file: source!("lookup.sh"),
        takes: 32..=32,
        connects_to_all: false,
    },
    Client {
        promise: "getaddrinfo of musl resolves what the policy allows, likewise",
        command: &["{}"],
        file: source!("musl.c"),
        // Before 1.2.4 it knows no TCP, and makes do with what fits.
        takes: 20..=32,
        connects_to_all: true,
    },
    Client {
        promise: "python resolves what the policy allows, likewise, and reaches every address",
        command: &["/usr/bin/python3", "{}"],
        file: source!("python.py"),
        takes: 32..=32,
        connects_to_all: true,
    },
    Client {
        promise: "curl fetches by name over IPv4 and IPv6, likewise",
        command: &["sh", "{}"],
        file: source!("curl.sh"),
        takes: 1..=1,
        connects_to_all: true,
    },
    Client {
        promise: "dig resolves what the policy allows, likewise",
        command: &["sh", "{}", "dig"],
        file: source!("lookup.sh"),
        takes: 32..=32,
        connects_to_all: false,
    },
    Client {
        promise: "node looks up what the policy allows, likewise",
        command: &["/usr/bin/node", "{}", "lookup"],
        file: source!("node.js"),
        takes: 32..=32,
        connects_to_all: false,
    },
    Client {
        promise: "c-ares, which node resolves with, resolves what the policy allows, likewise",
        command: &["/usr/bin/node", "{}", "resolve"],
        file: source!("node.js"),
        takes: 32..=32,
        connects_to_all: false,
    },
];

/// A trial for each client. Only node may be missing, and is said to be.
pub fn trials() -> Vec<Trial> {
    let trial = |client: &'static Client| {
        let is_node = client.command[0] == "/usr/bin/node";
        let test = move || {
            resolves(client);
            Ok(())
        };
        Trial::test(client.promise, test)
            .with_ignored_flag(is_node && !Path::new(client.command[0]).exists())
    };
    CLIENTS.iter().map(trial).collect()
}

const PORT: &str = "8080";
const LIVE: &str = "127.0.0.1:5301";
const LIVE_V6: &str = "[::1]:5301";
/// Where other name servers are, or none.
const OTHER: &str = "127.0.0.2:5301";
const NOBODY: &str = "127.0.0.3:5301";

/// What is allowed, and `evil.example`, which is not.
const NAMES: [&str; 9] = [
    "api.example",
    "www.example",
    "v4.example",
    "v6.example",
    "many.example",
    "gone.example",
    "empty.example",
    "inside.example",
    "evil.example",
];

const RULES: &str = r#"
egress:
  rules:
    - name: names
      effect: allow
      to:
        - api.example:8080
        - www.example:8080
        - v4.example:8080
        - v6.example:8080
        - many.example:8080
        - gone.example:8080
        - empty.example:8080
        - inside.example:8080
exec: {default: allow}
files:
  default: allow
  rules:
    - {name: thread-names, effect: allow, access: [read, write], paths: [/proc/thread-self/comm]}
"#;

fn zone(ttl: u32) -> Zone {
    let one = |(name, address): (&str, &str)| (name.to_owned(), address.parse().unwrap());
    let few = [
        ("ready.example", "198.51.100.1"),
        ("api.example", "198.51.100.10"),
        ("api.example", "2001:db8::10"),
        ("edge.cdn.example", "198.51.100.20"),
        ("edge.cdn.example", "2001:db8::20"),
        ("v4.example", "198.51.100.4"),
        ("v6.example", "2001:db8::6"),
        ("inside.example", "10.0.0.1"),
        ("evil.example", "198.51.100.66"),
        ("evil.example", "2001:db8::66"),
    ];
    let many = (100..200)
        .map(|last| ("many.example".to_owned(), format!("198.51.100.{last}").parse().unwrap()));
    Zone {
        addresses: few.into_iter().map(one).chain(many).collect(),
        aliases: vec![
            ("www.example", "site.cdn.example"),
            ("site.cdn.example", "edge.cdn.example"),
        ],
        texts: vec!["empty.example"],
        ttl,
    }
}

/// What a client is to be told of `name`.
fn due(zone: &Zone, name: &str) -> BTreeSet<IpAddr> {
    if ["evil.example", "inside.example"].contains(&name) {
        return BTreeSet::new();
    }
    zone.addresses_of(name).into_iter().collect()
}

/// A network with a web server at all addresses that names have.
fn in_place<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    in_own_network(|| {
        // On loopback an address brings its network along, over IPv6 a route does. C libraries ask only for
        // the kinds of addresses that the host has itself.
        ip("address add 198.51.100.1/24 dev lo");
        ip("address add 2001:db8::1/128 dev lo");
        ip("-6 route add local 2001:db8::/64 dev lo");
        serve_http(&format!("[::]:{PORT}"), |reached| reached.to_string());
        work()
    })
}

fn run(servers: &[&str]) -> Run {
    servers.iter().fold(Run::under(RULES), |run, server| run.with(&["--dns-upstream", server]))
}

/// Tier `observe` has no proxy.
fn has_proxy() -> bool {
    tier() != Tier::Observe
}

/// A client, where it can be run.
struct Ready {
    directory: TempDir,
    command: Vec<String>,
}

impl Client {
    fn ready(&self) -> Ready {
        let directory = tempfile::Builder::new().prefix("agent-guard-client-").tempdir().unwrap();
        let (name, text) = self.file;
        let mut file = directory.path().join(name);
        fs::write(&file, text).unwrap();
        if name == "musl.c" {
            let program = directory.path().join("musl");
            let built = Command::new("musl-gcc").arg("-o").args([&program, &file]).status();
            let built = built.unwrap_or_else(|error| {
                panic!("musl-gcc: {error}; `cargo xtask setup` installs it")
            });
            assert!(built.success());
            file = program;
        }
        let file = file.to_str().unwrap();
        // What hangs is ended, and fails by that.
        let command = ["timeout", "300"].iter().chain(self.command);
        let command = command.map(|word| word.replace("{}", file)).collect();
        Ready { directory, command }
    }
}

impl Ready {
    fn with(&self, words: &[&str]) -> Vec<String> {
        self.command.iter().cloned().chain(words.iter().map(|word| (*word).to_owned())).collect()
    }

    /// It with each of `names`, from a shell.
    fn line(&self, names: &[&str]) -> String {
        let words = self.with(&[&[PORT], names].concat());
        words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ")
    }
}

/// The client of that file.
fn client(file: &str) -> &'static Client {
    CLIENTS.iter().find(|client| client.file.0 == file).unwrap()
}

/// What a client says of a name.
#[derive(Debug)]
struct Said {
    name: String,
    told: BTreeSet<IpAddr>,
    reached: BTreeSet<IpAddr>,
}

fn said(outcome: &Outcome) -> Vec<Said> {
    let of_line = |line: &str| {
        let (told, reached) = line.split_once('|').unwrap_or_else(|| panic!("{line}"));
        let addresses = |text: &str| {
            let words = text.split_whitespace();
            words.map(|word| word.parse().unwrap_or_else(|_| panic!("{line}"))).collect()
        };
        let (name, told) = told.split_once(' ').unwrap_or_else(|| panic!("{line}"));
        Said { name: name.to_owned(), told: addresses(told), reached: addresses(reached) }
    };
    outcome.text().lines().map(of_line).collect()
}

fn names(said: &[Said]) -> Vec<&str> {
    said.iter().map(|said| said.name.as_str()).collect()
}

/// Events of the proxy about `name`.
fn lookups<'a>(outcome: &'a Outcome, name: &str) -> Vec<&'a Value> {
    let of_name = |event: &&Value| event["class_uid"] == 4003 && event["query"]["hostname"] == name;
    outcome.events.iter().filter(of_name).collect()
}

fn reason(event: &Value) -> &str {
    event["unmapped"]["agent_guard"]["decision"]["reason"].as_str().unwrap()
}

fn resolves(client: &Client) {
    if !has_proxy() {
        return;
    }
    let zone = zone(300);
    let ready = client.ready();
    for (program, server) in [(Program::Unbound, LIVE), (Program::Dnsmasq, LIVE_V6)] {
        let outcome = in_place(|| {
            let _server = NameServer::start(program, server, &zone);
            run(&[server]).go(&ready.with(&[&[PORT], NAMES.as_slice()].concat()))
        });
        outcome.exits(0);
        let said = said(&outcome);
        assert_eq!(names(&said), NAMES, "{program:?}");
        for said in &said {
            judge(client, &zone, said, program);
        }
        judge_events(&outcome, program);
    }
}

fn judge(client: &Client, zone: &Zone, said: &Said, program: Program) {
    let due = due(zone, &said.name);
    if said.name == "many.example" {
        assert!(said.told.is_subset(&due), "{program:?}: {said:?}");
        assert!(client.takes.contains(&said.told.len()), "{program:?}: {said:?}");
    } else {
        assert_eq!(said.told, due, "{program:?}: {said:?}");
    }
    if client.connects_to_all {
        assert_eq!(said.reached, said.told, "{program:?}: {said:?}");
    } else {
        let is_reached =
            said.reached.is_subset(&said.told) && said.reached.is_empty() == said.told.is_empty();
        assert!(is_reached, "{program:?}: {said:?}");
    }
}

/// Each question that was refused is told once, and nothing else was.
fn judge_events(outcome: &Outcome, program: Program) {
    for (name, due) in [("evil.example", "default"), ("inside.example", "internal_address")] {
        let told = lookups(outcome, name);
        let denied: Vec<&&Value> =
            told.iter().filter(|event| event["action"] == "Denied").collect();
        let question = |event: &&Value| {
            format!("{} from {}", event["query"]["type"], event["src_endpoint"]["port"])
        };
        let questions: BTreeSet<String> = denied.iter().copied().map(question).collect();
        assert!(!denied.is_empty(), "{program:?}: {name}");
        assert_eq!(denied.len(), questions.len(), "{program:?}: {told:#?}");
        assert!(denied.iter().all(|event| reason(event) == due), "{program:?}: {told:#?}");
    }
    for name in NAMES.iter().filter(|name| !["evil.example", "inside.example"].contains(name)) {
        let told = lookups(outcome, name);
        assert!(!told.is_empty(), "{program:?}: {name}");
        assert!(told.iter().all(|event| event["action"] == "Allowed"), "{program:?}: {told:#?}");
    }
    let others: Vec<String> = outcome
        .decided()
        .filter(|event| event.is_denial() && event.event["class_uid"] != 4003)
        .map(|event| format!("{} {:?} {}", event.hook(), event.path(), event.endpoint()))
        .collect();
    assert!(others.is_empty(), "{program:?}: {others:#?}");
}

fn does_not_fit() {
    if !has_proxy() {
        return;
    }
    let zone = zone(300);
    let ready = client("lookup.sh").ready();
    for (program, server) in [(Program::Unbound, LIVE), (Program::Dnsmasq, LIVE_V6)] {
        let outcome = in_place(|| {
            let _server = NameServer::start(program, server, &zone);
            run(&[server]).go(&ready.with(&[PORT, "many.example"]))
        });
        let said = said(&outcome);
        assert_eq!(said[0].told.len(), 32, "{program:?}");
        let over = |number: i32| {
            let of_kind = |event: &&&Value| {
                event["query"]["type"] == "A" && event["connection_info"]["protocol_num"] == number
            };
            lookups(&outcome, "many.example").iter().filter(of_kind).count()
        };
        // glibc begins again with a larger buffer, some versions more often.
        let (udp, tcp) = (over(libc::IPPROTO_UDP), over(libc::IPPROTO_TCP));
        assert!(udp > 0 && tcp > 0, "{program:?}: {udp} by UDP, {tcp} by TCP");
    }
}

fn by_tcp_alone() {
    if !has_proxy() {
        return;
    }
    let (zone, ready) = (zone(300), client("curl.sh").ready());
    let rules = RULES.replace(":8080\n", ":8080/tcp\n");
    let outcome = in_place(|| {
        let _server = NameServer::start(Program::Unbound, LIVE, &zone);
        Run::under(&rules).with(&["--dns-upstream", LIVE]).go(&ready.with(&[PORT, "api.example"]))
    });
    let said = said(&outcome);
    assert_eq!(said[0].reached, due(&zone, "api.example"));
    // glibc looks for routes by connecting UDP sockets to the port that it was given.
    let denied: Vec<_> = outcome.decided().filter(|event| event.is_denial()).collect();
    let is_probe = |event: &Value| event["connection_info"]["protocol_name"] == "udp";
    assert!(denied.iter().all(|event| is_probe(event.event)));
}

fn waits() {
    if !has_proxy() {
        return;
    }
    let (zone, ready) = (zone(300), client("lookup.sh").ready());
    let outcome = in_place(|| {
        let server = NameServer::start(Program::Unbound, LIVE, &zone);
        slow(OTHER, server.address, Duration::from_millis(2_500));
        run(&[OTHER]).go(&ready.with(&[PORT, "api.example", "gone.example"]))
    });
    let said = said(&outcome);
    assert_eq!(said[0].told, due(&zone, "api.example"));
    assert_eq!((said[0].reached.len(), said[1].told.len()), (1, 0));
    let codes = lookups(&outcome, "gone.example");
    assert!(!codes.is_empty(), "gone.example was not asked for");
    assert!(codes.iter().all(|event| event["rcode"] == "NXDomain"), "{codes:#?}");
}

fn passes_over() {
    if !has_proxy() {
        return;
    }
    let (zone, ready) = (zone(300), client("lookup.sh").ready());
    let outcome = in_place(|| {
        let _server = NameServer::start(Program::Dnsmasq, LIVE, &zone);
        let _silent = silent(OTHER);
        run(&[OTHER, NOBODY, LIVE]).go(&ready.with(&[PORT, "api.example", "www.example"]))
    });
    outcome.exits(0);
    let said = said(&outcome);
    assert_eq!(names(&said), ["api.example", "www.example"]);
    for said in said {
        assert_eq!(said.told, due(&zone, &said.name), "{said:?}");
        assert_eq!(said.reached.len(), 1, "{said:?}");
    }
}

fn all_dead() {
    if !has_proxy() {
        return;
    }
    let ready = client("lookup.sh").ready();
    let since = Instant::now();
    let outcome = in_place(|| {
        let _silent = silent(OTHER);
        run(&[OTHER, NOBODY]).go(&ready.with(&[PORT, "api.example", "evil.example"]))
    });
    outcome.exits(0);
    assert!(since.elapsed() < Duration::from_secs(120), "{:?}", since.elapsed());
    let said = said(&outcome);
    assert_eq!(names(&said), ["api.example", "evil.example"]);
    assert!(said.iter().all(|said| said.told.is_empty() && said.reached.is_empty()));
    let told = lookups(&outcome, "api.example");
    assert!(!told.is_empty() && told.iter().all(|event| reason(event) == "unanswered"));
    // What is not allowed is refused without anybody's help.
    let told = lookups(&outcome, "evil.example");
    assert!(!told.is_empty() && told.iter().all(|event| reason(event) == "default"));
}

fn follows() {
    if !has_proxy() {
        return;
    }
    let at = |address: &str| {
        let addresses =
            ["ready.example", "v4.example"].map(|name| (name.to_owned(), address.parse().unwrap()));
        Zone { addresses: addresses.into(), ttl: 1, ..Zone::default() }
    };
    let (before, after) = ("198.51.100.30", "198.51.100.31");
    let ready = client("lookup.sh").ready();
    let client = ready.line(&["v4.example"]);
    let root = ready.directory.path();
    // Answers hold for five seconds at least, and addresses for five more.
    let fetch = |address: &str| {
        format!(
            "curl --silent --noproxy '*' --max-time 60 http://{address}:{PORT}/ || echo refused; echo"
        )
    };
    let script = format!(
        "cd {}; {client}; : > asked; until test -e moved; do sleep 0.2; done; sleep 12
        {client}; {}; {}",
        root.display(),
        fetch(after),
        fetch(before),
    );
    let outcome = in_place(|| {
        let server = NameServer::start(Program::Dnsmasq, LIVE, &at(before));
        let running = run(&[LIVE]).start(&["sh", "-c", &script]);
        while !root.join("asked").exists() {
            std::thread::sleep(Duration::from_millis(100));
        }
        server.change(&at(after));
        fs::write(root.join("moved"), "").unwrap();
        running.finish()
    });
    let lines: Vec<&str> = outcome.text().split_whitespace().collect();
    let told = |address| ["v4.example", address, "|", address];
    assert_eq!(lines, [&told(before)[..], &told(after), &[after, "refused"]].concat());
}

fn rotates() {
    if !has_proxy() {
        return;
    }
    let zone = zone(1);
    let ready = client("python.py").ready();
    let client = ready.line(&["many.example"]);
    let script = format!("{client}; sleep 6; {client}; sleep 6; {client}");
    let outcome = in_place(|| {
        let _server = NameServer::start(Program::Unbound, LIVE, &zone);
        run(&[LIVE]).go(&["sh", "-c", &script])
    });
    let said = said(&outcome);
    assert_eq!(said.len(), 3);
    for said in &said {
        assert_eq!((said.told.len(), &said.reached), (32, &said.told));
    }
    let all: BTreeSet<&IpAddr> = said.iter().flat_map(|said| &said.told).collect();
    assert!(all.len() > 32, "the name server gave the same in the same order");
}
