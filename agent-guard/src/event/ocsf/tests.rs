use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::event::fixture::{decided, denied, endpoint, file, host};

fn lines(records: &[Record]) -> String {
    let mut out = BytesMut::new();
    let mut encoder = Encoder::new(host(), 0xab);
    for record in records {
        encoder.encode(record, &mut out).unwrap();
    }
    String::from_utf8(out.to_vec()).unwrap()
}

fn json(record: Record) -> Value {
    serde_json::from_str(&lines(&[record])).unwrap()
}

#[test]
fn a_denied_read_says_who_what_why_and_how_it_ended() {
    use agent_guard_common::decide::Reason;
    let event =
        json(decided(denied(Action::Read, file(b"/w/.env")), Outcome::Denied, Reason::Rule));
    assert_eq!(event["time"], 1_795_000_000_123_u64);
    assert_eq!(event["type_uid"], 100_102);
    assert_eq!((&event["action_id"], &event["disposition_id"]), (&2.into(), &2.into()));
    assert_eq!(event["file"]["path"], "/w/.env");
    assert_eq!(event["file"]["name"], ".env");
    assert_eq!(event["actor"]["process"]["pid"], 1234);
    assert_eq!(event["policy"]["name"], "coder");
    let own = &event["unmapped"]["agent_guard"];
    assert_eq!(own["agent"]["name"], "coder");
    assert_eq!(own["tier"], "lsm");
    assert_eq!(own["decision"]["rule"]["name"], "secrets");
    assert_eq!(own["decision"]["rule"]["line"], 31);
    assert_eq!(own["decision"]["device"], "8:1");
}

#[test]
fn a_refused_connection_is_told_from_an_open_one() {
    use agent_guard_common::decide::Reason;
    let connect = || denied(Action::Connect, endpoint("10.0.0.1", 443, libc::IPPROTO_TCP));
    let refused = json(connect());
    let open = json(decided(connect(), Outcome::Allowed, Reason::Rule));
    assert_eq!((&refused["activity_id"], &open["activity_id"]), (&5.into(), &1.into()));
    assert_eq!(open["dst_endpoint"]["ip"], "10.0.0.1");
    assert_eq!(open["connection_info"]["protocol_name"], "tcp");
    assert_eq!(open["firewall_rule"]["name"], "secrets");
}

#[test]
fn events_are_numbered_and_each_is_one_of_its_kind() {
    let record = denied(Action::Read, file(b"/a"));
    let lines = lines(&[record.clone(), record]);
    let uids: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["metadata"].take())
        .collect();
    assert_eq!(uids[0]["uid"], format!("{:032x}-1", 0xab));
    assert_eq!((&uids[0]["sequence"], &uids[1]["sequence"]), (&1.into(), &2.into()));
}

#[test]
fn a_name_of_4096_bytes_is_whole_even_where_each_needs_an_escape() {
    let path = [b"/".as_slice(), &[0xff; 4095]].concat();
    let event = json(denied(Action::Read, file(&path)));
    assert_eq!(event["file"]["path"].as_str().unwrap().len(), 1 + 4 * 4095);
}

proptest! {
    #[test]
    fn any_name_is_one_valid_line_and_comes_back(
        name in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..64),
            "[\\\\x0-9a-f\"\n\u{1b}\u{202e}]{0,32}".prop_map(String::into_bytes),
            proptest::collection::vec(any::<u8>(), 4096),
        ],
    ) {
        let lines = lines(&[denied(Action::Read, file(&name))]);
        prop_assert_eq!(lines.matches('\n').count(), 1);
        prop_assert!(lines.ends_with('\n'));
        prop_assert!(!lines.trim_end_matches('\n').chars().any(char::is_control));
        let event: Value = serde_json::from_str(&lines).unwrap();
        let path = event["file"]["path"].as_str().unwrap_or_default();
        prop_assert_eq!(unescape(path), name);
    }
}

/// Written anew from the promise in [`SafeText`], as a reader of events would.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        bytes.extend_from_slice(before.as_bytes());
        rest = match after.strip_prefix('x') {
            Some(hex) => {
                bytes.push(u8::from_str_radix(&hex[..2], 16).unwrap());
                &hex[2..]
            }
            None => {
                bytes.push(b'\\');
                &after[1..]
            }
        };
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}
