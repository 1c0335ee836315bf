//! A line as a log record of OTLP.
//!
//! The body is the whole event as a map, not as text: collectors address what is in it
//! (`log.body["file"]["path"]`) without parsing, and pass it on as JSON where a back end wants that.
//! What people choose records by is in the attributes too.

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList, any_value::Value as Any},
    logs::v1::{LogRecord, SeverityNumber},
};
use serde_json::Value;

/// Attributes, and where they stand in OCSF and in ECS.
const ATTRIBUTES: [(&str, &str, &str); 7] = [
    ("log.record.uid", "/metadata/uid", "/event/id"),
    ("agent_guard.agent.name", "/unmapped/agent_guard/agent/name", "/agent_guard/agent/name"),
    ("agent_guard.agent.id", "/unmapped/agent_guard/agent/id", "/agent_guard/agent/id"),
    ("agent_guard.policy.name", "/policy/name", "/rule/ruleset"),
    ("agent_guard.class", "/class_name", "/event/category/0"),
    (
        "agent_guard.outcome",
        "/unmapped/agent_guard/decision/outcome",
        "/agent_guard/decision/outcome",
    ),
    (
        "agent_guard.rule.name",
        "/unmapped/agent_guard/decision/rule/name",
        "/agent_guard/decision/rule/name",
    ),
];

/// The record of `line`, in whichever encoding. `observed_ns` is when it is sent, nanoseconds since the
/// Unix epoch. What is no JSON is a record of its text.
pub fn log_record(line: &[u8], observed_ns: u64) -> LogRecord {
    let mut record = LogRecord { observed_time_unix_nano: observed_ns, ..LogRecord::default() };
    let Ok(event) = serde_json::from_slice::<Value>(line) else {
        let text = String::from_utf8_lossy(line).trim_end().to_owned();
        record.body = Some(AnyValue { value: Some(Any::StringValue(text)) });
        return record;
    };
    let is_ocsf = event.get("class_uid").is_some();
    let at = |ocsf, ecs| event.pointer(if is_ocsf { ocsf } else { ecs });
    let text = |ocsf, ecs| at(ocsf, ecs).and_then(Value::as_str).unwrap_or_default();

    record.time_unix_nano = match is_ocsf {
        true => {
            event.get("time").and_then(Value::as_u64).map_or(0, |ms| ms.saturating_mul(1_000_000))
        }
        false => since_epoch(text("", "/@timestamp")),
    };
    record.severity_text = text("/severity", "/log/level").to_owned();
    record.severity_number = severity(at("/severity_id", "/event/severity")).into();
    record.event_name = match is_ocsf {
        true => format!(
            "agent_guard.{}.{}",
            word(text("/class_name", "")),
            word(text("/activity_name", ""))
        ),
        false => format!("agent_guard.{}", word(text("", "/event/action"))),
    };
    record.attributes = ATTRIBUTES
        .iter()
        .filter_map(|(name, ocsf, ecs)| Some(attribute(*name, at(ocsf, ecs)?.clone())))
        .collect();
    record.body = Some(any(event));
    record
}

/// An attribute, or an entry of a map.
fn attribute(name: impl Into<String>, value: Value) -> KeyValue {
    KeyValue { key: name.into(), value: Some(any(value)), ..KeyValue::default() }
}

fn any(value: Value) -> AnyValue {
    let value = match value {
        Value::Null => None,
        Value::Bool(value) => Some(Any::BoolValue(value)),
        Value::String(value) => Some(Any::StringValue(value)),
        Value::Number(number) => Some(match (number.as_i64(), number.as_f64()) {
            (Some(value), _) => Any::IntValue(value),
            (None, Some(value)) if number.is_f64() => Any::DoubleValue(value),
            // More than 64 bits with a sign hold: exact rather than a number.
            (None, _) => Any::StringValue(number.to_string()),
        }),
        Value::Array(values) => {
            Some(Any::ArrayValue(ArrayValue { values: values.into_iter().map(any).collect() }))
        }
        Value::Object(fields) => Some(Any::KvlistValue(KeyValueList {
            values: fields.into_iter().map(|(name, value)| attribute(name, value)).collect(),
        })),
    };
    AnyValue { value }
}

/// OCSF's severity, which ECS lines have too.
fn severity(number: Option<&Value>) -> SeverityNumber {
    match number.and_then(Value::as_u64) {
        Some(1) => SeverityNumber::Info,
        Some(2) => SeverityNumber::Info2,
        Some(3) => SeverityNumber::Warn,
        Some(4) => SeverityNumber::Error,
        Some(5) => SeverityNumber::Error2,
        Some(6) => SeverityNumber::Fatal,
        _ => SeverityNumber::Unspecified,
    }
}

