//! Host names: the DNS proxy, and what its answers open.

use std::net::UdpSocket;

use agent_guard::tier::Tier;
use serde_json::Value;

use super::{
    Behaviour, actor,
    sockets::{inheritable, said_moved_in},
};
use crate::{
    guard::{Outcome, Run, tier},
    queries::name_server,
    scratch::Scratch,
    support::Setup,
};

pub const PROMISES: &[Behaviour] = &[
    ("a name's addresses are open on its ports once it was asked for", opens),
    ("what an answer opened closes with it", closes),
    ("a program's own resolver goes through the proxy", by_resolver),
    ("name queries go to the proxy by every way, and seem to come from the name server", every_way),
    ("what the policy does not name is not resolved, and told once", refused),
    ("names under a wildcard are no tunnel", no_tunnel),
    ("what no cgroup program comes by is no name query", not_diverted),
    ("a rule for port 53 alone is about the name server itself", explicit),
    ("audit resolves everything and opens what the policy allows", audited),
    ("without host names there is no proxy", without),
];

const ZONE: &[(&str, &str)] = &[
    ("api.example", "127.0.0.1"),
    ("api.example", "::1"),
    ("a.wild.example", "127.0.0.2"),
    ("evil.example", "127.0.0.3"),
];

pub const RULES: &str = r#"
egress:
  rules:
    - {name: api, effect: allow, to: ["api.example:{p0}/tcp"]}
    - {name: wild, effect: allow, to: ["*.wild.example:{p0}"]}
    - {name: bad, effect: deny, to: ["bad.wild.example"]}
    - {name: not-this, effect: deny, to: ["127.0.0.4"]}
exec: {default: allow}
files: {default: allow}
"#;

/// Nobody: a name server that is not there, in networks for documentation.
pub const SERVER: &str = "192.0.2.53:53";

/// A name server, and what listens at the addresses that it tells.
pub struct Place {
    pub scratch: Scratch,
    upstream: String,
}

impl Place {
    pub fn new(ttl: u32) -> Self {
        let listen = |address: &str| Setup::Listen(format!("{address}:{{p0}}/tcp"));
        let scratch = Scratch::with(&["127.0.0.1", "[::1]", "127.0.0.2", "127.0.0.3"].map(listen));
        Self { scratch, upstream: name_server(ZONE, ttl).to_string() }
    }

    pub fn run(&self, rules: &str) -> Run {
        let internal = ["127.0.0.0/8", "::1/128"];
        Run::under(&self.scratch.place.fill(rules)).with(&[
            "--dns-upstream",
            &self.upstream,
            "--dns-internal",
            internal[0],
            "--dns-internal",
            internal[1],
        ])
    }

    pub fn command(&self, steps: &[&str]) -> Vec<String> {
        actor(&self.scratch, &[&["names"], steps].concat())
    }

    fn go(&self, steps: &[&str]) -> Outcome {
        let outcome = self.run(RULES).go(&self.command(steps));
        outcome.exits(0);
        outcome
    }
}

fn lines(outcome: &Outcome) -> Vec<&str> {
    outcome.text().lines().collect()
}

/// Events of the proxy.
fn lookups(outcome: &Outcome) -> Vec<&Value> {
    outcome.events.iter().filter(|event| event["class_uid"] == 4003).collect()
}

fn decision<'a>(event: &'a Value, field: &str) -> &'a Value {
    &event["unmapped"]["agent_guard"]["decision"][field]
}

/// Tier `observe` has no proxy, and says so.
fn has_proxy() -> bool {
    if tier() == Tier::Observe {
        let place = Place::new(60);
        let outcome = place.go(&["wait 0"]);
        assert!(outcome.stderr.contains("tier observe has no DNS proxy"), "{}", outcome.stderr);
    }
    tier() != Tier::Observe
}

