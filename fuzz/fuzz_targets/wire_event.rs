//! Any bytes are an event or are refused, and an event is one line of JSON and one line of text without
//! anything that a terminal would obey.
#![no_main]

use std::{net::IpAddr, sync::Arc};

use agent_guard::{
    event::{
        AgentIdentity, Context, Encoder, Host, Mount, Names, Rule, SafeText, TextLine, WireEvent,
        resolve,
    },
    policy::Mode,
    tier::Tier,
};
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;

struct FuzzNames {
    root: [Mount; 1],
}

impl Names for FuzzNames {
    fn context(&self, agent: u32, _policy: u32) -> Arc<Context> {
        Arc::new(Context {
            tier: Tier::Lsm,
            mode: Mode::Enforce,
            degraded: Vec::new(),
            agent: AgentIdentity {
                name: "fuzz".to_owned(),
                id: agent,
                cgroup_id: 1,
                cgroup: SafeText::new(b"/fuzz"),
                container: None,
            },
            policy: None,
        })
    }

    fn rule(&self, _policy: u32, rule: u16) -> Option<Arc<Rule>> {
        let rule = Rule { label: format!("files[{rule}]"), line: Some(1), class: None };
        Some(Arc::new(rule))
    }

    fn host(&self, _address: IpAddr, rule: u16) -> Option<Arc<str>> {
        (rule % 2 == 0).then(|| "host.example".into())
    }

    fn mounts(&self, dev: u32) -> &[Mount] {
        if dev % 2 == 0 { &self.root } else { &[] }
    }

    fn boot_time_ns(&self) -> u64 {
        1
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(event) = WireEvent::parse(bytes) else { return };
    let names = FuzzNames { root: [Mount { root: b"/".to_vec(), point: b"/".to_vec() }] };
    let record = resolve(&event, &names);

    let host = Host { name: "host".to_owned(), kernel: "6.12.0".to_owned() };
    let mut line = BytesMut::new();
    Encoder::new(host, 1).encode(&record, &mut line).unwrap();
    let (end, json) = line.split_last().unwrap();
    assert!(*end == b'\n' && !json.contains(&b'\n'));
    serde_json::from_slice::<serde_json::Value>(json).unwrap();

    let text = TextLine { record: &record, colour: false }.to_string();
    assert!(!text.chars().any(char::is_control), "{text:?}");
});
