//! The part of ECS 9.4 that events use, in the order in which it is written.

use std::{borrow::Cow, net::IpAddr};

use humantime::Rfc3339Timestamp;
use serde::Serialize;

use super::super::{
    SafeText,
    ocsf::schema::{AgentGuard, Text, Uid},
};

#[derive(Serialize)]
pub struct Document<'a> {
    #[serde(rename = "@timestamp")]
    pub timestamp: Text<Rfc3339Timestamp>,
    pub ecs: Ecs,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    pub event: EventFields,
    pub log: Log,
    pub agent: Software,
    pub host: Host<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<Container<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orchestrator: Option<Orchestrator<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Process<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<File<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dll: Option<Library<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Address<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<Address<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<Dns<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<Rule<'a>>,
    /// What the schema has no place for.
    pub agent_guard: AgentGuard<'a>,
}

#[derive(Serialize)]
pub struct Ecs {
    pub version: &'static str,
}

impl Ecs {
    pub const NAMED: Self = Self { version: "9.4.0" };
}

#[derive(Serialize)]
pub struct EventFields {
    pub kind: &'static str,
    pub category: [&'static str; 1],
    #[serde(rename = "type")]
    pub types: &'static [&'static str],
    pub action: &'static str,
    pub outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// As OCSF counts it.
    pub severity: u8,
    pub id: Uid,
    pub sequence: u64,
    pub module: &'static str,
    pub dataset: &'static str,
}

#[derive(Serialize)]
pub struct Log {
    pub level: &'static str,
}

/// The software that tells of events, which ECS calls an agent.
#[derive(Serialize)]
pub struct Software {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub version: &'static str,
}

impl Software {
    pub const SELF: Self =
        Self { kind: env!("CARGO_PKG_NAME"), version: env!("CARGO_PKG_VERSION") };
}

#[derive(Serialize)]
pub struct Host<'a> {
    pub name: &'a str,
    pub hostname: &'a str,
    pub os: Os<'a>,
}

/// The container that the agent is in.
#[derive(Serialize)]
pub struct Container<'a> {
    pub id: &'a SafeText,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'a SafeText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<Image<'a>>,
    pub runtime: &'a str,
}

#[derive(Serialize)]
pub struct Image<'a> {
    pub name: &'a SafeText,
}

/// Who has the container's pod. Its service account has no place in the schema.
#[derive(Serialize)]
pub struct Orchestrator<'a> {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub namespace: &'a SafeText,
    pub resource: Resource<'a>,
}

#[derive(Serialize)]
pub struct Resource<'a> {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub name: &'a SafeText,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a SafeText>,
}

#[derive(Serialize)]
pub struct Os<'a> {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub kernel: &'a str,
}

#[derive(Serialize)]
pub struct Process<'a> {
    pub pid: u32,
    /// The name of the program's file; of the thread where the program is not known.
    pub name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executable: Option<&'a str>,
    pub thread: Thread<'a>,
    pub parent: Parent,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous: Option<Previous<'a>>,
    pub real_user: Id,
    pub real_group: Id,
}

#[derive(Serialize)]
pub struct Thread<'a> {
    pub id: u32,
    pub name: &'a str,
}

#[derive(Serialize)]
pub struct Parent {
    pub pid: u32,
}

/// The process as it was before it ran another program.
#[derive(Serialize)]
pub struct Previous<'a> {
    pub executable: &'a str,
}

#[derive(Serialize)]
pub struct Id {
    pub id: Text<u32>,
}

#[derive(Serialize)]
pub struct File<'a> {
    pub name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub path: &'a str,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inode: Option<Text<u64>>,
}

#[derive(Serialize)]
pub struct Library<'a> {
    pub name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub path: &'a str,
}

#[derive(Serialize, Default)]
pub struct Address<'a> {
    /// The address where there is one; what stands in for it otherwise.
    pub address: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<&'a str>,
}

#[derive(Serialize)]
pub struct Network {
    pub direction: &'static str,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iana_number: Option<Text<u16>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<&'static str>,
}

impl Network {
    /// What does not leave the host.
    pub const INTERNAL: Self = Self {
        direction: "internal",
        kind: None,
        transport: None,
        iana_number: None,
        protocol: None,
    };
}

#[derive(Serialize)]
pub struct Dns<'a> {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub question: DnsQuestion<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<DnsAnswer<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resolved_ip: Vec<IpAddr>,
    pub response_code: Cow<'static, str>,
}

#[derive(Serialize)]
pub struct DnsQuestion<'a> {
    pub name: &'a str,
    #[serde(rename = "type", skip_serializing_if = "str::is_empty")]
    pub kind: &'a str,
    pub class: &'static str,
}

#[derive(Serialize)]
pub struct DnsAnswer<'a> {
    pub data: &'a SafeText,
    #[serde(rename = "type")]
    pub kind: &'a str,
    pub class: &'static str,
    pub ttl: u32,
}

/// The rule that decided, and the policy that it is a rule of.
#[derive(Serialize)]
pub struct Rule<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub category: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ruleset: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<&'a str>,
}