fn since_epoch(timestamp: &str) -> u64 {
    let time = humantime::parse_rfc3339(timestamp).ok();
    let since = time.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    since.and_then(|since| u64::try_from(since.as_nanos()).ok()).unwrap_or_default()
}

/// `Network Activity` and `dns-query` as names of events are written.
fn word(text: &str) -> String {
    text.to_ascii_lowercase().replace([' ', '-'], "_")
}

#[cfg(test)]
mod tests {
    use agent_guard_common::event::Action;
    use bytes::BytesMut;

    use super::*;
    use crate::event::{
        Encoder, Encoding,
        fixture::{denied, file, host},
    };

    fn text(value: &str) -> Option<Any> {
        Some(Any::StringValue(value.to_owned()))
    }

    fn entry<'a>(entries: &'a [KeyValue], key: &str) -> Option<&'a Any> {
        let entry = entries.iter().find(|entry| entry.key == key)?;
        entry.value.as_ref()?.value.as_ref()
    }

    fn in_body<'a>(record: &'a LogRecord, path: &[&str]) -> &'a Any {
        let body = record.body.as_ref().unwrap().value.as_ref().unwrap();
        path.iter().fold(body, |value, key| match value {
            Any::KvlistValue(list) => entry(&list.values, key).unwrap(),
            other => panic!("{other:?}"),
        })
    }

    /// The same event in both encodings.
    fn records() -> [LogRecord; 2] {
        let event = denied(Action::Read, file(b"/w/.env"));
        let (mut ocsf, mut ecs) = (BytesMut::new(), BytesMut::new());
        Encoder::new(host(), 1).encode(&event, &mut ocsf).unwrap();
        Encoder::new(host(), 1).in_encoding(Encoding::Ecs).encode(&event, &mut ecs).unwrap();
        [log_record(&ocsf, 7), log_record(&ecs, 7)]
    }

    #[test]
    fn both_encodings_say_the_same_of_when_how_bad_and_who() {
        for record in records() {
            assert_eq!(record.time_unix_nano, 1_795_000_000_123_000_000);
            assert_eq!(record.observed_time_unix_nano, 7);
            assert_eq!(record.severity_number(), SeverityNumber::Warn);
            let value = |key| entry(&record.attributes, key).cloned();
            assert_eq!(value("agent_guard.agent.name"), text("coder"));
            assert_eq!(value("agent_guard.agent.id"), Some(Any::IntValue(1)));
            assert_eq!(value("agent_guard.policy.name"), text("coder"));
            assert_eq!(value("agent_guard.outcome"), text("denied"));
            assert_eq!(value("agent_guard.rule.name"), None);
            assert_eq!(value("log.record.uid"), text("00000000000000000000000000000001-1"));
            assert_eq!(*in_body(&record, &["file", "path"]), text("/w/.env").unwrap());
        }
    }

    #[test]
    fn each_encoding_names_the_event_and_its_class_in_its_own_words() {
        let [ocsf, ecs] = records();
        assert_eq!(ocsf.event_name, "agent_guard.file_system_activity.read");
        assert_eq!(ecs.event_name, "agent_guard.file_read");
        assert_eq!(
            (ocsf.severity_text.as_str(), ecs.severity_text.as_str()),
            ("Medium", "warning")
        );
        let class = |record: &LogRecord| entry(&record.attributes, "agent_guard.class").cloned();
        assert_eq!(class(&ocsf), text("File System Activity"));
        assert_eq!(class(&ecs), text("file"));
    }

    #[test]
    fn numbers_beyond_what_otlp_holds_stay_exact() {
        let record =
            log_record(br#"{"a":18446744073709551615,"b":-1,"c":1.5,"d":null,"e":[true]}"#, 0);
        assert_eq!(*in_body(&record, &["a"]), text("18446744073709551615").unwrap());
        assert_eq!(*in_body(&record, &["b"]), Any::IntValue(-1));
        assert_eq!(*in_body(&record, &["c"]), Any::DoubleValue(1.5));
        assert!(
            matches!(in_body(&record, &["e"]), Any::ArrayValue(list) if list.values.len() == 1)
        );
        assert_eq!(record.severity_number(), SeverityNumber::Unspecified);
    }

    #[test]
    fn what_is_no_json_is_sent_as_its_text() {
        let record = log_record(b"torn {\n", 0);
        assert_eq!(*in_body(&record, &[]), text("torn {").unwrap());
    }
}
