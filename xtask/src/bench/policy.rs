//! A policy of any number of rules, of which few concern the work.

use std::fmt::Write as _;

use super::work::DISCARD;

/// Rules that the work needs, of every policy here.
const NEEDED: u32 = 6;

/// A policy with `rules` rules in all; half of those that nothing comes by are about files and half about
/// networks.
pub fn text(rules: u32) -> String {
    let more = rules.saturating_sub(NEEDED);
    let (networks, files) = (more / 2, more - more / 2);
    let mut text = format!(
        "apiVersion: agent-guard.dev/v1alpha1
kind: AgentPolicy
metadata: {{name: bench}}
spec:
  exec:
    rules:
      - {{name: programs, effect: allow, paths: ['/usr/**', '/src/**']}}
  egress:
    rules:
      - {{name: discard, effect: allow, to: ['127.0.0.1:{DISCARD}/udp']}}
"
    );
    for n in 0..networks {
        let (a, b) = (n / 256, n % 256);
        _ = writeln!(
            text,
            "      - {{name: network-{n}, effect: allow, to: ['10.{a}.{b}.0/24:443/tcp']}}"
        );
    }
    text += "  files:
    rules:
      - {name: system, effect: allow, access: [read], paths: ['/', '/usr/**', '/etc/**', '/src/**', '/proc/**', '/sys/**', '/dev/urandom']}
      - {name: nothing, effect: allow, paths: ['/dev/null']}
      - {name: bench, effect: allow, paths: ['/bench/**']}
      - {name: denied, effect: deny, paths: ['/bench/denied/**']}
";
    for n in 0..files {
        _ = writeln!(
            text,
            "      - {{name: file-{n}, effect: allow, access: [read], paths: ['{}/**']}}",
            directory(n)
        );
    }
    text
}

/// The directory that the `n`th rule is about that nothing comes by.
pub fn directory(n: u32) -> String {
    format!("/bench-rules/{n}")
}
