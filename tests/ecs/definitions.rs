//! The published field definitions of ECS, and what is wrong with a document by them.
//!
//! `AGENT_GUARD_ECS` names a directory into which npm has put `@elastic/ecs`.

use std::{net::IpAddr, path::PathBuf, process::Command};

use serde_json::{Map, Value};

/// What stands there is our own, and no matter of the schema.
const OWN: &str = "agent_guard";
const VERSION: &str = "9.4.0";

/// Every field that the schema defines, by its whole name.
pub struct Definitions(Map<String, Value>);

impl Definitions {
    pub fn published() -> Self {
        let directory = std::env::var_os("AGENT_GUARD_ECS").expect(
            "this test needs the published fields: `cargo xtask test` fetches them; by hand: \
             `npm install --prefix target/ecs @elastic/ecs@9.4.0`, then set AGENT_GUARD_ECS to the \
             absolute path of target/ecs",
        );
        let fields =
            PathBuf::from(directory).join("node_modules/@elastic/ecs/generated/ecs_flat.js");
        let print = "process.stdout.write(JSON.stringify(require(process.argv[1]).EcsFlat))";
        let output =
            Command::new("node").args(["-e", print]).arg(fields).output().expect("node can be run");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self(serde_json::from_slice(&output.stdout).unwrap())
    }

    /// What is wrong with `document`.
    pub fn errors(&self, document: &Value) -> Vec<String> {
        let mut errors = Vec::new();
        if document["ecs"]["version"] != VERSION {
            errors.push(format!("ecs.version: {}, not {VERSION}", document["ecs"]["version"]));
        }
        for required in ["@timestamp", "event", OWN] {
            if document.get(required).is_none() {
                errors.push(format!("{required} is missing"));
            }
        }
        for (name, value) in document.as_object().expect("a document is an object") {
            match name == OWN {
                true => own(value, OWN, &mut errors),
                false => self.field(name, value, &mut errors),
            }
        }
        self.kinds(document, &mut errors);
        errors
    }

    fn field(&self, name: &str, value: &Value, errors: &mut Vec<String>) {
        let definition = self.0.get(name);
        let wants_array = definition
            .and_then(|field| field["normalize"].as_array())
            .is_some_and(|how| how.iter().any(|how| how == "array"));
        match value {
            Value::Array(values) if wants_array => {
                for value in values {
                    self.single(name, definition, value, errors);
                }
            }
            _ if wants_array => errors.push(format!("{name}: wants an array")),
            Value::Array(_) => errors.push(format!("{name}: wants one value, not an array")),
            value => self.single(name, definition, value, errors),
        }
    }

    fn single(
        &self,
        name: &str,
        definition: Option<&Value>,
        value: &Value,
        errors: &mut Vec<String>,
    ) {
        if let Value::Object(fields) = value {
            for (below, value) in fields {
                self.field(&format!("{name}.{below}"), value, errors);
            }
            return;
        }
        let Some(definition) = definition else {
            errors.push(format!("{name}: the schema has no such field"));
            return;
        };
        let kind = definition["type"].as_str().expect("a field has a type");
        if !takes(kind, value) {
            errors.push(format!("{name}: {value} is no {kind}"));
        }
        let values = |key: &str| definition[key].as_array().cloned().unwrap_or_default();
        let allowed: Vec<Value> =
            values("allowed_values").iter().map(|allowed| allowed["name"].clone()).collect();
        for list in [allowed, values("expected_values")] {
            if !list.is_empty() && !list.contains(value) {
                errors.push(format!("{name}: {value} is not one of {list:?}"));
            }
        }
    }

    /// Whether each `event.type` goes with an `event.category`.
    fn kinds(&self, document: &Value, errors: &mut Vec<String>) {
        let list = |key: &str| document["event"][key].as_array().cloned().unwrap_or_default();
        let expected: Vec<Value> = self.0["event.category"]["allowed_values"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|category| list("category").contains(&category["name"]))
            .flat_map(|category| category["expected_event_types"].as_array().cloned())
            .flatten()
            .collect();
        for kind in list("type") {
            if !expected.contains(&kind) {
                errors.push(format!("event.type: {kind} does not go with {}", document["event"]));
            }
        }
        if list("category").is_empty() || list("type").is_empty() {
            errors.push("event.category or event.type is missing".to_owned());
        }
    }
}

/// Whether Elasticsearch takes `value` for a field of type `kind`. A type that no event uses is none.
fn takes(kind: &str, value: &Value) -> bool {
    match kind {
        "keyword" | "constant_keyword" | "wildcard" | "match_only_text" => value.is_string(),
        "long" => value.is_i64(),
        "ip" => value.as_str().is_some_and(|ip| ip.parse::<IpAddr>().is_ok()),
        "date" => value.as_str().is_some_and(|date| {
            humantime::parse_rfc3339(date)
                .is_ok_and(|time| humantime::format_rfc3339_millis(time).to_string() == date)
        }),
        _ => false,
    }
}

/// Fields that no schema maps get a mapping by their first value: numbers must fit a `long`.
fn own(value: &Value, name: &str, errors: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(below, value)| own(value, &format!("{name}.{below}"), errors));
        }
        Value::Array(values) => values.iter().for_each(|value| own(value, name, errors)),
        Value::Number(number) if !number.is_i64() => {
            errors.push(format!("{name}: {number} is more than a long holds"));
        }
        Value::Null => errors.push(format!("{name}: null")),
        _ => {}
    }
}
