//! The part of OCSF 1.8.0 that events use, in the order in which it is written.

use std::{borrow::Cow, fmt::Display};

use serde::{Serialize, Serializer};

use crate::event::{AgentIdentity, ContainerIdentity, PodIdentity, SafeText};

/// Version of the schema.
pub const VERSION: &str = "1.8.0";
/// Profiles that every event applies.
pub const PROFILES: &[&str] = &["host", "security_control"];

/// Those of an event whose agent is in a container.
pub const CONTAINER_PROFILES: &[&str] = &["container", "host", "security_control"];

#[derive(Serialize)]
pub struct Event<'a> {
    pub time: u64,
    pub class_uid: u16,
    pub class_name: &'static str,
    pub category_uid: u16,
    pub activity_id: u16,
    pub activity_name: &'static str,
    pub type_uid: u32,
    pub severity_id: u8,
    pub severity: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action_id: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disposition_id: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disposition: Option<&'static str>,
    pub status_id: u8,
    pub status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_detail: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<Actor<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Process<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<File<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<DnsQuery<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<DnsAnswer<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rcode_id: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rcode: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub src_endpoint: Option<SrcEndpoint>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dst_endpoint: Option<DstEndpoint<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_info: Option<ConnectionInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Kernel>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<Product>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firewall_rule: Option<FirewallRule<'a>>,
    pub device: Device<'a>,
    pub metadata: Metadata,
    pub unmapped: Unmapped<'a>,
}

/// A class, its category, and one of its activities.
#[derive(Clone, Copy)]
pub struct Activity {
    pub class: Class,
    pub id: u16,
    pub name: &'static str,
}

#[derive(Clone, Copy)]
pub struct Class {
    pub uid: u16,
    pub name: &'static str,
}

impl Class {
    pub const FILE: Self = Self { uid: 1001, name: "File System Activity" };
    pub const EVENT_LOG: Self = Self { uid: 1008, name: "Event Log Activity" };
    pub const KERNEL: Self = Self { uid: 1003, name: "Kernel Activity" };
    pub const PROCESS: Self = Self { uid: 1007, name: "Process Activity" };
    pub const NETWORK: Self = Self { uid: 4001, name: "Network Activity" };
    pub const DNS: Self = Self { uid: 4003, name: "DNS Activity" };
    pub const LIFECYCLE: Self = Self { uid: 6002, name: "Application Lifecycle" };
    pub const ERROR: Self = Self { uid: 6008, name: "Application Error" };

    pub const fn activity(self, id: u16, name: &'static str) -> Activity {
        Activity { class: self, id, name }
    }
}

impl Activity {
    /// The number of the class's category.
    pub fn category_uid(self) -> u16 {
        self.class.uid / 1000
    }

    pub fn type_uid(self) -> u32 {
        u32::from(self.class.uid) * 100 + u32::from(self.id)
    }
}

/// An enumerated value and its caption.
#[derive(Clone, Copy)]
pub struct Value(pub u8, pub &'static str);

pub mod severity {
    use super::Value;
    pub const INFORMATIONAL: Value = Value(1, "Informational");
    pub const LOW: Value = Value(2, "Low");
    pub const MEDIUM: Value = Value(3, "Medium");
}

pub mod status {
    use super::Value;
    pub const SUCCESS: Value = Value(1, "Success");
    pub const FAILURE: Value = Value(2, "Failure");
}

pub mod action {
    use super::Value;
    pub const ALLOWED: Value = Value(1, "Allowed");
    pub const DENIED: Value = Value(2, "Denied");
    pub const OBSERVED: Value = Value(3, "Observed");
}

pub mod disposition {
    use super::Value;
    pub const ALLOWED: Value = Value(1, "Allowed");
    pub const BLOCKED: Value = Value(2, "Blocked");
    pub const LOGGED: Value = Value(17, "Logged");
}

#[derive(Serialize)]
pub struct Actor<'a> {
    pub process: Process<'a>,
}

#[derive(Serialize)]
pub struct Process<'a> {
    pub pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ptid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<File<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<User>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_process: Option<ParentProcess>,
}

#[derive(Serialize)]
pub struct ParentProcess {
    pub pid: u32,
}

#[derive(Serialize)]
pub struct User {
    pub uid: Text<u32>,
    pub groups: [Group; 1],
}

#[derive(Serialize)]
pub struct Group {
    pub uid: Text<u32>,
}

#[derive(Serialize)]
pub struct File<'a> {
    pub name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub path: &'a str,
    pub type_id: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<Text<u64>>,
}

impl<'a> File<'a> {
    pub const UNKNOWN: u8 = 0;
    pub const REGULAR: u8 = 1;
    pub const EXECUTABLE: u8 = 8;

    pub fn new(path: &'a SafeText, type_id: u8, inode: u64) -> Self {
        let path = path.as_str();
        // Only separators show as `/` in an escaped path. The root is its own name.
        let name = match path.rsplit('/').next() {
            Some("") | None => path,
            Some(name) => name,
        };
        Self { name, path, type_id, uid: (inode != 0).then_some(Text(inode)) }
    }
}

#[derive(Serialize)]
pub struct DstEndpoint<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<Text<std::net::IpAddr>>,
    /// Stands in where the address is not one of the internet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

#[derive(Serialize)]
pub struct SrcEndpoint {
    pub ip: Text<std::net::IpAddr>,
    pub port: u16,
}

#[derive(Serialize)]
pub struct DnsQuery<'a> {
    pub hostname: &'a str,
    #[serde(rename = "type", skip_serializing_if = "str::is_empty")]
    pub kind: &'a str,
    pub class: &'static str,
}

