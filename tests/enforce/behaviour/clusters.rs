//! Sinks whose far ends answer for each delivery: OTLP and Kafka.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    Behaviour,
    sinks::{count, drained, lines_of, open_files, open_files_for, sink, start},
};
use crate::{
    clusters::{Kafka, Otlp, TOPIC},
    daemon::Daemon,
};

pub const PROMISES: &[Behaviour] =
    &[("OTLP collectors and Kafka get every event, also those of while they were away", away)];

fn away() {
    let mut daemon = Daemon::new();
    let mut otlp = Otlp::start();
    let kafka = Kafka::start(&daemon.path(""));
    let all = daemon.path("all.jsonl");
    let sinks = format!(
        "[[sink]]\ntype = 'file'\nname = 'all'\npath = '{}'\nevents = 'all'\n\
         [[sink]]\ntype = 'otlp'\nendpoint = 'http://{}'\nencoding = 'ecs'\nevents = 'all'\nqueue_mib = 1\n\
         [[sink]]\ntype = 'kafka'\nbrokers = ['{}']\ntopic = '{TOPIC}'\nevents = 'all'\nqueue_mib = 1\n",
        all.display(),
        otlp.address,
        kafka.address,
    );
    start(&mut daemon, &sinks);
    open_files(&daemon, 200);
    drained(&daemon, "otlp");
    drained(&daemon, "kafka");
    otlp.go_away();
    kafka.stop();
    open_files_for(&daemon, &["otlp", "kafka"], 3000);
    for name in ["otlp", "kafka"] {
        daemon.until("the spool", || (count(&sink(&daemon, name), "spooled") > 0).then_some(()));
    }
    assert!(sink(&daemon, "otlp")["problem"].as_str().unwrap().contains("refused"));
    otlp.come_back();
    kafka.go_on();
    open_files(&daemon, 100);
    drained(&daemon, "all");
    let written: BTreeSet<String> = lines_of(&all).iter().map(facts).collect();
    assert!(written.len() > 3300, "{}", written.len());
    for name in ["otlp", "kafka"] {
        assert_eq!(count(&drained(&daemon, name), "lost"), 0, "{name}");
    }

    let documents = otlp.got();
    assert!(documents.iter().all(|document| document["ecs"]["version"].is_string()));
    let as_written = |document: &Value| {
        let (event, own) = (&document["event"], &document["agent_guard"]);
        format!("{} {}", event["sequence"], own["decision"])
    };
    assert_eq!(documents.iter().map(as_written).collect::<BTreeSet<_>>(), written);

    let events = kafka.got();
    let host = rustix::system::uname().nodename().to_str().unwrap().to_owned();
    for (key, event) in &events {
        assert_eq!(*key, format!("{host}/{}", event["unmapped"]["agent_guard"]["agent"]["id"]));
    }
    assert_eq!(events.iter().map(|(_, event)| facts(event)).collect::<BTreeSet<_>>(), written);
}

/// What an event is known by in whichever sink: its number, which each counts by itself, and what was decided.
fn facts(event: &Value) -> String {
    let own = &event["unmapped"]["agent_guard"];
    format!("{} {}", event["metadata"]["sequence"], own["decision"])
}