fn opens() {
    if !has_proxy() {
        return;
    }
    let place = Place::new(60);
    let ask = |kind| format!("udp {SERVER} api.example {kind}");
    let outcome = place.go(&[
        "connect 127.0.0.1:{p0}/tcp",
        &ask("A"),
        "connect 127.0.0.1:{p0}/tcp",
        "connect [::ffff:127.0.0.1]:{p0}/tcp",
        "connect [::1]:{p0}/tcp",
        &ask("AAAA"),
        "connect [::1]:{p0}/tcp",
        // Another port, the other protocol, another address.
        "connect 127.0.0.1:{p1}/tcp",
        "connect 127.0.0.1:{p0}/udp",
        "connect 127.0.0.2:{p0}/tcp",
    ]);
    let answered = format!("NoError from {SERVER}");
    assert_eq!(
        lines(&outcome),
        [
            "refused",
            &answered,
            "connected",
            "connected",
            "refused",
            &answered,
            "connected",
            "refused",
            "refused",
            "refused",
        ]
    );
    let by_name: Vec<_> =
        outcome.decided().filter(|event| !event.is_denial() && event.by() == "api").collect();
    let connects: Vec<_> =
        by_name.iter().filter(|event| event.event["class_uid"] == 4001).collect();
    assert_eq!(connects.len(), 3);
    for event in connects {
        assert_eq!(decision(event.event, "host"), "api.example");
    }
    let denied = outcome.decided().filter(|event| event.is_denial()).count();
    assert_eq!(denied, 5, "one event for each denial");
}

fn closes() {
    if !has_proxy() {
        return;
    }
    let outcome = Place::new(0).go(&[
        &format!("udp {SERVER} api.example A"),
        "connect 127.0.0.1:{p0}/tcp",
        "wait 11",
        "connect 127.0.0.1:{p0}/tcp",
        &format!("udp {SERVER} api.example A"),
        "connect 127.0.0.1:{p0}/tcp",
    ]);
    let answered = format!("NoError from {SERVER}");
    assert_eq!(
        lines(&outcome),
        [&answered, "connected", "waited", "refused", &answered, "connected"]
    );
}

fn by_resolver() {
    if !has_proxy() {
        return;
    }
    let outcome = Place::new(60).go(&[
        "resolve api.example",
        "connect 127.0.0.1:{p0}/tcp",
        "resolve evil.example",
        "resolve a.wild.example",
    ]);
    assert_eq!(lines(&outcome), ["127.0.0.1 ::1", "connected", "unknown", "127.0.0.2"]);
}

fn every_way() {
    if !has_proxy() {
        return;
    }
    let servers = [
        SERVER,
        "127.0.0.1:53",
        "169.254.169.254:53",
        "[::ffff:192.0.2.53]:53",
        "[2001:db8::53]:53",
        "[::1]:53",
    ];
    let steps: Vec<String> = ["udp", "connected", "tcp", "fastopen"]
        .iter()
        .flat_map(|way| servers.map(|server| format!("{way} {server} api.example A")))
        .collect();
    let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
    let outcome = Place::new(60).go(&steps);
    for (line, step) in lines(&outcome).iter().zip(&steps) {
        let server = step.split(' ').nth(1).unwrap();
        assert_eq!(*line, format!("NoError from {server}"), "{step}");
    }
    assert_eq!((lines(&outcome).len(), lookups(&outcome).len()), (steps.len(), steps.len()));
}

fn refused() {
    if !has_proxy() {
        return;
    }
    let cases = [
        ("evil.example A", "NXDomain", "default"),
        ("wild.example A", "NXDomain", "default"),
        ("a.b.wild.example A", "NXDomain", "default"),
        ("bad.wild.example A", "NXDomain", "rule"),
        ("api.example TXT", "Refused", "query_type"),
        ("api.example ANY", "Refused", "query_type"),
        ("1.0.0.127.in-addr.arpa PTR", "NXDomain", "default"),
    ];
    let ways = ["udp", "tcp"];
    let steps: Vec<String> = cases
        .iter()
        .flat_map(|(question, ..)| ways.map(|way| format!("{way} {SERVER} {question}")))
        .collect();
    let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
    let outcome = Place::new(60).go(&steps);
    let told = lookups(&outcome);
    assert_eq!((lines(&outcome).len(), told.len()), (steps.len(), steps.len()));
    for (at, event) in told.iter().enumerate() {
        let (question, code, reason) = cases[at / ways.len()];
        assert_eq!(lines(&outcome)[at], format!("{code} from {SERVER}"), "{question}");
        assert_eq!(decision(event, "reason"), reason, "{question}");
        assert_eq!(event["action"], "Denied");
        assert!(question.starts_with(event["query"]["hostname"].as_str().unwrap()));
    }
    let shown = outcome.stderr.lines().filter(|line| line.contains(" resolve ")).count();
    assert_eq!(shown, steps.len(), "{}", outcome.stderr);
}