#[derive(Serialize)]
pub struct DnsAnswer<'a> {
    pub rdata: &'a SafeText,
    #[serde(rename = "type")]
    pub kind: &'a str,
    pub class: &'static str,
    pub ttl: u32,
}

#[derive(Serialize)]
pub struct ConnectionInfo {
    pub direction_id: u8,
    pub direction: &'static str,
    pub protocol_num: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol_name: Option<&'static str>,
    pub protocol_ver_id: u8,
}

impl ConnectionInfo {
    /// A connection within the host that no protocol of the internet carries: -1, the schema says.
    pub const UNIX: Self = Self {
        direction_id: 4,
        direction: "Local",
        protocol_num: -1,
        protocol_name: Some("unix"),
        protocol_ver_id: 99,
    };
}

#[derive(Serialize)]
pub struct Kernel {
    pub name: &'static str,
    pub type_id: u8,
}

impl Kernel {
    pub const SYSTEM_CALL: u8 = 2;
}

#[derive(Serialize)]
pub struct Product {
    pub name: &'static str,
    pub vendor_name: &'static str,
    pub version: &'static str,
}

impl Product {
    pub const SELF: Self = Self {
        name: env!("CARGO_PKG_NAME"),
        vendor_name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
    };
}

#[derive(Serialize)]
pub struct Policy<'a> {
    pub name: &'a str,
    /// Hash of the policy: the same name with other rules is another policy.
    pub uid: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_applied: Option<bool>,
}

#[derive(Serialize)]
pub struct FirewallRule<'a> {
    pub name: &'a str,
    #[serde(rename = "type")]
    pub effect: &'static str,
}

#[derive(Serialize)]
pub struct Device<'a> {
    pub hostname: &'a str,
    pub type_id: u8,
    pub os: Os<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<Container<'a>>,
}

#[derive(Serialize)]
pub struct Os<'a> {
    pub name: &'static str,
    pub type_id: u8,
    pub kernel_release: &'a str,
}

impl<'a> Device<'a> {
    pub fn linux(
        hostname: &'a str,
        kernel_release: &'a str,
        container: Option<Container<'a>>,
    ) -> Self {
        // Type 0 says "unknown": a server, laptop and container look alike from here.
        let os = Os { name: "Linux", type_id: 200, kernel_release };
        Self { hostname, type_id: 0, os, container }
    }
}

#[derive(Serialize)]
pub struct Metadata {
    pub version: &'static str,
    pub product: Product,
    pub profiles: &'static [&'static str],
    pub uid: Uid,
    pub sequence: u64,
}

/// Unique for each event: the run and the number of the event in it.
pub struct Uid {
    pub run: u128,
    pub sequence: u64,
}

impl Serialize for Uid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:032x}-{}", self.run, self.sequence))
    }
}

/// A container. A pod has no names there; they are `unmapped`.
#[derive(Serialize)]
pub struct Container<'a> {
    pub uid: &'a SafeText,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'a SafeText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<Image<'a>>,
    pub runtime: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orchestrator: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_uuid: Option<&'a SafeText>,
}

/// The image of a container. Its `uid`, a digest, is not known; the name in full stands for it.
#[derive(Serialize)]
pub struct Image<'a> {
    pub name: &'a SafeText,
    pub uid: &'a SafeText,
}

impl<'a> Container<'a> {
    pub fn new(container: &'a ContainerIdentity) -> Self {
        let ContainerIdentity { runtime, id, name, image, pod } = container;
        Self {
            uid: id,
            name: name.as_ref(),
            image: image.as_ref().map(|image| Image { name: image, uid: image }),
            runtime,
            orchestrator: pod.is_some().then_some("Kubernetes"),
            pod_uuid: pod.as_ref().and_then(|pod| pod.uid.as_ref()).filter(|uid| is_uuid(uid)),
        }
    }
}

/// What a static pod has for a uid is none to the schema.
fn is_uuid(uid: &SafeText) -> bool {
    uid.as_str().split('-').map(str::len).eq([8, 4, 4, 4, 12])
}

#[derive(Serialize)]
pub struct Unmapped<'a> {
    pub agent_guard: AgentGuard<'a>,
}

#[derive(Serialize)]
pub struct AgentGuard<'a> {
    pub agent: &'a AgentIdentity,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<&'a PodIdentity>,
    pub tier: &'static str,
    pub mode: &'static str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub degraded: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_file: Option<&'a SafeText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decided<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaces: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uncovered_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub totals: Option<Vec<HookTotals>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub losses: Option<Losses>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<Vec<HookSkip>>,
}

#[derive(Serialize)]
pub struct Decided<'a> {
    pub outcome: &'static str,
    pub effect: &'static str,
    pub reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hook: Option<&'static str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub access: &'static [&'static str],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<Rule<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup_id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub withheld: Vec<Text<std::net::IpAddr>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_scope: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<Text<crate::event::record::DeviceNumber>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_pid: Option<u32>,
}

#[derive(Serialize)]
pub struct Rule<'a> {
    pub name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<&'a str>,
}

#[derive(Serialize)]
pub struct HookTotals {
    pub hook: &'static str,
    pub decided: u64,
    pub denied: u64,
    pub lost: u64,
    pub failed: u64,
    pub skipped: u64,
}

#[derive(Serialize)]
pub struct Losses {
    pub hooks: Vec<HookLoss>,
    pub malformed: u64,
    pub unwritten: u64,
}

#[derive(Serialize)]
pub struct HookSkip {
    pub hook: &'static str,
    pub skipped: u64,
}

#[derive(Serialize)]
pub struct HookLoss {
    pub hook: &'static str,
    pub lost: u64,
}

/// A value that the schema wants as a string.
pub struct Text<T>(pub T);

impl<T: Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}
