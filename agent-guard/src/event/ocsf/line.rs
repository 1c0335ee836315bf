//! A line as it is read: the fields that a record is made of. Whatever else stands in it is passed over, so that a
//! later version may add to it.

use serde::Deserialize;

#[derive(Deserialize)]
pub struct Line {
    pub time: u64,
    pub class_uid: u16,
    pub activity_id: u16,
    pub actor: Option<Actor>,
    pub process: Option<ProcessEntity>,
    pub file: Option<FileEntity>,
    pub query: Option<Query>,
    #[serde(default)]
    pub answers: Vec<Answer>,
    pub rcode_id: Option<u16>,
    pub src_endpoint: Option<Source>,
    pub dst_endpoint: Option<Destination>,
    pub connection_info: Option<ConnectionInfo>,
    pub kernel: Option<Kernel>,
    pub policy: Option<Policy>,
    pub device: Option<Device>,
    pub unmapped: Option<Unmapped>,
}

#[derive(Deserialize)]
pub struct Actor {
    pub process: ProcessEntity,
}

#[derive(Deserialize)]
pub struct ProcessEntity {
    pub pid: u32,
    pub ptid: Option<u32>,
    pub name: Option<String>,
    pub file: Option<FileEntity>,
    pub user: Option<User>,
    pub parent_process: Option<Parent>,
}

#[derive(Deserialize)]
pub struct Parent {
    pub pid: u32,
}

#[derive(Deserialize)]
pub struct User {
    pub uid: String,
    #[serde(default)]
    pub groups: Vec<Group>,
}

#[derive(Deserialize)]
pub struct Group {
    pub uid: String,
}

#[derive(Deserialize)]
pub struct FileEntity {
    #[serde(default)]
    pub path: String,
    pub uid: Option<String>,
}

#[derive(Deserialize)]
pub struct Query {
    pub hostname: String,
    #[serde(default, rename = "type")]
    pub kind: String,
}

#[derive(Deserialize)]
pub struct Answer {
    pub rdata: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub ttl: u32,
}

#[derive(Deserialize)]
pub struct Source {
    pub ip: String,
    pub port: u16,
}

#[derive(Deserialize)]
pub struct Destination {
    pub ip: Option<String>,
    pub name: Option<String>,
    pub port: Option<u16>,
}

#[derive(Deserialize)]
pub struct ConnectionInfo {
    pub protocol_num: i32,
}

#[derive(Deserialize)]
pub struct Kernel {
    pub name: String,
}

#[derive(Deserialize)]
pub struct Policy {
    pub name: String,
    pub uid: String,
}

#[derive(Deserialize)]
pub struct Device {
    pub container: Option<Container>,
}

#[derive(Deserialize)]
pub struct Container {
    pub uid: String,
    pub name: Option<String>,
    pub image: Option<Image>,
    pub runtime: String,
    pub pod_uuid: Option<String>,
}

#[derive(Deserialize)]
pub struct Image {
    pub name: String,
}

#[derive(Deserialize)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub service_account: Option<String>,
}

#[derive(Deserialize)]
pub struct Unmapped {
    pub agent_guard: Option<AgentGuard>,
}

#[derive(Deserialize)]
pub struct AgentGuard {
    pub agent: Agent,
    pub pod: Option<Pod>,
    pub tier: String,
    pub mode: String,
    #[serde(default)]
    pub degraded: Vec<String>,
    pub policy_file: Option<String>,
    pub decision: Option<Decided>,
    pub replaces: Option<String>,
    pub uncovered_ms: Option<u64>,
    pub totals: Option<Vec<Totals>>,
    pub losses: Option<Losses>,
    pub skipped: Option<Vec<Skip>>,
}

#[derive(Deserialize)]
pub struct Agent {
    pub name: String,
    pub id: u32,
    pub cgroup_id: u64,
    pub cgroup: String,
}

#[derive(Deserialize)]
pub struct Decided {
    pub outcome: String,
    pub reason: String,
    pub hook: Option<String>,
    #[serde(default)]
    pub access: Vec<String>,
    pub rule: Option<RuleEntity>,
    pub cgroup_id: Option<u64>,
    pub host: Option<String>,
    #[serde(default)]
    pub withheld: Vec<String>,
    pub path_scope: Option<String>,
    pub device: Option<String>,
    pub operation: Option<String>,
    pub target_pid: Option<u32>,
}

#[derive(Deserialize)]
pub struct RuleEntity {
    pub name: String,
    pub line: Option<u32>,
    pub class: Option<String>,
}

#[derive(Deserialize)]
pub struct Totals {
    pub hook: String,
    pub decided: u64,
    pub denied: u64,
    pub lost: u64,
    pub failed: u64,
    pub skipped: u64,
}

#[derive(Deserialize)]
pub struct Losses {
    pub hooks: Vec<Loss>,
    pub malformed: u64,
    pub unwritten: u64,
}

#[derive(Deserialize)]
pub struct Loss {
    pub hook: String,
    pub lost: u64,
}

#[derive(Deserialize)]
pub struct Skip {
    pub hook: String,
    pub skipped: u64,
}