fn no_tunnel() {
    if !has_proxy() {
        return;
    }
    let steps: Vec<String> =
        (0..100).map(|number| format!("udp {SERVER} {number:x<63}.wild.example A")).collect();
    let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
    let outcome = Place::new(60).go(&steps);
    let refused = format!("Refused from {SERVER}");
    assert_eq!(lines(&outcome), vec![refused.as_str(); 100]);
    assert_eq!(lookups(&outcome).len(), 100);
}

fn not_diverted() {
    if !has_proxy() {
        return;
    }
    let place = Place::new(60);
    // A socket that was made outside.
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let inherited = format!("fd={} {SERVER} api.example A", inheritable(&socket));
    let (_, said) = said_moved_in(&place.scratch, place.run(RULES), &["names", &inherited]);
    if tier() == Tier::Lsm {
        assert_eq!(said, "refused\n");
    }

    // Another protocol, other ports, and the name server behind the proxy for whoever knows it.
    let steps = [
        format!("mptcp {SERVER} api.example A"),
        format!("udp {} api.example A", place.upstream),
        "udp 192.0.2.53:5353 api.example A".to_owned(),
        "tcp 192.0.2.53:853 api.example A".to_owned(),
    ];
    let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
    let outcome = place.run(RULES).go(&place.command(&steps));
    let lines = lines(&outcome);
    assert_eq!(lines.len(), 4);
    if tier() == Tier::Lsm {
        assert_eq!(lines[0], "refused");
    }
    assert_eq!(lines[1..], ["refused"; 3]);
}

fn explicit() {
    if !has_proxy() {
        return;
    }
    let rules = r#"
egress:
  rules:
    - {name: api, effect: allow, to: ["api.example:{p0}/tcp"]}
    - {name: own-server, effect: deny, to: ["192.0.2.53:53"]}
    - {name: wide, effect: allow, to: ["192.0.2.0/24"]}
exec: {default: allow}
files: {default: allow}
"#;
    let place = Place::new(60);
    let (denied, wide) = (format!("udp {SERVER} api.example A"), "udp 192.0.2.54:53 api.example A");
    let outcome = place.run(rules).go(&place.command(&[&denied, wide]));
    outcome.exits(0);
    assert_eq!(lines(&outcome), ["refused", "NoError from 192.0.2.54:53"]);
    assert_eq!(lookups(&outcome).len(), 1);
}

fn audited() {
    if !has_proxy() {
        return;
    }
    let place = Place::new(60);
    let steps = [
        &format!("udp {SERVER} evil.example A"),
        "connect 127.0.0.3:{p0}/tcp",
        &format!("udp {SERVER} api.example A"),
        "connect 127.0.0.1:{p0}/tcp",
    ];
    let outcome = place.run(RULES).with(&["--mode", "audit"]).go(&place.command(&steps));
    outcome.exits(0);
    let answered = format!("NoError from {SERVER}");
    assert_eq!(lines(&outcome), [&answered, "connected", &answered, "connected"]);
    let outcomes: Vec<&str> = outcome
        .decided()
        .filter(|event| [4001, 4003].map(Value::from).contains(&event.event["class_uid"]))
        .filter(|event| event.by() != "diverted")
        .map(|event| event.outcome())
        .collect();
    assert_eq!(outcomes, ["observed", "observed", "allowed", "allowed"]);
}

fn without() {
    let place = Place::new(60);
    let rules = "egress: {default: deny}\nexec: {default: allow}\nfiles: {default: allow}";
    let outcome = place.run(rules).go(&place.command(&[&format!("udp {SERVER} api.example A")]));
    outcome.exits(0);
    let due = if tier() == Tier::Observe { "error" } else { "refused" };
    assert!(lines(&outcome)[0].starts_with(due), "{:?}", lines(&outcome));
    assert!(lookups(&outcome).is_empty());
}
