//! Every kind of event, held against the published ECS fields.

use std::collections::HashSet;

use agent_guard::event::{Encoding, Record};
use bytes::BytesMut;
use serde_json::Value;

use self::definitions::Definitions;
use super::{encoder, every_record};

#[path = "definitions.rs"]
mod definitions;

fn documents(records: &[Record]) -> Vec<Value> {
    let mut encoder = encoder().in_encoding(Encoding::Ecs);
    let mut line = BytesMut::new();
    let document = |record: &Record| {
        line.clear();
        encoder.encode(record, &mut line).unwrap();
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        serde_json::from_slice(&line).unwrap()
    };
    records.iter().map(document).collect()
}

#[test]
fn every_ecs_document_has_published_fields_of_the_right_types_and_values() {
    let definitions = Definitions::published();
    let mut ids = HashSet::new();
    for (record, document) in every_record().iter().zip(documents(&every_record())) {
        let errors = definitions.errors(&document);
        assert!(errors.is_empty(), "{errors:#?} in {document:#} of {record:?}");
        assert!(ids.insert(document["event"]["id"].to_string()), "an id comes twice: {document}");
    }
    assert!(!ids.is_empty());
}

#[test]
fn broken_ecs_documents_are_found() {
    let definitions = Definitions::published();
    let whole = documents(&every_record()[..1]).remove(0);
    assert_eq!(definitions.errors(&whole), [""; 0]);
    for (pointer, value, message) in [
        ("/ecs/version", "8.0.0".into(), "ecs.version"),
        ("/event/category", "file".into(), "wants an array"),
        ("/event/category/0", "stranger".into(), "is not one of"),
        ("/event/type/0", "connection".into(), "does not go with"),
        ("/event/outcome", "maybe".into(), "is not one of"),
        ("/host/os/type", "plan9".into(), "is not one of"),
        ("/process/pid", "12".into(), "is no long"),
        ("/process/pid", u64::MAX.into(), "is no long"),
        ("/user/id", 0.into(), "is no keyword"),
        ("/@timestamp", "yesterday".into(), "is no date"),
        ("/file", serde_json::json!({"stranger": 1}), "no such field"),
        ("/agent_guard/agent/id", u64::MAX.into(), "more than a long"),
    ] {
        let mut broken = whole.clone();
        *broken.pointer_mut(pointer).expect(pointer) = value;
        let errors = definitions.errors(&broken);
        assert!(errors.iter().any(|error| error.contains(message)), "{pointer}: {errors:?}");
    }
}
